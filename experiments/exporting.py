"""Taking a run's weights away: an adapter in PEFT's files, or a model that transformers loads.

    write(parts, params, folder)                     what was trained, as an adapter if it can be
    write(parts, params, folder, form="model")       one model, adapters merged into it

Modules of the base that train beside an adapter, such as norms, go with it whole. What PEFT has no
form for, such as a weight that trains under its own adapter, is merged.

Merging is done in float32 and rounded once. A base that was quantised is merged as the run saw it,
so that the merged model computes what was trained.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import setup
from ftjax.adapters import base as adapters
from ftjax.adapters import peft
from ftjax.core import files, tree
from ftjax.models import hf
from ftjax.train import state as states

FORMS = ("adapter", "model")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write(
    parts: setup.Parts, params: Mapping[str, Any], folder: pathlib.Path, *, form: str = "",
    dtype=None, max_shard_gb: float = 5.0,
) -> str:  # fmt: skip
    """Write weights to a new directory, which appears when it is complete; returns the form.

    Args:
      parts, params: of a run.
      folder: new or empty.
      form: "adapter", "model", or "" for an adapter where one holds all that the run trains.
      dtype: of the files; the arrays' own when None.
      max_shard_gb: larger models are split into files of at most this many 10^9 bytes.

    Raises:
      ValueError: an adapter is asked of a run that has none, or PEFT has no such method.
    """
    adapter = form == "adapter" or (not form and parts.method is not None)
    refusal = _write_adapter(parts, params, folder, dtype) if adapter else ""
    if refusal and (form or not _merges(params["adapters"])):
        raise ValueError(refusal)
    if refusal:
        sys.stderr.write(f"export: a model, the adapter is merged into it: {refusal}\n")
    if refusal or not adapter:
        _write_model(parts, params, folder, dtype, max_shard_gb)
    heads = _whole(params.get("head") or {})
    for name, head in heads.items() if jax.process_index() == 0 else ():
        scores = {"score.weight": np.asarray(head)[None]}  # as classifiers of one label have it
        files.write_tensors(folder / f"{name}_head.safetensors", scores)
    return "adapter" if adapter and not refusal else "model"


def _merges(found) -> bool:
    return all(adapter.MERGES for adapter in adapters.sites(found).values())


def _write_adapter(parts, params, folder, dtype) -> str:
    """Write the adapter and what trained beside it; returns why PEFT cannot have it, or ""."""
    if parts.method is None:
        raise ValueError("export: got a run without an adapter; expected one; export the model")
    if parts.needing("quantizer"):
        return (
            "export: got an adapter that repairs its quantised base (adapter.init='loftq'), and no "
            "file holds that base; expected a model, the adapter merged into it"
        )
    trained = tree.paths(states.split(parts.abstract, parts.patterns)[0]["model"]).keys()
    arrays = tree.paths(params["model"])
    beside = arrays | _whole({path: arrays[path] for path in trained})
    own, refusal = _whole(params["adapters"]), ""
    if jax.process_index() == 0:
        more = {} if dtype is None else {"dtype": dtype}
        try:
            peft.save(
                folder, own, linears=parts.model.linears, names=parts.family.NAMES,
                base_model=parts.source and str(parts.source), hyper=parts.settings.adapter,
                weights=beside, trained=trained, **more,
            )  # fmt: skip
        except ValueError as error:
            refusal = str(error)
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.bool_(refusal)):
        return refusal or "see process 0"
    return refusal


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
        extra={key: known[key] for key in TOKENS if key in known}, source=parts.source,
    )  # fmt: skip


def _whole(arrays):
    """Bring arrays that other processes hold parts of to this host."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
