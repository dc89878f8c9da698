import math
from collections.abc import Sequence

import numpy as np
import pytest

from trimask.core.canvas import Composer, Row
from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.diffusion.bounds import Bound, Plan, bounds
from trimask.diffusion.toy import Toy, correlated, target
from trimask.evaluation.likelihood import likelihood


class ToyGenerator:
    """Scores texts of digits with the exact posteriors of a toy distribution."""

    def __init__(self, toy: Toy):
        self.toy, self.composer = toy, Composer(toy.vocabulary, 8)

    def bounds(self, items: Sequence[Item], task: str, plan: Plan, draws: int, seed: int, free: bool) -> list[Bound]:
        assert task == "text"
        rows = [Row((target([int(c) for c in str(i.parts["text"])]),), i.key) for i in items]
        return bounds(self.toy, rows, self.composer, plan, draws, seed)


@pytest.fixture(scope="module")
def generator() -> ToyGenerator:
    return ToyGenerator(correlated())


def drawn(toy: Toy, n: int) -> list[Item]:
    chosen = np.random.default_rng(0).choice(len(toy.probability_W), n, p=toy.probability_W)
    words = ["".join(str(c) for c in toy.support_WN[i][:-1]) for i in chosen]
    return [Item(f"toy#{i}", {"text": w}) for i, w in enumerate(words)]


def test_both_estimators_reach_the_entropy_of_a_known_distribution(generator: ToyGenerator):
    items = drawn(generator.toy, 150)
    rows = {r.metric: r for r in likelihood(generator, items, "text", draws=16)}  # pyright: ignore[reportArgumentType]
    for how in ("by count", "by time"):
        row = rows[f"nats per token, bound {how}, length given"]
        assert row.error is not None
        assert row.value == pytest.approx(generator.toy.entropy / 4, abs=4 * row.error)
        assert rows[f"exp of nats per token, bound {how}, length given"].value == pytest.approx(math.exp(row.value))


def test_bits_per_byte_are_nats_per_token_in_other_units(generator: ToyGenerator):
    items = drawn(generator.toy, 10)
    rows = {r.metric: r for r in likelihood(generator, items, "text", draws=4)}  # pyright: ignore[reportArgumentType]
    nats = rows["nats per token, bound by count, length given"].value
    # Three bytes a text, four tokens with END.
    assert rows["bits per byte, bound by count, length given"].value == pytest.approx(nats * 4 / 3 / math.log(2))


def test_no_items_are_refused(generator: ToyGenerator):
    with pytest.raises(UsageError, match="at least one item"):
        likelihood(generator, [], "text")  # pyright: ignore[reportArgumentType]
