"""Where and how to compute: device, compute type and compilation, chosen by short measurements."""

import functools
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trimask.core.compute import DTYPES, device_of
from trimask.core.units import duration, si
from trimask.model.block import Block, everywhere, rope_table
from trimask.model.config import ModelConfig

CLEARLY_FASTER = 1.1
"""A choice with a price (rounding, compilation) must be faster by this factor."""
COMPILE_PAYS = 240
"""Seconds a run must be expected to last before compilation can pay for itself."""


@dataclass(frozen=True)
class Pace:
    """How fast a run spends its budget."""

    seconds: float | None = None
    """Of a step."""
    whole: bool = False
    """Whether whole steps were timed on real batches; else it is what a block alone lets expect, and the least."""
    density: float | None = None
    """Processed tokens of a position, counted on the data; None: as at the base point."""


@dataclass(frozen=True)
class Compute:
    """The choices of a run, kept in its folder so that a resumed run computes the same."""

    device: str
    dtype: str
    compile: bool
    matmul_rate: float
    """FLOP/s of a large matrix product in `dtype` on `device`."""
    reasons: tuple[str, ...]
    """One sentence per choice, printed at the start."""
    block_seconds: float | None = None
    """Time of one block on a pass's batch, where it was wanted."""
    step_seconds: float | None = None
    """Time of a whole step, where the run's length is a time."""
    density: float | None = None
    """Processed tokens of a position, where the run's length is a number of tokens."""

    @property
    def pace(self) -> Pace:
        """What turns a budget into steps."""
        return Pace(self.step_seconds, self.step_seconds is not None, self.density)


def seconds(work: Callable[[], Any], where: torch.device, repeats: int = 5, limit: float = 1.5) -> float:
    """Best time of `work` after one warm-up call; fewer repeats once `limit` seconds are spent.

    The best and not the mean: other programs on the machine only ever add time.
    """
    work()  # compiles, where it is compiled; it does not count towards the limit
    synchronize(where)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begin < limit):
        start = time.perf_counter()
        work()
        synchronize(where)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize(where: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if where.type == "cuda":
        torch.cuda.synchronize()
    elif where.type == "mps":
        torch.mps.synchronize()


def matmul_rate(where: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, large enough to fill the device."""
    n = 8192 if where.type == "cuda" else 1024
    a = torch.randn(n, n, device=where, dtype=dtype)
    return 2 * n**3 / seconds(lambda: a @ a, where)


def block_seconds(
    config: ModelConfig, rows: int, slots: int, where: torch.device, dtype: torch.dtype, compiled: bool = False
) -> float:
    """Time of one block, forward and backward, on a batch of the given size."""
    module = Block(config).to(where)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.02)
    block = torch.compile(module) if compiled else module
    x = torch.randn(rows, slots, config.width, device=where, dtype=dtype, requires_grad=True)
    coords = torch.arange(slots, device=where, dtype=torch.float32)[None, :, None].expand(rows, -1, 2)
    rope = rope_table(coords, config.head_dim, config.rope_base, dtype)
    reach = everywhere(torch.ones(rows, 1, slots, slots, dtype=torch.bool, device=where))

    def work() -> None:
        block(x, rope, reach).float().square().mean().backward()

    return seconds(work, where)


def choose(
    wanted: tuple[str, str, str],
    config: ModelConfig,
    rows: int,
    slots: int,
    expected_seconds: Callable[[float], float],
    timed: bool = False,
) -> Compute:
    """Settle the wanted (device, dtype, compile) by measuring.

    `expected_seconds` maps the time of a block to an estimate of the time of the whole run. With `timed` a block is
    timed even where nothing is to be chosen.
    """
    where = device_of(wanted[0])

    @functools.cache
    def measure(dtype: str, compiled: bool) -> float:
        return block_seconds(config, rows, slots, where, DTYPES[dtype], compiled)

    dtype, why_dtype = _dtype(wanted[1], measure)
    compiled, why_compile = _compile(wanted[2], functools.partial(measure, dtype), expected_seconds, where)
    rate = matmul_rate(where, DTYPES[dtype])
    speed = f"matrix products run at {si(rate, 'FLOP/s')} on {name(where)}"
    block = measure(dtype, compiled) if timed else None
    return Compute(where.type, dtype, compiled, rate, (why_dtype, why_compile, speed), block)


def _dtype(wanted: str, measure: Callable[[str, bool], float]) -> tuple[str, str]:
    """(compute type, why). `measure(dtype, False)` is the time of a block in it."""
    if wanted != "auto":
        return wanted, f"compute in {wanted}: asked for"
    times = {d: measure(d, False) for d in DTYPES}
    gain = times["fp32"] / times["bf16"]
    chosen = "bf16" if gain > CLEARLY_FASTER else "fp32"
    measured = ", ".join(f"{d} {1000 * t:.1f} ms" for d, t in times.items())
    rule = f"bf16 is taken if it is at least {CLEARLY_FASTER} times as fast; it is {gain:.2f}"
    return chosen, f"compute in {chosen}: a block takes {measured} ({rule}); weights stay fp32"


def _compile(
    wanted: str, measure: Callable[[bool], float], expected_seconds: Callable[[float], float], where: torch.device
) -> tuple[bool, str]:
    """(whether to compile, why). `measure(True)` is the time of a compiled block, `measure(False)` of a plain one."""
    if wanted != "auto":
        return wanted == "on", f"torch.compile {wanted}: asked for"
    if where.type == "mps":
        return False, "torch.compile off: not used on this device"
    eager = measure(False)
    expected = expected_seconds(eager)
    if expected < COMPILE_PAYS:
        return False, f"torch.compile off: the run is short (about {duration(expected)}) beside compiling"
    try:
        gain = eager / measure(True)
    except Exception as e:  # a missing compiler and a failed compilation are the same answer, with its reason
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:120]
        return False, f"torch.compile off: it does not work here ({reason})"
    pays = gain > CLEARLY_FASTER
    return pays, f"torch.compile {'on' if pays else 'off'}: a compiled block is {gain:.2f} times as fast"


def name(where: torch.device) -> str:
    """The device in words: "NVIDIA H200", "2 threads of x86_64"."""
    if where.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of {platform.machine()}" if where.type == "cpu" else where.type


@contextmanager
def deterministic(where: torch.device) -> Iterator[None]:
    """Run with deterministic algorithms, so that a run can be repeated bit for bit on one machine.

    On other devices than the CPU an operation without one only warns.
    """
    before = torch.get_deterministic_debug_mode()
    if where.type == "cpu":
        # The longer way around imports the compiler, which takes seconds.
        torch.set_deterministic_debug_mode("error")
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    settings: Any = torch.utils.deterministic
    fill, settings.fill_uninitialized_memory = settings.fill_uninitialized_memory, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        settings.fill_uninitialized_memory = fill
