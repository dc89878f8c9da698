"""Two families of sizes, what was tuned at the base of each, and the presets.

A family keeps the dimension of a head and the ratio of width to depth; one dial, the depth, gives everything else.
Settings carry within a family, from its base to every size, batch and length (`docs/studies`).

| family | head | width | base |
| --- | --- | --- | --- |
| lab | 64 | 48 x depth, in whole heads | width 64, 2 blocks |
| paper | 128 | 128 x depth | width 128, 2 blocks |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import chz

from trimask.optim.optimizer import OptimizerConfig
from trimask.optim.sde import BasePoint


@dataclass(frozen=True)
class Family:
    """Shape rules and the settings tuned at the base."""

    head_dim: int
    aspect: int
    """Width over depth."""
    base_width: int
    base_depth: int
    optimizer: OptimizerConfig
    bases: tuple[BasePoint, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    """Other settings of the model that were tuned at the base."""

    def settings(self) -> dict[str, Any]:
        """Entries of a recipe's blueprint; each can be overridden by itself."""
        shape = {
            "head_dim": self.head_dim,
            "aspect": self.aspect,
            "base_width": self.base_width,
            "base_depth": self.base_depth,
            **self.model,
        }
        out = {f"model.{name}": value for name, value in shape.items()}
        out |= spread("optimizer", self.optimizer)
        for number, base in enumerate(self.bases):
            out |= spread(f"bases.{number}", base)
        return out


def spread(key: str, config: object) -> dict[str, Any]:
    """A configuration as one entry a field, so that each field can be overridden by itself."""
    fields = chz.beta_to_blueprint_values(config)
    return {key: type(config), **{f"{key}.{name}": value for name, value in fields.items()}}


COSINE = BasePoint(
    schedule="Cosine", rows=8, slots=128, steps=1000, tokens=2_280_000, gamma=0.44, critical_steps=500,
    source="shape and rate: dev/LOG.md; gamma: arXiv 2602.21472; S_crit: not measured yet",
)  # fmt: skip
"""What `trimask.recipes.study` trains."""

LAB = Family(
    head_dim=64,
    aspect=48,
    base_width=64,
    base_depth=2,
    optimizer=OptimizerConfig(rate=2**-6, matrices="muon"),
    bases=(COSINE,),
    model={"embedding_std": 0.5, "head_std": 0.02},
)
PAPER = Family(
    head_dim=128,
    aspect=128,
    base_width=128,
    base_depth=2,
    optimizer=LAB.optimizer,
    bases=LAB.bases,
    model=LAB.model,
)

PRESETS: Mapping[str, tuple[Family, int]] = {
    "nano": (LAB, 6),
    "micro": (LAB, 8),
    "pilot": (PAPER, 8),
    "0.65B": (PAPER, 12),
    "1.2B": (PAPER, 16),
    "3B": (PAPER, 24),
}
"""Name -> family and depth."""
