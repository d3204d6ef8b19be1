"""What the golden tests share: where the reference files are, which apply, and how to run them."""

import functools
import json
import os
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.adapters.peft import io as peft
from ftjax.core import tree
from ftjax.models.hf import checkpoint
from ftjax.objectives import sft
from ftjax.train import state as states
from ftjax.train.policy import CachedHiddenPolicy, Policy

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPPORTED = frozenset(checkpoint.families())
CHUNK = 7  # does not divide the rows' length


def folder() -> pathlib.Path:
    """Where the reference files would be; `conftest.golden` skips when they are not."""
    return pathlib.Path(os.environ.get("FTJAX_GOLDEN") or ROOT.parent / "shared" / "golden")


def whole(condition, what):
    """Fail where the project's own set is incomplete; another folder may lack parts, and skips."""
    if not condition and os.environ.get("FTJAX_GOLDEN"):
        pytest.skip(f"no {what} in this set")
    assert condition, f"no {what} in {folder()}"


def read(path):
    return json.loads(path.read_text("utf-8"))


def given(path):
    """Read a file that a folder may lack; its tests skip then."""
    if not path.is_file():
        pytest.skip(f"no {id_of(path)} in this set")
    return read(path)


def need(found, what: str) -> None:
    """Skip a test of what a folder may lack."""
    if not found:
        pytest.skip(f"no {what} in this set")


def tensors(directory) -> dict[str, np.ndarray]:
    """Read a model's tensors from its one file or from several."""
    paths = sorted(directory.glob("model*.safetensors"))  # others are other dialects of it
    return {name: x for path in paths for name, x in load_file(path).items()}


def model_folders():
    """Every model folder of a type that we have, of both sets of families."""
    found = sorted(folder().glob("models*/*/config.json"))
    return [path.parent for path in found if read(path)["model_type"] in SUPPORTED]


def adapter_folders():
    """Every adapter folder, nested ones too."""
    return sorted(path.parent for path in folder().glob(f"adapters/**/{peft.CONFIG}"))


def id_of(path) -> str:
    return str(path.relative_to(folder()).as_posix())


@functools.cache
def base(directory):
    """Read a golden model once: (family, model, params)."""
    family, config = checkpoint.config_of(directory)
    model = family.make(config)
    return family, model, checkpoint.load(directory, model, names=family.NAMES, dtype=np.float32)


def io(path) -> dict[str, np.ndarray]:
    with np.load(path / "io.npz") as file:
        return dict(file)


def batch_of(tokens, mask, weights=None, positions=None):
    """Make a batch from HF inputs; targets are all tokens that are not padding."""
    mask = np.asarray(mask, np.int32)
    positions = np.cumsum(mask, 1) - 1 if positions is None else positions
    segments = mask * np.cumsum(positions == 0, 1)
    first = np.concatenate([np.ones_like(mask[:, :1]), segments[:, 1:] != segments[:, :-1]], 1)
    weights = mask * (1 - first) if weights is None else weights
    return {
        "tokens": np.asarray(tokens, np.int32),
        "weights": np.asarray(weights, np.float32),
        "segments": segments.astype(np.int32),
        "positions": (positions * mask).astype(np.int32),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def evaluate(model, path, params, batch):
    """Compute logits, log-probabilities, final hidden states, and the loss with its gradient.

    `path` names the subtree that is differentiated, "model" or "adapters"; adapters' data has no
    gradient and stays as it is.
    """
    objective = sft.make()
    trainable, frozen = states.split(params, f"{path}/**")

    def outputs(part):
        own = tree.combine(part, frozen)
        x = Policy(model, own, CHUNK).hidden(batch)
        policy = CachedHiddenPolicy(model, own, CHUNK, x)
        logits = model.logits(own["model"], x, adapters=own["adapters"])
        loss = objective(policy, policy, batch, None)["loss"].value()
        return loss, dict(loss=loss, logp=policy.logps(batch), logits=logits, hidden=x)

    grads, results = jax.grad(outputs, has_aux=True)(trainable)
    return results | {"grads": tree.combine(grads, frozen)[path]}
