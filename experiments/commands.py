"""The frame of every command: what a user can mend ends in one line, our faults in a traceback.

    if __name__ == "__main__":
        commands.run(main)

Exit codes: 0 done, or stopped by SIGTERM with a checkpoint; 1 anything unforeseen; 2 what was asked
for cannot be done, and the last line says why.
"""

import os
import sys
import traceback
from typing import NoReturn

from absl import app, flags, logging

from ftjax.core import conf

OURS = ("ftjax", "experiments", "configs", "_config", "__main__")
MESSAGES = (ValueError, RuntimeError, FloatingPointError)


def run(main) -> None:
    """Parse the flags, run `main(argv)` and leave the process."""
    # With its own frames cut out, as by default, what jax raises seems to come from our last line.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")

    def quietly(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries tell of all they do at the level of info
        try:
            main(argv)
        except app.UsageError as error:  # absl would print the whole help
            _leave(str(error))

    try:
        app.run(quietly, flags_parser=_parse)
    except MESSAGES as error:
        if not is_message(error):
            raise
        _leave(str(error))


def is_message(error: Exception) -> bool:
    """Return whether our own code raised it: then its text says all there is to say."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].split(".")[0] in OURS


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(conf.split_keys(argv) if conf.KEYS in flags.FLAGS else argv)
    except flags.Error as error:
        _leave(" ".join(str(error).split()))


def _leave(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
