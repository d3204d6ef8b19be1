"""SentencePiece models (`tokenizer.model`), through `pip install "ftjax[sentencepiece]"`.

Gives `tokenizer.Tokenizer` what it asks of a backend. Two properties of SentencePiece show through:
it never reads control tokens such as "</s>" in a text, so they are cut out of the text first; and
it puts a space in front of whatever follows one, as it does at the start of a text.
"""

import pathlib
import re
from collections.abc import Sequence

from ftjax.data.tokenizer import Encoding


def read(file: pathlib.Path, *, add_bos: bool) -> "Backend":
    """Read a SentencePiece model.

    Raises ImportError without the extra, ValueError for a file that is no model.
    """
    try:
        return Backend(file.read_bytes(), add_bos=add_bos)
    except RuntimeError as error:
        raise ValueError(f"{file}: got {error}; expected a SentencePiece model") from error


class Backend:
    """A SentencePiece processor with the methods of `tokenizers.Tokenizer` that are used."""

    def __init__(self, model: bytes, *, add_bos: bool):
        self._processor = _library().SentencePieceProcessor(model_proto=model)
        self._bos = [self._processor.bos_id()] if add_bos and self._processor.bos_id() >= 0 else []
        self._pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        control = [p for i, p in enumerate(self._pieces) if self._processor.is_control(i)]
        self._control = re.compile(f"({'|'.join(map(re.escape, control))})")
        self.encode_special_tokens = False

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a piece, None when there is none."""
        found = self._processor.piece_to_id(token)
        return found if self._pieces[found] == token else None

    def get_vocab(self, *, with_added_tokens: bool = True) -> dict[str, int]:
        """Return every piece with its id."""
        return {piece: i for i, piece in enumerate(self._pieces)}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Encoding:
        """Return ids and offsets; control tokens in the text are read unless told otherwise."""
        ids = list(self._bos) if add_special_tokens else []
        offsets = [(0, 0)] * len(ids)
        sections = [text] if self.encode_special_tokens else self._control.split(text)
        at = 0
        for n, section in enumerate(sections):
            if n % 2:
                found = [(self.token_to_id(section), 0, len(section))]
            else:
                found = self._section(section)
            ids += [i for i, _, _ in found]
            offsets += [(at + start, at + stop) for _, start, stop in found]
            at += len(section)
        return Encoding(ids, offsets)

    def _section(self, text: str) -> list[tuple[int, int, int]]:
        # The library counts in bytes of UTF-8.
        characters = [n for n, c in enumerate(text) for _ in c.encode()] + [len(text)]
        pieces = self._processor.encode(text, return_type="proto").pieces if text else ()
        return [(p.id, characters[p.begin], characters[p.end]) for p in pieces]

    def get_added_tokens_decoder(self):
        """Raise: there is no way to read one control token as such and another as text."""
        raise ValueError(
            "data.special: got False for messages with a SentencePiece model; expected True, or "
            "the tokenizer.json of the same model; convert it or set special=True"
        )

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True):
        """Return the encodings of many texts."""
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; control tokens are written out unless skipped."""
        text, run = [], []
        for i in ids:
            if self._processor.is_control(i):
                text += [
                    self._processor.decode(run),
                    "" if skip_special_tokens else self._pieces[i],
                ]
                run = []
            else:
                run.append(i)
        return "".join([*text, self._processor.decode(run)])


def _library():
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "a tokenizer.model needs sentencepiece; install it with: "
            'pip install "ftjax[sentencepiece]"'
        ) from error
    return sentencepiece
