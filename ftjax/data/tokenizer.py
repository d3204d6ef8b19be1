"""Tokenizers: text to ids and back, with the files they came from.

    tokenizer = load("llama3/")            # or a tokenizer.json, or a SentencePiece tokenizer.model
    tokenizer.encode("Hello")              # with whatever the tokenizer itself adds, such as <bos>
    tokenizer.encode(text, special=False)  # "<|im_end|>" in the text stays text

Reads Hugging Face's `tokenizer.json`, and beside it `tokenizer_config.json`,
`special_tokens_map.json` and `chat_template.jinja` for the bos, eos and pad tokens and the chat
template. Whatever `pad_id` is, padding is told by position, never by comparing ids: a tokenizer
whose pad token is its eos token still learns to stop.
"""

import copy
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROLES = ("bos", "eos", "pad")
SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Files of the model that name the tokens a text ends with.
STOP_FILES = ("config.json", "generation_config.json")
# Used only for a lone tokenizer.json, which does not say what its special tokens are for.
USUAL = {
    "bos": ("<|bos|>", "<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "eos": ("<|eos|>", "<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "[EOS]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
}


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


def load(path) -> Tokenizer:
    """Read a tokenizer from a `tokenizer.json`, a `tokenizer.model`, or a folder with one.

    Raises ValueError saying what is missing.
    """
    path = pathlib.Path(path).expanduser()
    file = _tokenizer_file(path)
    if file.suffix == ".model":
        from ftjax.data import sentencepiece

        return sentencepiece.load(file)
    from tokenizers import Tokenizer as Backend

    content = file.read_bytes()
    _check_json(file, content)
    backend = Backend.from_buffer(content)
    # Some published files carry a length limit; cutting is ours to do, and to count.
    backend.no_truncation()
    backend.no_padding()
    files = {"tokenizer.json": content} | read_side_files(file)
    special, stop_ids = read_special(files, backend), read_stops(file)
    return Tokenizer(backend, files=files, stop_ids=stop_ids, **special)


def _check_json(file: pathlib.Path, content: bytes) -> None:
    # The library raises a bare Exception for a file that is not a tokenizer.
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file}: got broken JSON ({error}); expected tokenizer JSON") from error
    if not isinstance(found, dict) or "model" not in found:
        raise ValueError(
            f"{file}: got JSON without 'model'; expected Hugging Face tokenizer JSON; point at "
            "tokenizer.json, not at one of the files beside it"
        )


def _tokenizer_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            return path / name
    found = "a folder without either" if path.is_dir() else "no such file or folder"
    raise ValueError(
        f"tokenizer: got {str(path)!r} ({found}); expected tokenizer.json or tokenizer.model; "
        "set tokenizer to the folder of the model's files"
    )


def read_side_files(file: pathlib.Path) -> dict[str, bytes]:
    """Return the content of the files that go with a tokenizer, by name.

    A file with a name of its own, such as bpe8192.json, stands alone: what lies beside it may
    belong to another tokenizer.
    """
    if file.name not in ("tokenizer.json", "tokenizer.model"):
        return {}
    beside = (file.with_name(name) for name in SIDE_FILES)
    return {each.name: each.read_bytes() for each in beside if each.is_file()}


def read_stops(file: pathlib.Path) -> list[int]:
    """Return every `eos_token_id` of the model's files beside a tokenizer."""
    found = []
    for name in STOP_FILES if file.name in ("tokenizer.json", "tokenizer.model") else ():
        beside = file.with_name(name)
        if not beside.is_file():
            continue
        try:
            config = json.loads(beside.read_bytes())
            texts = config.get("text_config") or {}
            ids = config.get("eos_token_id", texts.get("eos_token_id"))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{beside}: got broken JSON ({error}); expected an object; fetch the file again"
            ) from error
        ids = ids if isinstance(ids, list) else [ids]
        found += [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]
    return found


def read_special(files: dict[str, bytes], backend) -> dict:
    """Return `names` (token texts by role) and `template` as the side files give them."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    mapped = json.loads(files.get("special_tokens_map.json", b"{}"))
    known = "tokenizer_config.json" in files or "special_tokens_map.json" in files
    names = {}
    for role in ROLES:
        given = config.get(f"{role}_token") or mapped.get(f"{role}_token")
        # Either plain text or an object {"content": text, ...}.
        given = given["content"] if isinstance(given, dict) else given
        names[role] = given if given or known else _usual(role, backend)
    template = files.get("chat_template.jinja")
    template = template.decode() if template else _template(config.get("chat_template"))
    return {"names": names, "template": template}


def _usual(role: str, backend) -> str | None:
    return next((name for name in USUAL[role] if backend.token_to_id(name) is not None), None)


def _template(found) -> str | None:
    """Return the template of a config: one string, or a list of named ones with a default."""
    if isinstance(found, list):
        return {each["name"]: each["template"] for each in found}.get("default")
    return found
