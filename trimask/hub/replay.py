"""Watching a canvas being filled: what its targets show after every step, in a terminal, as a GIF or as a page."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from trimask.core.canvas import Canvas, Span
from trimask.core.files import replacing
from trimask.core.modality import KINDS
from trimask.diffusion.sampling import Progress
from trimask.hub.layout import Layout

if TYPE_CHECKING:
    from rich.console import Group

GREY = (214, 214, 220)
"""Of what is still masked."""
SCALE = 8
"""Pixels of a GIF or a page for a pixel of a picture, or for half a code of a sound."""
SECONDS = (0.12, 2.0)
"""How long a frame of a GIF stands, and its last."""


@dataclass(frozen=True)
class Held:
    """A target after a step, up to its end."""

    kind: str
    codes: np.ndarray
    """Local codes in the grid's shape, 0 where masked."""
    hidden: np.ndarray
    """bool: what is masked."""


@dataclass(frozen=True)
class Shown:
    """How it looks: a picture, or pieces of text, None for a masked token."""

    kind: str
    picture: np.ndarray | None = None
    """uint8 (Y, X, 3). Of a sound its codes, levels from the bottom up over frames."""
    pieces: tuple[str | None, ...] = ()


class Replay:
    """Collects what the targets of each row hold after every step; a callback for the steps of sampling."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.rows: list[list[list[Held]]] = []
        """By row, then by step, then by target."""
        self._first = 0
        self._papers: dict[tuple[int, ...], np.ndarray] = {}

    def __call__(self, progress: Progress) -> None:
        count = progress.canvas.shape[0]
        if progress.step <= 1:
            self._first = len(self.rows)
            self.rows += [[] for _ in range(count)]
        for row in range(count):
            spans = [s for s in progress.canvas.spans if s.row == row and s.target]
            self.rows[self._first + row].append([self._held(progress.canvas, s) for s in spans])

    def _held(self, canvas: Canvas, span: Span) -> Held:
        v = self.layout.vocabulary
        m, first = self.layout.modality(span.kind), v.alphabet(span.kind)
        ids = canvas.ids_BL[span.row, span.start : span.start + span.length].cpu().numpy().reshape(span.shape)
        stops = np.isin(ids, [v.alphabets[first].end, v.alphabets[first].fill]).reshape(len(ids), -1).any(1)
        ids = ids[: int(stops.argmax())] if stops.any() else ids
        starts = [a.start for a in v.alphabets[first : first + m.levels]]
        codes = ids - np.array(starts if m.grid == "frames" else starts[0])
        return Held(span.kind, np.where(ids == v.mask, 0, codes).astype(np.int32), ids == v.mask)

    def shown(self, steps: Sequence[Held], last: Held | None = None) -> list[Shown]:
        """How steps of one target look. What is masked of a picture is taken as in `last` (default: as paper is).

        A decoder looks at the codes around a code, so something has to stand there.
        """
        if not steps:
            return []
        kind, grid = steps[0].kind, self.layout.modality(steps[0].kind).grid
        if grid == "line":
            return [Shown(kind, pieces=self._pieces(held.codes, held.hidden)) for held in steps]
        if grid == "frames":
            top = max(self.layout.modality(kind).codes - 1, 1)
            colours = [np.where(h.hidden[..., None], GREY, _rainbow(h.codes / top)).astype(np.uint8) for h in steps]
            return [Shown(kind, c.transpose(1, 0, 2)[::-1]) for c in colours]
        rest = self._paper(steps[0]) if last is None else last.codes
        decoded = self.layout.decode(kind, [np.where(h.hidden, rest, h.codes).astype(np.int32) for h in steps])
        cell = [n // c for n, c in zip(decoded[0].shape, rest.shape, strict=False)]
        covers = [h.hidden.repeat(cell[0], 0).repeat(cell[1], 1)[..., None] for h in steps]
        pictures = [np.where(c, GREY, picture).astype(np.uint8) for c, picture in zip(covers, decoded, strict=True)]
        return [Shown(kind, picture) for picture in pictures]

    def _paper(self, held: Held) -> np.ndarray:
        """Codes of a white picture."""
        if held.codes.shape not in self._papers:
            size = self.layout.decode(held.kind, [held.codes])[0].shape
            self._papers[held.codes.shape] = self.layout.encode(held.kind, [np.full(size, 255, np.uint8)])[0]
        return self._papers[held.codes.shape]

    def _all(self, row: int) -> list[list[Shown]]:
        """How a row looks, by step, then by target."""
        steps = self.rows[row]
        targets = [self.shown([step[i] for step in steps], steps[-1][i]) for i in range(len(steps[-1]))]
        return [list(step) for step in zip(*targets, strict=True)]

    def _pieces(self, codes: np.ndarray, hidden: np.ndarray) -> tuple[str | None, ...]:
        """Runs of known tokens as text, masked ones as None each."""
        cuts = np.flatnonzero(np.diff(hidden.astype(int))) + 1
        out: list[str | None] = []
        for run, masked in zip(np.split(codes, cuts), np.split(hidden, cuts), strict=True):
            if len(run):
                out += [None] * len(run) if masked[0] else [self.layout.decode("text", [run])[0]]
        return tuple(out)

    def terminal(self) -> "Group":
        """The last step of the rows at hand, for a terminal of 24-bit colours."""
        from rich.console import Group
        from rich.text import Text

        return Group(*(_drawn(self.shown([held])[0]) for row in self.rows[self._first :] for held in row[-1]), Text())

    def gif(self, row: int, path: Path) -> None:
        """The first picture of a row, step by step."""
        frames = [_enlarged(next(s.picture for s in step if s.picture is not None)) for step in self._all(row)]
        times = [round(1000 * SECONDS[0])] * (len(frames) - 1) + [round(1000 * SECONDS[1])]
        with replacing(path) as temporary:
            frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)

    def page(self, path: Path, title: str, sounds: Sequence[bytes] = ()) -> None:
        """All rows on one page with a slider over the steps. `sounds` are WAV files, one a row."""
        shown = [["".join(_markup(s) for s in step) for step in self._all(row)] for row in range(len(self.rows))]
        data = json.dumps(shown).replace("</", "<\\/")
        audio = [f"<audio controls src='data:audio/wav;base64,{base64.b64encode(s).decode()}'></audio>" for s in sounds]
        parts = [f"<div class=row></div>{audio[i] if i < len(audio) else ''}" for i in range(len(self.rows))]
        with replacing(path) as temporary:
            # At once: what is put in may hold the name of another place.
            content = {"TITLE": html.escape(title), "ROWS": "\n".join(parts), "DATA": data}
            temporary.write_text(re.sub("TITLE|ROWS|DATA", lambda m: content[m[0]], _PAGE), encoding="utf-8")


def _rainbow(share: np.ndarray) -> np.ndarray:
    """A colour (…, 3) of each number in [0, 1]; no neighbour of grey."""
    phase = 2 * np.pi * (share[..., None] + np.array([0.0, 1 / 3, 2 / 3]))
    return 128 + 100 * np.cos(phase)


def _enlarged(picture: np.ndarray) -> Image.Image:
    y, x = picture.shape[:2]
    return Image.fromarray(picture).resize((x * SCALE, y * SCALE), Image.Resampling.NEAREST)


def _markup(shown: Shown) -> str:
    """HTML of a target after a step."""
    if shown.picture is None:
        return "<p>" + "".join("<i></i>" if p is None else html.escape(p) for p in shown.pieces) + "</p>"
    picture = shown.picture
    small = picture.repeat(2, 0) if KINDS[shown.kind] == "audio" else picture
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(small)).save(out, "PNG")
    width = small.shape[1] * SCALE
    return f"<img width={width} src='data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}'>"


def _drawn(shown: Shown):
    """A target in a terminal: two pixels a character, one above the other."""
    from rich.text import Text

    if shown.picture is None:
        return Text("").join(Text("░", style="dim") if p is None else Text(p) for p in shown.pieces)
    picture = shown.picture if len(shown.picture) % 2 == 0 else np.concatenate([shown.picture, shown.picture[-1:]])
    lines = Text()
    for top, bottom in zip(picture[::2], picture[1::2], strict=True):
        for a, b in zip(top, bottom, strict=True):
            lines.append("▀", style=f"rgb({a[0]},{a[1]},{a[2]}) on rgb({b[0]},{b[1]},{b[2]})")
        lines.append("\n")
    return lines


_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>TITLE</title><style>
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { image-rendering: pixelated; max-width: 100% } input { width: 20rem } .row { margin: 1rem 0 }
i { display: inline-block; width: 1.6em; height: .8em; margin: 0 .1em; background: #d6d6dc; border-radius: .2em }
</style><h1>TITLE</h1>
<p><button id=play>play</button> <input id=at type=range min=1 value=1> step <span id=step></span></p>
ROWS
<script>
const rows = DATA, at = document.getElementById("at"), last = Math.max(...rows.map(r => r.length));
const places = document.querySelectorAll(".row");
at.max = last;
function show() {
  document.getElementById("step").textContent = at.value + " of " + last;
  rows.forEach((r, i) => { places[i].innerHTML = r[Math.min(at.value, r.length) - 1]; });
}
let timer = null;
function play() {
  clearInterval(timer);
  if (+at.value >= last) at.value = 1;
  timer = setInterval(() => { if (+at.value >= last) clearInterval(timer); else { at.value++; show(); } }, 120);
}
at.oninput = () => { clearInterval(timer); show(); };
document.getElementById("play").onclick = play;
show(); play();
</script></html>
"""
