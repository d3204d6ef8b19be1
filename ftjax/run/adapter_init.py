"""What adapters start from that is neither their key nor their weight: factors found in data.

    find(parts, objective, loader, model, workdir=...)     before the first step: {path: (a, b)}
    read(parts, workdir)                                   what the run has found, from then on

EVA takes the second moments of a map's inputs over the run's first batches, LoRA-GA the gradient of
its weight. LoRA-Null and CorDA take those moments over rows of old data, `adapter.data`, which is
what they are to keep; with it EVA and LoRA-GA take these rows too. One site (a stack of layers) is
done at a time, by passes of its own: beside the base and a backward pass there is one [L, in, in]
or one gradient [L, in, out], float32. The factors are kept in the workdir: a run that goes on, and
whoever reads it, has those that it began with.

LoftQ is no matter of data: its factors are made while the base is read, see `setup`.
"""

import functools
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils

from ftjax.adapters import lora
from ftjax.adapters.lib import inits, protocol
from ftjax.adapters.lib import input_moments as probe
from ftjax.core import digest, files, tree
from ftjax.core import mesh as meshes
from ftjax.data import loader as loaders
from ftjax.ops import lowrank, quantize
from ftjax.run.artifacts import Artifacts
from ftjax.train.step import make_gradients

# Each costs a forward pass before the first step, and one that needs gradients a backward one.
BATCHES = 4
# What is found in batches; the third need, a quantizer, is met while the base is read.
DATA = ("inputs", "gradient")
FROM_DATA = tuple(name for name, need in inits.NEEDS.items() if need in DATA)


def is_base(settings, method, groups) -> bool:
    """Return whether the adapters of a run change nothing before the first step.

    Given adapters (trained, or of past tasks), virtual tokens and LoftQ's repair of a quantised
    weight change something.
    """
    given = settings.adapter_from or settings.adapter.get("past")
    methods = (method, *(other for _, other in groups))
    repairs = any(protocol.is_informed(m) and m.needs == "quantizer" for m in methods)
    return not (given or isinstance(method, protocol.OfModel) or repairs)


def check(parts) -> None:
    """Check that what adapters start from can be had.

    Raises:
      ValueError: naming the key.
    """
    spec, data = parts.settings.adapter, parts.needing(*DATA)
    if dense := sorted(parts.needing("quantizer").keys() - parts.quantizers.keys()):
        raise ValueError(
            f"adapter.init: got 'loftq' at {dense[0]}, which is not quantised; expected quantised "
            "weights alone; set model.quantize.name and model.quantize.where"
        )
    if "batches" in spec and (not data or spec["batches"] < 1):
        raise ValueError(
            f"adapter.batches: got {spec['batches']}; expected at least 1, with one of "
            f"adapter.init = {', '.join(FROM_DATA)}; drop it"
        )
    _check_data(spec, data)
    if parts.informed and (parts.frozen_adapters or (parts.settings.adapter_from and not data)):
        raise ValueError(
            f"adapter.init: got {spec['init']!r} on top of adapters that are given; expected one "
            "start; drop adapter.past or adapter_from, or choose another init"
        )
    linears = parts.model.linears
    if unseen := [path for path in parts.needing("inputs") if not probe.fits(linears[path])]:
        raise ValueError(
            f"adapter.init: got {spec['init']!r} at {unseen[0]}; expected maps of the blocks that "
            "see every token, neither experts nor embedding nor head; change adapter.where"
        )
    if parts.needing("gradient") and (parts.heads or parts.reference.name == "cached"):
        raise ValueError(
            "adapter.init: got 'lora_ga' with a head that starts at zero, or reference.name = "
            "'cached'; expected a loss with a gradient before the first step; choose another init"
        )


def _check_data(spec, informed) -> None:
    """Check that there is old data where a start keeps what they use, and only where it is read."""
    given = spec.get("data")
    if given and not informed:
        raise ValueError(
            f"adapter.data: got a section with init={spec.get('init')!r}; expected one of "
            f"adapter.init = {', '.join(FROM_DATA)}; drop it"
        )
    keeps = {m.options["init"] for m in informed.values()} & {*inits.OF_THE_WEIGHT}
    if keeps and not given:
        raise ValueError(
            f"adapter.data: got none with init={min(keeps)!r}, which keeps what the inputs of old "
            "data use; expected a section as c.data is; name general text, or rows of old tasks"
        )
    if given:
        loaders.check_types(given, where="adapter.data")


def find(parts, objective, loader, model, *, workdir: pathlib.Path) -> dict[str, tuple]:
    """Find the factors of adapters that start from data; nothing for others.

    Those of a run that has saved a checkpoint are read.

    Raises:
      ValueError: the run has no data to start from.
    """
    if not parts.needing(*DATA) or parts.settings.adapter_from:
        return {}
    if Artifacts(workdir).has_checkpoint():
        # Not found anew: the first batches may be others by now, as with --restart_data.
        return read(parts, workdir)
    if parts.settings.adapter.get("data"):
        loader = old_data(parts)
    if not isinstance(loader, loaders.Loader):
        raise ValueError(
            "adapter.init: got a start from data for a run that samples its own; expected "
            "adapter.data, or another init, such as 'kaiming'"
        )
    count = parts.settings.adapter.get("batches", BATCHES)
    put = functools.partial(meshes.put_local, mesh=parts.mesh, rows=loader.batch_size)
    batches = [put(loader.batch(g)) for g in range(count)]
    with jax.set_mesh(parts.mesh):
        found = _of_inputs(parts, model, batches) | _steps(parts, objective, model, batches)
    _write(workdir, found)
    return found


def old_data(parts) -> loaders.Loader:
    """Open `adapter.data`, in batches as the run's are; its length is theirs unless it is named."""
    s = parts.settings
    data = dict(max_tokens=s.data["max_tokens"]) | dict(s.adapter["data"])
    return loaders.opened(
        data, where="adapter.data", tokenizer=parts.tokenizer, batch_size=s.batch_size,
        seed=s.seed.data, local_rows=meshes.local_rows(s.batch_size, parts.mesh),
    )  # fmt: skip


def _of_inputs(parts, model, batches) -> dict[str, tuple]:
    """Find what is made of the second moments of the inputs, one site after the other."""
    methods, explained, found = parts.needing("inputs"), {}, {}
    for path, method in methods.items():
        moments = jax.jit(functools.partial(probe.moments, parts.model, path))
        total = _add(moments(model, batch) for batch in batches)
        if (init := method.options["init"]) in inits.OF_THE_WEIGHT:
            found[path] = _of_weight(parts, model, path, total, init, method.options["rank"])
        else:
            explained[path] = total
    return found | _directions(parts, explained)


def _of_weight(parts, model, path: str, moments, init: str, rank: int) -> tuple:
    """LoRA-Null, CorDA: split off a part of the weight, that which these inputs use least."""
    site = parts.model.linears[path]
    w = quantize.dense(tree.paths(model)[path], jnp.float32)
    start = getattr(inits, init)
    one = lambda m, w: start(m, lowrank.matrix(site.equation, w), rank)
    return _factors(parts, path, *jax.jit(jax.vmap(one))(moments, w))


def _directions(parts, moments) -> dict[str, tuple]:
    """EVA: principal directions of the inputs, given to the layers by what they explain."""
    methods, found = {path: parts.needing("inputs")[path] for path in moments}, {}
    for path, method in methods.items():
        # More directions than the rank, for layers that need them; others get fewer.
        rank = lora.widest(method.options["rank"], method.options["rho"])
        found[path] = jax.jit(jax.vmap(lambda m, r=rank: inits.eva(m, r)))(moments[path])
    if any(method.options["rho"] > 1 for method in methods.values()):
        layers = {path: parts.model.linears[path].stack for path in methods}
        budget = sum(layers[path] * method.options["rank"] for path, method in methods.items())
        kept = inits.redistribute({path: own.share for path, own in found.items()}, budget)
        # A rank that a layer does not get is zeroed: stacked layers have one shape.
        found = {p: own._replace(a=own.a * kept[p][:, None]) for p, own in found.items()}
    return {path: _factors(parts, path, own.a) for path, own in found.items()}


def _steps(parts, objective, model, batches) -> dict[str, tuple]:
    """LoRA-GA: singular vectors of the gradient of the weights, one site after the other."""
    own: dict[str, Any] = {"model": model, "adapters": None}
    methods, found = parts.needing("gradient"), {}
    if not methods:
        return {}
    # Nothing trains in these passes: a frozen reference shares all arrays with the base.
    own |= parts.reference.arrays(own, parts.mesh, trains=set())
    for path, method in methods.items():
        gradient = _gradient(parts, objective, own, path)  # one program for all batches
        total = _add(map(gradient, batches))
        site = parts.model.linears[path]
        one = lambda g, e=site.equation, r=method.options["rank"]: inits.lora_ga(
            lowrank.matrix(e, g), r
        )
        a, b = jax.jit(one if site.stack is None else jax.vmap(one))(total)
        found[path] = _factors(parts, path, a, b)
    return found


def _gradient(parts, objective, params, path: str):
    """Make `batch -> gradient of the loss` by one weight, as an array where it is quantised."""
    where, s = f"model/{path}", parts.settings
    dense = lambda at, w: quantize.dense(w, jnp.float32) if at == where else w
    params = tree.map_with_paths(dense, params, is_leaf=quantize.is_quantized)
    trainable, frozen = tree.partition(params, where, where="adapter.where")
    gradients = make_gradients(
        parts.model, objective, accumulate=s.accumulate, chunk=s.model.chunk,
        reference=parts.reference.function,
    )  # fmt: skip
    # Nothing to reduce: under jit arrays are global, and so are the sums.
    run = jax.jit(lambda *given: gradients(*given, lambda x: x)[0])
    key = jax.random.key(s.seed.sampling)
    return lambda batch: tree.paths(run(trainable, frozen, batch, key))[where]


def _add(parts: Iterable[jax.Array]) -> jax.Array:
    # Sums of batches: in bfloat16 a small addend would vanish in a large sum.
    return functools.reduce(jnp.add, (part.astype(jnp.float32) for part in parts))


def _factors(parts, path: str, a: jax.Array, b: jax.Array | None = None) -> tuple:
    """View matrices in the letters of the site; b is zero where there is none."""
    site = parts.model.linears[path]
    if b is None:
        # EVA finds a alone; with b = 0 the run starts as its base.
        outside = lowrank.sides(site.equation, site.shape)[1]
        b = jnp.zeros((*a.shape[:-2], a.shape[-1], outside), jnp.float32)
    one = functools.partial(lowrank.factors, site.equation, site.shape)
    return (one if site.stack is None else jax.vmap(one))(a, b)


def _write(workdir: pathlib.Path, found: dict[str, tuple]) -> None:
    # All processes gather, one writes.
    whole = lambda x: (
        x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
    )
    named = {f"{path}.{name}": np.asarray(whole(x)) for path, pair in found.items()
             for name, x in zip("ab", pair, strict=True)}  # fmt: skip
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_tensors(Artifacts(workdir).start, named)
        # Last: what a kill cut short has no digest, or the wrong one.
        digest.sign(Artifacts(workdir).start)


def read(parts, workdir: pathlib.Path) -> dict[str, tuple]:
    """Read the factors that a run began with; nothing where its adapters need none.

    Raises:
      ValueError: they are not there.
    """
    needed = parts.needing(*DATA)
    if not needed or parts.settings.adapter_from:
        return {}
    path = Artifacts(workdir).start
    if not path.is_file():
        raise ValueError(
            f"{path}: got no such file; expected the factors that the run's adapters began with; "
            "copy it with the run, or train again"
        )
    if problem := digest.file_problem(path):
        raise ValueError(
            f"{path}: got {problem}; expected the factors that the run's adapters began with; "
            "restore it from a copy, or train again"
        )
    tensors = safetensors.numpy.load_file(path)
    return {site: (tensors[f"{site}.a"], tensors[f"{site}.b"]) for site in needed}
