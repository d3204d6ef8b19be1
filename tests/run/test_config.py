import ast
import dataclasses
import pathlib

import pytest

import ftjax
from configs import common
from ftjax.run import config as settings

PACKAGE = pathlib.Path(ftjax.__file__).parent
FIELDS = {
    (section.__name__, field.name)
    for section in (settings.Settings, *settings.SECTIONS.values())
    for field in dataclasses.fields(section)
}


def attributes_read():
    """Names after a dot in all modules that read settings."""
    paths = [path for room in ("run", "rl") for path in (PACKAGE / room).glob("*.py")]
    trees = [ast.parse(path.read_text()) for path in paths]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize(("section", "name"), sorted(FIELDS - {("Model", "param_dtype")}))
def test_every_key_is_read_somewhere(section, name):
    assert name in attributes_read()


def test_the_common_config_has_every_key_and_no_other():
    config = common.online(common.base(), prompts=1, samples=2, max_new_tokens=1)
    assert set(config) | {"plain"} == {f.name for f in dataclasses.fields(settings.Settings)}
    for name, section in settings.SECTIONS.items():
        assert set(config[name]) == {f.name for f in dataclasses.fields(section)}


def test_settings_are_typed_and_keep_the_config(lab):
    config = lab.config(batch_size=16)
    chosen = settings.read(config)
    assert chosen.batch_size == 16
    assert chosen.model.base == str(lab.root / "base")
    assert chosen.plain["data"]["max_tokens"] == chosen.data["max_tokens"] == 64
    assert settings.read(chosen.plain) == chosen
