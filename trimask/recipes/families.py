"""Two families of sizes, what was tuned at the base of each, and the presets.

A family keeps the dimension of a head and the ratio of width to depth; one dial, the depth, gives everything else.
Settings carry within a family, from its base to every size, batch and length (`docs/studies`).

| family | head | width | base |
| --- | --- | --- | --- |
| lab | 64 | 48 x depth, in whole heads | width 64, 6 blocks |
| paper | 128 | 128 x depth | width 128, 8 blocks |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import chz

from trimask.optim.optimizer import Multipliers, OptimizerConfig
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
    schedule="Cosine", rows=8, slots=128, steps=1000, tokens=2_260_000, gamma=0.48, gammas=(0.31, 0.63), longest=8.0,
    critical_steps=400, critical_growth=0.53,
    source="docs/studies: horizon (gamma), batch (S_crit; its growth from arXiv 2410.21676 and 2505.13738)",
)  # fmt: skip
"""What `trimask.recipes.study` trains."""
STABLE = chz.replace(
    COSINE, schedule="WarmupStableDecay", rate=0.6,
    source="docs/studies: schedules (rate); gamma and S_crit are those of Cosine",
)  # fmt: skip
"""The same under a rate that is constant before it falls: it is best at a lower one."""
PLAIN: Mapping[str, float] = {"embedding_std": 0.5, "head_std": 0.02}
"""Settings of the model where the search for multipliers began (docs/studies)."""
BRANCHES: Mapping[str, float] = {
    "embedding_std": 0.25,
    "head_std": 0.08,
    "attention_branch": 0.9,
    "mlp_branch": 0.2,
}
"""Where it ended."""
MULTIPLIERS = Multipliers(
    embedding=2.4, place=0.6, attention_in=0.6, attention_out=0.9, mlp_in=0.47, mlp_out=2.1, block_gain=1.1,
    qk_gain=1.1, level=0.45, head=1.3,
)  # fmt: skip
START = OptimizerConfig(rate=2**-6, matrices="muon")

LAB = Family(
    head_dim=64,
    aspect=48,
    base_width=64,
    base_depth=6,
    optimizer=chz.replace(
        START, rate=2**-6.5, beta1=0.8, beta2=0.97, momentum=0.955, multipliers=MULTIPLIERS,
        source="docs/studies: modules, transfer; epsilon and clip were not searched",
    ),
    bases=(COSINE, STABLE),
    model=BRANCHES,
)  # fmt: skip
PAPER = Family(
    head_dim=128,
    aspect=128,
    base_width=128,
    base_depth=8,
    optimizer=chz.replace(
        LAB.optimizer, rate=2**-7.25,
        source="docs/studies: rate measured at this base, all else as in the lab family (modules)",
    ),
    bases=LAB.bases,
    model=LAB.model,
)  # fmt: skip
"""With one head of 128 and eight blocks the rate is lower; the other settings are those of the lab family."""

PRESETS: Mapping[str, tuple[Family, int]] = {
    "nano": (LAB, 6),
    "micro": (LAB, 8),
    "pilot": (PAPER, 8),
    "0.65B": (PAPER, 12),
    "1.2B": (PAPER, 16),
    "3B": (PAPER, 24),
}
"""Name -> family and depth."""
