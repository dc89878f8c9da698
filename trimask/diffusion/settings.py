"""How the tokens of one modality are drawn and in which order they are revealed."""

import math
from dataclasses import dataclass

import numpy as np

from trimask.core.errors import UsageError
from trimask.diffusion.caching import Cache
from trimask.diffusion.samplers import Sampler


@dataclass(frozen=True)
class Course:
    """A number that changes over the progress of a row: a line from `begin` to `end`.

    Progress is 0 at the first step and 1 at the last; of samplers that take as many steps as the model asks for it is
    the share of tokens that are filled. Before and behind its line the number is `outside`, or where that is None what
    it is at the nearer end. A guidance interval (Kynkaanniemi et al. 2024) is `Course(3, 3, 0.2, 0.8, outside=0)`.
    """

    first: float
    last: float
    begin: float = 0.0
    end: float = 1.0
    outside: float | None = None

    def __post_init__(self):
        if not 0 <= self.begin < self.end <= 1:
            raise UsageError(f"the course of a setting needs 0 <= begin < end <= 1, got {self.begin} and {self.end}")

    def at(self, progress_B: np.ndarray) -> np.ndarray:
        """The number at each progress."""
        share = (progress_B - self.begin) / (self.end - self.begin)
        value = self.first + (self.last - self.first) * np.clip(share, 0.0, 1.0)
        return value if self.outside is None else np.where((share >= 0) & (share <= 1), value, self.outside)


Number = float | Course


def at(number: Number, progress_B: np.ndarray) -> np.ndarray:
    """float64 (B,): a number, or what its course is at each progress."""
    return number.at(progress_B) if isinstance(number, Course) else np.full(len(progress_B), float(number))


def _values(number: Number) -> tuple[float, ...]:
    """Its ends, and what it is outside."""
    if not isinstance(number, Course):
        return (float(number),)
    return (number.first, number.last, *(() if number.outside is None else (number.outside,)))


@dataclass(frozen=True)
class Settings:
    """How the tokens of one modality are drawn and in which order they are revealed."""

    sampler: Sampler
    temperature: Number = 1.0
    """0 takes the most probable id."""
    top_p: float = 1.0
    """Draw from the most probable ids of this mass (nucleus, Holtzman et al. 2020)."""
    top_k: int = 0
    """Draw from so many most probable ids; 0 for no limit."""
    min_p: float = 0.0
    """Draw from ids at least this share as probable as the likeliest (Nguyen et al. 2024)."""
    repetition: float = 1.0
    """Ids that the row's text holds already have their probability divided by this (after Keskar et al. 2019)."""
    guidance: Number = 0.0
    """w in (1 + w) * conditional - w * null."""
    cache: Cache | None = None
    """Of a row it is in use where all that is to be filled has one."""

    @property
    def guided(self) -> bool:
        """Whether guidance acts at some step."""
        return any(_values(self.guidance))

    def __post_init__(self):
        if not isinstance(self.cache, Cache | None):
            raise UsageError(f"cache={self.cache!r} is no cache: write its name, as changed:every=8")
        if not all(map(math.isfinite, (*_values(self.temperature), *_values(self.guidance)))):
            raise UsageError(f"temperature={self.temperature} and guidance={self.guidance} must be finite numbers")
        fine = min(_values(self.temperature)) >= 0 and self.repetition >= 1 and self.top_k >= 0
        if not (fine and 0 < self.top_p <= 1 and 0 <= self.min_p < 1):
            raise UsageError(
                "sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0, 0 <= min_p < 1 and repetition >= 1; got "
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}, min_p={self.min_p}, "
                f"repetition={self.repetition}"
            )
