"""How the tokens of one modality are drawn and in which order they are revealed."""

import math
from collections.abc import Callable, Mapping
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
        return (number,)
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
        if not isinstance(self.sampler, Sampler):
            raise UsageError(f"sampler={self.sampler!r} is no sampler: give one with its settings, or its name")
        if not isinstance(self.cache, Cache | None):
            raise UsageError(f"cache={self.cache!r} is no cache: write its name, as changed:every=8")
        for name, (fine, must) in _RULES.items():
            value = getattr(self, name)
            numbers = _values(value) if isinstance(value, Course) else (value,)
            if not all(_is_number(x) and fine(x) for x in numbers):
                raise UsageError(f"{name}={value!r} must be {must}")


COLDEST = 1e-3
"""Temperatures between 0 and this divide logits beyond what numbers hold."""
STRONGEST = 1e3
_RULES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: x == 0 or COLDEST <= x <= 1 / COLDEST, f"0, or from {COLDEST} to {1 / COLDEST:g}"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "top_k": (lambda x: x >= 0 and x == int(x) and isinstance(x, int), "a whole number, 0 or more"),
    "min_p": (lambda x: 0 <= x < 1, "0 or more and below 1"),
    "repetition": (lambda x: 1 <= x <= STRONGEST, f"from 1 to {STRONGEST:g}"),
    "guidance": (lambda x: abs(x) <= STRONGEST, f"a number of size {STRONGEST:g} at most"),
}
"""What each number of `Settings` has to be."""


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
