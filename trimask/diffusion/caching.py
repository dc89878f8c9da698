"""Caches: a step computes some positions and takes the keys and values of all others as they were.

What a position's key and value are depends on the whole canvas, which every step changes a little. Left as they are
they are out of date, but where a position cannot see what has changed: the condition of a model whose vocabulary has
`sight="cached"`. How much it costs is measured for each model (docs/choosing-a-sampler.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimask.core.canvas import Canvas, Query
from trimask.core.errors import UsageError
from trimask.core.memory import Memory
from trimask.diffusion.denoiser import Denoiser

SCOPES = ("changed", "block", "suffix", "target")


@dataclass(frozen=True)
class Cache:
    """Which positions a step computes: always those of tokens that it scores and of such that have changed since.

    `scope` adds to them

    - changed: nothing (a cache delayed by one step, as dKV-Cache, Ma et al. 2025);
    - block: the whole phase that is being filled (the dual cache of Fast-dLLM, Wu et al. 2025, of `blockwise`);
    - suffix: later phases too (its prefix cache);
    - target: all targets. Exact where what is given does not see them.

    Everything is computed at a row's first step, where a phase begins (block and suffix), every so many steps, and
    when more than a share of what a row is to fill has changed since the last time.
    """

    scope: str = "changed"
    every: int = 0
    """Steps; 1 is no cache at all, 0 never."""
    after: float = 1.0
    """Share of the tokens to be filled, in (0, 1]; 1 is never."""

    def __post_init__(self):
        if self.scope not in SCOPES:
            raise UsageError(f"no cache is called {self.scope!r}; there are: {', '.join(SCOPES)}")
        if self.every < 0 or not 0 < self.after <= 1:
            raise UsageError(f"a cache needs every >= 0 and 0 < after <= 1, got every={self.every}, after={self.after}")

    @property
    def by_phase(self) -> bool:
        """Whether the beginning of a phase computes everything."""
        return self.scope in ("block", "suffix")


@runtime_checkable
class Remembering(Denoiser, Protocol):
    """A denoiser that can evaluate some positions against what it remembers of the others."""

    def memory(self, canvas: Canvas, rows: int, /) -> Memory:
        """One without content for so many rows of the canvas's lengths."""
        ...

    def recall(self, canvas: Canvas, queries: Sequence[Query], memory: Memory, wanted_BL: Tensor, /) -> list[Tensor]:
        """Logits of queries of wanted tokens; computes those and what has changed, and updates the memory."""
        ...


def remembering(denoiser: Denoiser) -> Remembering:
    """The denoiser, which a cache needs to remember. Raises `UsageError` where it does not."""
    if not isinstance(denoiser, Remembering):
        raise UsageError(f"{type(denoiser).__name__} remembers nothing between steps: sample without a cache")
    return denoiser


@dataclass(frozen=True)
class Bound:
    """A denoiser together with what it remembers of the rows that it is shown, those or the first of them."""

    denoiser: Remembering
    memory: Memory
    wanted_BL: Bool[Tensor, "B L"]

    def __call__(self, canvas: Canvas, asked: Sequence[Query]) -> list[Tensor]:
        count = canvas.shape[0]
        return self.denoiser.recall(canvas, asked, self.memory.first(count), self.wanted_BL[:count])


@dataclass
class Recall:
    """What is remembered of a state's rows. The next state takes it over, and this one is spent."""

    memory: Memory
    """Of the rows and, where guidance needs them, below of their null conditions."""
    weaker: Memory | None
    whole_BL: Int[Tensor, "B L"]
    """int64: ids of each row when all of its positions were last computed."""
    spent: bool = False

    def _index(self, rows: np.ndarray) -> np.ndarray:
        count = len(self.whole_BL)
        return np.concatenate([rows + n for n in range(0, len(self.memory.ids_BL), count)])

    def rows(self, index: np.ndarray) -> "Recall":
        """That of some of the rows."""
        self.unspent()
        weaker = None if self.weaker is None else self.weaker.rows(index)
        whole_BL = self.whole_BL[torch.from_numpy(index).to(self.whole_BL.device)]
        return Recall(self.memory.rows(self._index(index)), weaker, whole_BL)

    def below(self, other: "Recall") -> "Recall":
        """This one's rows with those of another below."""
        self.unspent()
        other.unspent()
        counts = len(self.whole_BL), len(other.whole_BL)
        halves = [[m.memory.first(n), _second(m.memory, n)] for m, n in zip((self, other), counts, strict=True)]
        memory = halves[0][0].below(halves[1][0])
        if any(len(second.ids_BL) for _, second in halves):
            lacking = [s if len(s.ids_BL) else s.blank(n) for (_, s), n in zip(halves, counts, strict=True)]
            memory = memory.below(lacking[0].below(lacking[1]))
        weaker = None
        if self.weaker is not None and other.weaker is not None:
            weaker = self.weaker.below(other.weaker)
        return Recall(memory, weaker, torch.cat([self.whole_BL, other.whole_BL]))

    def blank(self, canvas: Canvas) -> "Recall":
        """One for the rows of another canvas, of which nothing was computed."""
        count, copies = canvas.shape[0], len(self.memory.ids_BL) // len(self.whole_BL)
        weaker = None if self.weaker is None else self.weaker.blank(count)
        return Recall(self.memory.blank(copies * count), weaker, canvas.ids_BL)

    def unspent(self) -> None:
        """Raises `UsageError` where a later state has taken it over."""
        if self.spent:
            raise UsageError("the cache of this state has gone on with a later state; go on from that one")

    def passed_on(self, whole_BL: Tensor) -> "Recall":
        """That of the next state."""
        self.spent = True
        return Recall(self.memory, self.weaker, whole_BL)


def _second(memory: Memory, count: int) -> Memory:
    """The rows below the first."""
    return Memory(memory.keys[:, count:], memory.values[:, count:], memory.ids_BL[count:])


def targets(canvas: Canvas) -> Bool[Tensor, "B L"]:
    """bool (B, L): all tokens of target segments, with those that open them and what of them is kept."""
    groups = canvas.sees_BGG.shape[1]
    segment_BL = canvas.segment_BP.gather(1, canvas.slot_BL)
    segment_BL = segment_BL.masked_fill(segment_BL < 0, groups)
    target_BG = torch.zeros(len(segment_BL), groups + 1, dtype=torch.long, device=segment_BL.device)
    target_BG.scatter_reduce_(1, segment_BL, canvas.maskable_BL.long(), "amax")
    return target_BG.gather(1, segment_BL) > 0
