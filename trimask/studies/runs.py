"""A table of anyone's runs, read from a file for a law to be fitted to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from trimask.core.errors import DataError, UsageError
from trimask.studies.laws import Table


def read(
    path: Path,
    params: str = "params",
    tokens: str = "tokens",
    loss: str = "loss",
    run: str | None = None,
    shares: Sequence[str] = (),
    unique: str | None = None,
    target: str | None = None,
) -> Table:
    """A table from a CSV or Parquet file, its columns by name; without `run` every row is a training of its own.

    Raises `DataError` that names the column, and the first row (1 is below the header) where a value is missing or not
    what it must be.
    """
    columns = _columns(path)

    def column(name: str) -> pa.ChunkedArray:
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}; there are: {', '.join(columns)}")
        if (empty := np.flatnonzero(columns[name].is_null().to_numpy())).size:
            raise DataError(f"{path}: row {empty[0] + 1} has no {name}")
        return columns[name]

    def numbers(name: str, zero: bool = False) -> np.ndarray:
        found = column(name)
        if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
            texts = enumerate(found.to_pylist(), 1)
            row, text = next((n, t) for n, t in texts if not _is_number(t))
            raise DataError(f"{path}: row {row} has {name}={text}, which is no number")
        values = found.to_numpy(zero_copy_only=False).astype(np.float64)
        fine = np.isfinite(values) & ((values >= 0) if zero else (values > 0))
        if (bad := np.flatnonzero(~fine)).size:
            row, wanted = bad[0], "0 or more" if zero else "positive"
            raise DataError(f"{path}: row {row + 1} has {name}={values[row]:g}, which must be {wanted} and finite")
        return values

    def labels(name: str) -> np.ndarray:
        found = np.array([str(value) for value in column(name).to_pylist()])
        if (empty := np.flatnonzero(found == "")).size:
            raise DataError(f"{path}: row {empty[0] + 1} has no {name}")
        return found

    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path} has no rows below its header")
    params_R, tokens_R, loss_R = numbers(params), numbers(tokens), numbers(loss)
    label_R = np.arange(len(loss_R)) if run is None else labels(run)
    shares_RK = np.stack([numbers(name, zero=True) for name in shares], 1) if shares else None
    if shares_RK is not None and (bad := np.flatnonzero(abs(shares_RK.sum(1) - 1) > 1e-3)).size:
        raise DataError(f"{path}: the shares of row {bad[0] + 1} sum to {shares_RK[bad[0]].sum():g}, not to 1")
    unique_R = None if unique is None else numbers(unique)
    target_R = None if target is None else labels(target)
    return Table(params_R, tokens_R, loss_R, label_R, shares_RK, unique_R, target_R)


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    # A date or a truth value is none either.
    return isinstance(text, str)


def _columns(path: Path) -> Mapping[str, pa.ChunkedArray]:
    readers = {".csv": _separated, ".tsv": _separated, ".parquet": pyarrow.parquet.read_table}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: a table of runs is a .csv, .tsv or .parquet file")
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        table = reader(path)
        names = [name.strip() for name in table.column_names]
    except (pa.ArrowInvalid, UnicodeDecodeError) as e:
        raise DataError(f"{path} cannot be read: {e}") from None
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has two columns {twice[0]!r}")
    return dict(zip(names, table.columns, strict=True))


def _separated(path: Path) -> pa.Table:
    """A text table; what its header has most of is what separates its columns."""
    with path.open("rb") as file:
        header = file.readline()
    by = max(",;\t", key=lambda mark: header.count(mark.encode()))
    return pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=by))
