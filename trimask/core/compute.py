"""Devices and compute types by the names that people write."""

import os
from collections.abc import Mapping

import torch

from trimask.core.errors import UsageError

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda", "mps")


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA, then MPS, then the CPU. Raises `UsageError`."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(d for d, here in there.items() if here))
    kind = name.split(":")[0]
    if kind not in there:
        raise UsageError(f"device {name!r} is unknown; there are: {', '.join(DEVICES)}")
    if not there[kind]:
        raise UsageError(
            f"device {name!r} is not there: this machine has {', '.join(d for d, ok in there.items() if ok)}"
        )
    return torch.device(name)


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The compute type of a name; "auto" is bf16 on CUDA, else fp32. Raises `UsageError`."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r} is unknown; there are: auto, {', '.join(DTYPES)}")
    return DTYPES[name]
