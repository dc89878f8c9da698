"""What rows are turned into: means with errors, slopes, minima of basins, exponents with bootstrap intervals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from trimask.studies.table import Cell, Row


def losses(rows: Sequence[Row]) -> dict[Cell, float]:
    """Final loss by cell."""
    return {row.cell: row.loss for row in rows}


def finite(values: Sequence[Sequence[float]], beyond: float) -> np.ndarray:
    """The values, infinite ones as the largest finite one plus `beyond`."""
    out = np.array(values, float)
    fine = np.isfinite(out)
    return np.where(fine, out, (out[fine].max() if fine.any() else 0.0) + beyond)


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of one value is nan."""
    n = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def by(rows: Sequence[Row], *fields: str) -> dict[tuple, dict[int, float]]:
    """Losses by the values of some fields of their cells, then by seed."""
    out: dict[tuple, dict[int, float]] = {}
    for row in rows:
        out.setdefault(tuple(getattr(row.cell, f) for f in fields), {})[row.cell.seed] = row.loss
    return out


def compared(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float, int]:
    """Mean difference of two settings over the seeds that both have, its standard error, and their number."""
    common = sorted({*one} & {*other})
    if not common:
        return math.nan, math.nan, 0
    return *mean_error([one[s] - other[s] for s in common]), len(common)


def best(points: Mapping[float, Mapping[int, float]]) -> float:
    """The setting with the lowest loss, over the seeds that the most of the settings share.

    What a seed does it does to all settings: settings are compared on the same seeds, a setting with fewer of them by
    its difference from those it shares.
    """
    effect = _seed_effects(points)
    return min(points, key=lambda x: float(np.mean([v - effect[s] for s, v in points[x].items()])))


def adjusted(points: Mapping[float, Mapping[int, float]]) -> dict[float, float]:
    """Mean loss of each setting, freed of what its seeds do to all settings."""
    effect = _seed_effects(points)
    return {x: float(np.mean([v - effect[s] for s, v in seeds.items()])) for x, seeds in sorted(points.items())}


def _seed_effects(points: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """By how much each seed is above the mean seed, on the settings that have all seeds; 0 where none has."""
    seeds = sorted({s for of in points.values() for s in of})
    shared = [of for of in points.values() if all(math.isfinite(of.get(s, math.inf)) for s in seeds)]
    mean = {s: float(np.mean([of[s] for of in shared])) if shared else 0.0 for s in seeds}
    middle = float(np.mean(list(mean.values())))
    return {s: m - middle for s, m in mean.items()}


def spread(groups: Sequence[Mapping[int, float]]) -> float:
    """Standard deviation over seeds of one setting, pooled over settings: the seed noise."""
    several = [np.array(list(g.values())) for g in groups if len(g) > 1]
    several = [g for g in several if np.isfinite(g).all()]
    freedom = sum(len(g) - 1 for g in several)
    return math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in several) / freedom) if freedom else math.nan


def seed_noise(groups: Sequence[Mapping[int, float]]) -> str:
    """A sentence about `spread`."""
    noise, what = spread(groups), "Seed noise (standard deviation of one setting over its seeds)"
    return f"{what}: {noise:.4f} nats a token." if math.isfinite(noise) else f"{what}: not known, it takes two seeds."


def slopes(rows: Sequence[Row], axis: str) -> dict[str, float]:
    """Slope of log value over log width or depth, by least squares over all seeds.

    A value that is 0 somewhere has none and is left out; one that is not finite somewhere has an infinite one.
    """
    at = np.log([getattr(row.cell, axis) for row in rows])
    if len(set(at)) < 2:
        return {}
    out = {}
    for key in rows[0].values:
        values = np.array([row.values.get(key, 0.0) for row in rows])
        if not np.isfinite(values).all():
            out[key] = math.inf
        elif (values > 0).all():
            out[key] = float(np.polyfit(at, np.log(values), 1)[0])
    return out


def residual(points: Mapping[float, Mapping[int, float]]) -> float:
    """Standard deviation of a loss around its setting's mean, freed of what its seed does to all settings.

    nan where there are not enough finite losses to tell.
    """
    effect = _seed_effects(points)
    left = [{s: v - effect[s] for s, v in of.items()} for of in points.values() if all(map(math.isfinite, of.values()))]
    seeds = max((len(of) for of in left), default=0)
    # The effects of the seeds were fitted on the same numbers.
    correction = math.sqrt(len(left) / (len(left) - 1)) if len(left) > 1 and seeds > 1 else math.nan
    return spread(left) * correction
