"""Whether draws follow a law."""

import numpy as np
from scipy.stats import chisquare


def agrees(found: np.ndarray, law: np.ndarray) -> bool:
    """Whether counts follow a law, by chi-square at the level of 0.1 %; what is rare is counted together."""
    expected = law * found.sum()
    often = expected > 5
    observed, wanted = [*found[often], found[~often].sum()], np.array([*expected[often], expected[~often].sum()])
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    return bool(chisquare(observed, wanted * sum(observed) / wanted.sum()).pvalue > 1e-3)
