"""Laws of sampling, on toys whose exact law is known."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from chance import agrees
from scipy.stats import chisquare

from trimask.core.canvas import Composer, Row, Segment, read
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.core.rng import uniforms
from trimask.diffusion import toy
from trimask.diffusion.samplers import (
    Ancestral,
    Blockwise,
    Confidence,
    EntropyBounded,
    FirstHitting,
    LevelOrdered,
    Planning,
    RandomOrder,
    Remasking,
    Sampler,
    Threshold,
    View,
)
from trimask.diffusion.samplers.base import top
from trimask.diffusion.sampling import Engine, sample, steps
from trimask.diffusion.schedules import by_name
from trimask.diffusion.settings import Course, Settings
from trimask.diffusion.state import timetable

TOY = toy.correlated(seed=1)
EVERY = (
    Ancestral(steps=3),
    FirstHitting(),
    FirstHitting(steps=3),
    RandomOrder(steps=3),
    Confidence(steps=3, gumbel=1.0),
    Confidence(steps=3, by="margin"),
    Threshold(probability=0.6),
    Threshold(factor=1.0),
    EntropyBounded(bound=0.5, gumbel=1.0),
    Blockwise(block=2, inner=RandomOrder(steps=2)),
    Blockwise(block=2, inner=Threshold()),
    Blockwise(block=2, inner=Remasking(steps=4, eta=0.9, kind="rescale")),
    Blockwise(block=3, inner=Planning(steps=4, eta=2.0)),
    LevelOrdered(inner=Confidence(steps=2)),
    Remasking(steps=4, eta=0.2),
    Planning(steps=4, eta=2.0),
)


def blank(exact: toy.Toy = TOY, count: int = 1, span: int | None = None):
    """A canvas of words that are hidden."""
    n = exact.support_WN.shape[1]
    word = toy.target([0] * (n - 1) if span is None else [], span, hidden=True)
    return Composer(exact.vocabulary, 3 + n).compose([[Row((word,))]] * count)


def words(sampler: Sampler, count: int = 2000, seed: int = 0, exact: toy.Toy = TOY, span: int | None = None):
    """Index into the support of each of `count` sampled words."""
    canvas = blank(exact, count, span)
    filled = sample(Engine(exact, exact.vocabulary), canvas, {"text": Settings(sampler)}, seed)
    columns = filled.ids_BL[filled.maskable_BL].view(count, -1).numpy()
    places = {tuple(w): i for i, w in enumerate(exact.support_WN.tolist())}
    return np.array([places[tuple(w)] for w in columns.tolist()])


def total_variation(sampler: Sampler, count: int = 3000, exact: toy.Toy = TOY) -> float:
    share = np.bincount(words(sampler, count, exact=exact), minlength=len(exact.probability_W)) / count
    return float(0.5 * np.abs(share - exact.probability_W).sum())


def pair() -> toy.Toy:
    """Two words, the second mostly the first again; END behind them is known to come."""
    vocabulary = Vocabulary(modalities=(Modality(name="text", grid="line", codes=2),))
    support = np.array([[0, 0, 2], [0, 1, 2], [1, 0, 2], [1, 1, 2]])
    return toy.Toy(vocabulary, support, np.array([0.45, 0.05, 0.1, 0.4]))


def independent(p: float) -> toy.Toy:
    """Three tokens, each 1 with probability p; END behind them."""
    support = np.array([[*bits, 2] for bits in np.ndindex(2, 2, 2)])
    return toy.Toy(pair().vocabulary, support, np.array([1 - p, p])[support[:, :3]].prod(1))


@pytest.mark.parametrize("sampler", [
    RandomOrder(steps=4), FirstHitting(), Blockwise(block=1, inner=RandomOrder(steps=1)), FirstHitting(steps=2000),
    EntropyBounded(0.0, gumbel=2.0),
])  # fmt: skip
def test_one_token_a_step_is_exact(sampler: Sampler):
    assert agrees(np.bincount(words(sampler, 3000), minlength=27), TOY.probability_W)


def test_the_error_of_ancestral_sampling_falls_as_one_over_the_steps():
    """Two tokens are drawn independently when they fall into one of n intervals: with probability 1/n."""
    exact, numbers = pair(), np.array([1, 2, 4, 8])
    found = [total_variation(Ancestral(steps=int(n)), 12_000, exact) for n in numbers]
    p = exact.probability_W.reshape(2, 2)
    apart = 0.5 * np.abs(np.outer(p.sum(1), p.sum(0)) - p).sum()
    assert found == pytest.approx(apart / numbers, abs=0.02)
    assert np.polyfit(np.log(numbers), np.log(found), 1)[0] == pytest.approx(-1, abs=0.2)


def test_first_hitting_is_ancestral_without_empty_steps():
    exact, n = pair(), 4
    one, other = (total_variation(s, 8000, exact) for s in (Ancestral(steps=n), FirstHitting(steps=n)))
    assert one == pytest.approx(other, abs=0.03)
    taken = [len(list(steps(Engine(TOY, TOY.vocabulary), blank(), {"text": Settings(FirstHitting(50))}, seed=s)))
             for s in range(20)]  # fmt: skip
    assert max(taken) <= 4 and np.mean(taken) > 3.5


def test_blocks_begin_where_there_is_something_to_fill():
    """Behind a prompt or in a hole no step is spent on what is given."""
    word = TOY.support_WN[0, :-1].astype(np.int32)
    # The last code and END.
    hidden = np.arange(len(word) + 1) >= len(word) - 1
    canvas = Composer(TOY.vocabulary, 8).compose([[Row((Segment("text", word, True, hidden=hidden),))]])
    sampler = Blockwise(block=1, inner=RandomOrder(steps=1))
    states = steps(Engine(TOY, TOY.vocabulary), canvas, {"text": Settings(sampler)})
    assert [int((s.canvas.ids_BL == TOY.vocabulary.mask).sum()) for s in states] == [1, 0]


def test_sampled_lengths_follow_the_known_distribution():
    law = toy.lengths([0.1, 0.4, 0.2, 0.3], span=4)
    found = law.support_WN[words(RandomOrder(steps=4), 2000, exact=law, span=4)]
    counts = np.bincount((found < 2).sum(1), minlength=4)
    assert agrees(counts, np.array([0.1, 0.4, 0.2, 0.3]))


def test_the_length_of_a_free_span_is_drawn_first_and_what_is_in_it_follows_the_law():
    """A sampler that fills all at once would mix lengths: here only the words of one length are drawn together."""
    law = toy.lengths([0.1, 0.4, 0.2, 0.3], span=4)
    canvas, settings = blank(law, 200, span=4), {"text": Settings(RandomOrder(steps=1))}
    engine = Engine(law, law.vocabulary)
    begun = engine.start(canvas, settings)
    alphabet = law.vocabulary.alphabets[0]
    columns = begun.canvas.ids_BL[canvas.maskable_BL].view(200, 4)
    assert ((columns == alphabet.end).sum(1) == 1).all()
    ends = (columns == alphabet.end).int().argmax(1)
    for row, end in zip(columns, ends.tolist(), strict=True):
        assert (row[end + 1 :] == alphabet.fill).all() and (row[:end] == law.vocabulary.mask).all()
    # What is before the end cannot end any more.
    assert not (begun.ends_BL & (begun.canvas.ids_BL == law.vocabulary.mask)).any()
    # An empty word is finished before the first step, and stays so.
    final = sample(engine, canvas, settings)
    assert {len(read(final, law.vocabulary, s)) for s in final.spans} == {0, 1, 2, 3}
    # So is a batch of nothing else.
    never = toy.lengths([1.0], span=4)
    final = sample(Engine(never, never.vocabulary), blank(never, 3, span=4), settings)
    assert [len(read(final, never.vocabulary, s)) for s in final.spans] == [0, 0, 0]


def test_the_length_of_what_is_continued_is_drawn_first_too():
    law = toy.lengths([0.1, 0.4, 0.2, 0.3], span=4)
    hidden = np.array([False, True, True, True])
    row = Row((Segment("text", np.array([1]), True, 4, hidden),))
    canvas = Composer(law.vocabulary, 8).compose([[row]] * 1500)
    filled = sample(Engine(law, law.vocabulary), canvas, {"text": Settings(RandomOrder(steps=1))})
    found = [len(read(filled, law.vocabulary, span)) for span in filled.spans]
    assert agrees(np.bincount(found, minlength=4), np.array([0, 4, 2, 3]) / 9)


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_a_row_does_not_depend_on_its_batch(sampler: Sampler):
    """Nor on when the other rows are finished, nor on how they are sampled, nor on how much of them is hidden."""
    engine, own = Engine(TOY, TOY.vocabulary), {"text": Settings(sampler, temperature=Course(1.0, 0.0), repetition=1.5)}
    some = Row((Segment("text", np.array([2, 0, 1]), target=True, hidden=np.array([False, True, False, True])),))
    whole = Row((toy.target([0, 0, 0], hidden=True),))
    composer, rows = Composer(TOY.vocabulary, 7), [whole, some, whole, some, whole]
    others = [own, {"text": Settings(Threshold(0.1))}, own, {"text": Settings(RandomOrder(steps=1))}, own]
    canvas = composer.compose([[row] for row in rows])
    together = sample(engine, canvas, own, 9, list("abcde"))
    mixed = sample(engine, canvas, others, 9, list("abcde"))
    for i, key in enumerate("abcde"):
        alone, mine = (sample(engine, composer.compose([[rows[i]]]), s, 9, [key]) for s in (others[i], own))
        assert torch.equal(alone.ids_BL[0], mixed.ids_BL[i]) and torch.equal(mine.ids_BL[0], together.ids_BL[i])
    assert not (together.ids_BL == TOY.vocabulary.mask).any()
    other = {"text": Settings(RandomOrder(steps=4))}
    assert not torch.equal(*(sample(engine, canvas, other, seed, list("abcde")).ids_BL for seed in (9, 10)))


def test_rows_at_different_steps_share_a_batch():
    """What a server does: a row joins others that have begun, with settings of its own."""
    engine = Engine(TOY, TOY.vocabulary)
    settings = {
        "a": {"text": Settings(Blockwise(block=2, inner=Confidence(steps=2, counts="linear")))},
        "b": {"text": Settings(Confidence(steps=4, counts="linear"))},
        "c": {"text": Settings(Confidence(steps=4, counts="linear"))},
    }
    late, early, third = (engine.start(blank(), settings[key], 3, [key]) for key in "abc")
    early = engine.step(engine.step(early))
    state = early.below(late).below(third)
    assert state.step_B.tolist() == [2, 0, 0] and len(state.parts) == 2
    while not engine.finished(state).all():
        state = engine.step(state)
    for i, key in enumerate("bac"):
        assert torch.equal(state.canvas.ids_BL[i], sample(engine, blank(), settings[key], 3, [key]).ids_BL[0])
    with pytest.raises(UsageError, match="pad alike"):
        wide = Composer(TOY.vocabulary, 9).compose([[Row((toy.target([0, 0, 0], hidden=True),))]])
        early.below(engine.start(wide, settings["a"]))


def test_given_tokens_are_kept_and_the_rest_follows_them():
    hidden = np.array([False, True, True, False])
    segment = Segment("text", np.array([2, 0, 0]), target=True, hidden=hidden)
    canvas = Composer(TOY.vocabulary, 7).compose([[Row((segment,))]] * 500)
    filled = sample(Engine(TOY, TOY.vocabulary), canvas, {"text": Settings(RandomOrder(steps=2))})
    codes = np.stack([read(filled, TOY.vocabulary, s) for s in filled.spans])
    assert (codes[:, 0] == 2).all()
    match = TOY.support_WN[:, 0] == 2
    law = TOY.probability_W[match] / TOY.probability_W[match].sum()
    assert agrees(np.bincount(codes[:, 1] * 3 + codes[:, 2], minlength=9), law)


def test_only_what_is_revealed_is_scored_where_the_order_does_not_depend_on_the_model():
    asked: list[int] = []

    def counting(canvas, queries):
        asked.extend(q.count for q in queries)
        return TOY(canvas, queries)

    for sampler, expected in (
        (RandomOrder(steps=4), [1, 1, 1, 1]),
        (Confidence(steps=4, counts="linear"), [4, 3, 2, 1]),
    ):
        asked.clear()
        sample(Engine(counting, TOY.vocabulary), blank(), {"text": Settings(sampler)})
        assert asked == expected


@pytest.mark.parametrize("sampler", [Confidence, RandomOrder])
def test_counts_are_what_the_schedule_says(sampler):
    """Of 16 tokens in 4 steps, 16 (1 - r), 16 cos(pi r / 2) and 16 (1 - r)^2 stay masked, rounded down."""
    word = np.array([[*[0] * 15, 3]])
    one = toy.Toy(TOY.vocabulary, word, np.ones(1))
    for counts, expected in (("linear", [12, 8, 4, 0]), ("cosine", [14, 11, 6, 0]), ("poly2", [9, 4, 1, 0])):
        progress = steps(
            Engine(one, TOY.vocabulary), blank(one, 2), {"text": Settings(sampler(steps=4, counts=counts))}
        )
        left = [(s.canvas.ids_BL == TOY.vocabulary.mask).sum(1).tolist() for s in progress]
        assert left == [[n, n] for n in expected]


def view(score: Any, step: int = 0, steps: int = 2, filled: Sequence[int] = (), **changes: Any) -> View:
    """Rows of tokens with these scores (one row, or a table), all masked but those in the `filled` columns."""
    score = torch.atleast_2d(torch.as_tensor(score))
    rows, count = score.shape
    held = torch.zeros(score.shape, dtype=torch.bool)
    held[:, [*filled]] = True
    one, total, level = np.ones(rows, np.int64), torch.full((rows,), count), torch.zeros(rows, count, dtype=torch.int64)
    made = View(~held, held, ~held, level, torch.arange(rows), step * one, step * one, steps * one, total, score)
    return replace(made, **changes)


def revealed(sampler: Sampler, seen: View) -> list[int]:
    return sampler.move(seen).reveal_BL[0].nonzero().flatten().tolist()


def test_noise_is_uniform_and_a_function_of_row_step_and_token():
    seen = view(torch.zeros(2, 5000))
    noise = seen.noise()
    assert chisquare(np.histogram(noise.numpy(), 50, (0, 1))[0]).pvalue > 1e-3
    assert abs(np.corrcoef(noise.numpy())[0, 1]) < 0.05
    later = replace(seen, row_step_B=np.array([1, 0])).noise()
    assert torch.equal(later[1], noise[1]) and not torch.equal(later[0], noise[0])
    assert abs(np.corrcoef(later[0], noise[0])[0, 1]) < 0.05
    assert torch.equal(seen.noise(fixed=True), replace(seen, row_step_B=np.array([5, 6])).noise(fixed=True))
    assert not torch.equal(seen.noise(fixed=True), noise)
    # Neighbouring keys and counters share nothing, down to the last bit.
    table = uniforms(torch.arange(300)[:, None], torch.arange(300))
    assert len(table.unique()) == 300 * 300 and table.min() >= 0 and table.max() < 1
    assert chisquare(np.histogram((table.numpy() * 2**20) % 1, 50, (0, 1))[0]).pvalue > 1e-3


@pytest.mark.parametrize("anneal", [True, False])
def test_gumbel_noise_of_confidence(anneal: bool):
    """Two tokens with scores x and y are in this order with probability 1 / (1 + exp((y - x) / scale))."""
    for step, scale in enumerate([1.5, 1.0, 0.5] if anneal else [2.0] * 3):
        many = view(torch.tensor([[0.0, 1.0]]).expand(4000, 2), step, 4, total_B=torch.full((4000,), 99))
        first = Confidence(steps=4, gumbel=2.0, anneal=anneal).move(many).reveal_BL[:, 0].double().mean()
        assert float(first) == pytest.approx(1 / (1 + np.exp(1 / scale)), abs=0.03)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "poly2"])
@pytest.mark.parametrize("kind", ["ancestral", "cap", "rescale"])
def test_what_is_masked_follows_the_schedule(schedule: str, kind: str):
    """What is still masked at a time is the rate of that time, for equally spaced times, with remasking or without."""
    count, n = 20_000, 5
    again = {"cap": 0.2, "rescale": 0.5}.get(kind)
    sampler = Ancestral(n, schedule) if again is None else Remasking(n, schedule, kind, again)  # pyright: ignore
    masked, left, hidden = torch.ones(1, count, dtype=torch.bool), [], 0
    for step in range(n):
        seen = view(torch.zeros(count), step, n, masked_BL=masked, filled_BL=~masked)
        move = sampler.move(seen)
        assert not (move.reveal_BL & ~masked).any()
        masked = masked & ~move.reveal_BL
        if move.hide_BL is not None:
            assert not (move.hide_BL & ~seen.filled_BL).any()
            masked, hidden = masked | move.hide_BL, hidden + int(move.hide_BL.sum())
        left.append(float(masked.sum() / count))
    rates = [float(by_name(schedule).rate(np.float64(t))) for t in (0.8, 0.6, 0.4, 0.2, 0.0)]
    assert np.abs(np.array(left) - rates).max() < 4 * 0.5 / np.sqrt(count)
    assert (hidden > 0) == (again is not None)


def test_remasking_keeps_the_law_of_single_tokens_and_its_window():
    """Where tokens are independent the law is exact, whatever is masked again; else as in ancestral, by steps."""
    exact = independent(0.3)
    assert agrees(np.bincount(words(Remasking(steps=6, eta=0.3), 4000, exact=exact), minlength=8), exact.probability_W)
    one, many = (total_variation(Remasking(steps=n, eta=0.1)) for n in (2, 64))
    assert many < 0.5 * one
    sampler = Remasking(steps=4, eta=1.0, kind="rescale", begin=0.5, end=0.75)
    hidden = [bool(sampler.move(view([0.0] * 50, s, 4, filled=[*range(25)])).hide_BL.any()) for s in range(4)]
    assert hidden == [False, False, True, False]


def test_confidence_reveals_the_best_and_ties_go_left():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.9]])
    todo = torch.ones(1, 4, dtype=torch.bool)
    assert top(score, todo, torch.tensor([2])).tolist() == [[False, True, False, True]]
    assert top(torch.zeros(1, 4), todo, torch.tensor([2])).tolist() == [[True, True, False, False]]
    # What is asked for goes before what is not, also with a score of minus infinity.
    some = torch.tensor([[False, True, True, True]])
    assert top(torch.tensor([[1.0, -np.inf, 1.0, -np.inf]]), some, torch.tensor([2])).tolist() == [
        [False, True, True, False]
    ]
    levels = torch.tensor([[0, 1, 0, 0]])
    assert revealed(Confidence(steps=2, counts="linear", level_penalty=5.0), view(score[0], level_BL=levels)) == [2, 3]


def test_threshold_reveals_all_that_is_sure_enough():
    """By hand: p > 0.8 holds of two; with none above the threshold, the best goes."""
    p = [0.5, 0.95, 0.81, 0.8]
    assert revealed(Threshold(0.8), view(np.log(p))) == [1, 2]
    assert revealed(Threshold(0.99), view(np.log(p))) == [1]
    # (n + 1)(1 - p_n) for n = 1..4: 0.1, 0.57, 0.8, 2.5.
    assert revealed(Threshold(factor=0.6), view(np.log(p))) == [1, 2]
    assert revealed(Threshold(factor=0.81), view(np.log(p))) == [1, 2, 3]
    assert revealed(Threshold(factor=0.05), view(np.log(p))) == [1]
    assert revealed(Threshold(0.8), view(np.log(p), filled=[1])) == [2]


def test_entropy_bounded_reveals_as_many_as_the_bound_allows():
    """Entropies 0.1, 0.2, 0.4, 1: sums without the largest 0, 0.1, 0.3, 0.7."""
    score = [-0.4, -0.1, -1.0, -0.2]
    for bound, expected in ((0.0, [1]), (0.1, [1, 3]), (0.25, [1, 3]), (0.3, [0, 1, 3]), (0.7, [0, 1, 2, 3])):
        assert revealed(EntropyBounded(bound + 1e-6), view(score)) == expected


def test_planning_masks_again_what_has_become_worse_than_what_is_masked():
    """Of 4 tokens 2 are to be filled after step 2 of 4; the filled ones count `eta` times."""
    score = [-0.5, -0.3, -0.1, -2.0]
    move = Planning(steps=4, eta=1.0).move(view(score, 1, 4, filled=[0]))
    assert move.reveal_BL[0].tolist() == [False, True, True, False]
    assert move.hide_BL is not None and move.hide_BL[0].tolist() == [True, False, False, False]
    kept = Planning(steps=4, eta=0.0).move(view(score, 1, 4, filled=[0]))
    assert kept.reveal_BL[0].tolist() == [False, False, True, False] and not kept.hide_BL.any()


def turns(sampler: Sampler, hidden: Sequence[int], count: int = 8) -> list[list[int]]:
    """Units that are revealed at each step, of a line in which some are hidden; all of them are known to be 0."""
    one = toy.Toy(TOY.vocabulary, np.array([[*[0] * count, 3]]), np.ones(1))
    mask = np.isin(np.arange(count + 1), hidden)
    segment = Segment("text", np.zeros(count, np.int32), target=True, hidden=mask)
    canvas = Composer(one.vocabulary, 4 + count).compose([[Row((segment,))]])
    out, before = [], canvas.ids_BL
    for progress in steps(Engine(one, one.vocabulary), canvas, {"text": Settings(sampler)}):
        revealed_L = ((before == TOY.vocabulary.mask) & (progress.canvas.ids_BL != TOY.vocabulary.mask))[0]
        out.append((revealed_L.nonzero().flatten() - canvas.spans[0].start).tolist())
        before = progress.canvas.ids_BL
    return out


def test_blocks_come_one_after_the_other():
    linear = Confidence(steps=2, counts="linear")
    assert turns(Blockwise(block=3, inner=linear), range(6)) == [[0, 1], [2], [3, 4], [5]]
    # As many steps as a block has tokens, wherever they are, and none for blocks that have none.
    one = Blockwise(block=4, inner=Confidence(steps=4, counts="linear"))
    assert turns(one, [0, 1, 2, 3, 7]) == [[0], [1], [2], [3], [7]]
    assert turns(Blockwise(block=2, inner=linear), [1, 6, 7]) == [[1], [6], [7]]
    # So many steps in all are shared by the blocks, at least one each.
    assert [len(t) for t in turns(Blockwise(block=4, inner=linear, steps=7), range(8))] == [2, 1, 1, 2, 1, 1]
    assert [len(t) for t in turns(Blockwise(block=4, inner=linear, steps=1), range(8))] == [8]
    assert [len(t) for t in turns(Blockwise(block=1, inner=linear, steps=3), range(8))] == [3, 3, 2]
    idle = Blockwise(block=4, inner=Remasking(steps=16), steps=64)
    begins_BK = timetable(idle, np.ones((1, 8), bool), np.arange(8)[None], np.zeros((1, 8), int))[2]
    assert begins_BK.tolist() == [[0, 32, 64]]
    # A sampler that takes as many steps as it needs goes on to the next block when one is full.
    assert turns(Blockwise(block=3, inner=Threshold(0.5)), range(8)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    # Its limit is that of all blocks together.
    found = turns(Blockwise(block=4, inner=FirstHitting(steps=2)), range(8))
    assert sorted(u for step in found for u in step) == [*range(8)] and 2 <= len(found) <= 4
    # What plans and masks again does so within its block.
    assert [len(t) for t in turns(Blockwise(block=4, inner=Planning(steps=4)), range(8))] == [1] * 8
    with pytest.raises(UsageError, match="has phases of its own"):
        Blockwise(inner=Blockwise())


def test_levels_come_one_after_the_other():
    """Also where only some of them are hidden."""
    vocabulary = Vocabulary(modalities=(Modality(name="audio", grid="frames", codes=2, levels=3, buckets=(6,)),))
    for levels in ([0, 1, 2], [1, 2], [2]):
        hidden = np.isin(np.arange(3), levels)[None] & (np.arange(5) < 4)[:, None]
        speech = Segment("speech", np.zeros((4, 3), np.int32), target=True, hidden=hidden)
        canvas = Composer(vocabulary, 20).compose([[Row((speech,))]])
        sampler = LevelOrdered(inner=RandomOrder(steps=2))
        state = Engine(lambda c, q: [torch.zeros(len(x.index_N), 2 + 2 * x.ends) for x in q], vocabulary)
        held = [canvas.ids_BL]
        for progress in steps(
            state, canvas, {"audio": Settings(sampler)}, ends_BL=torch.zeros_like(canvas.maskable_BL)
        ):
            held.append(progress.canvas.ids_BL)
        fresh = [((a == vocabulary.mask) & (b != vocabulary.mask)) for a, b in pairwise(held)]
        of = [sorted({int(a) for a in canvas.alphabet_BL[new]}) for new in fresh]
        assert of == [[n] for n in levels for _ in range(2)] and all(int(new.sum()) == 2 for new in fresh)


def test_planning_through_the_engine_masks_again_what_the_model_doubts():
    """Of tokens that are 1 with probability 0.4 the 1s are doubted most, again and again."""

    def even(canvas, queries):
        return [torch.tensor([[0.6, 0.4]]).log().repeat(len(q.index_N), 1) for q in queries]

    exact, share = independent(0.4), {}
    for eta in (0.0, 1.0):
        canvas, hidden = blank(exact, 500), 0
        before, no_ends_BL = canvas.ids_BL, torch.zeros_like(canvas.maskable_BL)
        own = {"text": Settings(Planning(steps=12, eta=eta))}
        for progress in steps(Engine(even, exact.vocabulary), canvas, own, ends_BL=no_ends_BL):
            after, mask = progress.canvas.ids_BL, exact.vocabulary.mask
            hidden += int(((before != mask) & (after == mask)).sum())
            before = after
        share[eta] = before[canvas.maskable_BL].double().mean().item(), hidden
    assert share[0.0][1] == 0 < share[1.0][1] and share[1.0][0] < 0.8 * share[0.0][0]


def test_a_temperature_that_falls_to_zero_ends_with_the_likeliest():
    """Of a word whose tokens are independent: the first steps draw, the last takes the likeliest."""
    exact = independent(0.6)
    cold = Settings(RandomOrder(steps=4), temperature=Course(1.0, 0.0))
    filled = sample(Engine(exact, exact.vocabulary), blank(exact, 400), {"text": cold})
    ones = filled.ids_BL[filled.maskable_BL].view(400, 4)[:, :3].double().mean().item()
    warm = sample(Engine(exact, exact.vocabulary), blank(exact, 400), {"text": replace(cold, temperature=1.0)})
    assert warm.ids_BL[warm.maskable_BL].view(400, 4)[:, :3].double().mean().item() == pytest.approx(0.6, abs=0.06)
    assert ones > 0.68
    assert Course(3, 1, 0.2, 0.6).at(np.array([0.0, 0.4, 1.0])).tolist() == pytest.approx([3, 2, 1])
    assert Course(3, 3, 0.2, 0.6, outside=0).at(np.array([0.1, 0.4, 0.7])).tolist() == [0, 3, 0]


def test_repetition_makes_present_ids_less_likely():
    """A word of the toy is given its first id; ids that are there already have a third of their probability."""
    support = np.array([[a, b, 2] for a in (0, 1) for b in (0, 1)])
    exact = toy.Toy(pair().vocabulary, support, np.full(4, 0.25))
    segment = Segment("text", np.array([1, 0]), target=True, hidden=np.array([False, True, False]))
    canvas = Composer(exact.vocabulary, 7).compose([[Row((segment,))]] * 4000)
    own = {"text": Settings(RandomOrder(steps=1), repetition=3.0)}
    filled = sample(Engine(exact, exact.vocabulary), canvas, own)
    again = np.array([read(filled, exact.vocabulary, s)[1] for s in filled.spans])
    assert agrees(np.bincount(again, minlength=2), np.array([0.75, 0.25]))


def test_what_cannot_be_sampled_is_an_error():
    engine, canvas = Engine(TOY, TOY.vocabulary), Composer(TOY.vocabulary, 7).compose([[Row((toy.target([0, 1, 2]),))]])
    with pytest.raises(UsageError, match="nothing to fill"):
        sample(engine, canvas, {"text": Settings(RandomOrder())})
    with pytest.raises(UsageError, match="no sampling settings for modality 'text'"):
        sample(engine, blank(), {"image": Settings(RandomOrder())})
    for bad in ({"temperature": -1}, {"min_p": 1.0}, {"repetition": 0.5}, {"temperature": Course(1, -1)},
                {"temperature": Course(1, 1, 0.2, 0.8, outside=-1)}, {"temperature": float("nan")},
                {"guidance": float("inf"), "temperature": 0}):  # fmt: skip
        with pytest.raises(UsageError, match=rf"{next(iter(bad))}=.* must be"):
            Settings(RandomOrder(), **bad)
    with pytest.raises(UsageError, match="begin"):
        Course(1, 1, 0.5, 0.5)
    for make in (lambda: RandomOrder(counts="quick"), lambda: Blockwise(block=0), lambda: Threshold(1.5),
                 lambda: Confidence(steps=0), lambda: Remasking(eta=1.5, kind="rescale"), lambda: Confidence(by="luck"),
                 lambda: Remasking(begin=0.8, end=0.2), lambda: Threshold(0.8, factor=0.5)):  # fmt: skip
        with pytest.raises(UsageError):
            make()

    def broken(canvas, queries):
        return [torch.full_like(x, torch.nan) for x in TOY(canvas, queries)]

    for sampler in (RandomOrder(), Confidence()):
        with pytest.raises(UsageError, match="not finite"):
            sample(Engine(broken, TOY.vocabulary), blank(), {"text": Settings(sampler)})
