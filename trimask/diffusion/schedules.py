"""Noise schedules: the masking probability as a function of time.

A schedule maps time t in (0, 1] to the rate s = sigma(t), increasing from 0 to 1. The negative ELBO
is the integral over s of (1/s) E[sum of cross-entropies], whatever the schedule; a schedule only
decides where in s the training effort goes (MD4, Shi et al. 2024; MDLM, Sahoo et al. 2024).
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimask.core.errors import UsageError

Real = Any
"""A float or an array of them; the result is of the same kind."""


class Schedule(ABC):
    """A monotone map from (0, 1] onto (0, 1]."""

    @abstractmethod
    def rate(self, t: Real) -> Real:
        """Masking probability s = sigma(t)."""

    @abstractmethod
    def density(self, s: Real) -> Real:
        """Density q(s) of the rate when t is uniform: 1 / sigma'(t)."""

    def weight(self, s: Real) -> Real:
        """Weight of the cross-entropy in the bound: sigma'(t)/sigma(t) = 1 / (s q(s))."""
        return 1.0 / (s * self.density(s))

    def complement_weight(self, s: Real) -> Real:
        """Weight of the complement of a mask drawn at rate s, which is the schedule run backwards.

        Over time 1 - t the rate 1 - sigma(t) rises from 0 to 1 as any schedule does, and so does that of every
        other target of the item: sigma'(t) / (1 - sigma(t)) = 1 / ((1 - s) q(s)).
        """
        return 1.0 / ((1.0 - s) * self.density(s))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """sigma(t) = t^power; power 1 is the linear schedule."""

    power: float = 1.0

    def rate(self, t: Real) -> Real:
        return t**self.power

    def density(self, s: Real) -> Real:
        return s ** (1.0 / self.power - 1.0) / self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """sigma(t) = sin(pi t / 2): 1 minus the share kept by MaskGIT's cosine (Chang et al. 2022)."""

    def rate(self, t: Real) -> Real:
        return np.sin(0.5 * math.pi * t)

    def density(self, s: Real) -> Real:
        # 1 - s^2 without cancellation; the density is unbounded but integrable at s = 1.
        return 2.0 / (math.pi * np.sqrt(np.maximum((1.0 - s) * (1.0 + s), 1e-30)))


def by_name(name: str) -> Schedule:
    """ "linear", "cosine" or "polyP" with a positive number P, as written in the modality table."""
    if name == "linear":
        return Polynomial(1.0)
    if name == "cosine":
        return Cosine()
    if (match := re.fullmatch(r"poly(\d+(?:\.\d+)?)", name)) and float(match[1]) > 0:
        return Polynomial(float(match[1]))
    raise UsageError(f"no noise schedule {name!r}; use linear, cosine or polyP, for example poly2")
