"""Laws of models that read from left to right: the causal switch of the vocabulary."""

from dataclasses import replace
from itertools import product

import chance
import chz
import numpy as np
import pytest
import torch
from test_network import each_layout, model, vocabulary

from trimask.core.canvas import Canvas, Composer, Draw, Row, Segment, queries
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.data.stream import Batch
from trimask.diffusion import bounds
from trimask.diffusion.caching import SCOPES, Cache
from trimask.diffusion.forward import corrupt
from trimask.diffusion.objective import columns, loss, terms
from trimask.diffusion.samplers import Blockwise, Confidence, RandomOrder
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Settings
from trimask.model.transformer import Transformer
from trimask.train import validation

LEFT_TO_RIGHT = Settings(Blockwise(block=1, inner=RandomOrder(steps=1)))
UNITS = 3
"""Of the line whose sequences are enumerated: two codes, END and FILL at each."""


def causal(layout: str = "plain") -> Vocabulary:
    return chz.replace(vocabulary(layout), sight="causal")


def item(seed: int, hidden: bool = False) -> Row:
    rng = np.random.default_rng(seed)
    text = Segment("text", rng.integers(0, 40, 5))
    image = Segment("image", rng.integers(0, 30, (3, 4)), target=True, hidden=hidden)
    speech = Segment("speech", rng.integers(0, 20, (4, 2)), target=True, span=6, hidden=hidden)
    return Row((text, image, speech), f"item{seed}")


def scores(network: Transformer, canvas: Canvas) -> torch.Tensor:
    """float64 (B, L): log-probability of the id at every target, 0 elsewhere."""
    out = torch.zeros(canvas.shape, dtype=torch.float64).flatten()
    asked = queries(canvas, canvas.maskable_BL, network.vocabulary)
    with torch.no_grad():
        for query, logits in zip(asked, network(canvas, asked), strict=True):
            index = query.index_N[: query.count]
            column = columns(canvas.ids_BL.flatten()[index], network.vocabulary.alphabets[query.alphabet])
            out[index] = logits[: query.count].double().log_softmax(-1).gather(1, column[:, None])[:, 0]
    return out.view(canvas.shape)


@each_layout
def test_no_logit_depends_on_its_own_token_or_on_a_later_one(layout):
    v = causal(layout)
    network, canvas = model(v), Composer(v, 60, 64).compose([[item(0)]])
    asked = queries(canvas, canvas.maskable_BL, v)
    slots = canvas.slot_BL[canvas.maskable_BL].unique()
    with torch.no_grad():
        whole = network(canvas, asked)
        for slot in slots[:: max(1, len(slots) // 6)]:
            later_BL = canvas.maskable_BL & (canvas.slot_BL >= slot)
            changed = network(canvas.with_ids(canvas.ids_BL.masked_fill(later_BL, v.mask)), asked)
            for query, one, other in zip(asked, whole, changed, strict=True):
                before_N = canvas.slot_BL.flatten()[query.index_N] <= slot
                torch.testing.assert_close(one[before_N], other[before_N], atol=1e-5, rtol=1e-5)
                after_N = canvas.slot_BL.flatten()[query.index_N] > slot
                assert not after_N.any() or (one[after_N] - other[after_N]).abs().max() > 1e-3


def test_items_of_a_row_and_conditions_are_seen_as_before():
    v = causal()
    network = model(v)
    composer = Composer(v, 90)

    def nats(*rows: Row) -> list[float]:
        return [float(-x) for x in scores(network, composer.compose([[r] for r in rows])).sum(1)]

    packed = scores(network, composer.compose([[item(0), item(1)]]))
    assert float(-packed.sum()) == pytest.approx(sum(nats(item(0), item(1))), abs=1e-4)
    text, *rest = item(1).segments
    moved = replace(item(1), segments=(Segment("text", (text.codes + 1) % 40), *rest))
    assert abs(nats(moved)[0] - nats(item(1))[0]) > 1e-2


@pytest.fixture(scope="module")
def small() -> tuple[Transformer, Canvas, np.ndarray]:
    """A network over a line of three units, all of its sequences as one canvas, and their probabilities."""
    v = Vocabulary(modalities=(Modality(name="text", grid="line", codes=2, buckets=(UNITS,)),), sight="causal")
    network = model(v)
    composer = Composer(v, 8)
    rows = [[Row((Segment("text", np.zeros(1, np.int32), True, span=UNITS),), str(n))] for n in range(4**UNITS)]
    canvas = composer.compose(rows)
    ids = torch.from_numpy(v.alphabets[0].ids)[torch.tensor([*product(range(4), repeat=UNITS)])]
    canvas = canvas.with_ids(canvas.ids_BL.masked_scatter(canvas.maskable_BL, ids))
    return network, canvas, scores(network, canvas).sum(1).exp().numpy()


def test_the_probabilities_of_all_sequences_add_up_to_one(small):
    assert small[2].sum() == pytest.approx(1, abs=1e-5) and small[2].std() > 0.003


def test_samples_follow_these_probabilities(small):
    network, canvas, law = small
    draws = 4000
    blank = canvas.with_ids(canvas.ids_BL.masked_fill(canvas.maskable_BL, network.vocabulary.mask)).rows([0] * draws)
    drawn = sample(Engine(network, network.vocabulary), blank, {"text": LEFT_TO_RIGHT}, seed=3)
    known = {tuple(row): n for n, row in enumerate(canvas.ids_BL[:, canvas.maskable_BL[0]].tolist())}
    found = np.bincount([known[tuple(r)] for r in drawn.ids_BL[:, canvas.maskable_BL[0]].tolist()], minlength=len(law))
    assert chance.agrees(found, law) and not chance.agrees(found, np.full(len(law), 1 / len(law)))


@each_layout
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["image", "speech"])
def test_every_cache_is_exact(layout, scope, kind):
    v = causal(layout)
    network, composer = model(v), Composer(v, 60, 64)
    whole = [item(n, hidden=True) for n in range(3)]
    rows = [replace(r, segments=tuple(s for s in r.segments if s.kind in ("text", kind))) for r in whole]
    canvas, settings = composer.compose([[r] for r in rows]), replace(LEFT_TO_RIGHT, guidance=1.0)
    plain, cached = (
        sample(Engine(network, v), canvas, {"image": s, "audio": s}, seed=1)
        for s in (settings, replace(settings, cache=Cache(scope)))
    )
    assert torch.equal(plain.ids_BL, cached.ids_BL) and not (plain.ids_BL == v.mask)[plain.maskable_BL].any()


@each_layout
@torch.no_grad()
def test_training_and_likelihood_are_one_number(layout):
    """Nothing is masked, every target is scored once, and the bound is what a batch of validation says."""
    v = causal(layout)
    network, composer = model(v), Composer(v, 60, 64)
    rows = [replace(item(n), draw=Draw("toy", 0, n)) for n in range(4)]
    canvas = composer.compose([[r] for r in rows])
    masked = corrupt(canvas, v, seed=0)
    assert torch.equal(masked.canvas.ids_BL, canvas.ids_BL) and masked.maskable == sum(q.count for q in masked.queries)
    expected = -scores(network, canvas)
    weighted = (expected * canvas.weight_BL).sum() / masked.maskable
    assert float(loss(terms(network, masked, v), masked.maskable)) == pytest.approx(float(weighted), rel=1e-5)
    found = bounds.bounds(network, rows, composer)
    assert [b.nats for b in found] == pytest.approx(expected.sum(1).tolist(), rel=1e-5)
    assert [b.error for b in found] == [0.0] * 4
    batch = Batch(masked, {}, {}, {}, 1.0)
    by_modality = validation.bounds(network, [batch], torch.device("cpu"))
    total = sum(b["nats"] * b["tokens"] for b in by_modality.values())
    assert total == pytest.approx(float(expected.sum()), rel=1e-5)


def test_what_a_causal_model_cannot_do_is_said():
    v = causal()
    blank = item(0, hidden=True)
    engine, canvas = Engine(model(v), v), Composer(v, 60).compose([[blank]])
    both = {"image": LEFT_TO_RIGHT, "audio": LEFT_TO_RIGHT}
    with pytest.raises(UsageError, match="one segment after the other; first fill image"):
        engine.start(canvas, both)
    canvas = Composer(v, 60).compose([[replace(blank, segments=blank.segments[:2])]])
    for sampler in (Confidence(), Blockwise(block=2), Blockwise(block=1, steps=4)):
        with pytest.raises(UsageError, match="blockwise:block=1, without steps"):
            engine.start(canvas, {"image": Settings(sampler)})
