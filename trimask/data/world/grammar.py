"""The language of scenes: what a picture may hold, how it is said, and how a caption is read back.

A caption is one group of equal objects, or two groups joined by a relation or by "and":

    caption  = group | group joint group
    group    = count [size] colour shape          "two small red circles"
    joint    = "and" | "above" | "below" | ["to the"] "left of" | ["to the"] "right of"

It fixes the picture up to what it leaves open: places, and the size where none is named.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from trimask.core.errors import UsageError

COLOURS = ("red", "pink", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
MAX_OBJECTS = 4
COUNT_WORDS = ("one", "two", "three", "four")

_COUNTS = {"a": 1, "an": 1} | {word: n + 1 for n, word in enumerate(COUNT_WORDS)}
_SYNONYMS = {"over": "above", "under": "below", "beneath": "below", "big": "large", "little": "small"}
_JOINT = re.compile(r" (and|above|below|(?:to the |on the )?(?:left|right) of) ")
_GROUP = re.compile(rf"([a-z]+) (?:({'|'.join(SIZES)}) )?([a-z]+) ([a-z]+)")


class Pair(NamedTuple):
    """The attributes whose combinations the split holds out."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Group:
    """`count` equal objects; `size` is None where any size will do (each object's own)."""

    count: int
    colour: str
    shape: str
    size: str | None = None

    @property
    def pair(self) -> Pair:
        return Pair(self.colour, self.shape)


@dataclass(frozen=True)
class Spec:
    """What a caption asks for: one group, or two with `relation` (None: merely "and").

    The relation holds from the first group to the second.
    """

    groups: tuple[Group, ...]
    relation: str | None = None

    @cached_property
    def slots(self) -> tuple[tuple[int, Group], ...]:
        """(index of the group, the group) of every single object asked for."""
        return tuple((g, group) for g, group in enumerate(self.groups) for _ in range(group.count))

    @property
    def pairs(self) -> frozenset[Pair]:
        return frozenset(group.pair for group in self.groups)


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def say_group(group: Group) -> str:
    count = "a" if group.count == 1 else COUNT_WORDS[group.count - 1]
    noun = group.shape if group.count == 1 else plural(group.shape)
    return " ".join(word for word in (count, group.size, group.colour, noun) if word)


def say(spec: Spec, long: bool = False) -> str:
    """The caption of `spec`; `long` says "to the left of" where else it is "left of"."""
    joint = spec.relation or "and"
    if long and joint.endswith(" of"):
        joint = "to the " + joint
    return f" {joint} ".join(say_group(group) for group in spec.groups)


def parse(caption: str) -> Spec:
    """The inverse of `say`, a little more generous: capitals, a full stop, common synonyms.

    Raises `UsageError` that names the part it cannot read and what it could be.
    """
    words = " ".join(caption.lower().strip().rstrip(".").split())
    text = " ".join(_SYNONYMS.get(word, word) for word in words.split(" "))
    first, *rest = _JOINT.split(text)
    if len(rest) > 2:
        raise UsageError(f"caption {caption!r}: at most two groups of objects can be joined")
    parts = [first, *rest[1:]]
    spec = Spec(tuple(_parse_group(part, caption) for part in parts), _relation(rest))
    total = len(spec.slots)
    if total > MAX_OBJECTS:
        raise UsageError(f"caption {caption!r} asks for {total} objects; at most {MAX_OBJECTS} are drawn")
    return spec


def _relation(rest: list[str]) -> str | None:
    if not rest or rest[0] == "and":
        return None
    return rest[0].removeprefix("to the ").removeprefix("on the ")


def _parse_group(text: str, caption: str) -> Group:
    match = _GROUP.fullmatch(text)
    if not match:
        raise UsageError(f"caption {caption!r}: cannot read {text!r}; write for example 'two small red circles'")
    count, size, colour, noun = match.groups()
    shape = next((s for s in SHAPES if noun in (s, plural(s))), noun)
    for what, word, known in (
        ("count", count, _COUNTS),
        ("colour", colour, COLOURS),
        ("shape", shape, SHAPES),
    ):
        if word not in known:
            raise UsageError(f"caption {caption!r}: {word!r} is not a {what}; known: {', '.join(known)}")
    return Group(_COUNTS[count], colour, shape, size)
