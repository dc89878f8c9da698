"""The optimizer: AdamW (Loshchilov and Hutter 2019), with Muon (Jordan et al. 2024) for matrices where asked."""

from collections.abc import Mapping
from typing import Any, Literal

import chz
import torch
from torch import Tensor, nn

from trimask.core.errors import UsageError

DECAYED = ("attention", "mlp", "head")
"""Groups of matrices; embeddings and gains are not decayed."""
BLOCKS = ("attention", "mlp")
"""Groups of the matrices of blocks, which Muon can step."""


@chz.chz
class OptimizerConfig:
    """Settings of the optimizer. Decay is coupled to the rate: a weight shrinks by rate * decay a step."""

    rate: float = chz.field(default=2**-8, doc="base learning rate; the schedule multiplies it")
    matrices: Literal["adamw", "muon"] = chz.field(default="adamw", doc="what steps the matrices of blocks")
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = chz.field(default=0.95, doc="of muon")
    decay: float = chz.field(default=0.1, doc="weight decay of matrices")
    clip: float = chz.field(default=1.0, doc="largest global gradient norm")

    @chz.validate
    def _check(self):
        if not (self.rate > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise UsageError("optimizer: rate and eps must be positive, beta1 and beta2 in [0, 1)")
        if self.matrices not in ("adamw", "muon") or not 0 <= self.momentum < 1:
            raise UsageError("optimizer: matrices is adamw or muon, momentum in [0, 1)")
        if self.decay < 0 or self.clip <= 0:
            raise UsageError("optimizer: decay must not be negative, clip must be positive")


def group_of(name: str) -> str:
    """Group of a parameter of `model.Transformer`: embedding, attention, mlp, head or gain."""
    if name.endswith("norm.weight"):
        return "gain"
    if name.startswith("blocks."):
        return name.split(".")[2]
    return name.split(".")[0]


def groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by group and name. A parameter that no group covers is an error."""
    out: dict[str, dict[str, nn.Parameter]] = {g: {} for g in ("embedding", *DECAYED, "gain")}
    for name, p in model.named_parameters():
        out[group_of(name)][name] = p
    return {g: members for g, members in out.items() if members}


class Optimizer:
    """Steps every parameter of a model, one parameter group per group of `groups`.

    Muon moves a matrix along the orthogonal factor of its averaged gradient, scaled so that the update
    of an entry has AdamW's usual size: one rate and one decay serve both (Liu et al. 2025, "Muon is
    scalable for LLM training").
    """

    def __init__(self, config: OptimizerConfig, model: nn.Module):
        parts: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
        for group, members in groups(model).items():
            kind = config.matrices if group in BLOCKS else "adamw"
            decay = config.decay if group in DECAYED else 0.0
            parts[kind].append({"params": list(members.values()), "name": group, "weight_decay": decay})
        self.parameters = dict(model.named_parameters())
        device = next(model.parameters()).device.type
        betas = (config.beta1, config.beta2)
        self.fused = device in ("cpu", "cuda", "mps")
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(parts["adamw"], lr=config.rate, betas=betas, eps=config.eps, fused=self.fused)
        ]
        if parts["muon"]:
            self.parts.append(
                torch.optim.Muon(
                    parts["muon"], lr=config.rate, momentum=config.momentum, adjust_lr_fn="match_rms_adamw"
                )
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Give every group the learning rate of this step."""
        for group in self.param_groups:
            group["lr"] = rate

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

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned. Parameters without saved state have not been stepped yet."""
        owner = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key_name, value in saved.items():
            key, _, name = key_name.partition(".")
            p = self.parameters[name]
            # The step count stays where the optimizer keeps it; moments live beside their weight.
            home = p.device if key != "step" or self.fused else torch.device("cpu")
            # A copy: what a file gave may be a map of that file.
            owner[p].state[p][key] = value.to(home, copy=True)
