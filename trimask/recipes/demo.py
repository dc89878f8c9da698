"""The recipe of `trimask demo`: a model of the built-in world, in minutes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimask.recipes.nano import TASK_WEIGHTS, run
from trimask.train.config import Budget

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

FOLDER = Path("runs/demo")
MINUTES = 11.0
WEIGHTS: Mapping[str, float] = {"scenes": 0.70, "speech": 0.27, "world-text": 0.03}
TASKS: Mapping[str, float] = {**TASK_WEIGHTS, "text>image": 10.0}
SHAPE: Mapping[str, int] = {"model.width": 192, "model.depth": 4, "model.head_dim": 32, "data.rows": 8}
"""Smaller than nano: so few minutes cannot fill more parameters (dev/LOG.md)."""
SCALE = 0.5
"""Size of the world's sets, relative to nano's: more than the minutes can use."""


def demo() -> "chz.Blueprint[TrainConfig]":
    """Pictures, speech and a little text; `trimask demo` prepares what it reads."""
    budget = Budget(minutes=MINUTES)
    base = run(str(FOLDER / "model"), WEIGHTS, budget, FOLDER / "sets", FOLDER / "tokenizers", TASKS)
    return base.apply(dict(SHAPE))
