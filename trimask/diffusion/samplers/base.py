"""The call contract of a sampler, and the count schedules several of them share."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Counts = Literal["linear", "cosine"]


@dataclass(frozen=True)
class View:
    """What a sampler sees of the tokens of one modality at one step. All tensors are (B, L)."""

    step: int
    """Number of the step, from 0."""
    todo_BL: Bool[Tensor, "B L"]
    """bool: masked tokens that may be revealed."""
    score_BL: Float[Tensor, "B L"]
    """float32: log-probability of the token drawn for each position in `todo_BL`."""
    noise_BL: Float[Tensor, "B L"]
    """float32 in (0, 1): one number per position and step, from the row's own generator."""
    level_BL: Int[Tensor, "B L"]
    """int64: codebook level."""
    unit_BL: Int[Tensor, "B L"]
    """int64: number of the position's grid unit (token, frame, pixel) from the first that was to be filled."""
    total_B: Int[Tensor, " B"]
    """int64: how many tokens the row had to fill at the start."""


class Sampler(ABC):
    """Decides which drawn tokens to reveal. Frozen: all that varies comes in the view."""

    steps: int

    @abstractmethod
    def reveal(self, view: View) -> Bool[Tensor, "B L"]:
        """bool (B, L), a subset of `view.todo_BL`; at the last step all of it."""


def remaining(counts: Counts, step: int, steps: int, total_B: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """How many tokens stay masked after a step: total * gamma((step + 1) / steps), rounded down.

    gamma(r) is 1 - r (linear) or cos(pi r / 2) (MaskGIT, Chang et al. 2022, section 3.2).
    """
    r = (step + 1) / steps
    gamma = 1.0 - r if counts == "linear" else math.cos(0.5 * math.pi * r)
    return (total_B * max(gamma, 0.0) + 1e-6).floor().long() if step + 1 < steps else torch.zeros_like(total_B)


def top(
    score_BL: Float[Tensor, "B L"], todo_BL: Bool[Tensor, "B L"], count_B: Int[Tensor, " B"]
) -> Bool[Tensor, "B L"]:
    """The `count_B[b]` positions of highest score in `todo_BL` of each row; ties go to the left."""
    score_BL = score_BL.masked_fill(~todo_BL, -torch.inf)
    order_BL = score_BL.argsort(dim=1, descending=True, stable=True)
    rank_BL = torch.empty_like(order_BL).scatter_(
        1, order_BL, torch.arange(order_BL.shape[1], device=order_BL.device).expand_as(order_BL)
    )
    return (rank_BL < count_B[:, None]) & todo_BL


def keep_counts(counts: Counts, view: View, steps: int, score_BL: Tensor) -> Tensor:
    """Reveal the best positions so that the number left follows the count schedule, at least one."""
    left_B = remaining(counts, view.step, steps, view.total_B)
    now_B = (view.todo_BL.sum(1) - left_B).clamp(min=1)
    return top(score_BL, view.todo_BL, now_B)
