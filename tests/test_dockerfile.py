"""The Dockerfile, read line by line: there may be no builder where the tests run."""

import json
import re
import tomllib

import pytest

from tests.lab import ROOT
from tests.test_command import SOURCES

TEXT = (ROOT / "Dockerfile").read_text()


def instructions(text):
    """The instructions in order, each its name and the rest; lines that go on are joined."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(x.split(maxsplit=1)) for x in lines if x.strip() and not x.startswith("#")]


def of(name):
    return [rest for each, rest in instructions(TEXT) if each == name]


def test_the_base_has_a_version_that_the_project_supports():
    [base] = of("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    assert f"constraints/py{version.replace('.', '')}.txt" in TEXT


def test_what_a_wheel_is_made_of_is_copied_and_not_ignored():
    copied = {source for line in of("COPY") for source in line.split()[:-1]}
    assert copied == {*SOURCES, "constraints"}
    assert all((ROOT / source).exists() for source in copied)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


def test_it_is_installed_before_and_run_after_the_user_changes():
    names = [name for name, _ in instructions(TEXT)]
    assert names.index("USER") > max(n for n, name in enumerate(names) if name == "RUN")
    [user] = of("USER")
    assert user not in ("root", "0")
    assert re.search(rf"useradd .*\b{user}\b", TEXT)
    [entry] = of("ENTRYPOINT")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert json.loads(entry)[0] in project["scripts"]


@pytest.mark.parametrize("name", [*re.findall(r"EXTRAS=([\w,]+)", TEXT), "cuda"])
def test_the_extras_that_are_named_exist(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(name.split(",")) <= project["optional-dependencies"].keys()
    assert "EXTRAS=cuda" in (ROOT / "docs" / "cluster.md").read_text()


def test_the_docs_say_that_it_was_not_built():
    assert "not yet been built" in (ROOT / "docs" / "cluster.md").read_text().replace("\n    ", " ")
