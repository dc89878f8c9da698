"""Classifier-free guidance (Ho and Salimans 2022), with the condition masked as the null condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimask.core.canvas import Canvas, Query
from trimask.core.modality import Vocabulary
from trimask.diffusion.denoiser import Denoiser


def null_condition(canvas: Canvas, vocabulary: Vocabulary) -> Canvas:
    """The canvas with the content of every given segment masked."""
    given_BL = (canvas.alphabet_BL >= 0) & ~canvas.maskable_BL
    return canvas.with_ids(canvas.ids_BL.masked_fill(given_BL, vocabulary.mask))


def guided(
    denoiser: Denoiser,
    canvas: Canvas,
    asked: Sequence[Query],
    scale_Q: Sequence[float],
    vocabulary: Vocabulary,
) -> list[Tensor]:
    """Log-probabilities (N, A) of each query under (1 + w) * conditional - w * null.

    `scale_Q` is w of each query. Conditional and null rows share one forward pass; where every w is
    zero, only the conditional rows run.
    """
    if not any(scale_Q):
        return [logits.log_softmax(-1) for logits in denoiser(canvas, asked)]
    offset = canvas.ids_BL.numel()
    twice = [Query(q.alphabet, torch.cat([q.index_N, q.index_N + offset]), 2 * len(q.index_N)) for q in asked]
    both = denoiser(canvas.below(null_condition(canvas, vocabulary)), twice)
    return [_mix(logits.log_softmax(-1), w) for logits, w in zip(both, scale_Q, strict=True)]


def _mix(log_p: Tensor, w: float) -> Tensor:
    conditional, null = log_p.chunk(2)
    # An id the conditional model excludes stays excluded, also where the null model excludes it.
    mixed = torch.where(conditional.isneginf(), conditional, (1 + w) * conditional - w * null.clamp(min=-1e4))
    return mixed.log_softmax(-1)
