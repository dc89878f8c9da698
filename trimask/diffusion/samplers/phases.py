"""Fill in phases, one after the other: blocks from left to right, or codebook levels from coarse to fine."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from trimask.diffusion.samplers.base import Move, Sampler, Score, View, at_most
from trimask.diffusion.samplers.confidence import Confidence


@dataclass(frozen=True)
class Phases(Sampler):
    """Only tokens of the current phase may be revealed, by the sampler `inner`, which begins anew in each.

    A phase takes the steps of the inner sampler, or its share of `steps` where that is not 0, rounded up; where the
    inner sampler is adaptive, the next phase begins when the phase is full.
    """

    inner: Sampler = field(default_factory=lambda: Confidence(steps=16, counts="linear"))
    steps: int = 0

    @property
    def score(self) -> Score | None:
        return self.inner.score

    @property
    def adaptive(self) -> bool:
        return self.inner.adaptive

    @abstractmethod
    def phase(self, view: View) -> Int[Tensor, "B L"]:
        """int64 (B, L): number of the phase of each token."""

    @abstractmethod
    def phases(self, units_B: np.ndarray) -> np.ndarray:
        """int64 (B,): number of phases of rows with so many grid units."""

    @abstractmethod
    def largest(self, total_B: np.ndarray, units_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 (B,), (B,): tokens and grid units of the largest phase of rows with so many in all."""

    def length(self, total_B: np.ndarray, units_B: np.ndarray) -> np.ndarray:
        if self.adaptive:
            return total_B
        phases_B, (tokens_B, within_B) = self.phases(units_B), self.largest(total_B, units_B)
        if self.steps:
            return phases_B * at_most(-(-self.steps // np.maximum(phases_B, 1)), tokens_B)
        return phases_B * self.inner.length(tokens_B, within_B)

    def move(self, view: View) -> Move:
        phase_BL = self.phase(view)
        if self.adaptive:
            # On to the next phase when the present one is full.
            now_B = phase_BL.masked_fill(~view.masked_BL, phase_BL.max() + 1).amin(1)
            return self.inner.move(replace(view, masked_BL=view.masked_BL & (phase_BL == now_B[:, None])))
        each_B = np.maximum(view.steps_B // np.maximum(self.phases(view.units_B), 1), 1)
        now_B, step_B = view.on_device(view.step_B // each_B)[:, None], view.step_B % each_B
        mine_BL = view.masked_BL & (phase_BL <= now_B)
        filled_BL = view.filled_BL & (phase_BL == now_B)
        total_B = (mine_BL | filled_BL).sum(1)
        _, units_B = self.largest(view.units_B, view.units_B)
        within = replace(view, masked_BL=mine_BL, filled_BL=filled_BL, total_B=total_B, units_B=units_B)
        within = replace(within, step_B=step_B, steps_B=each_B)
        move, last_B = self.inner.move(within), view.on_device(step_B + 1 >= each_B)
        return replace(move, reveal_BL=move.reveal_BL | (mine_BL & last_B[:, None]))


@dataclass(frozen=True)
class Blockwise(Phases):
    """Blocks of so many grid units (tokens, frames) from left to right, counted from the first that is to be filled."""

    block: int = 32

    def phase(self, view: View) -> Int[Tensor, "B L"]:
        return torch.div(view.unit_BL, self.block, rounding_mode="floor")

    def phases(self, units_B: np.ndarray) -> np.ndarray:
        return -(-units_B // self.block)

    def largest(self, total_B: np.ndarray, units_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        within_B = np.minimum(units_B, self.block)
        return -(-total_B * within_B // np.maximum(units_B, 1)), within_B


@dataclass(frozen=True)
class LevelOrdered(Phases):
    """Codebook levels from the first to the last (VampNet, Flores Garcia et al. 2023; MaskGCT, Wang et al. 2024).

    `levels` is how many there are.
    """

    levels: int = 4

    def phase(self, view: View) -> Int[Tensor, "B L"]:
        return view.level_BL

    def phases(self, units_B: np.ndarray) -> np.ndarray:
        return np.where(units_B > 0, self.levels, 0)

    def largest(self, total_B: np.ndarray, units_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -(-total_B // self.levels), units_B
