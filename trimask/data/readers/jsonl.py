"""JSON lines, also gzipped: an object a line, media as file names below the file's folder."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trimask.core.errors import RecordError
from trimask.data.readers.base import Claim, Place, Record
from trimask.data.readers.rows import Row, RowReader, parse_object
from trimask.data.readers.text import checked, open_bytes

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")


class JsonlReader(RowReader):
    format = "jsonl"
    chunk = 256

    @classmethod
    def claim(cls, place: Place, source) -> Claim | None:
        files = place.entries if place.chosen and source.format == "jsonl" else place.ending(*SUFFIXES)
        return Claim(files, "JSON lines files") if files else None

    def records(self) -> Iterator[Record | RecordError]:
        for path in self.files:
            yield from json_records(path, self.name(path))

    def row(self, record: Record) -> Row:
        return json_row(record)


def json_records(path: Path, name: str) -> Iterator[Record]:
    """A record a line that is not blank, numbered as editors number lines."""
    with open_bytes(path) as f:
        for number, line in enumerate(checked(f, path), 1):
            if line.strip():
                yield Record(name, number, line, len(line))


def json_row(record: Record) -> Row:
    try:
        return parse_object(record.value)
    except ValueError as e:
        raise record.bad(e) from None


def first_rows(path: Path, count: int) -> list[Row]:
    """The first readable rows of a file, to recognise its format by."""
    rows = []
    for record in islice(json_records(path, path.name), count):
        try:
            rows.append(json_row(record))
        except RecordError:
            continue
    return rows
