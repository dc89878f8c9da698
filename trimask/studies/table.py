"""The rows of a study: one JSON object a line, appended as runs end, read back as typed records.

`table.jsonl` is what a kill cannot harm; `table.parquet` is made of it whenever a study is reported, with a column for
every number, for whoever wants to fit something else to it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from trimask.core.errors import DataError
from trimask.core.files import append_json, replacing, whole_lines

TABLE, PARQUET = "table.jsonl", "table.parquet"

Setting = float | int | str


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
    variant: tuple[tuple[str, Setting], ...] = ()
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
    """A training that ended, well or not. Mappings are by modality; what a study does not measure is empty."""

    cell: Cell
    loss: float
    """Bound on held-out data, nats a token over all modalities (of `coordinates`: the last loss of training);
    infinite where the run diverged, nan where it failed."""
    values: Mapping[str, float]
    """The same by modality, or what else the study measures of a run."""
    tokens: int
    """Processed."""
    seconds: float
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of `values`, over batches of the held-out data."""
    processed: Mapping[str, int] = field(default_factory=dict)
    """Tokens."""
    unique: Mapping[str, int] = field(default_factory=dict)
    """Different tokens among them: fewer where data were repeated."""
    params: int = 0
    body: int = 0
    """Parameters of the blocks: without embeddings and output weights."""
    flops: float = 0.0
    """Operations of the training, forward and backward (`model.accounting`)."""
    schedule: str = ""
    """Of the learning rate."""
    failure: str = ""
    """Why there is no loss."""


def total(bounds: Mapping[str, Mapping[str, float]]) -> float:
    """Nats a token over all modalities, of what `train.validation.bounds` returns."""
    tokens = sum(b["tokens"] for b in bounds.values())
    return sum(b["nats"] * b["tokens"] for b in bounds.values()) / tokens


def append(folder: Path, row: Row) -> None:
    """Add a row."""
    append_json(folder / TABLE, asdict(row))


def read(folder: Path) -> list[Row]:
    """All rows, in the order in which they ended. Raises `DataError` for a line that is no row.

    Of a cell that failed and was run again only what came of it last.
    """
    path = folder / TABLE
    rows = [_row(path, number, line) for number, line in enumerate(whole_lines(path), 1)]
    last = {row.cell: number for number, row in enumerate(rows)}
    return [row for number, row in enumerate(rows) if last[row.cell] == number]


def _row(path: Path, number: int, line: str) -> Row:
    try:
        values = json.loads(line)
        cell = dict(values["cell"])
        cell["variant"] = tuple((k, v) for k, v in cell.get("variant", ()))
        return Row(**{**values, "cell": Cell(**cell)})
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}, line {number} is not a row of a study: {e}") from None


def finished(rows: Sequence[Row]) -> list[Row]:
    """Those that have a loss, infinite ones too."""
    return [row for row in rows if not row.failure]


def known(rows: Sequence[Row]) -> dict[Cell, Row]:
    """Finished rows by their cell."""
    return {row.cell: row for row in finished(rows)}


def write_parquet(folder: Path, rows: Sequence[Row]) -> None:
    """`table.parquet` of these rows. What is by modality has a column each, such as `loss.image`."""
    columns = [_flat(row) for row in rows]
    names = dict.fromkeys(name for row in columns for name in row)
    table = pa.table({name: [row.get(name) for row in columns] for name in names})
    with replacing(folder / PARQUET) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def _flat(row: Row) -> dict[str, Setting | bool | None]:
    cell = {k: v for k, v in asdict(row.cell).items() if k != "variant"}
    plain = {k: v for k, v in asdict(row).items() if k != "cell" and not isinstance(v, dict)}
    plain["loss"] = None if math.isnan(row.loss) else row.loss
    parts = {"loss": row.values, "error": row.errors, "processed": row.processed, "unique": row.unique}
    by_modality = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.items()}
    return {"run": row.cell.key, **cell, **{f"set.{k}": v for k, v in row.cell.variant}, **plain, **by_modality}
