"""The small base and its data are those of the tests of commands."""

from tests.experiments.conftest import lab

__all__ = ["lab"]
