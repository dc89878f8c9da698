"""The optimizer: AdamW (Loshchilov and Hutter 2019), with Muon (Jordan et al. 2024) for matrices where asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import chz
import torch
from torch import Tensor, nn

from trimask.core.config import NOT_NEGATIVE, POSITIVE, SHARE, check
from trimask.core.errors import UsageError
from trimask.optim.parametrization import MATRICES, Kind, at_depth, block_of, group_of, rule_of
from trimask.optim.sde import factors


@chz.chz
class Multipliers:
    """Of the learning rate of each group of `optim.parametrization`, at the base."""

    embedding: float = 1.0
    place: float = 1.0
    attention_in: float = 1.0
    attention_out: float = 1.0
    mlp_in: float = 1.0
    mlp_out: float = 1.0
    block_gain: float = 1.0
    qk_gain: float = 1.0
    final_gain: float = 1.0
    level: float = 1.0
    head: float = 1.0

    @chz.validate
    def _check(self):
        check(self, "optimizer.multipliers", POSITIVE, *chz.asdict(self))


@chz.chz
class OptimizerConfig:
    """Settings at the base point. Decay is coupled to the rate: a weight shrinks by rate * decay a step."""

    rate: float = chz.field(default=2**-8, doc="base learning rate; the schedule multiplies it")
    matrices: Kind = chz.field(default="adamw", doc="what steps the matrices of blocks: adamw or muon")
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = chz.field(default=0.95, doc="of muon")
    decay: float = chz.field(default=0.1, doc="weight decay of matrices")
    clip: float = chz.field(default=1.0, doc="largest global gradient norm")
    multipliers: Multipliers = chz.field(default_factory=Multipliers)
    depths: tuple[float, ...] = chz.field(
        default=(), doc="multipliers of the rate of blocks, evenly over the depth, interpolated between"
    )
    source: str = chz.field(default="", doc="where these settings were measured")

    @chz.validate
    def _check(self):
        check(self, "optimizer", POSITIVE, "rate", "eps", "clip", "depths")
        check(self, "optimizer", NOT_NEGATIVE, "decay")
        check(self, "optimizer", SHARE, "beta1", "beta2", "momentum")
        if self.matrices not in ("adamw", "muon"):
            raise UsageError(f"optimizer.matrices={self.matrices} must be adamw or muon")


@dataclass(frozen=True)
class Scale:
    """A model beside its base: which parametrization, m_N, m_L, alpha, and its number of blocks."""

    parametrization: Literal["completep", "mup", "standard"] = "standard"
    m_N: float = 1.0
    m_L: float = 1.0
    alpha: float = 1.0
    blocks: int = 1


@dataclass(frozen=True)
class Setting:
    """What steps one group, or one group in one block, at the peak of the schedule."""

    group: str
    block: int | None
    kind: Kind
    rate: float
    beta1: float
    beta2: float
    eps: float
    momentum: float
    decay: float

    @property
    def name(self) -> str:
        return self.group if self.block is None else f"{self.group}.{self.block}"


def setting(config: OptimizerConfig, scale: Scale, kappa: float, group: str, block: int | None = None) -> Setting:
    """Settings of a group: those of the base, times its multiplier, its rule and what kappa asks for.

    `block` matters where multipliers differ with the depth. Raises nothing: the configuration was checked.
    """
    kind: Kind = config.matrices if group in MATRICES else "adamw"
    rule, sde, size = rule_of(scale.parametrization, group, kind), factors(kappa, kind), (scale.m_N, scale.m_L)
    own = getattr(config.multipliers, group) * at_depth(config.depths, block, scale.blocks)
    return Setting(
        group,
        block,
        kind,
        rate=config.rate * own * rule.rate(*size, scale.alpha) * sde.rate,
        beta1=config.beta1**sde.memory,
        beta2=config.beta2**sde.memory,
        eps=config.eps * rule.eps(*size, scale.alpha) * sde.eps,
        momentum=config.momentum**sde.memory,
        decay=config.decay * rule.decay(*size, scale.alpha) * sde.decay if rule.decays else 0.0,
    )


def _as_it_is(moment: Tensor, _parameter: Tensor) -> Tensor:
    return moment


class Optimizer:
    """Steps every parameter of a model by the setting of its group.

    Muon moves a matrix along the orthogonal factor of its averaged gradient, scaled so that the update
    of an entry has AdamW's usual size: one rate and one decay serve both (Liu et al. 2025, "Muon is
    scalable for LLM training").
    """

    def __init__(self, config: OptimizerConfig, model: nn.Module, scale: Scale | None = None, kappa: float = 1.0):
        members: dict[Setting, list[Tensor]] = {}
        self.parameters = dict(model.named_parameters())
        for name, p in self.parameters.items():
            block = block_of(name) if config.depths else None
            found = setting(config, scale or Scale(), kappa, group_of(name), block)
            members.setdefault(found, []).append(p)
        parts: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
        for s, tensors in members.items():
            common = {"params": tensors, "name": s.name, "peak": s.rate, "lr": s.rate, "weight_decay": s.decay}
            own = {"betas": (s.beta1, s.beta2), "eps": s.eps} if s.kind == "adamw" else {"momentum": s.momentum}
            parts[s.kind].append({**common, **own})
        device = next(model.parameters()).device.type
        self.fused = device in ("cpu", "cuda", "mps")
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(parts["adamw"], fused=self.fused)]
        if parts["muon"]:
            self.parts.append(torch.optim.Muon(parts["muon"], adjust_lr_fn="match_rms_adamw"))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_factor(self, factor: float) -> None:
        """Give every group its learning rate times the schedule's factor of this step."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as flat tensors "exp_avg.NAME", for a file without pickle."""
        return {
            f"{key}.{name}": value
            for name, p in self.parameters.items()
            for part in self.parts
            for key, value in sorted(part.state.get(p, {}).items())
        }

    def restore(self, saved: Mapping[str, Tensor], divided: Callable[[Tensor, Tensor], Tensor] = _as_it_is) -> None:
        """Put back what `tensors` returned. Parameters without saved state have not been stepped yet.

        `divided(moment, parameter)` is the part of a whole moment that belongs to a part of a parameter.
        """
        owner = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key_name, value in saved.items():
            key, _, name = key_name.partition(".")
            p = self.parameters[name]
            # The step count stays where the optimizer keeps it; moments live beside their weight.
            home = p.device if key != "step" or self.fused else torch.device("cpu")
            # A copy: what a file gave may be a map of that file.
            value = value.to(home, copy=True)
            owner[p].state[p][key] = divided(value, p) if value.shape == p.shape else value
