"""Keys by step and purpose."""

import subprocess
import sys

import jax
import numpy as np

from ftjax.core import rng

KEY = jax.random.key(3)


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_differ_by_purpose_step_and_seed():
    keys = {
        bits(rng.stream(jax.random.key(seed), step, purpose))
        for seed in (0, 1) for step in (0, 1, 2) for purpose in ("dropout", "sample")
    }  # fmt: skip
    assert len(keys) == 12


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: rng.stream(KEY, step, "dropout"))(5)
    assert bits(traced) == bits(rng.stream(KEY, 5, "dropout"))


def test_names_are_stable_across_processes():
    code = (
        "import jax; from ftjax.core import rng;"
        "print(jax.random.key_data(rng.named(jax.random.key(3), 'blocks/attn/q')).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(list(bits(rng.named(KEY, "blocks/attn/q"))))
