"""Full disks and exhausted memory end a run with one message."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from trimask.core.errors import TrainingError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
