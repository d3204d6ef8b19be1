"""Settings that change how a run is computed and not what: the same losses and weights."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tests.equivalence.conftest import metrics, rows, run, weights
from tests.lab import ROOT, environment

NAMES = ("loss", "grad_norm")


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory, request):
    """A run of each objective on one device with the settings of the config; made once."""
    made = {}

    def of(what="sft"):
        if what not in made:
            made[what] = run(config, tmp_path_factory.mktemp("plain") / what, what)
        return made[what]

    return of


def same(one, other, *, rel=1e-6, names=NAMES):
    """Compare the steps of two runs, and what they export."""
    one_rows, other_rows = rows(one), rows(other)
    assert len(one_rows) == len(other_rows) == 4
    assert len({row["loss"] for row in one_rows}) == 4
    for a, b in zip(one_rows, other_rows, strict=True):
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=rel, abs=1e-7), name
    arrays = [safetensors.numpy.load(weights(each)) for each in (one, other)]
    for name, array in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], array, rtol=1e-4, atol=20 * rel, err_msg=name)


@pytest.mark.parametrize(
    "keys",
    [dict(accumulate=2), dict(accumulate=8), dict(model__remat="none"), dict(model__remat="full"),
     dict(model__remat="full_offload"), dict(model__chunk=7)],
    ids=str,
)  # fmt: skip
def test_on_one_device(keys, plain, config, tmp_path):
    same(plain(), run(config, tmp_path / "run", **keys), rel=2e-6)


@pytest.mark.parametrize(
    ("keys", "count"),
    [(dict(mesh__data=8), 8), (dict(mesh__data=1, mesh__fsdp=8), 8),
     (dict(mesh__data=4, mesh__tensor=2), 8),
     (dict(mesh__data=1, mesh__fsdp=4, mesh__tensor=2, model__remat="light_offload"), 8),
     (dict(mesh__data=2, compile="pmap"), 2)],
    ids=str,
)  # fmt: skip
def test_on_many_devices(keys, count, plain, config, tmp_path, use_devices):
    use_devices(count)
    same(plain(), run(config, tmp_path / "run", **keys), rel=5e-6)


@pytest.mark.parametrize("what", ["held", "osf"])
def test_remedies_are_the_same_however_they_are_cut(what, plain, config, tmp_path, use_devices):
    use_devices(4)
    keys = dict(accumulate=2, mesh__data=2, mesh__fsdp=2)
    # Singular vectors of sums in another order differ by more than the sums.
    same(plain(what), run(config, tmp_path / "run", what, **keys), rel=5e-5)


def test_packed_examples_are_separate_ones(plain, config, tmp_path):
    """All eight examples are in every batch: one a row, or side by side in a single row."""
    own = dict(data__packing="bfd", data__max_tokens=192, batch_size=1)
    packed = run(config, tmp_path / "run", **own)
    assert rows(packed)[-1]["tokens"] == rows(plain())[-1]["tokens"]
    same(plain(), packed, rel=5e-6)


def test_live_frozen_and_cached_references_are_one(plain, config, tmp_path):
    for name in ("frozen", "cached"):
        same(plain("dpo"), run(config, tmp_path / name, "dpo", reference__name=name), rel=5e-6)


def test_the_compile_cache_changes_no_bit(plain, config, tmp_path, monkeypatch):
    import jax

    plain()
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        again = run(config, tmp_path / "run")
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert metrics(again) == metrics(plain())
    assert weights(again) == weights(plain())


def test_a_merged_model_is_the_adapted_one(plain, config, tmp_path):
    """What the adapted run would say next of its data, the merged model says at its start."""
    subprocess.run(
        [sys.executable, "-m", "experiments.export", "--merge", "--workdir", plain(), "--out",
         tmp_path / "merged"], cwd=ROOT, env=environment(), check=True,
    )  # fmt: skip
    longer = run(config, tmp_path / "longer", steps=5)
    merged = run(config, tmp_path / "run", arg=f",base={tmp_path / 'merged'}")
    assert rows(merged)[0]["loss"] == pytest.approx(rows(longer)[4]["loss"], rel=2e-6)
