"""How alike two voices are: a small speaker network and the cosine between its vectors.

Trained to tell the voices of the training split apart with cosine outputs (as in Wan et al. 2018 and
its followers); a voice is the mean vector of a few of its real clips, so a voice that was never
trained on can be judged too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimask.core.errors import UsageError
from trimask.core.item import Audio
from trimask.evaluation.judges import Judge
from trimask.evaluation.transcripts import Rate

COSINE = 16.0
"""Scale of the cosines in training."""
CROP = 120
"""Frames (1.2 s) of the pieces that training hears."""


@dataclass(frozen=True)
class Likeness:
    """`own`: mean cosine with the requested voice; `other`: with the rest; `nearest`: share of clips
    whose nearest voice is the requested one."""

    own: Rate
    other: Rate
    nearest: Rate


class Speaker:
    """Unit vectors of clips, and their likeness to voices."""

    def __init__(self, judge: Judge):
        self.judge = judge

    @classmethod
    def load(cls, folder: Path | str) -> "Speaker":
        """The speaker network of an artifact folder. Raises `ArtifactError`."""
        return cls(Judge.load(folder))

    def vectors(self, clips: Sequence[Audio]) -> np.ndarray:
        """Unit vectors (N, D)."""
        return self.judge.features(clips)

    def enrol(self, clips: Sequence[Audio], voices: Sequence[str]) -> dict[str, np.ndarray]:
        """Unit vector (D,) of each voice: the mean over its clips."""
        vectors_ND = self.vectors(clips)
        means = {v: vectors_ND[[v == other for other in voices]].mean(0) for v in sorted(set(voices))}
        return {v: mean / np.linalg.norm(mean) for v, mean in means.items()}

    def likeness(self, clips: Sequence[Audio], voices: Sequence[str], enrolled: Mapping[str, np.ndarray]) -> Likeness:
        """Cosines with the requested voice and with all others, and how often the requested is nearest."""
        missing = sorted(set(voices) - set(enrolled))
        if missing:
            raise UsageError(f"voice {missing[0]!r} has no real clips to compare with")
        names = sorted(enrolled)
        cosine_NV = self.vectors(clips) @ np.stack([enrolled[v] for v in names]).T
        own_N = np.array([names.index(v) for v in voices])
        mine = np.eye(len(names), dtype=bool)[own_N]
        return Likeness(_mean(cosine_NV[mine]), _mean(cosine_NV[~mine]), _mean(cosine_NV.argmax(1) == own_N))


def _mean(values: np.ndarray) -> Rate:
    numbers = np.asarray(values, float)
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else float("nan")
    return Rate(float(numbers.mean()) if len(numbers) else float("nan"), float(error), len(numbers))
