"""Counter-based randomness: a draw is a function of what it is for, never of when or where.

A generator is numpy's Philox keyed by a hash of named parts, e.g.
`generator("corrupt", seed, epoch, item_key, segment)`; numbers for many tokens at once are `uniforms`.
Rank, worker, batch size and time do not appear in any key, so a resumed, re-sharded or re-batched run
draws the same numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Part = str | int


def key(*parts: Part) -> int:
    """128-bit key of the given parts; the order and the type of each part matter."""
    text = "\x1f".join(f"{type(p).__name__[0]}{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*parts: Part) -> np.random.Generator:
    """A fresh generator whose stream depends on `parts` alone."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def uniform(*parts: Part) -> float:
    """One number in [0, 1) that depends on `parts` alone, without building a generator."""
    return (key(*parts) >> 75) * 2.0**-53


def row_key(*parts: Part) -> int:
    """A key that fits an int64 tensor, for `uniforms`."""
    return key(*parts) & (2**63 - 1)


def uniforms(key: Tensor, *counters: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float64, that depend on `key` and counters alone: int64 tensors, not scalars; all broadcast.

    A counter-based generator on the tensors' device: key and counters go one after the other through the finalizer of
    SplitMix64 (Steele, Lea and Flood 2014). The same numbers on every device that has float64.
    """
    if key.device.type != "cpu":
        return _bits(key, counters).double() * 2.0**-53
    # Of few numbers a call of numpy costs a fraction of one of torch.
    held = [counter.numpy() if isinstance(counter, Tensor) else counter for counter in counters]
    return torch.from_numpy(_bits(key.numpy(), held) * 2.0**-53)


Words = TypeVar("Words", Tensor, np.ndarray)
"""int64, of which products and sums wrap around."""


def _bits(key: Words, counters: Sequence[Words | int]) -> Words:
    """53 random bits."""
    state = key
    for counter in counters:
        step = (counter + 1) * _GOLDEN
        state = _mixed(state + (_signed(step % 2**64) if isinstance(step, int) else step))
    return _shifted(state, 11)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _shifted(x: Words, bits: int) -> Words:
    """A logical shift to the right; that of int64 keeps the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mixed(x: Words) -> Words:
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)
