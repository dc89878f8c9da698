"""The rows of a study: one JSON object a line, appended as runs end, read back as typed records."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trimask.core.errors import DataError
from trimask.core.files import append_json, whole_lines

TABLE = "table.jsonl"


@dataclass(frozen=True)
class Cell:
    """One training of a study: what is set. Two cells that are equal are the same run."""

    width: int
    depth: int
    rows: int
    """Rows of a step."""
    steps: int
    rate: float
    """Learning rate at the base, `optimizer.rate`."""
    seed: int = 0
    """Of the initial weights and of the data: runs of one seed are compared with each other."""
    parametrization: str = "completep"
    scaled: bool = True
    """Whether settings follow batch and horizon (kappa)."""
    variant: tuple[tuple[str, float], ...] = ()
    """Other settings, (key, value)."""

    @property
    def key(self) -> str:
        """A name for the cell's folder; other settings as a digest."""
        parts = [f"{self.parametrization}-w{self.width}-d{self.depth}-b{self.rows}-n{self.steps}-r{self.rate:.6g}"]
        parts += [] if self.scaled else ["unscaled"]
        if self.variant:
            parts.append(hashlib.sha256(repr(self.variant).encode()).hexdigest()[:12])
        return "-".join([*parts, f"s{self.seed}"])


@dataclass(frozen=True)
class Row:
    """A finished training."""

    cell: Cell
    loss: float
    """Bound on held-out data, nats a token over all modalities (of `coordinates`: the last loss of training);
    infinite where the run diverged."""
    values: Mapping[str, float]
    """The same by modality, or what else the study measures of a run."""
    tokens: int
    seconds: float


def total(bounds: Mapping[str, Mapping[str, float]]) -> float:
    """Nats a token over all modalities, of what `train.validation.bounds` returns."""
    tokens = sum(b["tokens"] for b in bounds.values())
    return sum(b["nats"] * b["tokens"] for b in bounds.values()) / tokens


def append(folder: Path, row: Row) -> None:
    """Add a row."""
    append_json(folder / TABLE, asdict(row))


def read(folder: Path) -> list[Row]:
    """All finished rows, in the order in which they ended. Raises `DataError` for a line that is no row."""
    path = folder / TABLE
    return [_row(path, number, line) for number, line in enumerate(whole_lines(path), 1)]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        values = json.loads(line)
        cell = dict(values["cell"])
        cell["variant"] = tuple((k, v) for k, v in cell.get("variant", ()))
        return Row(**{**values, "cell": Cell(**cell)})
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}, line {number} is not a row of a study: {e}") from None


def known(rows: list[Row]) -> dict[Cell, Row]:
    """Rows by their cell."""
    return {row.cell: row for row in rows}
