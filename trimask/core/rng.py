"""Counter-based randomness: a draw is a function of what it is for, never of when or where.

Every generator is numpy's Philox keyed by a hash of named parts, e.g.
`generator("corrupt", seed, epoch, item_key, segment)`. Rank, worker, batch size and time do not
appear in any key, so a resumed, re-sharded or re-batched run draws the same numbers.
"""

import hashlib

import numpy as np

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
