"""Reveal as many tokens as a bound on their entropy allows (EB-Sampler, Ben-Hamu et al. 2025, arXiv 2505.24857)."""

import math
from dataclasses import dataclass

from trimask.diffusion.samplers.base import Adaptive, Move, Score, View, ranks, require
from trimask.diffusion.samplers.confidence import gumbel


@dataclass(frozen=True)
class EntropyBounded(Adaptive):
    """The k tokens of least entropy, k the largest for which the sum of the others' entropies but the largest is small.

    Drawn together, k tokens differ from a joint draw by at most the sum of their entropies without the largest: `bound`
    in nats is the most that a step may lose. At least one token. With `gumbel`, Gumbel noise of that scale, which falls
    with the share that is masked, goes into the order, as in `Confidence`: what is surest does not always come first.
    """

    bound: float = 0.5
    gumbel: float = 0.0

    def __post_init__(self):
        require(self, bound=(0, math.inf), gumbel=(0, math.inf), steps=(0, math.inf))

    @property
    def score(self) -> Score:
        return "entropy"

    def move(self, view: View) -> Move:
        score_BL = view.sureness
        if self.gumbel:
            share_B = view.masked_BL.sum(1) / view.total_B.clamp(min=1)
            score_BL = score_BL + self.gumbel * share_B[:, None] * gumbel(view)
        rank_BL = ranks(score_BL, view.masked_BL)
        entropy_BL = (-view.sureness).masked_fill(~view.masked_BL, 0.0).double()
        sorted_BL = entropy_BL.new_zeros(entropy_BL.shape).scatter(1, rank_BL, entropy_BL)
        lost_BL = (sorted_BL.cumsum(1) - sorted_BL.cummax(1).values).gather(1, rank_BL)
        return self.paced(view, view.masked_BL & ((lost_BL <= self.bound) | (rank_BL == 0)), rank_BL)
