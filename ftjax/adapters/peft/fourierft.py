"""FourierFT in PEFT's files."""

import numpy as np

from ftjax.adapters import fourierft
from ftjax.adapters.peft import config as peft_config
from ftjax.adapters.peft.format import Format, number, pattern


class FourierFormat(Format):
    """A tensor fourierft_spectrum (n,); the positions are not in the file, their seed is."""

    peft_type, kinds = "FOURIERFT", (fourierft.FourierFT,)
    keys = frozenset({
        "alpha", "ifft2_norm", "n_frequency", "n_frequency_pattern", "random_loc_seed", "scaling",
        "fan_in_fan_out", "init_weights",  # these two change nothing
    })  # fmt: skip
    required = frozenset({"n_frequency", "random_loc_seed", "scaling"})

    def read(self, config):
        """Read the numbers of coefficients, the scale and the seed."""
        if config.get("ifft2_norm", "backward") != "backward":
            raise ValueError(f"ifft2_norm={config['ifft2_norm']!r}")
        return dict(
            frequencies=config["n_frequency"], scale=config["scaling"],
            seed=config["random_loc_seed"], share=config.get("alpha"),
            frequency_pattern=config.get("n_frequency_pattern") or {},
        )  # fmt: skip

    def write(self, layers, hyper):
        """Write the numbers of coefficients, the scale and the seed."""
        one = next(iter(layers.values()))
        frequencies, exceptions = pattern({name: x.c.shape[-1] for name, x in layers.items()})
        return {
            "bias": "none",
            "fan_in_fan_out": False,
            "init_weights": False,
            "n_frequency": frequencies,
            "n_frequency_pattern": exceptions,
            "random_loc_seed": one.seed,
            "scaling": number(float(one.scale)),
        }

    def shapes(self, module, hyper):
        """Return (n,)."""
        size = module.outputs * module.inputs
        if size >= fourierft.LARGE:
            raise ValueError(
                f"{module.name}: got a matrix of {size:,} elements; expected fewer than "
                f"{fourierft.LARGE:,}: how PEFT draws positions in larger ones is not known here"
            )
        patterns, common = hyper["frequency_pattern"], hyper["frequencies"]
        if hyper["share"]:
            return {"fourierft_spectrum": (int(hyper["share"] * size),)}
        return {"fourierft_spectrum": (peft_config.by_pattern(patterns, module.name, common),)}

    def from_torch(self, module, hyper, tensors):
        """Take the coefficients as they are."""
        return fourierft.FourierFT(
            tensors["fourierft_spectrum"], np.float32(hyper["scale"]), hyper["seed"]
        )

    def to_torch(self, module, adapter):
        """Return the coefficients as they are."""
        return {"fourierft_spectrum": adapter.c}

    def trim(self, adapter):
        """Leave out a layer that is not adapted."""
        return adapter if np.any(adapter.c) else None


PEFT = FourierFormat()
