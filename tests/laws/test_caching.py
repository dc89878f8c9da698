"""Laws of the caches: what a step computes, what that leaves as it was, and that nothing else changes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import chz
import numpy as np
import pytest
import torch

from tests.laws.test_network import each_layout, item, model, vocabulary
from trimask.core.canvas import Canvas, Composer, Query, Row, Segment, queries
from trimask.core.errors import UsageError
from trimask.core.memory import Memory
from trimask.diffusion import toy
from trimask.diffusion.caching import SCOPES, Cache
from trimask.diffusion.samplers import Blockwise, Confidence, LevelOrdered, RandomOrder, Remasking, Threshold
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Course, Settings
from trimask.model.config import ModelConfig
from trimask.model.recall import stale
from trimask.model.transformer import Transformer

ORDERS = {
    "random": RandomOrder(steps=5),
    "confidence": Confidence(steps=4, gumbel=1.0),
    "threshold": Threshold(probability=0.2),
    "blocks": Blockwise(block=2, inner=Confidence(steps=2, gumbel=0.5)),
    "levels": LevelOrdered(inner=Threshold(probability=0.1)),
    "remasking": Remasking(steps=6),
}


def composed(network: Transformer, *rows: Row) -> Canvas:
    return Composer(network.vocabulary, 64, 96).compose([[row] for row in rows])


def same(settings: Settings, network: Transformer) -> dict[str, Settings]:
    return {m.name: settings for m in network.vocabulary.modalities}


def with_cache(settings: Settings, cache: Cache | None) -> Settings:
    return replace(settings, cache=cache)


def given(canvas: Canvas) -> torch.Tensor:
    """bool (B, P): the first segment of each row, with BOS and the task before it."""
    return canvas.segment_BP == 0


class Spy:
    """A network that notes which positions each evaluation computes."""

    def __init__(self, network: Transformer):
        self.network, self.computed = network, []

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[torch.Tensor]:
        return self.network(canvas, asked)

    def memory(self, canvas: Canvas, rows: int) -> Memory:
        return self.network.memory(canvas, rows)

    def recall(self, canvas: Canvas, asked: Sequence[Query], memory: Memory, wanted_BL: torch.Tensor):
        self.computed.append(stale(canvas, memory, wanted_BL))
        return self.network.recall(canvas, asked, memory, wanted_BL)


class Heard(Spy):
    """One that keeps all logits, too."""

    logits: ClassVar[list[torch.Tensor]] = []

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[torch.Tensor]:
        found = super().__call__(canvas, asked)
        self.logits.extend(x[: q.count].clone() for x, q in zip(found, asked, strict=True))
        return found

    def recall(self, canvas: Canvas, asked: Sequence[Query], memory: Memory, wanted_BL: torch.Tensor):
        found = super().recall(canvas, asked, memory, wanted_BL)
        self.logits.extend(x[: q.count].clone() for x, q in zip(found, asked, strict=True))
        return found


@each_layout
@torch.inference_mode()
def test_all_positions_computed_is_the_evaluation_without_a_memory(layout):
    network = model(vocabulary(layout))
    canvas = composed(network, item(0), item(1))
    asked = queries(canvas, canvas.maskable_BL, network.vocabulary)
    plain = network(canvas, asked)
    memory = network.memory(canvas, 2)
    for _ in range(2):
        for one, other in zip(plain, network.recall(canvas, asked, memory, canvas.maskable_BL), strict=True):
            assert (one - other).abs().max() < 1e-5


@each_layout
@torch.inference_mode()
def test_what_is_not_computed_is_as_it_was(layout):
    """Of a canvas that has changed in one token: keys by definition, logits as if all else were still as before."""
    network = model(vocabulary(layout))
    v, canvas = network.vocabulary, composed(network, item(0))
    where = canvas.maskable_BL & (canvas.ids_BL == v.mask)
    column = int(where[0].nonzero()[0])
    changed = canvas.with_ids(canvas.ids_BL.clone())
    changed.ids_BL[0, column] = v.alphabets[int(canvas.alphabet_BL[0, column])].start
    memory = network.memory(canvas, 1)
    network.recall(canvas, queries(canvas, where, v), memory, where)
    before = memory.keys.clone()
    asked_BL = torch.zeros_like(where)
    asked_BL[0, int(where[0].nonzero()[-1])] = True
    expected = torch.zeros(1, 64, dtype=torch.bool)
    expected[0, [int(canvas.slot_BL[0, column]), int(canvas.slot_BL[asked_BL])]] = True
    assert torch.equal(stale(changed, memory, asked_BL), expected)
    (logits,) = network.recall(changed, queries(changed, asked_BL, v), memory, asked_BL)
    moved = (memory.keys != before).any(-1).any(-1).any(0)
    assert torch.equal(moved, expected), "keys of positions that were not computed have moved"
    inside_BL = (changed.segment_BP >= 0).gather(1, changed.slot_BL)
    assert torch.equal(memory.ids_BL[inside_BL], changed.ids_BL[inside_BL])
    (again,) = network.recall(changed, queries(changed, asked_BL, v), memory, asked_BL)
    (exact,) = network(changed, queries(changed, asked_BL, v))
    assert (again - logits).abs().max() < 1e-5 < (exact - logits).abs().max()


@each_layout
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scope", SCOPES)
def test_computing_everything_at_every_step_is_no_cache(layout, order, scope):
    network = model(vocabulary(layout))
    canvas = composed(network, *(item(i) for i in range(3)))
    settings = Settings(ORDERS[order], guidance=Course(0.0, 2.0, 0.3, 0.9, outside=0.0))
    cached = with_cache(settings, Cache(scope, every=1))
    found = [sample(Engine(network, network.vocabulary), canvas, same(s, network), 5) for s in (settings, cached)]
    assert torch.equal(found[0].ids_BL, found[1].ids_BL)


@each_layout
@pytest.mark.parametrize("order", ["random", "confidence", "blocks"])
def test_the_cache_of_a_condition_that_does_not_look_is_exact(layout, order):
    network = model(chz.replace(vocabulary(layout), sight="cached"))
    canvas = composed(network, *(item(i) for i in range(3)))
    spy, settings = Spy(network), Settings(ORDERS[order], guidance=1.5)
    plain = sample(Engine(network, network.vocabulary), canvas, same(settings, network), 2)
    cached = sample(Engine(spy, network.vocabulary), canvas, same(with_cache(settings, Cache("target")), network), 2)
    assert torch.equal(plain.ids_BL, cached.ids_BL)
    inside_BP = canvas.segment_BP >= 0
    assert torch.equal(spy.computed[0][:3], inside_BP)
    assert not any((c[:3] & given(canvas)[: len(c)]).any() for c in spy.computed[1:])


@each_layout
def test_so_is_that_of_a_negative_condition(layout):
    network = model(chz.replace(vocabulary(layout), sight="cached"))
    canvas = composed(network, *(item(i) for i in range(3)))
    text = [Segment("text", np.random.default_rng(90 + i).integers(0, 40, 5)) for i in range(3)]
    other = composed(network, *(Row((t, *item(i).segments[1:]), f"item{i}") for i, t in enumerate(text)))
    settings = Settings(RandomOrder(steps=6), guidance=2.0)
    engine, logits = Engine(Heard(network), network.vocabulary), []
    for cache in (None, Cache("target")):
        Heard.logits.clear()
        sample(engine, canvas, same(with_cache(settings, cache), network), 2, negative=other)
        logits.append([*Heard.logits])
    assert len(logits[0]) == len(logits[1]) > 6
    assert max(float((a - b).abs().max()) for a, b in zip(*logits, strict=True)) < 1e-4


def computed(settings: Settings) -> list[list[int]]:
    """Which positions of a line of eight tokens each step computes: BOS, the task and the opening lie before them."""
    network = model(vocabulary())
    codes = np.random.default_rng(0).integers(0, 40, 8)
    line = Row((Segment("text", codes, target=True, hidden=np.arange(9) < 8),))
    canvas, spy = Composer(network.vocabulary, 16).compose([[line]]), Spy(network)
    sample(Engine(spy, network.vocabulary), canvas, same(settings, network), ends_BL=canvas.maskable_BL & False)
    return [c[0].nonzero().flatten().tolist() for c in spy.computed]


@pytest.mark.parametrize(
    "scope, expected",
    [
        # Tokens are at 3 to 10, END at 11.
        ("block", [range(12), range(3, 7), range(12), range(7, 11)]),
        ("suffix", [range(12), range(3, 11), range(12), range(7, 11)]),
        ("target", [range(12)] * 4),
    ],
)
def test_which_positions_are_computed_with_blocks(scope, expected):
    """Two blocks of four tokens, two steps each."""
    sampler = Blockwise(block=4, inner=RandomOrder(steps=2))
    assert computed(Settings(sampler, cache=Cache(scope))) == [list(r) for r in expected]


def test_a_modality_that_is_done_asks_for_no_more():
    """A picture of one step beside a sound in blocks: everything is computed where a block begins."""
    network = model(vocabulary())
    picture = Segment("image", np.zeros((3, 4), np.int32), target=True, hidden=True)
    hidden = np.repeat(np.arange(7)[:, None] < 6, 2, axis=1)
    speech = Segment("speech", np.zeros((6, 2), np.int32), target=True, hidden=hidden)
    canvas, spy = composed(network, Row((picture, speech))), Spy(network)
    sound = Settings(Blockwise(block=3, inner=RandomOrder(steps=2)), cache=Cache("block"))
    settings = {**same(Settings(RandomOrder(steps=1), cache=Cache("block")), network), "audio": sound}
    sample(Engine(spy, network.vocabulary), canvas, settings, ends_BL=canvas.maskable_BL & False)
    everything = int((canvas.segment_BP >= 0).sum())
    assert [int(c.sum()) == everything for c in spy.computed] == [True, False] * 4


def test_from_left_to_right_a_step_computes_two_positions():
    settings = Settings(Blockwise(block=1, inner=RandomOrder(steps=1)), cache=Cache("changed"))
    assert computed(settings) == [list(range(12)), *([n, n + 1] for n in range(3, 10))]


@pytest.mark.parametrize("cache, whole", [(Cache(every=3), {0, 3, 6}), (Cache(after=0.5), {0, 5}), (Cache(), {0})])
def test_when_everything_is_computed(cache, whole):
    """Eight tokens, one a step."""
    steps = computed(Settings(RandomOrder(steps=8), cache=cache))
    assert {n for n, positions in enumerate(steps) if len(positions) == 12} == whole


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("order", ["random", "threshold", "blocks"])
def test_a_row_with_a_cache_is_bit_identical_in_any_batch(scope, order):
    """Alone, in a batch from which rows leave, and beside rows without a cache."""
    network = model(vocabulary("shipped"))
    rows = [item(i) for i in range(5)]
    canvas, engine = composed(network, *rows), Engine(network, network.vocabulary)
    cached = Settings(ORDERS[order], guidance=1.0, cache=Cache(scope, after=0.4))
    batch = sample(engine, canvas, same(cached, network), 3, range(5))
    mixed_settings = [same(with_cache(cached, cached.cache if i % 2 else None), network) for i in range(5)]
    mixed = sample(engine, canvas, mixed_settings, 3, range(5))
    for i in range(5):
        alone = sample(engine, composed(network, rows[i]), same(cached, network), 3, [i])
        assert torch.equal(alone.ids_BL[0], batch.ids_BL[i])
        plain = sample(engine, composed(network, rows[i]), same(with_cache(cached, None), network), 3, [i])
        assert torch.equal(mixed.ids_BL[i], (alone if i % 2 else plain).ids_BL[0])


@torch.inference_mode()
def test_logits_of_a_row_do_not_depend_on_how_much_is_computed_of_others():
    """Heads of 64, as models have: a fused kernel may round a handful of queries differently."""
    v = vocabulary("shipped")
    config = ModelConfig(vocabulary=v, depth=2, width=128, head_dim=64, base_depth=2, base_width=128, head_std=0.5)
    network = Transformer(config, seed=1).eval()
    canvas = composed(network, item(0), item(1))
    alone = canvas.rows([0])
    where = canvas.maskable_BL & (canvas.ids_BL == v.mask)
    for few in range(1, 6):
        for many in (1, 2, 7, 12, 17):
            logits = []
            for at, picked in ((alone, [few]), (canvas, [few, many])):
                memory = network.memory(at, len(picked))
                network.recall(at, queries(at, where[: len(picked)], v), memory, where[: len(picked)])
                wanted = torch.zeros_like(where[: len(picked)])
                for row, n in enumerate(picked):
                    wanted[row, where[row].nonzero().flatten()[:n]] = True
                asked = queries(at, wanted & (torch.arange(len(picked)) == 0)[:, None], v)
                found = network.recall(at, asked, memory, wanted)
                logits.append([x[: q.count] for x, q in zip(found, asked, strict=True)])
            assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True)), (few, many)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_rows_with_caches_join_and_leave(guidance):
    network = model(vocabulary("shipped"))
    engine = Engine(network, network.vocabulary)
    cached, rows = Settings(RandomOrder(steps=5), guidance=guidance, cache=Cache()), [item(i) for i in range(4)]

    def begun(at: list[int], settings: Settings):
        return engine.start(composed(network, *(rows[i] for i in at)), same(settings, network), 3, at)

    one, other = begun([0, 1], cached), begun([2, 3], Settings(RandomOrder(steps=7)))
    one = engine.step(engine.step(one))
    both = one.below(engine.step(other))
    while not engine.finished(both).all():
        both = engine.step(both)
    for i in range(4):
        settings = cached if i < 2 else Settings(RandomOrder(steps=7))
        alone = sample(engine, composed(network, rows[i]), same(settings, network), 3, [i])
        assert torch.equal(both.canvas.ids_BL[i], alone.ids_BL[0])


@pytest.mark.parametrize("against", ["negative", "weaker"])
def test_guidance_away_from_something_else_has_a_memory_too(against):
    network = model(vocabulary("shipped"))
    weaker = Transformer(network.config, seed=7).eval() if against == "weaker" else None
    canvas = composed(network, *(item(i) for i in range(3)))
    text = [Segment("text", np.random.default_rng(90 + i).integers(0, 40, 5)) for i in range(3)]
    other = composed(network, *(Row((t, *item(i).segments[1:]), f"item{i}") for i, t in enumerate(text)))
    negative = other if against == "negative" else None
    spy, found = Spy(network), []
    for cache in (None, Cache(every=1), Cache()):
        settings = same(Settings(RandomOrder(steps=4), guidance=2.0, cache=cache), network)
        engine = Engine(spy, network.vocabulary, Spy(weaker) if weaker else None)
        found.append(sample(engine, canvas, settings, 1, negative=negative))
    assert torch.equal(found[0].ids_BL, found[1].ids_BL)
    steps = [int(c.sum()) for c in spy.computed]
    assert max(steps[5:]) < 0.7 * steps[4] == 0.7 * steps[0]


def test_bad_caches_are_clear_errors():
    with pytest.raises(UsageError, match="no cache is called 'dual'; there are: changed, block, suffix, target"):
        Cache("dual")
    with pytest.raises(UsageError, match="every >= 0 and 0 < after <= 1, got every=-1"):
        Cache(every=-1)
    with pytest.raises(UsageError, match="after=0"):
        Cache(after=0)
    law = toy.correlated()
    canvas = Composer(law.vocabulary, 8).compose([[Row((toy.target([0, 1, 2], hidden=True),))]])
    with pytest.raises(UsageError, match="remembers nothing between steps: sample without a cache"):
        sample(Engine(law, law.vocabulary), canvas, {"text": Settings(RandomOrder(steps=2), cache=Cache())})


def test_a_state_whose_cache_has_gone_on_cannot_be_stepped_again():
    network = model(vocabulary())
    engine = Engine(network, network.vocabulary)
    state = engine.start(composed(network, item(0)), same(Settings(RandomOrder(steps=4), cache=Cache()), network))
    later = engine.step(state)
    for act in (lambda: engine.step(state), lambda: state.rows([0]), lambda: state.below(later)):
        with pytest.raises(UsageError, match="has gone on with a later state"):
            act()
    engine.step(later)


@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_what_is_made_of_frozen_weights_once_is_the_same(layout, dtype):
    network = model(vocabulary(layout))
    network.dtype = dtype
    canvas = composed(network, item(0), item(1))
    asked = queries(canvas, canvas.maskable_BL, network.vocabulary)
    asked += queries(canvas, canvas.maskable_BL, network.vocabulary, ends=False)
    plain = network(canvas, asked)
    with network.frozen(), network.frozen():
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(plain, network(canvas, asked), strict=True))
    for p in network.parameters():
        p.mul_(0.5)
    assert not any(torch.equal(a, b) for a, b in zip(plain, network(canvas, asked), strict=True))
