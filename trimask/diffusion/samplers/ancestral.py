"""Ancestral sampling of the reverse process (MDLM, Sahoo et al. 2024, eq. 7)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimask.diffusion.samplers.base import Move, Sampler, View, require
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class Ancestral(Sampler):
    """From rate sigma(t) to sigma(u), each masked token is revealed with probability 1 - sigma(u)/sigma(t).

    Exact in the limit of many steps: two tokens revealed together are drawn independently.
    """

    idles: ClassVar[bool] = True

    steps: int = 64
    schedule: str = "linear"
    """Times are equally spaced; the schedule turns them into rates."""

    def __post_init__(self):
        require(self, steps=(1, math.inf))
        by_name(self.schedule)

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.where(total > 0, self.steps, 0)

    def move(self, view: View) -> Move:
        sigma, one_B = by_name(self.schedule), 1 / np.maximum(view.steps_B, 1)
        here_B = np.maximum(1 - view.step_B * one_B, one_B)
        stay_B = sigma.rate(np.maximum(here_B - one_B, 0.0)) / sigma.rate(here_B)
        return Move(view.masked_BL & (view.noise() >= view.on_device(stay_B)[:, None]))
