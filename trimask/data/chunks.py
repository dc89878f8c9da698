"""The unit of work of `prepare`: a run of records, decoded, tokenised and kept as one file.

A chunk file is written atomically, so a killed run loses at most the chunks that were in work, and the
bytes of the prepared set depend neither on the order in which chunks end nor on who made them.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trimask.core.errors import DataError, RecordError
from trimask.core.files import replacing
from trimask.core.item import Item
from trimask.core.modality import KINDS, Modality
from trimask.core.running import end_with_parent
from trimask.data.readers.base import Reader, Record
from trimask.data.readers.detect import decode
from trimask.data.shards import TokenItem
from trimask.tokenizers.contract import Tokenizer

BATCH: Mapping[str, int] = {"line": 1024, "plane": 64, "frames": 16}
"""Raw contents that a tokenizer gets at once, by the grid of its codes."""

DIMENSIONS: Mapping[str, int] = {"line": 1, "plane": 2, "frames": 2}
MAX_BYTES = 8 << 20
"""Records that carry their content close a chunk at this size."""


class Task(NamedTuple):
    """Records of one source that a worker takes at once."""

    source: int
    number: int
    records: list[Record | RecordError]

    @property
    def file(self) -> str:
        return f"{self.source:04d}-{self.number:08d}.npz"


class Done(NamedTuple):
    """What became of a task."""

    source: int
    items: int
    rejected: int


@dataclass(frozen=True)
class Chunk:
    """Content of a chunk file: flat codes, one description an item, one row a rejection."""

    codes: np.ndarray
    items: list[dict[str, Any]]
    rejected: list[dict[str, Any]]

    def done(self, source: int) -> Done:
        """What became of its task."""
        return Done(source, len(self.items), len(self.rejected))


@dataclass(frozen=True)
class Worker:
    """What a process needs to work on tasks."""

    readers: Sequence[Reader]
    names: Sequence[str]
    tokenizers: Mapping[str, Tokenizer]
    folder: Path

    def run(self, task: Task) -> Done:
        """Make the chunk file of a task."""
        chunk = self.made(task)
        write_chunk(self.folder / task.file, chunk)
        return chunk.done(task.source)

    def made(self, task: Task) -> Chunk:
        """The chunk of a task."""
        results = encode_records(self.readers[task.source], task.records, self.tokenizers)
        return pack(results, self.names[task.source])


def tasks(source: int, reader: Reader, filtered: list[int]) -> Iterator[Task]:
    """Divide a source into tasks; `filtered[source]` counts the records that `where` leaves out."""
    held: list[Record | RecordError] = []
    number = size = 0
    for record in reader.selected():
        if record is None:
            filtered[source] += 1
            continue
        held.append(record)
        size += record.size if isinstance(record, Record) else 0
        if len(held) == reader.chunk or size >= MAX_BYTES:
            yield Task(source, number, held)
            held, number, size = [], number + 1, 0
    if held:
        yield Task(source, number, held)


def encode_records(
    reader: Reader, records: Sequence[Record | RecordError], tokenizers: Mapping[str, Tokenizer]
) -> list[TokenItem | RecordError]:
    """Decode and tokenise records; a bad one is returned as the error it is."""
    found = [decode(reader, record) for record in records]
    codes: list[dict[str, np.ndarray]] = [{} for _ in found]
    errors: dict[int, str] = {}
    for modality, tokenizer in tokenizers.items():
        wanted = [
            (i, kind, raw)
            for i, item in enumerate(found)
            if isinstance(item, Item)
            for kind, raw in item.parts.items()
            if KINDS[kind] == modality
        ]
        size = BATCH[tokenizer.modality.grid]
        for start in range(0, len(wanted), size):
            _encode_batch(tokenizer, wanted[start : start + size], codes, errors)
    return [
        _result(record, item, codes[i], errors.get(i), tokenizers)
        for i, (record, item) in enumerate(zip(records, found, strict=True))
    ]


def _encode_batch(
    tokenizer: Tokenizer,
    batch: Sequence[tuple[int, str, Any]],
    codes: list[dict[str, np.ndarray]],
    errors: dict[int, str],
) -> None:
    """Encode together; where that fails, one by one, so that the reason falls on its record."""
    try:
        out = tokenizer.encode([raw for _, _, raw in batch])
    except ValueError as e:
        if len(batch) == 1:
            errors.setdefault(batch[0][0], str(e))
            return
        for one in batch:
            _encode_batch(tokenizer, [one], codes, errors)
        return
    for (i, kind, _), array in zip(batch, out, strict=True):
        codes[i][kind] = array


def _result(
    record: Record | RecordError,
    item: Item | TokenItem | RecordError,
    codes: Mapping[str, np.ndarray],
    error: str | None,
    tokenizers: Mapping[str, Tokenizer],
) -> TokenItem | RecordError:
    if isinstance(record, RecordError):
        return record
    if isinstance(item, RecordError):
        return item
    if error is not None:
        return record.bad(error)
    parts = item.parts if isinstance(item, TokenItem) else codes
    for kind, array in parts.items():
        reason = misfit(kind, array, tokenizers[KINDS[kind]].modality)
        if reason:
            return record.bad(reason)
    return TokenItem(item.key, {k: parts[k] for k in KINDS if k in parts}, item.labels)


def misfit(kind: str, codes: np.ndarray, row: Modality) -> str | None:
    """Why codes do not fit their modality, if they do not."""
    if codes.ndim != DIMENSIONS[row.grid]:
        return f"{kind} codes of a {row.grid} grid cannot have shape {codes.shape}"
    if codes.size == 0:
        return f"{kind} has no tokens"
    if row.grid == "frames" and codes.shape[1] != row.levels:
        return f"{kind} codes have {codes.shape[1]} levels, the tokenizer has {row.levels}"
    if codes.min() < 0 or codes.max() >= row.codes:
        return f"{kind} codes {codes.min()}..{codes.max()} lie outside 0..{row.codes - 1}"
    return None


def pack(results: Sequence[TokenItem | RecordError], name: str) -> Chunk:
    """Items and rejections of a chunk, ready to be written."""
    items, rejected, flat = [], [], [np.empty(0, np.uint32)]
    for result in results:
        if isinstance(result, RecordError):
            rejected.append({"source": name, "file": result.file, "record": result.record, "reason": result.reason})
            continue
        segments = [[kind, list(array.shape)] for kind, array in result.parts.items()]
        items.append({"key": f"{name}/{result.key}", "labels": dict(result.labels), "segments": segments})
        flat += [array.astype(np.uint32).ravel() for array in result.parts.values()]
    return Chunk(np.concatenate(flat), items, rejected)


def write_chunk(path: Path, chunk: Chunk) -> None:
    text = json.dumps({"items": chunk.items, "rejected": chunk.rejected}, ensure_ascii=False)
    rows = np.frombuffer(text.encode(), np.uint8)
    counts = np.array([len(chunk.items), len(chunk.rejected)])
    with replacing(path) as temporary, temporary.open("wb") as f:
        np.savez(f, codes=chunk.codes, rows=rows, counts=counts)


def read_chunk(path: Path) -> Chunk:
    with np.load(path) as file:
        rows = json.loads(file["rows"].tobytes())
        return Chunk(file["codes"], rows["items"], rows["rejected"])


def read_counts(path: Path, source: int) -> Done:
    """What a finished chunk holds, without reading its codes."""
    with np.load(path) as file:
        items, rejected = file["counts"].tolist()
    return Done(source, items, rejected)


_worker: Worker | None = None


def start_process(hand_over: "Queue[Worker]") -> None:
    """Set up a process with the worker it is handed: one thread, deaf to Ctrl-C, ending with its parent."""
    global _worker
    _worker = hand_over.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alone()
    end_with_parent()


def alone() -> None:
    """Have this process work on one thread, as others work beside it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def run_task(task: Task) -> Done:
    """Work on a task in a process that `start_process` has set up."""
    if _worker is None:
        raise DataError("run_task was called in a process that start_process has not set up")
    return _worker.run(task)


@contextmanager
def single_thread() -> Iterator[None]:
    """One torch thread, so that codes do not depend on how many cores the machine has."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
