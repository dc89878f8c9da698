"""What every reader is: a cheap ordered list of records, and a way to turn one into an item.

`records` runs in one process and touches as little as it can; `item` decodes and may run anywhere,
so a reader can be pickled (its open files are reopened on the other side).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from trimask.core.errors import DataError, RecordError, UsageError
from trimask.core.item import Item
from trimask.data.readers.source import Source
from trimask.data.shards import TokenItem


class Record(NamedTuple):
    """A reference to one record: what `item` needs, and what error messages quote."""

    file: str
    position: str | int
    value: Any
    size: int = 0
    """Bytes of content carried in `value`."""

    @property
    def key(self) -> str:
        return f"{self.file}#{self.position}"

    def bad(self, reason: object) -> RecordError:
        return RecordError(self.file, self.position, str(reason))


@dataclass(frozen=True)
class Place:
    """Where a source looks: a folder, and in order the entries of it that belong to the source.

    `chosen` says that the user named the entries (a file or a pattern), not the folder.
    """

    folder: Path
    entries: tuple[Path, ...]
    chosen: bool = False

    def ending(self, *suffixes: str) -> tuple[Path, ...]:
        return tuple(p for p in self.entries if p.is_file() and p.name.lower().endswith(suffixes))


@dataclass(frozen=True)
class Claim:
    """A format's answer to a place: the files it would read and why it thinks they are its own."""

    files: tuple[Path, ...]
    reason: str


class Reader(ABC):
    """Reads one format. `files` are all files whose bytes decide the result."""

    format: ClassVar[str]
    chunk: ClassVar[int] = 64
    """Records that `prepare` hands to a worker at once."""

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        self.source, self.folder, self.files, self.reason = source, folder, files, reason
        self._open: dict[Any, Any] = {}

    @classmethod
    @abstractmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        """The files of this format at a place, or None."""

    @abstractmethod
    def records(self) -> Iterator[Record | RecordError]:
        """All records in a fixed order; an error stands in the place of a record that has none."""

    @abstractmethod
    def item(self, record: Record) -> Item | TokenItem:
        """Decode one record. Raises `RecordError`."""

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """The kinds its items may have."""

    def notes(self) -> tuple[str, ...]:
        """What was decided while opening (fields found, separators, templates)."""
        return ()

    def row(self, record: Record) -> Mapping[str, Any]:
        """The fields that `where` conditions look at. Raises `RecordError`."""
        raise UsageError(
            f"source option where={','.join(self.source.where)}: a {self.format} source has no fields to look at"
        )

    def selected(self) -> Iterator[Record | RecordError | None]:
        """Records within the limit; None stands for one that `where` leaves out."""
        number = 0
        for record in self.records():
            if isinstance(record, Record) and self.source.where:
                record = self._admitted(record)
            if record is not None:
                number += 1
            yield record
            if number == self.source.limit:
                return

    def _admitted(self, record: Record) -> Record | RecordError | None:
        try:
            return record if self.source.admits(self.row(record)) else None
        except RecordError as e:
            return e

    def name(self, path: Path) -> str:
        """How messages and keys call a file: relative to the source's folder where it lies inside."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def read_bytes(path: Path) -> bytes:
    """Bytes of a file that must be there; `ValueError` with the reason for one record's file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"file {path} does not exist") from None
    except OSError as e:
        raise ValueError(f"file {path} cannot be read: {e.strerror}") from None


def unusable(path: Path, reason: object, advice: str = "copy or fetch it again") -> DataError:
    """A container is damaged: what of it is lost is unknown, so the source stops."""
    return DataError(f"{path} cannot be read: {reason}; {advice}")
