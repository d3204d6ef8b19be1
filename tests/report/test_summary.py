import json
import math
import os
import pathlib

import jax
import numpy as np
import pytest

from ftjax.core import files
from ftjax.report import summary
from ftjax.train.loop import Result


def test_the_summary_holds_what_a_table_of_runs_needs(tmp_path):
    result = Result(None, 12, "done", {"loss": np.float32(0.5), "x": math.inf}, 96, {"eval": 1.5})
    rows = [f"data.jsonl:{i}: empty" for i in range(30)]
    written = summary.write(
        tmp_path / "summary.json",
        result=result,
        wall_s=3.0,
        trainable_parameters=10,
        total_parameters=100,
        bad_rows=rows,
        frozen={"source": pathlib.Path("base")},
    )
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read == files.plain(written)
    assert read["metrics"] == {"loss": 0.5, "x": None}
    assert read["seconds"] == {"wall": 3.0, "eval": 1.5}
    assert read["bad_rows"]["count"] == 30
    assert read["bad_rows"]["first"] == rows[:20]
    assert read["parameters"] == {"trainable": 10, "total": 100}
    assert read["versions"]["jax"] == jax.__version__
    assert read["memory_bytes"] > 0
    assert read["frozen"] == {"source": "base"}
    assert {"command", "host", "git_commit", "started", "ended"} <= read.keys()


def test_the_config_is_written_in_json(tmp_path):
    path = summary.write_config(tmp_path / "new" / "config.json", {"a": (1, 2), 3: None})
    assert json.loads(path.read_text()) == {"a": [1, 2], "3": None}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "a.txt", "old")

    def full(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
