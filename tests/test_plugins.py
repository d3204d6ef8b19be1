"""One of each plug-in, as docs/extend.md has them: found by dotted path, no other file touched."""

import json
import re
import shutil

import pytest

from ftjax.run import plan as plans
from scripts import notebooks
from tests import lab as lab_lib

FILES = notebooks.files_of((lab_lib.ROOT / "docs" / "extend.md").read_text())


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package `my_lab` of these files, on the path."""
    folder = tmp_path / "code" / "my_lab"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder.parent / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_plugins_of_a_folder_of_ones_own_train_a_run(lab, mine, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(lab.root / "base", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "my_lab.family"}))
    workdir = lab.run(
        "run", tmp_path,
        **{
            "model.base": str(base),
            "adapter": dict(name="my_lab.adapter", where="blocks/**"),
            "objective": dict(name="my_lab.objective", power=1.5),
            "penalties": dict(small=dict(name="my_lab.penalty", weight=0.1)),
            "data": dict(name="my_lab.source", count=16, max_tokens=32),
            "evals": dict(moved=dict(name="my_lab.evaluator", data=lab.rows(max_tokens=64))),
        },
    )  # fmt: skip
    rows = lab_lib.metrics(workdir)
    assert [row["eval/moved/count"] for row in rows if "eval/moved/count" in row] == [32, 32]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert rows[-1]["penalty/small"] > 0
    # Its evaluator's metric is in the table and the report, with its unit and direction.
    summary = json.loads((workdir / "summary.json").read_text())
    assert [(row["metric"], row["stated"]) for row in summary["learned"]] == [
        ("count", [1, "examples"])
    ]
    assert "count ↑ examples" in " ".join((workdir / "report.html").read_text().split())
    assert re.search(r"step 0 +count\n +moved +32\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": dict(name="my_lab.absent", where="blocks/**")}, "adapter.*my_lab.absent"),
        ({"objective": dict(name="my_lab.source")}, "my_lab.source.*no SPEC"),
        ({"data": dict(name="my_lab.source", cuont=16, max_tokens=32)}, "did you mean 'count'"),
    ],
)
def test_what_they_lack_is_named(lab, mine, changes, message):
    with pytest.raises(ValueError, match=message):
        plans.plan(lab.settings(**changes))
