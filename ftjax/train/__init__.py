"""State, step, loop, checkpoints and metrics; and, called, `ftjax.api.train`.

`import ftjax.train.loop` binds the name `ftjax.train` to this module, so the function of the API
that has the same name is this module's own call.
"""

import sys
import types

import ftjax


class _Room(types.ModuleType):
    """A module that can be called."""

    def __call__(self, config, workdir, keys=None, **options):
        """Train as a config says; see `ftjax.api.train`."""
        return ftjax.api.train(config, workdir, keys, **options)


sys.modules[__name__].__class__ = _Room
