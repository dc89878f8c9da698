"""Training draws of an item: the shares of its conditions, and spans that say nothing about what is in them."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from trimask.core.canvas import Segment
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.data.tasks import Conditions, draw_row

VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", grid="line", codes=50, buckets=(8, 16, 32)),
        Modality(name="image", grid="plane", codes=20),
        Modality(name="audio", grid="frames", codes=10, levels=2, stack=True, buckets=(16, 24)),
    )
)
CLEAN = Conditions(clean=1.0, joint=0.0, null=0.0, unnamed=0.0)


def item(text: int = 5, speech: int = 6) -> dict[str, np.ndarray]:
    """An item with every part, of so many tokens and frames."""
    shapes = {"text": (text,), "voice": (2,), "image": (3, 4), "speech": (speech, 2)}
    return {kind: np.zeros(shape, np.int32) for kind, shape in shapes.items()}


def draws(
    task: str, conditions: Conditions, count: int, seed: int = 0, parts: dict[str, np.ndarray] | None = None
) -> list[dict[str, Segment]]:
    """Segments by kind, of many draws of an item."""
    rng = np.random.default_rng(seed)
    parts = item() if parts is None else parts
    return [{s.kind: s for s in draw_row(task, parts, VOCABULARY, conditions, rng)} for _ in range(count)]


def mode(segments: dict[str, Segment], given: tuple[str, ...]) -> str:
    """clean, joint or null: what became of the parts that are given."""
    states = {"joint" if segments[k].target else "null" if segments[k].hidden is True else "clean" for k in given}
    assert len(states) == 1
    return states.pop()


def spans(length: int, count: int, seed: int, kind: str = "text") -> Counter:
    """How often a target of a length has which free span; None where its span is exact."""
    parts = item(text=length) if kind == "text" else item(speech=length)
    return Counter(s[kind].span for s in draws(kind, CLEAN, count, seed, parts))


@pytest.mark.parametrize(("task", "given"), [("text>image", ("text",)), ("image+text>speech", ("image", "text"))])
def test_conditions_come_in_their_shares(task: str, given: tuple[str, ...]):
    shares = {"clean": 0.5, "joint": 0.3, "null": 0.2}
    found = Counter(mode(s, given) for s in draws(task, Conditions(**shares), 4000))
    assert chisquare([found[k] for k in shares], [4000 * p for p in shares.values()]).pvalue > 1e-3


def test_shares_of_the_default_are_those_that_are_documented():
    found = Counter(mode(s, ("text",)) for s in draws("text>image", Conditions(), 4000))
    assert chisquare([found[k] for k in ("clean", "joint", "null")], [3200, 400, 400]).pvalue > 1e-3


def test_a_condition_decides_what_is_given_hidden_and_to_be_filled():
    for kinds, conditions in (
        ({"voice": "given", "text": "given", "speech": "target"}, CLEAN),
        (
            {"voice": "given", "text": "target", "speech": "target"},
            Conditions(clean=0.0, joint=1.0, null=0.0, unnamed=0.0),
        ),
        (
            {"voice": "hidden", "text": "hidden", "speech": "target"},
            Conditions(clean=0.0, joint=0.0, null=1.0, unnamed=0.0),
        ),
    ):
        for segments in draws("text>speech", conditions, 20):
            found = {k: "target" if s.target else "hidden" if s.hidden else "given" for k, s in segments.items()}
            assert found == kinds
    # A task without a condition has none to withhold.
    for segments in draws("text", Conditions(clean=0.0, joint=0.0, null=1.0), 20):
        assert [(s.kind, s.target, s.hidden) for s in segments.values()] == [("text", True, None)]


def test_the_voice_is_left_out_in_its_share_of_spoken_draws_whatever_the_other_conditions():
    """Else a model that is told no voice has a canvas before it that it has never seen."""
    for conditions in (
        {"clean": 1.0, "joint": 0.0, "null": 0.0},
        {"clean": 0.0, "joint": 1.0, "null": 0.0},
        {"clean": 0.0, "joint": 0.0, "null": 1.0},
    ):
        named = sum("voice" in s for s in draws("text>speech", Conditions(**conditions, unnamed=0.25), 2000))
        assert chisquare([named, 2000 - named], [1500, 500]).pvalue > 1e-3
    # A task that names the voice has it, joint conditions or not.
    assert all(s["voice"].target for s in draws("text>voice", Conditions(unnamed=1.0), 40))
    assert all("voice" in s for s in draws("voice+text>speech", Conditions(unnamed=1.0), 40))
    with pytest.raises(UsageError, match="between 0 and 1"):
        Conditions(unnamed=1.5)


def test_shares_add_up_to_one():
    with pytest.raises(UsageError, match="add up to 1"):
        Conditions(clean=0.5, joint=0.5, null=0.5)


def test_half_of_the_spans_are_exact_and_the_others_are_any_bucket():
    found = spans(5, 6000, 0)
    assert set(found) == {None, 8, 16, 32}
    assert chisquare([found[k] for k in (None, 8, 16, 32)], [3000, 1000, 1000, 1000]).pvalue > 1e-3
    found = spans(6, 4000, 1, "speech")
    assert chisquare([found[k] for k in (None, 16, 24)], [2000, 1000, 1000]).pvalue > 1e-3


def test_the_bucket_does_not_depend_on_the_length():
    """If it were the least that fits, a span would tell how long its content is."""
    table = []
    for length in (0, 1, 4, 7):
        found = spans(length, 2500, length)
        table.append([found[k] for k in (None, 8, 16, 32)])
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_bucket_that_is_too_short_is_not_exchanged_for_another():
    """Content and END must fit; the draw then has the exact length, so that longer buckets are no more likely."""
    for length, fitting in ((7, (8, 16, 32)), (8, (16, 32)), (15, (16, 32)), (16, (32,)), (31, (32,))):
        found = spans(length, 3000, length)
        assert set(found) == {None, *fitting}
        exact = 3000 - 500 * len(fitting)
        assert chisquare([found[k] for k in (None, *fitting)], [exact, *[500] * len(fitting)]).pvalue > 1e-3
    assert set(spans(32, 50, 0)) == {None}


def test_the_lengths_under_a_bucket_are_those_of_the_data_cut_at_the_bucket():
    rng = np.random.default_rng(2)
    share = np.array([0.1, 0.3, 0.05, 0.05, 0.1, 0.1, 0.05, 0.05, 0.1, 0.1])
    under: dict[int | None, list[int]] = {}
    for length in rng.choice(10, 12_000, p=share):
        (segment,) = draw_row("text", {"text": np.zeros(length, np.int32)}, VOCABULARY, CLEAN, rng)
        under.setdefault(segment.span, []).append(length)
    for bucket in (8, 16, 32):
        fit = share[: min(bucket, len(share))]
        counts = np.bincount(under[bucket], minlength=len(fit))
        assert chisquare(counts, fit / fit.sum() * len(under[bucket])).pvalue > 1e-3


def test_spans_of_two_targets_are_drawn_apart_and_nothing_else_has_one():
    both = draws("text>speech", Conditions(clean=0.0, joint=1.0, null=0.0), 4000)
    pairs = Counter((s["text"].span is None, s["speech"].span is None) for s in both)
    assert chisquare([pairs[a, b] for a in (True, False) for b in (True, False)]).pvalue > 1e-3
    for task in ("text>image", "image+text>speech"):
        for segments in draws(task, Conditions(clean=0.4, joint=0.3, null=0.3), 200):
            assert all(s.span is None for s in segments.values() if not s.target or s.kind == "image")
