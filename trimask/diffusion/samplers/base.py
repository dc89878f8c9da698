"""The call contract of a sampler, and what several of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimask.core.errors import UsageError
from trimask.core.rng import uniforms
from trimask.diffusion.schedules import by_name

Score = Literal["drawn", "likeliest", "margin", "entropy"]
"""What is known of a token once the model was asked; the larger, the surer.

drawn, likeliest: log-probability of the id that was drawn, of the likeliest one. margin: probability of the likeliest
id minus that of the second. entropy: minus the entropy in nats. All of the model's law under guidance and repetition
control, before temperature and filters.
"""


@dataclass(frozen=True)
class View:
    """What a sampler sees of the tokens of one modality, in one phase of a row, before or after the model is asked."""

    masked_BL: Bool[Tensor, "B L"]
    """bool: masked tokens, which may be revealed."""
    filled_BL: Bool[Tensor, "B L"]
    """bool: tokens that were masked at the start and are not now."""
    alike_BL: Bool[Tensor, "B L"]
    """bool: `masked_BL`, and of a sampler that goes `together` masked tokens of other modalities that it fills too."""
    level_BL: Int[Tensor, "B L"]
    """int64: codebook level, or place within a patch of a picture."""
    key_B: Int[Tensor, " B"]
    """int64: the rows' keys of randomness."""
    row_step_B: np.ndarray
    """int64, on the host: steps that each row has had in all."""
    step_B: np.ndarray
    """int64, on the host: the number of the step within the phase, from 0."""
    steps_B: np.ndarray
    """int64, on the host: the sampler's `length` for the phase."""
    total_B: Int[Tensor, " B"]
    """int64: how many tokens the phase had to fill at its start."""
    score_BL: Float[Tensor, "B L"] | None = None
    """float32: the sampler's `score` of masked tokens (of all, where it `rescores`); None before the model is asked."""

    def noise(self, fixed: bool = False) -> Float[Tensor, "B L"]:
        """float64 in [0, 1): a number for each token and step, or for each token, the same at every step."""
        column_L = torch.arange(self.masked_BL.shape[1], device=self.key_B.device)
        step_B = torch.full_like(self.key_B, -1) if fixed else self.on_device(self.row_step_B)
        return uniforms(self.key_B[:, None], ORDER, step_B[:, None], column_L)

    def on_device(self, values_B: np.ndarray) -> Tensor:
        """Numbers of the host (B,) as a tensor beside the others."""
        return torch.from_numpy(values_B).to(self.key_B.device, non_blocking=True)

    @property
    def sureness(self) -> Float[Tensor, "B L"]:
        """`score_BL`, for a sampler that asked for it."""
        assert self.score_BL is not None, "the sampler has no score: it moves before the model is asked"
        return self.score_BL


DRAWN, ORDER = 0, 1
"""Counters that tell the numbers that decide which id is drawn from those that decide the order."""


@dataclass(frozen=True)
class Move:
    """Which masked tokens to reveal, and which filled ones to mask again."""

    reveal_BL: Bool[Tensor, "B L"]
    hide_BL: Bool[Tensor, "B L"] | None = None


class Sampler(ABC):
    """Decides what to reveal at a step. Frozen: all that varies comes in the view."""

    rescores: ClassVar[bool] = False
    """Whether filled tokens are scored again at every step."""
    remasks: ClassVar[bool] = False
    """Whether a row may go on when nothing in it is masked."""
    together: ClassVar[bool] = False
    """Whether the tokens of all modalities that it fills in a row have one order, not one for each modality."""
    exclusive: ClassVar[tuple[str, ...]] = ()
    """Settings of which one can be given."""
    idles: ClassVar[bool] = False
    """Whether it may take more steps than there are tokens: at some of them nothing is revealed."""

    @property
    def score(self) -> Score | None:
        """What it wants to know of a token. None: it moves before the model is asked, of what it reveals alone."""
        return None

    @property
    def adaptive(self) -> bool:
        """Whether the number of steps depends on what is drawn; `length` is then only a limit."""
        return False

    @abstractmethod
    def length(self, total: np.ndarray) -> np.ndarray:
        """int64: steps for so many tokens, element by element, 0 for none. At the last all is revealed.

        Of a sampler that goes `together` the tokens are those of all its modalities.
        """

    @abstractmethod
    def move(self, view: View) -> Move:
        """What to reveal, a subset of `view.masked_BL`, and what to hide, one of `view.filled_BL`."""


def require(sampler: Sampler, **limits: tuple[float, float] | Sequence[str]) -> None:
    """Raises `UsageError` where a setting is outside of (least, most), none of the names it can be, or of another type.

    A setting whose default is a whole number is one.
    """
    defaults = {f.name: f.default for f in fields(sampler)}  # pyright: ignore[reportArgumentType]
    for name, allowed in limits.items():
        value, what = getattr(sampler, name), f"{type(sampler).__name__}: {name}={getattr(sampler, name)!r}"
        if isinstance(allowed[0], str):
            if value not in allowed:
                raise UsageError(f"{what} must be one of {', '.join(map(str, allowed))}")
            continue
        whole = isinstance(defaults[name], int)
        fine = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fine or not math.isfinite(value) or not float(allowed[0]) <= value <= float(allowed[1]):
            most = f" and at most {allowed[1]:g}" if float(allowed[1]) < math.inf else ""
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"{what} must be {kind}, at least {allowed[0]:g}{most}")


def left(counts: str, view: View) -> Int[Tensor, " B"]:
    """int64 (B,): how many tokens stay masked after a step: total * sigma(1 - progress), rounded down.

    `counts` is the name of a schedule: linear, cosine (MaskGIT, Chang et al. 2022, section 3.2) or polyP.
    """
    ahead_B = 1 - (view.step_B + 1) / np.maximum(view.steps_B, 1)
    share_B = np.where(ahead_B > 0, by_name(counts).rate(np.maximum(ahead_B, 0.0)), 0.0)
    return (view.total_B * view.on_device(share_B) + 1e-6).floor().long()


@dataclass(frozen=True)
class Adaptive(Sampler):
    """One that reveals as much at a step as what the model says allows."""

    steps: int = field(default=0, kw_only=True)
    """At most so many; 0 for no limit. After k of n steps at most the share 1 - (k/n)^3 is still masked."""

    @property
    def adaptive(self) -> bool:
        return True

    def length(self, total: np.ndarray) -> np.ndarray:
        return np.minimum(self.steps, total) if self.steps else total

    def paced(self, view: View, allowed_BL: Bool[Tensor, "B L"], rank_BL: Int[Tensor, "B L"]) -> Move:
        """What is allowed, and of lowest rank what else must be revealed to be done in time.

        The first steps decide most and are left alone: the first half of them all need reveal no more than an eighth.
        """
        if not self.steps:
            return Move(allowed_BL)
        progress_B = np.minimum((view.step_B + 1) / np.maximum(view.steps_B, 1), 1.0)
        left_B = (view.total_B * view.on_device(1 - progress_B**3) + 1e-6).floor().long()
        due_B = view.masked_BL.sum(1) - left_B
        return Move(allowed_BL | (view.masked_BL & (rank_BL < due_B[:, None])))


def ranks(score_BL: Float[Tensor, "B L"], among_BL: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Rank of each position by falling score among those asked for, from 0; ties go to the left, others come last."""
    # Only what is not asked for is minus infinity, so that it goes behind.
    score_BL = score_BL.clamp(min=torch.finfo(score_BL.dtype).min).masked_fill(~among_BL, -torch.inf)
    order_BL = score_BL.argsort(dim=1, descending=True, stable=True)
    place_BL = torch.arange(order_BL.shape[1], device=order_BL.device).expand_as(order_BL)
    return torch.empty_like(order_BL).scatter_(1, order_BL, place_BL)


def top(
    score_BL: Float[Tensor, "B L"], among_BL: Bool[Tensor, "B L"], count_B: Int[Tensor, " B"]
) -> Bool[Tensor, "B L"]:
    """The `count_B[b]` positions of highest score among those of each row; ties go to the left."""
    return (ranks(score_BL, among_BL) < count_B[:, None]) & among_BL


def keep_counts(counts: str, view: View, score_BL: Float[Tensor, "B L"]) -> Move:
    """Reveal the best so that the number left follows the schedule of counts, at least one."""
    now_B = (view.masked_BL.sum(1) - left(counts, view)).clamp(min=1)
    return Move(top(score_BL, view.masked_BL, now_B))
