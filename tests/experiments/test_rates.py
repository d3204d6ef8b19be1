"""Learning rates and compute types of the shipped configs follow the size of the base."""

import json

import jax
import pytest

from configs import common
from ftjax.core import config as conf
from ftjax.optim import rates
from ftjax.run import bases
from ftjax.run import config as settings


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A directory whose safetensors header says a billion parameters, without the data."""
    directory = tmp_path_factory.mktemp("big")
    header = {"__metadata__": {}, "w": {"dtype": "BF16", "shape": [1000, 1_000_000]}}
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return directory


BASED = (  # (config, its argument, the rate)
    ("sft", "", 2e-4), ("sft", "full", 2e-5), ("sft_medical", "", 2e-4), ("dpo_hh", "", 5e-6),
    ("dpo_hh", "full", 5e-7), ("kto_hh", "", 5e-6), ("orpo", "", 5e-6), ("grpo_gsm8k", "", 5e-6),
    ("ppo_hh", "", 5e-6), ("distill", "", 2e-5), ("qlora", "", 2e-4),
    ("adapters_medical", "", 2e-4),
)  # fmt: skip


@pytest.mark.parametrize(("name", "arg", "rate"), BASED)
def test_a_large_base_has_the_rates_of_its_size(name, arg, rate, big):
    load = lambda *more: conf.load(f"configs/{name}.py:{','.join(filter(None, [*more, arg]))}")
    assert load(f"base={big}").optim.learning_rate == rate
    if name != "distill":
        assert load().optim.learning_rate > rate


def test_parameters_are_counted_by_headers(big, tmp_path):
    assert common.parameters(str(big)) == 10**9
    assert common.parameters(str(bases.locate("tiny"))) > 10**6
    (tmp_path / "x.safetensors").write_bytes(b"broken")
    assert common.parameters(str(tmp_path)) == common.parameters("absent") == 0


@pytest.mark.parametrize(("backend", "least", "dtype"), [
    ("cpu", 0, "float32"), ("gpu", 0, "bfloat16"), ("tpu", 10**12, "float32"),
])  # fmt: skip
def test_large_bases_compute_in_bfloat16_on_accelerators(backend, least, dtype, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(rates, "BIG", least)
    spec = conf.to_dict(common.base().model) | dict(base="", preset="nano")
    assert bases.read(settings.Model(**spec))[1].dtype == dtype
