"""The canvas: rows of segments, on which training masks, likelihood scores and sampling unmasks.

Shape legend of the project: `B` rows, `L` tokens of a row, `P` transformer positions of a row (equal
to `L` unless a modality stacks its levels), `G` segments of a row, `C` levels, `D` width, `N` queried
tokens, `A` ids of an alphabet, `V` vocabulary.

A row is made of items that do not see each other. An item is BOS, a task token, then segments, each
behind its opening token. BOS, task and opening tokens are given and never scored. A target segment
holds its content and, unless its grid is a plane, END and as many FILL as its span asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Positions, Vocabulary, task_name


@dataclass(frozen=True)
class Segment:
    """One span of one kind. `codes` are local, in the natural shape of the modality's grid.

    `target`: its tokens may be masked and are scored; else it is given. `span`: length of a free
    target in grid units (tokens of a line, frames), END and FILL included; None is the exact length.
    `hidden`: the positions that start as MASK, bool of the shape of the target's grid, END and FILL
    included; None for none of them. A given segment that is hidden whole is a null condition.
    """

    kind: str
    codes: np.ndarray
    target: bool = False
    span: int | None = None
    hidden: np.ndarray | bool | None = None


@dataclass(frozen=True)
class Draw:
    """Which draw of the data a row is: what its noise may depend on, besides the seed and its key."""

    stream: str = ""
    """Fingerprint of the source's content."""
    epoch: int = 0
    order: int = 0
    """Position in the source's stream, counted over all epochs."""
    view: int = 0
    """1 for the complementary view of anti-masking."""


@dataclass(frozen=True)
class Row:
    """One item laid out: its segments in order. `key` names it for randomness and messages."""

    segments: tuple[Segment, ...]
    key: str = ""
    draw: Draw = Draw()

    @property
    def task(self) -> str:
        """Name of the task: the kinds that are given and those that are targets."""
        given = [s.kind for s in self.segments if not s.target]
        return task_name(given, [s.kind for s in self.segments if s.target])

    @property
    def conditional(self) -> bool:
        """Whether a given part is there to be seen."""
        return any(not s.target and (s.hidden is None or not np.all(s.hidden)) for s in self.segments)


@dataclass(frozen=True)
class Span:
    """Where a segment lies: tokens `start : start + length` of `row`, item `item` of that row."""

    row: int
    start: int
    length: int
    kind: str
    target: bool
    free: bool
    key: str
    draw: Draw
    index: int
    """Number of the segment within its item."""
    shape: tuple[int, ...]
    """Grid shape of the span, END and FILL units included."""


@dataclass(frozen=True)
class Canvas:
    """A batch of rows. All tensors share a device; `spans` is host data."""

    ids_BL: Int[Tensor, "B L"]
    """int64: joint ids; MASK where a token is to be filled or withheld, PAD past the end."""
    alphabet_BL: Int[Tensor, "B L"]
    """int64: index of the alphabet at content positions, -1 at specials and padding."""
    kind_BL: Int[Tensor, "B L"]
    """int64: 1 + index of the segment's kind; 0 outside segments."""
    slot_BL: Int[Tensor, "B L"]
    """int64: transformer position of each token, in [0, P)."""
    maskable_BL: Bool[Tensor, "B L"]
    """bool: target content, END and FILL."""
    weight_BL: Float[Tensor, "B L"]
    """float32: loss weight of a maskable token (modality, FILL and given weights); 0 elsewhere."""
    coords_BP2: Int[Tensor, "B P 2"]
    """int64: position coordinates for RoPE."""
    segment_BP: Int[Tensor, "B P"]
    """int64: segment of each transformer position, -1 at padding."""
    sees_BGG: Bool[Tensor, "B G G"]
    """bool: may a position of segment q attend to one of segment k: `sees[b, q, k]`."""
    spans: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.ids_BL.shape[0], self.ids_BL.shape[1]

    def to(self, device: torch.device | str) -> "Canvas":
        return replace(self, **{k: v.to(device) for k, v in self._tensors().items()})

    def with_ids(self, ids_BL: Tensor) -> "Canvas":
        return replace(self, ids_BL=ids_BL)

    def rows(self, index: Sequence[int] | np.ndarray) -> "Canvas":
        """Some of the rows, by their numbers, in the given order."""
        at = torch.as_tensor(np.asarray(index, np.int64), device=self.ids_BL.device)
        mine: dict[int, list[Span]] = {}
        for span in self.spans:
            mine.setdefault(span.row, []).append(span)
        spans = tuple(replace(s, row=n) for n, row in enumerate(index) for s in mine.get(int(row), ()))
        return Canvas(**{k: v[at] for k, v in self._tensors().items()}, spans=spans)

    def below(self, other: "Canvas") -> "Canvas":
        """This canvas with the rows of another of the same padded lengths below it."""
        if self.shape[1] != other.shape[1] or self.segment_BP.shape[1] != other.segment_BP.shape[1]:
            raise UsageError(f"rows of {self.shape[1]} tokens cannot stand above rows of {other.shape[1]}; pad alike")
        mine, theirs = self._tensors(), other._tensors()
        most = max(self.sees_BGG.shape[1], other.sees_BGG.shape[1])
        for tensors in (mine, theirs):
            lacking = most - tensors["sees_BGG"].shape[1]
            tensors["sees_BGG"] = F.pad(tensors["sees_BGG"], (0, lacking, 0, lacking))
        spans = (*self.spans, *(replace(s, row=s.row + self.shape[0]) for s in other.spans))
        return Canvas(**{k: torch.cat([v, theirs[k]]) for k, v in mine.items()}, spans=spans)

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "spans"}


MULTIPLE = 32
"""Queries are padded to multiples of it, so that what is computed of a token does not depend on how many there are."""


@dataclass(frozen=True)
class Query:
    """Tokens of one alphabet to be scored.

    `index_N` holds flat indices into the B*L tokens, padded to a fixed capacity by repeating its
    first entry (0 where there is none); `count` is how many of them are real.
    """

    alphabet: int
    index_N: Int[Tensor, " N"]
    count: int
    ends: bool = True
    """Whether END and FILL are scored beside the codes."""


def queries(
    canvas: Canvas,
    where_BL: Bool[Tensor, "B L"],
    vocabulary: Vocabulary,
    multiple: int = MULTIPLE,
    ends: bool = True,
    every: bool = False,
) -> list[Query]:
    """One query per alphabet that has a position in `where_BL` (bool), padded to `multiple`.

    With `every` one of each alphabet, without tokens where it has no position: then every weight has a gradient.
    """
    flat = torch.where(where_BL, canvas.alphabet_BL, -1).flatten()
    out = []
    for a in range(len(vocabulary.alphabets)):
        index_N = (flat == a).nonzero().flatten()
        count = len(index_N)
        if count or every:
            first, padding = (index_N[:1], -count % multiple) if count else (flat.new_zeros(1), 1)
            out.append(Query(a, torch.cat([index_N, first.expand(padding)]), count, ends))
    return out


class Composer:
    """Lays rows on a canvas of fixed size. `slots` is P; `tokens` is L where levels are stacked, else L is P."""

    def __init__(self, vocabulary: Vocabulary, slots: int, tokens: int | None = None):
        self.vocabulary, self.slots = vocabulary, slots
        stacks = any(m.shares_positions for m in vocabulary.modalities)
        self.tokens = tokens if stacks and tokens else slots

    def size(self, row: Row) -> tuple[int, int]:
        """(transformer positions, tokens) that an item takes."""
        slots = tokens = 2
        for segment in row.segments:
            m = self.vocabulary.modalities[self.vocabulary.modality(segment.kind)]
            shape = grid_shape(self.vocabulary, segment)
            length = int(np.prod(shape))
            tokens += 1 + length
            slots += 1 + int(np.prod(grid_units(m, shape)))
        return slots, tokens

    def compose(self, batch: Sequence[Sequence[Row]]) -> Canvas:
        """Lay each element's items one behind the other; an item that does not fit is a `UsageError`."""
        b, length, slots = len(batch), self.tokens, self.slots
        v = self.vocabulary
        arrays = {
            "ids_BL": np.full((b, length), v.pad, np.int64),
            "alphabet_BL": np.full((b, length), -1, np.int64),
            "kind_BL": np.zeros((b, length), np.int64),
            "slot_BL": np.full((b, length), slots - 1, np.int64),
            "maskable_BL": np.zeros((b, length), bool),
            "weight_BL": np.zeros((b, length), np.float32),
            "coords_BP2": np.zeros((b, slots, 2), np.int64),
            "segment_BP": np.full((b, slots), -1, np.int64),
        }
        if length == slots:
            arrays["slot_BL"][:] = np.arange(length)
        spans: list[Span] = []
        owners = [self._lay_row(arrays, spans, r, items) for r, items in enumerate(batch)]
        arrays["sees_BGG"] = self._visibility(owners)
        return Canvas(**{k: torch.from_numpy(a) for k, a in arrays.items()}, spans=tuple(spans))

    def _lay_row(self, arrays: dict, spans: list[Span], r: int, items: Sequence[Row]) -> list[tuple[int, bool]]:
        """Write the items of row r; returns (item, given) of each of its segments."""
        at = _Cursor(arrays, r, self)
        owners: list[tuple[int, bool]] = []
        for i, item in enumerate(items):
            need = self.size(item)
            if at.slot + need[0] > self.slots or at.token + need[1] > self.tokens:
                raise UsageError(
                    f"item {item.key or i} needs {need[0]} positions and {need[1]} tokens; "
                    f"{self.slots - at.slot} and {self.tokens - at.token} of the row are free"
                )
            # BOS and the task token belong to the item's first segment.
            at.special(self.vocabulary.bos, len(owners))
            at.special(self.vocabulary.task(item.task), len(owners))
            for j, segment in enumerate(item.segments):
                spans.append(at.segment(segment, len(owners), item, j))
                owners.append((i, not segment.target))
        return owners

    def _visibility(self, owners: list[list[tuple[int, bool]]]) -> np.ndarray:
        most = max((len(o) for o in owners), default=0) or 1
        sees = np.zeros((len(owners), most, most), bool)
        for r, segments in enumerate(owners):
            for q, (item, given) in enumerate(segments):
                for k, (other, clean) in enumerate(segments):
                    sees[r, q, k] = item == other and (self.vocabulary.sight != "cached" or clean or not given)
        return sees


class _Cursor:
    """Writes tokens of one row from left to right."""

    def __init__(self, arrays: dict, row: int, composer: Composer):
        self.a = {k: v[row] for k, v in arrays.items()}
        self.row, self.token, self.slot = row, 0, 0
        self.vocabulary = composer.vocabulary

    def special(self, token_id: int, segment: int, kind: int = 0) -> None:
        self.a["ids_BL"][self.token] = token_id
        self.a["kind_BL"][self.token] = kind
        self.a["slot_BL"][self.token] = self.slot
        self.a["segment_BP"][self.slot] = segment
        self.token += 1
        self.slot += 1

    def segment(self, s: Segment, number: int, item: Row, index: int) -> Span:
        v = self.vocabulary
        m = v.modalities[v.modality(s.kind)]
        shape = grid_shape(v, s)
        kind = 1 + v.kinds.index(s.kind)
        self.special(v.opening(s.kind, s.span is not None), number, kind)
        ids, alphabet, weight = _content(v, s, shape)
        n = len(ids)
        here = slice(self.token, self.token + n)
        self.a["ids_BL"][here] = ids
        self.a["alphabet_BL"][here] = alphabet
        self.a["kind_BL"][here] = kind
        self.a["maskable_BL"][here] = s.target
        self.a["weight_BL"][here] = weight * (m.given_weight if item.conditional else 1.0) if s.target else 0
        units = grid_units(m, shape)
        used = int(np.prod(units))
        self.a["slot_BL"][here] = self.slot + (np.arange(n) * used // n if m.patch == 1 else patches(shape, m.patch)[0])
        there = slice(self.slot, self.slot + used)
        # Only sound has levels: a picture is numbered by its rows.
        positions = "flat" if v.positions == "levels" and m.grid != "frames" else v.positions
        self.a["coords_BP2"][there] = grid_coords(units, positions, m.pace)
        self.a["segment_BP"][there] = number
        start = self.token
        self.token, self.slot = self.token + n, self.slot + used
        return Span(self.row, start, n, s.kind, s.target, s.span is not None, item.key, item.draw, index, shape)


def grid_shape(vocabulary: Vocabulary, segment: Segment) -> tuple[int, ...]:
    """Grid shape of a segment on the canvas, END and FILL units included."""
    m = vocabulary.modalities[vocabulary.modality(segment.kind)]
    shape = segment.codes.shape
    expected = {"line": 1, "plane": 2, "frames": 2}[m.grid]
    if len(shape) != expected or (m.grid == "frames" and shape[1] != m.levels):
        raise UsageError(f"a {segment.kind} segment needs codes of a {m.grid} grid, got shape {shape}")
    if not segment.target or m.grid == "plane":
        if segment.span is not None:
            raise UsageError(f"only a target line or frames segment can have a free span ({segment.kind})")
        return shape
    span = shape[0] + 1 if segment.span is None else segment.span
    if span < shape[0] + 1:
        raise UsageError(f"{shape[0]} units and END do not fit a {segment.kind} span of {span}")
    return (span, *shape[1:])


def _content(v: Vocabulary, s: Segment, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint ids (MASK where hidden), alphabets and loss weights of a segment, flat."""
    first = v.alphabet(s.kind)
    m = v.modalities[v.modality(s.kind)]
    levels = np.arange(m.levels) if m.grid == "frames" else np.zeros(1, int)
    starts = np.array([v.alphabets[first + c].start for c in levels])
    end, fill = v.alphabets[first].end, v.alphabets[first].fill
    if s.codes.size and not (s.codes.min() >= 0 and s.codes.max() < m.codes):
        raise UsageError(f"a {s.kind} code lies outside [0, {m.codes})")
    ids = np.full(shape, fill, np.int64)
    n = s.codes.shape[0]
    ids[:n] = s.codes + (starts if m.grid == "frames" else starts[0])
    ids[n : n + 1] = end
    weight = np.where(ids == fill, m.fill_weight, 1.0) * m.weight
    if s.hidden is not None:
        ids = np.where(np.broadcast_to(s.hidden, shape), v.mask, ids)
    if m.patch > 1:
        return ids.ravel(), first + patches(shape, m.patch)[1], weight.ravel()
    alphabet = np.broadcast_to(first + (levels if m.grid == "frames" else 0), shape)
    return ids.ravel(), alphabet.ravel(), weight.ravel()


def grid_units(m: Modality, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the transformer positions of a grid."""
    if m.stack or m.grid == "line":
        return shape[:1]
    return tuple(-(-n // m.patch) for n in shape) if m.patch > 1 else shape


@lru_cache(maxsize=256)
def patches(shape: tuple[int, ...], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each code of a plane, row by row: number of its patch, and its place within the patch.

    Patches at the lower and right edge hold fewer codes where the sides do not divide.
    """
    rows, columns = (a.ravel() for a in np.indices(shape))
    patch = rows // side * -(-shape[1] // side) + columns // side
    place = rows % side * side + columns % side
    patch.flags.writeable = place.flags.writeable = False
    return patch, place


@lru_cache(maxsize=4096)
def grid_coords(units: tuple[int, ...], positions: Positions, pace: int = 1) -> np.ndarray:
    """Coordinates (P, 2) of the positions of a segment of so many units; its opening token sits at (0, 0).

    Flat coordinates number the units row by row; those by levels number a grid column by column.

    A line with a `pace` counts in steps of it, and by ones on the second axis: what runs beside it at another
    speed, as frames of speech beside words, is then near it on the first.
    """
    if positions != "axial" or len(units) == 1:
        by_column = positions == "levels" and len(units) == 2
        n = np.arange(int(np.prod(units)))
        n = n.reshape(units[::-1]).T.ravel() if by_column else n
        out = np.stack([1 + pace * n, 1 + n if pace > 1 else np.zeros_like(n)], axis=-1)
    else:
        rows, columns = np.meshgrid(np.arange(units[0]), np.arange(units[1]), indexing="ij")
        out = 1 + np.stack([rows.ravel(), columns.ravel()], axis=-1)
    out.flags.writeable = False
    return out


def rows_of(canvas: Canvas, vocabulary: Vocabulary) -> list[Row]:
    """The items of a filled canvas, as `Composer.compose` was given them, without what was hidden."""
    items: dict[tuple[int, int], list[Span]] = {}
    number = -1
    for span in canvas.spans:
        number += span.index == 0
        items.setdefault((span.row, number), []).append(span)
    out = []
    for spans in items.values():
        segments = tuple(
            Segment(s.kind, read(canvas, vocabulary, s), s.target, s.shape[0] if s.free else None) for s in spans
        )
        out.append(Row(segments, spans[0].key, spans[0].draw))
    return out


def read(canvas: Canvas, vocabulary: Vocabulary, span: Span) -> np.ndarray:
    """Local codes of a span, in the grid's natural shape, cut before its first END or FILL unit.

    MASK and ids of another alphabet are a `UsageError`: the canvas is not filled.
    """
    ids = canvas.ids_BL[span.row, span.start : span.start + span.length].cpu().numpy()
    first = vocabulary.alphabet(span.kind)
    m = vocabulary.modalities[vocabulary.modality(span.kind)]
    ids = ids.reshape(span.shape)
    stop = np.isin(ids, [vocabulary.alphabets[first].end, vocabulary.alphabets[first].fill])
    if m.grid != "plane":
        stopped = stop.reshape(len(ids), -1).any(axis=1)
        ids = ids[: int(stopped.argmax())] if stopped.any() else ids
    starts = np.array([a.start for a in vocabulary.alphabets[first : first + m.levels]])
    codes = ids - (starts if m.grid == "frames" else starts[0])
    if codes.size and not (codes.min() >= 0 and codes.max() < m.codes):
        raise UsageError(f"the {span.kind} span of row {span.row} is not filled with codes of its modality")
    return codes.astype(np.int32)
