"""AdamW over named parameter groups (Loshchilov and Hutter 2019)."""

from typing import Any

import chz
import torch
from torch import Tensor, nn

from trimask.core.errors import UsageError

DECAYED = ("attention", "mlp", "head")
"""Groups of matrices; embeddings and gains are not decayed."""


@chz.chz
class AdamWConfig:
    """Settings of the optimizer. Decay is coupled to the rate: a weight shrinks by rate * decay a step."""

    rate: float = chz.field(default=2**-8, doc="base learning rate; the schedule multiplies it")
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    decay: float = chz.field(default=0.1, doc="weight decay of matrices")
    clip: float = chz.field(default=1.0, doc="largest global gradient norm")

    @chz.validate
    def _check(self):
        if not (self.rate > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise UsageError("optimizer: rate and eps must be positive, beta1 and beta2 in [0, 1)")
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


def build(config: AdamWConfig, model: nn.Module) -> torch.optim.AdamW:
    """The optimizer of a model, one group of it per group of `groups`, in that order.

    It is the fused implementation where the device has one; `benchmarks` and `docs` say why.
    """
    parts: list[dict[str, Any]] = [
        {"params": list(members.values()), "name": group, "weight_decay": config.decay if group in DECAYED else 0.0}
        for group, members in groups(model).items()
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda", "mps")
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(parts, lr=config.rate, betas=betas, eps=config.eps, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the learning rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def tensors(optimizer: torch.optim.AdamW, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors "exp_avg.NAME", for a file without pickle."""
    return {
        f"{key}.{name}": value
        for name, p in model.named_parameters()
        for key, value in sorted(optimizer.state.get(p, {}).items())
    }


def restore(optimizer: torch.optim.AdamW, model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Put back what `tensors` returned. Parameters without saved state have not been stepped yet."""
    parameters = dict(model.named_parameters())
    for key_name, value in saved.items():
        key, _, name = key_name.partition(".")
        p = parameters[name]
        # The step count stays where the optimizer keeps it; moments live beside their weight.
        home = p.device if key != "step" or optimizer.defaults["fused"] else torch.device("cpu")
        # A copy: what a file gave may be a map of that file.
        optimizer.state[p][key] = value.to(home, copy=True)
