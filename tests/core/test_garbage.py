"""A run that starts is not looked through for cycles; one that steps is, however it ends."""

import gc

import pytest

from ftjax.core import garbage
from ftjax.run import session

USUAL = gc.get_threshold()


def test_it_is_put_off_until_the_end_or_before():
    with garbage.put_off():
        assert gc.get_threshold() == (garbage.NEW, *USUAL[1:])
        garbage.as_usual()
        assert gc.get_threshold() == USUAL
    with pytest.raises(KeyError), garbage.put_off():
        raise KeyError
    assert gc.get_threshold() == USUAL


def test_a_run_steps_as_usual(lab, tmp_path, monkeypatch):
    seen, evaluate = [], session.evaluations

    def watched(*given):
        hook = evaluate(*given)
        note = lambda now: seen.append((now.step, gc.get_threshold()[0])) or hook.call(now)
        return hook._replace(call=note)

    monkeypatch.setattr(session, "evaluations", watched)
    lab.run("run", tmp_path, steps=2, eval_every_steps=1)
    assert seen == [(0, garbage.NEW), (1, USUAL[0]), (2, USUAL[0])]
    assert gc.get_threshold() == USUAL
