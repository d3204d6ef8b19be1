"""A decision from a config to its page, over a base of random weights: plumbing, no quality."""

import functools
import gzip
import json
import re
import subprocess
import sys

import jax
import pytest

from configs import decide_tiny
from experiments import decide
from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.data.worlds import facts, relations
from ftjax.decide import arm_steps, arms, conclusion, config
from ftjax.run import reader
from tests.lab import ROOT

FILES = sorted((ROOT / "configs").glob("decide*.py"))


def chosen(lab, *, only=None, **changes):
    """The smoke of the embedded worlds, over the lab's base."""
    c = decide_tiny.get_config("smoke,people=2")
    c.base = str(lab.root / "base")
    if only:
        c.arms = {name: dict(name=name) for name in only}
        c.changed = {}
    for key, value in changes.items():
        with c.ignore_type():
            c[key] = value
    return config.read(c)


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """Let the base lie on one device: programs for eight compile far longer."""
    with pytest.MonkeyPatch.context() as patch:
        make = functools.partial(meshes.make, devices=jax.devices()[:1])
        patch.setattr(meshes, "make", make)
        yield


@pytest.fixture(scope="module")
def study(lab, tmp_path_factory):
    """A decision of all arms."""
    workdir = tmp_path_factory.mktemp("decision")
    record = decide.decide(chosen(lab), workdir)
    return workdir, record


def test_every_arm_ends_with_a_verdict_for_every_need(study):
    workdir, record = study
    assert list(record["arms"]) == [*arms.ARMS, "lora_then_rag"]
    assert {need: own["questions"] for need, own in record["needs"].items()} == {
        "facts": 6, "skill": 6, "changed": 4,
    }  # fmt: skip
    # Each changed fact is asked twice.
    assert {need: own["clusters"] for need, own in record["needs"].items()} == {
        "facts": 6, "skill": 6, "changed": 2,
    }  # fmt: skip
    assert "4 questions are of 2 clusters" in (workdir / "report.html").read_text()
    for own in record["needs"].values():
        assert own["chosen"] in own["candidates"]
        assert "rag_oracle" not in own["candidates"]
        assert set(own["scores"]) == set(own["totals"]) == set(record["arms"])
    assert set(record["forgetting"]["lora"]) == {"facts", "reading", "skills"}
    assert record["forgetting"]["zero_shot"]["skills"]["change"] == 0
    assert (workdir / "decide.json").is_file()


def test_conclusions_follow_from_the_file_alone(study):
    workdir, record = study
    read = json.loads((workdir / "decide.json").read_text())
    assert read == json.loads(json.dumps(record))
    assert json.loads(json.dumps(conclusion.conclude(read))) == read["needs"]


def test_costs_count_what_each_arm_needs(study):
    _, record = study
    costs = record["needs"]["facts"]["costs"]
    assert costs["zero_shot"]["train_flops"] == costs["rag"]["train_flops"] == 0
    assert costs["full"]["train_flops"] > costs["lora"]["train_flops"] > 0
    assert costs["lora"]["labels"] == 2400
    assert costs["few_shot"]["labels"] == 8
    assert costs["rag"]["query_flops"] > costs["zero_shot"]["query_flops"]
    assert costs["rag"]["update_flops"] == costs["lora_rag"]["update_flops"] == 0
    assert costs["lora"]["update_flops"] == record["arms"]["lora"]["update"]["flops"] > 0
    assert costs["lora_then_rag"]["train_flops"] == costs["lora"]["train_flops"]
    sizes = {label: own["bytes"] for label, own in record["arms"].items()}
    assert sizes["full"]["trained"] == sizes["full"]["base"] > sizes["lora"]["trained"] > 0
    assert sizes["rag"]["index"] > sizes["zero_shot"]["index"] == 0


def test_what_changed_is_asked_after_an_update_and_before_it(study):
    workdir, record = study
    own = record["needs"]["changed"]
    places = [i for i, item in enumerate(record["items"]) if item["need"] == "changed"]
    assert record["updated"] == ["changed"]
    assert all(record["items"][i]["stale"] for i in places)
    assert set(own["stale"]) == set(record["arms"])
    for label, arm in record["arms"].items():
        assert (arm["update"] is not None) == (label in ("lora", "full"))
        assert [arm["stale"][0][i] is None for i in range(12)] == [True] * 12
        assert all(arm[key][0][i] is not None for key in ("stale", "stale_before") for i in places)
    # One update is charged, though none is asked for.
    extra = own["totals"]["lora"] - own["costs"]["lora"]["train_flops"]
    assert extra > own["costs"]["lora"]["update_flops"]
    update = reader.parts_of(workdir / "arms" / "lora" / "update-trial0-seed0").settings
    assert update.adapter_from.endswith("trial0-seed0/export")
    update = reader.parts_of(workdir / "arms" / "full" / "update-trial0-seed0").settings
    assert update.model.base.endswith("trial0-seed0/export")


def test_passages_of_the_changed_world_are_what_is_cited_then(study):
    _, record = study
    known = facts.table("new", 2, changed=0.1)
    rows = {row["id"]: row for row in facts.make(form="passages", population="new", people=2,
                                                 changed=0.1)}  # fmt: skip
    [first, *_] = [i for i, item in enumerate(record["items"]) if item["need"] == "changed"]
    item = record["items"][first]
    [only] = record["arms"]["rag_oracle"]["cited"][first]
    assert only["id"] in item["gold"]
    assert only["end"] == len(rows[only["id"]]["text"])
    assert item["answers"][0] in {v for own in known.values() for v in own.values()}


def test_queries_are_timed_and_time_has_a_price(lab, tmp_path):
    priced = dict(queries=7200.0, device_hour=3.0)
    record = decide.decide(chosen(lab, only=["zero_shot"], latency_rows=1, prices=priced), tmp_path)
    latency = record["arms"]["zero_shot"]["latency"]
    assert min(latency.values()) > 0
    own = record["needs"]["facts"]
    assert own["totals"]["zero_shot"] == pytest.approx(6 * latency["batch_s"])


def test_answers_cite_passages_with_their_characters(study):
    _, record = study
    rag, oracle = record["arms"]["rag"], record["arms"]["rag_oracle"]
    facts = [i for i, item in enumerate(record["items"]) if item["need"] == "facts"]
    assert all(oracle["hit"][i] for i in facts)
    for i in facts:
        [only] = oracle["cited"][i]
        assert only["id"] in record["items"][i]["gold"]
        assert 0 == only["start"] < only["end"]
        assert len(rag["cited"][i]) <= 4
    assert record["retrieval"]["questions"] == 16  # all of the source, not what arms are asked


def test_the_page_shows_verdicts_arms_and_answers(study):
    workdir, record = study
    page = (workdir / "report.html").read_text()
    assert page.count("<svg") == 9
    for text in ("lora_rag", "Answers side by side", "old abilities", "few_shot_rag"):
        assert text in page
    assert all(own["text"].split(" (")[0] in page for own in record["needs"].values())
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_trained_arms_are_ordinary_runs(study):
    workdir, _ = study
    run = reader.load(workdir / "arms" / "lora_rag" / "trial0-seed0")
    assert run.step == 2
    rows = workdir / "arms" / "lora_rag" / "rows-trial0-seed0" / "facts.jsonl"
    prompts = [json.loads(line)["prompt"] for line in rows.read_text().splitlines()]
    assert len(prompts) == 800
    assert all(prompt.startswith("Text: ") for prompt in prompts)
    # Rows without passages are the same for every seed and trial: written, and encoded, once.
    config = json.loads((workdir / "arms" / "lora" / "trial0-seed0" / "config.json").read_text())
    written = [part["path"] for part in config["data"]["parts"] if "path" in part]
    assert {path.split("/")[-2] for path in written} == {"rows-first"}


def test_finished_arms_are_read_back(study, lab, monkeypatch, capsys):
    workdir, record = study
    monkeypatch.setattr(arm_steps, "answered", None)
    monkeypatch.setattr(decide.train, "train", None)
    priced = chosen(lab, prices=dict(queries=5.0, flop=2.0))
    again = decide.decide(priced, workdir)
    assert capsys.readouterr().out.count("finished before") == len(record["arms"])
    assert again["arms"] == record["arms"]
    cost = again["needs"]["facts"]["costs"]["zero_shot"]["query_flops"]
    assert again["needs"]["facts"]["totals"]["zero_shot"] == pytest.approx(5 * 2 * cost)


def test_another_config_is_not_mixed_with_finished_arms(study, lab):
    workdir, _ = study
    with pytest.raises(ValueError, match="got an arm of another config"):
        decide.decide(chosen(lab, only=["zero_shot", "rag"], max_new_tokens=5), workdir)


def test_a_stopped_command_goes_on_where_it_was(lab, tmp_path, monkeypatch, capsys):
    only = ["zero_shot", "lora"]
    real = decide.train.train

    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(decide.train, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        decide.decide(chosen(lab, only=only), tmp_path)
    monkeypatch.setattr(decide.train, "train", real)
    record = decide.decide(chosen(lab, only=only), tmp_path)
    assert "zero_shot: finished before" in capsys.readouterr().out
    assert set(record["arms"]) == set(only)


def test_an_arm_that_fails_is_marked_and_the_others_go_on(lab, tmp_path):
    broken = chosen(lab, only=["zero_shot", "lora"])
    broken.runs["lora"]["optim"]["name"] = "adamv"
    with pytest.raises(RuntimeError, match=r"1 of 2 arms have no result: lora: optim.name"):
        decide.decide(broken, tmp_path)
    record = json.loads((tmp_path / "decide.json").read_text())
    assert "adamv" in record["arms"]["lora"]["error"]
    assert record["needs"]["facts"]["chosen"] == "zero_shot"
    assert "lora failed" in (tmp_path / "report.html").read_text()


def test_validation_chooses_among_trials(lab, tmp_path, monkeypatch):
    trials = ({}, {"instruction": "Be brief."}, {"instruction": "x"})
    decision = chosen(
        lab, only=["zero_shot"], arms={"zero_shot": dict(name="zero_shot", trials=trials)},
        validation={"skill": dict(name="embedded", domain="skills", split="validation", limit=4)},
    )  # fmt: skip
    scores = iter([0.1, 0.7, 0.3])
    monkeypatch.setattr(arm_steps, "validated", lambda *args: next(scores))
    own = decide.decide(decision, tmp_path)["arms"]["zero_shot"]
    assert (own["trial"], own["validation"]) == (1, [0.1, 0.7, 0.3])
    assert "median 0.300" in (tmp_path / "report.html").read_text()


def test_wordings_are_searched_and_rewritten_by_the_base(lab, tmp_path, monkeypatch):
    trials = (
        {"instruction": "Say it.", "template": "So: {prompt}"}, {"instruction": "x"},
        {"rewrite": True},
    )  # fmt: skip
    decision = chosen(
        lab, only=["prompt_search"],
        arms={"prompt_search": dict(name="prompt_search", trials=trials)},
        validation={"skill": dict(name="embedded", domain="skills", split="validation", limit=4)},
    )  # fmt: skip
    scores = iter([0.3, 0.1, 0.7])
    monkeypatch.setattr(arm_steps, "validated", lambda *args: next(scores))
    own = decide.decide(decision, tmp_path)["arms"]["prompt_search"]
    assert (own["trial"], own["validation"]) == (2, [0.3, 0.1, 0.7])
    found = own["trials"][2]  # in the words of the base, in the best template so far
    assert found["template"] == "So: {prompt}"
    assert found["rewrite"]
    assert found["instruction"]


@pytest.mark.parametrize("metric", ["choice", "nll", "overlap"])
def test_answers_are_scored_by_other_metrics(metric, lab, tmp_path):
    asked = chosen(lab).test
    need = "skill" if metric == "overlap" else "facts"  # these have choices
    decision = chosen(lab, only=["zero_shot"], metric=metric, test={need: asked[need]})
    record = decide.decide(decision, tmp_path)
    arm, wanted = record["arms"]["zero_shot"], [item["answers"][0] for item in record["items"]]
    assert record["metric"] == metric
    pairs = list(zip(arm["answers"][0], wanted, strict=True))
    if metric == "choice":
        values = [set(relation.values) for relation in relations.PEOPLE.values()]
        assert all(any({text, right} <= own for own in values) for text, right in pairs)
        assert arm["scores"] == [[float(text == right) for text, right in pairs]]
    if metric == "nll":
        assert max(arm["scores"][0]) < 0
        assert "minus nll, nats a token" in (tmp_path / "report.html").read_text()
    # Old abilities are asked for texts, whatever the metric.
    assert set(arm["old"][0]) <= {0.0, 1.0}


def test_without_passages_retrieval_is_left_out(lab, tmp_path, capsys):
    record = decide.decide(chosen(lab, only=["zero_shot", "rag"], passages={}), tmp_path)
    assert set(record["arms"]) == {"zero_shot"}
    assert "rag: left out, for want of passages" in capsys.readouterr().out


def test_a_planted_leak_is_refused(lab, tmp_path):
    decision = chosen(lab, only=["zero_shot"])
    decision.train["facts"].update(split="test", rows=8)
    with pytest.raises(
        ValueError, match=r"test: got 0 rows whose id, and \d whose text, train has"
    ):
        decide.decide(decision, tmp_path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configs_load_and_hold_their_command(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for arg in ("", ":runlocal"):
        config.read(conf.load(f"{path}{arg}"))
    assert "python -m experiments.decide" in path.read_text()


def rows_of(split):
    return [
        {"id": f"{split}-{i}", "passage_id": f"{split}-{i}", "answers": ["yes"], "label": "yes",
         "question": f"Is {split} number{i} good?", "context": f"The {split} number{i} is good.",
         "text": f"The {split} number{i} is good."}
        for i in range(6)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["squad", "medical", "documents"])
def test_configs_of_real_data_answer_from_their_files(name, lab, tmp_path):
    """Rows as the files have them; the base is random, so that only the plumbing is seen."""
    folder = tmp_path / ("medical/pubmedqa" if name == "medical" else "qa/squad")
    folder.mkdir(parents=True)
    splits = {split: rows_of(split) for split in ("train", "validation", "test")}
    every = [row for rows in splits.values() for row in rows]
    for split, rows in (*splits.items(), ("passages", every)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = f"data={tmp_path},base={lab.root / 'base'},arms=zero_shot+rag,runlocal"
    c = conf.load(f"{ROOT}/configs/decide_{name}.py:{found}")
    c.old, c.arms = {}, {label: c.arms[label] for label in ("zero_shot", "rag")}
    record = decide.decide(config.read(c), tmp_path / "work")
    assert record["retrieval"]["questions"] == 6
    assert record["retrieval"]["recall@5"] == 1
    assert record["needs"]["answers"]["questions"] == 6
    assert all(len(cited) <= 4 for cited in record["arms"]["rag"]["cited"])


def test_the_script_of_the_docs_computes_the_verdict(study):
    workdir, _ = study
    record = json.loads((workdir / "decide.json").read_text())  # another test changed its prices
    text = (ROOT / "docs" / "decide.md").read_text()
    [script] = re.findall(r"```python\n(# verdict\.py.*?)```", text, re.DOTALL)
    assert len(script.strip().splitlines()) <= 25
    command = [sys.executable, "-c", script, str(workdir / "decide.json")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for need, own in record["needs"].items():
        assert f"{need}: {own['chosen']} of {own['candidates']}" in out
        for label, each in own["scores"].items():
            if label != "rag_oracle":
                assert f"{label} {each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" in out


def test_rows_of_other_names_and_keys_of_the_command_line():
    names = "question=q,answer=a,gold=source,id=doc,text=body,steps=9"
    found = decide.read(f"configs/decide.py:{names}", ["seeds=[4]", "test.task.limit=7"])
    assert found.train["task"]["fields"] == dict(question="q", answer="a", passage_id="source")
    assert found.test["task"]["limit"] == 7
    assert found.passages["fields"] == dict(id="doc", text="body")
    assert list(found.seeds) == [4]
    assert found.runs["lora"]["steps"] == 9
    with pytest.raises(ValueError, match=r"sedes: unknown key; did you mean 'seeds'"):
        decide.read("configs/decide.py", ["sedes=3"])


def test_training_is_as_long_as_its_rows_ask_for():
    own = decide.read("configs/decide.py").runs["lora"]
    assert (own["steps"], own["epochs"], own["min_steps"]) == (None, 3.0, 50)
