"""Tokenizers: text to ids and back, with the files they came from.

    tokenizer = tokenizer_files.load("llama3/")
    tokenizer.encode("Hello")              # with whatever the tokenizer itself adds, such as <bos>
    tokenizer.encode(text, special=False)  # "<|im_end|>" in the text stays text

Whatever `pad_id` is, padding is known by position, never by comparing ids: a tokenizer whose pad
token is its eos token still learns to stop.
"""

import copy
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROLES = ("bos", "eos", "pad")


class Encoding(NamedTuple):
    """Token ids and, for each, the [start, end) characters it covers."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """A `tokenizers.Tokenizer` with its special tokens, chat template and files.

    bos_id, eos_id: int or None. pad_id: an int in any case: the pad token, else eos, else 0.
    chat_template: Jinja source or None. vocab_size: the largest id + 1, added tokens included.
    stop_ids: the ids that the model's own files call ends of a text.
    """

    def __init__(
        self, backend, *, files: dict[str, bytes], names: dict[str, str | None], template,
        stop_ids: Sequence[int] = (),
    ):  # fmt: skip
        self._backend, self._files = backend, dict(files)
        self._literal = None
        self.bos_token, self.eos_token, self.pad_token = (names[role] for role in ROLES)
        self.bos_id, self.eos_id, pad_id = (self._id(names[role], role) for role in ROLES)
        self.pad_id = next((i for i in (pad_id, self.eos_id) if i is not None), 0)
        self.chat_template = template
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.stop_ids = tuple(i for i in stop_ids if 0 <= i < self.vocab_size)

    def _id(self, token: str | None, role: str) -> int | None:
        found = None if token is None else self._backend.token_to_id(token)
        if token is not None and found is None:
            raise ValueError(
                f"tokenizer: {role}_token: got {token!r}; expected a token of the vocabulary; "
                f"correct {role}_token in tokenizer_config.json"
            )
        return found

    @property
    def files(self) -> dict[str, bytes]:
        """Return the files that it was read from, by name."""
        return dict(self._files)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token given by its text, None when there is no such token."""
        return self._backend.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True, special: bool = True):
        """Return the ids of `text`.

        add_special_tokens: add what the tokenizer puts around a text (often bos).
        special: read strings such as "<|im_end|>" in the text as the token they spell; if not, they
        are ordinary text (tokens added to the vocabulary but not marked special are always read).
        A text that begins with bos does not get another one.
        """
        backend = self._parser(special=special)
        found = backend.encode(text, add_special_tokens=add_special_tokens).ids
        return found[self._doubled(found) :] if add_special_tokens else found

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, special: bool = True
    ) -> list[Encoding]:
        """Return ids and offsets of many texts, on several threads; options as for `encode`."""
        backend = self._parser(special=special)
        found = backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        found = [Encoding(each.ids, each.offsets) for each in found]
        if not add_special_tokens:
            return found
        doubled = (self._doubled(each.ids) for each in found)
        return [
            Encoding(each.ids[n:], each.offsets[n:]) if n else each
            for each, n in zip(found, doubled, strict=True)
        ]

    def _doubled(self, ids: Sequence[int]) -> int:
        """Count the bos tokens that another one follows."""
        if self.bos_id is None:
            return 0
        run = next((n for n, i in enumerate(ids) if i != self.bos_id), len(ids))
        return max(run - 1, 0)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def special_tokens(self) -> dict[str, int]:
        """Return the text and id of every token that is marked special."""
        added = self._backend.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    def aliased(self, aliases: Mapping[str, str]):
        """Return a backend that reads an alias where this one reads a special token, and no others.

        aliases: alias -> text of the special token. Returns (backend, id of alias -> real id).
        """
        from tokenizers import AddedToken

        added = {t.content: t for t in self._backend.get_added_tokens_decoder().values()}
        backend = copy.deepcopy(self._backend)
        backend.encode_special_tokens = True
        for alias, content in aliases.items():
            real = added[content]
            sides = {"lstrip": real.lstrip, "rstrip": real.rstrip, "single_word": real.single_word}
            backend.add_tokens([AddedToken(alias, normalized=False, special=False, **sides)])
        return backend, {
            backend.token_to_id(alias): self.token_id(content) for alias, content in aliases.items()
        }

    def digest(self) -> str:
        """Return a hash of the files that it was read from."""
        found = hashlib.sha256(repr(self.stop_ids).encode())
        for name in sorted(self._files):
            found.update(name.encode() + b"\0" + self._files[name] + b"\0")
        return found.hexdigest()

    def save(self, folder) -> None:
        """Write the files this tokenizer was read from, byte for byte, into `folder`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _parser(self, *, special: bool):
        if special:
            return self._backend
        if self._literal is None:
            # A copy, because the switch is a property of the whole tokenizer.
            self._literal = copy.deepcopy(self._backend)
            self._literal.encode_special_tokens = True
        return self._literal
