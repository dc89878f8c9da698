"""Density and coverage of generated content among real content (Naeem et al. 2020, arXiv 2002.09797)."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from trimask.core.errors import UsageError

NEIGHBOURS = 5


class Spread(NamedTuple):
    """Coverage in [0, 1] and density (1 for equal distributions) of equally many items."""

    coverage: float
    density: float
    n: int


def spread(real_ND: np.ndarray, made_ND: np.ndarray, k: int = NEIGHBOURS) -> Spread:
    """How far made items reach into all of the real ones, in the features of a judge.

    A real item's ball reaches to its k-th nearest other real item. Coverage is the share of balls that
    hold a made item (equation 4); density the mean number of balls around a made item over k
    (equation 3). Raises `UsageError` unless both sides have equally many items, more than k.
    """
    n = len(real_ND)
    if n != len(made_ND) or n <= k:
        raise UsageError(f"coverage compares equally many items, more than {k}; got {n} and {len(made_ND)}")
    radius_N = np.partition(cdist(real_ND, real_ND), k, axis=1)[:, k]
    inside_NN = cdist(real_ND, made_ND) <= radius_N[:, None]
    return Spread(float(inside_NN.any(1).mean()), float(inside_NN.sum() / (k * n)), n)
