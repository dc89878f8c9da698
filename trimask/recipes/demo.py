"""The recipe of `trimask demo`: a nano-sized model of the built-in world, in minutes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimask.recipes.nano import run
from trimask.train.config import Budget

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

FOLDER = Path("runs/demo")
MINUTES = 11.0
WEIGHTS: Mapping[str, float] = {"scenes": 0.60, "speech": 0.35, "world-text": 0.05}
SCALE = 0.5
"""Size of the world's sets, relative to nano's: more than the minutes can use."""


def demo() -> "chz.Blueprint[TrainConfig]":
    """Pictures, speech and a little text; `trimask demo` prepares what it reads."""
    return run(str(FOLDER / "model"), WEIGHTS, Budget(minutes=MINUTES), FOLDER / "sets", FOLDER / "tokenizers")
