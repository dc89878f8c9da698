"""Laws of the network on canvases: what may and what may not change a logit."""

from dataclasses import replace

import chz
import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Row, Segment, queries
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion.forward import corrupt
from trimask.diffusion.objective import loss, restrict, terms
from trimask.diffusion.samplers import Confidence
from trimask.diffusion.sampling import Engine, sample
from trimask.diffusion.settings import Settings
from trimask.hub.bundle import MODELS, TOKENIZERS
from trimask.model.config import ModelConfig
from trimask.model.timing import Timing
from trimask.model.transformer import IdTable, Transformer
from trimask.recipes import nano
from trimask.train import config as training

LAYOUTS = {
    "plain": {},
    "stacked": {"audio": {"stack": True}},
    "shipped": {
        name: {k: getattr(row, k) for k in ("patch", "pace", "timed", "stack") if getattr(row, k) is not None}
        for name, row in nano.ROW_SETTINGS.items()
    },
}
"""Modality -> what shares a position and how coordinates move; last as the shipped model has it."""
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def vocabulary(layout: str = "plain", positions="axial") -> Vocabulary:
    rows = (
        Modality(name="text", grid="line", codes=40, buckets=(6, 12)),
        Modality(name="image", grid="plane", codes=30, digits=(5, 6)),
        Modality(name="audio", grid="frames", codes=20, levels=2, digits=(4, 5), buckets=(6,)),
    )
    modalities = tuple(chz.replace(row, **LAYOUTS[layout].get(row.name, {})) for row in rows)
    return Vocabulary(modalities=modalities, positions=positions)


def model(v: Vocabulary) -> Transformer:
    config = ModelConfig(vocabulary=v, depth=2, width=32, head_dim=8, base_depth=2, base_width=32, head_std=0.5)
    return timed(Transformer(config, seed=1).eval())


def timed(network: Transformer) -> Transformer:
    """The network with durations as if they had been measured: of every code another one, none the pace."""
    for timing in network.timing.values():
        assert isinstance(timing, Timing)
        timing.set(torch.linspace(0.3, 17.1, timing.codes))
    return network


def test_the_shipped_layout_has_all_that_the_laws_are_asked_of():
    text, image, audio = vocabulary("shipped").modalities
    assert (image.patch, text.pace, text.timed, audio.stack) == (2, 6, True, True)
    network = model(vocabulary("shipped"))
    canvas = Composer(network.vocabulary, 60, 64).compose([[item(0)]])
    moved = network.timing["text"](canvas, canvas.coords_BP2.float())
    assert (moved != canvas.coords_BP2).any(), "the durations play no part"


def item(seed: int) -> Row:
    rng = np.random.default_rng(seed)
    text = Segment("text", rng.integers(0, 40, 5))
    image = Segment("image", rng.integers(0, 30, (3, 4)), target=True, hidden=rng.random((3, 4)) < 0.5)
    speech = Segment("speech", rng.integers(0, 20, (4, 2)), target=True, span=6, hidden=rng.random((6, 2)) < 0.5)
    return Row((text, image, speech), f"item{seed}")


def scored(network: Transformer, canvas) -> dict[tuple[str, int, int], torch.Tensor]:
    """Logits by (item, number of the segment, offset of the token in it)."""
    v = network.vocabulary
    where = (canvas.ids_BL == v.mask) & canvas.maskable_BL
    asked = queries(canvas, where, v)
    owner = {}
    for span in canvas.spans:
        for j in range(span.length):
            owner[span.row * canvas.shape[1] + span.start + j] = (span.key, span.index, j)
    out = {}
    with torch.no_grad():
        for query, logits in zip(asked, network(canvas, asked), strict=True):
            for flat, row in zip(query.index_N[: query.count].tolist(), logits, strict=False):
                out[owner[flat]] = row
    return out


@each_layout
@pytest.mark.parametrize("positions", ["axial", "flat"])
def test_packing_and_padding_leave_logits_alone(layout, positions):
    v = vocabulary(layout, positions)
    network = model(v)
    small, large = Composer(v, 60, 64), Composer(v, 150, 200)
    alone = [scored(network, small.compose([[item(i)]])) for i in range(3)]
    packed = scored(network, large.compose([[item(2), item(0)], [item(1)]]))
    for part in alone:
        for where, logits in part.items():
            assert (packed[where] - logits).abs().max() < 1e-5


@each_layout
def test_joint_and_restricted_heads_give_the_same_loss(layout):
    v = vocabulary(layout)
    network = model(v)
    masked = corrupt(Composer(v, 60, 64).compose([[_clean(item(i))] for i in range(2)]), v, 0)
    ours = loss(terms(network, masked, v), masked.maskable)
    joint = loss(
        terms(
            lambda c, q: [
                restrict(x, v.alphabets[k.alphabet]) for x, k in zip(network(c, q, joint=True), q, strict=True)
            ],
            masked,
            v,
        ),
        masked.maskable,
    )
    assert ours.item() == pytest.approx(joint.item(), rel=1e-6)


def _clean(row: Row) -> Row:
    return Row(tuple(Segment(s.kind, s.codes, s.target, s.span) for s in row.segments), row.key)


@each_layout
def test_unmasked_positions_get_no_gradient(layout):
    v = vocabulary(layout)
    network = model(v)
    masked = corrupt(Composer(v, 60, 64).compose([[_clean(item(i))] for i in range(2)]), v, 0)
    canvas = masked.canvas
    everything = queries(canvas, canvas.alphabet_BL >= 0, v)
    logits = []

    def watched(canvas, asked):
        logits.extend(network(canvas, asked))
        for x in logits:
            x.retain_grad()
        return logits

    # The objective is asked of every position, masked or not: its weights alone must keep the others out.
    total = loss(terms(watched, replace(masked, queries=everything), v), masked.maskable)
    total.backward()
    assert total.item() == pytest.approx(loss(terms(network, masked, v), masked.maskable).item(), rel=1e-6)
    hidden = (canvas.ids_BL == v.mask).flatten()
    assert 0 < int(hidden.sum()) < sum(q.count for q in everything)
    for query, x in zip(everything, logits, strict=True):
        assert x.grad is not None
        here = hidden[query.index_N[: query.count]]
        assert (x.grad[: query.count][~here] == 0).all()
        assert (x.grad[: query.count][here] != 0).any(-1).all()
        assert (x.grad[query.count :] == 0).all()


@each_layout
def test_the_id_under_a_mask_never_matters(layout):
    v = vocabulary(layout)
    network = model(v)
    a, b = _clean(item(0)), _clean(item(0))
    codes = b.segments[1].codes.copy()
    hidden = np.zeros((3, 4), bool)
    hidden[1, 2] = True
    codes[1, 2] = (codes[1, 2] + 1) % 30
    composer = Composer(v, 60)
    rows = [Row((a.segments[0], Segment("image", c, True, hidden=hidden)), "x") for c in (a.segments[1].codes, codes)]
    one, two = (scored(network, composer.compose([[r]])) for r in rows)
    assert all(torch.equal(one[k], two[k]) for k in one)


@each_layout
def test_a_clean_condition_that_does_not_look_has_cacheable_keys(layout):
    v = chz.replace(vocabulary(layout), sight="cached")
    network = model(v)
    composer = Composer(v, 60)
    canvas = composer.compose([[item(0)]])
    text = next(s for s in canvas.spans if s.kind == "text")
    other = composer.compose([[Row((item(0).segments[0], item(1).segments[1], item(1).segments[2]), "item0")]])
    with torch.no_grad():
        here, there = network.hidden(canvas), network.hidden(other)
    assert torch.equal(here[0, : text.start + text.length], there[0, : text.start + text.length])


def test_sight_is_one_setting_of_a_recipe():
    folders = tuple(str(MODELS / "nano" / TOKENIZERS / name) for name in ("text", "image"))
    canvas = Composer(training.vocabulary(folders, sight="cached"), 20).compose(
        [[Row((Segment("text", np.array([1])), Segment("image", np.ones((1, 2), int), True)))]]
    )
    assert canvas.sees_BGG[0].tolist() == [[True, False], [True, True]]


@each_layout
def test_what_else_is_asked_never_matters(layout):
    """Without gradients the last block computes what is asked; the logits are those of all positions."""
    v = vocabulary(layout)
    network, canvas = model(v), Composer(v, 60, 64).compose([[item(0)], [item(1)]])
    full = {q.alphabet: x for q, x in zip(queries(canvas, canvas.maskable_BL, v), _all(network, canvas), strict=True)}
    alone = (
        canvas.maskable_BL
        & (torch.arange(2) == 1)[:, None]
        & (torch.rand(canvas.shape, generator=torch.Generator().manual_seed(0)) < 0.3)
    )
    with torch.no_grad():
        every, some = (
            {q.alphabet: (q, x) for q, x in zip(asked, network(canvas, asked), strict=True)}
            for asked in (queries(canvas, canvas.maskable_BL, v), queries(canvas, alone, v))
        )
    for alphabet, (query, logits_NA) in every.items():
        torch.testing.assert_close(logits_NA, full[alphabet], atol=1e-5, rtol=1e-5)
        if alphabet in some:
            fewer, found_NA = some[alphabet]
            where = torch.searchsorted(query.index_N[: query.count], fewer.index_N[: fewer.count])
            assert torch.equal(found_NA[: fewer.count], logits_NA[where])
    assert some, "nothing was asked"


def _all(network: Transformer, canvas) -> list[torch.Tensor]:
    """With gradients, and so from all positions of the last block."""
    return [x.detach() for x in network(canvas, queries(canvas, canvas.maskable_BL, network.vocabulary))]


@each_layout
def test_a_sampled_row_is_bit_identical_in_any_batch(layout):
    v = vocabulary(layout)
    network = model(v)
    composer = Composer(v, 64, 96)
    settings = {m.name: Settings(Confidence(steps=4, gumbel=1.0), guidance=1.0) for m in v.modalities}
    engine = Engine(network, v)
    rows = [[item(i)] for i in range(5)]
    batch = sample(engine, composer.compose(rows), settings, 3, range(5))
    for i, row in enumerate(rows):
        alone = sample(engine, composer.compose([row]), settings, 3, [i])
        assert torch.equal(alone.ids_BL[0], batch.ids_BL[i])
    assert (batch.ids_BL != v.mask).all()


@pytest.fixture(scope="module")
def shipped() -> Transformer:
    """A network of nano's vocabulary and widths, with random weights."""
    folders = tuple(str(MODELS / "nano" / TOKENIZERS / name) for name in ("text", "image", "audio"))
    v = training.vocabulary(folders, nano.ROW_SETTINGS)
    return timed(Transformer(ModelConfig(vocabulary=v, rope_base=nano.ROPE_BASE), seed=1).eval())


def large_item(v: Vocabulary, seed: int) -> Row:
    """An item of nano's vocabulary, as large as its own are."""
    rng = np.random.default_rng(seed)
    text, image, audio = v.modalities
    frames, words = int(rng.integers(16, 30)), int(rng.integers(3, 12))
    said = Segment("text", rng.integers(0, text.codes, words))
    picture = Segment("image", rng.integers(0, image.codes, (8, 8)), target=True, hidden=rng.random((8, 8)) < 0.7)
    sound = rng.integers(0, audio.codes, (frames, audio.levels))
    speech = Segment("speech", sound, target=True, span=32, hidden=rng.random((32, audio.levels)) < 0.7)
    return Row((said, picture, speech), f"item{seed}")


def test_a_row_of_the_shipped_size_is_bit_identical_in_any_batch(shipped):
    """In fp32. Products in bf16 add up in another order for another number of rows, where rows are long."""
    v = shipped.vocabulary
    composer = Composer(v, 96, 256)
    rows = [large_item(v, i) for i in range(17)]
    alone: dict[tuple[str, int, int], torch.Tensor] = {}
    for i in range(17):
        alone |= scored(shipped, composer.compose([rows[i : i + 1]]))
    for batch in (rows[:3], rows, rows[::-1]):
        together = scored(shipped, composer.compose([[r] for r in batch]))
        shared = alone.keys() & together.keys()
        assert len(shared) > 300
        assert all(torch.equal(together[k], alone[k]) for k in shared)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_so_is_a_row_of_compiled_blocks(dtype):
    v = vocabulary("shipped")
    network = model(v).compiled(dynamic=True)
    network.dtype = dtype
    composer, rows = Composer(v, 64, 96), [[item(i)] for i in range(5)]
    settings = {m.name: Settings(Confidence(steps=4, gumbel=1.0), guidance=1.0) for m in v.modalities}
    with network.frozen():
        batch = sample(Engine(network, v), composer.compose(rows), settings, 3, range(5))
        for i, row in enumerate(rows):
            alone = sample(Engine(network, v), composer.compose([row]), settings, 3, [i])
            assert torch.equal(alone.ids_BL[0], batch.ids_BL[i])
    with torch.no_grad():
        canvas = composer.compose(rows)
        asked = queries(canvas, canvas.maskable_BL, v)
        compiled = network(canvas, asked)
        with network.eager():
            for one, other in zip(compiled, network(canvas, asked), strict=True):
                torch.testing.assert_close(one, other, **({"atol": 0.1, "rtol": 0.1} if dtype != torch.float32 else {}))


def test_codes_that_share_a_digit_share_what_is_learned_of_it():
    v = vocabulary()
    table = IdTable(v, 8)
    with torch.no_grad():
        table.weight.normal_()
        table.digits.normal_()
    rows = table()
    image = v.alphabets[1]
    for code in range(image.codes):
        low, high = code % 5, 5 + code // 5
        expected = table.weight[image.start + code] + table.digits[low] + table.digits[high]
        torch.testing.assert_close(rows[image.start + code], expected)
    assert torch.equal(rows[:42], table.weight[:42]), "text has no digits"
    rows[image.start].sum().backward()
    moved = table.digits.grad.abs().sum(1).nonzero().flatten().tolist()
    assert moved == [0, 5], "only the digits of code 0 learn from it"
