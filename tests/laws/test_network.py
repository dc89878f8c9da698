"""Laws of the network on canvases: what may and what may not change a logit."""

import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Row, Segment, queries
from trimask.core.modality import Modality, Vocabulary
from trimask.diffusion.forward import corrupt
from trimask.diffusion.objective import columns, loss, restrict, terms
from trimask.diffusion.samplers import Confidence
from trimask.diffusion.sampling import Engine, Settings, sample
from trimask.model.config import ModelConfig
from trimask.model.transformer import IdTable, Transformer

RNG = np.random.default_rng(0)


def vocabulary(stack: bool = False, positions="axial") -> Vocabulary:
    return Vocabulary(
        modalities=(
            Modality(name="text", grid="line", codes=40, buckets=(6, 12)),
            Modality(name="image", grid="plane", codes=30, digits=(5, 6)),
            Modality(name="audio", grid="frames", codes=20, levels=2, digits=(4, 5), stack=stack, buckets=(6,)),
        ),
        positions=positions,
    )


def model(v: Vocabulary) -> Transformer:
    config = ModelConfig(vocabulary=v, depth=2, width=32, head_dim=8, base_depth=2, init_std=0.5)
    return Transformer(config, seed=1).eval()


def item(seed: int) -> Row:
    rng = np.random.default_rng(seed)
    text = Segment("text", rng.integers(0, 40, 5))
    image = Segment("image", rng.integers(0, 30, (3, 4)), target=True, hidden=rng.random((3, 4)) < 0.5)
    speech = Segment("speech", rng.integers(0, 20, (4, 2)), target=True, span=6, hidden=rng.random((6, 2)) < 0.5)
    return Row((text, image, speech), f"item{seed}")


def scored(network: Transformer, canvas) -> dict[tuple[str, int], torch.Tensor]:
    """Logits by (item, offset of the token in its item's span list)."""
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


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("positions", ["axial", "flat"])
def test_packing_and_padding_leave_logits_alone(stack, positions):
    v = vocabulary(stack, positions)
    network = model(v)
    small, large = Composer(v, 60, 60 if not stack else 64), Composer(v, 150, 150 if not stack else 200)
    alone = [scored(network, small.compose([[item(i)]])) for i in range(3)]
    packed = scored(network, large.compose([[item(2), item(0)], [item(1)]]))
    for part in alone:
        for where, logits in part.items():
            assert (packed[where] - logits).abs().max() < 1e-5


@pytest.mark.parametrize("stack", [False, True])
def test_joint_and_restricted_heads_give_the_same_loss(stack):
    v = vocabulary(stack)
    network = model(v)
    canvas = Composer(v, 60, 60 if not stack else 64).compose([[item(0)], [item(1)]])
    masked = corrupt(Composer(v, 60, 60 if not stack else 64).compose([[_clean(item(i))] for i in range(2)]), v, 0)
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
    assert canvas.shape[0] == 2


def _clean(row: Row) -> Row:
    return Row(tuple(Segment(s.kind, s.codes, s.target, s.span) for s in row.segments), row.key)


def test_unmasked_positions_get_no_gradient():
    v = vocabulary()
    network = model(v)
    canvas = Composer(v, 60).compose([[_clean(item(0))]])
    masked = corrupt(canvas, v, 0)
    everything = queries(canvas, canvas.alphabet_BL >= 0, v)
    logits = network(masked.canvas, everything)
    for x in logits:
        x.retain_grad()
    total = torch.zeros(())
    hidden = (masked.canvas.ids_BL == v.mask).flatten()
    for query, x in zip(everything, logits, strict=True):
        index = query.index_N[: query.count]
        ce = torch.nn.functional.cross_entropy(
            x[: query.count],
            columns(canvas.ids_BL.flatten()[index], v.alphabets[query.alphabet]),
            reduction="none",
        )
        total = total + (ce * masked.weight_BL.flatten()[index]).sum()
    total.backward()
    for query, x in zip(everything, logits, strict=True):
        clean = ~hidden[query.index_N[: query.count]]
        assert clean.any() or query.count == int((~clean).sum())
        assert x.grad is not None and (x.grad[: query.count][clean] == 0).all()
        assert (x.grad[query.count :] == 0).all()


def test_the_id_under_a_mask_never_matters():
    v = vocabulary()
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


def test_a_clean_condition_that_does_not_look_has_cacheable_keys():
    v = vocabulary()
    network = model(v)
    composer = Composer(v, 60, sight="cached")
    canvas = composer.compose([[item(0)]])
    text = next(s for s in canvas.spans if s.kind == "text")
    other = composer.compose([[Row((item(0).segments[0], item(1).segments[1], item(1).segments[2]), "item0")]])
    with torch.no_grad():
        here, there = network.hidden(canvas), network.hidden(other)
    assert torch.equal(here[0, : text.start + text.length], there[0, : text.start + text.length])


@pytest.mark.parametrize("stack", [False, True])
def test_a_sampled_row_is_bit_identical_in_any_batch(stack):
    v = vocabulary(stack)
    network = model(v)
    composer = Composer(v, 64, 64 if not stack else 96)
    settings = {m.name: Settings(Confidence(steps=4, gumbel=1.0), guidance=1.0) for m in v.modalities}
    engine = Engine(network, v, settings)
    rows = [[item(i)] for i in range(5)]
    batch = sample(engine, composer.compose(rows), seed=3, keys=range(5))
    for i, row in enumerate(rows):
        alone = sample(engine, composer.compose([row]), seed=3, keys=[i])
        assert torch.equal(alone.ids_BL[0], batch.ids_BL[i])
    assert (batch.ids_BL != v.mask).all()


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
