"""Ancestral sampling of the reverse process (MDLM, Sahoo et al. 2024, eq. 7)."""

from dataclasses import dataclass

from torch import Tensor

from trimask.diffusion.samplers.base import Sampler, View
from trimask.diffusion.schedules import by_name


@dataclass(frozen=True)
class Ancestral(Sampler):
    """From rate sigma(t) to sigma(u), each masked token is revealed with probability 1 - sigma(u)/sigma(t).

    Exact in the limit of many steps: two tokens revealed together are drawn independently.
    """

    steps: int = 64
    schedule: str = "linear"
    """Times are equally spaced; the schedule turns them into rates."""

    def reveal(self, view: View) -> Tensor:
        sigma = by_name(self.schedule).rate
        here, there = (self.steps - view.step) / self.steps, (self.steps - view.step - 1) / self.steps
        stay = float(sigma(there) / sigma(here)) if there > 0 else 0.0
        return view.todo_BL & (view.noise_BL >= stay)
