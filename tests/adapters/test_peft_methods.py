"""What PEFT's files of single methods cannot say, or say in several ways."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.adapters import adalora, boft, fourierft, ia3, lokr, lora, oft, vera
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.models.base import Linear

LINEARS = {
    "blocks/attn/q": Linear("BTD,DNH->BTNH", (8, 2, 3), (0, 1)),
    "blocks/mlp/down": Linear("BTF,FD->BTD", (12, 8), (0, 1)),
}
NAMES = {
    "blocks/attn/q": "model.layers.{L}.self_attn.q_proj.weight",
    "blocks/mlp/down": "model.layers.{L}.mlp.down_proj.weight",
}
GIVEN = dict(linears=LINEARS, names=NAMES)


def adapters(method, *, paths=tuple(LINEARS)):
    """Initialise adapters, and move what trains."""
    weights = {}
    for path in paths:
        linear = LINEARS[path]
        protocol.insert(weights, path, np.ones((linear.stack, *linear.shape), np.float32))
    found = protocol.init(method, jax.random.key(0), LINEARS, weights, where=list(paths))
    move = lambda x: x + np.linspace(0.1, 1, x.size, dtype=np.float32).reshape(x.shape)
    result = {}
    for path, adapter in protocol.sites(found).items():
        data = {name: vars(adapter)[name] for name in adapter.FROZEN}
        moved = jax.tree.map(move, adapter)
        protocol.insert(result, path, type(adapter)(**(vars(moved) | data)))
    return result


def save(where, found, **hyper):
    peft.save(where, found, base_model="org/base", hyper=hyper, **GIVEN)
    return json.loads((where / peft.CONFIG).read_text())


def change(where, **fields):
    path = where / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_ia3_names_the_modules_that_scale_their_input(tmp_path):
    config = save(tmp_path / "out", adapters(ia3.make()))
    assert config["feedforward_modules"] == ["down_proj"]
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert not {"layers_pattern", "layers_to_transform"} & config.keys()
    shapes = {
        k.split(".")[6]: v.shape for k, v in load_file(tmp_path / "out" / peft.WEIGHTS).items()
    }
    assert shapes == {"q_proj": (6, 1), "down_proj": (1, 12)}


def test_a_layer_whose_gain_is_one_is_not_adapted(tmp_path):
    found = adapters(ia3.make())
    q = found["blocks"]["attn"]["q"]
    found["blocks"]["attn"]["q"] = ia3.IA3(q.gain.at[0].set(1.0), q.inward)
    save(tmp_path / "out", found)
    assert len(load_file(tmp_path / "out" / peft.WEIGHTS)) == 3
    jax.tree.map(np.testing.assert_array_equal, peft.load(tmp_path / "out", **GIVEN), found)


def test_blocks_may_be_given_by_number(tmp_path):
    found = adapters(oft.make(block=4), paths=["blocks/attn/q"])
    assert save(tmp_path / "out", found)["oft_block_size"] == 4
    change(tmp_path / "out", oft_block_size=0, r=2)
    jax.tree.map(np.testing.assert_array_equal, peft.load(tmp_path / "out", **GIVEN), found)


def test_the_series_is_the_config_s(tmp_path):
    found = adapters(oft.make(block=4))
    assert save(tmp_path / "out", found, block=4)["use_cayley_neumann"] is False
    change(tmp_path / "out", use_cayley_neumann=True)
    series = peft.load(tmp_path / "out", **GIVEN)
    assert {x.terms for x in protocol.sites(series).values()} == {oft.TERMS}


def test_one_size_of_blocks_for_all(tmp_path):
    found = adapters(boft.make(block=8))  # 12 inputs take blocks of 6
    with pytest.raises(ValueError, match=r"blocks of \[6, 8\]; expected one size"):
        save(tmp_path / "out", found)


def test_one_pair_of_projections_for_all(tmp_path):
    found = adapters(vera.make(rank=2))
    found["blocks"]["mlp"] = adapters(vera.make(rank=2, seed=1))["blocks"]["mlp"]
    with pytest.raises(ValueError, match="projections that differ"):
        save(tmp_path / "out", found)


def test_a_rank_that_no_matrix_shows(tmp_path):
    found = adapters(lokr.make(rank=8, alpha=8.0))
    with pytest.raises(ValueError, match="LoKr: got no rank"):
        save(tmp_path / "out", found)
    assert save(tmp_path / "out", found, rank=8, alpha=8.0)["alpha"] == 8


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        (fourierft.make(frequencies=5, scale=2.0), "ifft2_norm", "ortho"),
        (oft.make(block=4), "coft", True),
        (boft.make(block=4), "boft_block_num", 2),
    ],
)
def test_a_setting_that_is_not_supported_is_named(method, field, value, tmp_path):
    save(tmp_path / "out", adapters(method))
    peft.load(tmp_path / "out", **GIVEN)
    change(tmp_path / "out", **{field: value})
    with pytest.raises(ValueError, match=f"not supported: .*{field}={value!r}"):
        peft.load(tmp_path / "out", **GIVEN)


def test_layers_with_other_numbers_of_frequencies_are_refused(tmp_path):
    save(tmp_path / "out", adapters(fourierft.make(frequencies=5, scale=2.0)))
    path = tmp_path / "out" / peft.WEIGHTS
    tensors = load_file(path)
    key = "base_model.model.model.layers.1.self_attn.q_proj.fourierft_spectrum"
    change(tmp_path / "out", n_frequency_pattern={r"model.layers.1.self_attn.q_proj": 3})
    save_file(tensors | {key: np.ascontiguousarray(tensors[key][:3])}, path)
    with pytest.raises(ValueError, match=r"FOURIERFT: got layers of one map that differ"):
        peft.load(tmp_path / "out", **GIVEN)


def factors(size, factor):
    """Walk through the divisors in rising order while their sum falls, as PEFT does."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    pair = (1, size)
    for small in (n for n in range(2, size + 1) if size % n == 0):
        if pair[0] >= pair[1] or small > most or small + size // small > sum(pair):
            break
        pair = (small, size // small)
    return min(pair), max(pair)


def test_lokr_splits_every_size_as_peft_does():
    for size in range(1, 200):
        for factor in (-1, *range(1, 40), size, 2 * size):
            own = lokr.split(size, factor)
            if factor > 0 and size % factor == 0:
                assert own == (factor, size // factor)
            assert own == factors(size, factor), (size, factor)
            assert own[0] * own[1] == size


def test_lokr_with_a_factor_above_the_root_of_the_size(tmp_path):
    found = adapters(lokr.make(rank=2, alpha=2.0, factor=4), paths=["blocks/mlp/down"])
    save(tmp_path / "out", found, rank=2, alpha=2.0, factor=4)
    tensors = load_file(tmp_path / "out" / peft.WEIGHTS)
    shapes = {name.rsplit(".", 1)[-1]: x.shape for name, x in tensors.items()}
    assert shapes["lokr_w1"] == (4, 4)  # of 8 = 4 x 2 outputs and 12 = 4 x 3 inputs
    jax.tree.map(np.testing.assert_array_equal, peft.load(tmp_path / "out", **GIVEN), found)


@pytest.mark.parametrize("budget", [None, dict(tinit=3, tfinal=2)])
def test_adalora_has_the_steps_without_which_peft_opens_no_file(budget, tmp_path):
    hyper = {} if budget is None else dict(budget=budget)
    config = save(tmp_path / "out", adapters(adalora.make(rank=2, alpha=2.0)), **hyper)
    assert config["total_step"] > config["tinit"] + config["tfinal"]


# With a head of its own: an adapter on an embedding that is the head too has no file in PEFT.
EMBED = {
    "embed": Linear("BTV,VD->BTD", (9, 8), None),
    "head": Linear("BTD,VD->BTV", (9, 8), None),
}
EMBED_NAMES = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight"}


def embedding(tmp_path, copy):
    """Save a LoRA of an embedding as PEFT does, with a copy of the weight beside it."""
    w = np.arange(72, dtype=np.float32).reshape(9, 8)
    found = protocol.init(
        lora.make(rank=2, alpha=2.0), jax.random.key(0), EMBED, {"embed": w, "head": w},
        where=["embed"],
    )  # fmt: skip
    own = dict(linears=EMBED, names=EMBED_NAMES)
    peft.save(tmp_path / "out", found, base_model=None, **own)
    path = tmp_path / "out" / peft.WEIGHTS
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file(load_file(path) | {key: copy(w)}, path)
    return peft.load(tmp_path / "out", weights={"embed": w, "head": w}, **own), found


def test_a_copy_of_the_embedding_beside_its_adapter(tmp_path):
    jax.tree.map(np.testing.assert_array_equal, *embedding(tmp_path, lambda w: w))


def test_a_copy_of_another_embedding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"base_layer\.weight, which differs"):
        embedding(tmp_path, lambda w: w + 1)
