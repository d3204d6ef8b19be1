"""What members may differ in, and what is refused by name."""

import pytest

from ftjax.run import hyper
from ftjax.run import member_settings as ms

FILE = """
from configs import common
from ftjax.run.member_settings import Listed, product


def get_config(arg=None):
    c = common.base()
    c.adapter = dict(name={method!r}, where="blocks/**", rank=4, **{more!r})
    c.objective = dict(name={objective!r})
    c.optim.learning_rate = 0.01
    c.steps = 3
    return c


def members():
    return {members}
"""


@pytest.fixture
def read(tmp_path):
    """Read the members of a config file that has these."""

    def of(members, *texts, method="lora", objective="dpo", more=(("alpha", 8.0),)):
        path = tmp_path / "config.py"
        own = dict(members=members, method=method, objective=objective, more=dict(more))
        path.write_text(FILE.format(**own))
        return ms.read(str(path), texts, ms.find(str(path)))

    return of


def test_a_product_is_every_combination():
    assert ms.product(lr=(1, 2), seed=range(2)) == [
        {"lr": 1, "seed": 0}, {"lr": 1, "seed": 1}, {"lr": 2, "seed": 0}, {"lr": 2, "seed": 1},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no values of lr"):
        ms.product(lr=(), seed=(1,))


def test_members_have_their_own_numbers_seeds_and_ranks(read):
    found = read("product(lr=(0.1, 0.2), rank=(2, 8), beta=(0.5,), seed=(3,))")
    assert list(found) == ["lr=0.1,rank=2", "lr=0.1,rank=8", "lr=0.2,rank=2", "lr=0.2,rank=8"]
    last = found["lr=0.2,rank=8"]
    assert (last.optim["learning_rate"], last.adapter["rank"]) == (0.2, 8)
    assert last.objective["beta"] == 0.5
    assert (last.seed.data, last.seed.adapter, last.seed.sampling, last.seed.init) == (3, 3, 3, 0)


def test_keys_of_the_command_line_are_for_all(read):
    found = read("product(lr=(0.1, 0.2))", "steps=7")
    assert {own.steps for own in found.values()} == {7}
    with pytest.raises(ValueError, match=r"--config.optim.learning_rate: got a value beside"):
        read("product(lr=(0.1, 0.2))", "optim.learning_rate=1.0")


def test_dotted_keys_and_names_that_any_file_system_has(read):
    found = read("product(**{'optim.clip_norm': (0.5, 1.0), 'adapter.rslora': (True,)})")
    assert list(found) == ["clip_norm=0.5", "clip_norm=1.0"]
    assert found["clip_norm=0.5"].adapter["rslora"] is True


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("product(batch_size=(8, 16))", r"batch_size: got 8, 16; .* one shape"),
        ("[dict(lr=0.1), dict(lr=0.1, steps=9)]", "steps: got 3, 9; .* begin and end together"),
        ("product(rnk=(1, 2))", r"rnk: unknown key; did you mean 'rank'"),
        ("product(**{'data.max_tokens': (32, 64)})", "data.max_tokens: .* one shape"),
        ("product(**{'optim.name': ('adamw', 'sgd')})", "optim.name: .* another state"),
        ("product(**{'optim.b1': (0.8, 0.9)})", r"optim.b1: .* part of the program"),
        ("product(**{'adapter.where': ('blocks/**', 'blocks/attn/*')})", "adapter.where: .* sites"),
        ("product(**{'adapter.dropout': (0.0, 0.1)})", "adapter.dropout: .* part of the program"),
        ("product(**{'model.remat': ('none', 'full')})", "model.remat: .* one base"),
        ("product(**{'seed.init': (0, 1)})", "seed.init: .* draws the base"),
        ("product(**{'objective.loss': ('sigmoid', 'ipo')})", r"objective.loss: got 'sigmoid', "),
        ("[dict(lr=0.1), dict(lr=0.1)]", "got two members"),
        ("dict(lr=0.1)", "expected a list of dicts"),
        ("[]", "expected a list of dicts"),
        ("Listed(product(lr=(1.0, 2.0)), how='pmap')", "how: got 'pmap'; expected one of"),
    ],
)
def test_what_cannot_differ_is_refused_by_name_with_what_to_do(read, members, message):
    with pytest.raises(ValueError, match=message) as error:
        read(members)
    if "expected one value" in str(error.value):
        assert "sweep()" in str(error.value)


def test_ranks_are_one_where_zeros_in_place_of_the_missing_would_be_seen(read):
    ranks = "product(rank=(2, 4))"
    with pytest.raises(ValueError, match=r"adapter.rank: .* optim.name = adafactor"):
        read(ranks, "optim.name=adafactor")
    with pytest.raises(ValueError, match=r"adapter.rank: .* optim.ranks"):
        read(ranks, "optim.ranks={'target_rank': 1}", method="adalora")
    with pytest.raises(ValueError, match=r"adapter.rank: .* penalties"):
        read(ranks, "penalties={'near': {'name': 'l2sp', 'weight': 0.1}}")
    with pytest.raises(ValueError, match=r"adapter.rank: .* optim.state_dtype = int8"):
        read(ranks, "optim.state_dtype=int8")
    assert len(read(ranks)) == 2


def test_what_is_no_adapter_run_is_refused(read):
    with pytest.raises(ValueError, match=r"adapter.name: got ''"):
        read("product(lr=(0.1, 0.2))", "adapter={'name': '', 'where': 'blocks/**'}")
    with pytest.raises(ValueError, match=r"compile: got 'pmap'"):
        read("product(lr=(0.1, 0.2))", "compile=pmap")
    with pytest.raises(ValueError, match=r"data.name: got 'self', rows that a run samples"):
        read("product(lr=(0.1, 0.2))", "data={'name': 'self', 'rows': 4, 'max_tokens': 32}")


def test_numbers_lie_side_by_side_and_none_is_the_one_that_does_nothing(read):
    found = read("product(decay=(0.0, 0.1), **{'optim.clip_norm': (None, 2.0)})")
    numbers = hyper.stack([hyper.of(own) for own in found.values()])
    assert numbers["optim"]["weight_decay"].tolist() == pytest.approx([0, 0, 0.1, 0.1])
    assert numbers["optim"]["clip_norm"].tolist() == [float("inf"), 2, float("inf"), 2]
    with pytest.raises(ValueError, match="ema_decay"):
        read("product(ema_decay=(None, 0.9))")
