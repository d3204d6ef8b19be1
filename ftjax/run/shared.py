"""What runs of one process have in common, built once and handed from run to run.

    shared = Shared()
    for settings, workdir in runs:
        train(settings, workdir, shared=shared)

Tokenizers, encoded data, evaluators, the weights of a base and the compiled step are kept by what
they are made of: every key of a config that they read. Two runs that differ in their seed share all
of them, and so do two that differ in the learning rate. A run is the same with and without.
"""

import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.core import files, tree
from ftjax.data import hold_out, prepare, tokenizer_files
from ftjax.report.pages import Pages
from ftjax.run import measured

# Keys of a config that an evaluation does not read. `model` and `data` are looked at one by one.
NOT_OF_EVALS = (
    "model", "data", "tokenizer", "adapter_from", "seed", "penalties", "anchors", "optim", "steps",
    "epochs", "min_steps", "batch_size", "accumulate", "compile", "ema_decay", "log_every_steps",
    "eval_every_steps", "checkpoint", "export", "tracker",
)  # fmt: skip
# Those that the step does not read, or takes as arguments: seeds, weights, numbers.
NOT_OF_STEP = (
    "model", "data", "tokenizer", "adapter_from", "seed", "evals", "samples", "steps", "epochs",
    "min_steps", "log_every_steps", "eval_every_steps", "checkpoint", "export", "tracker",
    "ema_decay",
)  # fmt: skip
# Of `data`, what an evaluation takes from the run's section.
DATA_OF_EVALS = (
    "max_tokens", "kind", "chat_template", "template_args", "allow_dropped", "date",
)  # fmt: skip


class Shared:
    """Parts of runs by what they are made of; see above.

    base: the one base whose weights are kept, as `model.base` names it; those of others, such as
      a merged model that one run alone starts from, are read each time.
    pages: draws the reports of the runs while others go on; without it each run draws its own.
    """

    def __init__(self, *, base: str = "", pages: Pages | None = None):
        self._base, self._kept = base, {}
        self.pages = pages

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def tokenizer(self, path: str, *, new_tokens: Sequence[str] = ()):
        """Read a tokenizer, once; see `tokenizer_files.load`."""
        read = lambda: tokenizer_files.load(path, new_tokens=new_tokens)
        return self._once(("tokenizer", str(path), *new_tokens), read)

    def data(
        self, *, tokenizer, eval_texts: Mapping | None = None, progress=None, **options
    ) -> prepare.Data:
        """Open and encode a data section, once; see `prepare.load`."""
        given = dict(tokenizer=tokenizer, eval_texts=eval_texts, progress=progress)
        # By identity: both are kept, so that nothing else takes their place in memory.
        same = (
            id(tokenizer),
            eval_texts is None,
            tuple((label, id(texts)) for label, texts in (eval_texts or {}).items()),
        )
        return self._once(("data", same, _text(options)), lambda: prepare.load(**given, **options))

    def evaluation(self, parts, build: Callable):
        """Build the evaluators of a config, once, and with them their compiled programs."""
        plain = parts.settings.plain
        # What the run holds back is of its own rows.
        holds = any(spec["data"].get("name") == hold_out.NAME for spec in plain["evals"].values())
        data = plain["data"]
        data = data if holds else {key: data[key] for key in DATA_OF_EVALS if key in data}
        # Ranks and scales are arrays that it is handed, numbers of the loss it has no use for.
        adapter = _without({**plain["adapter"], "past": None}, ("rank", "alpha", "rslora"))
        read = _without(plain, NOT_OF_EVALS) | {"data of the run": data, "adapter": adapter}
        read["objective"] = _without(plain["objective"], parts.spec.hyper)
        key = ("evals", id(parts.tokenizer), _model(parts), _base(parts), _text(read))
        return self._once(key, lambda: build(parts))

    def scores(self, evaluation, params, seed: int, measure: Callable):
        """Evaluate weights, once: the same arrays under the same evaluators have the same scores.

        evaluation: one of this object's own.
        """
        if (known := measured.digest(params)) is None:
            return measure()
        return self._once(("scores", id(evaluation), seed, known), measure)

    def adapters(self, parts, make: Callable):
        """Compile the start of adapters, once; the key, the base and what was found are arguments.

        Adapters of past tasks are constants of the program, which is then this run's alone.
        """
        if parts.frozen_adapters:
            return make()
        of = _text(parts.settings.plain["adapter"])
        key = ("adapters", _model(parts), parts.mesh, parts.patterns, of)
        return self._once(key, make)

    def step(self, program, make: Callable):
        """Compile the step of a program, once; numbers that are its arguments may differ."""
        return self._once(("step", *_program(program)), lambda: make(program))

    def first_state(self, program, make: Callable):
        """Compile what makes the state before the first step, once; the seed is an argument."""
        return self._once(("first state", *_program(program)), lambda: make(program))

    def weights(self, parts, read: Callable) -> tuple[Any, dict]:
        """Read a base, once; what trains of it is copied, since the step donates its state."""
        base = parts.settings.model.base
        # Of the Hub it is asked for as it is called, and used at the commit of the run.
        name = lambda text: text.partition("@")[0]
        # Quantised codes depend on the adapter's start (LoftQ), so they are no common part.
        if name(base) != name(self._base) or parts.quantizers:
            return read(parts)
        types = tuple(sorted((path, str(dtype)) for path, dtype in parts.dtypes.items()))
        # The types too: full fine-tuning keeps float32 copies where LoRA keeps bfloat16.
        key = ("weights", base, parts.mesh, _model(parts), types, parts.settings.seed.init)
        model, rests = self._once(key, lambda: read(parts))
        trains = lambda path: any(tree.matches(p, f"model/{path}") for p in parts.patterns)
        copy = lambda path, leaf: jnp.copy(leaf) if trains(path) else leaf
        return tree.map_with_paths(copy, model), rests


def _program(program) -> tuple:
    """Return what decides which step a program has, apart from its arguments."""
    plain, parts = program.settings.plain, program.parts
    read = _without(plain, NOT_OF_STEP) | {
        "adapter": {**plain["adapter"], "past": None},
        "optim": _without(plain["optim"], program.hyper["optim"]),
        "objective": _without(plain["objective"], program.hyper["objective"]),
        "schedule ends": program.steps,
    }
    # What is switched on or off by None or 0 is seen by which numbers there are.
    structure = jax.tree.structure((program.state, program.hyper))
    # Adapters on top of past ones are another tree; where they come from is in no program.
    return _model(parts), _base(parts), _text(read), structure


def _model(parts) -> str:
    """Describe the model apart from its weights: merged ones have the sizes of their base."""
    spec = _without(parts.settings.plain["model"], ("base",))
    # New tokens may take rows that the base had no token for: its sizes do not say so.
    own = f"{parts.model.config} {parts.model.dtype} {parts.new_ids}"
    return f"{parts.family.__name__} {own} {_text(spec)}"


def _base(parts) -> tuple:
    """Return what decides which weights a run is compared with, wherever it starts from."""
    return parts.reference.name, parts.starts_as_base


def _without(plain: Mapping, names: Collection[str]) -> dict:
    return {key: value for key, value in plain.items() if key not in names}


def _text(value: Any) -> str:
    return json.dumps(files.plain(value), sort_keys=True)
