"""Letters of linear maps."""

import numpy as np
import pytest

from ftjax.core import einsum


@pytest.mark.parametrize(
    ("equation", "shared", "contracted", "kept", "a", "b"),
    [
        ("BTD,DNH->BTNH", "", "D", "NH", "DR", "RNH"),
        ("BTNH,NHD->BTD", "", "NH", "D", "NHR", "RD"),
        ("BTD,VD->BTV", "", "D", "V", "DR", "RV"),
        ("EBD,EDF->EBF", "E", "D", "F", "EDR", "REF"),
    ],
)
def test_parts_and_low_rank_factors(equation, shared, contracted, kept, a, b):
    e, low = einsum.parse(equation), einsum.lora(equation)
    assert (e.shared, e.contracted, e.kept, low.a, low.b) == (shared, contracted, kept, a, b)
    sizes = {c: i + 2 for i, c in enumerate("BTDNHVEFR")}
    draw = np.random.default_rng(0).normal
    x, a, b = (draw(size=[sizes[c] for c in letters]) for letters in (e.x, a, b))
    through_weight = np.einsum(equation, x, np.einsum(low.weight, a, b))
    np.testing.assert_allclose(np.einsum(low.up, np.einsum(low.down, x, a), b), through_weight)


@pytest.mark.parametrize(
    "equation",
    ["BTD->BTD", "BTD,DF", "btd,df->btf", "BTD,DD->BT", "BTD,DF->BTX", "BT D,DF->BTF", ""],
)
def test_what_is_not_a_linear_map(equation):
    with pytest.raises(ValueError, match="expected 'x,w->y'"):
        einsum.parse(equation)


def test_sizes_by_letter():
    sizes = einsum.sizes("DNH", (8, 2, 4))
    assert sizes == dict(D=8, N=2, H=4)
    assert einsum.size("NH", sizes) == 8
    with pytest.raises(ValueError, match="expected as many"):
        einsum.sizes("DN", (1, 2, 3))
