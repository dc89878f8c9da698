"""Holes: which part of a text, a picture or a clip is to be filled.

    "the [...] circle"         any number of tokens
    "the [2] circle"           exactly two tokens; "[__]" is the same
    "write \\[2] to say [2]"    a backslash keeps a bracket literal
    box (8, 0, 24, 16)         left, top, right, bottom in pixels
    interval (0.5, 1.2)        start and end in seconds; what comes there may be shorter or longer

A space in front of a hole belongs to the hole, as tokens of words carry the space before them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimask.core.errors import UsageError

MOST = 100_000
"""Units of a part beyond which nothing is tried: rows of a training are shorter by far."""
HOLE = re.compile(r" ?(?<!\\)\[(?:(?P<count>\d+)|(?P<free>\.\.\.|…)|(?P<blank>_+))\]")
_ESCAPED = re.compile(r"\\(\[(?:\d+|\.\.\.|…|_+)\])")


@dataclass(frozen=True)
class Template:
    """A text with holes: `pieces[0] hole[0] pieces[1] ...`; a hole is a number of tokens or None."""

    pieces: tuple[str, ...]
    holes: tuple[int | None, ...]


def template(text: str) -> Template:
    """Read the holes of a text. Raises `UsageError` for a hole of no tokens or two free holes."""
    pieces, holes, at = [], [], 0
    for match in HOLE.finditer(text):
        pieces.append(text[at : match.start()])
        holes.append(None if match["free"] else int(match["count"] or len(match["blank"] or "")))
        at = match.end()
    pieces.append(text[at:])
    if 0 in holes:
        raise UsageError(f"a hole of [0] tokens in {text!r} leaves nothing to fill")
    if (largest := max((n or 0 for n in holes), default=0)) > MOST:
        raise UsageError(f"a hole of {largest} tokens is longer than any row that a model is trained on")
    if holes.count(None) > 1:
        raise UsageError(f"{text!r} has two holes of free length; give all but one a number, as in [3]")
    return Template(tuple(plain(p) for p in pieces), tuple(holes))


def plain(text: str) -> str:
    """A text without holes, its escaped brackets made literal."""
    return _ESCAPED.sub(r"\1", text)


def cells(
    shape: tuple[int, int], pixels: tuple[int, int], box: Sequence[int] | None, mask_YX: np.ndarray | None
) -> np.ndarray:
    """bool (Y, X) cells of a code grid that a box or a pixel mask touches.

    `pixels` is (height, width) of the picture; `mask_YX` is True where it is to be filled.
    """
    if (box is None) == (mask_YX is None):
        raise UsageError("say which part of the picture to fill by either a box or a mask")
    if box is not None:
        mask_YX = np.zeros(pixels, bool)
        left, top, right, bottom = _box(box, pixels)
        mask_YX[top:bottom, left:right] = True
    assert mask_YX is not None
    if mask_YX.shape != pixels:
        raise UsageError(f"the mask has {mask_YX.shape[::-1]} pixels, the picture {pixels[::-1]}; make them equal")
    if not mask_YX.any():
        raise UsageError("the mask has no white pixel: nothing is to be filled")
    rows = np.arange(pixels[0]) * shape[0] // pixels[0]
    columns = np.arange(pixels[1]) * shape[1] // pixels[1]
    touched = np.zeros(shape, bool)
    y, x = np.nonzero(mask_YX)
    touched[rows[y], columns[x]] = True
    return touched


def _box(box: Sequence[int], pixels: tuple[int, int]) -> tuple[int, int, int, int]:
    if len(box) != 4:
        raise UsageError(f"a box is four numbers, left, top, right, bottom; got {tuple(box)}")
    left, top, right, bottom = (int(v) for v in box)
    height, width = pixels
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(f"the box {tuple(box)} does not lie inside the picture of {width} x {height} pixels")
    return left, top, right, bottom


def frames(count: int, rate: float, interval: Sequence[float]) -> np.ndarray:
    """bool (T,) of frames, `rate` a second, that an interval in seconds touches.

    T is `count`, or more where the interval ends behind the clip: the clip is then continued.
    """
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] < math.inf:
        raise UsageError(f"an interval is two times in seconds, start before end; got {tuple(interval)}")
    # A time that is meant to be a frame's edge may be off by rounding.
    start, end = round(interval[0] * rate, 6), round(interval[1] * rate, 6)
    if start > count:
        raise UsageError(f"the interval starts at {interval[0]:g} s, but the clip ends at {count / rate:.2f} s")
    if end > MOST:
        raise UsageError(f"the interval ends at {interval[1]:g} s, behind any row that a model is trained on")
    number = np.arange(max(count, math.ceil(end)))
    return (number + 1 > start) & (number < end)
