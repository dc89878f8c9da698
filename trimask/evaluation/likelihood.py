"""Held-out likelihood of a task, by two estimators side by side.

The estimators of `diffusion.bounds` have the same expectation: an upper bound on -log p(targets |
given). It is called a bound here where the condition is clean; with `length given` the number of
tokens is told to the model, so such a figure does not compare with a code that must say where a text
ends. With `length learned` END and FILL are scored, in the largest span that the model knows.
"""

import math
from collections.abc import Sequence

import numpy as np

from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.diffusion.bounds import Bound, by_count, by_time
from trimask.evaluation.generator import Generator
from trimask.evaluation.table import Result
from trimask.evaluation.transcripts import ratio

PLANS = {"by count": by_count, "by time": by_time}
"""Name in the table -> estimator."""


def likelihood(
    generator: Generator, items: Sequence[Item], task: str, draws: int = 16, seed: int = 0, free: bool = False
) -> list[Result]:
    """Nats per token, its exponential, and for a target that is one text bits per byte, by each estimator.

    Errors are standard errors over items, sampling noise of the estimator included. Raises
    `UsageError` for no items.
    """
    if not items:
        raise UsageError(f"the likelihood of {task} needs at least one item")
    length = "length learned" if free else "length given"
    out = []
    for name, plan in PLANS.items():
        parts = generator.bounds(items, task, plan, draws, seed, free)
        out += _rows(parts, items, task, f"bound {name}, {length}")
    return out


def _rows(parts: Sequence[Bound], items: Sequence[Item], task: str, how: str) -> list[Result]:
    nats = np.array([b.nats for b in parts])
    value, error = ratio(nats, np.array([b.tokens for b in parts], float))
    n = len(parts)
    noise = math.sqrt(sum(b.error**2 for b in parts)) / sum(b.tokens for b in parts)
    note = f"{sum(b.tokens for b in parts)} tokens; sampling noise {noise:.2g} nats"
    out = [
        Result(f"nats per token, {how}", value, n, error, "nats", note=note),
        Result(f"exp of nats per token, {how}", math.exp(value), n, math.exp(value) * error),
    ]
    if task.rpartition(">")[2] == "text":
        size = np.array([len(str(i.parts["text"]).encode()) for i in items], float)
        bits, spread = ratio(nats / math.log(2), size)
        out.append(Result(f"bits per byte, {how}", bits, n, spread, "bits", note=f"{int(size.sum())} bytes"))
    return out
