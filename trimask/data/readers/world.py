"""The built-in world as a source: `world:scenes`, `world:speech`, `world:text`, `world:spoken-scenes`."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from trimask.core.errors import RecordError
from trimask.core.item import Item
from trimask.data.readers.base import Claim, Place, Reader, Record
from trimask.data.readers.source import WORLD, Source
from trimask.data.world.source import World


class WorldReader(Reader):
    """Makes items instead of reading files; a record is the number of an item."""

    format = "world"

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        super().__init__(source, folder, files, reason)
        kind: Any = source.path.removeprefix(WORLD)
        split: Any = source.split or "train"
        self.world = World(kind=kind, split=split, count=source.count, seed=source.seed)

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        return None

    @property
    def licence(self) -> str:
        return self.world.licence

    @property
    def fingerprint(self) -> str:
        return self.world.fingerprint

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        return tuple(k for k in self.world[0].parts if self.source.keeps(k))

    def records(self) -> Iterator[Record | RecordError]:
        for number in range(len(self.world)):
            yield Record(self.source.path, number, number)

    def row(self, record: Record) -> dict[str, Any]:
        return self.world.labels(record.value)

    def item(self, record: Record) -> Item:
        item = self.world[record.value]
        parts = {k: v for k, v in item.parts.items() if self.source.keeps(k)}
        return Item(item.key, parts, item.labels)
