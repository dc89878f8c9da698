"""Rows between two steps of the engine, and when each of their tokens is to be filled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from trimask.core.canvas import Canvas
from trimask.core.errors import UsageError
from trimask.diffusion.caching import Recall
from trimask.diffusion.guidance import Against
from trimask.diffusion.samplers import Phases, Sampler
from trimask.diffusion.settings import Settings


@dataclass(frozen=True)
class Part:
    """The tokens of one modality in the rows that share settings."""

    modality: int
    settings: Settings
    phase_BL: Int[Tensor, "B L"]
    """int64: of tokens that were to be filled at the start the number of their phase, -1 elsewhere."""
    total_BK: Int[Tensor, "B K"]
    """int64: tokens of each phase."""
    begins_BK: Int[np.ndarray, "B K+1"]
    """int64, on the host: step at which each phase begins; the last is the number of steps, 0 without tokens."""

    @property
    def rule(self) -> Sampler:
        """What moves within a phase."""
        sampler = self.settings.sampler
        return sampler.inner if isinstance(sampler, Phases) else sampler

    @property
    def steps(self) -> np.ndarray:
        """int64 (B,): steps of each row; a limit where the sampler is adaptive."""
        return self.begins_BK[:, -1]

    def among(self, parts: Sequence["Part"]) -> "Part":
        """The same with the steps of a sampler that goes `together`: those for the tokens of all its parts of a row."""
        sampler = self.settings.sampler
        if not sampler.together:
            return self
        total_B = sum(p.total_BK.sum(1).cpu().numpy() for p in parts if p.settings.sampler == sampler)
        steps_B = np.where(self.steps > 0, sampler.length(np.asarray(total_B)), 0)
        return replace(self, begins_BK=np.stack([np.zeros_like(steps_B), steps_B], 1))

    def rows(self, index: np.ndarray) -> "Part":
        """The same of some of the rows."""
        at = torch.from_numpy(index).to(self.phase_BL.device)
        begins_BK = self.begins_BK[index]
        return replace(self, phase_BL=self.phase_BL[at], total_BK=self.total_BK[at], begins_BK=begins_BK)

    def below(self, other: "Part | int") -> "Part":
        """The same with the rows of another below, or with so many rows that it has no tokens in."""
        if isinstance(other, int):
            blank = torch.full((other, self.phase_BL.shape[1]), -1, device=self.phase_BL.device)
            none = self.total_BK.new_zeros(other, self.total_BK.shape[1])
            never = np.zeros((other, self.begins_BK.shape[1]), np.int64)
            other = replace(self, phase_BL=blank, total_BK=none, begins_BK=never)
        most = max(self.total_BK.shape[1], other.total_BK.shape[1])
        total_BK = torch.cat([F.pad(p.total_BK, (0, most - p.total_BK.shape[1])) for p in (self, other)])
        padded = [np.pad(p.begins_BK, ((0, 0), (0, most + 1 - p.begins_BK.shape[1])), "edge") for p in (self, other)]
        phase_BL = torch.cat([self.phase_BL, other.phase_BL])
        return replace(self, phase_BL=phase_BL, total_BK=total_BK, begins_BK=np.concatenate(padded))


@dataclass(frozen=True)
class State:
    """Rows between two steps."""

    canvas: Canvas
    """Without its `spans`, which do not change."""
    key_B: Int[Tensor, " B"]
    """int64: key of each row's randomness."""
    step_B: np.ndarray
    """int64, on the host: steps that each row has had."""
    parts: tuple[Part, ...]
    level_BL: Int[Tensor, "B L"]
    ends_BL: Bool[Tensor, "B L"]
    """bool: tokens that may become END or FILL."""
    negative: Against | None = None
    recall: Recall | None = None
    """Where some of the rows have a cache. Such a state can be stepped once."""

    @property
    def cached(self) -> np.ndarray:
        """bool (B,): rows of which all that is to be filled has a cache."""
        some_B, others_B = np.zeros_like(self.step_B, bool), np.zeros_like(self.step_B, bool)
        for part in self.parts:
            of_B = others_B if part.settings.cache is None else some_B
            of_B |= part.steps > 0
        return some_B & ~others_B

    @property
    def limit(self) -> np.ndarray:
        """int64 (B,): steps that each row takes at most."""
        return np.max([np.zeros_like(self.step_B), *(part.steps for part in self.parts)], axis=0)

    def rows(self, index: Sequence[int] | np.ndarray) -> "State":
        """The state of some of the rows, by their numbers, as if the others had never been there."""
        numbers = np.asarray(index, np.int64)
        at = torch.from_numpy(numbers).to(self.key_B.device)
        negative = None if self.negative is None else self.negative.rows(numbers)
        parts, canvas = tuple(part.rows(numbers) for part in self.parts), self.canvas.rows(numbers)
        recall = self.recall.rows(numbers) if self.recall and self.cached[numbers].any() else None
        return State(
            canvas, self.key_B[at], self.step_B[numbers], parts, self.level_BL[at], self.ends_BL[at], negative, recall
        )

    def below(self, other: "State") -> "State":
        """These rows with those of another state, of the same padded lengths, below them: they go on together.

        Raises `UsageError` where the lengths differ, or only one of them has negative conditions.
        """
        if (self.negative is None) != (other.negative is None):
            raise UsageError("rows with a negative condition cannot join rows without one")
        mine, theirs = len(self.step_B), len(other.step_B)
        parts = []
        for part in self.parts:
            twin = next((p for p in other.parts if p.modality == part.modality and p.settings == part.settings), None)
            parts.append(part.below(twin or theirs))
        for part in other.parts:
            if not any(p.modality == part.modality and p.settings == part.settings for p in self.parts):
                parts.append(part.below(mine).rows(np.r_[theirs : theirs + mine, :theirs]))
        names = ("key_B", "level_BL", "ends_BL")
        canvas, step_B = self.canvas.below(other.canvas), np.concatenate([self.step_B, other.step_B])
        key_B, level_BL, ends_BL = (torch.cat([getattr(self, n), getattr(other, n)]) for n in names)
        negative = self.negative and other.negative and self.negative.below(other.negative)
        recall = self.recall or (other.recall and other.recall.blank(self.canvas))
        if recall is not None:
            recall = recall.below(other.recall or recall.blank(other.canvas))
        return State(canvas, key_B, step_B, tuple(parts), level_BL, ends_BL, negative, recall)


def timetable(
    sampler: Sampler, mine_BL: np.ndarray, unit_BL: np.ndarray, level_BL: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phases of the tokens that a sampler is to fill, numbered without those that are empty.

    Number of each token's phase (B, L), -1 of other tokens; tokens of each phase (B, K); steps at which phases begin
    and the last ends (B, K + 1). A sampler without phases has one.
    """
    phase_BL = np.zeros_like(unit_BL)
    if isinstance(sampler, Phases):
        count_B1 = 1 + np.where(mine_BL, unit_BL, 0).max(1, keepdims=True)
        phase_BL = sampler.phase(unit_BL, level_BL, count_B1)
    found = np.unique(phase_BL[mine_BL])
    place_BL = np.searchsorted(found, phase_BL).clip(max=len(found) - 1)
    total_BK = np.zeros((len(mine_BL), len(found)), np.int64)
    np.add.at(total_BK, (np.nonzero(mine_BL)[0], place_BL[mine_BL]), 1)
    number_BL = np.take_along_axis(np.cumsum(total_BK > 0, axis=1) - 1, place_BL, 1)
    order_BK = np.argsort(total_BK == 0, axis=1, kind="stable")
    total_BK = np.take_along_axis(total_BK, order_BK, 1)
    steps_BK = sampler.lengths(total_BK) if isinstance(sampler, Phases) else sampler.length(total_BK)
    if sampler.adaptive:
        # One limit for all: phases end when they are full.
        steps_BK = np.where(np.arange(len(found)) == 0, steps_BK.sum(1, keepdims=True), 0)
    begins_BK = np.concatenate([np.zeros((len(total_BK), 1), np.int64), steps_BK.cumsum(1)], 1)
    return np.where(mine_BL, number_BL, -1), total_BK, begins_BK


def units(canvas: Canvas) -> Int[Tensor, "B L"]:
    """int64 (B, L): number of each token's position within its segment, from its first position."""
    b, p = canvas.segment_BP.shape
    groups = canvas.sees_BGG.shape[1]
    segment_BL = canvas.segment_BP.gather(1, canvas.slot_BL)
    group_BL = torch.where(canvas.alphabet_BL >= 0, segment_BL, groups)
    first_BG = torch.full((b, groups + 1), p, device=canvas.slot_BL.device)
    first_BG = first_BG.scatter_reduce(1, group_BL, canvas.slot_BL, "amin")
    return canvas.slot_BL - first_BG.gather(1, group_BL)
