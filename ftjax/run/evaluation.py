"""The evaluations of a run: what `evals` in a config says, built once and run before and after.

    c.evals.medical = dict(name="nll", group="new", data=dict(name="jsonl", path="test.jsonl"))
    c.evals.facts = dict(name="generate", group="new", data=dict(name="embedded", domain="facts"))

`group` sorts the labels of the learned/forgotten table: "new" is what the run teaches, "old" what
it must not forget, "later" what a later run will teach. Scores of every example are kept in
DIR/evals/<step>.npz, so that a change between two steps has a paired confidence interval; what was
written, of evaluations that let the model write, in DIR/evals/<label>_<step>.jsonl.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

from ftjax.core import config as conf
from ftjax.core import errors
from ftjax.core import mesh as meshes
from ftjax.core.typed import Count
from ftjax.data import copies, hold_out
from ftjax.data import loader as loaders
from ftjax.data import rows as rows_lib
from ftjax.evals import generate, preference
from ftjax.run import build as setup
from ftjax.run import prompting, reward_model, samples, stated_metrics
from ftjax.run.measured import Evaluation
from ftjax.sampling import text
from ftjax.train import state as states

# In the order of the table's parts: what was learned, what it cost, what is still to come.
GROUPS = ("new", "old", "later")
# Not the training's: without gradients more rows fit, and scores must not depend on its size.
BATCH = 16
# Keys of a data section that an evaluation takes from the run's.
TEMPLATE = ("chat_template", "template_args", "allow_dropped", "date")
# Keys of a data section that are of training alone.
OF_TRAINING = (
    "packing", "shuffle", "epochs", "seed", "on_duplicate", "on_near_duplicate",
    "on_overlap",
)  # fmt: skip
SAMPLED = ("max_new_tokens", "temperature", "until")


def check(evals: Mapping) -> None:
    """Check what can be checked of a config's evaluations without reading data.

    Raises:
      ValueError: naming evals.<label> and its key.
    """
    for label, spec in evals.items():
        where, group = f"evals.{label}", spec.get("group", "old")
        for key in ("name", "data"):
            if key not in spec:
                raise ValueError(f"{where}: got the keys {conf.listed(spec)}; expected also {key}")
        if group not in GROUPS:
            hint = conf.nearest(group, GROUPS)
            raise ValueError(
                f"{where}.group: got {group!r}; expected one of {', '.join(GROUPS)}; {hint}"
            )
        conf.resolve(spec["name"], "evals", where=f"{where}.name")
        conf.check(spec["data"], dict, where=f"{where}.data")
        conf.check(spec.get("rows"), Count | None, where=f"{where}.rows")
        conf.check(spec.get("chat"), bool | None, where=f"{where}.chat")
        loaders.check_types(spec["data"], where=f"{where}.data")
        conf.resolve(spec["data"].get("name"), "data.sources", where=f"{where}.data.name")


def check_best(settings) -> None:
    """Check that the metric which the best checkpoint is chosen by will be there.

    Raises:
      ValueError: it will not; the message lists the names there are.
    """
    best, names, open_ended = settings.checkpoint.best, ["loss", "grad_norm"], []
    for label, spec in settings.evals.items():
        known = conf.attribute(spec["name"], "evals", "METRICS", where=f"evals.{label}.name")
        names += [f"eval/{label}/{metric}" for metric in known or ()]
        open_ended += [] if known else [f"eval/{label}/"]
    if best and best not in names and not best.startswith(tuple(open_ended)):
        every = conf.listed([*names, *(f"{start}*" for start in open_ended)])
        raise ValueError(
            f"checkpoint.best: got {best!r}; {conf.nearest(best, names)}expected one of {every}; "
            "change it, or add an evaluation that measures it"
        )


def build(parts: setup.Parts) -> Evaluation:
    """Build the evaluators of a config.

    Raises:
      ValueError: naming evals.<label> and its key.
    """
    evals = parts.settings.evals
    check(evals)
    texts: dict[str, copies.Texts] = {}
    evaluators = {}
    for label, spec in evals.items():
        try:
            evaluators[label] = _evaluator(dict(spec), parts, where=f"evals.{label}", texts=texts)
        except hold_out.TooFew as error:
            texts.pop(f"evals.{label}", None)
            if jax.process_index() == 0:
                sys.stderr.write(f"evals.{label}: left out: {error}\n")
    groups = {label: spec.get("group", "old") for label, spec in evals.items()}
    stated = stated_metrics.stated(evals)
    return Evaluation(evaluators, groups, samples.sampler(parts, texts), texts, stated)


def _evaluator(spec: dict, parts: setup.Parts, *, where: str, texts: dict):
    spec.pop("group", None)
    data, limit = dict(spec.pop("data")), spec.pop("rows", None)
    section = Section(spec, data, limit, parts, where, functools.partial(texts.__setitem__, where))
    offered = dict(model=parts.model, tokenizer=parts.tokenizer, mesh=parts.mesh)
    for name in inputs_of(spec["name"], where=where):
        offered |= INPUTS[name](section)
    if "batch_size" not in spec:  # inputs that sample have taken it
        offered["batch_size"] = batch_size(parts)
    return conf.build(spec, "evals", where=where, **offered)


class Section(NamedTuple):
    """What the config says of one evaluation; inputs take the keys that are theirs from `spec`."""

    spec: dict
    data: dict
    limit: int | None
    parts: setup.Parts
    where: str
    collect: Callable[[copies.Texts], None]  # takes the texts of all its rows

    @property
    def max_tokens(self) -> int:
        """What its rows are cut to: another length than the training's is another program."""
        return self.data.get("max_tokens", self.parts.settings.data["max_tokens"])


def inputs_of(name: str, *, where: str) -> tuple[str, ...]:
    """Return the names in INPUTS that an evaluator's module states, its rows where it states none.

    Raises:
      ValueError: there is no evaluator of this name, or no input of a name that it states.
    """
    stated = conf.attribute(name, "evals", "INPUTS", where=f"{where}.name") or ("rows",)
    for each in stated:
        if each not in INPUTS:
            raise ValueError(
                f"{where}.name: evaluator {name!r} has {each!r} among its INPUTS; expected some of "
                f"{conf.listed(INPUTS)}; {conf.nearest(each, INPUTS)}"
            )
    return tuple(stated)


def _encoded(section: Section) -> dict:
    """Encode examples as training does, with the bytes of what each asks for."""
    own, parts = section.data, section.parts
    examples = _examples(own, section)
    counts = _byte_counts(examples, parts.tokenizer)
    return dict(examples=examples, byte_counts=counts, max_tokens=section.max_tokens)


def examples(parts: setup.Parts, label: str) -> list:
    """Encode the rows of an evaluation as its loss is measured on them."""
    spec = parts.settings.evals[label]
    none, where = lambda texts: None, f"evals.{label}"
    return _examples(dict(spec["data"]), Section({}, {}, spec.get("rows"), parts, where, none))


def _paired(section: Section) -> dict:
    """Encode groups of answers, and the reference that they are compared with."""
    own, parts = {"kind": "preference"} | section.data, section.parts
    pairs, most = [group.answers for group in _examples(own, section)], section.max_tokens
    return dict(pairs=pairs, reference=parts.reference.params, max_tokens=most)


def _plain(section: Section) -> dict:
    return dict(rows=_rows(section))


def _answered(section: Section) -> dict:
    """Read rows, and make what answers their prompts."""
    spec, parts = section.spec, section.parts
    keys = dict(max_new_tokens=16, until=("\n",), batch_size=batch_size(parts))
    return _plain(section) | dict(respond=text.make(**_sampling(spec, keys, parts, section.data)))


def _rewarded(section: Section) -> dict:
    rows = _plain(section)["rows"]
    return _judged(section.spec, section.parts, section.data, rows, where=section.where)


def _with_base(section: Section) -> dict:
    """Return `base_of`: params -> those that the run started from.

    Raises:
      ValueError: weights of the base train, and no copy of them is held.
    """
    if (base_of := _start_of(section.parts)) is None:
        raise ValueError(
            f"{section.where}.name: got {section.spec['name']!r}, which compares with the base, in "
            "a run that trains the base's own weights and holds no copy of them; expected an "
            "adapter; or set reference.name='frozen', which holds a copy"
        )
    return dict(base_of=base_of)


# What an evaluator may ask for, by the name that its module states in INPUTS.
INPUTS: Mapping[str, Callable[[Section], dict]] = {
    "examples": _encoded, "pairs": _paired, "rows": _plain, "responses": _answered,
    "rewards": _rewarded, "base": _with_base,
}  # fmt: skip


def batch_size(parts: setup.Parts) -> int:
    """Return how many rows are scored at a time, unless an evaluation says otherwise."""
    return meshes.round_up_to_replicas(BATCH, parts.mesh)


def _sampling(spec: dict, keys: Mapping, parts: setup.Parts, data: Mapping) -> dict:
    """Take the keys of sampling, which have defaults, out of an evaluation's; add the parts."""
    given = keys | {key: spec.pop(key) for key in (*SAMPLED, "batch_size") if key in spec}
    form = _form(parts, data, chat=spec.pop("chat", None))
    return given | dict(
        model=parts.model, tokenizer=parts.tokenizer, mesh=parts.mesh, stop_ids=form.stop_ids,
        encode=prompting.encode_of(parts.tokenizer, form),
    )  # fmt: skip


def _judged(spec: dict, parts: setup.Parts, data: Mapping, rows: list[dict], *, where: str) -> dict:
    """Make the sampling and the rewards of an evaluation: the run's own, unless told otherwise.

    Prompts that leave no room for an answer are left out, as in training, and that is said.
    """
    rollout, chosen = parts.settings.rollout, spec.pop("rewards", parts.settings.rewards)
    if not chosen or (rollout is None and "max_new_tokens" not in spec):
        raise ValueError(
            f"{where}: got the keys {conf.listed(spec)}; expected also rewards where the run has "
            "none, and max_new_tokens where it samples nothing to learn from"
        )
    own = {key: vars(rollout)[key] for key in SAMPLED} if rollout else dict(temperature=1.0)
    sampling = _sampling(spec, own | dict(batch_size=batch_size(parts)), parts, data)
    faults = rollout.faults if rollout else "raise"
    most = parts.settings.data["max_tokens"] - sampling["max_new_tokens"]
    size = lambda row: len(sampling["encode"](generate.prompt_of(row)))
    # The sampler would refuse the whole batch for one of them.
    kept = [row for row in rows if size(row) <= most]
    if len(kept) < len(rows):
        told = f"{len(rows) - len(kept)} of {len(rows)} prompts have more than {most} tokens"
        sys.stderr.write(f"{where}: {told}: left out\n")
    return dict(
        rows=kept, sample=text.make_sampler(**sampling), base_of=_start_of(parts),
        rewards=reward_model.make(chosen, faults=faults, mesh=parts.mesh),
    )  # fmt: skip


def _start_of(parts: setup.Parts) -> Callable | None:
    """Return `params -> those that the run started from`; None where they are not held."""
    trainable, _ = states.split(parts.abstract, parts.patterns)
    if parts.reference.name == "frozen":
        return parts.reference.params
    moves = jax.tree.leaves(trainable["model"]) or not parts.starts_as_base
    return None if moves else preference.adapters_off


def _form(parts: setup.Parts, data: Mapping, *, chat: bool | None) -> prompting.Form:
    """Return the form of an evaluation's prompts: the run's, unless it says otherwise.

    chat: whether a text is what a user says; None as in the run.
    """
    shown = dict(_templated(parts, data), kind=parts.settings.data.get("kind"))
    form = prompting.form_of(parts.tokenizer, shown)
    return form if chat is None else form._replace(wraps=chat)


def _templated(parts: setup.Parts, data: Mapping) -> Mapping:
    """Return a data section with the run's own template, unless it names another."""
    run = parts.settings.data
    own = {key: run[key] for key in TEMPLATE if key in run and "chat_template" not in data}
    return own | dict(data)


def _byte_counts(examples: list, tokenizer) -> list[int] | None:
    """Count the bytes of what each example asks for."""
    targets = (tokens[1:][weights[1:] > 0].tolist() for tokens, weights in examples)
    counts = [len(tokenizer.decode(t, skip_special_tokens=True).encode()) for t in targets]
    # Targets without text, such as special tokens alone, have no bits per byte.
    return counts if any(counts) else None


def _examples(data: dict, section: Section) -> list:
    """Encode a data section; length and template are the training's, unless it says otherwise."""
    parts = section.parts
    # What is wrong with rows of the run's own file is said as training says it.
    named = _named(f"{section.where}.data")
    if data.get("name") == hold_out.NAME:
        data, named = _held_out(data, section), contextlib.nullcontext()
    data.setdefault("max_tokens", section.max_tokens)
    if data.get("kind") == parts.settings.data.get("kind"):
        data = _templated(parts, data)
    given = dict(tokenizer=parts.tokenizer, batch_size=1, collect=section.collect)
    with named:
        store = loaders.opened(data, where="data", **given).data.store
    return [store[i] for i in samples.spread(len(store), section.limit)]


def _held_out(data: Mapping, section: Section) -> dict:
    """Return the data section of the run's training, for what it holds back."""
    run = section.parts.settings.data
    if not run.get("hold_out"):
        raise ValueError(
            f"{section.where}.data.name: got {hold_out.NAME!r} of a run that holds nothing back; "
            "expected data.hold_out above 0; set it, or leave the evaluation out (configs/sft.py: "
            "held=none)"
        )
    own = {key: value for key, value in run.items() if key not in OF_TRAINING}
    return own | dict(data, name=run["name"], held=True)


def _rows(section: Section) -> list[dict]:
    where = f"{section.where}.data"
    own = {key: value for key, value in section.data.items() if key not in TEMPLATE}
    source = conf.build(own, "data.sources", where=where)
    # In training a bad row may be skipped; a test that silently shrinks would compare unlike sets.
    if bad := getattr(source, "bad", ()):
        raise ValueError(f"{where}: {bad[0].message}")
    places = source.where if isinstance(source, rows_lib.Located) else str
    section.collect(copies.Texts(source, places, copies.of_raw))
    return [source[i] for i in samples.spread(len(source), section.limit)]


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the name of the evaluation before what its data are refused for."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, hold_out.TooFew) or not errors.is_message(error):
            raise
        raise ValueError(f"{where}: {error}") from error
