"""Reveal positions in uniformly random order, a fixed number a step."""

from dataclasses import dataclass

from torch import Tensor

from trimask.diffusion.samplers.base import Counts, Sampler, View, keep_counts


@dataclass(frozen=True)
class RandomOrder(Sampler):
    """With as many steps as tokens and linear counts: an exact any-order autoregressive draw."""

    steps: int = 64
    counts: Counts = "linear"

    def reveal(self, view: View) -> Tensor:
        return keep_counts(self.counts, view, self.steps, view.noise_BL)
