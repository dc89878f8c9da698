"""The recipe of `trimask demo`: a model of the built-in world, in minutes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimask.recipes import nano, sets
from trimask.train.config import Budget

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

FOLDER = Path("runs/demo")
MINUTES = 12.0
WEIGHTS: Mapping[str, float] = {"scenes": 0.75, "numbers": 0.22, "world-text": 0.03}
TASK_WEIGHTS: Mapping[str, float] = {**nano.TASK_WEIGHTS, "text>image": 10.0}
SHAPE: Mapping[str, int] = {"model.width": 192, "model.depth": 4, "data.rows": 8}
"""Smaller than nano: so few minutes cannot fill more parameters (dev/LOG.md)."""
SCALE = 0.5
"""Size of the world's sets, relative to nano's: more than the minutes can use."""


def sources(split: str) -> dict[str, tuple[str, ...]]:
    """What is prepared: of speech the numbers alone, whose thirty words the minutes may suffice to learn."""
    world = sets.world(SCALE if split == "train" else SCALE / 60, split)
    numbers = tuple(f"{source}&where=content:number" for source in world["speech"])
    return {"scenes": world["scenes"], "numbers": numbers, "world-text": world["world-text"]}


def demo() -> "chz.Blueprint[TrainConfig]":
    """Pictures, speech and a little text; `trimask demo` prepares what it reads."""
    budget = Budget(minutes=MINUTES)
    base = nano.run(str(FOLDER / "model"), WEIGHTS, budget, FOLDER / "sets", FOLDER / "tokenizers", TASK_WEIGHTS)
    return base.apply(dict(SHAPE))
