"""Reveal as many tokens as a bound on their entropy allows (EB-Sampler, Ben-Hamu et al. 2025, arXiv 2505.24857)."""

import math
from dataclasses import dataclass

from trimask.diffusion.samplers.base import Adaptive, Move, Score, View, ranks, require


@dataclass(frozen=True)
class EntropyBounded(Adaptive):
    """The k tokens of least entropy, k the largest for which the sum of the others' entropies but the largest is small.

    Drawn together, k tokens differ from a joint draw by at most the sum of their entropies without the largest: `bound`
    in nats is the most that a step may lose. At least one token.
    """

    bound: float = 0.5

    def __post_init__(self):
        require(self, bound=(0, math.inf), steps=(0, math.inf))

    @property
    def score(self) -> Score:
        return "entropy"

    def move(self, view: View) -> Move:
        rank_BL = ranks(view.sureness, view.masked_BL)
        entropy_BL = (-view.sureness).masked_fill(~view.masked_BL, 0.0).double()
        sorted_BL = entropy_BL.new_zeros(entropy_BL.shape).scatter(1, rank_BL, entropy_BL)
        # In rising order the largest is the last: what counts are those before it.
        before_BL = (sorted_BL.cumsum(1) - sorted_BL).gather(1, rank_BL)
        return Move(view.masked_BL & ((before_BL <= self.bound) | (rank_BL == 0)))
