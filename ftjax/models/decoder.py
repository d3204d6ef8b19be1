"""The handle that the rest of the project holds of a model: a decoder over stacks of blocks.

A family gives its `Config` and makers of NNX modules: the ends, which exist once, and one block per
stack.

    ends(config, key)   parameters embed, ..., head unless tied
        .enter(tokens_BT, positions_BT, site) -> x_BTD          .leave(x_BTD) -> x_BTD
    block(config, key)  parameters of one layer
        (x_BTD, context, site, cache) -> x_BTD, new keys and values, auxiliary (or None)

What a layer caches is its stack's own: keys and values by slot, or a state that has no slots and
that every call replaces (see `base.CACHE`).

Layers with the same parameters are stacked on a leading axis L. What else differs between them (the
window, the rotary embedding) is a `Kind`, and they run in groups: `layer_runs` cuts the list of
kinds into the largest repeating ones, each one `lax.scan` whose body holds one group, so compile
time does not grow with depth.

    kinds  local local global local local global local  ->  2 x (local local global), 1 x (local)
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import memo, mesh, tree
from ftjax.core.mean import Mean
from ftjax.models import base, layer_runs, virtual_tokens
from ftjax.ops import linear, products, quantize, rope, softcap, visible
from ftjax.ops import remat as policies


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the layers of a model may differ in, beside the numbers in their weights."""

    stack: str  # whose parameters it has
    window: int | None  # None: it sees all that came before
    rope: rope.Rope | None  # None: positions are learned
    head_dim: int | None = None  # of the heads that are rotated; None: the config's
    shares: str | None = None  # it takes the keys and values of this stack's last layer


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and numerics; none has a default, all come from a checkpoint's config or a preset."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffw: int
    norm_eps: float
    rope: rope.Rope | None
    tied: bool
    max_positions: int
    init_scale: float

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter of the legend."""
        return dict(
            V=self.vocab_size, D=self.dim, L=self.layers, N=self.heads, K=self.kv_heads,
            H=self.head_dim, F=self.ffw,
        )  # fmt: skip

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of every layer."""
        return (Kind("blocks", None, self.rope),) * self.layers

    @property
    def logit_cap(self) -> float | None:
        """The c of logits c tanh(z / c); None where they are z."""
        return None

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """Patterns of tensors that files may have beside and that the text model does not use."""
        return ()


@dataclasses.dataclass(frozen=True)
class Model:
    """The handle of a decoder; see `make`. Holds no arrays.

    Its declarations are traced once and shared: whoever changes one copies it first.
    """

    config: Any
    ends: Callable
    blocks: tuple[tuple[str, Callable], ...]
    caches: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    auxiliary: Callable | None
    remat: str
    scan: bool
    dtype: Any

    # -- declarations ------------------------------------------------------------------------------

    @functools.cached_property
    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the layers in every stack, in the order of its axis L."""
        numbers = collections.defaultdict(tuple)
        for number, kind in enumerate(self.config.kinds):
            numbers[kind.stack] += (number,)
        return {name: numbers[name] for name, _ in self.blocks if name in numbers}

    def init(self, key: jax.Array) -> base.Params:
        """Draw random parameters, float32: embed, final_norm[, head], stacks of blocks on L."""
        ends_key, blocks_key = jax.random.split(key)
        keys = jax.random.split(blocks_key, self.config.layers)  # one a layer, whatever its stack
        params = nnx.to_pure_dict(nnx.state(self.ends(self.config, ends_key)))
        for name, numbers in self.stacks.items():
            block = dict(self.blocks)[name]
            one = lambda key, block=block: nnx.to_pure_dict(nnx.state(block(self.config, key)))
            params[name] = jax.vmap(one)(keys[jnp.array(numbers)])
        return params

    @functools.cached_property
    def abstract(self) -> base.Params:
        """Shapes and types of every parameter, in the structure of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))  # nothing is drawn

    @functools.cached_property
    def _abstract(self) -> dict[str, nnx.Module]:
        # Modules of shapes, by stack; "" is the ends. Making one is slow, and every layer asks.
        makers = {"": self.ends} | {name: b for name, b in self.blocks if name in self.stacks}
        shapes = lambda make: nnx.eval_shape(lambda: make(self.config, jax.random.key(0)))
        return {name: shapes(make) for name, make in makers.items()}

    def _metadata(self, name: str) -> dict:
        found = {stack: base.metadata(module, name) for stack, module in self._abstract.items()}
        return found.pop("") | found

    @functools.cached_property
    def axes(self) -> base.Params:
        """Letters of every parameter, in the structure of the parameters."""
        stack = lambda path, letters: "L" * (path.split("/")[0] in self.stacks) + letters
        return tree.map_with_paths(stack, self._metadata("axes"))

    @functools.cached_property
    def equations(self) -> dict[str, str]:
        """The equation of every parameter by path; empty for norms and biases."""
        return tree.paths(self._metadata("equation"))

    @functools.cached_property
    def stored(self) -> dict[str, str]:
        """The axes that every parameter has in a checkpoint, runs of letters: "D,CNH"."""
        return tree.paths(self._metadata("stored"))

    @functools.cached_property
    def linears(self) -> dict[str, base.Linear]:
        """Every linear map by path (`blocks/attn/q`), the embedding among them as a lookup."""
        found = {}
        for name, numbers in self.stacks.items():
            inner = base.linears(self._abstract[name], layers=numbers)
            found |= {f"{name}/{path}": site for path, site in inner.items()}
        outer = base.linears(self._abstract[""], layers=None)
        outer["embed"] = dataclasses.replace(outer["embed"], equation=linear.LOOKUP)
        return found | outer

    def max_length(self, adapters: Mapping[str, Any] | None = None) -> int:
        """Return how many tokens an example may have: the positions, less those of virtual tokens.

        Beyond them a model that looks its positions up gives NaN.
        """
        return self.config.max_positions - virtual_tokens.count(adapters or {})

    # -- computation -------------------------------------------------------------------------------

    def hidden(
        self, params, tokens_BT, *, positions_BT, segments_BT, adapters=None, cache=None, key=None,
        aux: bool = False, fresh: bool = False,
    ):  # fmt: skip
        """Compute the final hidden states [B,T,D], after the last norm.

        Args:
          params: the model's parameters, in any float type; a layer casts its own to the compute
            type, so that no second copy of them all lives through the step.
          tokens_BT: token ids.
          positions_BT: positions, restarting in each packed example.
          segments_BT: 0 for padding, 1.. for the examples of a packed row.
          adapters: a tree that mirrors `params` and holds adapters at some paths; None = off.
          cache: from `init_cache`; slot = position. When given, (hidden, cache) is returned. Its
            rows' tokens follow those in it, in one segment; rows behind the batch's are left.
          fresh: the cache is empty and positions are places: the tokens see each other alone, and
            fill the first slots, padding too, which no later token sees before it is overwritten.
          key: for the adapters' dropout; None means evaluation.
          aux: return also what the blocks give beside their states, {stack: tree on L}, last.
        """
        adapters = adapters or {}
        before = virtual_tokens.count(adapters)
        slots, past = cache and self._slots(cache), None if fresh else cache
        options = dict(adapters=adapters, slots=slots, fresh=fresh)
        contexts = self._contexts(positions_BT, segments_BT, **options)
        run = functools.partial(self._layer, contexts=contexts, past=past, key=key)
        ends, site = self.ends_of(params), base.Site(tree.unshared(adapters), key)
        x = mesh.constrain(ends.enter(tokens_BT, positions_BT + before, site), "BTD")
        inputs = ends.layer_inputs(tokens_BT, x, site)
        x = x, virtual_tokens.enter(ends, adapters, legal=inputs is None)
        keep = cache is not None  # in training no scan stacks keys and values
        (x, _), new, given = self._layers(params, x, adapters, run, inputs, keep=keep)
        outputs = [ends.leave(x)]
        if cache is not None:
            slots_BT = None if fresh else jnp.where(segments_BT > 0, positions_BT, slots)
            outputs.append(self._written(cache, new, slots_BT))
        outputs += [given] * aux
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def _written(self, cache, new, slots_BT) -> dict[str, Any]:
        """Write what new tokens have into a cache, at their slots, or the first ones when None."""
        if slots_BT is None:
            return {n: base.fill_cache(c, new[n], self._letters[n]) for n, c in cache.items()}
        write = functools.partial(base.write_cache, slots_BT=slots_BT)
        return {n: write(c, new[n], self._letters[n]) for n, c in cache.items()}

    def ends_of(self, params) -> nnx.Module:
        """Return the module of what exists once, with its parameters: it embeds and normalises."""
        own = {name: params[name] for name in base.metadata(self._abstract[""], "axes")}
        return nnx.merge(nnx.graphdef(self._abstract[""]), quantize.cast(own, self.dtype))

    def _contexts(
        self, positions_BT, segments_BT, *, adapters, slots: int | None, fresh: bool
    ) -> dict[Kind, base.Context]:
        """Make the context of every kind of layer, and of the virtual tokens of a prompt."""
        before = virtual_tokens.count(adapters)
        length = before + (slots or positions_BT.shape[1])
        make = functools.partial(self._contexts_of, length=length)
        slots = None if fresh else slots
        contexts = make(positions_BT, segments_BT, slots=slots, before=before)
        if virtual_tokens.STREAM not in adapters:
            return contexts
        places = jnp.arange(before)[None]  # one row: the prompt is every example's
        own = make(places, jnp.ones_like(places), slots=None, before=0)
        return {k: dataclasses.replace(c, virtual=own[k]) for k, c in contexts.items()}

    def _contexts_of(self, positions_BT, segments_BT, *, slots: int | None, before: int, length):
        """Make the contexts of tokens with `before` virtual ones ahead, over a cache of `slots`."""
        c, own, seen = self.config, (positions_BT, segments_BT), {}
        for w in dict.fromkeys(kind.window for kind in c.kinds):
            past = slots and visible.past_mask(own, slots=slots, window=w)
            seen[w] = visible.visible_keys(*own, before=before, window=w), past
        where = positions_BT + before
        tables = {
            (r, size): r and rope.tables_of(r, size or c.head_dim, where, length=length)
            for r, size in dict.fromkeys((kind.rope, kind.head_dim) for kind in c.kinds)
        }
        return {
            kind: base.Context(
                keys, tables[kind.rope, kind.head_dim], segments_BT,
                kind.rope and rope.query_factor(kind.rope, where), past,
            )
            for kind in dict.fromkeys(c.kinds)  # not once a layer: programs would grow with depth
            for keys, past in [seen[kind.window]]
        }  # fmt: skip

    def _layers(self, params, x, adapters, make: Callable, layer_inputs, *, keep: bool):
        """Run all layers: x, new keys and values, and what they give beside it, both by stack."""
        kinds, news, given = self.config.kinds, self._by_stack(), self._by_stack()
        prefix = virtual_tokens.prefix(adapters, legal=not self.caches)  # caches: of another shape
        every = jnp.arange(len(kinds)), prefix, layer_inputs
        shared = {kind.shares for kind in kinds if kind.shares}
        for run in layer_runs.runs(kinds):
            own = {name: jnp.arange(len(numbers)) for name, numbers in self.stacks.items()}
            stacks = {name: (params[name], adapters.get(name), own[name]) for name in run.stacks}
            inputs = functools.partial(layer_runs.inputs, kinds, run, stacks, every)
            last = {n: jax.tree.map(lambda leaf: leaf[-1], news[n][-1]) for n in shared if news[n]}
            kept = {name: keep or name in shared for name in run.stacks}
            layers = [make(run, turn, keep=kept, shared=last) for turn in range(len(run.group))]
            loop = dict(length=run.count, policy=self.remat, loop=not self.scan)
            x, outputs = base.scan(layers, x, inputs if keep else inputs(), **loop)
            for name in run.stacks:
                own = [o for o, kind in zip(outputs, run.group, strict=True) if kind.stack == name]
                news[name].append(layer_runs.interleave([new for new, _ in own]))
                given[name].append(layer_runs.interleave([aux for _, aux in own]))
        join = lambda parts: {name: layer_runs.join(own) for name, own in parts.items()}
        return x, {name: new and new[0] for name, new in join(news).items()}, join(given)

    def _layer(
        self, run: layer_runs.Run, turn: int, *, contexts, past, key, keep, shared
    ) -> Callable:  # fmt: skip
        """Make the layer at one place of a group, a function of its x and the group's inputs.

        It reads its part of `past`, the cache, where that lies. New keys and values are given where
        they are to be kept, with those of a prompt; `shared` has them of the layers before whose
        keys and values others take, by stack.
        """
        kind = run.group[turn]
        graph = nnx.graphdef(self._abstract[kind.stack])
        at = sum(earlier.stack == kind.stack for earlier in run.group[:turn])

        def layer(streams, inputs):
            (x, prompt), (stacks, every) = streams, inputs
            pick = lambda tree_, index: tree.map_stacked(lambda leaf: leaf[index], tree_)
            block, adapters, place = tree.unshared(pick(stacks[kind.stack], at))
            number, prefix, own_input = pick(every, turn)
            layer_key = None if key is None else jax.random.fold_in(key, number)  # by depth
            site = base.Site(adapters or {}, layer_key)
            module, context = nnx.merge(graph, quantize.cast(block, self.dtype)), contexts[kind]
            source, place = (kind.shares, -1) if kind.shares else (kind.stack, place)
            lent, lent_prefix = shared[source] if kind.shares else (None, None)
            if prompt is not None:
                own = dataclasses.replace(context.virtual, shared=lent_prefix)
                prompt, prefix, _ = module(prompt, own, site)
            more = dict(prefix=prefix, shared=lent, layer_input=own_input)
            context = dataclasses.replace(context, **more)
            cut = lambda leaf: leaf[place, : x.shape[0]]  # place: a lender's where there is one
            x, new, aux = module(x, context, site, past and jax.tree.map(cut, past[source]))
            return (x, prompt), ((new, prefix) if keep[kind.stack] else None, aux)

        return layer

    def _by_stack(self) -> dict[str, list]:
        return {name: [] for name in self.stacks}

    def cast(self, params) -> base.Params:
        """Cast the stacks of layers to the compute type: once, for who runs them many times."""
        own = {name: quantize.cast(params[name], self.dtype) for name in self.stacks}
        return {**params, **own}

    def auxiliary_terms(self, aux, segments_BT) -> dict[str, Mean] | None:
        """Compute the family's own "loss", and metrics, of what `hidden(aux=True)` gave."""
        return self.auxiliary and self.auxiliary(self.config, aux, segments_BT)

    def head(self, params, adapters=None) -> tuple[jax.Array, float | None]:
        """Return the output embedding w_VD with its adapters merged in, and the cap of the logits.

        A tied head is the embedding, the adapter of the embedding included.
        """
        own, w = tree.unshared(adapters or {}), params["embed" if self.config.tied else "head"]
        w = quantize.dense(w, self.dtype)
        if self.config.tied and "embed" in own:  # one weight at both ends
            w = own["embed"].merge(linear.LOOKUP, w)
        if "head" in own:
            w = own["head"].merge(linear.HEAD, w)
        return w, self.config.logit_cap

    def logits(self, params, x, *, adapters=None) -> jax.Array:
        """Compute logits [..., V] in float32 of hidden states [..., D]."""
        w, cap = self.head(params, adapters)
        z = products.matmul(x.reshape(-1, x.shape[-1]), w.astype(self.dtype).T)
        return softcap.apply(z.astype(jnp.float32), cap).reshape(*x.shape[:-1], -1)

    def init_cache(self, *, batch: int, length: int, dtype=None) -> dict[str, Any]:
        """Make an empty cache for rows of up to `length` positions, by stack; see `base.CACHE`."""
        sizes = self.config.sizes | dict(B=batch, S=length)
        sizes = {name: sizes | {"L": len(numbers)} for name, numbers in self.stacks.items()}
        make = functools.partial(base.empty_cache, dtype=dtype or self.dtype)
        return {name: make(self._letters[name], own) for name, own in sizes.items()}

    @property
    def _letters(self) -> dict[str, Mapping[str, str]]:
        """The letters of the cache of every stack."""
        special = {name: dict(letters) for name, letters in self.caches}
        return {name: special.get(name, base.CACHE) for name in self.stacks}

    def _slots(self, cache) -> int:
        """Count the slots of a cache: the positions that a row may have."""
        found = (
            cache[name][leaf].shape[order.index("S")]
            for name, own in self._letters.items()
            for leaf, order in own.items() if "S" in order
        )  # fmt: skip
        return next(found, self.config.max_positions)


def make(
    config: Config, *, ends: Callable, blocks: Mapping[str, Callable],
    caches: Mapping[str, Mapping[str, str]] | None = None,
    auxiliary: Callable | None = None, remat: str = "light", dtype=jnp.float32, scan: bool = True,
) -> Model:  # fmt: skip
    """Make the handle of a model.

    Args:
      config: sizes and numerics.
      ends, blocks: makers of the family's modules; blocks by the name of their stack.
      caches: the letters of what a stack's layers cache, where it is not `base.CACHE`.
      auxiliary: `(config, aux, segments_BT) -> {"loss": Mean, metric: Mean}` of what the blocks
        give beside their states.
      remat: what the backward pass keeps, and where: a name of `ops.remat`.
      dtype: the type of the computation; the parameters' own type may differ.
      scan: False unrolls the layers, for tests.
    """
    policies.check(remat)
    special = tuple((name, tuple(letters.items())) for name, letters in (caches or {}).items())
    own = config, ends, tuple(blocks.items()), special, auxiliary, remat, scan, jnp.dtype(dtype)
    # One handle of all that are equal, in what their files have beside (`wrapper.Wrapped`) too.
    return _once(own, repr(config))


_once = memo.keep(8)(lambda own, _: Model(*own))
