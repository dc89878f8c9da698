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
MINUTES = 13.0
WEIGHTS: Mapping[str, float] = {"scenes": 0.82, "numbers": 0.15, "world-text": 0.03}
TASK_WEIGHTS: Mapping[str, float] = {
    **{"text": 1.0, "text>image": 10.0, "image>text": 1.5, "text>speech": 6.0, "speech>text": 1.0}
}
ROWS: Mapping[str, int] = {"rows": 8, "slots": 128, "tokens": 384}
SHAPE: Mapping[str, int] = {
    "model.depth": 4,
    **{f"{stream}.{name}": value for stream in ("data", "validation.data") for name, value in ROWS.items()},
}
"""Smaller than nano: so few minutes cannot fill more parameters (dev/LOG.md)."""
SCALE = 0.5
"""Size of the world's sets, relative to nano's: more than the minutes can use."""
SPEECH = "where=content:number,voice:en-us"
"""Of speech the numbers from 0 to 999 in one voice: thirty words that the minutes suffice to learn."""
TESTED = (
    "world:scenes?split=test",
    "world:scenes?split=test-seen",
    f"world:speech?split=test&{SPEECH}&limit=100",
    "world:text?split=test&count=4000",
)


def sources(split: str) -> dict[str, tuple[str, ...]]:
    """What is prepared of a split."""
    scale = SCALE if split == "train" else SCALE / 60
    world = sets.world(scale, split)
    # One clip in twenty is a number in this voice.
    numbers = tuple(f"{source}&{SPEECH}" for source in sets.world(1.5 * scale, split)["speech"])
    return {"scenes": world["scenes"], "numbers": numbers, "world-text": world["world-text"]}


def demo() -> "chz.Blueprint[TrainConfig]":
    """Pictures, speech and a little text; `trimask demo` prepares what it reads."""
    budget = Budget(minutes=MINUTES)
    base = nano.run(str(FOLDER / "model"), WEIGHTS, budget, FOLDER / "sets", tasks=TASK_WEIGHTS)
    return base.apply(dict(SHAPE))
