"""Which setting to try next: an additive model of what options do, learned from the trials so far.

Log-odds of the quality, and the logarithms of passes and cost, are sums over the options: Bayesian linear regression
with a normal prior of the effects. A draw of its coefficients (Thompson 1933) says which of many settings to try: what
is not known yet varies most and so has its turn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from trimask.studies.presets import Options, Trial

EFFECT = 0.7
"""Standard deviation of an option's effect, in log-odds and in doublings, before anything is known."""
PRECISE = 0.15
"""Standard deviation of what options do not explain of passes and cost, in doublings."""
ROUGH = 0.3
"""The same of log-odds, beside the error of a trial."""


@dataclass(frozen=True)
class Encoding:
    """Options as rows of a matrix.

    Numbers and members of a family of samplers count as steps up from the lowest, a limit as steps down from none.
    """

    space: Mapping[str, tuple[Any, ...]]
    families: Sequence[tuple[str, ...]]
    own: Mapping[str, Any]
    """What the model has where an option is not stated."""
    limit: Callable[[Options], float | None]
    """The most steps of a setting that takes as many as the model asks for, which may be infinite; None of others."""

    def names(self, options: Options) -> set[str]:
        """The effects that a setting has."""
        out = {"always"}
        for key, values in self.space.items():
            if key == "steps" and (limit := self.limit(options)) is not None:
                out |= {f"limit<={v:g}" for v in values if limit <= v}
                continue
            value = options.get(key, self.own.get(key))
            family = next((f for f in self.families if value in f), None) if key == "sampler" else None
            if family:
                out |= {family[0], *family[: family.index(value) + 1]}
            elif isinstance(value, int | float):
                out |= {f"{key}>={v:g}" for v in values if isinstance(v, int | float) and value >= v}
            else:
                out.add(f"{key}={value}")
        return out

    def matrix(self, settings: Sequence[Options]) -> np.ndarray:
        """float64 (settings, effects)."""
        named = [self.names(options) for options in settings]
        columns = {name: n for n, name in enumerate(sorted(set().union(*named)))}
        out = np.zeros((len(named), len(columns)))
        for row, names in zip(out, named, strict=True):
            row[[columns[n] for n in names]] = 1.0
        return out


def regression(x_TE: np.ndarray, y_T: np.ndarray, error_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean (E,) and covariance (E, E) of the effects, the prior's mean being that of `y`."""
    weighted = x_TE / error_T[:, None] ** 2
    covariance = np.linalg.inv(weighted.T @ x_TE + np.eye(x_TE.shape[1]) / EFFECT**2)
    return covariance @ weighted.T @ y_T, covariance


def log_odds(trials: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Of the quality of each, with one half of an item more on both sides, and standard errors."""
    n = np.array([t.items for t in trials], float)
    p = (np.array([t.quality for t in trials]) * n + 0.5) / (n + 1)
    spread = np.maximum([t.error for t in trials], np.sqrt(p * (1 - p) / n) / 2)
    return np.log(p / (1 - p)), np.hypot(spread / (p * (1 - p)), ROUGH)


def best(
    encoding: Encoding, trials: Sequence[Trial], candidates: Sequence[Options], fewer: float, rng: np.random.Generator
) -> Options:
    """The candidate that is tried next.

    In turn the one of the highest quality, the one of the highest quality among those that ask the model `fewer` times
    less than the best trial, and the one that rises furthest above what is known at its cost.
    """
    x_XE = encoding.matrix([*(t.options for t in trials), *candidates])
    known_TE, new_CE = x_XE[: len(trials)], x_XE[len(trials) :]
    odds, error = log_odds(trials)
    middle = float(odds.mean())
    mean, covariance = regression(known_TE, odds - middle, error)
    drawn = rng.multivariate_normal(mean, covariance, method="eigh")
    quality_C, smooth_T = expit(middle + new_CE @ drawn), expit(middle + known_TE @ mean)

    def doublings(values: Sequence[float]) -> np.ndarray:
        y = np.log2(values)
        at = float(y.mean())
        return at + new_CE @ regression(known_TE, y - at, np.full(len(y), PRECISE))[0]

    top = trials[int(smooth_T.argmax())]
    aim = len(trials) % 3
    if aim == 1:
        allowed_C = doublings([t.passes for t in trials]) <= math.log2(top.passes / fewer)
        if allowed_C.any():
            return candidates[int(np.where(allowed_C, quality_C, -1.0).argmax())]
    if aim == 2:
        cost_C, cost_T = doublings([t.cost for t in trials]), np.log2([t.cost for t in trials])
        floor_C = np.array([smooth_T[cost_T <= cost].max(initial=0.0) for cost in cost_C])
        rises_C = np.where(quality_C >= smooth_T.max() / 2, quality_C - floor_C, -1.0)
        return candidates[int(rises_C.argmax())]
    return candidates[int(quality_C.argmax())]
