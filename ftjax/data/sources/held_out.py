"""What training holds back of its own data (`data.hold_out`), for the data of an evaluation."""

from ftjax.data.rows import Rows


def make() -> Rows:
    """Refuse: an evaluation of a run has taken the data section of its training in place of this.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        "data.name: got 'held_out', which stands for what a run's training holds back; expected it "
        "in evals.LABEL.data alone, of evaluators that take examples; name the file here"
    )
