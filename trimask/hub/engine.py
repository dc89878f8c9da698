"""Rows in, completed rows out: grouping, padding and the guards between a model and the sampler.

A row is padded to one of a few lengths that depend on the row alone, all multiples of 32, so that
its result does not depend on what else is in its batch (in fp32 on the CPU).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trimask.core.canvas import Canvas, Composer, Query, Row, Segment, read
from trimask.core.errors import UsageError
from trimask.core.memory import Memory
from trimask.core.modality import KINDS, Vocabulary
from trimask.diffusion.bounds import Bound, Plan, bounds
from trimask.diffusion.sampling import Engine, Progress, sample
from trimask.diffusion.settings import Settings
from trimask.model.transformer import Transformer

LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Padded lengths of a row; beyond the last, multiples of it."""
ROWS = 16
"""Rows of one batch that is sampled."""
SCORED = 1024
"""Tokens of one batch that is scored on the CPU; elsewhere it has sixteen times as many.

Every token has logits. Those of 16 rows of 256 tokens are 67 MB, which the C library asks the system for and gives
back each time: on the CPU 40 % of the time of scoring went into that (dev/LOG.md).
"""

OnStep = Callable[[Progress], None]
SettingsOf = Callable[[str, Iterable[str]], Mapping[str, Settings]]
"""Task and the modalities that are made -> settings of each."""


def padded(length: int) -> int:
    """The fixed length that a row of `length` is padded to."""
    return next((n for n in LENGTHS if length <= n), -(-length // LENGTHS[-1]) * LENGTHS[-1])


class Placed:
    """A denoiser on its device; canvases may live elsewhere, logits return to where the canvas is.

    The model may be in training: its own compute type is put back after every call.
    """

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype):
        self.model = model.to(device)
        self.device, self.dtype = device, dtype
        # MPS has no float64, which drawing by inverse CDF needs.
        self.home = torch.device("cpu") if device.type == "mps" else device

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[Tensor]:
        with self._typed():
            return self._back(canvas, self.model(canvas.to(self.device), self._moved(asked)))

    def memory(self, canvas: Canvas, rows: int) -> Memory:
        """See `Transformer.memory`."""
        with self._typed():
            return self.model.memory(canvas.to(self.device), rows)

    def recall(self, canvas: Canvas, asked: Sequence[Query], memory: Memory, wanted_BL: Tensor) -> list[Tensor]:
        """See `Transformer.recall`."""
        with self._typed():
            there, wanted_BL = canvas.to(self.device), wanted_BL.to(self.device)
            return self._back(canvas, self.model.recall(there, self._moved(asked), memory, wanted_BL))

    def _moved(self, asked: Sequence[Query]) -> list[Query]:
        return [replace(q, index_N=q.index_N.to(self.device)) for q in asked]

    def _back(self, canvas: Canvas, logits: Sequence[Tensor]) -> list[Tensor]:
        return [x.to(canvas.ids_BL.device) for x in logits]

    @contextmanager
    def _typed(self) -> Iterator[None]:
        before, self.model.dtype = self.model.dtype, self.dtype
        try:
            yield
        finally:
            self.model.dtype = before


def endings(canvas: Canvas, vocabulary: Vocabulary) -> Tensor:
    """bool (B, L): tokens that may become END or FILL: none of a target of known length, nor a sound's first frame."""
    may_BL = torch.zeros(canvas.shape, dtype=torch.bool)
    for span in canvas.spans:
        m = vocabulary.modalities[vocabulary.modality(span.kind)]
        if span.target and span.free:
            first = m.levels if m.grid == "frames" else 0
            may_BL[span.row, span.start + first : span.start + span.length] = True
    return may_BL.to(canvas.ids_BL.device)


class Runner:
    """Completes and scores rows with one placed model, whose rows had `context` positions in training."""

    def __init__(
        self, placed: Placed, vocabulary: Vocabulary, weaker: Placed | None = None, context: int | None = None
    ):
        self.placed, self.vocabulary, self.weaker, self.context = placed, vocabulary, weaker, context
        self.engine = Engine(placed, vocabulary, weaker)

    def complete(
        self,
        rows: Sequence[Row],
        settings_of: SettingsOf,
        seed: int,
        on_step: OnStep | None = None,
        negative: Sequence[Row] | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Codes of the targets of each row, by kind. Rows draw noise by (seed, key).

        `negative` holds each row under the condition that guidance pushes away from. Raises `UsageError` for a row that
        is longer than those of the training: the model knows no such positions.
        """
        self._check_lengths([*rows, *(negative or ())])
        out: list[dict[str, np.ndarray]] = [{} for _ in rows]
        for task, composer, numbers in self._groups(rows, ROWS, negative):
            canvas = composer.compose([[rows[i]] for i in numbers]).to(self.placed.home)
            other = composer.compose([[negative[i]] for i in numbers]).to(self.placed.home) if negative else None
            keys = [rows[i].key for i in numbers]
            made = {KINDS[s.kind] for s in canvas.spans if s.target}
            canvas = self.fill(canvas, settings_of(task, made), seed, keys, on_step, other)
            for span in canvas.spans:
                if span.target:
                    out[numbers[span.row]][span.kind] = read(canvas, self.vocabulary, span)
        return out

    def fits(self, row: Row) -> bool:
        """Whether the model was trained on rows as long as this one."""
        return self.context is None or self._size(row) <= self.context

    def _size(self, row: Row) -> int:
        return Composer(self.vocabulary, LENGTHS[0]).size(row)[0]

    def _check_lengths(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if not self.fits(row):
                parts = ", ".join(f"{s.kind} {self._size(Row((s,))) - self._size(Row(()))}" for s in row.segments)
                raise UsageError(
                    f"the request takes {self._size(row)} positions, more than the {self.context} of the rows that the "
                    f"model was trained on ({parts}); ask for less, or shorten what is given"
                )

    def check_positions(self, canvas: Canvas) -> None:
        """Raises `UsageError` for a canvas with a row that is longer than those of the training."""
        taken = int((canvas.segment_BP >= 0).sum(1).max())
        if self.context is not None and taken > self.context:
            raise UsageError(
                f"a row of the canvas takes {taken} positions, more than the {self.context} of the rows that the model "
                "was trained on"
            )

    def fill(
        self,
        canvas: Canvas,
        settings: Mapping[str, Settings],
        seed: int,
        keys: Sequence[str] | None = None,
        on_step: OnStep | None = None,
        negative: Canvas | None = None,
    ) -> Canvas:
        """A canvas with its masked targets filled; one of known length does not end, a sound has a frame."""
        ends_BL = endings(canvas, self.vocabulary)
        with self._frozen():
            return sample(self.engine, canvas, settings, seed, keys, ends_BL, negative, on_step)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        with ExitStack() as stack:
            for placed in (self.placed, self.weaker):
                if placed is not None:
                    stack.enter_context(placed.model.frozen())
            yield

    def bounds(self, rows: Sequence[Row], plan: Plan, draws: int, seed: int) -> list[Bound]:
        """The bound of each row's targets; see `diffusion.bounds.bounds`."""
        found: dict[int, Bound] = {}
        shown = [Row(tuple(_shown(s) for s in r.segments), r.key, r.draw) for r in rows]
        with self._frozen(), torch.inference_mode():
            for _, composer, numbers in self._groups(shown, len(shown)):
                tokens = SCORED if self.placed.device.type == "cpu" else 16 * SCORED
                batch = max(1, tokens // composer.tokens)
                part = bounds(self.placed, [shown[i] for i in numbers], composer, plan, draws, seed, batch)
                found.update(zip(numbers, part, strict=True))
        if any(math.isnan(bound.nats) for bound in found.values()):
            raise UsageError("the model returned logits that are not finite; the checkpoint is damaged or diverged")
        return [found[i] for i in range(len(rows))]

    def _groups(
        self, rows: Sequence[Row], most: int, negative: Sequence[Row] | None = None
    ) -> Iterator[tuple[str, Composer, list[int]]]:
        """Rows of one task and one padded size together, at most so many at a time."""
        groups: dict[tuple[str, int, int], list[int]] = {}
        stacked = any(m.shares_positions for m in self.vocabulary.modalities)
        measure = Composer(self.vocabulary, LENGTHS[0])
        for i, row in enumerate(rows):
            sizes = [measure.size(r) for r in (row, *([negative[i]] if negative else ()))]
            slots, tokens = (max(n) for n in zip(*sizes, strict=True))
            size = (padded(slots), padded(tokens) if stacked else padded(slots))
            groups.setdefault((row.task, *size), []).append(i)
        for (task, slots, tokens), numbers in groups.items():
            for start in range(0, len(numbers), most):
                yield task, Composer(self.vocabulary, slots, tokens), numbers[start : start + most]


def _shown(segment: Segment) -> Segment:
    return Segment(segment.kind, segment.codes, segment.target, segment.span) if segment.target else segment
