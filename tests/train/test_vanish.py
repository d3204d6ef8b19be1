import json
import warnings

import numpy as np
import pytest

from ftjax.train import loop
from ftjax.train.vanish import PATIENCE, Vanish


def seen(*norms, gradient=None):
    gradient = gradient or Vanish()
    for step, norm in enumerate(norms, 1):
        gradient.see(step, norm)
    return gradient


def test_a_gradient_that_is_gone_to_the_end_is_said():
    gradient = seen(3.0, 0.0, 0.0)
    with pytest.warns(RuntimeWarning, match=r"zero since step 2 \(its norm was up to 3\): nothing"):
        assert gradient.warn(3) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradient.warn(3) == 2  # once is enough


def test_it_is_said_while_the_run_goes_on():
    with pytest.warns(RuntimeWarning, match="since step 2"):
        seen(1.0, *[1e-9] * PATIENCE)


def test_a_step_without_a_gradient_now_and_then_is_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen(1.0, 0.0, 1.0, 0.0).warn(4) is None
        assert seen(1.0, 1e-5, 1e-6).warn(3) is None


def test_a_resumed_run_goes_on_counting():
    saved = json.loads(json.dumps(seen(2.0, 0.0).dump()))
    gradient = Vanish(saved)
    gradient.see(3, 0.0)
    with pytest.warns(RuntimeWarning, match="since step 2"):
        assert gradient.warn(3) == 2


def test_a_run_says_it_and_its_result_does():
    class State:
        step = 0

    norms = iter([1.0, 0.0, 0.0])
    step = lambda state, hyper, frozen, batch: (state, {"loss": 7.6, "grad_norm": next(norms)})
    batches = iter([{"tokens": np.zeros((2, 4), np.int32)}] * 3)
    with pytest.warns(RuntimeWarning, match="the gradient is zero since step 2"):
        result = loop.run(step, State(), None, batches, until=3)
    assert (result.stopped, result.vanished, result.tokens) == ("done", 2, 24)
