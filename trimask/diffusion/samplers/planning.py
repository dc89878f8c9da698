"""Reveal and revise by one ranking of all tokens (P2, path planning, Peng et al. 2025, arXiv 2502.03540)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from trimask.diffusion.samplers.base import Move, Sampler, Score, View, left, require, top
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class Planning(Sampler):
    """The best stay or become filled, as many as the counts say; filled ones that are not among them are masked again.

    Every token is ranked by its log-probability under the model, the filled ones by `eta` times that: with 0 they
    always stay (which is `Confidence`), the larger `eta`, the more are revised.
    """

    rescores: ClassVar[bool] = True
    remasks: ClassVar[bool] = True
    idles: ClassVar[bool] = True

    steps: int = 64
    counts: str = "linear"
    eta: float = 1.0

    def __post_init__(self):
        require(self, steps=(1, math.inf), eta=(0, math.inf))
        by_name(self.counts)

    @property
    def score(self) -> Score:
        return "drawn"

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.where(total > 0, self.steps, 0)

    def move(self, view: View) -> Move:
        score_BL = torch.where(view.filled_BL, self.eta * view.sureness, view.sureness)
        all_BL = view.masked_BL | view.filled_BL
        kept_BL = top(score_BL, all_BL, (view.total_B - left(self.counts, view)).clamp(min=1))
        return Move(view.masked_BL & kept_BL, view.filled_BL & ~kept_BL)
