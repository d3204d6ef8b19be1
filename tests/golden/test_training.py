"""Whole training curves, step by step, against runs of the reference trainers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.adapters.peft import io as peft
from ftjax.core import files, tree
from ftjax.core import mesh as meshes
from ftjax.models.hf import checkpoint
from ftjax.objectives import sft
from ftjax.optim import optimizer as chain
from ftjax.train import compile
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.golden import reference

LORA_ALPHA = 8  # of every LoRA run, says the README beside the files
LORAPLUS_RATIO = r"loraplus_lr_ratio=(\d+)"
EXCLUDED = {"full": ["**/*norm"], "lora": []}  # the reference does not decay norms and biases


def start_of(case):
    """Tensors that the run started from, or None for the base's own."""
    start = reference.read(case / "curve.json")["start"]
    return None if start is None else load_file(case / start)


def is_ours(case) -> bool:
    start = start_of(case)
    return start is None or all(".lora_" in key for key in start)


CASES = [
    curve.parent for curve in sorted(reference.folder().glob("training/sft_*/curve.json"))
    if is_ours(curve.parent)
]  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=reference.id_of)


def micro_batches(case):
    """Read the micro-batches in the order of use, padded to one length."""
    with np.load(case / "batches.npz") as file:
        arrays = dict(file)
    count = len({key.split("/")[0] for key in arrays})
    length = max(a.shape[1] for key, a in arrays.items() if key.endswith("/input_ids"))
    result = []
    for i in range(count):
        pad = lambda name, fill, i=i: np.pad(
            arrays[f"{i}/{name}"],
            ((0, 0), (0, length - arrays[f"{i}/input_ids"].shape[1])), constant_values=fill,
        )  # fmt: skip
        labels = pad("labels", -100)
        packed = f"{i}/position_ids" in arrays
        positions = pad("position_ids", 0) if packed else None
        true_length = arrays[f"{i}/input_ids"].shape[1]
        inside = np.broadcast_to(np.arange(length) < true_length, labels.shape).astype(np.int32)
        mask = inside if packed else pad("attention_mask", 0)
        result.append(reference.batch_of(pad("input_ids", 0), mask, labels != -100, positions))
        # The first token of a row is never a target.
        result[-1]["weights"][:, 0] = 0
    return result, [float(arrays[f"{i}/num_items_in_batch"]) for i in range(count)]


def batches_of(case, accumulate):
    """Interleave micro-batches: row i of a batch goes to micro-batch i mod accumulate."""
    micro, items = micro_batches(case)
    for first in range(0, len(micro), accumulate):
        group = micro[first : first + accumulate]
        join = lambda *leaves: np.stack(leaves, 1).reshape(-1, leaves[0].shape[-1])
        batch = jax.tree.map(join, *group)
        assert batch["weights"].sum() == items[first]
        yield batch


def optimizer(args, note, *, kind):
    ratio = re.search(LORAPLUS_RATIO, note)
    return chain.make(
        name="adamw", learning_rate=args["learning_rate"], b1=args["adam_beta1"],
        b2=args["adam_beta2"], eps=args["adam_epsilon"], total_steps=args["max_steps"],
        schedule=dict(name=args["lr_scheduler_type"], warmup_steps=args["warmup_steps"]),
        weight_decay=args["weight_decay"], clip_norm=args["max_grad_norm"],
        no_decay=EXCLUDED[kind],
        groups=[("**/b", dict(lr_scale=float(ratio[1])))] if ratio else [],
    )  # fmt: skip


def read_adapters(tensors, model, family, where):
    """Read a LoRA or DoRA of one rank everywhere, which comes without its config."""
    where.mkdir()
    dora = any(".lora_magnitude_vector" in key for key in tensors)
    tensors = {key.replace("vector.weight", "vector"): tensor for key, tensor in tensors.items()}
    (rank,) = {v.shape[0] for k, v in tensors.items() if ".lora_A." in k}
    modules = {k.removesuffix(".lora_A.weight").rsplit(".", 1)[-1] for k in tensors if "_A." in k}
    config = dict(
        peft_type="LORA", r=rank, lora_alpha=LORA_ALPHA, target_modules=sorted(modules),
        use_dora=dora,
    )  # fmt: skip
    files.write_json(where / peft.CONFIG, config)
    files.write_tensors(where / peft.WEIGHTS, tensors)
    return peft.load(where, linears=model.linears, names=family.NAMES)


def check_weights(got, wanted, *, moved):
    for path, leaf in tree.paths(wanted).items():
        ours = np.asarray(tree.paths(got)[path])
        np.testing.assert_allclose(ours, leaf, rtol=1e-3, atol=moved, err_msg=path)


def test_there_are_runs(golden):
    missing = {"full", "lora"} - {"full" if start_of(c) is None else "lora" for c in CASES}
    reference.whole(not missing, f"curve of {', '.join(sorted(missing))}")


@each
def test_curve(case, tmp_path):
    curve = reference.read(case / "curve.json")
    args, start = curve["args"], start_of(case)
    family, model, base = reference.base(reference.folder() / "models" / "llama")
    kind = "full" if start is None else "lora"
    adapters = None if start is None else read_adapters(start, model, family, tmp_path / "start")
    patterns = {"full": "model/**", "lora": "adapters/**"}[kind]
    trainable, frozen = states.split({"model": base, "adapters": adapters}, patterns)
    optim = optimizer(args, curve["note"], kind=kind)
    accumulate = args["gradient_accumulation_steps"]
    make = steps.make_step(
        model, sft.make(), optim.tx, learning_rate=optim.learning_rate, accumulate=accumulate,
        chunk=reference.CHUNK,
    )  # fmt: skip
    mesh = meshes.make(data=1, devices=jax.devices()[:1])
    state = states.create(trainable, optim.tx, key=jax.random.key(0))
    letters = states.axes(model, {"model": base, "adapters": adapters})
    places = states.shardings(state, letters, optim.tx, mesh)
    # The step donates its state, and others use these arrays too.
    state = jax.device_put(jax.tree.map(jnp.copy, state), places)
    step = compile.jit(make, mesh=mesh, state=places)
    batches = list(batches_of(case, accumulate))
    assert len(batches) == len(curve["steps"]) == args["max_steps"]
    for batch, wanted in zip(batches, curve["steps"], strict=True):
        state, metrics = step(state, frozen, batch)
        assert float(metrics["loss"]) == pytest.approx(wanted["loss"], rel=1e-4, abs=1e-4)
        assert float(metrics["grad_norm"]) == pytest.approx(wanted["grad_norm"], rel=1e-3)
        rate = float(metrics["learning_rate"])
        assert rate == pytest.approx(wanted["learning_rate"], rel=1e-5, abs=1e-12)
    assert step.compilations() == 1
    params = tree.combine(state.params, frozen)
    end = load_file(case / "end.safetensors")
    if kind == "lora":
        wanted = read_adapters(end, model, family, tmp_path / "end")
        check_weights(params["adapters"], wanted, moved=1e-3 * args["learning_rate"])
        return
    files.write_tensors(tmp_path / checkpoint.WEIGHTS, end)
    wanted = checkpoint.load(tmp_path, model, names=family.NAMES)
    check_weights(params["model"], wanted, moved=1e-3 * args["learning_rate"])
