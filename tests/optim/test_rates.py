import pytest

from ftjax.optim import rates


@pytest.mark.parametrize(
    ("parameters", "lora", "full", "dpo"),
    [(1_676_970, 3e-3, 3e-4, 1e-3), (1_100_000_000, 2e-4, 2e-5, 5e-6), (70e9, 1e-4, 1e-5, 5e-6)],
)
def test_rates_fall_with_the_size(parameters, lora, full, dpo):
    assert rates.usual(parameters, full=False) == lora
    assert rates.usual(parameters, full=True) == full
    assert rates.usual(parameters, full=False, preference=True) == dpo


def test_full_fine_tuning_takes_a_tenth_of_the_rate():
    for _, each in rates.TABLE:
        assert each.full == pytest.approx(each.lora / 10)
    falling = [each for _, each in rates.TABLE]
    assert falling == sorted(falling, reverse=True)


def test_a_rate_far_above_is_noted():
    assert "usually take about 0.0002" in rates.note(3e-3, 8_000_000_000, full=False)
    assert rates.note(1e-3, 8_000_000_000, full=False) == ""
    assert rates.note(1.0, 1_676_970, full=False) == ""
