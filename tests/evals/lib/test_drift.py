import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.evals.lib import drift

KEYS = jax.random.split(jax.random.key(0), 4)


def measured(p0, p):
    found = drift.measures(jnp.log(jnp.asarray(p0)), jnp.log(jnp.asarray(p)))
    return dict(zip(drift.NAMES, np.asarray(found).tolist(), strict=True))


def test_two_tokens_by_hand_in_both_directions():
    found = measured([0.5, 0.5], [0.9, 0.1])
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    middle = lambda p: sum(x * math.log(x / m) for x, m in zip(p, [0.7, 0.3], strict=True))
    wanted = dict(
        kl_forward=forward, kl_reverse=reverse, ce_to_base=math.log(2) + forward, tv=0.4,
        js=(middle([0.5, 0.5]) + middle([0.9, 0.1])) / 2, top1_agreement=1.0,
    )  # fmt: skip
    assert found == pytest.approx(wanted, abs=1e-6)
    assert forward - reverse > 0.1
    back = measured([0.9, 0.1], [0.5, 0.5])
    assert back["kl_forward"] == pytest.approx(reverse, abs=1e-6)
    assert back["ce_to_base"] == pytest.approx(math.log(2), abs=1e-6)  # -sum p0 ln 1/2


def test_the_ends():
    same = measured([0.2, 0.3, 0.5], [0.2, 0.3, 0.5])
    assert [same[name] for name in ("kl_forward", "kl_reverse", "tv")] == [0, 0, 0]
    assert same["js"] == pytest.approx(0, abs=1e-6)
    far = measured([1 - 1e-6, 1e-6], [1e-6, 1 - 1e-6])
    assert far["tv"] == pytest.approx(1, abs=1e-5)
    assert far["js"] == pytest.approx(math.log(2), abs=1e-4)
    assert far["top1_agreement"] == 0


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunks_are_the_whole(chunk):
    x, y = (jax.random.normal(key, (2, 7, 5)) for key in KEYS[:2])
    v, w = (jax.random.normal(key, (11, 5)) for key in KEYS[2:])
    found = drift.along((x, v, None), (y, w, 4.0), chunk=chunk)
    capped = 4 * jnp.tanh(y @ w.T / 4)
    assert found.shape == (2, 7, 6)
    np.testing.assert_allclose(found, drift.measures(x @ v.T, capped), rtol=2e-4, atol=1e-5)
