"""Laws of the objective and of the bound, on toys whose posteriors and entropies are exact."""

import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Draw, Row
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion import bounds, toy
from trimask.diffusion.forward import corrupt
from trimask.diffusion.objective import loss, terms

TOY = toy.correlated()
SCHEDULES = ["linear", "cosine", "poly2", "poly0.5"]


def rows(count: int, views: int = 1, seed: int = 0) -> list[Row]:
    """Words drawn from the toy, as they would come from a stream."""
    rng = np.random.default_rng(seed)
    picks = rng.choice(len(TOY.support_WN), size=count, p=TOY.probability_W)
    words = TOY.support_WN[picks, :-1]
    return [
        Row((toy.target(w),), f"w{i}", Draw("toy", 0, i, view)) for i, w in enumerate(words) for view in range(views)
    ]


def estimate(schedule: str, anti_masking: bool, count: int = 1500) -> tuple[float, float]:
    """Mean and standard error of the training loss under the exact posterior, in nats per token."""
    vocabulary = Vocabulary(modalities=(Modality(name="text", grid="line", codes=3, schedule=schedule),))
    model = toy.Toy(vocabulary, TOY.support_WN, TOY.probability_W)
    values = []
    for batch in np.array_split(np.array(rows(count, 2 if anti_masking else 1), dtype=object), 50):
        canvas = Composer(vocabulary, 8).compose([[r] for r in batch])
        masked = corrupt(canvas, vocabulary, seed=1, anti_masking=anti_masking)
        values.append(float(loss(terms(model, masked, vocabulary), masked.maskable)))
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("anti_masking", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_loss_estimates_the_entropy_under_every_schedule(schedule: str, anti_masking: bool):
    # END is certain, so a word's entropy is spread over its three codes and END.
    mean, error = estimate(schedule, anti_masking)
    assert error < 0.06 * TOY.entropy
    assert abs(mean - TOY.entropy / 4) < 4 * error


@pytest.mark.parametrize("plan", [bounds.by_time, bounds.by_count])
def test_bound_is_tight_for_exact_posteriors(plan):
    parts = bounds.bounds(TOY, rows(300), Composer(TOY.vocabulary, 8), plan, draws=16)
    average = bounds.mean(parts)
    assert abs(average.nats - TOY.entropy) < 4 * average.error


def test_both_estimators_agree_on_each_item():
    items = rows(20)
    composer = Composer(TOY.vocabulary, 8)
    time = bounds.bounds(TOY, items, composer, bounds.by_time, draws=256)
    count = bounds.bounds(TOY, items, composer, bounds.by_count, draws=256)
    assert {b.tokens for b in (*time, *count)} == {4}
    gap = np.array([a.nats - b.nats for a, b in zip(time, count, strict=True)])
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    assert error < 0.1 and abs(gap.mean()) < 4 * error


def test_bound_of_a_wrong_model_is_above_the_entropy():
    uniform = toy.Toy(TOY.vocabulary, TOY.support_WN, np.full(27, 1 / 27))
    average = bounds.mean(bounds.bounds(uniform, rows(200), Composer(TOY.vocabulary, 8), draws=8))
    assert abs(average.nats - 3 * np.log(3)) < 4 * average.error
    assert average.nats - 4 * average.error > TOY.entropy


def test_draws_must_allow_an_error():
    with pytest.raises(ValueError, match="even"):
        bounds.bounds(TOY, rows(1), Composer(TOY.vocabulary, 8), draws=3)


def test_masks_depend_on_the_item_alone():
    items = rows(6)
    composer = Composer(TOY.vocabulary, 32)
    alone = corrupt(composer.compose([[r] for r in items]), TOY.vocabulary, seed=3)
    packed = corrupt(composer.compose([items[3:], items[:3]]), TOY.vocabulary, seed=3)
    by_key = {}
    for masked in (alone, packed):
        for span in masked.canvas.spans:
            ids = masked.canvas.ids_BL[span.row, span.start : span.start + span.length]
            assert torch.equal(by_key.setdefault(span.key, ids), ids)
    other = corrupt(composer.compose([[r] for r in items]), TOY.vocabulary, seed=4)
    assert not torch.equal(alone.canvas.ids_BL, other.canvas.ids_BL)


def test_times_are_stratified():
    items = rows(64)
    masked = corrupt(Composer(TOY.vocabulary, 8).compose([[r] for r in items]), TOY.vocabulary, seed=0)
    rates = np.sort(masked.rate_BL.amax(1).numpy())
    assert np.abs(rates - (np.arange(64) + 0.5) / 64).max() < 2 / 64


def test_complementary_views_cover_every_token_once():
    items = rows(10, views=2)
    masked = corrupt(Composer(TOY.vocabulary, 8).compose([[r] for r in items]), TOY.vocabulary, 0, True)
    hidden = masked.canvas.ids_BL == TOY.vocabulary.mask
    maskable = masked.canvas.maskable_BL
    assert torch.equal(hidden[::2] ^ hidden[1::2], maskable[::2])
