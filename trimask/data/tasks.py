"""Tasks: how the parts of an item become given and target segments.

A task's name is its kinds: "text", "text>image", "image+text>speech"; "any" draws a split of
whatever the item has. The voice is a given detail of every task that has it and targets sound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import chz
import numpy as np

from trimask.core.canvas import Segment
from trimask.core.errors import UsageError
from trimask.core.modality import KINDS, Vocabulary

Parts = Mapping[str, np.ndarray]
"""Kind -> local codes in the natural shape of the modality's grid."""

ANY = "any"
VOICE = "voice"


@dataclass(frozen=True)
class Task:
    """Kinds that are given and kinds that are to be filled."""

    given: tuple[str, ...]
    target: tuple[str, ...]

    @staticmethod
    def parse(name: str) -> "Task":
        """ "text>image" -> Task(("text",), ("image",)). Raises `UsageError` for an unknown kind."""
        left, _, right = name.rpartition(">")
        given = tuple(left.split("+")) if left else ()
        target = tuple(right.split("+"))
        unknown = [k for k in (*given, *target) if k not in KINDS]
        if unknown or set(given) & set(target):
            raise UsageError(
                f"{name!r} is not a task: write kinds as 'text>image' or 'image+text>speech', each kind once; "
                f"kinds are {', '.join(KINDS)}"
            )
        return Task(given, target)


@chz.chz
class Conditions:
    """How often a condition is clean, masked together with the target, or withheld whole.

    `unnamed` is the share of draws whose voice is left out, whatever becomes of the other
    conditions, unless the task names it: a model that is told no voice then chooses one.
    """

    clean: float = 0.8
    joint: float = 0.1
    null: float = 0.1
    unnamed: float = 0.1

    @chz.validate
    def _check(self):
        if min(self.clean, self.joint, self.null) < 0 or abs(self.clean + self.joint + self.null - 1) > 1e-6:
            raise UsageError("conditions: clean, joint and null must be shares that add up to 1")
        if not 0 <= self.unnamed <= 1:
            raise UsageError(f"conditions: unnamed is a share between 0 and 1, not {self.unnamed}")


def feasible(names: Sequence[str], parts: Mapping[str, object]) -> list[str]:
    """The tasks whose kinds the item has. "any" needs at least one part besides the voice."""
    have = set(parts)
    return [n for n in names if (n == ANY and have - {VOICE}) or (n != ANY and needs(n) <= have)]


def needs(name: str) -> set[str]:
    """The kinds a task is made of, the voice apart."""
    task = Task.parse(name)
    return {*task.given, *task.target}


def resolve(name: str, parts: Parts, rng: np.random.Generator) -> Task:
    """The task of one draw; "any" makes every part but the voice a target with probability one half."""
    if name != ANY:
        return Task.parse(name)
    kinds = [k for k in KINDS if k in parts and k != VOICE]
    chosen = rng.random(len(kinds)) < 0.5
    chosen[rng.integers(len(kinds))] = True
    return Task(
        tuple(k for k, t in zip(kinds, chosen, strict=True) if not t),
        tuple(k for k, t in zip(kinds, chosen, strict=True) if t),
    )


def lay(task: Task, parts: Parts, free: Mapping[str, int] | None = None) -> tuple[Segment, ...]:
    """Segments of an item, given ones first, kinds in the order of the table.

    `free` maps target kinds to the span they are filled up to; the others have their exact length.
    """
    given = set(task.given)
    if VOICE in parts and VOICE not in task.target and any(KINDS[k] == "audio" for k in task.target):
        given.add(VOICE)
    order = list(KINDS)
    segments = [Segment(k, parts[k]) for k in sorted(given, key=_rank(order))]
    for k in sorted(task.target, key=_rank(order)):
        segments.append(Segment(k, parts[k], target=True, span=(free or {}).get(k)))
    return tuple(segments)


def _rank(order: list[str]):
    # The voice comes first: it is a setting of what follows.
    return lambda k: -1 if k == VOICE else order.index(k)


def draw_row(
    name: str, parts: Parts, vocabulary: Vocabulary, conditions: Conditions, rng: np.random.Generator
) -> tuple[Segment, ...]:
    """One training draw of an item: its task, its condition mode and the spans of its targets."""
    task = resolve(name, parts, rng)
    if VOICE not in (*task.given, *task.target) and rng.random() < conditions.unnamed:
        parts = {k: codes for k, codes in parts.items() if k != VOICE}
    mode = rng.random()
    if not task.given or mode < conditions.clean:
        return lay(task, parts, _spans(task, parts, vocabulary, rng))
    if mode < conditions.clean + conditions.joint:
        both = Task((), (*(k for k in task.given if k != VOICE), *task.target))
        return lay(both, parts, _spans(both, parts, vocabulary, rng))
    segments = lay(task, parts, _spans(task, parts, vocabulary, rng))
    return tuple(s if s.target else Segment(s.kind, s.codes, hidden=True) for s in segments)


def _spans(task: Task, parts: Parts, vocabulary: Vocabulary, rng: np.random.Generator) -> dict[str, int]:
    """Free spans: with probability one half a bucket is drawn, and used if content and END fit it.

    The bucket does not depend on the length, so that under a bucket the length follows the data
    (cut at the bucket), which is what a free span at sampling time assumes.
    """
    spans = {}
    for kind in task.target:
        buckets = vocabulary.modalities[vocabulary.modality(kind)].buckets
        if not buckets:
            continue
        free, bucket = rng.random() < 0.5, buckets[rng.integers(len(buckets))]
        if free and len(parts[kind]) + 1 <= bucket:
            spans[kind] = bucket
    return spans
