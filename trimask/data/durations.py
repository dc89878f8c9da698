"""How long each code of a line lasts in what is said of it, measured on pairs of a text and its sound."""

from collections.abc import Sequence

import numpy as np

from trimask.core.modality import KINDS, Vocabulary
from trimask.data.shards import Shard
from trimask.data.tasks import VOICE

MEASURED = 6000
"""Pairs that are read, over all sets together."""
PRIOR = 1.0
"""How many occurrences the mean duration counts as: what a code that is never heard is given."""


def durations(shards: Sequence[Shard], shares: Sequence[float], v: Vocabulary, modality: str) -> np.ndarray | None:
    """Frames (codes,) that each code of a line takes; None where nothing runs beside it.

    Least squares of the frames of a pair on how often each code occurs in it and on a constant (what is silent
    at both ends), drawn to the mean duration. Sets are read by their shares, evenly.
    """
    row = next(m for m in v.modalities if m.name == modality)
    pairs = [_pair(shard.manifest.kinds, v, modality) for shard in shards]
    sets = [(shard, share, *pair) for shard, share, pair in zip(shards, shares, pairs, strict=True) if pair]
    total = sum(share for _, share, _, _ in sets)
    counts: list[np.ndarray] = []
    frames: list[int] = []
    for shard, share, line, beside in sets:
        for i in np.unique(np.linspace(0, len(shard) - 1, max(1, int(MEASURED * share / total))).astype(int)):
            parts = shard[int(i)].parts
            if line in parts and beside in parts and len(parts[line]):
                counts.append(np.bincount(parts[line], minlength=row.codes))
                frames.append(len(parts[beside]))
    return _fitted(np.array(counts, float), np.array(frames, float)) if counts else None


def _pair(kinds: Sequence[str], v: Vocabulary, modality: str) -> tuple[str, str] | None:
    """The kinds of a set that run beside each other: a line of the modality, and frames."""
    grids = {m.name: m.grid for m in v.modalities}
    lines = [k for k in kinds if KINDS[k] == modality and k != VOICE]
    sounds = [k for k in kinds if grids.get(KINDS[k]) == "frames"]
    return (lines[0], sounds[0]) if lines and sounds else None


def _fitted(counts_NC: np.ndarray, frames_N: np.ndarray) -> np.ndarray:
    mean = frames_N.sum() / counts_NC.sum()
    heard = np.flatnonzero(counts_NC.any(0))
    x = np.column_stack([counts_NC[:, heard], np.ones(len(frames_N))])
    pull = np.r_[np.full(len(heard), PRIOR), 0.0]
    # A pseudo-inverse, for data in which the constant cannot be told from the codes.
    solved = np.linalg.pinv(x.T @ x + np.diag(pull)) @ (x.T @ frames_N + pull * np.r_[np.full(len(heard), mean), 0.0])
    out = np.full(counts_NC.shape[1], mean)
    out[heard] = np.maximum(solved[:-1], 0.0)
    return out
