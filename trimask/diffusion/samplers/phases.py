"""Fill in phases, one after the other: blocks from left to right, or codebook levels from coarse to fine."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np

from trimask.core.errors import UsageError
from trimask.diffusion.samplers.base import Adaptive, Move, Sampler, Score, View, require
from trimask.diffusion.samplers.confidence import Confidence


@dataclass(frozen=True)
class Phases(Sampler):
    """Only tokens of the current phase may be revealed, by the sampler `inner`, which begins anew in each.

    A phase takes the steps of the inner sampler for its tokens, or its share of `steps` where that is not 0: at least
    one, and no more than its tokens but of an inner sampler that may idle. Where the inner sampler is adaptive, the
    next phase begins when the phase is full. Phases without tokens take no steps. The engine shows the inner sampler
    one phase at a time.
    """

    inner: Sampler = field(default_factory=lambda: Confidence(steps=16, counts="linear"))
    steps: int = 0

    def __post_init__(self):
        require(self, steps=(0, math.inf))
        if not isinstance(self.inner, Sampler):
            raise UsageError(f"{type(self).__name__}: inner={self.inner!r} must be a sampler")
        if isinstance(self.inner, Phases):
            raise UsageError(f"{type(self).__name__}: the inner sampler has phases of its own; choose a plain one")
        if isinstance(self.inner, Adaptive) and self.inner.steps:
            raise UsageError(f"{type(self).__name__}: the inner sampler cannot be limited to steps={self.inner.steps}")
        if self.adaptive and self.steps:
            raise UsageError(
                f"{type(self).__name__}: steps={self.steps} cannot be shared out, as {type(self.inner).__name__} takes "
                "as many as what is drawn asks for: leave steps out"
            )

    @abstractmethod
    def phase(self, unit_BL: np.ndarray, level_BL: np.ndarray, count_B1: np.ndarray) -> np.ndarray:
        """int64 (B, L), 0 or more: phase of each token, by its grid unit from the first to be filled, and its level.

        `count_B1` is the number of units from the first to the last that is to be filled, in each row.
        """

    def lengths(self, total_BK: np.ndarray) -> np.ndarray:
        """int64 (B, K): steps of each phase of so many tokens."""
        if self.steps:
            phases_B1 = np.maximum((total_BK > 0).sum(1, keepdims=True), 1)
            share_B1 = np.maximum(self.steps // phases_B1, 1)
            return np.where(total_BK > 0, share_B1, 0) if self.inner.idles else np.minimum(share_B1, total_BK)
        return self.inner.length(total_BK)

    @property
    def score(self) -> Score | None:
        return self.inner.score

    @property
    def adaptive(self) -> bool:
        return self.inner.adaptive

    def length(self, total: np.ndarray) -> np.ndarray:
        return self.inner.length(total)

    def move(self, view: View) -> Move:
        return self.inner.move(view)


@dataclass(frozen=True)
class Blockwise(Phases):
    """Blocks of so many grid units (tokens, frames) from left to right, counted from the first that is to be filled.

    Where `steps` are fewer than the blocks, blocks are wider: each takes a step.
    """

    block: int = 32

    def __post_init__(self):
        super().__post_init__()
        require(self, block=(1, math.inf))

    def phase(self, unit_BL: np.ndarray, level_BL: np.ndarray, count_B1: np.ndarray) -> np.ndarray:
        block_B1 = np.full_like(count_B1, self.block)
        if self.steps:
            block_B1 = np.maximum(block_B1, -(-count_B1 // self.steps))
        return np.maximum(unit_BL, 0) // block_B1


@dataclass(frozen=True)
class LevelOrdered(Phases):
    """Codebook levels from the first to the last (VampNet, Flores Garcia et al. 2023; MaskGCT, Wang et al. 2024).

    Of a picture in patches, one place of all patches after the other.
    """

    def phase(self, unit_BL: np.ndarray, level_BL: np.ndarray, count_B1: np.ndarray) -> np.ndarray:
        return level_BL
