"""The modality table: ids that are made of digits."""

import numpy as np
import pytest

from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary


def test_digits_are_those_of_the_codes():
    v = Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=5),
            Modality(name="image", grid="plane", codes=6, digits=(2, 3)),
            Modality(name="audio", grid="frames", codes=4, levels=2, digits=(4,)),
        )
    )
    has = v.digits()
    assert has.shape == (v.size, 2 + 3 + 4 + 4)
    image, first, second = (v.alphabets[i] for i in (1, 2, 3))
    low, high = has[image.start : image.start + 6, :2], has[image.start : image.start + 6, 2:5]
    # code = low + 2 * high
    assert (low.argmax(1) + 2 * high.argmax(1)).tolist() == list(range(6))
    assert np.array_equal(has[first.start : first.start + 4, 5:9], np.eye(4, dtype=bool))
    assert np.array_equal(has[second.start : second.start + 4, 9:13], np.eye(4, dtype=bool))
    assert has.sum() == 6 * 2 + 4 + 4, "text, END, FILL and special ids have no digits"


def test_levels_that_share_ids_share_digits():
    v = Vocabulary(modalities=(Modality(name="audio", grid="frames", codes=4, levels=3, shared=True, digits=(2, 2)),))
    assert v.digits().shape[1] == 4


def test_digits_must_make_the_codes():
    with pytest.raises(UsageError, match="do not make 30 codes"):
        Modality(name="image", grid="plane", codes=30, digits=(5, 5))
