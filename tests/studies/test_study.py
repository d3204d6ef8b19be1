"""A study is checked before anything runs: names, rates, orders, and what its configs have."""

import dataclasses
import json
import textwrap

import pytest

from ftjax.studies import controls, stages, study

CONFIG = '''
"""A study of two tasks."""
from configs import common

def get_config(arg=None):
    arg = common.parse_arg(arg, task="a", full=False, rank=2, more=0)
    c = common.base()
    common.tune(c, full=arg.full, rank=arg.rank)
    c.data = dict(name="jsonl", path=f"{arg.task}.jsonl", max_tokens=64)
    for label in ("a", "b", "old"):
        c.evals[label] = dict(name="nll", data=dict(name="jsonl", path=f"{label}.jsonl"))
    c.evals[arg.task].group = "new"
    c.evals.choices = dict(name="choice", data=dict(name="jsonl", path="c.jsonl"))
    c.steps = 3
    return c

def study():
    return dict(STUDY)
'''
GIVEN = dict(
    tasks=("a", "b"), methods=dict(lora="", full="full"), rates=(1e-3, 1e-2),
    match=dict(metric="nll", fraction=0.9),
)  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def make(text=CONFIG, **changes):
        path = tmp_path / "own.py"
        path.write_text(textwrap.dedent(text).replace("STUDY", repr(GIVEN | changes)))
        return str(path)

    return make


def test_every_task_is_evaluated_in_every_stage(write, tmp_path):
    found = study.read(write(orders=2, seeds=(3,), carry="continued"))
    assert found.orders == (("a", "b"), ("b", "a"))
    # The choices have an nll too, by the answer and not by the token.
    assert (found.probes, dict(found.owners)) == (("old",), {"a": "a", "b": "b"})
    cells = stages.cells(found)
    assert [cell.label for cell in cells[:3]] == [
        "lora_0.001_s3_o0", "lora_0.001_s3_o1", "lora_0.01_s3_o0"]  # fmt: skip
    assert len(cells) == 2 * 2 * 2
    one, two = stages.stages(found, cells[1], tmp_path)
    groups = [{k: v["group"] for k, v in each.settings.evals.items()} for each in (one, two)]
    assert groups[0] == dict(a="later", b="new", old="old", choices="old")
    assert groups[1] == dict(a="new", b="old", old="old", choices="old")
    assert one.settings.data["path"] == "b.jsonl"
    assert one.settings.optim["learning_rate"] == 1e-3
    seed = one.settings.seed
    assert (seed.data, seed.init, seed.adapter, seed.sampling) == (3, 0, 3, 3)
    assert one.workdir == tmp_path / "cells" / "lora_0.001_s3_o1" / "1_b"


def test_a_part_of_it_is_some_methods_and_the_first(write):
    more = dict(
        methods={"full": "full", "lora": "", "lora_8": "rank=8", "old": "more=1"},
        sees_old=("old",), parts=dict(full="full", replay="old"),
        axes=dict(rank=dict(lora=2, lora_8=8), replay=dict(lora=0, old=1)),
    )  # fmt: skip
    whole = study.read(write(**more))
    part = study.with_methods(whole, ["lora*"])
    assert list(part.methods) == list(part.rates) == ["full", "lora", "lora_8"]
    assert (part.sees_old, dict(part.parts)) == ((), dict(full="full"))
    assert dict(part.axes) == dict(rank=dict(lora=2, lora_8=8))
    labels = [cell.label for cell in stages.cells(whole) if cell.method != "old"]
    assert [cell.label for cell in stages.cells(part)] == labels
    assert study.with_methods(whole, []) == whole
    with pytest.raises(ValueError, match=r"--methods: got 'lara'; did you mean 'lora'\?"):
        study.with_methods(whole, ["lora_8", "lara"])


@pytest.mark.parametrize(
    ("carry", "wanted"),
    [("merged", ("model", "EXPORT", "", ())), ("continued", ("adapter", "tiny", "EXPORT", ())),
     ("stacked", ("adapter", "tiny", "", ("EXPORT",)))],
)  # fmt: skip
def test_what_a_stage_starts_from(write, tmp_path, carry, wanted):
    found = study.read(write(carry=carry))
    cells = {cell.method: cell for cell in stages.cells(found) if cell.rate == 1e-3}
    one, two = stages.stages(found, cells["lora"], tmp_path)
    own = two.settings
    export = str(one.workdir / "export")
    shown = (own.export.form, own.model.base, own.adapter_from, own.adapter.get("past", ()))
    assert json.loads(json.dumps(shown).replace(export, "EXPORT")) == json.loads(json.dumps(wanted))
    assert (own.tokenizer, one.settings.tokenizer, one.settings.model.base) == ("tiny",) * 3
    _, full = stages.stages(found, cells["full"], tmp_path)
    assert full.settings.model.base.endswith("full_0.001_s0_o0/1_a/export")
    assert (full.settings.export.form, full.settings.adapter_from) == ("model", "")


def test_full_carries_no_adapters(write, tmp_path):
    found = study.read(write(carry="full"))
    with pytest.raises(ValueError, match=r"methods\.lora: study\.carry: got 'full'.*'lora'"):
        stages.check(found, tmp_path)
    alone = study.read(write(carry="full", methods=dict(full="full")))
    stages.check(alone, tmp_path)


def test_methods_are_arguments_or_dotted_keys(write, tmp_path):
    found = study.read(write(methods={"lora": "rank=4", "decay": {"optim.weight_decay": 0.5}}))
    cells = {cell.method: cell for cell in stages.cells(found)}
    first = lambda method: stages.stages(found, cells[method], tmp_path)[0].settings
    assert first("lora").adapter["rank"] == 4
    assert first("decay").optim["weight_decay"] == 0.5
    assert first("lora").optim["weight_decay"] == 0


def test_the_joint_control_has_all_tasks_at_once(write, tmp_path):
    found = study.read(write(controls=("none", "joint")))
    cell = stages.cells(found)[-1]
    (stage,) = stages.stages(found, cell, tmp_path)
    assert (cell.label, cell.method, stage.settings.steps) == ("joint_0.01_s0", "lora", 6)
    assert [part["path"] for part in stage.settings.data["parts"]] == ["a.jsonl", "b.jsonl"]
    assert stage.settings.data["max_tokens"] == 64
    assert {k: v["group"] for k, v in stage.settings.evals.items()} == dict(
        a="new", b="new", old="old", choices="old"
    )


PADDED = dict(
    methods={"lora": "", "more": "more=1"}, sees_old=("more",), controls=("none", "padding"),
    rates=dict(lora=(1e-3,), more=(1e-2, 1e-1)),
)  # fmt: skip
REPLAY = """
    if arg.more and arg.task == "b":
        new = dict(name="jsonl", path="b.jsonl", weight=3.0, label="new")
        old = dict(name="jsonl", path="old.jsonl", weight=1.0, label="old")
        c.data = dict(name="mixture", parts=(new, old), max_tokens=64)
    c.steps = 3"""


def test_padding_is_a_method_with_new_rows_in_the_place_of_old_ones(write, tmp_path):
    found = study.read(write(CONFIG.replace("\n    c.steps = 3", REPLAY), **PADDED))
    assert list(found.methods) == list(found.rates) == ["lora", "more", "padding_more"]
    assert found.rates["padding_more"] == found.rates["more"] == (1e-2, 1e-1)
    cells = {cell.label: cell for cell in stages.cells(found)}
    assert len(cells) == 1 + 2 + 2
    first, second = (
        stages.stages(found, cells[f"{name}_0.01_s0_o0"], tmp_path)
        for name in ("more", "padding_more")
    )
    # The first task replays nothing: both are the same run, in folders of their own.
    assert first[0].identity == second[0].identity
    assert first[0].workdir != second[0].workdir
    parts = [[(p["path"], p["weight"]) for p in x[1].settings.data["parts"]]
             for x in (first, second)]  # fmt: skip
    assert parts == [[("b.jsonl", 3.0), ("old.jsonl", 1.0)], [("b.jsonl", 1.0)]]
    assert first[1].settings.steps == second[1].settings.steps
    alone = study.with_methods(found, ["padding*"])  # without its method it is still padded
    assert list(alone.methods) == ["lora", "padding_more"]
    again = stages.stages(alone, cells["padding_more_0.01_s0_o0"], tmp_path)
    assert again[1].identity == second[1].identity


def test_padding_that_changes_nothing_is_refused(write):
    with pytest.raises(ValueError, match=r"study\.controls: got 'padding' and 'more' in sees_old"):
        study.read(write(**PADDED))
    taken = PADDED | dict(rates=(1e-3,), methods={"padding_more": "", "more": "more=1"})
    with pytest.raises(ValueError, match=r"study\.methods: got the name 'padding_more'"):
        study.read(write(CONFIG.replace("\n    c.steps = 3", REPLAY), **taken))


def test_mixtures_are_joined_part_by_part():
    parts = (dict(name="x", weight=3.0), dict(name="y", weight=1.0, kind="text"))
    half = dict(name="mixture", kind="prompt", max_tokens=8, parts=parts)
    found = controls.joint_data({"a": half, "b": dict(name="z", max_tokens=8)})
    assert found["max_tokens"] == 8
    shown = [(p["name"], p.get("kind"), p["weight"]) for p in found["parts"]]
    assert shown == [("x", "prompt", 0.75), ("y", "text", 0.25), ("z", None, 1.0)]
    with pytest.raises(ValueError, match=r"data of the task 'b' with \{'max_tokens': 9\}"):
        controls.joint_data({"a": half, "b": dict(name="z", max_tokens=9)})


def padded(**given):
    plain = dict(data=dict(name="x", rows=5, kind="text", max_tokens=8),
                 anchors={}, penalties={}, adapter={})  # fmt: skip
    return controls.padded(plain | given)


def test_padding_reads_new_rows_in_anchors_penalties_and_starts():
    held = dict(name="y", rows=9, max_tokens=4)
    wanted = dict(name="x", rows=5, kind="text", max_tokens=4)  # the length is the anchor's own
    found = padded(
        anchors=dict(old=dict(name="nll", rows=2, data=held)),
        penalties=dict(ewc=dict(name="ewc", data=held), near=dict(name="l2sp")),
        adapter=dict(name="lora", data=held),
    )
    assert found["anchors"] == dict(old=dict(name="nll", rows=2, data=wanted))
    assert found["penalties"] == dict(ewc=dict(name="ewc", data=wanted), near=dict(name="l2sp"))
    assert found["adapter"] == dict(name="lora", data=wanted)
    assert found["data"] == dict(name="x", rows=5, kind="text", max_tokens=8)


def test_padding_keeps_the_shares_of_new_parts():
    parts = [dict(name=x, weight=w, label=y) for x, w, y in
             (("p", 3.0, "new"), ("q", 1.0, "new"), ("r", 4.0, "old"))]  # fmt: skip
    mixture = dict(name="mixture", kind="text", parts=tuple(parts), max_tokens=8)
    found = padded(data=mixture, anchors=dict(old=dict(data=dict(name="y", max_tokens=4))))
    shown = [(p["name"], p["weight"], p["kind"], p["label"]) for p in found["data"]["parts"]]
    assert shown == [("p", 0.75, "text", "new"), ("q", 0.25, "text", "new")]
    assert found["data"]["max_tokens"] == 8
    anchored = found["anchors"]["old"]["data"]
    assert (anchored["parts"], anchored["max_tokens"]) == (found["data"]["parts"], 4)
    unlabelled = (dict(name="p", weight=1.0), dict(name="q", weight=1.0))
    with pytest.raises(ValueError, match=r"labels None, None; expected 'new'"):
        padded(data=dict(name="mixture", parts=unlabelled))


def test_a_task_is_scored_by_the_evaluation_of_its_name_else_by_its_first(write):
    more = (
        'c.evals.aa = dict(name="nll", data=dict(name="jsonl", path="b.jsonl"))\n'
        '    c.evals.aa.group = "new" if arg.task == "b" else "old"\n    c.steps = 3'
    )
    found = study.read(write(CONFIG.replace("c.steps = 3", more)))
    assert found.owners["aa"] == "b"
    assert found.label_of("b") == "b"  # and not "aa", which comes before it
    owners = {label: task for label, task in found.owners.items() if label != "b"}
    assert dataclasses.replace(found, owners=owners).label_of("b") == "aa"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(carry="mergd"), r"study\.carry: got 'mergd'; did you mean 'merged'"),
        (dict(orders=(("a", "bb"),)), r"study\.orders: got 'bb'; did you mean 'b'"),
        (dict(orders=(("a", "a"),)), "expected every task once"),
        (dict(orders=3), "got 3 for 2 tasks"),
        (dict(probes=("olt",)), r"study\.probes: got 'olt'; did you mean 'old'"),
        (dict(probes=("a",)), r"study\.probes: got 'a'.*expected one of old"),
        (
            dict(probes=("choices",)),
            r"study\.probes: got 'choices', whose 'nll' is that of 'choice'",
        ),
        (dict(controls=("joined",)), r"study\.controls: got 'joined'; did you mean 'joint'"),
        (dict(rates=dict(lora=(1e-3,), ful=(1e-3,))), r"study\.rates: got 'ful'; did you mean"),
        (dict(rates=dict(lora=(1e-3,))), r"study\.rates\.full: got \(\)"),
        (dict(rates=(1e-3, -1.0)), r"study\.rates\.lora: got \(0\.001, -1\.0\)"),
        (dict(rates=(1e-3, 1e-3)), "each once"),
        (dict(seeds=0), r"study\.seeds: got 0"),
        (dict(match=dict(metric="nl", fraction=0.5)), r"metric: got 'nl'; did you mean 'nll'"),
        (dict(match=dict(metric="nll", fraction=1.5)), r"study\.match\.fraction: got 1\.5"),
        (dict(match=dict(metric="f1", fraction=0.5)), "got 'a', whose evaluations of group 'new'"),
        (dict(methods={"a/b": ""}), "got the name 'a/b'"),
        (dict(methods={"lora": 3}), r"study\.methods\.lora: got 3"),
        (dict(methods={}), r"study\.methods: got none"),
        (dict(recover=("bb",)), r"study\.recover: got 'bb'; did you mean 'b'"),
        (
            dict(recover=("a",)),
            r"study\.recover: got 'a', which the order \('a', 'b'\) begins with",
        ),
        (dict(method={}), r"study\.method: unknown key; did you mean 'methods'"),
    ],
)
def test_what_is_refused(write, changes, message):
    with pytest.raises(ValueError, match=message):
        study.read(write(**changes))


def test_evaluations_are_one_for_all_tasks(write):
    other = CONFIG.replace('path=f"{label}.jsonl"', 'path=f"{label}{arg.task}.jsonl"')
    with pytest.raises(ValueError, match="two evaluations 'a', of which that of the task 'b'"):
        study.read(write(other))
    both = CONFIG.replace('"new"', '"new"\n    c.evals.a.group = "new"')
    with pytest.raises(ValueError, match=r"evals\.a as new in the tasks 'a' and 'b'"):
        study.read(write(both))


def test_one_task_without_probes_can_forget_nothing(write):
    with pytest.raises(ValueError, match="nothing could be forgotten"):
        study.read(write(tasks=("a",), probes=()))


def test_a_config_without_a_study(write):
    with pytest.raises(ValueError, match=r"which has no study\(\)"):
        study.read("configs/sft.py")
