"""Taking a run's weights away: an adapter in PEFT's files, or a model that transformers loads.

    write(parts, params, folder)                     what was trained, as an adapter if it can be
    write(parts, params, folder, form="model")       one model, adapters merged into it
    update(parts, params, artifacts, record=record)  DIR/export, unless it is whole and of now

Tokenizer, chat template, ends of answers and a model card go with either (`run.export_files`).

Modules of the base that train beside an adapter, such as norms, go with it whole. What PEFT has no
form for, such as a weight that trains under its own adapter, is merged.

Merging is done in float32 and rounded once. A base that was quantised is merged as the run saw it,
so that the merged model computes what was trained.
"""

import functools
import hashlib
import json
import pathlib
import shutil
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import digest, files, processes, tree
from ftjax.models.hf import checkpoint
from ftjax.report import card
from ftjax.report.card import Record
from ftjax.run import build as setup
from ftjax.run import export_files, saved_state
from ftjax.run.artifacts import Artifacts
from ftjax.train import state as states

# What PEFT reads beside a base, and what transformers reads alone.
FORMS = ("adapter", "model")


def write(
    parts: setup.Parts, params: Mapping[str, Any], folder: pathlib.Path, *, form: str = "",
    dtype=None, max_shard_gb: float = 5.0, record: Record | None = None,
) -> str:  # fmt: skip
    """Write weights to a new directory, which appears when it is complete; returns the form.

    Args:
      parts, params: of a run.
      folder: new or empty.
      form: "adapter", "model", or "" for an adapter where one holds all that the run trains.
      dtype: of the files. When None, that of the base's files for a model, whatever it was
        trained in, and the arrays' own for an adapter.
      max_shard_gb: larger models are split into files of at most this many 10^9 bytes.
      record: what the model card says of the run.

    Raises:
      ValueError: an adapter is asked of a run that has none, or PEFT has no such method.
    """
    adapter = form == "adapter" or (not form and parts.method is not None)
    heads = _whole(params.get("head") or {})
    # Before anything is written: a template may be refused.
    beside = export_files.extra_files(parts)
    own = functools.partial(export_files.card, parts, record=record)
    complete = lambda form: functools.partial(_complete, heads, beside, lambda: own(form=form))
    refusal = _write_adapter(parts, params, folder, dtype, complete("adapter")) if adapter else ""
    # An adapter that was asked for by name is not replaced by a model.
    if refusal and (form or not _merges(params["adapters"])):
        raise ValueError(refusal)
    if refusal:
        sys.stderr.write(f"export: a model, the adapter is merged into it: {refusal}\n")
    # A model says the same as the adapter would have, so a run never ends without an export.
    if refusal or not adapter:
        _write_model(parts, params, folder, dtype, max_shard_gb, complete("model"))
    processes.any_process(False)  # whoever reads next, in any process, finds the files
    return "adapter" if adapter and not refusal else "model"


def _complete(heads, beside: Mapping[str, bytes], describe, draft: pathlib.Path) -> None:
    """Add heads, the tokenizer's files and the card to an export that is being written."""
    for name, head in heads.items():
        files.write_tensors(draft / f"{name}_head.safetensors", {"score.weight": _scores(head)})
    for name, content in beside.items():
        files.write_bytes(draft / name, content)
    card.write(draft, describe())


def _scores(head) -> np.ndarray:
    """View a scalar head as classifiers of one label have it."""
    return np.asarray(head)[None]


def update(
    parts: setup.Parts, params, artifacts: Artifacts, *, step: int, record: Record | None = None
) -> None:
    """Write a run's export, unless the one that is there is of this very state, and whole.

    Its digest.json names the step and a hash of the checkpoint and the config. One of another state
    is replaced; a damaged one is set aside as export.bad-<reason>.
    """
    target, of = artifacts.export, _identity(parts, artifacts, step)
    if not processes.on_first(lambda: _is_needed(target, step, of)):
        return
    # Beside it, since a rename stays within one file system.
    draft = target.with_name(f".{target.name}.new")
    if jax.process_index() == 0:
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed here
    write(parts, params, draft, form=parts.settings.export.form, record=record)
    if jax.process_index() == 0:
        digest.write(draft, step=step, of=of)
        # A rename cannot replace a full folder; killed in between, the run writes it again.
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        # A rename is on the disk only when the folder that holds the name is.
        files.sync(target.parent)


def _identity(parts: setup.Parts, artifacts: Artifacts, step: int) -> str:
    """Hash the checkpoint of `step`, by its digest, and what of the config may change an export."""
    saved = artifacts.checkpoints / str(step) / digest.NAME
    # Keys of `export` may change on resume, but go into what is written here.
    free = {pattern.removesuffix("/**") for pattern in saved_state.FREE} - {"export"}
    bound = {key: value for key, value in parts.settings.plain.items() if key not in free}
    plain = json.dumps(files.plain(bound), sort_keys=True)
    # It has the hash of every file of the checkpoint: hashing it hashes them all.
    content = saved.read_bytes() if saved.is_file() else b""
    return hashlib.sha256(content + plain.encode()).hexdigest()


def _is_needed(target: pathlib.Path, step: int, of: str) -> bool:
    """Return whether an export must be written; a damaged one is set aside."""
    if not target.is_dir() or not any(target.iterdir()):
        return True
    if found := digest.problem(target):
        reason, text = found
        aside = digest.quarantine(target, reason=reason)
        warnings.warn(
            f"{target}: got an export that is damaged: {text}; it is renamed to {aside.name} and "
            "written again",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip
        return True
    known = files.read_json(target / digest.NAME)
    return (known.get("step"), known.get("of")) != (step, of)


def _merges(found) -> bool:
    return all(adapter.MERGES for adapter in protocol.sites(found).values())


def _write_adapter(parts, params, folder, dtype, complete) -> str:
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
    # What trained beside the adapter goes whole: PEFT's modules_to_save.
    beside = arrays | _whole({path: arrays[path] for path in trained})
    # Before process 0 goes on alone: gathering takes all of them.
    own, heads, refusal = _whole(params["adapters"]), _whole(params.get("head") or {}), ""
    # A critic's head stands beside a decoder's own, a reward model's in its place.
    scores = _scores(heads["reward"]) if "reward" in heads else None
    if jax.process_index() == 0:
        more = {} if dtype is None else {"dtype": dtype}
        try:
            peft.save(
                folder, own, linears=parts.model.linears, names=parts.family.NAMES,
                base_model=export_files.base_name(parts), hyper=parts.settings.adapter,
                weights=beside, trained=trained, complete=complete, scores=scores, **more,
            )  # fmt: skip
        except ValueError as error:
            refusal = str(error)
    # All take the same branch: merging takes all processes again.
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.bool_(refusal)):
        return refusal or "see process 0"
    return refusal


def _write_model(parts, params, folder, dtype, max_shard_gb, complete) -> None:
    # One type for all files: that of the embedding, which every base has.
    dtype = dtype or parts.stored["embed"]
    found = params["adapters"] or {}
    # Merged where the weights lie, and gathered after: the sum is done once and not on every host.
    own = _whole(protocol.merge(params["model"], found, parts.model.linears, dtype=dtype))
    if jax.process_index() != 0:
        return
    checkpoint.save(
        folder, own, family=parts.family, config=parts.model.config, dtype=dtype,
        max_shard_gb=max_shard_gb, extra=export_files.token_ids(parts), source=parts.source,
        complete=complete,
    )  # fmt: skip


def _whole(arrays):
    """Bring arrays that other processes hold parts of to this host."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
