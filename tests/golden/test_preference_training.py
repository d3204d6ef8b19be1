"""Whole training curves of preference and reward models against runs of the reference trainers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.objectives import dpo, kto, reward
from ftjax.train import compile, reference_policy
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.golden import reference
from tests.golden.test_training import check_weights, optimizer, read_adapters, start_of

SCORE = "score.weight"  # of the reference's scalar head
CASES = [
    curve.parent for curve in sorted(reference.folder().glob("training/*/curve.json"))
    if not curve.parent.name.startswith("sft_")
]  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=reference.id_of)


def one_loss(args):
    names = args.get("loss_type", ["sigmoid"])
    (name,) = names if isinstance(names, list) else (names,)
    return name


OBJECTIVES = {
    "dpo": lambda args: dpo.make(beta=args["beta"], loss=one_loss(args)),
    "kto": lambda args: kto.make(beta=args["beta"]),
    "reward": lambda args: reward.make(centre=args["center_rewards_coefficient"]),
}


def kind_of(case) -> str:
    return case.name.split("_")[0]


def micro_batches(case):
    """Read the micro-batches in the order of use as answers [B,2,T], padded to one length."""
    with np.load(case / "batches.npz") as file:
        arrays = dict(file)
    count = len({key.split("/")[0] for key in arrays})
    length = max(a.shape[1] for key, a in arrays.items() if key.endswith("input_ids"))
    wide = lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1])))
    for i in range(count):
        own = {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
        yield answers(own, wide)


def answers(own, wide):
    """Pair chosen rows with rejected ones, or answers with mismatched ones."""

    def halves(name):
        if f"KL_{name}" in own:
            return [wide(own[name]), wide(own[f"KL_{name}"])]
        return np.split(wide(own[name]), 2)

    target = "completion_mask" if "completion_mask" in own else "attention_mask"
    parts = zip(*map(halves, ("input_ids", "attention_mask", target)), strict=True)
    batches = [reference.batch_of(tokens, mask, weights) for tokens, mask, weights in parts]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *batches)
    ones = np.ones((len(batch["tokens"]), 1), np.float32)
    label = own["label"][:, None].astype(np.float32) if "label" in own else 0 * ones
    return batch | {"examples": ones, "label": label, "margin": 0 * ones}


def batches_of(case, accumulate):
    """Interleave micro-batches: row i of a batch goes to micro-batch i mod accumulate."""
    micro = list(micro_batches(case))
    join = lambda *leaves: np.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:])
    for first in range(0, len(micro), accumulate):
        yield jax.tree.map(join, *micro[first : first + accumulate])


def read_start(case, model, family, base, where):
    """Return {"model", "adapters"[, "head"]} that a run started from."""
    start = start_of(case)
    if start is None:
        return {"model": base, "adapters": None}
    if SCORE in start:
        (head,) = start.values()  # a file of the head alone: the rest is the base
        return {"model": base, "adapters": None, "head": {"reward": jnp.asarray(head[0])}}
    return {"model": base, "adapters": read_adapters(start, model, family, where)}


def patterns_of(params):
    return (
        "adapters/**" if params["adapters"] else ["model/**", *(["head/**"] * ("head" in params))]
    )


def state_of(params, model, optim, mesh):
    """Make the first state, its places and the frozen arrays, the reference among them."""
    kept = {name: params[name] for name in ("model", "adapters")}
    params = params | {"reference": jax.tree.map(jnp.copy, kept)}
    trainable, frozen = states.split(params, patterns_of(params))
    letters = states.axes(model, params)
    letters |= {"reference": {name: letters[name] for name in kept}}
    state = states.create(trainable, optim.tx, key=jax.random.key(0))
    places = states.shardings(state, letters, optim.tx, mesh)
    # The step donates its state, and others use these arrays too.
    return jax.device_put(jax.tree.map(jnp.copy, state), places), places, frozen


def test_there_are_runs(golden):
    kinds = {kind_of(case) for case in CASES}
    assert kinds <= set(OBJECTIVES)
    missing = sorted(set(OBJECTIVES) - kinds)
    reference.whole(not missing, f"curve of {', '.join(missing)}")


@each
def test_curve(case, tmp_path):
    curve = reference.read(case / "curve.json")
    args = curve["args"]
    family, model, base = reference.base(reference.folder() / "models" / "llama")
    params = read_start(case, model, family, base, tmp_path / "start")
    optim = optimizer(args, curve["note"], kind="lora" if params["adapters"] else "full")
    mesh = meshes.make(data=1, devices=jax.devices()[:1])
    state, places, frozen = state_of(params, model, optim, mesh)
    accumulate = args["gradient_accumulation_steps"]
    make = steps.make_step(
        model, OBJECTIVES[kind_of(case)](args), optim.tx, learning_rate=optim.learning_rate,
        accumulate=accumulate, chunk=reference.CHUNK, reference=reference_policy.frozen,
    )  # fmt: skip
    step = compile.jit(make, mesh=mesh, state=places)
    batches = list(batches_of(case, accumulate))
    assert len(batches) == len(curve["steps"]) == args["max_steps"]
    for batch, wanted in zip(batches, curve["steps"], strict=True):
        state, metrics = step(state, frozen, batch)
        assert float(metrics["loss"]) == pytest.approx(wanted["loss"], rel=1e-4, abs=1e-4)
        assert float(metrics["grad_norm"]) == pytest.approx(wanted["grad_norm"], rel=1e-3)
        rate = float(metrics["learning_rate"])
        assert rate == pytest.approx(wanted["learning_rate"], rel=1e-5, abs=1e-12)
        margin = wanted.get("margin", wanted.get("rewards/margins"))
        if "reward/margin" in metrics:
            got = float(metrics["reward/margin"].value())
            assert got == pytest.approx(margin, rel=1e-3, abs=1e-4)
    assert step.compilations() == 1
    if (case / "end.safetensors").is_file():
        end = load_file(case / "end.safetensors")
        wanted = read_adapters(end, model, family, tmp_path / "end")
        got = tree.combine(state.params, frozen)["adapters"]
        check_weights(got, wanted, moved=1e-3 * args["learning_rate"])
