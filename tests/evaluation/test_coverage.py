import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.evaluation.coverage import spread


def points(seed: int, n: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4))


def test_a_set_covers_itself():
    assert spread(points(0), points(0)).coverage == 1


def test_equal_distributions_have_high_coverage_and_density_near_one():
    found = spread(points(0, 400), points(1, 400))
    assert found.coverage > 0.9
    assert found.density == pytest.approx(1, abs=0.15)


def test_collapse_is_dense_but_does_not_cover():
    centre = np.zeros((60, 4)) + 1e-3 * points(2)
    found = spread(points(0), centre)
    assert found.coverage < 0.5 < found.density


def test_far_away_items_cover_nothing():
    assert spread(points(0), points(1) + 100)[:2] == (0, 0)


def test_unequal_numbers_are_refused():
    with pytest.raises(UsageError, match="equally many"):
        spread(points(0, 20), points(1, 19))
