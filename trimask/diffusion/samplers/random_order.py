"""Reveal positions in uniformly random order, a fixed number a step."""

import math
from dataclasses import dataclass

import numpy as np

from trimask.diffusion.samplers.base import Move, Sampler, View, keep_counts, require
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class RandomOrder(Sampler):
    """With as many steps as tokens and linear counts: an exact any-order autoregressive draw."""

    steps: int = 64
    counts: str = "linear"

    def __post_init__(self):
        require(self, steps=(1, math.inf))
        by_name(self.counts)

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.minimum(self.steps, total)

    def move(self, view: View) -> Move:
        return keep_counts(self.counts, view, view.noise())
