"""The compositional split: which combinations of attributes a model may see in training.

Two things are held out. A *pair* (colour, shape): for every shape one colour belongs to the test
part, for every other shape a second one to the validation part, so each colour and each shape is
held out equally often. And a *set* of two pairs met in one picture, by a hash. A scene belongs to
the test part if any of its pairs, or else the set of them, does; the same for validation; and only
what is left is for training. Counts, sizes and relations are not looked at, which makes the split
strict: two held-apart pairs never meet in training, in any number or order.
"""

from typing import Literal

from trimask.core import rng
from trimask.data.world.grammar import COLOURS, SHAPES, Pair, Spec

Split = Literal["train", "validation", "test", "test-seen"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "test-seen")
"""`test-seen`: fresh draws from the training combinations, to be compared with `test`."""

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05


def part_of_split(split: str) -> str:
    """The part of the combinations a split draws from."""
    return "train" if split == "test-seen" else split


def part_of_pair(pair: Pair) -> str:
    colour, shape = COLOURS.index(pair.colour), SHAPES.index(pair.shape)
    # 3 has no common divisor with the 8 colours, so the diagonal meets each colour once.
    if colour == (3 * shape + 1) % len(COLOURS):
        return "test"
    if shape % 2 == 0 and colour == (3 * shape + 5) % len(COLOURS):
        return "validation"
    return "train"


def part_of_text(text: str) -> str:
    """The part of a sentence, a number, a paragraph or any other text, by its hash alone."""
    u = rng.uniform("world split", text)
    if u < TEST_SHARE:
        return "test"
    return "validation" if u < TEST_SHARE + VALIDATION_SHARE else "train"


def novelty(spec: Spec) -> tuple[str, str]:
    """(part, what is new to a model trained on the train part): "nothing", "pair" or "set"."""
    parts = {part_of_pair(pair) for pair in spec.pairs}
    for part in ("test", "validation"):
        if part in parts:
            return part, "pair"
    if len(spec.pairs) == 1:
        return "train", "nothing"
    part = part_of_text(" + ".join(sorted(" ".join(pair) for pair in spec.pairs)))
    return part, "nothing" if part == "train" else "set"


def part_of(spec: Spec) -> str:
    """ "train", "validation" or "test"."""
    return novelty(spec)[0]
