"""From content and holes to rows of segments, laid out as the training tasks lay them.

A row to be filled is always the same thing: given segments, and target segments whose `hidden`
positions start as MASK. Generating, continuing, infilling and editing differ in what is hidden.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np

from trimask.core.canvas import Canvas, Row, Segment, grid_shape
from trimask.core.errors import ArtifactError, DataError, UsageError
from trimask.core.item import Audio
from trimask.core.modality import KINDS, Modality, Vocabulary, task_name
from trimask.data.tasks import VOICE, Parts, Task, lay
from trimask.hub.defaults import Defaults
from trimask.hub.holes import MOST, Template
from trimask.tokenizers.contract import Tokenizer

SPEECH_SECONDS = (0.6, 0.12)
"""Room for spoken text: seconds at least, and per character. Slow speech has 10 characters a second."""
HOLE_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Lengths in tokens that are tried for a hole of free length inside a text."""
STRETCHES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Lengths, as shares of what was there, that are tried for a hole of free length inside a sound."""
LONGEST = 300
"""Seconds of a sound beyond which nothing is tried: rows of a training are shorter by far."""
WIDEST = 4096
"""Pixels of a side of a square picture beyond which nothing is tried."""
ANY = "any"
"""Seconds of a hole whose length the model decides."""
_PROBE_RATE = 16_000


@dataclass(frozen=True)
class Target:
    """What is known of a target: its codes, its free span, and which positions are to be filled."""

    codes: np.ndarray
    span: int | None = None
    hidden: np.ndarray | bool = True


@dataclass(frozen=True)
class Size:
    """How large a part is that nothing is known of; None where the model decides or has a default."""

    pixels: tuple[int, int] = (32, 32)
    """Width and height."""
    seconds: float | str | None = None
    """Of a sound, or of what a hole in one becomes: there None keeps the length, and `ANY` leaves it to the model."""
    length: int | None = None
    """Tokens of a text."""


@dataclass(frozen=True)
class Layout:
    """Knows the vocabulary, the tokenizers by modality and the defaults of one model."""

    vocabulary: Vocabulary
    tokenizers: Mapping[str, Tokenizer]
    defaults: Defaults = field(default_factory=Defaults)

    def modality(self, kind: str) -> Modality:
        return self.vocabulary.modalities[self.vocabulary.modality(kind)]

    def tokenizer(self, kind: str) -> Tokenizer:
        """The tokenizer of a kind. Raises `UsageError` for a kind the model does not have."""
        name = self.modality(kind).name
        if name not in self.tokenizers:
            raise ArtifactError(f"the bundle has no {name} tokenizer, so it takes and gives {kind} as codes only")
        return self.tokenizers[name]

    def encode(self, kind: str, raws: Sequence[Any]) -> list[np.ndarray]:
        """Codes of raw content; what the tokenizer cannot take is a `DataError` with its reason."""
        try:
            return self.tokenizer(kind).encode(raws)
        except ValueError as e:
            raise DataError(f"the {kind} cannot be encoded: {e}") from None

    def decode(self, kind: str, codes: Sequence[np.ndarray]) -> list[Any]:
        """Raw content of codes; a sound of no frames is an empty recording."""
        tokenizer, grid = self.tokenizer(kind), self.modality(kind).grid
        out = iter(tokenizer.decode([c for c in codes if len(c) or grid == "line"]))
        return [next(out) if len(c) or grid == "line" else Audio(np.zeros(0, np.float32), _PROBE_RATE) for c in codes]

    def row(self, given: Parts, targets: Mapping[str, Target]) -> Row:
        """The row of a task; its key is a digest of the row, so equal requests draw equal noise."""
        if not targets:
            raise UsageError("nothing is to be filled: give a part a hole, or name a missing kind")
        speaks = any(KINDS[k] == "audio" for k in targets)
        if VOICE in given and not speaks:
            raise UsageError("a voice is a condition of speech; this request has no speech to make")
        parts = dict(given)
        if speaks and VOICE not in parts and self.defaults.voice:
            parts[VOICE] = self.encode(VOICE, [self.defaults.voice])[0]
        task = Task(tuple(k for k in given if k != VOICE), tuple(targets))
        spans = {k: t.span for k, t in targets.items() if t.span is not None}
        segments = lay(task, {**parts, **{k: t.codes for k, t in targets.items()}}, spans)
        return keyed(Row(tuple(self._hide(s, targets[s.kind]) if s.target else s for s in segments)))

    def prepared(self, row: Row) -> Row:
        """A caller's row, keyed, END of targets of known length shown."""
        segments = tuple(
            self._hide(s, Target(s.codes, s.span, False if s.hidden is None else s.hidden)) if s.target else s
            for s in row.segments
        )
        return keyed(replace(row, segments=segments))

    def _hide(self, segment: Segment, target: Target) -> Segment:
        """Mark what is to be filled. END of a target of known length is known."""
        shape = grid_shape(self.vocabulary, segment)
        hidden = np.zeros(shape, bool)
        reach = len(segment.codes) if segment.span is None else shape[0]
        hidden[:reach] = target.hidden if isinstance(target.hidden, bool) else _padded(target.hidden, shape)[:reach]
        return replace(segment, hidden=hidden)

    def whole(self, kind: str, task: str, size: Size, spoken: int = 0) -> Target:
        """A part of which nothing is known. `spoken`: characters of the text that a sound speaks."""
        m = self.modality(kind)
        if m.grid == "plane":
            return Target(np.zeros(self._grid(kind, size.pixels), np.int32))
        exact = size.length if m.grid == "line" else self.units(kind, size.seconds)
        if exact is not None:
            if not 1 <= exact <= MOST:
                raise UsageError(f"a {kind} of {exact} units has {'nothing to fill' if exact < 1 else 'no room'}")
            return Target(self._empty(m, exact))
        least = self._room(kind, spoken) if m.grid == "frames" and spoken else None
        return Target(self._empty(m, 0), self.span(kind, task, least))

    def _grid(self, kind: str, pixels: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the codes of a picture of so many pixels."""
        sides = pixels if isinstance(pixels, Sequence) and len(pixels) == 2 else ()
        if not sides or not all(isinstance(side, Integral) and 1 <= side <= MOST for side in sides):
            raise UsageError(f"size={pixels!r} must be a width and a height in pixels, as (32, 32)")
        if sides[0] * sides[1] > WIDEST**2:
            raise UsageError(
                f"a picture of {sides[0]} x {sides[1]} pixels is larger than any that a model is trained on"
            )
        try:
            return self.tokenizer(kind).encode([np.zeros((sides[1], sides[0], 3), np.uint8)])[0].shape
        except ValueError as e:
            raise UsageError(f"no picture of this size can be made: {str(e).partition(';')[0]}") from None

    def span(self, kind: str, task: str, least: int | None = None) -> int:
        """Free span of a target: of its task, its kind, the least bucket that has room, or the largest."""
        spans, buckets = self.defaults.spans, self.modality(kind).buckets
        if chosen := spans.get(task) or spans.get(kind):
            return chosen
        if not buckets:
            raise UsageError(f"this model was not trained on {kind} of free length; say how long it is to be")
        return next((b for b in buckets if least is not None and b >= least), buckets[-1])

    def continued(self, codes: np.ndarray, kind: str, task: str) -> Target:
        """The codes and a free rest behind them; the rest has at least one unit and END."""
        need = len(codes) + 2
        span = self.span(kind, task)
        if span < need:
            span = next((b for b in self.modality(kind).buckets if b >= need), 0)
        if not span:
            speaks = self.modality(kind).grid == "frames"
            kept = f"{len(codes) / self.rate(kind):.1f} seconds" if speaks else f"{len(codes)} tokens"
            raise UsageError(f"{kept} that are kept leave no room in the longest free {kind}; say how long it is to be")
        hidden = np.arange(span) >= len(codes)
        return Target(codes, span, hidden)

    def texts(self, holes: Template, task: str) -> list[Target]:
        """The targets of a text with holes: one, or one per length that is tried for a free hole inside."""
        pieces = self.encode("text", list(holes.pieces))
        if holes.holes and holes.holes[-1] is None and not len(pieces[-1]) and len(holes.holes) == 1:
            return [self.continued(pieces[0], "text", task)]
        lengths = HOLE_LENGTHS if None in holes.holes else (0,)
        return [_filled(pieces, [n if h is None else h for h in holes.holes]) for n in lengths]

    def stretches(
        self, codes: np.ndarray, hidden: np.ndarray, kind: str, task: str, seconds: float | str | None
    ) -> list[Target]:
        """The targets of a sound of which some frames are to be replaced, by so many seconds: one, or one per length.

        `hidden` (frames, and perhaps more behind the last) is one stretch.
        """
        first, last = np.flatnonzero(hidden)[[0, -1]]
        pieces, length = [codes[:first], codes[last + 1 :]], int(last + 1 - first)
        if seconds != ANY:
            return [_filled(pieces, [self.units(kind, seconds) or length])]
        if not len(pieces[1]):
            return [self.continued(pieces[0], kind, task)]
        return [_filled(pieces, [n]) for n in sorted({max(1, round(share * length)) for share in STRETCHES})]

    def gap(self, before: str, word: str, after: str) -> Target:
        """A text with one word hidden, whose number of tokens is known; the space before goes with the word."""
        kept = before.removesuffix(" ")
        pieces = self.encode("text", [kept, before[len(kept) :] + word, after])
        return _filled([pieces[0], pieces[2]], [len(pieces[1])])

    def scored(self, codes: Parts, targets: Sequence[str], free: bool) -> Row:
        """The row whose bound is that of the targets given the rest.

        `free`: lengths are scored too, in the largest free span that the model knows, if it has room.
        """
        spans = {k: self._largest(k, codes[k]) if free else None for k in targets}
        given = {k: v for k, v in codes.items() if k not in targets}
        return self.row(given, {k: Target(codes[k], spans[k], False) for k in targets})

    def _largest(self, kind: str, codes: np.ndarray) -> int | None:
        buckets = self.modality(kind).buckets
        return buckets[-1] if buckets and len(codes) < buckets[-1] else None

    def units(self, kind: str, seconds: float | str | None) -> int | None:
        """Frames that a sound of so many seconds takes; None where they are not given."""
        if seconds is None or seconds == ANY:
            return None
        if isinstance(seconds, str):
            raise UsageError(f"seconds are a number or {ANY!r}, got {seconds!r}")
        if not 0 < seconds < math.inf:
            raise UsageError(f"a {kind} of {seconds:g} seconds has nothing to fill, or no end")
        if seconds > LONGEST:
            raise UsageError(f"{seconds:g} seconds of {kind} are more than any model here is trained on ({LONGEST})")
        silence = Audio(np.zeros(max(1, round(seconds * _PROBE_RATE)), np.float32), _PROBE_RATE)
        return len(self.encode(kind, [silence])[0])

    def rate(self, kind: str) -> float:
        """Frames a second of a kind of sound."""
        return float(self.units(kind, 1.0) or 0)

    def _room(self, kind: str, characters: int) -> int:
        least, each = SPEECH_SECONDS
        return round((least + each * characters) * self.rate(kind)) + 1

    @staticmethod
    def _empty(m: Modality, length: int) -> np.ndarray:
        return np.zeros((length, m.levels) if m.grid == "frames" else (length,), np.int32)


def keyed(row: Row, copy: int = 0) -> Row:
    """The row named by a digest of what it asks for, and the number of the copy."""
    digest = hashlib.blake2b(digest_size=12)
    for s in row.segments:
        digest.update(f"{s.kind} {s.target} {s.span} {s.codes.shape}".encode())
        digest.update(np.ascontiguousarray(s.codes, np.int32).tobytes())
        digest.update(np.packbits(np.asarray(s.hidden if s.hidden is not None else False)).tobytes())
    return replace(row, key=f"{digest.hexdigest()}:{copy}")


def numbered(rows: Sequence[Row], negative: Sequence[Row] | None = None) -> list[Row]:
    """Equal requests told apart: the k-th of them gets copy number k. Equal ones have the same negative row too."""
    seen: Counter[tuple[str, str]] = Counter()
    out = []
    for row, other in zip(rows, negative or rows, strict=True):
        request = row.key, other.key
        out.append(keyed(row, seen[request]))
        seen[request] += 1
    return out


def keys_of(canvas: Canvas) -> list[str]:
    """The name of each row of a canvas: a digest of its tokens and of where they are, and which of equal ones it is."""
    seen: Counter[str] = Counter()
    out = []
    for row in range(canvas.shape[0]):
        digest = hashlib.blake2b(digest_size=12)
        held_L = canvas.kind_BL[row] > 0
        for values_L in (canvas.ids_BL, canvas.kind_BL, canvas.slot_BL, canvas.maskable_BL):
            digest.update(values_L[row][held_L].cpu().numpy().tobytes())
        out.append(f"{digest.hexdigest()}:{seen[digest.hexdigest()]}")
        seen[digest.hexdigest()] += 1
    return out


def task_of(given: Mapping[str, Any], targets: Sequence[str]) -> str:
    return task_name([k for k in KINDS if k in given], [k for k in KINDS if k in targets])


def _filled(pieces: Sequence[np.ndarray], holes: Sequence[int]) -> Target:
    codes, hidden = [pieces[0]], [np.zeros(len(pieces[0]), bool)]
    for n, piece in zip(holes, pieces[1:], strict=True):
        codes += [np.zeros((n, *piece.shape[1:]), np.int32), piece]
        hidden += [np.ones(n, bool), np.zeros(len(piece), bool)]
    return Target(np.concatenate(codes), None, np.concatenate(hidden))


def _padded(hidden: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask over units (T,) or over the whole grid, as a mask of the target's grid."""
    out = np.zeros(shape, bool)
    out[: len(hidden)] = hidden if hidden.ndim == len(shape) else hidden.reshape(-1, *[1] * (len(shape) - 1))
    return out
