"""Pairs of one name: `NAME.zip` (or a folder `NAME`) with the files, `NAME.jsonl` with a row an item."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimask.core.errors import RecordError
from trimask.data.readers.base import Claim, Place, Record, read_bytes, unusable
from trimask.data.readers.jsonl import json_records, json_row
from trimask.data.readers.rows import Row, RowReader, inside
from trimask.data.readers.source import Source


class ArchiveReader(RowReader):
    format = "archive"

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        files: list[Path] = []
        for stem in dict.fromkeys(_stem(p) for p in place.ending(".jsonl", ".zip")):
            holder = _holder(stem)
            if holder and _table(stem).is_file():
                content = sorted(holder.rglob("*")) if holder.is_dir() else [holder]
                files += [_table(stem), *(p for p in content if p.is_file())]
        return Claim(tuple(files), "NAME.jsonl with a zip or folder NAME beside it") if files else None

    @property
    def tables(self) -> tuple[Path, ...]:
        return tuple(p for p in self.files if p.suffix == ".jsonl" and _holder(_stem(p)))

    def records(self) -> Iterator[Record | RecordError]:
        for path in self.tables:
            yield from json_records(path, self.name(path))

    def row(self, record: Record) -> Row:
        return json_row(record)

    def fetch(self, reference: Any, record: Record) -> bytes:
        holder = _holder(_stem(self.folder / record.file))
        if holder is None:
            raise ValueError(f"the zip or folder of {record.file} is gone")
        if holder.is_dir():
            return read_bytes(inside(holder, reference))
        return _member(self._zip(holder), reference)

    def _zip(self, path: Path) -> zipfile.ZipFile:
        if path not in self._open:
            try:
                self._open[path] = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as e:
                raise unusable(path, e) from None
        return self._open[path]


def _member(archive: zipfile.ZipFile, reference: Any) -> bytes:
    if not isinstance(reference, str):
        raise ValueError(f"a file name must be a string, got {type(reference).__name__}")
    try:
        return archive.read(reference)
    except KeyError:
        raise ValueError(f"file {reference!r} is not in {Path(archive.filename or '').name}") from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as e:
        raise ValueError(f"file {reference!r} cannot be taken out of the zip: {e}") from None


def _stem(path: Path) -> Path:
    return path.with_name(path.name.rpartition(".")[0])


def _table(stem: Path) -> Path:
    return stem.with_name(stem.name + ".jsonl")


def _holder(stem: Path) -> Path | None:
    """The zip or the folder that goes with a table."""
    archive = stem.with_name(stem.name + ".zip")
    return archive if archive.is_file() else stem if stem.is_dir() else None
