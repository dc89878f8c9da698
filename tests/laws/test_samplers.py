"""Laws of sampling, on toys whose exact law is known."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from trimask.core.canvas import Composer, Row, Segment, read
from trimask.core.errors import UsageError
from trimask.diffusion import toy
from trimask.diffusion.samplers import Ancestral, Blockwise, Confidence, RandomOrder, confidence
from trimask.diffusion.samplers.base import View, top
from trimask.diffusion.sampling import Engine, Settings, draw, filtered, sample, steps
from trimask.diffusion.schedules import by_name

TOY = toy.correlated(seed=1)


def words(sampler, count: int = 2000, seed: int = 0, exact: toy.Toy = TOY, span: int | None = None) -> np.ndarray:
    """Index into the support of each of `count` sampled words."""
    n = exact.support_WN.shape[1]
    blank = toy.target([0] * (n - 1) if span is None else [], span, hidden=True)
    canvas = Composer(exact.vocabulary, 3 + n).compose([[Row((blank,))]] * count)
    engine = Engine(exact, exact.vocabulary, {"text": Settings(sampler)})
    filled = sample(engine, canvas, seed)
    columns = filled.ids_BL[filled.maskable_BL].view(count, n).numpy()
    places = {tuple(w): i for i, w in enumerate(exact.support_WN.tolist())}
    return np.array([places[tuple(w)] for w in columns.tolist()])


def total_variation(sampler, count: int = 3000) -> float:
    share = np.bincount(words(sampler, count), minlength=27) / count
    return float(0.5 * np.abs(share - TOY.probability_W).sum())


@pytest.mark.parametrize("sampler", [RandomOrder(steps=4), Blockwise(block=1, blocks=4, inner=RandomOrder(steps=1))])
def test_one_token_a_step_is_exact(sampler):
    found = np.bincount(words(sampler, 3000), minlength=27)
    often = TOY.probability_W * 3000 > 5
    observed = [*found[often], found[~often].sum()]
    expected = [*(TOY.probability_W[often] * 3000), TOY.probability_W[~often].sum() * 3000]
    assert chisquare(observed, np.array(expected) * sum(observed) / sum(expected)).pvalue > 1e-3


def test_blocks_begin_where_there_is_something_to_fill():
    """Behind a prompt or in a hole no step is spent on what is given."""
    word = TOY.support_WN[0, :-1].astype(np.int32)
    # The last code and END.
    hidden = np.arange(len(word) + 1) >= len(word) - 1
    canvas = Composer(TOY.vocabulary, 8).compose([[Row((Segment("text", word, True, hidden=hidden),))]])
    sampler = Blockwise(block=1, blocks=8, inner=RandomOrder(steps=1))
    states = steps(Engine(TOY, TOY.vocabulary, {"text": Settings(sampler)}), canvas, 0)
    left = [int((s.canvas.ids_BL == TOY.vocabulary.mask).sum()) for s in states]
    assert left[:2] == [1, 0]


def test_ancestral_sampling_converges_as_steps_grow():
    one, four, many = (total_variation(Ancestral(steps=n)) for n in (1, 4, 32))
    noise = 0.5 * np.sqrt(2 / np.pi) * np.sqrt(TOY.probability_W / 3000).sum()
    assert one > four > many
    assert many < 2.5 * noise + 0.02


def test_sampled_lengths_follow_the_known_distribution():
    law = toy.lengths([0.1, 0.4, 0.2, 0.3], span=4)
    found = law.support_WN[words(RandomOrder(steps=4), 2000, exact=law, span=4)]
    counts = np.bincount((found < 2).sum(1), minlength=4)
    assert chisquare(counts, np.array([0.1, 0.4, 0.2, 0.3]) * 2000).pvalue > 1e-3


def test_the_length_of_a_free_span_is_drawn_first_and_what_is_in_it_follows_the_law():
    """A sampler that fills all at once would mix lengths: here only the words of one length are drawn together."""
    law = toy.lengths([0.1, 0.4, 0.2, 0.3], span=4)
    canvas = Composer(law.vocabulary, 7).compose([[Row((toy.target([], 4, hidden=True),))]] * 200)
    engine = Engine(law, law.vocabulary, {"text": Settings(RandomOrder(steps=1))})
    begun = engine.start(canvas, 0, range(200)).canvas
    alphabet = law.vocabulary.alphabets[0]
    columns = begun.ids_BL[begun.maskable_BL].view(200, 4)
    assert ((columns == alphabet.end).sum(1) == 1).all()
    ends = (columns == alphabet.end).int().argmax(1)
    for row, end in zip(columns, ends.tolist(), strict=True):
        assert (row[end + 1 :] == alphabet.fill).all() and (row[:end] == law.vocabulary.mask).all()
    # An empty word is finished before the first step, and stays so.
    final = sample(engine, canvas, 0)
    assert {len(read(final, law.vocabulary, s)) for s in final.spans} == {0, 1, 2, 3}


def test_a_row_does_not_depend_on_its_batch():
    blank = Row((toy.target([0, 0, 0], hidden=True),))
    composer = Composer(TOY.vocabulary, 7)
    engine = Engine(TOY, TOY.vocabulary, {"text": Settings(Confidence(steps=3, gumbel=1.0))})
    many = sample(engine, composer.compose([[blank]] * 5), seed=9, keys=list("abcde"))
    for i, key in enumerate("abcde"):
        alone = sample(engine, composer.compose([[blank]]), seed=9, keys=[key])
        assert torch.equal(alone.ids_BL[0], many.ids_BL[i])


def test_given_tokens_are_kept_and_the_rest_follows_them():
    hidden = np.array([False, True, True, False])
    segment = Segment("text", np.array([2, 0, 0]), target=True, hidden=hidden)
    canvas = Composer(TOY.vocabulary, 7).compose([[Row((segment,))]] * 500)
    engine = Engine(TOY, TOY.vocabulary, {"text": Settings(RandomOrder(steps=2))})
    filled = sample(engine, canvas, 0)
    codes = np.stack([read(filled, TOY.vocabulary, s) for s in filled.spans])
    assert (codes[:, 0] == 2).all()
    match = TOY.support_WN[:, 0] == 2
    law = TOY.probability_W[match] / TOY.probability_W[match].sum()
    found = np.bincount(codes[:, 1] * 3 + codes[:, 2], minlength=9) / 500
    assert 0.5 * np.abs(found - law).sum() < 0.12


def test_counts_are_what_the_schedule_says():
    blank = toy.target([0, 0, 0], hidden=True)
    canvas = Composer(TOY.vocabulary, 7).compose([[Row((blank,))]] * 2)
    for counts, expected in (("linear", [2, 0]), ("cosine", [2, 0])):
        engine = Engine(TOY, TOY.vocabulary, {"text": Settings(Confidence(steps=2, counts=counts))})
        left = [int((s.canvas.ids_BL[0] == TOY.vocabulary.mask).sum()) for s in steps(engine, canvas, 0)]
        assert left == expected


@pytest.mark.parametrize("sampler", [Confidence, RandomOrder])
def test_counts_of_linear_and_cosine_differ(sampler):
    """Of 16 tokens in 4 steps, 16 (1 - r) and 16 cos(pi r / 2) stay masked, rounded down: 14.8, 11.3, 6.1 and 0."""
    word = np.array([[*[0] * 15, 3]])
    one = toy.Toy(TOY.vocabulary, word, np.ones(1))
    canvas = Composer(TOY.vocabulary, 19).compose([[Row((toy.target([0] * 15, hidden=True),))]] * 2)
    for counts, expected in (("linear", [12, 8, 4, 0]), ("cosine", [14, 11, 6, 0])):
        engine = Engine(one, TOY.vocabulary, {"text": Settings(sampler(steps=4, counts=counts))})
        left = [(s.canvas.ids_BL == TOY.vocabulary.mask).sum(1).tolist() for s in steps(engine, canvas, 0)]
        assert left == [[n, n] for n in expected]


def even(step: int, count: int, todo: torch.Tensor | None = None, score: torch.Tensor | None = None) -> View:
    """One row of `count` tokens whose noise is spread evenly over (0, 1)."""
    todo = torch.ones(1, count, dtype=torch.bool) if todo is None else todo
    noise = torch.from_numpy(np.random.default_rng(step).permutation(count) + 0.5).float()[None] / count
    zero = torch.zeros(1, count)
    return View(step, todo, zero if score is None else score, noise, zero.long(), zero.long(), torch.tensor([count]))


def test_gumbel_noise_of_confidence_falls_to_zero(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(confidence, "keep_counts", lambda _counts, _view, _steps, score_BL: score_BL)
    sampler = Confidence(steps=4, gumbel=2.0)
    for step, scale in enumerate([1.5, 1.0, 0.5, 0.0]):
        view = even(step, 1000, score=torch.linspace(-5, 0, 1000)[None])
        noise = sampler.reveal(view) - view.score_BL
        # Mean and deviation of the standard Gumbel law.
        assert noise.mean().item() == pytest.approx(scale * np.euler_gamma, abs=0.01)
        assert noise.std().item() == pytest.approx(scale * np.pi / np.sqrt(6), abs=0.02)
        assert torch.equal(noise.argsort(), view.noise_BL.argsort()) or scale == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "poly2"])
def test_ancestral_follows_its_schedule(schedule: str):
    """What is still masked at a time is the rate of that time, for equally spaced times."""
    todo, left, count = torch.ones(1, 20_000, dtype=torch.bool), [], 20_000
    for step in range(5):
        view = even(step, count, todo)
        kept = Ancestral(steps=5, schedule=schedule).reveal(view)
        assert not (kept & ~todo).any()
        todo = todo & ~kept
        left.append(float(todo.sum() / count))
    rates = [float(by_name(schedule).rate(np.float64(t))) for t in (0.8, 0.6, 0.4, 0.2)]
    assert np.abs(np.array(left[:4]) - rates).max() < 4 * 0.5 / np.sqrt(count)
    assert left[4] == 0


def test_confidence_reveals_the_best_and_ties_go_left():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.9]])
    todo = torch.tensor([[True, True, True, True]])
    assert top(score, todo, torch.tensor([2])).tolist() == [[False, True, False, True]]
    assert top(torch.zeros(1, 4), todo, torch.tensor([2])).tolist() == [[True, True, False, False]]
    view = View(
        0,
        todo,
        score,
        torch.full((1, 4), 0.5),
        torch.tensor([[0, 1, 0, 0]]),
        torch.zeros(1, 4).long(),
        torch.tensor([4]),
    )
    kept = Confidence(steps=2, counts="linear", level_penalty=5.0).reveal(view)
    assert kept.tolist() == [[False, False, True, True]]


def test_inverse_cdf_draws_follow_the_probabilities():
    p = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(4000, 4)
    noise = torch.from_numpy(np.random.default_rng(0).random(4000))
    counts = np.bincount(draw(p, noise, Settings(RandomOrder())).numpy(), minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], [2000, 1200, 800]).pvalue > 1e-3
    assert draw(p[:1], torch.tensor([1.0], dtype=torch.float64), Settings(RandomOrder())).item() == 3


def test_filters():
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    top_k = filtered(log_p, Settings(RandomOrder(), top_k=2))
    assert top_k[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    top_p = filtered(log_p, Settings(RandomOrder(), top_p=0.7))
    assert (top_p[0] > 0).tolist() == [True, True, False, False]
    assert draw(log_p, torch.tensor([0.99]), Settings(RandomOrder(), temperature=0)).item() == 0


def test_a_canvas_with_nothing_to_fill_is_an_error():
    canvas = Composer(TOY.vocabulary, 7).compose([[Row((toy.target([0, 1, 2]),))]])
    with pytest.raises(UsageError, match="nothing to fill"):
        sample(Engine(TOY, TOY.vocabulary, {"text": Settings(RandomOrder())}), canvas)
    with pytest.raises(UsageError, match="temperature"):
        Settings(RandomOrder(), temperature=-1)
