"""Parquet tables: text columns, and Hugging Face image and audio columns ({bytes, path} structs)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimask.core.errors import RecordError
from trimask.data.readers.base import Claim, Place, Record, unusable
from trimask.data.readers.rows import Row, RowReader
from trimask.data.readers.source import Source

SUFFIXES = (".parquet",)


class ParquetReader(RowReader):
    format = "parquet"

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        self.label_names = _label_names(files[0])
        super().__init__(source, folder, files, reason)

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        files = place.ending(*SUFFIXES)
        return Claim(files, "Parquet files") if files else None

    def records(self) -> Iterator[Record | RecordError]:
        for number, path in enumerate(self.files):
            yield from parquet_records(path, number, self.name(path))

    def row(self, record: Record) -> Row:
        row = parquet_row(self._open, self.files, record)
        for name, names in self.label_names.items():
            label = row.get(name)
            if isinstance(label, int) and 0 <= label < len(names):
                row.setdefault("name" if name == "label" else f"{name}_name", names[label])
        return row


def parquet_records(path: Path, number: int, name: str) -> Iterator[Record]:
    """A record a row; its value says which file, row group and row of the group."""
    metadata = open_parquet(path).metadata
    position = 0
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            yield Record(name, position, (number, group, row))
            position += 1


def parquet_row(held: dict[Any, Any], files: tuple[Path, ...], record: Record) -> Row:
    """The row of a record; `held` keeps the row group that was read last."""
    import pyarrow as pa

    number, group, row = record.value
    if held.get("group") != (number, group):
        try:
            held["table"] = open_parquet(files[number]).read_row_group(group)
        except (pa.ArrowException, OSError) as e:
            raise unusable(files[number], e) from None
        held["group"] = (number, group)
    try:
        return held["table"].slice(row, 1).to_pylist()[0]
    except UnicodeDecodeError as e:
        raise record.bad(f"invalid UTF-8 in a text column at byte {e.start}") from None


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`; a damaged file is a `DataError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise unusable(path, e) from None


def _label_names(path: Path) -> dict[str, list[str]]:
    """Names of class labels that the Hugging Face `datasets` library keeps in the schema's metadata."""
    metadata = open_parquet(path).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: f["names"] for name, f in features.items() if isinstance(f, dict) and "names" in f}
    except (KeyError, TypeError, ValueError):
        return {}
