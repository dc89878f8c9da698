"""How a setting that was tuned at one size is written at another: CompleteP, muP, and the standard parametrization.

Every parameter of `model.Transformer` belongs to one group. A group has a `Rule`: by what its initial variance,
learning rate, epsilon and weight decay at the base are multiplied at width m_N * base_width and depth
m_L * base_depth. Sources: Yang et al. 2022 (muP), Dey et al. 2025 (CompleteP), Mlodozeniec et al. 2025 (output weights
without a multiplier of the logits, QK-norm), Bernstein and Newhouse 2024 and Liu et al. 2025 (orthogonal updates).

Decay is coupled: a weight shrinks by rate * decay a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import nn

Kind = Literal["adamw", "muon"]


@dataclass(frozen=True)
class Power:
    """m_N^width * m_L^(depth + alpha_depth * alpha)."""

    width: float = 0.0
    depth: int = 0
    alpha_depth: int = 0

    def __call__(self, m_N: float, m_L: float, alpha: float) -> float:
        return m_N**self.width * m_L ** (self.depth + self.alpha_depth * alpha)

    def __str__(self) -> str:
        terms = (f"{self.depth:g}" if self.depth else "", {1: "+alpha", -1: "-alpha"}.get(self.alpha_depth, ""))
        depth = "".join(terms).removeprefix("+")
        parts = (f"m_N^{self.width:g}" if self.width else "", f"m_L^({depth})" if depth else "")
        return " ".join(filter(None, parts)) or "1"

    def flat(self) -> "Power":
        """Without the depth."""
        return Power(self.width)


@dataclass(frozen=True)
class Rule:
    """Factors of a group's settings at the base. `init` is of the variance."""

    init: Power = Power()
    rate: Power = Power()
    eps: Power = Power()
    decay: Power = Power()
    decays: bool = False
    """Whether its weights decay at all; gains and embeddings do not."""


_BRANCH = Power(0, -1, 1)
HIDDEN = Rule(Power(-1), Power(-1, -1, 1), Power(-1, 0, -1), Power(1), decays=True)
"""Matrices of a block."""
OUTSIDE = Rule(Power(-1), Power(-1), Power(-1), Power(1), decays=True)
"""Matrices from width to width that are not in a residual branch: they know no depth."""

COMPLETEP: Mapping[str, Rule] = {
    "embedding": Rule(eps=Power(-1)),
    "place": replace(OUTSIDE, decays=False),
    "attention_in": HIDDEN,
    "attention_out": HIDDEN,
    "mlp_in": HIDDEN,
    "mlp_out": HIDDEN,
    "block_gain": Rule(rate=_BRANCH, eps=Power(-1, 0, -1)),
    "qk_gain": Rule(rate=_BRANCH, eps=Power(0, 0, -1)),
    "final_gain": Rule(),
    "level": OUTSIDE,
    "head": Rule(init=Power(-2), rate=Power(-1), decay=Power(1), decays=True),
}
"""Group -> rule, the table of Mlodozeniec et al. with this model's groups, in the order of a forward pass."""

_MUP = {name: replace(rule, rate=rule.rate.flat(), eps=rule.eps.flat()) for name, rule in COMPLETEP.items()}
_STANDARD = {
    name: Rule(init=Power(-1) if rule in (HIDDEN, OUTSIDE) or name == "place" else Power(), decays=rule.decays)
    for name, rule in COMPLETEP.items()
}
TABLES: Mapping[str, Mapping[str, Rule]] = {"completep": COMPLETEP, "mup": _MUP, "standard": _STANDARD}
"""Parametrization -> group -> rule. muP is CompleteP without the depth; the standard one scales first weights only."""

ORTHOGONAL: Mapping[str, Power] = {"rate": Power(-0.5), "decay": Power(0.5)}
"""Width under Muon, whose update of a matrix is orthogonal and has entries of a fixed size: all its singular values are
as large as the root of the width, so the rate falls with that root and no further."""

MATRICES = ("attention_in", "attention_out", "mlp_in", "mlp_out")
"""Groups of the matrices of blocks, which Muon can step."""
_BLOCK_GROUPS = {
    "attention.qkv": "attention_in",
    "attention.out": "attention_out",
    "mlp.gate_up": "mlp_in",
    "mlp.down": "mlp_out",
    "attention_norm": "block_gain",
    "mlp_norm": "block_gain",
    "attention.q_norm": "qk_gain",
    "attention.k_norm": "qk_gain",
}
IN_BLOCKS = frozenset(_BLOCK_GROUPS.values())
"""Groups whose parameters belong to blocks."""
_OUTER_GROUPS = {
    "embedding.place.": "place",
    "embedding.": "embedding",
    "head.norm.": "final_gain",
    "head.level.": "level",
    "head.table.": "head",
}


def block_of(name: str) -> int | None:
    """The block that a parameter belongs to; None outside the blocks."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


def group_of(name: str) -> str:
    """Group of a parameter of `model.Transformer`. One that no group covers is an error."""
    if name.startswith("blocks."):
        part = name.split(".", 2)[2].removesuffix(".weight")
        if part in _BLOCK_GROUPS:
            return _BLOCK_GROUPS[part]
    for prefix, group in _OUTER_GROUPS.items():
        if name.startswith(prefix):
            return group
    raise AssertionError(f"no parameter group covers {name}")


def groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by group and name, in the order of the table; empty groups are left out."""
    out: dict[str, dict[str, nn.Parameter]] = {name: {} for name in COMPLETEP}
    for name, p in model.named_parameters():
        out[group_of(name)][name] = p
    return {name: members for name, members in out.items() if members}


def rule_of(parametrization: str, group: str, kind: Kind = "adamw") -> Rule:
    """The rule of a group whose weights `kind` steps. Muon has no epsilon that scales."""
    rule = TABLES[parametrization][group]
    if kind == "adamw" or parametrization == "standard":
        return rule
    width = {name: replace(getattr(rule, name), width=power.width) for name, power in ORTHOGONAL.items()}
    return replace(rule, **width, eps=Power())


def at_depth(points: tuple[float, ...], block: int | None, depth: int) -> float:
    """Multiplier of a block of a stack of `depth`, from `points` spread evenly over it and interpolated between.

    Blocks stand in the middle of their share of the stack, points at the ends and evenly between. Outside the blocks,
    and without points, it is 1.
    """
    if block is None or not points:
        return 1.0
    assert block < depth, f"block {block} of {depth}"
    if len(points) == 1:
        return points[0]
    place = (block + 0.5) / depth * (len(points) - 1)
    for number, (before, after) in enumerate(pairwise(points)):
        if place <= number + 1:
            return before + (place - number) * (after - before)
    return points[-1]
