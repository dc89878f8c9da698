"""Folders of images and audio files, captions in `STEM.txt` beside them or in one JSON lines file.

Files of one stem (`a.png`, `a.wav`, `a.txt`) are one item. The rows of `captions.jsonl` or
`metadata.jsonl` name their files relative to it; a media file that no row names has no caption. The
name of the folder a file lies in is field `folder`, for caption templates.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimask.core.errors import RecordError
from trimask.data.readers import media
from trimask.data.readers.base import Claim, Place, Record, read_bytes
from trimask.data.readers.jsonl import json_records, json_row
from trimask.data.readers.rows import Row, RowReader, inside
from trimask.data.readers.source import Source

TABLES = ("captions.jsonl", "metadata.jsonl")
MEDIA = media.IMAGE_SUFFIXES + media.AUDIO_SUFFIXES
FILE_FIELD = "file_name"
"""Field of the Hugging Face `imagefolder` and `audiofolder` tables that names the file."""


class FolderReader(RowReader):
    format = "folder"

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        found = place.ending(*MEDIA)
        if not found:
            return None
        folders = dict.fromkeys(p.parent for p in found)
        tables = {q for folder in (place.folder, *folders) for n in TABLES if (q := folder / n).is_file()}
        sidecars = {q for p in found if (q := p.with_suffix(".txt")).is_file()}
        files = tuple(sorted(tables | sidecars | set(found)))
        how = "captions in " + next(iter(sorted(t.name for t in tables)), ".txt files beside them")
        return Claim(files, f"{len(found)} image and audio files, {how}")

    @property
    def tables(self) -> tuple[Path, ...]:
        return tuple(p for p in self.files if p.name in TABLES)

    def records(self) -> Iterator[Record | RecordError]:
        named: set[Path] = set()
        field = FILE_FIELD
        for table in self.tables:
            for record in json_records(table, self.name(table)):
                for name, path in _named_files(record, table.parent):
                    named.add(path)
                    field = name
                yield record
        media_files = [p for p in self.files if p.suffix.lower() in MEDIA and p not in named]
        if self.tables:
            yield from (Record(self.name(p), 0, {field: self.name(p)}) for p in media_files)
        else:
            yield from self._groups(media_files)

    def row(self, record: Record) -> Row:
        if isinstance(record.value, bytes):
            return json_row(record)
        row = dict(record.value)
        sidecar = row.pop("sidecar", None)
        try:
            if sidecar is not None:
                row["text"] = read_bytes(self.folder / sidecar).decode("utf-8-sig").strip()
        except UnicodeDecodeError as e:
            raise record.bad(f"invalid UTF-8 in {sidecar} at byte {e.start}") from None
        except ValueError as e:
            raise record.bad(e) from None
        return {**row, "folder": (self.folder / record.file).parent.name}

    def fetch(self, reference: Any, record: Record) -> bytes:
        of_table = isinstance(record.value, bytes) and not self.source.root
        root = (self.folder / record.file).parent if of_table else self.root
        return read_bytes(inside(root, reference))

    def _groups(self, files: list[Path]) -> Iterator[Record]:
        """A record a stem, or a file where a stem has two images or two clips."""
        sidecars = {p for p in self.files if p.suffix == ".txt"}
        rows: dict[Path, Row] = {}
        for path in files:
            field = "image" if path.suffix.lower() in media.IMAGE_SUFFIXES else "audio"
            stem = path.with_suffix("")
            key = path if field in rows.get(stem, {}) else stem
            rows.setdefault(key, {})[field] = self.name(path)
            if (caption := path.with_suffix(".txt")) in sidecars:
                rows[key]["sidecar"] = self.name(caption)
        for row in rows.values():
            yield Record(row.get("image") or row["audio"], 0, row)


def _named_files(record: Record, folder: Path) -> Iterator[tuple[str, Path]]:
    """Fields of a row of a table that name a media file."""
    try:
        row = json_row(record)
    except RecordError:
        return
    for name, value in row.items():
        if isinstance(value, str) and value.lower().endswith(MEDIA):
            yield name, folder / value
