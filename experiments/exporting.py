"""Taking a run's weights away: an adapter in PEFT's files, or a model that transformers loads.

    write(parts, params, folder)                     what was trained, in the form that says it all
    write(parts, params, folder, form="model")       one model, adapters merged into it

Merging is done in float32 and rounded once. A base that was quantised is merged as the run saw it,
so that the merged model computes what was trained.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import setup
from ftjax.adapters import base as adapters
from ftjax.adapters import peft
from ftjax.core import files
from ftjax.models import hf
from ftjax.train import state as states

FORMS = ("adapter", "model")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def natural(parts: setup.Parts) -> str:
    """Say which form holds all that a run trains: an adapter, unless weights of the model train."""
    if parts.method is None:
        return "model"
    trainable, _ = states.split(parts.abstract, parts.patterns)
    return "model" if jax.tree.leaves(trainable["model"]) else "adapter"


def write(
    parts: setup.Parts, params: Mapping[str, Any], folder: pathlib.Path, *, form: str = "",
    dtype=None, max_shard_gb: float = 5.0,
) -> None:  # fmt: skip
    """Write weights to a new directory; it appears when it is complete.

    Args:
      parts, params: of a run.
      folder: new or empty.
      form: "adapter", "model", or "" for the one that holds all that the run trains.
      dtype: of the files; the arrays' own when None.
      max_shard_gb: larger models are split into files of at most this many 10^9 bytes.

    Raises:
      ValueError: an adapter is asked of a run that has none, or PEFT has no such method.
    """
    if (form or natural(parts)) == "adapter":
        _write_adapter(parts, params, folder, dtype)
    else:
        _write_model(parts, params, folder, dtype, max_shard_gb)
    heads = _whole(params.get("head") or {})
    for name, head in heads.items() if jax.process_index() == 0 else ():
        scores = {"score.weight": np.asarray(head)[None]}  # as classifiers of one label have it
        files.write_tensors(folder / f"{name}_head.safetensors", scores)


def _write_adapter(parts, params, folder, dtype) -> None:
    if parts.method is None:
        raise ValueError("export: got a run without an adapter; expected one; export the model")
    own = _whole(params["adapters"])
    if jax.process_index() != 0:
        return
    more = {} if dtype is None else {"dtype": dtype}
    peft.save(
        folder, own, linears=parts.model.linears, names=parts.family.NAMES,
        base_model=parts.source and str(parts.source), hyper=parts.settings.adapter, **more,
    )  # fmt: skip


def _write_model(parts, params, folder, dtype, max_shard_gb) -> None:
    dtype = dtype or params["model"]["embed"].dtype
    found = params["adapters"] or {}
    own = _whole(adapters.merge(params["model"], found, parts.model.linears, dtype=dtype))
    if jax.process_index() != 0:
        return
    source = parts.source or parts.settings.model.preset
    known = hf.config_json_of(source)
    hf.save(
        folder, own, family=parts.family, config=parts.model.config, dtype=dtype,
        max_shard_gb=max_shard_gb, tokenizer=parts.tokenizer_source,
        extra={key: known[key] for key in TOKENS if key in known},
    )  # fmt: skip


def _whole(arrays):
    """Bring arrays that other processes hold parts of to this host."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
