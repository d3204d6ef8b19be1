"""What the golden tests share: where the reference files are, which apply, and how to run them."""

import functools
import json
import os
import pathlib

import jax
import numpy as np
from safetensors import safe_open

from ftjax.adapters import peft, peft_config
from ftjax.models import hf
from ftjax.objectives import sft
from ftjax.train.policy import Held, Policy

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPPORTED = frozenset(hf.families())
CHUNK = 7  # does not divide the rows' length


def folder() -> pathlib.Path:
    """Where the reference files would be; `conftest.golden` skips when they are not."""
    return pathlib.Path(os.environ.get("FTJAX_GOLDEN") or ROOT.parent / "shared" / "golden")


def read(path):
    return json.loads(path.read_text())


def model_folders():
    """Every model folder of a type that we have."""
    found = sorted(folder().glob("models/*/config.json"))
    return [path.parent for path in found if read(path)["model_type"] in SUPPORTED]


def is_plain_lora(path) -> bool:
    """Say whether an adapter folder holds a LoRA at linear maps, of a supported family, alone."""
    config = read(path / peft.CONFIG)
    base = read(folder() / config["base_model_name_or_path"] / hf.CONFIG)
    init = config.get("init_lora_weights")
    if config["peft_type"] != "LORA" or base["model_type"] not in SUPPORTED:
        return False
    if isinstance(init, str) or config["use_dora"] or config["modules_to_save"]:
        return False
    with safe_open(path / peft.WEIGHTS, "np") as file:
        return all(k.endswith((".lora_A.weight", ".lora_B.weight")) for k in file.keys())  # noqa: SIM118


def adapter_folders():
    """Every adapter folder, nested ones too."""
    return sorted(path.parent for path in folder().glob(f"adapters/**/{peft.CONFIG}"))


def id_of(path) -> str:
    return str(path.relative_to(folder()).as_posix())


@functools.cache
def base(directory):
    """Read a golden model once: (family, model, params)."""
    family, config = hf.config_of(directory)
    model = family.make(config)
    return family, model, hf.load(directory, model, names=family.NAMES)


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

    `path` names the subtree that is differentiated, "model" or "adapters".
    """
    objective = sft.make()

    def outputs(part):
        own = params | {path: part}
        x = Policy(model, own, CHUNK).hidden(batch)
        policy = Held(model, own, CHUNK, x)
        logits = model.logits(own["model"], x, adapters=own["adapters"])
        loss = objective(policy, policy, batch, None)["loss"].value()
        return loss, dict(loss=loss, logp=policy.logps(batch), logits=logits, hidden=x)

    grads, results = jax.grad(outputs, has_aux=True)(params[path])
    return results | {"grads": grads}


def lora_settings(tensors, *, alpha) -> peft_config.Settings:
    """Describe a LoRA by its tensors: one rank everywhere."""
    rank = {v.shape[0] for k, v in tensors.items() if ".lora_A." in k}
    modules = {k.removesuffix(".lora_A.weight").rsplit(".", 1)[-1] for k in tensors if "_A." in k}
    return peft_config.Settings(*rank, alpha, rslora=False, dropout=0.0, targets=tuple(modules))
