"""From a path to a reader: which files belong to the source, and which format they have.

The formats are asked in the order of `READERS`; the first that claims the place reads it, and says why.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from trimask.core.errors import DataError, RecordError, UsageError
from trimask.core.item import Item
from trimask.core.remote import local
from trimask.data.readers.archive import ArchiveReader
from trimask.data.readers.base import Place, Reader, Record
from trimask.data.readers.folder import FolderReader
from trimask.data.readers.idx import IdxReader
from trimask.data.readers.jsonl import JsonlReader
from trimask.data.readers.parquet import ParquetReader
from trimask.data.readers.source import Source, existing, parse
from trimask.data.readers.text import TextReader
from trimask.data.readers.tokens import TokensReader
from trimask.data.readers.webdataset import WebDatasetReader
from trimask.data.readers.world import WorldReader
from trimask.data.shards import TokenItem

READERS: tuple[type[Reader], ...] = (
    ArchiveReader,
    WebDatasetReader,
    TokensReader,
    ParquetReader,
    IdxReader,
    FolderReader,
    JsonlReader,
    TextReader,
)

SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "t10k", "eval")
DATA_FOLDER = "data"
"""Subfolder in which Hugging Face data sets keep their files."""

NOTICES = ("source.md", "readme.md", "license", "licence", "copying", "contributors", "attribution")
"""Beginnings of names of files that describe a folder and are no data."""


def open_reader(source: Source | str) -> Reader:
    """The reader of a source.

    Raises `DataError` when nothing can be read there and `UsageError` when the source is ambiguous.
    """
    source = parse(source)
    if source.is_world:
        return WorldReader(source, Path(), (), "the built-in world")
    place = find_place(source)
    wanted = [r for r in READERS if source.format in ("auto", r.format)]
    for reader in wanted:
        claim = reader.claim(place, source)
        if claim is not None:
            return reader(source, place.folder, claim.files, claim.reason)
    names = ", ".join(p.name for p in place.entries[:8]) or "nothing"
    formats = ", ".join(r.format for r in wanted)
    raise DataError(f"{source}: no files of format {formats} among: {names}")


def read(source: Source | str) -> Iterator[Item | TokenItem | RecordError]:
    """All records of a source in order; a bad record is yielded as the error it is."""
    reader = open_reader(source)
    for record in reader.selected():
        if record is not None:
            yield decode(reader, record)


def decode(reader: Reader, record: Record | RecordError) -> Item | TokenItem | RecordError:
    """An item, or the reason why there is none."""
    if isinstance(record, RecordError):
        return record
    try:
        return reader.item(record)
    except RecordError as e:
        return e


def find_place(source: Source) -> Place:
    """The folder and the entries that a path, pattern or split names."""
    if glob.has_magic(source.path) and not Path(source.path).exists():
        return _matching(source)
    path = existing(str(local(source.path)))
    if path.is_file():
        if source.split:
            raise UsageError(f"{source}: a split is a part of a folder, but {path} is a file")
        return Place(path.parent, (path,), chosen=True)
    return _split_place(path, source) if source.split else _whole_place(path, source)


def _matching(source: Source) -> Place:
    paths = sorted(Path(p) for p in glob.glob(str(local(source.path)), recursive=True))
    if not paths:
        raise DataError(f"no file matches {source.path}")
    if source.split:
        raise UsageError(f"{source}: give either a pattern or a split")
    folder = Path(os.path.commonpath([p.parent for p in paths]))
    return Place(folder, tuple(paths), chosen=True)


def _split_place(folder: Path, source: Source) -> Place:
    split = source.split or ""
    if (folder / split).is_dir() and not _entries_of(folder, split):
        return _whole_place(folder / split, source)
    for place in (folder, folder / DATA_FOLDER):
        for name in (split, "t10k") if split == "test" else (split,):
            entries = _entries_of(place, name)
            if entries:
                return Place(place, entries)
    raise DataError(
        f"{folder} has no split {split!r}, that is no file or folder {split}, {split}.*, {split}-*, {split}_*; "
        f"it has: {', '.join(_splits(folder)) or 'no known split'}"
    )


def _entries_of(folder: Path, split: str) -> tuple[Path, ...]:
    """Files named `SPLIT.*`, `SPLIT-*`, `SPLIT_*`."""
    if not folder.is_dir():
        return ()
    return tuple(p for p in sorted(folder.iterdir()) if p.is_file() and p.name.startswith(_starts(split)))


def _whole_place(folder: Path, source: Source) -> Place:
    splits = _splits(folder)
    if len(splits) > 1:
        raise UsageError(f"{source} has several parts ({', '.join(splits)}); name one: {source.path}:{splits[0]}")
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return Place(folder, tuple(p for p in files if not p.name.lower().startswith(NOTICES)))


def _splits(folder: Path) -> tuple[str, ...]:
    folders = [folder, folder / DATA_FOLDER]
    names = [p.name for f in folders if f.is_dir() for p in f.iterdir()]
    return tuple(s for s in SPLIT_NAMES if any(n == s or n.startswith(_starts(s)) for n in names))


def _starts(split: str) -> tuple[str, ...]:
    return tuple(split + mark for mark in ".-_")
