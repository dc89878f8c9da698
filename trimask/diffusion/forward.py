"""The forward process: which tokens are masked, and what each of them weighs in the loss.

The noise of an item depends on (seed, stream, epoch, order, key) alone: not on the rank, the batch,
the packing or the time, so a resumed or re-sharded run masks the same tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimask.core.canvas import Canvas, Query, Span, queries
from trimask.core.modality import Vocabulary
from trimask.core.rng import generator, uniform
from trimask.diffusion.schedules import by_name

GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: its multiples fill (0, 1) evenly."""


@dataclass(frozen=True)
class Masked:
    """A masked canvas with what the objective needs. `weight_BL` is zero where nothing is scored."""

    canvas: Canvas
    clean_BL: Int[Tensor, "B L"]
    """int64: ids before masking."""
    weight_BL: Float[Tensor, "B L"]
    """float32: loss weight of each masked token: modality weight times schedule weight."""
    rate_BL: Float[Tensor, "B L"]
    """float32: masking rate of the token's item, for statistics by noise level."""
    queries: list[Query]

    @property
    def maskable(self) -> int:
        """Number of tokens that could have been masked: the normaliser of the loss."""
        return int(self.canvas.maskable_BL.sum())


def time(seed: int, span: Span) -> float:
    """Stratified time in (0, 1] of a span's item: golden-ratio steps along its stream."""
    draw = span.draw
    start = uniform("time", seed, draw.stream, draw.epoch, span.kind)
    return 1.0 - (start + draw.order * GOLDEN) % 1.0


def corrupt(canvas: Canvas, vocabulary: Vocabulary, seed: int) -> Masked:
    """Mask a clean canvas. Targets of one item share their time; each follows its own schedule.

    Of a causal vocabulary nothing is masked and every target is scored: the exact likelihood, token by token.
    Items whose draw has view 1 (anti-masking) get the complement of the mask of view 0 and the weight of
    the schedules run backwards, so that either view estimates the bound.
    """
    if vocabulary.causal:
        every = queries(canvas, canvas.maskable_BL, vocabulary, every=True)
        return Masked(canvas, canvas.ids_BL, canvas.weight_BL, torch.ones_like(canvas.weight_BL), every)
    hide = np.zeros(canvas.shape, bool)
    weight = np.zeros(canvas.shape, np.float32)
    rate = np.zeros(canvas.shape, np.float32)
    times: dict[tuple, float] = {}
    for span in canvas.spans:
        if not span.target:
            continue
        here = np.s_[span.row, span.start : span.start + span.length]
        t = times.setdefault((span.row, span.key, span.draw), time(seed, span))
        hide[here], rate[here], weight[here] = _mask_span(vocabulary, seed, span, t)
    hide &= canvas.maskable_BL.numpy()
    where_BL = torch.from_numpy(hide)
    return Masked(
        canvas=canvas.with_ids(canvas.ids_BL.masked_fill(where_BL, vocabulary.mask)),
        clean_BL=canvas.ids_BL,
        weight_BL=torch.from_numpy(weight) * canvas.weight_BL * where_BL,
        rate_BL=torch.from_numpy(rate),
        queries=queries(canvas, where_BL, vocabulary, every=True),
    )


def _mask_span(v: Vocabulary, seed: int, span: Span, t: float) -> tuple[np.ndarray, float, float]:
    """(mask bits, own rate, weight) of a target span at time t."""
    row = v.modalities[v.modality(span.kind)]
    schedule = by_name(row.schedule)
    s = np.float64(schedule.rate(np.float64(t)))
    draw = span.draw
    bits = generator("mask", seed, draw.stream, draw.epoch, draw.order, span.key, span.index).random(span.length) < s
    own, weight = s, schedule.weight
    if draw.view:
        bits, own, weight = ~bits, 1.0 - s, schedule.complement_weight
    if own <= 0.0:
        return bits, 0.0, 0.0
    return bits, float(own), float(weight(s) if row.elbo else 1.0)
