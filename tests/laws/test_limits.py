"""Samplers that decide how many steps they take, and a limit that the caller sets."""

import math

import pytest
import torch
from test_samplers import TOY, blank, turns, view

from trimask.core.errors import UsageError
from trimask.diffusion.samplers import Blockwise, EntropyBounded, Threshold
from trimask.diffusion.sampling import Engine, steps
from trimask.diffusion.settings import Settings


def test_a_limit_of_steps_is_kept_and_all_is_filled():
    """No token is surer than 1: a step reveals the surest alone, or as many as three steps need."""
    found = [[len(t) for t in turns(Threshold(1.0, steps=n), range(8))] for n in (0, 3, 4, 9)]
    # Of eight at most floor(8 (1 - 1/27)) = 7 and floor(8 (1 - 8/27)) = 5 are left; of four steps 7, 7 and 4.
    assert found == [[1] * 8, [1, 2, 5], [1, 1, 2, 4], [1] * 8]
    engine = Engine(TOY, TOY.vocabulary)
    for limit, expected in ((0, 3), (2, 2)):
        took = [*steps(engine, blank(), {"text": Settings(EntropyBounded(0.0, steps=limit))}, 1)]
        assert len(took) == expected and not (took[-1].canvas.ids_BL == TOY.vocabulary.mask).any()


def test_noise_mixes_the_order_and_the_bound_holds():
    """Tokens of entropies 0.2 and 1.2, of which one more is masked: the first comes first with probability
    1 / (1 + exp(-1 / scale)); both come where the smaller one is within the bound."""
    many = view(torch.tensor([[-0.2, -1.2]]).expand(4000, 2), 0, 4, total_B=torch.full((4000,), 4))
    first = EntropyBounded(0.0, gumbel=2.0).move(many).reveal_BL
    assert (first.sum(1) == 1).all()
    # Half of four tokens are masked: half of the noise is left.
    assert float(first[:, 0].double().mean()) == pytest.approx(1 / (1 + math.exp(-1 / 1.0)), abs=0.03)
    assert EntropyBounded(0.2 + 1e-6, gumbel=2.0).move(many).reveal_BL.all()
    # Whatever the order, what is revealed together loses no more than the bound: all but its largest entropy.
    entropy_BL = torch.rand(500, 9, generator=torch.Generator().manual_seed(0))
    for noise in (0.0, 3.0):
        shown_BL = EntropyBounded(0.7, gumbel=noise).move(view(-entropy_BL, total_B=torch.full((500,), 9))).reveal_BL
        kept_BL = entropy_BL.double() * shown_BL
        assert (kept_BL.sum(1) - kept_BL.amax(1) <= 0.7 + 1e-9).all() and shown_BL.sum(1).min() >= 1
        assert shown_BL.double().sum(1).mean() > 2


def test_a_sampler_within_phases_has_none():
    """It would have to be shared out, and nothing says how before the model is asked."""
    with pytest.raises(UsageError, match="cannot be limited to steps=3"):
        Blockwise(inner=Threshold(steps=3))
