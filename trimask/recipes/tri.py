"""A model of any size: the depth is the dial, the presets of `recipes.families` are names for some of its places.

    trimask train tri model.depth=12 budget.tokens=50e9 batch.rows=512 --dry-run
    trimask train 3B --dry-run

Width, heads and MLP follow from the depth; learning rates, betas, epsilons and decays from the size, the batch and
the length of the run. What is trained on are the sets of `recipes.sets`, tokenised by what ships with the package,
until `tokenizers`, `data.sources` and `validation.data.sources` say otherwise.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trimask.recipes import nano
from trimask.recipes.families import PAPER, PRESETS
from trimask.train.config import Budget

if TYPE_CHECKING:
    import chz

    from trimask.train.config import TrainConfig

BUDGETS: Mapping[str, int] = {"lab": 100_000_000, "paper": 13_000_000_000}
"""Tokens of a run unless said: two hours of two cores, and the base point of arXiv 2602.21472."""
LONG: Mapping[str, int] = {"rows": 8, "slots": 512, "tokens": 1536}
"""Rows of the paper family; those of the lab family are nano's."""


def sized(name: str) -> "chz.Blueprint[TrainConfig]":
    """The run of a preset."""
    family, depth = PRESETS[name]
    large = family is PAPER
    budget = Budget(tokens=BUDGETS["paper" if large else "lab"])
    base = nano.run(f"runs/{name}", nano.WEIGHTS, budget, samples=not large, family=family)
    settings: dict[str, Any] = {"model.depth": depth}
    if large:
        streams = ("data", "validation.data")
        settings |= {f"{stream}.{key}": value for stream in streams for key, value in LONG.items()}
        settings |= {"batch.rows": 256, "model.rope_base": 1000.0}
    return base.apply(settings)


def tri() -> "chz.Blueprint[TrainConfig]":
    """The paper's pilot: 8 blocks of width 1,024."""
    return sized("pilot").apply({"run": "runs/tri"})
