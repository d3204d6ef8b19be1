r"""Learn to reason from right answers alone: GRPO on grade-school mathematics (GSM8K).

    FTJAX_DATA=data python -m experiments.online --config configs/grpo_gsm8k.py:base=DIR \
        --workdir runs/gsm8k
    python -m experiments.online --config configs/grpo_gsm8k.py --workdir runs/gsm8k

A reward for the right last number, a small one for the form of the data set's answers. Made for an
instructed base of a billion parameters and more on an accelerator; the embedded base cannot count
that far, and shows the plumbing alone. Expect nothing of it but a reward for the form.
"""

from configs import common


def get_config(arg=None):
    """Return the config; `base` is a Hugging Face directory."""
    arg = common.parse_arg(
        arg, data=common.data_folder(), base="tiny", loss="dapo", steps=200, rank=32, new=200,
        runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=False, rank=arg.rank)
    common.online(c, prompts=16, samples=8, max_new_tokens=arg.new)
    folder = f"{arg.data}/math/gsm8k"
    c.data = dict(
        name="jsonl", path=f"{folder}/train.jsonl.gz", fields=dict(prompt="question"),
        max_tokens=arg.new + 200,
    )  # fmt: skip
    c.objective = dict(name="grpo", loss=arg.loss, low=0.2, high=0.28, kl_weight=0.001)
    c.rewards.right = dict(name="number", field="answer")
    c.rewards.form = dict(name="pattern", regex=r".*#### -?[\d,.]+\s*", weight=0.1)
    c.optim.learning_rate = common.rate(arg.base, 1e-3, full=False, preference=True)
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 64, 1
    if arg.runlocal:
        c = common.shrink(c, stand_in=True)
        c.data = dict(common.STAND_IN, skills="add", max_tokens=64)
    return c
