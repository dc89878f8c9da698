"""How long a step of a run takes on this machine: what a budget of minutes lasts, and what a study costs."""

import statistics
import time
from itertools import islice

import torch

from trimask.core.compute import DTYPES, device_of
from trimask.core.errors import TrainingError
from trimask.model.transformer import Transformer
from trimask.optim.optimizer import Optimizer
from trimask.train.device import synchronize
from trimask.train.resolve import Resolved
from trimask.train.state import Source
from trimask.train.step import evaluate, to

STEPS = 4
"""Steps that are timed, after one that is not."""


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
            outcome = evaluate(model, to(batch.masked, where))
            if outcome.terms:
                outcome.loss.backward()
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
