"""The small base, its data and its finished run are those of the tests of commands."""

from tests.experiments.conftest import lab, trained, use_devices

__all__ = ["lab", "trained", "use_devices"]
