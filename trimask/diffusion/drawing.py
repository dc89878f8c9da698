"""From logits to ids: temperature and filters, one draw by inverse CDF, and how sure the model is of the result."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimask.core.errors import UsageError
from trimask.diffusion.samplers import Score
from trimask.diffusion.settings import COLDEST, Settings

HARMLESS = 60.0
"""Size of a logit whose exponential, and that of a hundred thousand like it together, fp32 holds with room to spare."""
WIDE = 1024
"""Ids beyond which the cumulated sum goes block by block."""


def draw(
    logits_NA: Float[Tensor, "N A"],
    uniform_N: Float[Tensor, " N"],
    settings: Settings,
    temperature: float | Float[Tensor, " N"] = 1.0,
    score: Score | None = None,
    held_N: Int[Tensor, " N"] | None = None,
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"] | None]:
    """One column per row, int64, and its score, float32. `uniform_N` in [0, 1) decides; logits may be unnormalised.

    Rows whose `held_N` is a column and not -1 keep it. The logits are overwritten: of a large vocabulary they take more
    memory than all else, and new memory costs more than the arithmetic. Raises `UsageError` for logits of which none is
    finite, or one is not a number.
    """
    peak_N1 = logits_NA.amax(-1, keepdim=True)
    if not bool(torch.isfinite(peak_N1).all()):
        raise UsageError("the model returned logits that are not finite; the checkpoint is damaged or diverged")
    peak_N1 = _shifted(logits_NA, peak_N1, isinstance(temperature, float | int) and temperature == 1)
    # An entropy is made of both.
    exponentials = torch.exp if score == "entropy" else torch.exp_
    exp_NA, total_N = None, None
    if isinstance(temperature, Tensor):
        scaled_NA = logits_NA / temperature.clamp(min=COLDEST)[:, None]
        column_N, _ = by_inverse_cdf(filtered(scaled_NA.exp_(), settings), uniform_N)
        column_N = torch.where(temperature == 0, logits_NA.argmax(-1), column_N)
    elif temperature == 0:
        column_N = logits_NA.argmax(-1)
    elif temperature == 1:
        exp_NA = exponentials(logits_NA)
        kept = filtered(exp_NA, settings)
        column_N, total_N = by_inverse_cdf(kept, uniform_N)
        total_N = total_N if kept is exp_NA else None
    else:
        column_N, _ = by_inverse_cdf(filtered((logits_NA / temperature).exp_(), settings), uniform_N)
    if held_N is not None:
        column_N = torch.where(held_N >= 0, held_N, column_N)
    if score is None:
        return column_N, None
    exp_NA = exponentials(logits_NA) if exp_NA is None else exp_NA
    total_N = exp_NA.sum(-1) if total_N is None else total_N.to(exp_NA.dtype)
    return column_N, _score(exp_NA, total_N, peak_N1.squeeze(1), logits_NA, column_N, score)


def _shifted(logits_NA: Tensor, peak_N1: Tensor, as_they_are: bool) -> Tensor:
    """Subtract the largest logit of each row, in place; returns the largest that are left.

    On the CPU logits that are not divided by a temperature stay where they are as long as their exponentials are finite
    and not all tiny: it is a pass less over all of them. What is done to a row depends on that row alone.
    """
    if as_they_are and peak_N1.device.type == "cpu":
        shift_N1 = torch.where(peak_N1.abs() > HARMLESS, peak_N1, 0.0)
        if bool((shift_N1 != 0).any()):
            logits_NA -= shift_N1
        return peak_N1 - shift_N1
    logits_NA -= peak_N1
    return torch.zeros_like(peak_N1)


def _score(
    exp_NA: Tensor, total_N: Tensor, peak_N: Tensor, logits_NA: Tensor, column_N: Tensor, score: Score
) -> Tensor:
    """`Score` from exponentials, their sum and the largest logit; for an entropy the logits must still be there."""
    if score == "drawn":
        return exp_NA.gather(1, column_N[:, None]).squeeze(1).log() - total_N.log()
    if score == "likeliest":
        return peak_N - total_N.log()
    if score == "margin":
        first = exp_NA.topk(min(2, exp_NA.shape[1]), -1).values
        return (first[:, 0] - (first[:, 1] if exp_NA.shape[1] > 1 else 0.0)) / total_N
    weighted_NA = logits_NA.mul_(exp_NA)
    mean_N = weighted_NA.sum(-1)
    if bool(mean_N.isnan().any()):
        # What is impossible counts nothing: 0 times minus infinity.
        mean_N = weighted_NA.nan_to_num_(nan=0.0).sum(-1)
    return mean_N / total_N - total_N.log()


def filtered(p_NA: Float[Tensor, "N A"], settings: Settings) -> Float[Tensor, "N A"]:
    """Probabilities, up to a factor, with 0 for ids that top-k, min-p and top-p leave out, in this order."""
    if 0 < settings.top_k < p_NA.shape[1]:
        # No more than asked for, also where some are equal.
        best = p_NA.topk(settings.top_k)
        p_NA = torch.zeros_like(p_NA).scatter(1, best.indices, best.values)
    if settings.min_p > 0:
        p_NA = p_NA.where(p_NA >= settings.min_p * p_NA.amax(-1, keepdim=True), 0.0)
    if settings.top_p < 1:
        ordered, order = p_NA.sort(-1, descending=True)
        mass = ordered.sum(-1, keepdim=True)
        outside = ordered.cumsum(-1) - ordered >= settings.top_p * mass
        p_NA = p_NA.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), 0.0)
    return p_NA


def by_inverse_cdf(
    p_NA: Float[Tensor, "N A"], uniform_N: Float[Tensor, " N"]
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The column, int64, at which the cumulated probability passes each number in [0, 1), and the sum, float64, of all.

    `p_NA` need not sum to 1. Of a wide alphabet first a block of ids, by the sums of blocks, then one within it: one
    pass over the probabilities, and cumulated sums, in float64, of some hundred numbers only.
    """
    a = p_NA.shape[1]
    if a <= WIDE:
        cumulated = p_NA.cumsum(-1, dtype=torch.float64)
        return _passed(cumulated, uniform_N * cumulated[:, -1]), cumulated[:, -1]
    width = 1 << (a.bit_length() // 2)
    whole = a // width
    sums = p_NA[:, : whole * width].unflatten(1, (whole, width)).sum(-1)
    if whole * width < a:
        sums = torch.cat([sums, p_NA[:, whole * width :].sum(-1, keepdim=True)], 1)
    cumulated = sums.cumsum(-1, dtype=torch.float64)
    number_N = uniform_N * cumulated[:, -1]
    block_N1 = _passed(cumulated, number_N)[:, None]
    before_N1 = cumulated.gather(1, block_N1) - sums.gather(1, block_N1)
    column_NW = block_N1 * width + torch.arange(width, device=p_NA.device)
    inside_NW = p_NA.gather(1, column_NW.clamp(max=a - 1)).where(column_NW < a, 0.0).cumsum(-1, dtype=torch.float64)
    within_N = _passed(inside_NW, (number_N - before_N1.squeeze(1)).clamp(min=0.0))
    return block_N1.squeeze(1) * width + within_N, cumulated[:, -1]


def _passed(cumulated_NA: Tensor, number_N: Tensor) -> Tensor:
    """First column whose cumulated sum is above the number; one of positive probability."""
    # Rounding may take the number to the sum of all or beyond.
    number_N = torch.minimum(number_N, cumulated_NA[:, -1].nextafter(cumulated_NA.new_zeros(())))
    return torch.searchsorted(cumulated_NA, number_N[:, None], right=True).squeeze(1)
