"""From parts with holes to rows: what `Model.fill` is asked, read and laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimask.core.canvas import Row
from trimask.core.errors import UsageError
from trimask.data.tasks import VOICE
from trimask.hub import holes, media
from trimask.hub.layout import Layout, Size, Target, task_of
from trimask.hub.media import ImageLike


@dataclass(frozen=True)
class Request:
    """Parts by kind, as the caller gave them, and where they have holes; see `Model.fill`."""

    parts: Mapping[str, Any]
    box: Sequence[int] | None = None
    mask: ImageLike | None = None
    interval: Sequence[float] | None = None
    missing: Sequence[str] = ()
    size: Size = Size()

    @property
    def cuts(self) -> dict[str, bool]:
        """Grid -> whether a hole is stated for the part of that grid."""
        return {"line": False, "plane": self.box is not None or self.mask is not None, "frames": bool(self.interval)}


def rows_of(request: Request, layout: Layout) -> list[Row]:
    """One row, or one per length that is tried for a hole of free length inside a text or a sound.

    Raises `UsageError` for a hole without a part, a part without need, and nothing to fill.
    """
    raws = {k: media.raw(k, v) for k, v in request.parts.items()}
    wanted = _wanted(request, raws, layout)
    given = {k: holes.plain(v) if isinstance(v, str) else v for k, v in raws.items() if k not in wanted}
    task = task_of(given, wanted)
    spoken = len(given.get("text", ""))
    targets = {
        k: _cut(layout, request, k, raws[k], task) if k in raws else [layout.whole(k, task, request.size, spoken)]
        for k in wanted
    }
    codes = {k: layout.encode(k, [v])[0] for k, v in given.items()}
    tries = max((len(t) for t in targets.values()), default=0)
    if sum(len(t) > 1 for t in targets.values()) > 1:
        raise UsageError("two parts have holes of any length; give all but one a number of tokens or of seconds")
    if not tries:
        raise UsageError("nothing is to be filled: give a part a hole, or name a missing kind")
    return [layout.row(codes, {k: t[i % len(t)] for k, t in targets.items()}) for i in range(tries)]


def _wanted(request: Request, raws: Mapping[str, Any], layout: Layout) -> list[str]:
    """The kinds to be completed; every hole must have a part it belongs to."""
    grids = {k: layout.modality(k).grid for k in (*raws, *request.missing)}
    for grid, option in (("plane", "box or mask"), ("frames", "interval")):
        if request.cuts[grid] and grid not in [grids[k] for k in raws]:
            raise UsageError(f"{option} says what to fill, but there is no part that it belongs to")
    for number, kind in enumerate(request.missing):
        if kind in raws or kind in request.missing[:number]:
            raise UsageError(f"{kind} is {'both given and' if kind in raws else 'twice'} missing")
        if kind == VOICE:
            raise UsageError("a voice is not made: name one with voice, or leave it out and the model chooses")
    if request.size.seconds is not None and "frames" not in grids.values():
        raise UsageError("seconds are the length of a sound: this request has none")
    return [k for k, raw in raws.items() if request.cuts[grids[k]] or _holed(raw)] + list(request.missing)


def _holed(raw: Any) -> bool:
    return isinstance(raw, str) and bool(holes.template(raw).holes)


def _cut(layout: Layout, request: Request, kind: str, raw: Any, task: str) -> list[Target]:
    grid = layout.modality(kind).grid
    if grid == "line":
        return layout.texts(holes.template(raw), task)
    codes = layout.encode(kind, [raw])[0]
    if grid == "plane":
        white = None if request.mask is None else media.picture(request.mask).mean(axis=2) > 127
        shape = (codes.shape[0], codes.shape[1])
        return [Target(codes, None, holes.cells(shape, (raw.shape[0], raw.shape[1]), request.box, white))]
    hidden = holes.frames(len(codes), layout.rate(kind), request.interval or ())
    return layout.stretches(codes, hidden, kind, task, request.size.seconds)
