"""Laws of the objective and of the bound, on toys whose posteriors and entropies are exact."""

import math
from dataclasses import dataclass, replace
from itertools import product
from types import SimpleNamespace

import chz
import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Draw, Row, Segment
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion import bounds, forward, toy
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.forward import corrupt
from trimask.diffusion.objective import loss, terms
from trimask.diffusion.schedules import by_name

TOY = toy.correlated()
SCHEDULES = ["linear", "cosine", "poly2", "poly0.5"]


def captioned(text: str = "linear", image: str = "cosine", seed: int = 3) -> toy.Toy:
    """One word and END, then a picture of two codes, that all depend on each other."""
    rows = (
        Modality(name="text", grid="line", codes=2, schedule=text),
        Modality(name="image", grid="plane", codes=2, schedule=image),
    )
    support = np.array([[a, 2, b, c] for a, b, c in product(range(2), repeat=3)])
    probability = np.random.default_rng(seed).dirichlet(np.full(len(support), 0.5))
    return toy.Toy(Vocabulary(modalities=rows), support, probability)


FEW = {
    "codes": toy.correlated(length=2, seed=2),
    "lengths": toy.lengths([0.2, 0.5, 0.3], span=3),
    "two modalities": captioned(),
}
"""Toys of three or four tokens."""


def scheduled(law: toy.Toy, schedule: str) -> toy.Toy:
    """The toy with its text masked by another schedule, and FILL weighed as the bound weighs it."""
    (text,) = law.vocabulary.modalities
    row = chz.replace(text, schedule=schedule, fill_weight=1.0)
    return replace(law, vocabulary=Vocabulary(modalities=(row,)))


def laid(law: toy.Toy, word: np.ndarray) -> Row:
    """The row whose target columns are a word of the toy."""
    text, *image = law.vocabulary.modalities
    size = len(word) - 2 * len(image)
    codes = word[:size][word[:size] < text.codes]
    targets = [toy.target(codes, size if text.buckets else None)]
    if image:
        targets.append(Segment("image", word[None, size:].astype(np.int32), target=True))
    return Row(tuple(targets), "".join(map(str, word)))


def averaged(law: toy.Toy, word: np.ndarray, anti_masking: bool, patch: pytest.MonkeyPatch, nodes: int = 16) -> float:
    """The training loss of a word in nats, summed over all masks and integrated over all times instead of drawn.

    All is as in training but for the two things that `corrupt` draws: the time is that of a quadrature node, and the
    noise of a token is just below its rate where the mask is to hide it, and just above where it is to stay.
    """
    x, weight = np.polynomial.legendre.leggauss(nodes)
    x, weight = 0.5 + 0.5 * x, 0.5 * weight
    # Some weights go with a square root of the time from either end; this makes them smooth.
    times, weight = x * x * (3 - 2 * x), weight * 6 * x * (1 - x)
    base, v, masks = laid(law, word), law.vocabulary, np.array(list(product([False, True], repeat=len(word))))
    slots = Composer(v, 64).size(base)[0]
    spans = Composer(v, slots).compose([[base]]).spans
    schedules = [by_name(v.modalities[v.modality(s.kind)].schedule) for s in spans for _ in range(s.length)]
    rate_TN = np.stack([s.rate(times) for s in schedules], axis=1)
    first = np.cumsum([0, *(s.length for s in spans)])
    chance_TMN = np.where(masks, rate_TN[:, None], 1 - rate_TN[:, None])

    def noise(_name, _seed, _stream, _epoch, order, _key, index):
        here, (node, mask) = slice(first[index], first[index + 1]), divmod(order, len(masks))
        return SimpleNamespace(random=lambda n: (rate_TN[node] * np.where(masks[mask], 1 - 1e-6, 1 + 1e-6))[here])

    patch.setattr(forward, "time", lambda _seed, span: times[span.draw.order // len(masks)])
    patch.setattr(forward, "generator", noise)
    views = 2 if anti_masking else 1
    rows = [[replace(base, draw=Draw("toy", 0, i, j))] for i in range(nodes * len(masks)) for j in range(views)]
    masked = corrupt(Composer(v, slots).compose(rows), v, 0)
    chance = torch.from_numpy((weight[:, None] * chance_TMN.prod(-1)).repeat(views)).float()
    expected = replace(masked, weight_BL=masked.weight_BL * chance[:, None])
    return float(loss(terms(law, expected, v), views))


def every_mask(_rng: np.random.Generator, n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """A plan that draws nothing: each of the 2^n masks once, weighed by the integral of its probability over s / s."""
    masks = np.array(list(product([False, True], repeat=n)))
    integral = [math.factorial(k - 1) * math.factorial(n - k) / math.factorial(n) if k else 0 for k in masks.sum(1)]
    return masks, draws * np.array(integral)


def exactly(denoiser: Denoiser, law: toy.Toy) -> float:
    """Mean bound of a denoiser over all words of a toy and all masks."""
    rows = [laid(law, word) for word in law.support_WN]
    composer = Composer(law.vocabulary, Composer(law.vocabulary, 64).size(rows[0])[0])
    parts = bounds.bounds(denoiser, rows, composer, every_mask, 2 ** law.support_WN.shape[1])
    return float(law.probability_W @ [b.nats for b in parts])


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
        masked = corrupt(canvas, vocabulary, seed=1)
        values.append(float(loss(terms(model, masked, vocabulary), masked.maskable)))
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("anti_masking", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_loss_estimates_the_entropy_under_every_schedule(schedule: str, anti_masking: bool):
    # END is certain, so a word's entropy is spread over its three codes and END.
    mean, error = estimate(schedule, anti_masking)
    assert error < 0.06 * TOY.entropy
    assert abs(mean - TOY.entropy / 4) < 4 * error


@pytest.mark.parametrize("anti_masking", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("law", ["codes", "lengths"])
def test_mean_loss_is_the_bound_exactly(law: str, schedule: str, anti_masking: bool, monkeypatch: pytest.MonkeyPatch):
    """Of exact posteriors the bound is -log p, in whatever order tokens are hidden; a wrong weight moves it."""
    exact = scheduled(FEW[law], schedule)
    for i in exact.probability_W.argsort()[[0, 3, -1]]:
        found = averaged(exact, exact.support_WN[i], anti_masking, monkeypatch)
        assert found == pytest.approx(-np.log(exact.probability_W[i]), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "image", "anti_masking"),
    [
        ("linear", "cosine", False),
        ("poly2", "poly0.5", False),
        ("cosine", "cosine", True),
        ("linear", "cosine", True),
    ],
)
def test_mean_loss_of_two_modalities_is_the_bound_exactly(text: str, image: str, anti_masking: bool, monkeypatch):
    law = captioned(text, image)
    for i in law.probability_W.argsort()[[0, 3, -1]]:
        found = averaged(law, law.support_WN[i], anti_masking, monkeypatch)
        assert found == pytest.approx(-np.log(law.probability_W[i]), rel=1e-4)


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


@dataclass(frozen=True)
class Noisy:
    """A denoiser of no distribution: exact log-posteriors and noise that depends on all that is seen."""

    exact: toy.Toy
    scale: float
    seed: int

    def __call__(self, canvas, queries):
        out, length = [], canvas.shape[1]
        for query, logits in zip(queries, self.exact(canvas, queries), strict=True):
            row, position = query.index_N // length, query.index_N % length
            seen = (canvas.ids_BL[row] * torch.arange(1, length + 1)).sum(1) + position
            noise = torch.sin(1.7 * seen[:, None] + 2.3 * torch.arange(logits.shape[1]) + self.seed)
            out.append(logits + self.scale * noise)
        return out


@pytest.mark.parametrize("law", FEW)
def test_bound_reaches_the_entropy_and_is_never_below(law: str):
    """20 wrong models, from slightly to wholly: other distributions, and noise that is of none."""
    exact = FEW[law]
    assert exactly(exact, exact) == pytest.approx(exact.entropy, rel=1e-5)
    for seed in range(10):
        wrong, other = (1 + seed) / 10, np.random.default_rng(seed).dirichlet(np.ones(len(exact.support_WN)))
        model = replace(exact, probability_W=(1 - wrong) * exact.probability_W + wrong * other)
        cross = float(-exact.probability_W @ np.log(model.probability_W))
        assert exactly(model, exact) == pytest.approx(cross, rel=1e-5) and cross > exact.entropy
        assert exactly(Noisy(exact, 2 * wrong, seed), exact) > exact.entropy


@pytest.mark.parametrize("plan", [bounds.by_time, bounds.by_count])
def test_plans_weigh_every_mask_as_the_integral_does(plan):
    draws = 2**18
    masks, weight = plan(np.random.default_rng(0), 4, draws)
    weight = np.broadcast_to(weight, draws) / draws
    number = masks @ [8, 4, 2, 1]
    found, square = np.bincount(number, weight, 16), np.bincount(number, weight**2, 16)
    expected = every_mask(np.random.default_rng(0), 4, 1)[1]
    assert (np.sqrt(square) < 0.02 * expected)[1:].all()
    assert (np.abs(found - expected) < 4 * np.sqrt(square))[1:].all()


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
    masked = corrupt(Composer(TOY.vocabulary, 8).compose([[r] for r in items]), TOY.vocabulary, 0)
    hidden = masked.canvas.ids_BL == TOY.vocabulary.mask
    maskable = masked.canvas.maskable_BL
    assert torch.equal(hidden[::2] ^ hidden[1::2], maskable[::2])
