"""Reveal what the model is surest of first (MaskGIT, Chang et al. 2022; LLaDA, Nie et al. 2025)."""

import math
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
from torch import Tensor

from trimask.diffusion.samplers.base import Move, Sampler, Score, View, keep_counts, require
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class Confidence(Sampler):
    """Score of the token + Gumbel noise - `level_penalty` * level, best first, as many as the counts say.

    `by` is the score: of the drawn id (MaskGIT), of the likeliest (top-k confidence), their margin, or the entropy.
    `gumbel` is the noise's scale before the first step; with `anneal` it falls linearly, to zero at the last, else it
    stays (a position temperature). A level penalty reveals coarse audio codebooks first.
    """

    steps: int = 32
    counts: str = "cosine"
    by: str = "drawn"
    gumbel: float = 0.0
    anneal: bool = True
    level_penalty: float = 0.0

    def __post_init__(self):
        require(self, steps=(1, math.inf), by=get_args(Score), gumbel=(0, math.inf), level_penalty=(0, math.inf))
        by_name(self.counts)

    @property
    def score(self) -> Score:
        return cast(Score, self.by)

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.minimum(self.steps, total)

    def move(self, view: View) -> Move:
        score_BL = view.sureness - self.level_penalty * view.level_BL
        if self.gumbel:
            rest_B = 1 - (view.step_B + 1) / np.maximum(view.steps_B, 1) if self.anneal else np.ones(len(view.step_B))
            score_BL = score_BL + self.gumbel * view.on_device(rest_B)[:, None] * gumbel(view)
        return keep_counts(self.counts, view, score_BL)


def gumbel(view: View) -> Tensor:
    """Standard Gumbel noise (B, L) of this step."""
    return -(-view.noise().clamp(1e-12, 1 - 1e-12).log()).log()
