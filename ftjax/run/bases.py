"""Which model a run is about: from `c.model` to a family, a handle and a directory of weights."""

import dataclasses
import inspect
import pathlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import tree
from ftjax.models.hf import checkpoint, repository
from ftjax.optim import rates

TINY = "tiny"
# What checkpoints come in and matmuls take; 8 bits and fewer have `model.quantize`.
DTYPES = ("float32", "bfloat16", "float16")


def read(spec) -> tuple[ModuleType, Any, pathlib.Path | None]:
    """Read what `c.model` says: the family, the model's handle, the directory of its weights.

    Raises:
      ValueError: naming the key.
    """
    if bool(spec.base) == bool(spec.preset):
        raise ValueError(
            f"model: got base={spec.base!r} and preset={spec.preset!r}; expected one of them: a "
            "base to fine-tune, or a preset to train from random weights"
        )
    for key in ("compute_dtype", "param_dtype", "train_dtype"):
        legal = DTYPES if key == "train_dtype" else ("", *DTYPES)
        if (name := vars(spec)[key]) not in legal:
            raise ValueError(f"model.{key}: got {name!r}; expected one of {', '.join(DTYPES)}")
    source = locate(spec.base) if spec.base else None
    return (*of(spec, source or spec.preset), source)


def of(spec, source, *, vocab_size: int | None = None) -> tuple[ModuleType, Any]:
    """Read the family of a checkpoint or a preset, and make the model's handle.

    vocab_size: in place of the checkpoint's.
    """
    family, config = checkpoint.config_of(source)
    if vocab_size is not None:
        config = dataclasses.replace(config, vocab_size=vocab_size)
    options = dict(remat=spec.remat, **_of_experts(spec, family))
    make = lambda dtype: family.make(config, dtype=jnp.dtype(dtype), **options)
    if spec.compute_dtype:
        return family, make(spec.compute_dtype)
    # CPUs compute bfloat16 no faster, and a small base fits an accelerator as it is.
    model = make("float32")
    big = jax.default_backend() != "cpu" and tree.size_of(model.abstract) >= rates.BIG
    return family, make("bfloat16") if big else model


def sized(spec, base, source: pathlib.Path | None, *, vocab_size: int):
    """Return the model of a base that has at least so many tokens: itself where it has them."""
    if vocab_size <= base.config.vocab_size:
        return base
    return of(spec, source or spec.preset, vocab_size=vocab_size)[1]


def _of_experts(spec, family: ModuleType) -> dict[str, Any]:
    """Collect the options that only families with experts have.

    Raises:
      ValueError: one is set for another family.
    """
    values = dict(
        dispatch=spec.dispatch, capacity_factor=spec.capacity_factor, router_aux=spec.router_aux
    )
    given = {name: value for name, value in values.items() if value not in ("", None)}
    for name in given.keys() - inspect.signature(family.make).parameters.keys():
        kind = family.__name__.rpartition(".")[2]
        raise ValueError(
            f"model.{name}: got {given[name]!r} for a {kind}, which has no experts; expected it "
            "as it is in configs/common.py; leave it out"
        )
    return given


def adapter(place: str) -> pathlib.Path:
    """Return the folder of the adapter that a run starts from, see `repository.adapter`."""
    return repository.adapter(place, where="adapter_from")


def locate(base: str, *, where: str = "model.base") -> pathlib.Path:
    """Return the directory of a base; the embedded one is called "tiny".

    One of the Hub, `org/name[@revision]`, is brought into the Hub's cache; every process may ask,
    and of those of a host one downloads.

    Raises:
      ValueError: there is no such directory and no such repository.
    """
    # Within the package: the working directory may be anywhere.
    path = pathlib.Path(checkpoint.__file__).parents[2] / "assets" / TINY if base == TINY else base
    if repository.is_elsewhere(str(path)):
        return repository.fetch(base, where=where)
    if not pathlib.Path(path).is_dir():
        raise ValueError(
            f"{where}: got {base!r}, which is no directory; expected a Hugging Face directory "
            f"(config.json, safetensors), a repository 'org/name' or {TINY!r}; for random weights "
            "set model.preset"
        )
    return pathlib.Path(path)
