"""One cell of a study as a real training: the configuration it stands for, its cost, and its row."""

import dataclasses
import math
from pathlib import Path

from trimask.core.config import changed
from trimask.core.errors import DivergedError
from trimask.model.accounting import parameters
from trimask.studies.table import Cell, Row, total
from trimask.train.config import TrainConfig
from trimask.train.loop import fit

OFTEN = 1.0
"""Minutes between checkpoints of a cell: what a kill can cost."""


def configuration(base: TrainConfig, cell: Cell, folder: Path) -> TrainConfig:
    """The run of a cell, in `folder`. Rows beyond those of one pass are passed one after the other."""
    settings = {
        "run": str(folder / cell.key),
        "model.width": cell.width,
        "model.depth": cell.depth,
        "model.parametrization": cell.parametrization,
        "data.rows": min(cell.rows, base.data.rows),
        "batch.rows": cell.rows,
        "budget.steps": cell.steps,
        "optimizer.rate": cell.rate,
        "seed": base.seed + cell.seed,
        "data.seed": base.data.seed + cell.seed,
        "checkpoints.minutes": OFTEN,
        **({} if cell.scaled else {"batch.kappa": 1.0}),
        **dict(cell.variant),
    }
    return changed(base, [f"{k}={v}" for k, v in settings.items()], cell.key)


def work(config: TrainConfig, cell: Cell) -> Row | None:
    """Train a cell to its end, on from where a kill left it; None when a signal ended it.

    A run that diverges has an infinite loss: that it did is a result.
    """
    counts = parameters(config.model)
    empty = Row(
        cell, math.inf, {}, 0, 0.0, params=counts.total, body=counts.body, schedule=type(config.schedule).__name__
    )
    try:
        result = fit(config)
    except DivergedError:
        return empty
    if not result.complete:
        return None
    values, errors = ({m: bound[part] for m, bound in result.validation.items()} for part in ("nats", "error"))
    loss = total(result.validation)
    return dataclasses.replace(
        empty,
        loss=loss if math.isfinite(loss) else math.inf,
        values=values,
        errors=errors,
        tokens=result.tokens,
        processed=result.processed,
        unique=result.unique,
        flops=float(result.flops),
        seconds=round(result.seconds, 1),
    )
