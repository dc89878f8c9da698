"""The compositional split: which combinations of attributes a model may see in training.

Three things are held out of training:

- A *group* (count, colour, shape), as in "two red stars": 8 for each count belong to the test part and 4 to the
  validation part, so that each colour and shape is held out equally often.
- A *set* of two (colour, shape) pairs met in one picture, by a hash.
- A *pair* (colour, shape): for every shape one colour is never seen in training, in any number.

A scene with a held-out group, or else a held-out set, belongs to that part. A scene with a held-out pair belongs to
the split `test-pairs`, which is stricter than the others: where a tokenizer has a code of its own for the tip
of a yellow star, a model that never saw one has to choose a code that it was never taught.
Sizes and relations are not looked at.
"""

from typing import Literal

from trimask.core import rng
from trimask.data.world.grammar import COLOURS, SHAPES, Group, Pair, Spec

Split = Literal["train", "validation", "test", "test-seen", "test-pairs"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "test-seen", "test-pairs")
"""`test-seen`: fresh draws from the training combinations, to be compared with `test`."""

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05

_HELD_OUT_PAIR = 1
_TEST, _VALIDATION = {1: 2, 2: 3, 3: 4, 4: 5}, {1: 6, 2: 7, 3: 0, 4: 2}
"""Count -> diagonal (see `_diagonal`) of the held-out groups. Each pair is held out in two counts at most."""


def part_of_split(split: str) -> str:
    """The part that a split draws from: "train", "validation" or "test"."""
    return {"test-seen": "train", "test-pairs": "test"}.get(split, split)


def _diagonal(pair: Pair) -> int:
    """One of 8 numbers that every colour and every shape meets once: 3 and 8 have no common divisor."""
    return (COLOURS.index(pair.colour) - 3 * SHAPES.index(pair.shape)) % len(COLOURS)


def is_held_out(pair: Pair) -> bool:
    """Whether a (colour, shape) pair is never seen in training."""
    return _diagonal(pair) == _HELD_OUT_PAIR


def part_of_group(group: Group) -> str:
    """The part of a group by its count, colour and shape, its pair being in training."""
    diagonal = _diagonal(group.pair)
    if diagonal == _TEST[group.count]:
        return "test"
    if diagonal == _VALIDATION[group.count] and SHAPES.index(group.shape) % 2 == 0:
        return "validation"
    return "train"


def part_of_text(text: str) -> str:
    """The part of a sentence, a number, a paragraph or any other text, by its hash alone."""
    u = rng.uniform("world split", text)
    if u < TEST_SHARE:
        return "test"
    return "validation" if u < TEST_SHARE + VALIDATION_SHARE else "train"


def novelty(spec: Spec) -> tuple[str, str]:
    """(part, what is new to a model trained on the train part): "nothing", "group", "set" or "pair"."""
    if any(is_held_out(pair) for pair in spec.pairs):
        return "test", "pair"
    parts = {part_of_group(group) for group in spec.groups}
    for part in ("test", "validation"):
        if part in parts:
            return part, "group"
    if len(spec.pairs) == 1:
        return "train", "nothing"
    part = part_of_text(" + ".join(sorted(" ".join(pair) for pair in spec.pairs)))
    return part, "nothing" if part == "train" else "set"


def part_of(spec: Spec) -> str:
    """ "train", "validation" or "test"."""
    return novelty(spec)[0]
