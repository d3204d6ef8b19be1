"""When a run saves, and what it says where its log has lost rows."""

import pathlib

import pytest

from ftjax.train import loop
from ftjax.train.checkpoint import Checkpoints
from tests.train.test_loop import FROZEN, Batches, fresh, rows_of, toy_step, train


def crash():
    raise OSError("the data went away")


def cut_log(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))


@pytest.mark.parametrize(("lose", "kept"), [(pathlib.Path.unlink, 0), (cut_log, 3)])
def test_rows_that_the_log_has_lost_are_said(tmp_path, lose, kept):
    with pytest.raises(OSError, match="went away"):
        train(toy_step, tmp_path, batches=Batches(at={11: crash}))
    lose(tmp_path / "metrics.jsonl")
    with pytest.warns(RuntimeWarning, match=rf"got {kept} rows up to step 8; expected 4; .*lack"):
        result = train(toy_step, tmp_path)
    # Of steps 0, 3, 5 and 6 before the checkpoint, and 9, 10 and 12 behind it.
    assert (result.rows, len(rows_of(tmp_path))) == (7, kept + 3)


class Steps(Checkpoints):
    """Checkpoints that remember what was saved, with which metric."""

    def save(self, step, state, **kw):
        self.saved = [*getattr(self, "saved", []), (step, (kw["metrics"] or {}).get(self.best))]
        super().save(step, state, **kw)


@pytest.mark.parametrize(
    ("best", "steps"), [("eval/w", [3, 4, 6, 8]), ("loss", [4, 8]), (None, [4, 8])]
)
def test_it_saves_where_the_metric_to_choose_by_is_evaluated(tmp_path, best, steps):
    evaluate = lambda now: {"eval/w": float(now.step)}
    with Steps(tmp_path, keep=9, best=best) as checkpoints:
        loop.run(
            toy_step, fresh(), FROZEN, Batches(), until=8, log_every_steps=1, save_every_steps=4,
            every=[loop.Hook(3, evaluate)], checkpoints=checkpoints,
        )  # fmt: skip
        assert checkpoints.steps() == steps
    if best == "eval/w":
        assert checkpoints.saved == [(3, 3.0), (4, None), (6, 6.0), (8, 8.0)]
