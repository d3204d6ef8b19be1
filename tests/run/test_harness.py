"""Tasks of lm-evaluation-harness: what is asked of it, what is made of its results, and one run."""

import json
import sys

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.evals import choice
from ftjax.evals.lib import scoring
from ftjax.run import harness, reader
from ftjax.sampling import text
from tests.experiments.test_mains import run as command


def results(acc, f1, *, documents):
    """What the harness returns of a task and of a group of it."""
    rows = [
        {"doc_id": i, "filter": "none", "acc": x, "f1": (x, 1)} for i, x in enumerate(documents)
    ]
    found = {"acc,none": acc, "acc_stderr,none": 0.1, "f1,strict": f1, "f1_stderr,strict": "N/A"}
    return {
        "results": {
            "a": {"alias": "a", "sample_len": len(rows), **found},
            "group": {"alias": "group", "acc,none": acc, "acc_stderr,none": 0.1},
        },
        "samples": {"a": rows},
        "higher_is_better": {"a": {"acc": True, "f1": None}, "group": {"acc": True}},
    }


BEFORE = results(0.75, 0.3, documents=[1, 1, 0, 1])
AFTER = results(0.25, 0.4, documents=[0, 1, 0, 0])


def test_changes_are_paired_by_document_where_a_metric_is_their_mean():
    mean, other, group = harness.scores(BEFORE, AFTER)
    assert [each.name for each in (mean, other, group)] == ["a/acc", "a/f1,strict", "group/acc"]
    low, high = mean.row.intervals[1]
    assert -1 <= low < -0.5 < high <= 0
    assert other.row.intervals[1] is group.row.intervals[1] is None
    assert mean.stderr == (0.1, 0.1)
    assert other.stderr == (None, None)


def test_a_metric_that_is_no_mean_has_no_interval():
    skewed = [results(acc, 0.3, documents=[1, 0, 0, 0]) for acc in (0.75, 0.25)]
    assert harness.scores(*skewed)[0].row.intervals[1] is None


def test_lower_is_better_where_the_harness_says_so():
    sides = [results(acc, 0.3, documents=docs) for acc, docs in ((0.0, [0] * 4), (1.0, [1] * 4))]
    assert harness.scores(*sides)[0].row.verdict(1) == "better"
    for side in sides:
        side["higher_is_better"]["a"]["acc"] = False
    assert harness.scores(*sides)[0].row.verdict(1) == "worse"


def test_the_table_has_errors_marks_and_what_was_cut():
    settings = dict(longest=64, num_fewshot=5, fewshot={"a": 0, "b": 5})
    found = harness.Found(7, harness.scores(BEFORE, AFTER), settings, cut=3)
    head, acc, f1, group, _, cut, _, kept = harness.text(found).splitlines()
    assert head.split() == ["task", "metric", "base", "step", "7", "change"]
    assert acc.split()[:7] == ["a", "acc", "0.750", "±0.100", "0.250", "±0.100", "-0.500"]
    assert f1.split() == ["a", "f1,strict", "0.300", "0.400", "+0.100"]  # no direction, no mark
    assert group.split()[-1] == "-"
    assert cut == "3 contexts were cut from the left, to 64 tokens with their answers"
    assert kept.endswith("5, but these tasks keep their own numbers: {'a': 0}")
    record = harness.record(found)
    assert (record["before"]["a/acc"], record["after"]["a/acc"]) == (0.75, 0.25)
    assert record["stderr"]["a/f1,strict"] == {"before": None, "after": None}
    assert record["change"]["group/acc"] == {"value": -0.5, "low": None, "high": None}
    json.dumps(record)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lm_eval is not installed; .*'ftjax\[lm_eval\]'"):
        harness.choose(["arc_easy"])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="--lm_eval: got 2 processes; expected one"):
        harness.choose(["arc_easy"])


def test_flags_without_tasks_are_refused():
    done = command("evaluate", "--workdir", "nowhere", "--lm_eval_limit", "3")
    assert done.returncode == 2
    assert "--lm_eval_limit: got 3 without --lm_eval; expected its tasks" in done.stderr


# -- with the package ------------------------------------------------------------------------------

TASK = """
task: our_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: {name}
target_delimiter: ""
metadata: {{version: 2.0}}
"""
KINDS = {
    "multiple_choice": """
doc_to_text: "<|bos|>{{prompt}}"  # with which our evaluators begin every text
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "generate_until": """
doc_to_text: "{{prompt}}"
doc_to_target: "{{written}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "loglikelihood_rolling": """
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}
# The rolling text is longer than the model reads: it takes several windows.
LONG = " ".join(f"what is {i} and {i + 1}?" for i in range(35))


@pytest.fixture(scope="session")  # as what trains, or that would come first
def package():
    return pytest.importorskip("lm_eval", reason="needs the extra `lm_eval`")


@pytest.fixture(scope="module")
def run(package, trained):
    return reader.load(trained.workdir, mesh=meshes.make(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def rows(lab, run):
    """Choices, with what the base writes after each prompt."""
    found = [json.loads(line) for line in (lab.root / "choices.jsonl").read_text().splitlines()]
    model, tokenizer = run.parts.model, run.parts.tokenizer
    respond = text.make(model, tokenizer, max_new_tokens=6, batch_size=6)
    written = respond(run.base, [row["prompt"] for row in found])
    assert len(set(written)) > 1
    return [row | dict(written=own, text=LONG) for row, own in zip(found, written, strict=True)]


@pytest.fixture(scope="module")
def tasks(rows, tmp_path_factory):
    """A folder of a task of each kind."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for name, more in KINDS.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, path=path) + more)
    return folder


@pytest.fixture(scope="module")
def compared(run, tasks):
    chosen = harness.choose(["our_*"], include=str(tasks))
    assert chosen.names == [f"our_{name}" for name in sorted(KINDS)]
    return harness.compare(run, chosen, batch_size=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_are_those_of_our_evaluators(run, rows, compared):
    record = harness.record(compared)
    evaluate = choice.make(model=run.parts.model, tokenizer=run.parts.tokenizer, rows=rows)
    for side, params in (("before", run.base), ("after", run.params)):
        assert record[side]["our_multiple_choice/acc"] == evaluate(params)["accuracy"]
    assert record["before"]["our_generate_until/exact_match"] == 1  # our greedy text, to the letter
    assert record["lm_eval"]["versions"]["our_multiple_choice"] == 2
    assert record["lm_eval"]["documents"]["our_generate_until"]["effective"] == len(rows)
    assert "torch" not in sys.modules
    json.dumps(record)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_rolling_text_is_scored_token_by_token(run, compared):
    """Of several windows, each of whose tokens is scored once: between one window and two."""
    tokenizer, model = run.parts.tokenizer, run.parts.model
    ids = [tokenizer.bos_id, *tokenizer.encode(LONG)]
    longest = compared.settings["longest"]
    assert longest < len(ids) - 1 < 2 * (longest - 1)
    score = scoring.make_scorer(model, batch_size=2)
    from_first = lambda first: (np.arange(longest) >= first).astype(np.float32)
    again = 2 * longest - len(ids)  # tokens of the second window that the first has scored
    windows = [(ids[:longest], from_first(1)), (ids[-longest:], from_first(again))]
    nats = -score(run.base, windows)[0].sum()
    found = harness.record(compared)["before"]["our_loglikelihood_rolling/bits_per_byte"]
    assert found == pytest.approx(nats / len(LONG.encode()) / np.log(2), abs=1e-4)


def test_an_unknown_task_is_named_with_its_neighbour(tasks):
    with pytest.raises(ValueError, match=r"'our_multiple_choic'; .* did you mean 'our_multi"):
        harness.choose(["our_multiple_choic"], include=str(tasks))
    with pytest.raises(ValueError, match="--lm_eval_include: got 'nowhere'; expected a folder"):
        harness.choose(["our_multiple_choice"], include="nowhere")


def test_a_chat_goes_through_the_template_of_the_run(run):
    from lm_eval.api.instance import Instance

    engine = harness.Engine(run.parts, longest=64, chat=True)
    lm = harness.as_lm(engine, run.base)
    asked = lm.apply_chat_template([dict(role="user", content="2 + 2 =")])
    assert asked.endswith("<|im_start|>assistant\n")
    assert not lm.apply_chat_template(
        [dict(role="user", content="a"), dict(role="assistant", content="b")],
        add_generation_prompt=False,
    ).endswith("<|im_end|>\n")
    request = Instance("loglikelihood", {}, (asked, "4"), 0)
    [(logp, _)] = lm.loglikelihood([request], disable_tqdm=True)
    context, whole = (run.parts.tokenizer.encode(each) for each in (asked.rstrip(), asked + "4"))
    pair = context, whole[len(context) :]  # the harness scores white space with what follows it
    assert engine.logps(run.base, [pair])[0][0] == pytest.approx(logp)
    plain = harness.as_lm(harness.Engine(run.parts, longest=64), run.base)
    with pytest.raises(NotImplementedError, match="apply_chat_template"):
        plain.apply_chat_template([])
