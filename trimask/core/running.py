"""What long work needs: an end asked for by a signal, progress that people can follow, checkpoints of a small loop."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trimask.core.errors import ArtifactError
from trimask.core.files import read_json, replacing, settled
from trimask.core.units import duration

LINE_SECONDS = 15.0
"""Seconds between progress lines where the output is not a terminal."""


class Interrupt:
    """Whether the work was asked to stop, and by which signal."""

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch the first SIGINT or SIGTERM, so that the step at hand can be finished; a second one acts as usual."""
    asked = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for s, handler in before.items():
            signal.signal(s, handler)

    def handle(number: int, _frame: object) -> None:
        asked.name = signal.Signals(number).name
        put_back()

    for s in before:
        signal.signal(s, handle)
    try:
        yield asked
    finally:
        put_back()


def end_with_parent(*_: object) -> None:
    """End this process when its parent does: a killed parent cannot tell its workers to stop.

    Takes what whoever starts the worker passes; a process without a parent goes on.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


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
            # What is to be done may turn out to be more.
            most = max(total, n)
            left = (most - n) * (now - started) / max(1, n - done)
            console.print(f"{title}: {n} of {most}, {note}, {duration(left)} left", highlight=False)

    yield line


def save_state(network: nn.Module, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    """Write a checkpoint folder of a small loop, atomically: weights, moments, number of finished steps."""
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
    with replacing(folder) as temporary:
        temporary.mkdir()
        # As bytes: safetensors' own writer hides which error of the disk it met.
        (temporary / "state.safetensors").write_bytes(save(tensors))
        (temporary / "step.json").write_text(json.dumps({"step": step}))


def restore_state(network: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Read what `save_state` wrote, if it is there; returns the number of finished steps. Raises `ArtifactError`."""
    if not settled(folder).exists():
        return 0
    try:
        tensors = load_file(folder / "state.safetensors")
        network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
    except (OSError, SafetensorError, RuntimeError) as e:
        raise ArtifactError(f"{folder} cannot be resumed: {e}; delete it to start again") from None
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, part = name.split(".")
            moments.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(read_json(folder / "step.json")["step"])
