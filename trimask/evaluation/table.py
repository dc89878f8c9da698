"""The typed table of results, and what sections show beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trimask.core.item import Audio
from trimask.evaluation.transcripts import Rate


@dataclass(frozen=True)
class Result:
    """One figure. `error` is its standard error; `reference` the figure to hold it against."""

    metric: str
    value: float
    n: int
    """Number of independent cases: pictures, clips, texts."""
    error: float | None = None
    unit: str = ""
    reference: float | None = None
    against: str = ""
    """What the reference is: "the judge on real test images"."""
    note: str = ""

    def json(self) -> dict[str, Any]:
        """JSON object; a value that is not finite becomes null."""
        return {k: _finite(v) for k, v in asdict(self).items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def row(metric: str, rate: Rate, reference: float | None = None, against: str = "", note: str = "") -> Result:
    """The row of a rate."""
    return Result(metric, rate.value, rate.n, rate.error, "", reference, against, note)


@dataclass(frozen=True)
class Pictures:
    """A grid of pictures, uint8 (Y, X, 3), with a line under each and a mark (right, wrong, none)."""

    title: str
    images: Sequence[np.ndarray]
    lines: Sequence[str]
    marks: Sequence[bool | None] = ()


@dataclass(frozen=True)
class Recordings:
    """Clips to listen to, with a line for each."""

    title: str
    clips: Sequence[Audio]
    lines: Sequence[str]


@dataclass(frozen=True)
class Lines:
    """A table of texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Findings:
    """What a section found."""

    results: Sequence[Result]
    pictures: Sequence[Pictures] = field(default_factory=tuple)
    recordings: Sequence[Recordings] = field(default_factory=tuple)
    lines: Sequence[Lines] = field(default_factory=tuple)


def shown(value: float | None) -> str:
    """A figure for people: four digits."""
    return "" if value is None else f"{value:.4g}"


def beside(result: Mapping[str, Any]) -> str:
    """The reference with what it is of."""
    return "" if result["reference"] is None else f"{shown(result['reference'])} ({result['against']})"
