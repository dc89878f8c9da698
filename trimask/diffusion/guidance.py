"""Guidance: away from the null condition (Ho and Salimans 2022), from a negative one, or from a weaker model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimask.core.canvas import MULTIPLE, Canvas, Query
from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary
from trimask.diffusion.denoiser import Denoiser

EXCLUDED = -1e4
"""What stands for the logit of an id that one of two models excludes."""


def null_condition(canvas: Canvas, vocabulary: Vocabulary) -> Canvas:
    """The canvas with the content of every given segment masked."""
    given_BL = (canvas.alphabet_BL >= 0) & ~canvas.maskable_BL
    return canvas.with_ids(canvas.ids_BL.masked_fill(given_BL, vocabulary.mask))


def conditioned(canvas: Canvas, vocabulary: Vocabulary) -> np.ndarray:
    """bool (B,): rows that their null condition differs from."""
    return (null_condition(canvas, vocabulary).ids_BL != canvas.ids_BL).any(1).cpu().numpy()


@dataclass(frozen=True)
class Against:
    """Another condition with the same targets, which guidance pushes away from: a negative prompt."""

    canvas: Canvas
    """Rows of the same padded lengths as those that are guided."""
    at_BL: Int[Tensor, "B L"]
    """int64: column in it of each target token of the guided canvas; L for all other tokens."""

    def rows(self, index: Sequence[int] | np.ndarray) -> "Against":
        """Some of the rows."""
        at = torch.as_tensor(np.asarray(index, np.int64), device=self.at_BL.device)
        return Against(self.canvas.rows(index), self.at_BL[at])

    def below(self, other: "Against") -> "Against":
        """These rows with those of another below them."""
        return Against(self.canvas.below(other.canvas), torch.cat([self.at_BL, other.at_BL]))

    def marked(self, where_BL: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Tokens of the guided canvas as tokens of this one; those that are no targets have none here."""
        spare_BL = torch.zeros(len(where_BL), where_BL.shape[1] + 1, dtype=torch.long, device=where_BL.device)
        return spare_BL.scatter_reduce(1, self.at_BL, where_BL.long(), "amax")[:, :-1] > 0

    def filled(self, canvas: Canvas) -> Canvas:
        """Its canvas, with the targets as they are in the guided one."""
        spare_BL = torch.cat([self.canvas.ids_BL, self.canvas.ids_BL[:, :1]], 1)
        return self.canvas.with_ids(spare_BL.scatter(1, self.at_BL, canvas.ids_BL)[:, :-1])


def against(canvas: Canvas, other: Canvas) -> Against:
    """The condition of `other`. Raises `UsageError` where its targets are not those of the canvas."""
    at_BL = torch.full(canvas.shape, canvas.shape[1])
    spans, theirs = ([s for s in c.spans if s.target] for c in (canvas, other))
    layout = [[(s.row, s.kind, s.free, s.shape) for s in part] for part in (spans, theirs)]
    same = canvas.shape == other.shape and canvas.segment_BP.shape == other.segment_BP.shape
    if not same or layout[0] != layout[1]:
        raise UsageError("a negative condition needs the targets of the condition: the same kinds, sizes and lengths")
    for mine, its in zip(spans, theirs, strict=True):
        at_BL[mine.row, mine.start : mine.start + mine.length] = its.start + torch.arange(its.length)
    return Against(other, at_BL.to(canvas.ids_BL.device))


def guided(
    denoiser: Denoiser,
    canvas: Canvas,
    asked: Sequence[Query],
    scale_Q: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    negative: Against | None = None,
    weaker: Denoiser | None = None,
    every_row: bool = False,
) -> list[Tensor]:
    """Logits (N, A) of each query under (1 + w) * conditional - w * null, up to a constant of the token.

    `scale_Q` holds w of each row (B,) for each query. Null is the canvas without its condition, that of `negative`, or
    the same canvas seen by a `weaker` model (autoguidance, Karras et al. 2024). Conditional and null rows share one
    forward pass, where one model sees both; rows whose w is zero in all queries have no null row, or with `every_row`
    one of which nothing is asked.
    """
    rows = np.flatnonzero(np.any([w_B != 0 for w_B in scale_Q], axis=0))
    if not len(rows):
        return denoiser(canvas, asked)
    if every_row:
        rows = np.arange(canvas.shape[0])
    length, home = canvas.shape[1], canvas.ids_BL.device
    row_B = np.zeros(canvas.shape[0], np.int64)
    row_B[rows] = np.arange(len(rows))
    first_B = torch.from_numpy(row_B * length).to(home)
    chosen, nulls = [], []
    for query, w_B in zip(asked, scale_Q, strict=True):
        row_N = query.index_N.div(length, rounding_mode="floor")
        some_N = None if (w_B != 0).all() else torch.from_numpy(w_B != 0).to(home)[row_N].nonzero().flatten()
        index_N = query.index_N if some_N is None else query.index_N[some_N]
        column_N = index_N % length if negative is None else negative.at_BL.flatten()[index_N]
        index_N = first_B[index_N.div(length, rounding_mode="floor")] + column_N
        chosen.append((row_N, some_N))
        # As `queries` pads: what is computed of a token must not depend on how many there are.
        padding_N = index_N[:1].expand(-len(index_N) % MULTIPLE) if len(index_N) else index_N
        nulls.append(replace(query, index_N=torch.cat([index_N, padding_N]), count=len(index_N)))
    own = canvas.rows(rows)
    if weaker is not None:
        conditional, null = denoiser(canvas, asked), weaker(own, nulls)
    else:
        hidden = null_condition(own, vocabulary) if negative is None else negative.rows(rows).filled(own)
        doubled = []
        for query, other in zip(asked, nulls, strict=True):
            index_N = torch.cat([query.index_N, other.index_N + canvas.ids_BL.numel()])
            doubled.append(replace(query, index_N=index_N, count=len(index_N)))
        both = denoiser(canvas.below(hidden), doubled)
        conditional = [x[: len(q.index_N)] for x, q in zip(both, asked, strict=True)]
        null = [x[len(q.index_N) :] for x, q in zip(both, asked, strict=True)]
    out = []
    for x_NA, null_NA, (row_N, some_N), w_B in zip(conditional, null, chosen, scale_Q, strict=True):
        w_N1 = torch.from_numpy(w_B).to(x_NA)[row_N][:, None]
        if some_N is None:
            out.append(_mix(x_NA, null_NA[: len(x_NA)], w_N1, bool((w_B < 0).any())))
        else:
            mixed_NA = _mix(x_NA[some_N], null_NA[: len(some_N)], w_N1[some_N], bool((w_B < 0).any()))
            out.append(x_NA.index_copy(0, some_N, mixed_NA))
    return out


def _mix(conditional: Tensor, null: Tensor, w_N1: Tensor, towards: bool) -> Tensor:
    """`towards` the null where some w is negative."""
    # An id the conditional model excludes stays excluded, also where the null model excludes it.
    if not towards:
        return torch.lerp(null.clamp(min=EXCLUDED), conditional, 1 + w_N1)
    mixed_NA = torch.lerp(null.clamp(min=EXCLUDED), conditional.clamp(min=EXCLUDED), 1 + w_N1)
    return mixed_NA.masked_fill(conditional == -torch.inf, -torch.inf)
