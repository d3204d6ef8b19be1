"""BM25 over words (Robertson and Zaragoza, 2009), by bm25s: exact, and scored when it is indexed.

    score(q, d) = sum_w idf(w) tf / (tf + k1 (1 - b + b |d| / mean |d|))

Needs `pip install "ftjax[rag]"`: bm25s scores with NumPy alone, PyStemmer joins the forms of a
word. Passages that share no word with a query are no hits.
"""

import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from ftjax.core.config import listed, nearest
from ftjax.core.typed import NonNegative, Share
from ftjax.retrieval import index
from ftjax.retrieval.passages import Passage


class Bm25:
    """Scores of every word in every passage, sparse; see `index.Index`."""

    def __init__(self, scorer, tokens):
        self._scorer, self._tokens = scorer, tokens
        self.nbytes = sum(np.asarray(each).nbytes for each in _arrays(scorer))

    def search(self, queries: Sequence[str], *, k: int) -> index.Hits:
        """Return the best `k` passages of each query."""
        known = self._scorer.vocab_dict
        found = []
        for words in self._tokens(queries):
            # The scorer refuses words that it does not know, and queries of none.
            words = [word for word in words if word in known]
            scores = self._scorer.get_scores(words) if words else np.zeros(1, np.float32)
            found.append(index.top(scores, k))
        return index.stack(found, k)

    def save(self, folder: pathlib.Path) -> None:
        """Write arrays and vocabulary."""
        self._scorer.save(str(folder), show_progress=False)


def _arrays(scorer) -> list:
    return [scorer.scores[name] for name in ("data", "indices", "indptr")]


def make(
    *, passages: Sequence[Passage], k1: NonNegative = 1.5, b: Share = 0.75,
    stemmer: str = "english", stopwords: str = "english",
) -> Bm25:  # fmt: skip
    """Index passages, their titles included.

    Args:
      k1, b: saturation of a word's count, and how much long passages are held back.
      stemmer: an algorithm of PyStemmer, "" for words as they are.
      stopwords: a language whose most common words are left out, "" for all words.

    Raises:
      ValueError: a package is missing, or the stemmer or language is not known.
    """
    library, tokens = _bm25s(), _tokenizer(stemmer, stopwords)
    scorer = library.BM25(k1=k1, b=b, method="lucene")
    words = tokens([passage.searched for passage in passages])
    if not any(words):
        raise ValueError(
            f"index: got {len(words)} passages without any word that counts; expected some; set "
            "stopwords='', or index other passages"
        )
    scorer.index(words, show_progress=False)
    return Bm25(scorer, tokens)


def load(
    *, folder: pathlib.Path, stemmer: str = "english", stopwords: str = "english", **_
) -> Bm25:  # fmt: skip
    """Map what `save` wrote from the disk."""
    scorer = _bm25s().BM25.load(str(folder), mmap=True, show_progress=False)
    return Bm25(scorer, _tokenizer(stemmer, stopwords))


def _tokenizer(stemmer: str, stopwords: str):
    """Make `texts -> lists of words`: small letters, two at least, stemmed."""
    library, stem = _bm25s(), _stemmer(stemmer) if stemmer else None
    options = dict(stemmer=stem, return_ids=False, show_progress=False)
    if stopwords:
        # Tokens of one text show at once whether the language is known.
        _check_language(library, stopwords)
    return lambda texts: library.tokenize(list(texts), stopwords=stopwords or [], **options)


def _check_language(library, language: str) -> None:
    try:
        library.tokenize(["a text"], stopwords=language, return_ids=False, show_progress=False)
    except ValueError as error:
        raise ValueError(
            f"index.stopwords: got {language!r} ({error}); expected a language that bm25s knows, "
            "or ''"
        ) from error


def _stemmer(name: str):
    try:
        import Stemmer
    except ImportError as error:
        raise ValueError(
            f"index.stemmer: got {name!r}, which needs PyStemmer; expected it to be installed; "
            "pip install \"ftjax[rag]\", or set stemmer=''"
        ) from error
    if name not in Stemmer.algorithms():
        raise ValueError(
            f"index.stemmer: got {name!r}; {nearest(name, Stemmer.algorithms())}expected one of "
            f"{listed(Stemmer.algorithms())}, or ''"
        )
    return Stemmer.Stemmer(name)


def _bm25s():
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(
            "index.name: got 'bm25', which needs bm25s; expected it to be installed; "
            'pip install "ftjax[rag]"'
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every step that it takes
    return bm25s
