"""First-hitting sampling: ancestral sampling without the steps at which nothing happens (Zheng et al. 2024)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from trimask.diffusion.samplers.base import Move, Sampler, View, require, top
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class FirstHitting(Sampler):
    """The time at which a token is revealed is drawn once, and a step goes on to the latest that is left in the row.

    With `steps` times come in so many equal intervals, tokens of one interval are revealed together, and the law is
    that of `Ancestral` with as many steps, in at most as many and often fewer evaluations. With 0 every token has a
    step of its own: exact, where several modalities of a row have this sampler too.
    """

    together: ClassVar[bool] = True

    steps: int = 0
    schedule: str = "linear"

    def __post_init__(self):
        require(self, steps=(0, math.inf))
        by_name(self.schedule)

    @property
    def adaptive(self) -> bool:
        return True

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.minimum(self.steps, total) if self.steps else total

    def move(self, view: View) -> Move:
        # A token is masked at time t while its number is below sigma(t).
        number_BL = view.noise(fixed=True)
        if not self.steps:
            return Move(view.masked_BL & top(number_BL, view.alike_BL, view.alike_BL.sum(1).clamp(max=1)))
        edges = by_name(self.schedule).rate(np.arange(1, self.steps) / self.steps)
        interval_BL = torch.searchsorted(torch.from_numpy(edges).to(number_BL), number_BL, right=True)
        latest_B = interval_BL.masked_fill(~view.alike_BL, -1).amax(1)
        return Move(view.masked_BL & (interval_BL == latest_B[:, None]))
