import jax
import pytest

from ftjax.models.families import llama
from ftjax.ops import rope
from ftjax.train import flops

SEQUENCE = 16
CONFIG = llama.Config(
    vocab_size=64, dim=8, layers=2, heads=2, kv_heads=2, head_dim=4, ffw=16, norm_eps=1e-5,
    rope=rope.Rope(1e4), tied=True, qkv_bias=False, o_bias=False,
    mlp_bias=False, qk_norm=False, window=None, max_positions=64,
    init_scale=0.3,
)  # fmt: skip
MATMULS = 2 * (4 * 8 * 8 + 3 * 8 * 16) + 64 * 8
SCORES = 4 * 2 * SEQUENCE * 8  # forward: queries with keys, weights with values


def test_both_conventions_of_attention():
    model = llama.make(CONFIG)
    cost = flops.per_token(model, {"model": model.abstract}, sequence=SEQUENCE)
    assert cost == flops.Cost(6 * MATMULS + 3 * SCORES, 6 * MATMULS + 1.5 * SCORES)


def test_adapters_alone_need_no_gradient_of_weights():
    model = llama.make(CONFIG)
    a = jax.ShapeDtypeStruct((2, 8, 3), "float32")
    own = {"model": None, "adapters": {"blocks": {"attn": {"q": {"a": a}}}}}
    cost = flops.per_token(model, own, sequence=SEQUENCE)
    assert cost.full == 4 * MATMULS + 6 * 2 * 8 * 3 + 3 * SCORES


def test_a_forward_pass_is_a_third_of_a_step():
    model = llama.make(CONFIG)
    whole = flops.per_token(model, {"model": model.abstract}, sequence=SEQUENCE)
    assert flops.forward(model, sequence=SEQUENCE).times(3) == pytest.approx(whole)
    assert whole + flops.forward(model, sequence=SEQUENCE) == pytest.approx(whole.times(4 / 3))
