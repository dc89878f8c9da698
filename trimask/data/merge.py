"""From chunk files to the finished set: tokens, index, rejections, manifest, notices."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trimask.core.files import replacing, sha256, write_json
from trimask.core.modality import KINDS
from trimask.data.chunks import Chunk, read_chunk
from trimask.data.manifest import MANIFEST, VERSION, Manifest, SourceRecord, TokenizerRecord
from trimask.data.shards import INDEX, REJECTED, TOKENS

NOTICES = "notices"
"""Subfolder that keeps the licences and attributions of the sources."""

ROW_GROUP = 1 << 16
"""Items a row group of the index; fixed, so that its bytes are."""


class Writer:
    """Appends chunks to the files of a set, counting what goes in."""

    def __init__(self, folder: Path, dtype: str, sources: int):
        import pyarrow.parquet as pq

        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._tokens: BinaryIO = (folder / TOKENS).open("wb")
        self._rejected: BinaryIO = (folder / REJECTED).open("wb")
        self._index = pq.ParquetWriter(folder / INDEX, _schema(), compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self.items, self.offset = 0, 0
        self.counts = [_Counts() for _ in range(sources)]

    def add(self, source: int, chunk: Chunk) -> None:
        self._tokens.write(chunk.codes.astype(self._dtype).tobytes())
        for item in chunk.items:
            self._rows.append(self._row(source, item))
        for row in chunk.rejected:
            self._rejected.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.counts[source].rejected += len(chunk.rejected)
        while len(self._rows) >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def close(self) -> None:
        self._flush(len(self._rows))
        self._index.close()
        self._tokens.close()
        self._rejected.close()

    def _row(self, source: int, item: Mapping[str, Any]) -> dict[str, Any]:
        counts, segments = self.counts[source], []
        for kind, shape in item["segments"]:
            segments.append({"kind": kind, "offset": self.offset, "shape": shape})
            self.offset += int(np.prod(shape))
            counts.segments[kind] += 1
            counts.tokens[kind] += int(np.prod(shape))
        counts.items += 1
        labels = json.dumps(item["labels"], ensure_ascii=False, sort_keys=True)
        row = {
            "item": self.items,
            "source": source,
            "key": item["key"],
            "labels": labels,
            "segments": segments,
        }
        self.items += 1
        return row

    def _flush(self, count: int) -> None:
        import pyarrow as pa

        if count:
            table = pa.Table.from_pylist(self._rows[:count], schema=_schema())
            self._index.write_table(table, row_group_size=ROW_GROUP)
            del self._rows[:count]


class _Counts:
    def __init__(self):
        self.items = self.rejected = 0
        self.segments: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()


def merge(
    out: Path,
    partial: Path,
    files: Sequence[Sequence[str]],
    records: Sequence[SourceRecord],
    tokenizers: Mapping[str, TokenizerRecord],
    fingerprint: str,
    notices: Sequence[Sequence[Path]],
) -> Manifest:
    """Write the finished set, atomically. `files` are the chunk files of each source, in order."""
    dtype = "uint16" if all(t.codes <= 1 << 16 for t in tokenizers.values()) else "uint32"
    with replacing(out) as folder:
        folder.mkdir()
        writer = Writer(folder, dtype, len(records))
        for source, names in enumerate(files):
            for name in names:
                writer.add(source, read_chunk(partial / name))
        writer.close()
        _copy_notices(folder, records, notices)
        manifest = _manifest(writer, records, tokenizers, fingerprint, dtype, _hashes(folder))
        write_json(folder / MANIFEST, manifest.json())
    return manifest


def write_rejected(partial: Path, files: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Write the rejections so far beside the chunks of an unfinished run; returns them."""
    rows = [row for names in files for name in names for row in read_chunk(partial / name).rejected]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with replacing(partial / REJECTED) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return rows


def _manifest(
    writer: Writer,
    records: Sequence[SourceRecord],
    tokenizers: Mapping[str, TokenizerRecord],
    fingerprint: str,
    dtype: str,
    hashes: Mapping[str, str],
) -> Manifest:
    sources = [
        dataclasses.replace(
            record,
            items=counts.items,
            rejected=counts.rejected,
            segments=_ordered(counts.segments),
            tokens=_ordered(counts.tokens),
        )
        for record, counts in zip(records, writer.counts, strict=True)
    ]
    return Manifest(
        version=VERSION,
        fingerprint=fingerprint,
        dtype=dtype,
        items=writer.items,
        rejected=sum(s.rejected for s in sources),
        segments=_ordered(_total(s.segments for s in sources)),
        tokens=_ordered(_total(s.tokens for s in sources)),
        tokenizers=tokenizers,
        sources=sources,
        hashes=hashes,
    )


def _total(counts: Iterator[Mapping[str, int]]) -> Counter[str]:
    out: Counter[str] = Counter()
    for one in counts:
        out.update(one)
    return out


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return {k: counts[k] for k in KINDS if k in counts}


def _hashes(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in (INDEX, REJECTED, TOKENS)}


def _copy_notices(folder: Path, records: Sequence[SourceRecord], notices: Sequence[Sequence[Path]]) -> None:
    for record, paths in zip(records, notices, strict=True):
        for path in paths:
            target = folder / NOTICES / record.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _schema() -> Any:
    import pyarrow as pa

    segment = pa.struct(
        [
            pa.field("kind", pa.string(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("shape", pa.list_(pa.int32()), nullable=False),
        ]
    )
    return pa.schema(
        [
            pa.field("item", pa.int64(), nullable=False),
            pa.field("source", pa.int32(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field("labels", pa.string(), nullable=False),
            pa.field("segments", pa.list_(segment), nullable=False),
        ]
    )
