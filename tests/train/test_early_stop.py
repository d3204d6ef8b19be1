"""When a run stops by itself."""

import pytest

from ftjax.train.early_stop import EarlyStop


def seen(stop, *values):
    for value in values:
        stop.see({} if value is None else {stop.metric: value})
    return stop


def test_it_stops_after_so_many_evaluations_without_a_better_one():
    stop = seen(EarlyStop(metric="eval/a/nll", patience=2), 3.0, 2.0, 2.5)
    assert stop.reason == ""
    seen(stop, 2.0)  # as good is no better
    assert stop.reason == "eval/a/nll was no better than 2 in 2 evaluations"


def test_more_is_better_by_the_metric_s_name():
    stop = seen(EarlyStop(metric="eval/a/accuracy", patience=2), 0.1, 0.2, 0.3)
    assert stop.reason == ""
    assert seen(stop, 0.2, 0.1).reason


def test_a_better_one_begins_anew_and_rows_without_the_metric_say_nothing():
    stop = seen(EarlyStop(metric="eval/a/nll", patience=2), 3.0, 4.0, None, 2.0, 4.0, None)
    assert stop.reason == ""


def test_a_nan_is_no_better():
    assert seen(EarlyStop(metric="eval/a/nll", patience=1), 1.0, float("nan")).reason


def test_it_goes_on_from_what_it_saved():
    stop = seen(EarlyStop(metric="eval/a/nll", patience=2), 1.0, 2.0)
    again = EarlyStop(metric="eval/a/nll", patience=2)
    again.restore(stop.dump())
    assert seen(again, 3.0).reason


def test_a_metric_of_no_known_direction_is_refused():
    with pytest.raises(ValueError, match="got 'size'"):
        EarlyStop(metric="eval/a/size", patience=2)
