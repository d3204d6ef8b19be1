"""Sampled answers as arrays: the batch that trains on them, and how a checkpoint keeps it."""

import base64

import numpy as np

MISSING_EOS = "missing_eos"  # the label of the penalty for answers without an end


def batch_of(prompts_BT, lengths_B, output) -> dict[str, np.ndarray]:
    """Make the batch of prompts and answers; the sampled tokens are its targets."""
    B, N = output.tokens.shape
    tokens = np.pad(prompts_BT, ((0, 0), (0, N)))
    slots, at = lengths_B[:, None] + np.arange(N), np.arange(B)[:, None]
    is_new = (np.arange(N) < output.lengths[:, None]).astype(np.float32)
    tokens[at, slots] = output.tokens
    weights, logps = np.zeros(tokens.shape, np.float32), np.zeros(tokens.shape, np.float32)
    weights[at, slots], logps[at, slots] = is_new, output.logps
    places = np.arange(tokens.shape[1])[None]
    segments = (places < (lengths_B + output.lengths)[:, None]).astype(np.int32)
    return {
        "tokens": tokens * segments, "weights": weights, "segments": segments,
        "positions": (places * segments).astype(np.int32), "old_logps": logps[:, 1:],
    }  # fmt: skip


def shown_of(lengths_B, shown_BT, shown_lengths_B, output) -> dict[str, np.ndarray]:
    """Make what a teacher sees of the same answers, behind prompts of its own.

    `shift`: how many columns further right each answer is there; see `reference_policy.Shown`.
    """
    own = batch_of(shown_BT, shown_lengths_B, output)
    found = {f"shown_{name}": own[name] for name in ("tokens", "segments", "positions")}
    return found | {"shown_shift": (shown_lengths_B - lengths_B).astype(np.int32)}


def judge_ends(values_BF, finished_B, *, leave_out: bool, penalty: float | None) -> np.ndarray:
    """Let rewards say what became of answers that came to no end within `max_new_tokens`.

    leave_out: such answers have no reward. penalty: what is taken off their reward, as a column of
    its own under MISSING_EOS; an answer without a reward has none.
    """
    if leave_out:
        return np.where(finished_B[:, None], values_BF, np.float32(np.nan))
    if penalty is None:
        return values_BF
    column_B = np.where(finished_B, 0, -penalty).astype(np.float32)
    column_B[np.isnan(values_BF).all(-1)] = np.nan
    return np.concatenate([values_BF, column_B[:, None]], axis=-1)


def spread(credit: dict, batch: dict) -> dict:
    """Add credit to a batch: `keep` [B] drops rows, anything else is an array of it."""
    keep = credit.pop("keep", None)
    weights = {} if keep is None else {"weights": batch["weights"] * keep[:, None]}
    return credit | weights


def together(batch: dict, index_GP: np.ndarray) -> dict:
    """Put rows of a batch beside each other, as those who compare them see them: [G, P, T]."""
    names = ("tokens", "weights", "segments", "positions")
    return {name: batch[name][index_GP] for name in names}


def pack(array: np.ndarray) -> dict:
    """Write an array as JSON can hold it, every bit of it."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


def unpack(packed: dict) -> np.ndarray:
    """Undo `pack`."""
    flat = np.frombuffer(base64.b64decode(packed["data"]), packed["dtype"])
    return flat.reshape(packed["shape"])
