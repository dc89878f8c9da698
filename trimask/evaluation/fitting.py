"""Training small networks: one loop for every judge, resumable, with progress.

The judges are small enough to be trained on the fly, so this is no training system: a network, a
loss that is a function of the step, AdamW, a warm-up and a cosine.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import chz
import torch
from rich.console import Console
from torch import Tensor, nn

from trimask.core.errors import TrainingError, UsageError
from trimask.core.rng import key
from trimask.core.running import progress, restore_state, save_state

SAVE_SECONDS = 60.0
"""Seconds between checkpoints, where a folder is given for them."""


@chz.chz
class Fit:
    """How a judge is trained."""

    steps: int = chz.field(doc="optimizer steps")
    batch: int = chz.field(default=64, doc="examples a step")
    rate: float = chz.field(default=2e-3, doc="highest learning rate")
    decay: float = chz.field(default=0.02, doc="weight decay of AdamW")
    warmup: float = chz.field(default=0.05, doc="share of the steps with a rising rate")
    clip: float = chz.field(default=2.0, doc="largest gradient norm")
    seed: int = chz.field(default=0, doc="seed of weights, batches and augmentation")

    @chz.validate
    def _check(self):
        for name in ("steps", "batch", "rate", "clip"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")


def fresh(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first weights depend on the seed alone; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("judge weights", seed) % 2**63)
        return build()


def learning_rate(fit: Fit, step: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up, then a cosine that reaches 0 after the last step."""
    warm = max(1, round(fit.warmup * fit.steps))
    if step < warm:
        return fit.rate * (step + 1) / warm
    return fit.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, fit.steps - warm)))


def train(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    fit: Fit,
    title: str,
    folder: Path | None = None,
    console: Console | None = None,
) -> list[float]:
    """Minimise `loss(step)`; returns the losses of the steps done by this call.

    With `folder` the state is kept there now and then, and an interrupted call goes on from it; the
    caller removes the folder when the result is safe. Raises `TrainingError` for a non-finite loss,
    before the optimizer moves.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=fit.rate, betas=(0.9, 0.98), weight_decay=fit.decay)
    step = restore_state(network, optimizer, folder) if folder else 0
    losses: list[float] = []
    saved = time.monotonic()
    network.train()
    with progress(console or Console(), fit.steps, step, title) as advance:
        while step < fit.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(fit, step)
            value = loss(step)
            if not math.isfinite(value.item()):
                raise TrainingError(f"{title}: the loss is {value.item()} at step {step}; lower the rate {fit.rate}")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), fit.clip)
            optimizer.step()
            step += 1
            losses.append(value.item())
            advance(step, f"loss {value.item():.4f}")
            if folder is not None and time.monotonic() - saved > SAVE_SECONDS:
                save_state(network, optimizer, step, folder)
                saved = time.monotonic()
    network.eval()
    return losses
