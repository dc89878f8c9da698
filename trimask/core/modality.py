"""The modality table and the joint vocabulary.

A modality is a row of data: which grid its codes form, how many codes and levels it has, how it is
masked and weighed. A *kind* is what a segment is (a voice name and a caption are both text). A task
is a pair of lists of kinds. Nothing outside this file asks "is it an image?".

Joint ids, in order: for each modality one contiguous range (its codes, then END and FILL), then the
specials MASK, PAD, BOS, one token per task, two opening tokens per kind; padded to a multiple of
128. A position's *alphabet* is the set of ids that may stand there: the codes of its modality (of
its level, where levels have codes of their own) plus END and FILL.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import chz
import numpy as np

from trimask.core.errors import UsageError

KINDS: Mapping[str, str] = MappingProxyType(
    {"text": "text", "voice": "text", "image": "image", "speech": "audio", "sound": "audio"}
)
"""Kind of segment -> modality. A fourth modality is a row of `Modality` and a kind here."""

Grid = Literal["line", "plane", "frames"]
PAD_MULTIPLE = 128


@chz.chz
class Modality:
    """One row of the modality table."""

    name: str
    grid: Grid = chz.field(doc="line: (N,) codes; plane: (Y, X); frames: (T, C) codes")
    codes: int = chz.field(doc="codes per level")
    levels: int = chz.field(default=1, doc="codebooks per position (C of a frames grid)")
    shared: bool = chz.field(default=False, doc="all levels use one id range")
    stack: bool = chz.field(default=False, doc="the levels of a frame share one transformer position")
    patch: int = chz.field(default=1, doc="patch x patch codes of a plane share one transformer position")
    pace: int = chz.field(default=1, doc="how far a line's first coordinate moves a position")
    timed: bool = chz.field(default=False, doc="that of a given line moves as long as each code lasts, as measured")
    schedule: str = chz.field(default="linear", doc="noise schedule of training")
    elbo: bool = chz.field(default=True, doc="weight the loss by the bound's weight, else by 1")
    weight: float = chz.field(default=1.0, doc="loss weight of the modality")
    fill_weight: float = chz.field(default=0.1, doc="loss weight of FILL")
    given_weight: float = chz.field(default=1.0, doc="loss weight of a target that has given parts: a caption, say")
    buckets: tuple[int, ...] = chz.field(
        default=(), doc="free lengths a target may be filled up to, END included; empty: always exact"
    )
    digits: tuple[int, ...] = chz.field(
        default=(), doc="codes are numbers with digits of these bases, lowest first; the model shares what it learns"
    )

    @chz.validate
    def _check(self):
        if self.codes < 1 or self.levels < 1:
            raise UsageError(f"modality {self.name}: codes and levels must be at least 1")
        if self.levels > 1 and self.grid != "frames":
            raise UsageError(f"modality {self.name}: only a frames grid can have several levels")
        if self.patch < 1 or (self.patch > 1 and self.grid != "plane"):
            raise UsageError(f"modality {self.name}: patch must be at least 1, and 1 for all but a plane grid")
        if self.pace < 1 or (self.pace > 1 and self.grid == "plane"):
            raise UsageError(f"modality {self.name}: pace must be at least 1, and 1 for a plane grid")
        if self.timed and self.grid != "line":
            raise UsageError(f"modality {self.name}: only the codes of a line can be timed")
        if self.grid == "plane" and self.buckets:
            raise UsageError(f"modality {self.name}: a picture has no free length; leave buckets empty")
        if tuple(sorted(set(self.buckets))) != tuple(self.buckets):
            raise UsageError(f"modality {self.name}: buckets must increase, got {self.buckets}")
        if self.digits and math.prod(self.digits) != self.codes:
            raise UsageError(f"modality {self.name}: digits {self.digits} do not make {self.codes} codes")

    @property
    def places(self) -> int:
        """Number of alphabets: one a level of a frame, one a place in a patch (places share their ids)."""
        return self.patch**2 if self.grid == "plane" else self.levels

    @property
    def shares_positions(self) -> bool:
        """Whether several tokens share one transformer position."""
        return self.stack or self.patch > 1

    @property
    def width(self) -> int:
        """Number of ids in the joint range: codes of all levels, END, FILL."""
        return self.codes * (1 if self.shared else self.levels) + 2


@dataclass(frozen=True)
class Alphabet:
    """The ids that may stand at a position of one modality and level (or place in a patch).

    `ids` has the level's codes first, then END, then FILL; column j of the logits for this alphabet
    belongs to `ids[j]`.
    """

    modality: int
    level: int
    start: int
    codes: int
    end: int
    fill: int

    @cached_property
    def ids(self) -> np.ndarray:
        return np.r_[self.start : self.start + self.codes, self.end, self.fill]


Positions = Literal["axial", "flat", "levels"]


@chz.chz
class Vocabulary:
    """The joint layout of ids, made from the modality table and the list of task names."""

    modalities: tuple[Modality, ...]
    tasks: tuple[str, ...] = chz.field(
        default=("text", "image", "speech", "text>image", "image>text", "text>speech", "speech>text", "any"),
        doc="names with a task token; every other combination uses the last, 'any'",
    )
    positions: Positions = chz.field(
        default="axial",
        doc="coordinates for RoPE: one an axis; flat: one number; levels: the same, sound level by level",
    )
    sight: Literal["full", "cached", "causal"] = chz.field(
        default="full",
        doc="cached: given segments see only given ones, so what is computed of them can be kept; "
        "causal: positions see what is before them alone, an autoregressive model",
    )

    @chz.init_property
    def offsets(self) -> tuple[int, ...]:
        """First id of each modality's range, then the first special id."""
        return tuple(np.cumsum([0, *(m.width for m in self.modalities)]).tolist())

    @property
    def causal(self) -> bool:
        """Whether models read from left to right and each position predicts the next one's tokens."""
        return self.sight == "causal"

    @chz.init_property
    def mask(self) -> int:
        return self.offsets[-1]

    @chz.init_property
    def pad(self) -> int:
        return self.mask + 1

    @chz.init_property
    def bos(self) -> int:
        return self.mask + 2

    @chz.init_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds whose modality is in the table, in the order of `KINDS`."""
        names = {m.name for m in self.modalities}
        return tuple(k for k, name in KINDS.items() if name in names)

    @chz.init_property
    def size(self) -> int:
        used = self.bos + 1 + len(self.tasks) + 2 * len(self.kinds)
        return -(-used // PAD_MULTIPLE) * PAD_MULTIPLE

    @chz.init_property
    def alphabets(self) -> tuple[Alphabet, ...]:
        """All (modality, level) pairs, in table order."""
        out = []
        for m, row in enumerate(self.modalities):
            end = self.offsets[m + 1] - 2
            for c in range(row.places):
                start = self.offsets[m] + (0 if row.shared or row.patch > 1 else c * row.codes)
                out.append(Alphabet(m, c, start, row.codes, end, end + 1))
        return tuple(out)

    def digits(self) -> np.ndarray:
        """bool (size, F): which digit values an id is made of; a column for every value of every digit of a level.

        Ids of modalities without digits, END, FILL and special ids have none.
        """
        columns = []
        for start, row in {a.start: self.modalities[a.modality] for a in self.alphabets}.items():
            rest = np.arange(row.codes)
            for base in row.digits:
                has = np.zeros((self.size, base), bool)
                has[start + np.arange(row.codes), rest % base] = True
                columns.append(has)
                rest //= base
        return np.concatenate(columns, 1) if columns else np.zeros((self.size, 0), bool)

    def modality(self, kind: str) -> int:
        """Index of the modality of a kind of segment."""
        for m, row in enumerate(self.modalities):
            if KINDS.get(kind) == row.name:
                return m
        raise UsageError(f"this model has no segments of kind {kind!r}; it has: {', '.join(self.kinds)}")

    def alphabet(self, kind: str) -> int:
        """Index of the first alphabet (level or place 0) of a kind; level or place c is that plus c."""
        m = self.modality(kind)
        return sum(row.places for row in self.modalities[:m])

    def task(self, name: str) -> int:
        """Id of a task's token; a combination without a name of its own uses the last task."""
        index = self.tasks.index(name) if name in self.tasks else len(self.tasks) - 1
        return self.bos + 1 + index

    def opening(self, kind: str, free: bool = False) -> int:
        """Id of the token that opens a segment; `free` says its content may end before its span."""
        self.modality(kind)
        return self.bos + 1 + len(self.tasks) + 2 * self.kinds.index(kind) + int(free)


def task_name(given: Sequence[str], target: Sequence[str]) -> str:
    """Name of a task from its kinds: "text>image", "text"; the voice is a detail of speaking."""
    left = "+".join(k for k in given if k != "voice")
    right = "+".join(target)
    return f"{left}>{right}" if left else right
