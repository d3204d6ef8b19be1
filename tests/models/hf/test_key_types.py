"""Keys of a config.json that hold something else: an error that names them, in every family."""

import copy

import pytest

from ftjax.models.families import llama
from ftjax.models.hf import checkpoint, key_types, model_types
from ftjax.models.hf import config as hf_config

WRONG = {  # name: (key, value, what is expected)
    "a size as text": ("hidden_size", "32", "expected int"),
    "a size that is no whole number": ("intermediate_size", 48.5, "expected int"),
    "a size in a list": ("num_attention_heads", [4], "expected int"),
    "no layers": ("num_hidden_layers", 0, "at least 1"),
    "more layers than there can be": ("num_hidden_layers", 2**31, "at most 10000"),
    "a switch as text": ("attention_bias", "false", "expected bool"),
    "a switch as a number": ("tie_word_embeddings", 1, "expected bool"),
    "a negative epsilon": ("rms_norm_eps", -1e-5, "above 0"),
    "no number": ("rope_theta", float("nan"), "above 0"),
    "infinity": ("initializer_range", float("inf"), "at least 0"),
    "a section as text": ("rope_scaling", "llama3", "expected a section"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_refused_by_name(case):
    key, value, expected = case
    with pytest.raises(ValueError, match=rf"config\.json of a 'llama' model: got {key}=") as error:
        llama.from_hf(llama.EXAMPLE | {key: value})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("number", "expected"), [("8", "float"), (0, "above 0"), (float("nan"), "above 0")]
)
def test_numbers_of_a_rotary_scaling_are_checked(number, expected):
    scaling = {"rope_type": "linear", "factor": number}
    with pytest.raises(ValueError, match=rf"got the rope key factor=.* expected .*{expected}"):
        llama.from_hf(llama.EXAMPLE | {"rope_scaling": scaling})


@pytest.mark.parametrize("name", model_types.families())
def test_every_number_of_a_family_is_known(name):
    example = model_types.family_of(name).EXAMPLE
    # Those of a wrapper are of the pictures.
    text = example.get("text_config", example)
    numbers = [key for key, value in text.items() if isinstance(value, int | float)]
    checked = {*key_types.TYPES, *hf_config.HARMLESS, "attention_dropout"}
    assert [key for key in numbers if key not in checked] == []
    family = model_types.family_of(name)
    for key in ("hidden_size", "n_embd", "num_hidden_layers", "n_layer"):
        if key in text:
            spoilt = copy.deepcopy(dict(example))
            spoilt.get("text_config", spoilt)[key] = {"value": text[key]}
            with pytest.raises(ValueError, match=f"got {key}="):
                family.from_hf(spoilt)


def test_a_dotted_type_that_begins_with_a_dot_is_refused():
    with pytest.raises(ValueError, match=r"got model_type='\.x', a dotted path that cannot be"):
        model_types.family_of(".x")


def test_json_that_cannot_be_read_is_named(tmp_path):
    for content in (b"\xff", b"{", b"1" * 5000, b"[" * 100_000):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json: not valid JSON") as error:
            checkpoint.config_of(tmp_path)
        assert "\n" not in str(error.value)
