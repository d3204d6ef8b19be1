"""Figures of a sweep: a line for each job, the best on top, and a panel for each key."""

import re

import numpy as np
import pytest

from ftjax.launch.lib import effects
from ftjax.report import curves, sweep_figures

JOBS = [dict(lr=lr, rank=rank) for lr in (1e-3, 1e-2) for rank in (4, 8, 16)]
VALUES = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def draw(direction=-1, jobs=JOBS):
    axes = effects.axes_of(jobs)
    shares = [effects.share(own, VALUES) for own in axes]
    return sweep_figures.draw(axes, VALUES, metric="eval/a/nll", direction=direction, shares=shares)


def test_captions_say_what_a_key_explains_the_most_first():
    # By the formula: 1 - (4 / 4) / (17.5 / 5), and less than nothing of the ranks.
    first, *keys = draw()
    assert first == "every job by its keys, eval/a/nll the best at the top"
    assert keys == [
        "eval/a/nll over lr: 71% of its variance", "eval/a/nll over rank: 0% of its variance",
    ]  # fmt: skip


def test_a_third_of_the_jobs_has_colour_and_the_best_its_own():
    text = next(iter(draw().values()))
    count = lambda color: len(re.findall(re.escape(f"stroke: {curves.COLORS[color]}"), text))
    assert count(curves.SERIES[1]) == 1
    assert count(curves.SERIES[0]) == 1  # the second of six
    assert count(curves.SOFT) == 4


@pytest.mark.parametrize("direction", [-1, 1])
def test_the_best_is_on_top(direction):
    heights = sweep_figures._up(np.array(VALUES), np.array(VALUES), direction)
    best = np.argmax(direction * np.array(VALUES))
    assert heights[best] == 1.0
    assert sorted(heights) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_of_many_keys_those_that_explain_most_are_drawn():
    many = [job | {f"k{n}": n >> i & 1 for n in range(1, 9)} for i, job in enumerate(JOBS)]
    found = draw(jobs=many)
    assert len(found) == 1 + sweep_figures.MOST
    assert "over lr" in list(found)[1]
