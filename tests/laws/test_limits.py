"""Samplers that decide how many steps they take, and a limit that the caller sets."""

import pytest
from test_samplers import TOY, blank, turns

from trimask.core.errors import UsageError
from trimask.diffusion.samplers import Blockwise, EntropyBounded, Threshold
from trimask.diffusion.sampling import Engine, steps
from trimask.diffusion.settings import Settings


def test_a_limit_of_steps_is_kept_and_all_is_filled():
    """No token is surer than 1: a step reveals the surest alone, the last one the rest."""
    found = [[len(t) for t in turns(Threshold(1.0, steps=n), range(8))] for n in (0, 3)]
    assert found == [[1] * 8, [1, 1, 6]]
    engine = Engine(TOY, TOY.vocabulary)
    for limit, expected in ((0, 3), (2, 2)):
        took = [*steps(engine, blank(), {"text": Settings(EntropyBounded(0.0, steps=limit))}, 1)]
        assert len(took) == expected and not (took[-1].canvas.ids_BL == TOY.vocabulary.mask).any()


def test_a_sampler_within_phases_has_none():
    """It would have to be shared out, and nothing says how before the model is asked."""
    with pytest.raises(UsageError, match="cannot be limited to steps=3"):
        Blockwise(inner=Threshold(steps=3))
