"""Ancestral sampling that also masks tokens again (ReMDM, Wang et al. 2025, arXiv 2503.00307)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimask.diffusion.samplers.base import Move, Sampler, View, require
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class Remasking(Sampler):
    """A filled token is masked again with probability s; masked ones are revealed as often as keeps the share masked.

    With a(t) = 1 - sigma(t), a masked token is revealed with probability (a(u) - (1 - s) a(t)) / (1 - a(t)), so that
    the marginals of every time are those of ancestral sampling for every s up to (1 - a(u)) / a(t). `cap` takes
    min(`eta`, that limit), `rescale` takes `eta` times the limit. Tokens are masked again only while the progress is
    within `begin` and `end`.
    """

    remasks: ClassVar[bool] = True
    idles: ClassVar[bool] = True

    steps: int = 64
    schedule: str = "linear"
    kind: str = "cap"
    eta: float = 0.02
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        require(
            self, steps=(1, math.inf), kind=("cap", "rescale"), eta=(0, 1), begin=(0, self.end), end=(self.begin, 1)
        )
        by_name(self.schedule)

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.where(total > 0, self.steps, 0)

    def move(self, view: View) -> Move:
        sigma, one_B = by_name(self.schedule), 1 / np.maximum(view.steps_B, 1)
        progress_B = view.step_B * one_B
        here_B = 1 - sigma.rate(np.clip(1 - progress_B, 0.0, 1.0))
        there_B = 1 - sigma.rate(np.clip(1 - progress_B - one_B, 0.0, 1.0))
        limit_B = np.minimum(1.0, (1 - there_B) / np.maximum(here_B, 1e-12))
        again_B = np.minimum(self.eta, limit_B) if self.kind == "cap" else self.eta * limit_B
        again_B = np.where((self.begin <= progress_B) & (progress_B < self.end), again_B, 0.0)
        reveal_B = (there_B - (1 - again_B) * here_B) / np.maximum(1 - here_B, 1e-12)
        noise_BL = view.noise()
        return Move(
            view.masked_BL & (noise_BL < view.on_device(reveal_B)[:, None]),
            view.filled_BL & (noise_BL < view.on_device(again_B)[:, None]),
        )
