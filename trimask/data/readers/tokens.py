"""Already tokenised rows (Parquet, JSON lines): a column per kind holding nested lists of codes.

The schema is strict. `key` (string) and `labels` (object) are optional; every other column is a kind
with local codes in the natural shape of its modality: text `[id, ...]`, image `[[id, ...], ...]`
(rows of equal length), speech and sound `[[level, ...], ...]` (a list a frame).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trimask.core.errors import DataError, RecordError
from trimask.core.modality import KINDS
from trimask.data.readers.base import Claim, Place, Reader, Record
from trimask.data.readers.jsonl import SUFFIXES, first_rows, json_records, json_row
from trimask.data.readers.parquet import open_parquet, parquet_records, parquet_row
from trimask.data.readers.source import Source
from trimask.data.shards import TokenItem

DIMENSIONS = {"text": 1, "image": 2, "audio": 2}
SHOWN = 160
"""Characters of an offending row that an error message quotes."""

EXTRA = ("key", "labels")


class TokensReader(Reader):
    format = "tokens"
    chunk = 1024

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        super().__init__(source, folder, files, reason)
        self.fields = {source.fields.get(k, k): k for k in KINDS}
        self.columns = self._columns()

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        files = place.ending(".parquet") or place.ending(*SUFFIXES)
        if not files or (source.format != "tokens" and not _holds_codes(files[0], source)):
            return None
        return Claim(files, "rows of integer lists (already tokenised)")

    @property
    def kinds(self) -> tuple[str, ...]:
        present = {self.fields[c] for c in self.columns if c in self.fields}
        return tuple(k for k in KINDS if k in present and self.source.keeps(k))

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{self.fields[c]}: codes in column {c!r}" for c in self.columns if c in self.fields)

    def records(self) -> Iterator[Record | RecordError]:
        for number, path in enumerate(self.files):
            if path.suffix == ".parquet":
                yield from parquet_records(path, number, self.name(path))
            else:
                yield from json_records(path, self.name(path))

    def row(self, record: Record) -> dict[str, Any]:
        if isinstance(record.value, bytes):
            return json_row(record)
        return parquet_row(self._open, self.files, record)

    def item(self, record: Record) -> TokenItem:
        row = self.row(record)
        try:
            self._check_columns(list(row))
            parts = {
                self.fields[name]: codes(name, self.fields[name], value)
                for name, value in row.items()
                if name in self.fields and value is not None and self.source.keeps(self.fields[name])
            }
            return TokenItem(_key(row, record), _complete(parts, self.source), _labels(row))
        except ValueError as e:
            raise record.bad(f"{e}; row: {_shown(row)}") from None

    def _columns(self) -> tuple[str, ...]:
        if self.files[0].suffix == ".parquet":
            columns = open_parquet(self.files[0]).schema_arrow.names
            try:
                self._check_columns(columns)
            except ValueError as e:
                raise DataError(f"{self.files[0]}: {e}") from None
        else:
            columns = dict.fromkeys(name for row in first_rows(self.files[0], 100) for name in row)
        return tuple(columns)

    def _check_columns(self, columns: list[str]) -> None:
        unknown = [c for c in columns if c not in self.fields and c not in EXTRA]
        if unknown:
            raise ValueError(f"column {unknown[0]!r} is not part of the schema ({', '.join((*EXTRA, *self.fields))})")


def codes(name: str, kind: str, value: Any) -> np.ndarray:
    """A nested list of integers -> int32 codes in the shape of the kind. Raises `ValueError`."""
    expected = DIMENSIONS[KINDS[kind]]
    depth, inner = 0, value
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0] if inner else None
    if depth != expected:
        raise ValueError(f"column {name!r} ({kind}) must be a list nested {expected} deep, got {depth}")
    try:
        array = np.array(value)
    except ValueError:
        raise ValueError(f"column {name!r} ({kind}) has inner lists of different lengths") from None
    if array.size == 0:
        raise ValueError(f"column {name!r} ({kind}) is empty")
    if array.dtype.kind not in "iu" or array.ndim != expected:
        raise ValueError(f"column {name!r} ({kind}) must hold integers only")
    if array.min() < 0 or array.max() >= 2**31:
        raise ValueError(f"column {name!r} ({kind}) holds {array.min()}..{array.max()}; codes start at 0")
    return array.astype(np.int32)


def _key(row: dict[str, Any], record: Record) -> str:
    key = row.get("key")
    if key is not None and not isinstance(key, str):
        raise ValueError(f"column 'key' must be a string, got {type(key).__name__}")
    return key or record.key


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    labels = row.get("labels")
    if labels is not None and not isinstance(labels, dict):
        raise ValueError(f"column 'labels' must be an object, got {type(labels).__name__}")
    return labels or {}


def _complete(parts: dict[str, np.ndarray], source: Source) -> dict[str, np.ndarray]:
    missing = [k for k in source.require if k not in parts]
    if missing or not parts:
        raise ValueError(f"no codes of kind {missing[0]!r}" if missing else "no codes of any kind")
    return parts


def _shown(row: dict[str, Any]) -> str:
    text = repr(row)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _holds_codes(path: Path, source: Source) -> bool:
    names = [source.fields.get(k, k) for k in KINDS]
    if path.suffix == ".parquet":
        import pyarrow as pa

        schema = open_parquet(path).schema_arrow
        return any(n in schema.names and _is_integer_list(schema.field(n).type, pa) for n in names)
    values = [row.get(n) for row in first_rows(path, 10) for n in names]
    return any(isinstance(v, list) and v and isinstance(v[0], int | list) for v in values)


def _is_integer_list(kind: Any, pa: Any) -> bool:
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth > 0 and pa.types.is_integer(kind)
