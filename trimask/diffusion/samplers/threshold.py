"""Reveal all that the model is sure enough of (Fast-dLLM, Wu et al. 2025, arXiv 2505.22618)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from trimask.core.errors import UsageError
from trimask.diffusion.samplers.base import Adaptive, Move, Score, View, ranks, require

PROBABILITY = 0.9


@dataclass(frozen=True)
class Threshold(Adaptive):
    """Every token whose drawn id has a probability above `probability`, at least the surest one.

    With `factor` f > 0 instead: the n surest, n the largest with (n + 1) (1 - p_n) < f, where p_n is the probability of
    the n-th. The more tokens, the surer each must be.
    """

    exclusive: ClassVar[tuple[str, ...]] = ("probability", "factor")

    probability: float = PROBABILITY
    factor: float = 0.0

    def __post_init__(self):
        require(self, probability=(0, 1), factor=(0, math.inf), steps=(0, math.inf))
        if self.factor and self.probability != PROBABILITY:
            raise UsageError(
                f"Threshold: probability={self.probability:g} and factor={self.factor:g} are two rules; give one"
            )

    @property
    def score(self) -> Score:
        return "drawn"

    def move(self, view: View) -> Move:
        p_BL, rank_BL = view.sureness.exp(), ranks(view.sureness, view.masked_BL)
        if self.factor:
            fits_BL = view.masked_BL & ((rank_BL + 2) * (1 - p_BL) < self.factor)
            sure_BL = rank_BL <= torch.where(fits_BL, rank_BL, -1).amax(1, keepdim=True)
        else:
            sure_BL = p_BL > self.probability
        return self.paced(view, view.masked_BL & (sure_BL | (rank_BL == 0)), rank_BL)
