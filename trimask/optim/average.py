"""Exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimask.core.errors import UsageError


class Average:
    """Average of a model's weights: avg <- decay_n * avg + (1 - decay_n) * weights after step n.

    decay_n = min(decay, (1 + n) / (10 + n)), so that the start is forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise UsageError(f"ema={decay} must lie in (0, 1); leave it at 0 for no average of weights")
        self.model, self.decay = model, decay
        self.weights: dict[str, Tensor] = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in self.model.named_parameters():
            self.weights[name].lerp_(p, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run with the averaged weights in the model; the trained ones come back bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.model.named_parameters():
            # In place: a model that is divided over devices knows its tensors.
            trained = p.clone()
            p.copy_(self.weights[name])
            self.weights[name].copy_(trained)
