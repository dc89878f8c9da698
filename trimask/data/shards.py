"""Prepared sets: a flat file of token codes and an index, read item by item through a memory map.

    tokens.bin      little-endian uint16 or uint32 codes, segment after segment; local codes (each
                    level counts from 0), so a set does not depend on the layout of a vocabulary
    index.parquet   a row an item: item, source, key, labels (JSON), segments (kind, offset, shape);
                    offsets count codes, not bytes
    manifest.json   what made the set (`data.manifest`); its `dtype` is that of tokens.bin
    rejected.jsonl  a row a rejected record: source, file, record, reason

`numpy.memmap("tokens.bin", dtype)[offset : offset + prod(shape)].reshape(shape)` is a segment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from trimask.core.errors import DataError
from trimask.core.files import settled
from trimask.core.modality import KINDS
from trimask.core.remote import local
from trimask.data.manifest import Manifest, read_manifest

TOKENS = "tokens.bin"
INDEX = "index.parquet"
REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class TokenItem:
    """One tokenised record: `parts` maps a kind to int32 codes in the modality's natural shape.

    Shapes: text kinds (N,), images (Y, X), audio kinds (T, C). `key` names the record within its set.
    """

    key: str
    parts: Mapping[str, np.ndarray]
    labels: Mapping[str, Any] = field(default_factory=dict)


class Index(NamedTuple):
    """Columns of the index. Item i has segments `first[i] : first[i + 1]`."""

    keys: Any
    labels: Any
    source: np.ndarray
    first: np.ndarray
    kind: np.ndarray
    """Position in `KINDS` of each segment's kind."""
    offset: np.ndarray
    shape: np.ndarray
    """(segments, 2); the second side of a line is 0."""


class Shard:
    """A prepared set as a random-access sequence of `TokenItem`s (Grain's `RandomAccessDataSource`).

    It can be pickled: the other side maps the files anew. Raises `DataError` for a folder that is not a
    prepared set or whose files do not fit its manifest.
    """

    def __init__(self, folder: Path | str):
        self.folder = settled(local(folder))
        self.manifest: Manifest = read_manifest(self.folder)
        self._check_size()

    def __len__(self) -> int:
        return self.manifest.items

    def __getitem__(self, i: int) -> TokenItem:
        i = range(len(self))[i]
        index = self._index
        parts = {}
        for s in range(index.first[i], index.first[i + 1]):
            shape = [int(n) for n in index.shape[s] if n]
            start = int(index.offset[s])
            flat = self._codes[start : start + int(np.prod(shape))]
            parts[_NAMES[index.kind[s]]] = flat.astype(np.int32).reshape(shape)
        return TokenItem(index.keys[i].as_py(), parts, json.loads(index.labels[i].as_py()))

    def __repr__(self) -> str:
        """Names the content, not the place: Grain compares it when an iterator is restored."""
        return f"Shard({self.manifest.fingerprint[:16]})"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    @cached_property
    def lengths(self) -> Mapping[str, np.ndarray]:
        """Number of tokens of every item, by kind; int64 arrays of shape (items,)."""
        index = self._index
        sizes = np.where(index.shape == 0, 1, index.shape).prod(axis=1, dtype=np.int64)
        item = np.repeat(np.arange(len(self)), np.diff(index.first))
        out = {}
        for kind in self.manifest.kinds:
            here = index.kind == _NAMES.index(kind)
            out[kind] = np.bincount(item[here], sizes[here], len(self)).astype(np.int64)
        return MappingProxyType(out)

    @property
    def sources(self) -> np.ndarray:
        """Index into `manifest.sources` of every item, shape (items,)."""
        return self._index.source

    def shape(self, i: int) -> dict[str, tuple[int, ...]]:
        """Shape of each part of an item, from the index alone."""
        index = self._index
        spans = range(index.first[i], index.first[i + 1])
        return {_NAMES[index.kind[s]]: tuple(int(n) for n in index.shape[s] if n) for s in spans}

    @cached_property
    def _codes(self) -> np.ndarray:
        path = self.folder / TOKENS
        if path.stat().st_size == 0:
            return np.empty(0, self.manifest.dtype)
        # As a plain array: numpy hands its subclass on to every result, which costs more than the work.
        return np.asarray(np.memmap(path, np.dtype(self.manifest.dtype).newbyteorder("<"), mode="r"))

    @cached_property
    def _index(self) -> Index:
        index = read_index(self.folder / INDEX)
        if len(index.keys) != len(self):
            raise DataError(
                f"{self.folder / INDEX} has {len(index.keys)} items, the manifest {len(self)}; "
                "copy the folder again or prepare it anew"
            )
        return index

    def _check_size(self) -> None:
        path = self.folder / TOKENS
        expected = sum(self.manifest.tokens.values()) * np.dtype(self.manifest.dtype).itemsize
        found = path.stat().st_size if path.exists() else -1
        if found != expected:
            raise DataError(
                f"{path} has {max(found, 0)} bytes, its manifest says {expected}; copy the folder again or "
                "prepare it anew"
            )


_NAMES = tuple(KINDS)


def read_index(path: Path) -> Index:
    """Read `index.parquet` into flat columns. Raises `DataError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).combine_chunks()
        segments = _joined(table["segments"])
    except (pa.ArrowException, OSError, KeyError) as e:
        raise DataError(f"{path} cannot be read: {e}; copy the folder again or prepare it anew") from None
    flat = segments.flatten()
    first = np.concatenate([[0], np.cumsum(segments.value_lengths().to_numpy(zero_copy_only=False))])
    kinds = flat.field("kind").dictionary_encode()
    codes = np.array([_NAMES.index(name) for name in kinds.dictionary.to_pylist()], dtype=np.int8)
    kind = codes[kinds.indices.to_numpy(zero_copy_only=False)] if len(flat) else np.empty(0, np.int8)
    return Index(
        keys=_joined(table["key"]),
        labels=_joined(table["labels"]),
        source=table["source"].to_numpy(),
        first=first.astype(np.int64),
        kind=kind,
        offset=flat.field("offset").to_numpy(zero_copy_only=False),
        shape=_shapes(flat.field("shape")),
    )


def _joined(column: Any) -> Any:
    import pyarrow as pa

    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _shapes(column: Any) -> np.ndarray:
    """Lists of one or two sides -> (segments, 2), padded with 0."""
    count = column.value_lengths().to_numpy(zero_copy_only=False)
    sides = column.flatten().to_numpy(zero_copy_only=False)
    out = np.zeros((len(count), 2), np.int32)
    out[np.arange(2)[None] < count[:, None]] = sides
    return out
