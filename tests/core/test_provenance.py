import datetime
import subprocess
import sys

from ftjax.core import provenance


def test_the_command_is_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "experiments.train", "a b"])
    found = provenance.of_process(seconds=90.0)
    assert found["command"] == "python3 -m experiments.train 'a b'"
    start, end = (datetime.datetime.fromisoformat(found[key]) for key in ("started", "ended"))
    assert end - start == datetime.timedelta(seconds=90)
    assert end.tzinfo is not None


def test_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() is None
    (tmp_path / "a").write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "a"], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = provenance.git_commit()
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit() == f"{commit} (changed)"
    monkeypatch.setattr(provenance, "LONGEST_S", 0)
    assert provenance.git_commit() is None
