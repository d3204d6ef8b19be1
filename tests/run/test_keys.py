"""Keys on the command line: any legal one, and each of a shipped config to its own value."""

import pathlib

import pytest

from ftjax.core import config as conf
from ftjax.run import config as settings
from ftjax.run import keys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OTHERS = ("__init__", "common")  # which no run reads
CONFIGS = sorted(
    p
    for p in (ROOT / "configs").glob("*.py")
    if p.stem not in OTHERS and not p.stem.startswith("decide")
)
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def leaves(section, path=()):
    """Yield the path and value of everything in a config that is no section, lists opened."""
    if isinstance(section, dict | list | tuple) and section:
        pairs = section.items() if isinstance(section, dict) else enumerate(section)
        for key, value in pairs:
            yield from leaves(value, (*path, str(key)))
    elif not isinstance(section, dict):
        yield ".".join(path), section


def changed(*texts, config="configs/sft.py"):
    return settings.read(keys.apply(conf.load(config), texts))


@each
def test_every_leaf_can_be_set_to_its_own_value(path):
    plain = settings.read(conf.load(path)).plain
    found = dict(leaves(plain))
    assert len(found) > 40
    texts = [f"{key}={value}" for key, value in found.items()]
    assert settings.read(keys.apply(conf.load(path), texts)).plain == plain


def test_keys_that_the_config_does_not_spell():
    s = changed(
        "data.on_bad_row=skip", "data.packing=none", "data.chat_template=None", "optim.b2=0.95",
        "data.loss=all", "adapter.init=pissa", "objective.z_loss=1e-4", "data.shuffle=false",
        "penalties.o.name=orthogonal", "penalties.o.weight=0.5",
        "evals.mine.data={'name': 'jsonl', 'path': 'x.jsonl'}", "evals.mine.name=nll",
    )  # fmt: skip
    own = ("on_bad_row", "packing", "chat_template", "loss", "shuffle")
    assert [s.data[key] for key in own] == ["skip", "none", None, "all", False]
    assert (s.optim["b2"], s.adapter["init"], s.objective["z_loss"]) == (0.95, "pissa", 1e-4)
    assert s.penalties == {"o": {"name": "orthogonal", "weight": 0.5}}
    mine = {"name": "nll", "data": {"name": "jsonl", "path": "x.jsonl"}}
    assert s.evals == {"mine": mine} | {k: own for k, own in s.evals.items() if k != "mine"}


def test_values_have_the_types_of_their_keys():
    s = changed(
        "adapter.alpha=8", "optim.clip_norm=None", "optim.no_decay=('**norm',)", "trainable=a/**",
        "data.path=['a', 'b']", "optim.weight_decay=1", "tokenizer=123", "samples.prompts=['x']",
    )  # fmt: skip
    assert s.adapter["alpha"] == 8.0
    assert s.optim["clip_norm"] is None
    assert (s.optim["no_decay"], s.trainable) == (("**norm",), "a/**")
    assert (s.data["path"], s.tokenizer) == (["a", "b"], "123")
    assert isinstance(s.optim["weight_decay"], float)
    assert changed("data.path=x").data["path"] == "x"
    assert changed("optim.groups=(('**/b', {'lr_scale': 16.0}),)").optim["groups"]


def test_what_depends_on_a_key_follows_it():
    assert changed("adapter.rank=4").adapter["alpha"] == 8.0
    own = changed("optim.schedule.name=wsd", "optim.schedule.decay_steps=5").optim["schedule"]
    assert own["decay_steps"] == 5


def test_the_length_is_said_once():
    length = lambda *texts: (lambda s: (s.steps, s.epochs, s.min_steps))(changed(*texts))
    assert length() == (None, 3.0, 50)
    assert length("epochs=2") == (None, 2.0, 0)
    assert length("epochs=2", "min_steps=9") == (None, 2.0, 9)
    assert length("steps=7") == (7, None, 0)
    with pytest.raises(ValueError, match="min_steps: got 9 beside steps; expected 0"):
        changed("steps=7", "min_steps=9")
    with pytest.raises(ValueError, match="steps: got 7 beside epochs"):
        changed("steps=7", "epochs=3")
    with pytest.raises(ValueError, match=r"steps: not set; expected a value.*--config\.epochs="):
        changed("epochs=None")


WRONG = {
    "stepz=3": r"config\.stepz: unknown key; did you mean 'steps'\? expected one of accumulate",
    "optim.learning_rat=1": r"optim\.learning_rat: unknown key; did you mean 'learning_rate'",
    "optim.b22=0.9": r"optim\.b22: unknown key; did you mean 'b2'",
    "data.on_badrow=skip": r"data\.on_badrow: unknown key; did you mean 'on_bad_row'",
    "adapter.alfa=3": r"adapter\.alfa: unknown key; did you mean 'alpha'.*rank",
    "objective.z_los=1": r"objective\.z_los: unknown key; did you mean 'z_loss'",
    "mesh.fdsp=2": r"mesh\.fdsp: unknown key; did you mean 'fsdp'",
    "optim.schedule.warmup=1": r"schedule\.warmup: unknown key; did you mean 'warmup_",
    "min_steps.x=1": "steps: got 50, which has no key 'x'",
    "steps=abc": r"steps: got 'abc'; expected int",
    "model.remat.x=1": "model.remat: got 'light'",
    "adapter=lora": "adapter: got 'lora'; expected a section",
    "model=tiny": "model: got 'tiny'; expected a section",
    "evals.x=3": "evals: got .*expected a section.* at \\['x'\\], got 3",
    "trainable=[1]": r"trainable: got .*expected .*str at \[0\], got 1",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_keys_and_values_are_named(text):
    with pytest.raises(ValueError, match=WRONG[text]):
        changed(text)
