"""IA3 in PEFT's files."""

import jax
import numpy as np

from ftjax.adapters import ia3
from ftjax.adapters.peft import config as peft_config
from ftjax.adapters.peft.format import Format


class Ia3Format(Format):
    """A tensor ia3_l: (1, in) for the modules called feed-forward, (out, 1) for the others."""

    peft_type, kinds = "IA3", (ia3.IA3,)
    keys = frozenset({"fan_in_fan_out", "feedforward_modules", "init_ia3_weights"})
    lacks = frozenset({"layers_pattern", "layers_to_transform"})

    def read(self, config):
        """Read which modules scale their input."""
        return dict(inward=config.get("feedforward_modules") or ())

    def write(self, layers, hyper):
        """Name the modules that scale their input."""
        inward = {name.rsplit(".", 1)[-1] for name, x in layers.items() if x.inward}
        own = {"fan_in_fan_out": False, "init_ia3_weights": True}
        return own | {"feedforward_modules": sorted(inward)}

    def shapes(self, module, hyper):
        """Return (1, in) or (out, 1)."""
        inward = peft_config.match(hyper["inward"], module.name)
        return {"ia3_l": (1, module.inputs) if inward else (module.outputs, 1)}

    def from_torch(self, module, hyper, tensors):
        """Unflatten the gain into our letters."""
        inward, e = peft_config.match(hyper["inward"], module.name), module.e
        gain = tensors["ia3_l"].reshape(
            [module.sizes[c] for c in (e.contracted if inward else e.kept)]
        )
        return ia3.IA3(gain, inward)

    def to_torch(self, module, adapter):
        """Flatten the gain."""
        return {"ia3_l": adapter.gain.reshape((1, -1) if adapter.inward else (-1, 1))}

    def trim(self, adapter):
        """Leave out a layer that is not adapted: all ones."""
        return adapter if np.any(adapter.gain != 1) else None

    def absent(self, like):
        """Scale by one."""
        return jax.tree.map(np.ones_like, like)


PEFT = Ia3Format()
