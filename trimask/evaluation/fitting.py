"""Training small networks: one loop for every judge, resumable, with progress.

The judges are small enough to be trained on the fly, so this is no training system: a network, a
loss that is a function of the step, AdamW, a warm-up and a cosine.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import chz
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimask.core.errors import TrainingError, UsageError
from trimask.core.files import read_json, replacing, settled
from trimask.core.rng import key
from trimask.core.units import duration

LINE_SECONDS = 15.0
"""Seconds between progress lines when the output is not a terminal."""
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
    step = _restore(network, optimizer, folder)
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
                _save(network, optimizer, step, folder)
                saved = time.monotonic()
    network.eval()
    return losses


@contextmanager
def progress(console: Console, total: int, done: int, title: str) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a plain line now and then. Call it with (done, note)."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda n, note: bar.update(task, completed=n, description=f"{title} {note}")
        return
    started, last = time.monotonic(), [time.monotonic()]

    def line(n: int, note: str) -> None:
        now = time.monotonic()
        if n == total or now - last[0] >= LINE_SECONDS:
            last[0] = now
            left = (total - n) * (now - started) / max(1, n - done)
            console.print(f"{title}: {n} of {total}, {note}, {duration(left)} left", highlight=False)

    yield line


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "step.json").write_text(json.dumps({"step": step}))


def _restore(network: nn.Module, optimizer: torch.optim.Optimizer, folder: Path | None) -> int:
    """Number of finished steps, with network and optimizer as they were then."""
    if folder is None or not settled(folder).exists():
        return 0
    tensors = load_file(folder / "state.safetensors")
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, part = name.split(".")
            moments.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(read_json(folder / "step.json")["step"])
