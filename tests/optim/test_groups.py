import pytest

from ftjax.optim import groups

NAMES = ["adapters/q/a", "adapters/q/b", "model/final_norm", "model/embed"]


def settings(**keywords):
    return groups.settings(dict.fromkeys(NAMES), weight_decay=0.1, **keywords)


def test_later_groups_override_and_no_decay_wins():
    got = settings(
        groups=[
            ("adapters/**", {"lr_scale": 2.0, "weight_decay": 0.5}),
            ("**/b", {"lr_scale": 16.0}),
        ],
        no_decay=["**/*norm", "**/a"],
    )
    assert got == {
        "adapters/q/a": (2.0, 0.0),
        "adapters/q/b": (16.0, 0.5),
        "model/final_norm": (1.0, 0.0),
        "model/embed": (1.0, 0.1),
    }


def test_a_mapping_is_read_in_order():
    assert settings(groups={"**": {"lr_scale": 2.0}})["model/embed"] == (2.0, 0.1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"groups": [("**/c", {"lr_scale": 2.0})]}, r"optim\.groups: .*\*\*/c"),
        ({"no_decay": ["**/nrom"]}, r"optim\.no_decay: .*nrom"),
        ({"groups": [("**/b", {"lr_scal": 2.0})]}, r"did you mean 'lr_scale'"),
        ({"groups": [("**/b", {"lr_scale": -1.0})]}, r"lr_scale: got -1\.0; expected .*0"),
        ({"groups": [("**/b", {"layers": "0"})]}, r"layers: got '0'"),
    ],
)
def test_rejects(keywords, message):
    with pytest.raises(ValueError, match=message):
        settings(**keywords)
