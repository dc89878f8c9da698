"""Counts and sizes as people write and read them."""

import math
import re

from trimask.core.errors import UsageError

_FACTORS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def count(text: str | int | float) -> int:
    """'30M', '1.5e9', 200_000 -> an integer count. Raises `UsageError` for anything else."""
    if isinstance(text, int | float):
        return int(text)
    match = re.fullmatch(r"\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*", text.lower())
    if not match:
        raise UsageError(f"{text!r} is not a count; write for example 200000, 30M or 1.5e9")
    value = float(match[1]) * _FACTORS[match[2]]
    if math.isinf(value):
        raise UsageError(f"{text!r} is too large for a count")
    return int(value)


def si(value: int | float, unit: str = "") -> str:
    """12_345_678 -> '12.3M': three digits and a decimal prefix."""
    for limit, suffix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}{unit}"
    return f"{value:.3g}{unit}"


def duration(seconds: int | float) -> str:
    """3725 -> '1h02m'; 75 -> '1m15s'; 3.21 -> '3.2s'."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
