"""IDX files, as MNIST has them: `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte`, also gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trimask.core.errors import DataError, RecordError
from trimask.core.item import Item
from trimask.data.readers import media
from trimask.data.readers.base import Claim, Place, Reader, Record, unusable
from trimask.data.readers.classes import class_caption, class_names
from trimask.data.readers.source import Source

SUFFIXES = ("-idx3-ubyte", "-idx3-ubyte.gz")
UBYTE = 8
"""Type code of unsigned bytes in the magic number."""


class IdxReader(Reader):
    format = "idx"
    chunk = 512

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        super().__init__(source, folder, files, reason)
        self.names = class_names(source, folder)
        self.caption = class_caption(source, folder)
        if source.keeps("text") and not self.names:
            raise DataError(
                f"{source}: names of the classes are unknown; say ?classes=NAME,NAME,... (label 0 first), or "
                "?kinds=image for pictures without text"
            )

    @classmethod
    def claim(cls, place: Place, source: Source) -> Claim | None:
        images = place.ending(*SUFFIXES)
        labels = (_labels_path(p) for p in images)
        files = tuple(p for pair in zip(images, labels, strict=True) for p in pair if p.is_file())
        return Claim(files, "IDX files") if images else None

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(k for k in ("text", "image") if self.source.keeps(k))

    def notes(self) -> tuple[str, ...]:
        if "text" not in self.kinds:
            return ()
        return (f"text: template {self.caption!r}, classes: {', '.join(self.names)}",)

    def records(self) -> Iterator[Record | RecordError]:
        for path in (p for p in self.files if p.name.endswith(SUFFIXES)):
            for number in range(len(self._images(path))):
                yield Record(self.name(path), number, number)

    def row(self, record: Record) -> dict:
        labels = _labels_path(self.folder / record.file)
        if not labels.is_file():
            if "text" in self.kinds:
                raise record.bad(f"missing caption: there is no file {labels.name}")
            return {}
        label = int(self._array(labels, 1)[record.value])
        if self.names and label >= len(self.names):
            raise record.bad(f"label {label} has no name: {len(self.names)} classes are known")
        return {"label": label, **({"name": self.names[label]} if self.names else {})}

    def item(self, record: Record) -> Item:
        row = self.row(record)
        parts: dict[str, object] = {}
        try:
            if "text" in self.kinds:
                parts["text"] = self.caption.format_map(row)
            if "image" in self.kinds:
                array = self._images(self.folder / record.file)[record.value]
                parts["image"] = media.pixels(array, self.source)
        except KeyError as e:
            raise record.bad(f"missing caption: template {self.caption!r} needs field {e}") from None
        return Item(record.key, parts, row)

    def _images(self, path: Path) -> np.ndarray:
        images = self._array(path, 3)
        labels = _labels_path(path)
        if labels in self.files and len(self._array(labels, 1)) != len(images):
            raise DataError(f"{path} has {len(images)} images, {labels.name} has another number of labels")
        return images

    def _array(self, path: Path, dimensions: int) -> np.ndarray:
        if path not in self._open:
            self._open[path] = read_idx(path, dimensions)
        return self._open[path]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes with so many dimensions. Raises `DataError`."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as e:
        raise unusable(path, e) from None
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, UBYTE, dimensions)):
        raise unusable(path, f"not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = np.frombuffer(data, ">u4", dimensions, 4).tolist()
    if len(data) != head + int(np.prod(shape)):
        raise unusable(path, f"{len(data) - head} bytes of content, its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _labels_path(images: Path) -> Path:
    return images.with_name(images.name.replace("-images-idx3-", "-labels-idx1-"))
