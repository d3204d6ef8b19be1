r"""RLHF whole, on human preferences (HH-RLHF): fine-tune, learn a reward model, and PPO against it.

    python -m experiments.stages --config configs/ppo_hh.py:data=DATA --workdir runs/ppo_hh
    python -m experiments.online --config configs/ppo_hh.py:data=DATA,runs=runs/ppo_hh \
        --workdir runs/again                # PPO alone, from what the other two stages left

Three runs: DIR/sft learns the chosen answers; DIR/reward, from there, a scalar head on the pairs;
DIR/ppo samples answers of the fine-tuned model and learns what the reward model says of them, held
near the start by a KL penalty that is steered to its target. See configs/dpo_hh.py for DATA.

Two CPU cores, ten minutes of CPU time. Expect the reward model to rank 0.63 of the held-out pairs
as people did, and the reward of answers to held-out prompts -0.29 -> -0.14, while `kl/base` of an
answer reaches 2.6 nats under a target of 4.
"""

from configs import common, reward_hh, sft

PART = "hh_helpful"


def get_config(arg=None):
    """Return the config of one stage; `runs` is the folder of all of them."""
    arg = common.parse_arg(
        arg, data=common.data_folder(), base="tiny", stage="ppo", runs="", rank=16,
        sft_steps=120, reward_steps=100, steps=160, new=48, kl=4.0, seed=0, runlocal=False,
    )  # fmt: skip
    return STAGES[arg.stage](arg)


def stages():
    """List the stages that `experiments.stages` runs."""
    return {stage: f"stage={stage}" for stage in STAGES}


def made(arg, stage: str) -> str:
    """Return the folder of a stage."""
    return f"{arg.runs or 'runs/ppo_hh'}/{stage}"


def tuned(arg):
    """Fine-tune the base on the chosen answers."""
    local = ",runlocal" if arg.runlocal else ""
    path = "" if arg.runlocal else f",path={arg.data}/preference/{PART}/train.jsonl.gz"
    response = "response" if arg.runlocal else "chosen"
    return sft.get_config(
        f"base={arg.base},full,steps={arg.sft_steps},response={response}{path}{local}"
    )


def reward(arg):
    """Learn which answers people preferred, from the fine-tuned model."""
    return reward_hh.get_config(
        f"data={arg.data},base={made(arg, 'sft')}/export,parts={PART},steps={arg.reward_steps},"
        f"rank={arg.rank},seed={arg.seed},runlocal={arg.runlocal}"
    )


def ppo(arg):
    """Learn from what the reward model says of the model's own answers."""
    c = common.base()
    c.model.base = f"{made(arg, 'sft')}/export"
    common.tune(c, full=False, rank=arg.rank)
    common.online(c, prompts=32, samples=1, max_new_tokens=arg.new)
    c.rollout.epochs, c.rollout.kl_target, c.rollout.kl_horizon = 2, arg.kl, 1000
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    source = lambda split: dict(name="jsonl", path=f"{arg.data}/preference/{PART}/{split}.jsonl.gz")
    c.data = dict(source("train"), max_tokens=256)
    c.objective = dict(name="ppo", clip=0.2, value_clip=0.2, value_weight=0.1)
    c.advantages = dict(kl_weight=0.05, decay=0.95)
    c.rewards.learned = dict(name="model", workdir=made(arg, "reward"))
    c.evals.held = dict(name="reward", group="new", data=source("test"), rows=200)
    common.general(c, arg.data)
    c.optim.learning_rate = common.rate(arg.base, 1e-3, full=False, preference=True)
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 16, 8
    if not arg.runlocal:
        return c
    if not arg.runs:  # nothing to build on: the plumbing alone
        c.model.base, c.rewards.learned = arg.base, dict(name="length", max_length=8)
    return common.shrink(c, stand_in=True)


STAGES = {"sft": tuned, "reward": reward, "ppo": ppo}
