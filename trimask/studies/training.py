"""One cell of a study as a real training: the configuration it stands for, its cost, and its row."""

import math
import shutil
import statistics
import time
from pathlib import Path

import chz
import torch

from trimask.core.config import changed
from trimask.core.errors import TrainingError
from trimask.data.stream import Stream
from trimask.model.transformer import Transformer
from trimask.optim.optimizer import Optimizer
from trimask.studies.table import Cell, Row, total
from trimask.train.config import TrainConfig
from trimask.train.device import synchronize
from trimask.train.loop import fit
from trimask.train.resolve import resolve
from trimask.train.step import evaluate

TIMED = 4
"""Steps that are timed for a price, after one that is not."""
OFTEN = 1.0
"""Minutes between checkpoints of a cell: what a kill can cost."""


def configuration(base: TrainConfig, cell: Cell, folder: Path) -> TrainConfig:
    """The run of a cell, in `folder`. Rows beyond those of one pass are passed one after the other."""
    rows = min(cell.rows, base.data.rows)
    settings = {
        "run": str(folder / cell.key),
        "model.width": cell.width,
        "model.depth": cell.depth,
        "model.parametrization": cell.parametrization,
        "data.rows": rows,
        "batch.rows": cell.rows,
        "budget.steps": cell.steps,
        "optimizer.rate": cell.rate,
        "seed": cell.seed,
        "data.seed": cell.seed,
        "checkpoints.minutes": OFTEN,
        **dict(cell.variant),
    }
    made = changed(base, [f"{k}={v!r}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items()], cell.key)
    return made if cell.scaled else chz.replace(made, bases=())


def work(made: TrainConfig, cell: Cell) -> Row | None:
    """Train a cell to its end, on from where a kill left it; None when a signal ended it.

    A run that diverges has an infinite loss: that it did is a result.
    """
    folder = Path(made.run)
    try:
        result = fit(made)
    except TrainingError as e:
        if "nothing was updated" not in str(e):
            raise
        shutil.rmtree(folder)
        return Row(cell, math.inf, {}, 0, 0.0)
    if not result.complete:
        return None
    parts = {name: bound["nats"] for name, bound in result.validation.items()}
    row = Row(cell, total(result.validation), parts, result.tokens, round(result.seconds, 1))
    shutil.rmtree(folder)
    return row


def step_seconds(config: TrainConfig, batches: "Stream") -> float:
    """Median time of a step of this configuration on real batches, with the threads of this process."""
    resolved = resolve(config)
    model = Transformer(config.model, config.seed)
    model.dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    optimizer = Optimizer(resolved.optimizer, model, resolved.scale, resolved.kappa)
    times, stream = [], iter(batches)
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        for _ in range(config.passes):
            evaluate(model, next(stream).masked).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(torch.device("cpu"))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
