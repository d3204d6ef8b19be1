"""Errors that are messages to the user, and those that are faults of ours.

What our own code raises as one of MESSAGES says in one line what is wrong and how to mend it; the
same type out of a library is a fault, and its traceback is shown.
"""

import traceback

OURS = ("ftjax", "experiments", "configs", "_config", "__main__")
MESSAGES = (ValueError, RuntimeError, FloatingPointError)


def is_message(error: Exception) -> bool:
    """Return whether our own code raised it: then its text says all there is to say."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].split(".")[0] in OURS
