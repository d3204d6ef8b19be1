"""Cut a folder of reference files into a smaller one of the same layout.

    python -m scripts.cut_golden GOLDEN OUT
    FTJAX_GOLDEN=OUT python -m pytest tests/golden

The tests of reference files fit every folder of the layout and not one folder. What this one has is
of other sizes: every second case, every second entry of a loss, fewer positions, weights in three
files, and nothing that is optional: gradients, hidden states, auxiliary losses.
"""

import argparse
import json
import pathlib
import shutil
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

POSITIONS = 20  # of 24: the longest prompt that `generated` continues has 16
SHARDS = 3
OPTIONAL = ("aux_loss", "hidden_states")  # of io.npz; `grad/...` too
# (layers, rows * positions, ...)
ROUTER = ("router_logits", "router_probabilities", "router_indices", "router_weights")
GROUPS = ("legacy", "kto")  # files of losses that are left out
LEFT_OUT = ("collate.json", "repeat_sampler.json")  # of data/
IO, META = "io.npz", "meta.json"
HALF = np.dtype(ml_dtypes.bfloat16)  # known to numpy, and so to safetensors, from here on


def cut(source: pathlib.Path, out: pathlib.Path) -> None:
    """Write the cut folder; `out` is new."""
    adapters = _second(source / "adapters")
    bases = {_read(path)["base_model_name_or_path"] for folder in adapters
             for path in folder.rglob("adapter_config.json")}  # fmt: skip
    bases.add("models/llama")  # of the curves
    for room in ("models", "models2"):
        kept = [f for f in _folders(source / room) if f"{room}/{f.name}" in bases]
        for folder in dict.fromkeys([*kept, *_second(source / room)]):
            _cut_model(folder, out / room / folder.name)
    for folder in adapters:
        shutil.copytree(folder, out / "adapters" / folder.name, copy_function=shutil.copyfile)
        for path in (out / "adapters" / folder.name).rglob(IO):
            _cut_adapter(path, out)
    for folder in _second(source / "training"):
        target = out / "training" / folder.name
        shutil.copytree(folder, target, copy_function=shutil.copyfile)
    for path in (source / "training").glob("*.*"):  # where curves start
        shutil.copyfile(path, out / "training" / path.name)
    (out / "losses").mkdir(parents=True)
    for path in sorted((source / "losses").glob("*.json")):
        if path.stem not in GROUPS:
            _cut_losses(path, out / "losses")
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(source / "data", out / "data", copy_function=shutil.copyfile, ignore=ignore)


def _folders(room: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in room.glob("*") if path.is_dir())


def _second(room: pathlib.Path) -> list[pathlib.Path]:
    return _folders(room)[::2]


def _read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _cut_model(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a model with its weights in several files and its results of fewer positions."""
    target.mkdir(parents=True)
    for path in source.glob("*.json"):
        shutil.copyfile(path, target / path.name)
    _shard(load_file(source / "model.safetensors"), target)
    io = {key: x for key, x in _arrays(source / IO).items() if key not in OPTIONAL}
    rows, width = io["input_ids"].shape
    for key, x in io.items():
        if key in ROUTER:
            by_row = x.reshape(len(x), rows, width, -1)[:, :, :POSITIONS]
            io[key] = by_row.reshape(len(x), rows * POSITIONS, -1)
        elif key == "token_logprobs":
            io[key] = x[:, : POSITIONS - 1]
        elif key in ("input_ids", "attention_mask", "logits"):
            io[key] = x[:, :POSITIONS]
    io["loss"] = -io["token_logprobs"].sum() / io["attention_mask"][:, 1:].sum()
    np.savez(target / IO, **io)
    meta = _read(source / META)
    meta.pop("grad_norms", None)
    (target / META).write_text(json.dumps(meta), encoding="utf-8")


def _shard(tensors: dict[str, np.ndarray], target: pathlib.Path) -> None:
    names, weight_map = sorted(tensors), {}
    for number in range(SHARDS):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        own = names[number::SHARDS]
        save_file({name: tensors[name] for name in own}, target / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _cut_adapter(path: pathlib.Path, out: pathlib.Path) -> None:
    """Drop gradients and positions from an adapter's results; the loss follows from the logits."""
    io = {key: x for key, x in _arrays(path).items() if not key.startswith("grad/")}
    for key, x in io.items():
        if "logits" in key:
            io[key] = x[:, :POSITIONS]
    config = path.with_name("adapter_config.json")
    if "loss" in io and config.is_file():
        given = _arrays(out / _read(config)["base_model_name_or_path"] / IO)
        io["loss"] = _loss(io["logits"], given["input_ids"], given["attention_mask"])
    np.savez(path, **io)


def _loss(logits: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Average the negative log-probability of each next token that is no padding."""
    shifted = logits[:, :-1].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    logps = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logps, tokens[:, 1:, None].astype(int), -1)[..., 0]
    return np.float32(-(chosen * mask[:, 1:]).sum() / mask[:, 1:].sum())


def _cut_losses(path: pathlib.Path, out: pathlib.Path) -> None:
    """Keep every second entry of a file of losses, and all inputs."""
    whole, arrays = _read(path), _arrays(path.with_suffix(".npz"))
    gone = list(whole["entries"])[1::2]
    whole["entries"] = {key: x for key, x in whole["entries"].items() if key not in gone}
    arrays = {key: x for key, x in arrays.items() if key.partition("/")[0] not in gone}
    (out / path.name).write_text(json.dumps(whole), encoding="utf-8")
    np.savez(out / f"{path.stem}.npz", **arrays)


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    given = parser.parse_args()
    cut(given.golden, given.out)


if __name__ == "__main__":
    sys.exit(main())
