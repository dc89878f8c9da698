"""Laws of one draw: inverse CDF, filters and scores."""

import numpy as np
import pytest
import torch
from chance import agrees

from trimask.diffusion.drawing import by_inverse_cdf, draw, filtered
from trimask.diffusion.samplers import RandomOrder
from trimask.diffusion.settings import Settings


@pytest.mark.parametrize("columns", [4, 5000])
def test_inverse_cdf_draws_follow_the_probabilities(columns: int):
    rng, count = np.random.default_rng(0), 40_000
    law = rng.dirichlet(np.full(columns, 0.5))
    law[columns // 2] = 0.0
    law /= law.sum()
    uniform = torch.from_numpy(rng.random(count))
    logits = torch.from_numpy(law).float().log()
    found = torch.cat(
        [draw(logits.expand(len(u), columns).clone(), u, Settings(RandomOrder()))[0] for u in uniform.split(4000)]
    )
    assert agrees(np.bincount(found.numpy(), minlength=columns), law) and not (found == columns // 2).any()
    # The same as searching the whole cumulated sum, but for its rounding.
    exact = np.searchsorted(law.cumsum(), uniform.numpy(), side="right")
    assert (found.numpy() != exact).mean() < 1e-3


def test_inverse_cdf_never_draws_what_is_impossible():
    p = torch.zeros(4, 3000)
    p[0, 1500], p[1, 2999], p[2, :2], p[3, 2000:2003] = 1.0, 0.3, 1e-30, torch.tensor([0.1, 0.0, 0.2])
    for u in (0.0, 0.5, 1 - 2**-53):
        found, total = by_inverse_cdf(p, torch.full((4,), u, dtype=torch.float64))
        assert total.tolist() == pytest.approx(p.sum(1).tolist())
        assert (p.gather(1, found[:, None]) > 0).all()


def test_filters():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    expected = {"top_k": (2, [0.5, 0.3, 0, 0]), "top_p": (0.7, [0.5, 0.3, 0, 0]), "min_p": (0.25, [0.5, 0.3, 0.15, 0])}
    for name, (value, kept) in expected.items():
        assert filtered(p, Settings(RandomOrder(), **{name: value}))[0].tolist() == pytest.approx(kept)
    assert draw(p.log(), torch.tensor([0.99]), Settings(RandomOrder()), temperature=0)[0].item() == 0
    # Of equal ones no more than asked for.
    alike = filtered(torch.full((1, 4), 0.25), Settings(RandomOrder(), top_k=2))
    assert (alike > 0).sum() == 2


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("above", [[3.0, -2.0], [300.0, 0.0], [-300.0, 300.0]])
def test_scores_are_of_the_law_before_temperature(temperature: float, above: list[float]):
    """Whatever is added to all logits of a row."""
    law = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]])
    own, held = Settings(RandomOrder(), temperature=temperature), torch.tensor([-1, 0])
    expected = {"likeliest": [np.log(0.5), np.log(0.9)], "margin": [0.2, 0.8]}
    expected["entropy"] = torch.special.entr(law).sum(1).neg().tolist()
    for score in ("drawn", *expected):
        logits = law.log() + torch.tensor(above)[:, None]
        drawn, found = draw(logits, torch.tensor([0.9, 0.9]).double(), own, temperature, score, held)
        assert found is not None and drawn[1] == 0  # a column that is held is scored as it is
        wanted = expected.get(score, law.log().gather(1, drawn[:, None])[:, 0].tolist())
        assert found.tolist() == pytest.approx(wanted, abs=1e-6 if max(map(abs, above)) < 9 else 1e-4)
