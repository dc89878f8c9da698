"""Plain text, also gzipped: documents between separator lines, or a line a record."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from trimask.core.errors import RecordError, UsageError
from trimask.core.item import Item
from trimask.data.readers.base import Claim, Place, Reader, Record, unusable
from trimask.data.readers.source import Source

SUFFIXES = tuple(name + packed for name in (".txt", ".text", ".md") for packed in ("", ".gz"))
SEPARATOR = "<|endoftext|>"
WIKITEXT = r" = [^=].* = "
"""First line of an article in the WikiText sets."""

PROBE = 1 << 22
"""Bytes of a file that are searched for the default separator."""


class Layout(NamedTuple):
    """How a file divides into records."""

    separator: str = ""
    begins: str = ""
    lines: bool = False

    def __str__(self) -> str:
        if self.lines:
            return "a line a record"
        if self.begins:
            return f"documents begin at lines like {self.begins!r}"
        return f"documents between lines {self.separator!r}" if self.separator else "a file a document"


class TextReader(Reader):
    format = "text"
    chunk = 1024

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        super().__init__(source, folder, files, reason)
        self.layout = _layout(source, files)

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        files = place.entries if place.chosen and source.format == "text" else place.ending(*SUFFIXES)
        return Claim(files, "text files") if files else None

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("text",)

    def notes(self) -> tuple[str, ...]:
        return (f"text: {self.layout}",)

    def records(self) -> Iterator[Record | RecordError]:
        for path in self.files:
            name = self.name(path)
            with open_bytes(path) as f:
                for number, data in enumerate(_documents(checked(f, path), self.layout), 1):
                    yield Record(name, number, data, len(data))

    def item(self, record: Record) -> Item:
        try:
            return Item(record.key, {"text": record.value.decode("utf-8-sig")})
        except UnicodeDecodeError as e:
            raise record.bad(f"invalid UTF-8 at byte {e.start} of the record") from None


def open_bytes(path: Path) -> BinaryIO:
    """A file's bytes, decompressed if its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def checked(lines: BinaryIO, path: Path) -> Iterator[bytes]:
    """Lines of a file; a damaged gzip stream is a `DataError`."""
    try:
        yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise unusable(path, f"damaged gzip file ({e})") from None


def _layout(source: Source, files: tuple[Path, ...]) -> Layout:
    separator = source.separator
    if source.begins:
        _check_pattern(source.begins)
        return Layout(begins=source.begins)
    if separator == "auto":
        return _detected(files)
    return Layout(lines=True) if separator == "line" else Layout("" if separator == "file" else separator)


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as e:
        raise UsageError(f"source option begins={pattern}: not a regular expression: {e}") from None


def _detected(files: tuple[Path, ...]) -> Layout:
    for path in files:
        with open_bytes(path) as f:
            lines, seen = checked(f, path), 0
            first = True
            for line in lines:
                shown = line.rstrip(b"\r\n")
                if shown == SEPARATOR.encode():
                    return Layout(SEPARATOR)
                if first and shown.strip():
                    first = False
                    if re.fullmatch(WIKITEXT.encode(), shown):
                        return Layout(begins=WIKITEXT)
                seen += len(line)
                if seen > PROBE:
                    break
    return Layout() if len(files) > 1 else Layout(lines=True)


def _documents(lines: Iterator[bytes], layout: Layout) -> Iterator[bytes]:
    """The records of a file; empty ones are no records."""
    if layout.lines:
        yield from (line for line in (one.rstrip(b"\r\n") for one in lines) if line.strip())
        return
    separator, begins = layout.separator.encode(), re.compile(layout.begins.encode())
    held: list[bytes] = []
    for line in lines:
        shown = line.rstrip(b"\r\n")
        starts = bool(layout.begins) and begins.fullmatch(shown) is not None
        if starts or (separator and shown == separator):
            yield from _joined(held)
            held = [line] if starts else []
        else:
            held.append(line)
    yield from _joined(held)


def _joined(lines: list[bytes]) -> Iterator[bytes]:
    text = b"".join(lines).strip(b"\r\n")
    if text.strip():
        yield text
