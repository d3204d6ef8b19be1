"""From a source's rows to a store of encoded examples, with an account of every loss.

    data = load(name="jsonl", path="train.jsonl", kind="prompt", tokenizer=tokenizer,
                max_tokens=1024)
    data.store[i]                           # Example i
    data.count["no target left"]            # pieces left out because truncation left no target

Nothing leaves silently: a row is an example, several pieces, or counted under a reason.
"""

import dataclasses
import functools
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.core.typed import Share
from ftjax.data import (
    answer_groups,
    cache,
    chat,
    copies,
    encode,
    forms,
    hold_out,
    kinds,
    packing,
    rows,
    spool,
    stops,
    tokenizer_files,
)
from ftjax.data.row import BadRow
from ftjax.data.rows import SKIP_HINT, Rows
from ftjax.data.sources.mixture import Mixture, Part
from ftjax.data.store import Store
from ftjax.data.tokenizer import Tokenizer

# Rows tokenised in one call: enough to keep the tokenizer's threads busy, and to report progress.
CHUNK = 1024

Progress = Callable[[int, int], None]


class Data(NamedTuple):
    """Encoded parts. counts and shares: examples and share of each part, in the store's order.

    kind: of their batches, a name in `kinds.BATCHES`. rows: checked rows read. count: what happened
    to them. bad: rows that could not be used. forms: form of `forms` -> rows. unread: column ->
    rows in which nobody read it. turns: of all examples, the learned `turns` and those that `ended`
    in a stop token. duplicates: rows that are the same as another one of their part. copies: what
    rows nearly repeat of each other, and of the evaluations. held_out: rows held back from these,
    or in data that were held back, all the others.
    """

    store: Store | answer_groups.Groups
    kind: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    rows: int
    count: Counter
    bad: list[BadRow]
    pad_id: int
    forms: Counter
    unread: Counter
    turns: Counter
    duplicates: int
    copies: copies.Copies
    held_out: int


class Encoder(NamedTuple):
    """How rows become examples; options: those of `encode.examples`; overlong: as for `load`."""

    tokenizer: Tokenizer
    max_tokens: int
    overlong: str | None
    options: Mapping
    batch: kinds.BatchKind
    stop_ids: tuple[int, ...] = ()

    def ended(self, example) -> Counter:
        """Count the learned turns of an example, and those that end in a stop token."""
        answers = example.answers if isinstance(example, answer_groups.Group) else [example]
        each = (stops.count(one, self.stop_ids, self.tokenizer.decode) for one in answers)
        return sum(each, Counter())

    def examples(self, chosen: Sequence[dict], count: Counter) -> list:
        """Encode rows, whatever their length; counts what happened to them once all are."""
        own = Counter()  # of a chunk with a bad row nothing is to be counted
        found = self.batch.encode(chosen, self.tokenizer, count=own, **self.options)
        count += own
        return found

    def unread(self, row: dict) -> set[str]:
        """Return the keys of a row's messages that its template does not read."""
        return encode.unread(row, self.options["template"])

    def fit(self, example, kind: str) -> tuple[list, Counter]:
        """Return the pieces that fit and what happened; kind: of the row, in `kinds.KINDS`."""
        own = kinds.KINDS[kind]
        overlong = self.overlong or own.overlong
        pieces, count = self.batch.fit(example, self.max_tokens, overlong=overlong)
        answers = "response" in own.fields and self.options["loss"] == "completion"
        if answers and example.weights[0] > 0:
            # Behind an empty prompt, and no bos, nothing predicts it.
            count[encode.UNPREDICTED] += 1
        return pieces, count


def load(
    *, name: str, tokenizer, max_tokens: int, kind: str = "prompt", fields: Mapping | None = None,
    hold_out: Share = 0.0, held: bool = False, packing: str = "bfd", overlong: str | None = None,
    on_bad_row: str = "error", form: str = "auto", roles: Mapping | None = None, turns: str = "all",
    on_duplicate: str = "keep", on_near_duplicate: str = "keep", on_overlap: str = "keep",
    loss: str = "completion", chat_template: str | None = None,
    template_args: Mapping | None = None, date: str = "", allow_dropped: Sequence[str] = (),
    allow_no_stop: bool = False, append_eos: bool = True, special: bool = True,
    progress: Progress | None = None, eval_texts: Mapping[str, copies.Texts] | None = None,
    collect: Callable[[copies.Texts], None] | None = None, **source,
) -> Data:  # fmt: skip
    """Open a source by name, check its rows and encode them.

    name: a source module of `ftjax.data` or a dotted path, `source` its keywords. tokenizer: one,
    or its path. kind, fields, on_bad_row, form, roles, turns, on_duplicate: see `rows.check`.
    overlong: see `_overlong`. loss, append_eos, special: see `encode.examples`. chat_template and
    what follows: see `chat.find`. hold_out: the share of rows to leave out; held: they and no
    others. on_near_duplicate, on_overlap: see `_looked_at`, with eval_texts of evaluations by
    label. allow_no_stop: accept data none of whose answers end in a stop token. progress: called
    with (rows done, rows). collect: called with the rows' texts.
    Raises ValueError naming the key, or the file, line and field.
    """
    _check_loss(loss, turns)
    tokenizer = _opened(tokenizer)
    reading = dict(kind=kind, fields=fields, on_bad_row=on_bad_row, form=form, roles=roles)
    reading |= dict(turns=turns, on_duplicate=on_duplicate)
    fitting = dict(max_tokens=max_tokens, packing=packing, overlong=_overlong(overlong, packing))
    template = dict(choice=chat_template, arguments=template_args, date=date)
    template["allow_dropped"] = allow_dropped
    encoding = dict(loss=loss, append_eos=append_eos, special=special)
    looking = _looking(eval_texts, near_duplicates=on_near_duplicate, overlaps=on_overlap)
    own = (reading, fitting, template, encoding, looking, dict(share=hold_out, held=held))
    request = Request(name, source, tokenizer, *own)
    if collect is not None:
        rows = copies.Later(lambda: request.parts)
        collect(copies.Texts(rows, rows.where))
    data = cache.keep(request.key(), lambda: request.make(progress), kind=Data)
    if append_eos and not allow_no_stop:
        stops.check(data.turns)
    return data


@dataclasses.dataclass(frozen=True)
class Request:
    """Which data, and what is to be made of them: the keywords of `load` by who takes them."""

    name: str
    source: dict
    tokenizer: Tokenizer
    reading: dict
    fitting: dict
    template: dict
    encoding: dict
    looking: dict
    holding: dict

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The checked rows, read when somebody asks for them."""
        return _parts(self.name, dict(self.source), holding=self.holding, **self.reading)

    def make(self, progress: Progress | None) -> Data:
        """Encode them."""
        parts, found = _looked_at(self.parts, **self.looking)
        own = dict(fitting=self.fitting, template=self.template, encoding=self.encoding)
        encoder = _encoder(parts, self.tokenizer, **own)
        mode = self.reading["on_bad_row"]
        return prepare(parts, encoder, on_bad_row=mode, progress=progress)._replace(copies=found)

    def key(self) -> str:
        """Return the name of what is kept of it on the disk; see `cache`."""
        options = self.reading | self.fitting | self.template | self.encoding | self.looking
        options |= self.holding
        eval_texts = options.pop("eval_texts")
        options["searched"] = eval_texts is not None
        if (choice := self.template["choice"]) and pathlib.Path(choice[:255]).is_file():
            options["template"] = pathlib.Path(choice).read_text(encoding="utf-8")
        return cache.key_of(self.name, self.source, self.tokenizer, options, eval_texts)


def _encoder(parts, tokenizer, *, fitting: dict, template: dict, encoding: dict) -> Encoder:
    """Make what encodes the rows of these parts."""
    options = encoding | {"template": _template(tokenizer, parts=parts, **template)}
    batch = _batch_kind(parts, packing=fitting["packing"], loss=encoding["loss"])
    stop_ids = stops.ids(tokenizer, options["template"])
    size = fitting["max_tokens"], fitting["overlong"]
    return Encoder(tokenizer, *size, options, batch, stop_ids)


def _opened(tokenizer) -> Tokenizer:
    """Return a tokenizer, read where its path is given."""
    is_path = isinstance(tokenizer, str | os.PathLike)
    return tokenizer_files.load(tokenizer) if is_path else tokenizer


def _looking(eval_texts: Mapping | None, *, near_duplicates: str, overlaps: str) -> dict:
    """Return what is looked for, checked."""
    copies.check_modes(on_near_duplicate=near_duplicates, on_overlap=overlaps)
    if eval_texts is None and overlaps in ("skip", "error"):
        raise ValueError(
            f"data.on_overlap: got {overlaps!r} where there are no evaluations to compare with; "
            "expected it in the data of a run's training; drop it"
        )
    return dict(eval_texts=eval_texts, near_duplicates=near_duplicates, overlaps=overlaps)


def _looked_at(
    parts: Sequence[Part], *, eval_texts: Mapping | None, near_duplicates: str, overlaps: str
) -> tuple[Sequence[Part], copies.Copies]:
    """Look for what the rows repeat, near each other or of evaluations; see `copies`.

    Of data that are not of a run's training there are no evaluations (eval_texts is None), and
    nobody looks unless asked to.
    """
    if eval_texts is None and near_duplicates == "keep":
        return parts, copies.Copies()
    modes = dict(near_duplicates=near_duplicates, overlaps=overlaps)
    return copies.look(parts, eval_texts=eval_texts or {}, **modes)


def _check_loss(loss: str, turns: str) -> None:
    _legal("loss", loss, legal=encode.LOSSES)
    if turns != "all" and loss == "all":
        raise ValueError(
            f"data.turns: got {turns!r} with loss='all', which learns every token; expected 'all'; "
            "change one of them"
        )


def _parts(name: str, source: dict, *, holding: dict, form: str, **reading) -> tuple[Part, ...]:
    """Open the source; `form` is its own keyword where it has one."""
    if forms.of_source(name, where="data.name"):
        source |= {} if form == "auto" else {"form": form}
        form, offered = "auto", reading
    else:
        offered = {"form": form, **reading}
    opened = conf.build({"name": name, **source}, "data.sources", where="data", **offered)
    if isinstance(opened, Mixture):
        if holding["share"]:
            raise ValueError(
                f"data.hold_out: got {holding['share']} of a mixture; expected 0; give evaluations "
                "data of their own"
            )
        return opened.parts
    check = functools.partial(rows.check, form=form, **reading)
    found = hold_out.checked(opened, check, **holding) if holding["share"] else check(opened)
    return (Part(name, found, 1.0),)


def _legal(key: str, value, *, legal: tuple[str, ...]) -> None:
    if value not in legal:
        hint = conf.nearest(str(value), legal)
        raise ValueError(f"data.{key}: got {value!r}; expected one of {', '.join(legal)}; {hint}")


def _overlong(overlong: str | None, strategy: str) -> str | None:
    """Return what is done about long examples, see `encode.fit`.

    None is left to the kind of each row, see `kinds`; packings that cut by themselves get all.
    """
    _legal("packing", strategy, legal=packing.STRATEGIES)
    cuts = strategy in packing.CUTTING
    if overlong is None:
        return "keep" if cuts else None
    _legal("overlong", overlong, legal=encode.OVERLONG)
    if overlong == "keep" and not cuts:
        raise ValueError(
            f"data.overlong: got 'keep' with packing={strategy!r}; expected a packing that cuts by "
            f"itself ({', '.join(packing.CUTTING)}); set overlong='truncate', 'split' or 'drop'"
        )
    return overlong


def _batch_kind(parts: Sequence[Part], *, packing: str, loss: str) -> kinds.BatchKind:
    """Return what the rows are learned from as; a data set has one kind of it."""
    found = {kinds.KINDS[part.rows.kind].batch for part in parts}
    if len(found) > 1:
        mixed = "preferences beside plain examples"
        if all(batch.judged for batch in found):
            mixed = f"answers of the kinds {conf.listed(batch.name for batch in found)}"
        raise ValueError(
            f"data.parts: got {mixed}; expected one or the other; set the same `kind` for all parts"
        )
    batch = found.pop()
    if packing not in batch.packings:
        judged = (kind for kind in kinds.KINDS if kinds.KINDS[kind].batch.judged)
        raise ValueError(
            f"data.packing: got {packing!r} for kinds {conf.listed(judged)}; expected "
            f"{' or '.join(map(repr, batch.packings))}, which leave answers whole"
        )
    _legal("loss", loss, legal=batch.losses)
    return batch


def _template(tokenizer, *, parts, choice: str | None, **options) -> chat.Template | None:
    if any(encode.has_messages(row) for part in parts for row in part.rows):
        return chat.find(choice, tokenizer, **options)
    if options["arguments"]:
        raise ValueError(
            f"data.template_args: got {options['arguments']!r}, and no row has messages; expected "
            "none; set data.kind='chat' for rows that are to go through a template"
        )
    return None


def prepare(
    parts: Sequence[Part], encoder: Encoder, *, on_bad_row: str = "error",
    progress: Progress | None = None,
) -> Data:  # fmt: skip
    """Encode every row of every part.

    Raises ValueError for a row that a template refuses (unless skipped), and for an empty part.
    """
    total = sum(len(part.rows) for part in parts)
    examples, counts, count, bad, done = spool.List(), [], Counter(), [], 0
    turns, forms, unread = Counter(), Counter(), Counter()
    for part in parts:
        before, good = len(examples), len(bad) + len(part.rows.bad)
        bad += part.rows.bad
        forms += part.rows.forms
        unread += part.rows.unread
        for chunk in _chunks(len(part.rows)):
            for i, example in _encoded(part.rows, chunk, encoder=encoder, bad=bad, count=count):
                turns += encoder.ended(example)
                unread.update(encoder.unread(part.rows[i]))
                pieces = _fitted(part.rows, i, example=example, encoder=encoder, count=count)
                examples.extend(pieces)
            if len(bad) > good and on_bad_row == "error":  # duplicates may be left out besides
                raise ValueError(bad[good].message + SKIP_HINT)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        counts.append(len(examples) - before)
        if not counts[-1]:
            raise ValueError(_nothing_left(part, count, bad=bad))
    names, shares = tuple(p.name for p in parts), tuple(p.share for p in parts)
    store = encoder.batch.store(examples, encoder.max_tokens)
    same = sum(part.rows.duplicates for part in parts)
    counted = dict(forms=forms, unread=unread, turns=turns, duplicates=same)
    counted |= dict(copies=copies.Copies(), held_out=sum(p.rows.held_out for p in parts))
    known = encoder.batch.name, names, tuple(counts), shares
    return Data(store, *known, total, count, bad, encoder.tokenizer.pad_id, **counted)


def _chunks(size: int) -> Iterator[range]:
    return (range(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def _encoded(
    source: Rows, chunk: range, *, encoder: Encoder, bad: list[BadRow], count: Counter
) -> Iterator[tuple]:
    """Yield (row number, example), noting the rows that a template refuses in `bad`."""
    try:
        found = encoder.examples([source[i] for i in chunk], count)
    except chat.TemplateError:
        pass  # one of them: find out which, one at a time
    else:
        yield from zip(chunk, found, strict=True)
        return
    for i in chunk:
        try:
            yield i, encoder.examples([source[i]], count)[0]
        except chat.TemplateError as error:
            where = source.where(i)
            bad.append(BadRow(where, "chat template", f"{where}: field 'messages': {error}"))


def _fitted(source: Rows, i: int, *, example, encoder: Encoder, count: Counter):
    try:
        pieces, happened = encoder.fit(example, source.kind)
    except ValueError as error:
        raise ValueError(f"{source.where(i)}: {error}") from error
    count.update(happened)
    return pieces


def _nothing_left(part: Part, count: Counter, *, bad: list[BadRow]) -> str:
    lost = (f"{n} x {what}" for what, n in count.items() if what not in encode.REMARKS)
    why = ", ".join(lost) or "no rows"
    first = f"; the first bad row: {bad[0].message}" if bad else ""
    mend = "raise max_tokens or " if count["truncated"] or count[encode.TOO_LONG] else ""
    return (
        f"data: part {part.name!r} ({part.rows.where(0)} and on): got no example from "
        f"{len(part.rows)} rows ({why}); expected at least one with a target; {mend}check the "
        f"fields and weights{first}"
    )
