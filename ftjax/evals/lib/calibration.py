"""Does a model know what it knows? Calibration of the probabilities that it gives to choices.

    brier = mean_i sum_c (p_ic - [c = y_i])^2                                   down, in [0, 2]
    ece   = sum_m (n_m / n) |accuracy_m - confidence_m|                         down, in [0, 1]

The probabilities are those of the choices of a question, normalised over them; not those of texts.
The bins m of `ece` have equally many examples, by confidence: of equal width, most would be empty.
It is biased upwards, by about the standard error of a bin: compare models on the same examples.
"""

import numpy as np


def brier(p: np.ndarray, labels: np.ndarray) -> float:
    """Average the squared error of probabilities p [n, C] for the right choices labels [n]; down.

    Two equal choices give 1/2, a certain right one 0 and a certain wrong one 2 (Brier, 1950).
    """
    return float(brier_terms(p, labels).mean())


def brier_terms(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the squared error of every example [n]."""
    p, labels = _check(p, labels)
    return np.square(p - np.eye(p.shape[1])[labels]).sum(1)


def ece(p: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Compute the expected calibration error of the most likely choice; down (arXiv:1706.04599).

    Args:
      p: probabilities [n, C] of the choices. labels: the right ones [n].
      bins: groups of equally many examples, at most n of them; a mean over each.
    """
    p, labels = _check(p, labels)
    confidence, correct = p.max(1), p.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(float(correct[part].mean() - confidence[part].mean())) * len(part)
        for part in np.array_split(order, min(bins, len(order)))
    ]
    return sum(gaps) / len(order)


def from_logps(logps: np.ndarray) -> np.ndarray:
    """Normalise log-likelihoods of choices [n, C] to probabilities [n, C]."""
    logps = np.asarray(logps, np.float64)
    p = np.exp(logps - logps.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _check(p, labels) -> tuple[np.ndarray, np.ndarray]:
    p, labels = np.asarray(p, np.float64), np.asarray(labels)
    if p.ndim != 2 or labels.shape != p.shape[:1] or not len(p):
        raise ValueError(
            f"calibration: got probabilities of shape {p.shape} and labels of {labels.shape}; "
            "expected [n, C] and [n]"
        )
    if (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-6):
        raise ValueError(
            "calibration: got rows that are no probabilities; expected sums of 1; normalise "
            "log-likelihoods with from_logps"
        )
    return p, labels
