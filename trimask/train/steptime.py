"""What a budget lasts: how long a step takes on this machine, and how many tokens the data have in a position."""

import statistics
import time
from itertools import islice
from math import ceil

import torch

from trimask.core.compute import DTYPES, device_of
from trimask.core.errors import TrainingError
from trimask.model.transformer import Transformer
from trimask.optim.optimizer import Optimizer
from trimask.train.config import TrainConfig
from trimask.train.device import Compute, Pace, synchronize
from trimask.train.resolve import Resolved, resolve
from trimask.train.state import Source
from trimask.train.step import evaluate, to

STEPS = 4
"""Steps that are timed, after one that is not."""
ROWS = 128
"""Rows whose tokens are counted, at least."""


def measured_pace(config: TrainConfig, source: Source, compute: Compute) -> Pace:
    """What turns the run's budget into steps, where it is no number of steps."""
    if config.budget.minutes is not None:
        return Pace(measured_step(resolve(config, Pace(1.0)), source, compute.dtype, compute.compile), True)
    wanted = config.budget.tokens is not None and config.base is not None
    return Pace(density=measured_density(config, source)) if wanted else Pace()


def measured_density(config: TrainConfig, source: Source) -> float:
    """Processed tokens of a transformer position, padding among them; the source is put back where it was."""
    data, before = config.data, source.state()
    taken = list(islice(iter(source), ceil(ROWS / data.rows)))
    source.restore(before)
    if not taken:
        raise TrainingError("the data ended before the first step")
    positions = sum(batch.masked.canvas.segment_BP.numel() for batch in taken)
    return sum(sum(batch.tokens.values()) for batch in taken) / positions


def measured_step(resolved: Resolved, source: Source, dtype: str, compiled: bool = False) -> float:
    """Median seconds of a step on real batches: reading them, loss, gradient, optimizer.

    Of a model and an optimizer made for it, with the threads of this process; "auto" is timed as bf16. The source is
    put back where it was.
    """
    config, before, times = resolved.config, source.state(), []
    where = device_of(config.device)
    model = Transformer(config.model, config.seed).to(where)
    model.dtype = DTYPES.get(dtype, torch.bfloat16)
    if compiled:
        model.compiled()
    optimizer = Optimizer(resolved.optimizer, model, resolved.scale, resolved.kappa)
    batches = iter(source)
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        taken = list(islice(batches, config.passes))
        for batch in taken:
            evaluate(model, to(batch.masked, where)).loss.backward()
        if not taken:
            break
        optimizer.step()
        optimizer.zero_grad()
        synchronize(where)
        times.append(time.perf_counter() - started)
    source.restore(before)
    if not times:
        raise TrainingError("the data ended before the first step")
    return statistics.median(times[1:] or times)
