"""Reveal positions in uniformly random order, a fixed number a step."""

from dataclasses import dataclass

import numpy as np

from trimask.diffusion.samplers.base import Move, Sampler, View, at_most, keep_counts


@dataclass(frozen=True)
class RandomOrder(Sampler):
    """With as many steps as tokens and linear counts: an exact any-order autoregressive draw."""

    steps: int = 64
    counts: str = "linear"

    def length(self, total_B: np.ndarray, units_B: np.ndarray) -> np.ndarray:
        return at_most(self.steps, total_B)

    def move(self, view: View) -> Move:
        return keep_counts(self.counts, view, view.noise())
