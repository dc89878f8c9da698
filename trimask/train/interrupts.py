"""SIGINT and SIGTERM end a run after the current step; full disks and memory end it with one message."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from trimask.core.errors import TrainingError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Interrupt:
    """Whether the run was asked to stop, and by which signal."""

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch the first SIGINT or SIGTERM; a second one acts as usual."""
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


@contextmanager
def clear_failures(run: Path) -> Iterator[None]:
    """Turn a full disk and exhausted device memory into a `TrainingError` that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        number = getattr(e, "errno", None)
        # safetensors reports the system's error in its text only.
        if number in FULL or any(f"os error {n}" in str(e) for n in FULL):
            raise TrainingError(
                f"{run} cannot be written: {e}. The last checkpoint is whole; make room and give the same "
                "command to go on from it"
            ) from None
        raise
    except torch.OutOfMemoryError as e:
        reason = str(e).splitlines()[0]
        raise TrainingError(f"the device is out of memory: {reason}; lower data.rows or model.*") from None
