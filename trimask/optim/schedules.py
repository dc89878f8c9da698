"""Learning-rate schedules: pure functions of progress, the share of the budget that is spent.

A schedule returns a factor in [0, 1] of the base learning rate. Progress runs from 0 to 1, whether
the budget is in tokens, steps or minutes.
"""

import math
from abc import ABC, abstractmethod

import chz

from trimask.core.errors import UsageError


@chz.chz
class Schedule(ABC):
    """A linear warm-up over the first `warmup` of the budget, then what the class says."""

    warmup: float = chz.field(default=0.05, doc="share of the budget in which the rate rises from 0")
    final: float = chz.field(default=0.0, doc="factor at the end")

    @chz.validate
    def _check(self):
        if not (0 <= self.warmup < 1 and 0 <= self.final <= 1):
            raise UsageError(
                f"a schedule needs 0 <= warmup < 1 and 0 <= final <= 1, got {self.warmup} and {self.final}"
            )

    def factor(self, progress: float) -> float:
        """Factor of the base learning rate at `progress`, which is cut to [0, 1]."""
        p = min(max(progress, 0.0), 1.0)
        return p / self.warmup if p < self.warmup else self.after_warmup(p)

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """Factor at a progress in [warmup, 1]."""


@chz.chz
class Cosine(Schedule):
    """Half a cosine from 1 at the end of the warm-up to `final` (Loshchilov and Hutter 2017)."""

    def after_warmup(self, progress: float) -> float:
        x = (progress - self.warmup) / (1.0 - self.warmup)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * x))


@chz.chz
class WarmupStableDecay(Schedule):
    """Constant at 1, then down over the last `decay` of the budget (Hu et al. 2024, Hägele et al. 2024).

    The descent is 1 - sqrt(x), the better of the shapes compared by Hägele et al.
    """

    decay: float = chz.field(default=0.2, doc="share of the budget in which the rate falls")

    @chz.validate
    def _check_decay(self):
        if not 0 <= self.decay <= 1 - self.warmup:
            raise UsageError(f"decay={self.decay} and warmup={self.warmup} must be shares of one budget")

    def after_warmup(self, progress: float) -> float:
        start = 1.0 - self.decay
        if progress <= start:
            return 1.0
        return self.final + (1.0 - self.final) * (1.0 - math.sqrt((progress - start) / self.decay))
