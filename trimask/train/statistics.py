"""What is measured between two rows of `metrics.jsonl`, and the rule that finds spikes.

Noise levels are 8 equal intervals of the masking rate; cross-entropies are unweighted, in nats per
masked token.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from torch import Tensor

from trimask.core.modality import Vocabulary
from trimask.data.stream import Batch
from trimask.diffusion.objective import Terms
from trimask.train.distributed import World
from trimask.train.step import Outcome

LEVELS = 8
SPIKE_STEPS, SPIKE_DEVIATIONS = 100, 6.0
"""A spike is a loss above the mean of the last 100 by more than 6 of their standard deviations."""
DOMINATED_FROM, DOMINATED_SHARE, DOMINATED_EXCESS = 200, 0.5, 0.25
"""From step 200 on, END and FILL dominate a modality's predictions when they are more than half of
them and exceed their share among the targets by more than a quarter."""
OF_A_PART = (
    "filled", "reading", "waiting", "ce_MK", "count_MK", "weighted_M", "maskable_M", "stops_predicted_M", "stops_true_M"
)  # fmt: skip
"""What a process counts of its part of a pass; everything else is of all parts."""


def is_spike(losses: Sequence[float], loss: float) -> bool:
    """The spike rule, given the losses of the steps before."""
    if len(losses) < SPIKE_STEPS:
        return False
    recent = losses[-SPIKE_STEPS:]
    return loss > statistics.fmean(recent) + SPIKE_DEVIATIONS * statistics.stdev(recent)


class Window:
    """Sums over the steps since the last row. All of it is state, so that a resumed run records the same."""

    def __init__(self, vocabulary: Vocabulary):
        self.names = [m.name for m in vocabulary.modalities]
        self.codes = [a.codes for a in vocabulary.alphabets]
        self.modality_of = np.array([a.modality for a in vocabulary.alphabets])
        self.slowest = 0
        """The process that waits the least for others, which wait for it."""
        self.dominated: list[str] = []
        """Modalities that the last row warned of."""
        self.clear()

    def clear(self) -> None:
        m = len(self.names)
        self.steps = self.passes = self.tokens = self.flops = self.clipped = 0
        self.seconds = self.loss = self.filled = self.reading = self.waiting = 0.0
        self.ce_MK, self.count_MK = np.zeros((m, LEVELS)), np.zeros((m, LEVELS))
        self.weighted_M, self.maskable_M = np.zeros(m), np.zeros(m)
        self.stops_predicted_M, self.stops_true_M = np.zeros(m), np.zeros(m)
        self.norms: dict[str, float] = {}
        self.epochs: dict[str, float] = {}
        self.items: dict[str, int] = {}

    def of_all(self, world: World) -> "Window":
        """The sums of all processes; each has its own until here."""
        out = copy(self)
        own = {k: np.asarray(getattr(self, k), float) for k in OF_A_PART}
        sums = iter(world.sum(*(float(x) for v in own.values() for x in v.flat)))
        for k, v in own.items():
            total = np.fromiter(sums, float, v.size).reshape(v.shape)
            setattr(out, k, total if v.ndim else type(getattr(self, k))(total))
        for k in ("filled", "reading", "waiting"):
            setattr(out, k, getattr(out, k) / world.size)
        out.slowest = int(np.argmin(world.of_each(self.waiting)))
        return out

    def forget_part(self) -> None:
        """Begin anew with what a process counts of its part: another one has it."""
        for k in OF_A_PART:
            setattr(self, k, np.zeros_like(v) if isinstance(v := getattr(self, k), np.ndarray) else type(v)())

    def state(self) -> dict[str, Any]:
        """Every sum as JSON."""
        values = {k: v for k, v in vars(self).items() if k not in ("names", "codes", "modality_of")}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for k, v in state.items():
            setattr(self, k, np.array(v) if isinstance(getattr(self, k), np.ndarray) else v)

    def add_step(self, loss: float, norms: Mapping[str, float], limit: float, tokens: int, flops: int) -> None:
        """Take in one step, without its passes and its times."""
        self.steps += 1
        self.tokens += tokens
        self.flops += flops
        self.loss += loss
        self.clipped += norms["total"] > limit
        for k, v in norms.items():
            self.norms[k] = self.norms.get(k, 0.0) + v

    def add_times(self, seconds: float, reading: float, waiting: float) -> None:
        """Take in the time of a step, of it that for its data and that for the other processes to have theirs."""
        self.seconds += seconds
        self.reading += reading
        self.waiting += waiting

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """Take in one pass of a step."""
        self.passes += 1
        self.filled += batch.filled
        self.epochs.update(batch.epochs)
        for k, v in batch.items.items():
            self.items[k] = self.items.get(k, 0) + v
        canvas = batch.masked.canvas
        alphabets = canvas.alphabet_BL[canvas.maskable_BL].cpu().numpy()
        self.maskable_M += np.bincount(self.modality_of[alphabets], minlength=len(self.names))
        for terms, predicted in zip(outcome.terms, outcome.predicted, strict=True):
            self._add_terms(terms, predicted)

    def _add_terms(self, terms: Terms, predicted: Tensor) -> None:
        m, codes = self.modality_of[terms.alphabet], self.codes[terms.alphabet]
        ce = terms.ce_N.detach().cpu().double().numpy()
        level = np.minimum((terms.rate_N.cpu().numpy() * LEVELS).astype(int), LEVELS - 1)
        self.ce_MK[m] += np.bincount(level, ce, LEVELS)
        self.count_MK[m] += np.bincount(level, minlength=LEVELS)
        self.weighted_M[m] += float((terms.weight_N.cpu().double().numpy() * ce).sum())
        self.stops_predicted_M[m] += int((predicted >= codes).sum())
        self.stops_true_M[m] += int((terms.column_N >= codes).sum())

    def row(self, matmul_rate: float) -> dict[str, Any]:
        """The row of these steps."""
        n, seconds = self.steps, max(self.seconds, 1e-9)
        present = [(m, name) for m, name in enumerate(self.names) if self.maskable_M[m]]
        masked_M = self.count_MK.sum(1)
        return {
            "loss": self.loss / n,
            "losses": {name: self.weighted_M[m] / self.maskable_M[m] for m, name in present},
            "cross_entropy": {name: _ratio(self.ce_MK[m], self.count_MK[m]) for m, name in present},
            "stops": {
                name: {"predicted": self.stops_predicted_M[m] / masked_M[m], "true": self.stops_true_M[m] / masked_M[m]}
                for m, name in present
                if masked_M[m]
            },
            "gradient_norms": {k: v / n for k, v in self.norms.items()},
            "clipped": self.clipped / n,
            "epochs": dict(self.epochs),
            "items": dict(self.items),
            "filled": self.filled / self.passes,
            "reading_share": self.reading / seconds,
            "waiting_share": self.waiting / seconds,
            "slowest": self.slowest,
            "tokens_per_second": self.tokens / seconds,
            "flops_per_second": self.flops / seconds,
            "matmul_share": self.flops / seconds / matmul_rate,
        }

    def newly_dominated(self, row: Mapping[str, Any], step: int) -> list[str]:
        """Modalities whose predictions END and FILL dominate, which the row before did not say yet."""
        if step < DOMINATED_FROM:
            return []
        now = [
            name
            for name, s in row["stops"].items()
            if s["predicted"] > DOMINATED_SHARE and s["predicted"] > s["true"] + DOMINATED_EXCESS
        ]
        new = [name for name in now if name not in self.dominated]
        self.dominated = now
        return new


def _ratio(total_K: np.ndarray, count_K: np.ndarray) -> list[float | None]:
    """Mean by level; None where nothing was masked."""
    return [float(t / c) if c else None for t, c in zip(total_K, count_K, strict=True)]


def all_finite(values: Mapping[str, float]) -> bool:
    return all(math.isfinite(v) for v in values.values())
