"""What the studies train: a small model of the built-in world, two blocks of the width of the lab base.

    python -m trimask.recipes.sets --world --tokenizers TOKENIZERS --out sets
    trimask study transfer

The sets are read from `sets/`; `data.sources` and `validation.data.sources` name others. `public` wants those that
`--data DATA` makes instead of `--world`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trimask.recipes import nano
from trimask.recipes.families import LAB, PLAIN, START, spread
from trimask.train.config import Budget

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

WEIGHTS: Mapping[str, float] = {"scenes": 0.50, "speech": 0.45, "world-text": 0.05}
PUBLIC: Mapping[str, tuple[float, str]] = {
    "sentences": (0.35, "text"),
    "stories": (0.05, "text"),
    "fashion": (0.20, "image"),
    "digits": (0.15, "image"),
    "orders": (0.15, "speech"),
    "spoken-digits": (0.07, "speech"),
    "spoken-words": (0.03, "speech"),
}
"""Shares of public sets, and the part of their items that is learned."""
ROWS: Mapping[str, int] = {"rows": 8, "slots": 128, "tokens": 384}
DEPTH = 2
"""Where the multipliers were searched. The family counts blocks from more; here `model.base_depth=6` says so."""
HELD_OUT = 64
"""Batches of a validation; runs of the same seed are compared on the same."""


def study() -> "chz.Blueprint[TrainConfig]":
    """A thousand steps of 8 rows of 128 positions, width 64, 2 blocks."""
    return _small(WEIGHTS, nano.TASKS)


def public() -> "chz.Blueprint[TrainConfig]":
    """The same on public sets, every kind by itself: no caption is there to be understood all at once."""
    shares = {name: share for name, (share, _) in PUBLIC.items()}
    return _small(shares, {name: (task,) for name, (_, task) in PUBLIC.items()})


def _small(weights: Mapping[str, float], only: Mapping[str, tuple[str, ...]]) -> "chz.Blueprint[TrainConfig]":
    base = nano.run("runs/study", weights, Budget(steps=1000), samples=False, only=only)
    return base.apply(
        {
            **{f"{stream}.{name}": value for stream in ("data", "validation.data") for name, value in ROWS.items()},
            "model.width": LAB.base_width,
            "model.depth": DEPTH,
            "model.base_depth": DEPTH,
            "validation.batches": HELD_OUT,
            "validation.every": 10**9,
            "checkpoints.every": 10**9,
            "checkpoints.keep": 1,
            "log_every": 50,
            "compile": "off",
            "dtype": "bf16",
        }
    )


def plain() -> "chz.Blueprint[TrainConfig]":
    """The same where the search for multipliers began: all parts of the model alike."""
    alike = {f"model.{name}": value for name, value in PLAIN.items()}
    branches = {"model.attention_branch": 1.0, "model.mlp_branch": 1.0}
    return study().apply({**spread("optimizer", START), **alike, **branches})
