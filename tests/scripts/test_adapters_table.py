"""The table of adapters: which run counts, and where the text goes."""

import pytest

from configs import adapters_medical
from ftjax.adapters.multi import catalogue as methods
from scripts import adapters_table, bench_adapters


def outcome(method, rate, *, choice, new, old):
    before = dict(choice=5.0, new=5.0, old=3.0)
    after = dict(choice=choice, new=new, old=old)
    return dict(
        method=method, rate=rate, trainable=1234, seconds=0.05, bytes=2**20, before=before,
        after=after,
    )  # fmt: skip


OUTCOMES = [
    outcome("lora", "0.001", choice=3.0, new=2.9, old=3.2),
    outcome("lora", "0.01", choice=2.9, new=3.1, old=3.5),
    outcome("ia3", "0.01", choice=2.5, new=2.4, old=3.1),
]


def test_the_rate_is_chosen_on_data_of_its_own():
    rates = {own["method"]: own["rate"] for own in adapters_table.best(OUTCOMES)}
    assert rates == {"lora": "0.01", "ia3": "0.01"}


def test_rows_go_from_the_least_loss_on():
    rows = adapters_table.table(OUTCOMES).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == ["base", "ia3", "lora"]
    assert "3.500 (+0.500)" in rows[-1]
    assert len({row.count("|") for row in rows}) == 1


def test_every_method_is_swept_over_its_rates():
    labels = adapters_table.variants("steps=3", "")
    found = {adapters_table.method_of(label) for label in labels}
    assert found == {*methods.names(), *adapters_medical.STARTS, *adapters_medical.BASE}
    assert all(text.startswith("steps=3,method=") for text in labels.values())
    only = adapters_table.variants("", "full")
    assert list(only) == [f"full-{rate:g}" for rate in adapters_medical.rates("full")]
    with pytest.raises(ValueError, match=r"got \['lorra'\]; expected some of lora"):
        adapters_table.variants("", "lorra")


def test_settings_grow_with_the_rank():
    assert methods.example("lora", rank=16) == dict(rank=16, alpha=32.0)
    assert methods.example("oft", rank=16)["block"] == 16
    assert all(methods.modules()[n].make(**methods.example(n, rank=8)) for n in methods.names())


def test_measurements_are_multiples_of_lora_and_full():
    row = dict(trainable=10, flops=2.0, seconds=0.5, bytes=100)
    full = dict(trainable=99, flops=4.0, seconds=1.0, bytes=400)
    lines = bench_adapters.table({"lora": row, "full": full}).splitlines()
    assert lines[2].split() == [
        "full",
        "99",
        "4",
        "2.00",
        "1.00",
        "1",
        "2.00",
        "1.00",
        "400",
        "4.00",
        "1.00",
    ]
