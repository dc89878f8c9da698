"""WebDataset: tar files whose members `KEY.EXT` of one KEY are one record (`.txt`, `.json`, `.png`, ...).

The fields of a record are its extensions, but images are field `image` and clips field `audio`. Members
of a record stand next to each other, as the format asks. Only headers are read to list them.
"""

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from trimask.core.errors import RecordError
from trimask.data.readers import media
from trimask.data.readers.base import Claim, Place, Record, unusable
from trimask.data.readers.rows import Row, RowReader, parse_object
from trimask.data.readers.source import Source

TEXT_EXTENSIONS = ("txt", "text", "caption", "cls", "transcript")


class Member(NamedTuple):
    """Where the bytes of a member lie in its tar file."""

    name: str
    offset: int
    size: int


class WebDatasetReader(RowReader):
    format = "webdataset"

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        files = place.ending(".tar")
        return Claim(files, "tar files (WebDataset)") if files else None

    def records(self) -> Iterator[Record | RecordError]:
        for path in self.files:
            name = self.name(path)
            for key, members in groupby(_members(path), lambda m: _split(m.name)[0]):
                yield Record(name, key, {_split(m.name)[1]: m for m in members})

    def row(self, record: Record) -> Row:
        row: Row = {"__key__": record.position}
        for extension, member in record.value.items():
            try:
                row |= self._fields(extension, member, record)
            except UnicodeDecodeError as e:
                raise record.bad(f"invalid UTF-8 in member {member.name} at byte {e.start}") from None
            except ValueError as e:
                raise record.bad(f"member {member.name}: {e}") from None
        return row

    def fetch(self, reference: Any, record: Record) -> bytes:
        if not isinstance(reference, Member):
            raise ValueError(f"file {reference!r} is not a member of the record")
        return self._bytes(reference, record)

    def _fields(self, extension: str, member: Member, record: Record) -> Row:
        if extension == "json":
            return parse_object(self._bytes(member, record))
        if extension in TEXT_EXTENSIONS:
            text = self._bytes(member, record).decode("utf-8-sig").strip()
            return {"label": int(text)} if extension == "cls" and text.isdecimal() else {extension: text}
        return {_field(extension): member}

    def _bytes(self, member: Member, record: Record) -> bytes:
        path = self.folder / record.file
        if path not in self._open:
            self._open.clear()
            self._open[path] = path.open("rb")
        file = self._open[path]
        file.seek(member.offset)
        data = file.read(member.size)
        if len(data) != member.size:
            raise ValueError(f"the tar file ends after {len(data)} of {member.size} bytes")
        return data


def _members(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isfile():
                    yield Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError) as e:
        raise unusable(path, e, "an uncompressed tar file is expected") from None


def _split(name: str) -> tuple[str, str]:
    """'a/b.c.png' -> ('a/b', 'c.png'): the key ends at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _field(extension: str) -> str:
    """`png` and `jpg` are both field `image`: the type of the file may differ between records."""
    return media.sniff(f"x.{extension}") or extension if "." not in extension else extension
