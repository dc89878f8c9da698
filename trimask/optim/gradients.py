"""Gradient norms per parameter group, and clipping by the global norm."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def norms(groups: Mapping[str, Mapping[str, nn.Parameter]]) -> dict[str, Tensor]:
    """L2 norm of the gradient of each group: fp32 scalars on the parameters' device.

    A group without gradients has norm 0.
    """
    out = {}
    for name, members in groups.items():
        grads = [p.grad for p in members.values() if p.grad is not None]
        device = next(iter(members.values())).device
        out[name] = nn.utils.get_total_norm(grads) if grads else torch.zeros((), device=device)
    return out


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """Norm over all groups."""
    return torch.stack(list(parts.values())).norm()


def clip(parameters: Iterable[nn.Parameter], norm: Tensor, limit: float) -> None:
    """Scale gradients in place so that their global norm, given as `norm`, is at most `limit`."""
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
