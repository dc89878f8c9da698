"""What `trimask tune` tries of each option of sampling."""

from collections.abc import Mapping
from typing import Any

_TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, "1:0.3", "0.4:1")
_SHARED: Mapping[str, tuple[Any, ...]] = {
    "steps": (4, 6, 8, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128),
    "temperature": _TEMPERATURES,
    "top_p": (0.8, 0.9, 0.95, 1.0),
    "cache": ("none", "changed", "changed:every=8", "changed:every=4", "changed:after=0.1", "target"),
}
_GUIDANCE = (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, "0:3", "0.7@0-0.6", "1@0-0.6", "2@0-0.6", "1@0-0.3", "2@0-0.3")
Family = tuple[str, ...]
"""Samplers that differ in one number, by its size."""


def _family(name: str, *values: float) -> Family:
    return tuple(f"{name}={value:g}" for value in values)


_PLAIN: tuple[Family, ...] = (
    ("random-order",),
    ("random-order:counts=cosine",),
    ("confidence:by=entropy",),
    _family("confidence:gumbel", 0, 1, 2, 4, 8),
    _family("confidence:by=entropy,gumbel", 1, 2, 4, 8),
    _family("threshold:probability", 0.7, 0.8, 0.9, 0.97),
    _family("threshold:factor", 0.1, 0.2, 0.35, 0.5, 0.7, 1, 1.5),
    _family("entropy-bounded:gumbel=0,bound", 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2),
    _family("entropy-bounded:gumbel=2,bound", 0.05, 0.1, 0.25, 0.5, 1),
    _family("entropy-bounded:gumbel=4,bound", 0.05, 0.1, 0.25, 0.5, 1),
    ("planning",),
    ("remasking",),
)
_OF_GRID: Mapping[str, tuple[Family, ...]] = {
    "line": (
        ("blockwise:block=1,inner=random-order",),
        _family("blockwise:block", 4, 8, 32),
        ("blockwise:block=8,inner=threshold",),
    ),
    "plane": (),
    "frames": (("level-ordered:inner=random-order",), ("level-ordered",), ("blockwise:block=16,inner=random-order",)),
}
ORDERED = ("steps", "temperature", "top_p")
"""Options whose neighbours are tried first."""
FIRST: Mapping[str, tuple[Any, ...]] = {"steps": (64, 16, 4), "guidance": (0.0, 0.5, 2.0), "temperature": (0.3, 0.7)}
"""What is tried of an option by itself."""
_FREE = {"guidance": 0.5, "temperature": 1.0}
_EVEN = {"guidance": 0.7, "temperature": 0.5, "top_p": 0.95}
_FEW, _MANY = {"steps": 16, **_EVEN}, {"steps": 64, **_EVEN}
TOGETHER: tuple[Mapping[str, Any], ...] = (
    {"sampler": "entropy-bounded:gumbel=4,bound=0.05", **_FEW},
    {"sampler": "entropy-bounded:gumbel=4,bound=0.05", **_FEW, "temperature": "0.4:1"},
    {"sampler": "entropy-bounded:gumbel=4,bound=0.05", **_FEW, "guidance": "0.7@0-0.6"},
    {"sampler": "confidence:by=entropy,gumbel=4", **_MANY},
    {"sampler": "confidence:by=entropy,gumbel=4", **_MANY, "temperature": "0.4:1"},
    {"sampler": "entropy-bounded:gumbel=4,bound=0.1", **_EVEN, "steps": 14, "temperature": 0.7},
    {"sampler": "entropy-bounded:gumbel=4,bound=0.25", **_FEW},
    {"sampler": "random-order", **_MANY},
    {"sampler": "confidence:gumbel=4", "steps": 64, **_FREE, "temperature": 0.7},
    {"sampler": "confidence:by=entropy,gumbel=2", "steps": 64, "guidance": 0.7, "temperature": 0.2},
    {"sampler": "confidence:by=entropy,gumbel=2", "steps": 16, "guidance": 0.7, "temperature": 0.2},
    {"sampler": "entropy-bounded:gumbel=2,bound=0.25", "guidance": 0.7, "temperature": 0.3},
    {"sampler": "entropy-bounded:gumbel=4,bound=0.5", "guidance": 0.7, "temperature": 0.2},
    {"sampler": "entropy-bounded:gumbel=0,bound=0.1", **_FREE},
    {"sampler": "confidence:by=entropy", "steps": 64, **_FREE},
    {"sampler": "threshold:factor=0.35", **_FREE},
    {"sampler": "planning", "steps": 16, **_FREE},
)
"""Combinations that no change of one option finds (dev/LOG.md): guidance makes a model surer, so those that reveal what
is sure want little of it, and a low temperature makes all of their pictures one."""


def families(grid: str) -> tuple[Family, ...]:
    """Samplers that are tried."""
    return (*_PLAIN, *_OF_GRID[grid])


def space(task: str, grid: str) -> dict[str, tuple[Any, ...]]:
    """Options that are tried -> their values."""
    out = {"sampler": tuple(name for family in families(grid) for name in family), **_SHARED}
    return {**out, "guidance": _GUIDANCE} if ">" in task else out
