"""Dense retrieval, exact: the cosine of every passage's vector with the query's, in NumPy.

    score(q, d) = <v(q), v(d)> / (|v(q)| |v(d)|)

Vectors come from a function, such as the mean hidden states of a base, or from a table of words:
v(text) is then the mean of the vectors of its words. Exact search reads all vectors for a block of
queries, a matmul: a million passages of 256 numbers are 1 GB, and there an approximate index such
as usearch or faiss pays.
"""

import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from ftjax.core.typed import Count
from ftjax.retrieval import index
from ftjax.retrieval.passages import Passage

WORD = re.compile(r"\w+")
BLOCK = 256  # queries at a time: scores of a million passages are then 1 GB
FILE = "vectors.npy"

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> [n, D]


class Dense:
    """Unit vectors of all passages [n, D]; see `index.Index`."""

    def __init__(self, vectors: np.ndarray, embed: Embed):
        self._vectors, self._embed = vectors, embed
        self.nbytes = vectors.nbytes

    def search(self, queries: Sequence[str], *, k: int) -> index.Hits:
        """Return the best `k` passages of each query; those at a right angle or beyond are none."""
        found = []
        for start in range(0, len(queries), BLOCK):
            queries_QD = unit(self._embed(list(queries[start : start + BLOCK])))
            scores_QN = queries_QD @ self._vectors.T
            found += [index.top(scores, k) for scores in scores_QN]
        return index.stack(found, k)

    def save(self, folder: pathlib.Path) -> None:
        """Write the vectors."""
        np.save(folder / FILE, self._vectors)


def make(
    *, passages: Sequence[Passage], table: str = "", embed: Embed | None = None,
    batch_size: Count = 256,
) -> Dense:  # fmt: skip
    """Embed passages, their titles included.

    Args:
      table: a file of word vectors, see `read_table`; "" takes `embed`.
      embed: texts -> [n, D], of the caller.
      batch_size: passages at a time.

    Raises:
      ValueError: neither is there, or no passage has a vector.
    """
    function = _embed(table, embed)
    texts = [passage.searched for passage in passages]
    parts = [function(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
    vectors = unit(np.concatenate(parts))
    if empty := int((~vectors.any(1)).sum()):
        if empty == len(texts):
            raise ValueError(
                f"index.table: got {table!r}, which knows no word of any passage; expected words "
                "in small letters; take another table"
            )
        index.report(f"index: {empty} of {len(texts)} passages have no vector: never found")
    return Dense(vectors, function)


def load(
    *, folder: pathlib.Path, table: str = "", embed: Embed | None = None, **_
) -> Dense:  # fmt: skip
    """Map what `save` wrote from the disk."""
    return Dense(np.load(folder / FILE, mmap_mode="r"), _embed(table, embed))


def _embed(table: str, embed: Embed | None) -> Embed:
    if table:
        return mean_of_words(read_table(table))
    if embed is None:
        raise ValueError(
            "index: got name='dense' without vectors; expected table=FILE, or a base that embeds; "
            "set index.table"
        )
    return embed


def unit(vectors) -> np.ndarray:
    """Scale vectors [n, D] to length 1 in float32; zero stays zero."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def mean_of_words(table: dict[str, np.ndarray]) -> Embed:
    """Make `texts -> [n, D]`, the mean vector of the words that the table knows, or 0."""
    size = len(next(iter(table.values())))

    def embed(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), size), np.float32)
        for row, text in zip(found, texts, strict=True):
            known = [table[word] for word in WORD.findall(text.lower()) if word in table]
            if known:
                row[:] = np.mean(known, axis=0)
        return found

    return embed


def read_table(path: str) -> dict[str, np.ndarray]:
    """Read word vectors: an .npz of `tokens` [V] and `vectors` [V, D], or text of a word a line.

    Text is that of GloVe and word2vec, "word 0.1 -0.2 ...", with or without their first line of
    sizes.

    Raises:
      ValueError: no such file, one without vectors, or vectors of several lengths.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"index.table: got {path!r}; expected a file of word vectors")
    words, vectors = (_arrays if path.endswith(".npz") else _lines)(path)
    if not len(words) or len(words) != len(vectors):
        raise ValueError(
            f"{path}: got {len(words)} words and {len(vectors)} vectors; expected as many of each"
        )
    return dict(zip(words, np.asarray(vectors, np.float32), strict=True))


def _arrays(path: str) -> tuple[list[str], np.ndarray]:
    with np.load(path) as arrays:
        if missing := {"tokens", "vectors"} - set(arrays):
            raise ValueError(
                f"{path}: got the arrays {sorted(arrays)}; expected also {sorted(missing)}"
            )
        return [str(word) for word in arrays["tokens"]], arrays["vectors"]


def _lines(path: str) -> tuple[list[str], list[np.ndarray]]:
    words, vectors = [], []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1:  # word2vec's sizes
                continue
            try:
                vector = np.array(numbers, np.float32)
            except ValueError:
                vector = np.zeros(0, np.float32)
            if not len(vector) or (vectors and len(vector) != len(vectors[0])):
                expected = len(vectors[0]) if vectors else "some"
                raise ValueError(
                    f"{path}:{number}: got {line[:40]!r}; expected a word and {expected} numbers"
                )
            words.append(word)
            vectors.append(vector)
    return words, vectors
