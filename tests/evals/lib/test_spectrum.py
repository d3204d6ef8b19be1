import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.evals.lib import spectrum

RNG = np.random.default_rng(0)


def orthogonal(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def matrix(values, shape=(20, 12)):
    """Make a matrix of these singular values and random vectors."""
    u, v = orthogonal(shape[0], 1), orthogonal(shape[1], 2)
    k = len(values)
    return (u[:, :k] * np.asarray(values)) @ v[:k]


def test_a_planted_change_of_rank_three():
    w0, change = RNG.normal(size=(20, 12)), matrix([2.0, 2.0, 2.0])
    found = (w0 + change) - w0
    assert spectrum.change_rank(found) == 3
    assert spectrum.effective_rank(found) == pytest.approx(3)
    assert spectrum.relative_norm(w0, w0 + change) == pytest.approx(
        math.sqrt(12) / np.sqrt(np.square(w0).sum())
    )


def test_the_rank_at_an_energy():
    change = matrix([3.0, 1.0, 0.1])  # squares 9, 1, 0.01
    ranks = [spectrum.change_rank(change, energy=e) for e in (0.8, 0.9, 0.95, 0.9995, 1.0)]
    assert ranks == [1, 2, 2, 3, 3]
    assert spectrum.change_rank(matrix([1.0, 1.0]), energy=0.5) == 1
    assert spectrum.change_rank(np.zeros((4, 3))) == 0
    with pytest.raises(ValueError, match="energy: got 90"):
        spectrum.change_rank(change, energy=90)


def test_the_effective_rank_by_hand():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert spectrum.effective_rank(matrix([3.0, 1.0])) == pytest.approx(math.exp(entropy))
    assert spectrum.effective_rank(np.zeros((4, 3))) == 0


def test_the_response_is_of_the_inputs():
    w0, change = np.eye(3), np.diag([2.0, 0.0, 0.0])
    assert spectrum.response(w0, w0 + change, [[1, 0, 0]]) == 4
    assert spectrum.response(w0, w0 + change, [[0, 1, 0]]) == 0
    assert spectrum.response(w0, w0 + change, [[1, 1, 0], [0, 0, 2]]) == pytest.approx(4 / 6)


@pytest.mark.parametrize(("side", "wanted"), [("output", [0]), ("input", [])])
def test_a_planted_intruder_and_its_side(side, wanted):
    # W0 = diag; the change takes an input direction that W0 has to an output that it has not:
    # the sum of many, each too small to be near.
    n = 64
    w0 = np.diag(np.linspace(2, 1, n))
    spread = np.ones(n) / math.sqrt(n)
    axis = np.eye(n)[0]
    w = w0 + 10 * np.outer(axis, spread)
    found = spectrum.intruders(w0, w, side=side, top=1, threshold=0.7)
    assert found.ranks == wanted
    assert spectrum.intruders(w0, w0, side=side, threshold=0.9).ranks == []


def test_the_planted_intruder_of_a_wide_weight():
    # W0 reaches 32 of 64 outputs, so that one of the others is at right angles to all.
    w0 = np.eye(32, 64) * np.linspace(2, 1, 32)[:, None]
    w = w0.copy()
    w[5, 40] = 30.0
    found = spectrum.intruders(w0, w, top=10, threshold=0.7)
    assert found.ranks == [0]
    assert found.similarity[0] == pytest.approx(w0[5, 5] / np.hypot(30, w0[5, 5]), rel=1e-6)
    np.testing.assert_allclose(found.similarity[1:], 1)
    assert found.null == spectrum.null_level(64, 32)


def test_reduced_intruders():
    w0 = np.eye(32, 64) * np.linspace(2, 1, 32)[:, None]
    w = w0.copy()
    w[5, 40] = 30.0
    options = dict(top=10, threshold=0.7)
    np.testing.assert_allclose(spectrum.reduce_intruders(w0, w, strength=1.0, **options), w)
    half = spectrum.reduce_intruders(w0, w, strength=0.5, **options)
    wanted = w.copy()
    wanted[5] /= 2  # the triplet is this row, alone
    np.testing.assert_allclose(half, wanted, atol=1e-12)


def test_the_null_level_in_closed_form():
    # In the plane the nearer of two axes is within 45 degrees, uniformly.
    wanted = math.cos(0.05 * math.pi / 4)
    assert spectrum.null_level(2, 2, draws=20_000) == pytest.approx(wanted, abs=1e-3)
    # Of one axis in three dimensions, the cosine itself is uniform.
    assert spectrum.null_level(3, 1, draws=20_000) == pytest.approx(0.95, abs=5e-3)
    assert spectrum.null_level(64, 64) > spectrum.null_level(64, 8) > spectrum.null_level(512, 8)


def test_a_threshold_that_chance_reaches_is_refused():
    w = RNG.normal(size=(64, 64))
    with pytest.raises(
        ValueError, match=r"threshold: got 0.5, .* expected at least 0\.[56]\d+ for 64"
    ):
        spectrum.intruders(w, w)
    with pytest.raises(ValueError, match="side: got 'left'"):
        spectrum.intruders(w, w, side="left")


def test_procrustes_and_cka_know_rotations():
    x = RNG.normal(size=(50, 6)) + 3
    turned = x @ orthogonal(6) + 7
    assert spectrum.procrustes(x, turned) == pytest.approx(0, abs=1e-12)
    assert spectrum.cka(x, turned) == pytest.approx(1)
    centred = x - x.mean(0)
    assert spectrum.procrustes(x, 3 * x) == pytest.approx(4)  # |3X - X|^2 / |X|^2
    assert spectrum.cka(x, 3 * x) == pytest.approx(1)
    assert spectrum.procrustes(x, 0 * x) == pytest.approx(1)
    half = np.where(np.arange(6) < 3, centred, 0)
    assert 0.3 < spectrum.cka(x, half) < 1


def test_cka_of_what_has_nothing_in_common():
    x = np.array([[1.0], [-1], [1], [-1]])
    y = np.array([[1.0], [1], [-1], [-1]])
    assert spectrum.cka(x, y) == pytest.approx(0, abs=1e-12)
    # Two features against one of them: 1 / sqrt 2.
    assert spectrum.cka(np.hstack([x, y]), x) == pytest.approx(1 / math.sqrt(2))


@dataclasses.dataclass(frozen=True)
class Site:
    equation: str
    layers: tuple[int, ...] | None


def test_layers_are_matrices_in_out():
    linears = {
        "q": Site("BTD,DNH->BTNH", (0, 1)), "o": Site("BTNH,NHD->BTD", (0, 1)),
        "up": Site("EBD,EDF->EBF", (0,)), "head": Site("BTD,VD->BTV", None),
    }  # fmt: skip
    shapes = {"q": (2, 3, 2, 4), "o": (2, 2, 4, 3), "up": (1, 5, 3, 6), "head": (7, 3)}
    before = {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}
    after = {name: 2 * w for name, w in before.items()} | {"norm": jnp.ones(3)}
    found = list(spectrum.layers(before | {"norm": jnp.ones(3)}, after, linears))
    sizes = {(each.path, each.before.shape) for each in found}
    assert sizes == {("q", (3, 8)), ("o", (8, 3)), ("up", (3, 6)), ("head", (3, 7))}
    assert [each.index for each in found] == [0, 1, 0, 1, 0, 1, 2, 3, 4, 0]
    np.testing.assert_array_equal(found[-1].before, before["head"].T)
    np.testing.assert_array_equal(found[1].before, before["q"][1].reshape(3, 8))
    assert all(spectrum.relative_norm(each.before, each.after) == 1 for each in found)
