"""Classifier-free guidance (Ho and Salimans 2022), with the condition masked as the null condition."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
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
    scale_Q: Sequence[np.ndarray],
    vocabulary: Vocabulary,
) -> list[Tensor]:
    """Logits (N, A) of each query under (1 + w) * conditional - w * null, up to a constant of the token.

    `scale_Q` holds w of each row (B,) for each query. Conditional and null rows share one forward pass; rows whose w is
    zero in all queries have no null row.
    """
    rows = np.flatnonzero(np.any([w_B != 0 for w_B in scale_Q], axis=0))
    if not len(rows):
        return denoiser(canvas, asked)
    length, home = canvas.shape[1], canvas.ids_BL.device
    # Row of the null condition of each row, below all others.
    below_B = np.zeros(canvas.shape[0], np.int64)
    below_B[rows] = canvas.shape[0] + np.arange(len(rows))
    shift_B = torch.from_numpy((below_B - np.arange(canvas.shape[0])) * length).to(home)
    doubled, at = [], []
    for query, w_B in zip(asked, scale_Q, strict=True):
        row_N = query.index_N.div(length, rounding_mode="floor")
        guided_N = None if (w_B != 0).all() else torch.from_numpy(w_B != 0).to(home)[row_N].nonzero().flatten()
        index_N = query.index_N if guided_N is None else query.index_N[guided_N]
        null_N = index_N + shift_B[index_N.div(length, rounding_mode="floor")]
        doubled.append(replace(query, index_N=torch.cat([query.index_N, null_N]), count=len(row_N) + len(null_N)))
        at.append((guided_N, row_N))
    both = denoiser(canvas.below(null_condition(canvas.rows(rows), vocabulary)), doubled)
    out = []
    for logits, (guided_N, row_N), w_B in zip(both, at, scale_Q, strict=True):
        conditional, null = logits[: len(row_N)], logits[len(row_N) :]
        w_N = torch.from_numpy(w_B).to(logits)[row_N][:, None]
        if guided_N is None:
            out.append(_mix(conditional, null, w_N))
        elif len(guided_N):
            mixed = _mix(conditional[guided_N], null, w_N[guided_N])
            out.append(conditional.index_copy(0, guided_N, mixed))
        else:
            out.append(conditional)
    return out


def _mix(conditional: Tensor, null: Tensor, w_N1: Tensor) -> Tensor:
    # An id the conditional model excludes stays excluded, also where the null model excludes it.
    return torch.lerp(null.clamp(min=-1e4), conditional, 1 + w_N1)
