"""Looking at a source or at a prepared set before anything is trained on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from trimask.core.errors import RecordError
from trimask.core.files import settled
from trimask.core.item import Audio
from trimask.core.modality import KINDS
from trimask.core.units import si
from trimask.data.manifest import MANIFEST, Manifest, SourceRecord
from trimask.data.provenance import licence_of
from trimask.data.readers.base import Reader
from trimask.data.readers.detect import decode, open_reader
from trimask.data.readers.source import Source
from trimask.data.shards import Shard
from trimask.tokenizers.contract import Tokenizer

SAMPLES = 3
SCAN = 200
"""Records of a raw source that are decoded to learn its lengths."""

BINS = 8
BAR = 24
SHOWN = 72
"""Characters of a sample's text that are shown."""


@dataclass(frozen=True)
class RawInspection:
    """What a raw source holds. `records` and `filtered` count all of it; the rest is of the scan.

    `lengths` are characters of text, pixels of the longest side, seconds of audio, by kind.
    """

    format: str
    reason: str
    licence: str
    files: int
    records: int
    filtered: int
    scanned: int
    lengths: Mapping[str, np.ndarray]
    rejected: tuple[RecordError, ...]
    samples: tuple[Any, ...]


@dataclass(frozen=True)
class SetInspection:
    """What a prepared set holds; `lengths` are tokens of the items that have the kind."""

    manifest: Manifest
    lengths: Mapping[str, np.ndarray]
    samples: tuple[Any, ...]


def inspect(
    target: Source | str | Path,
    *,
    samples: int = SAMPLES,
    scan: int = SCAN,
    tokenizers: Mapping[str, Tokenizer] | None = None,
    console: Console | None = None,
) -> RawInspection | SetInspection:
    """Print a source or a prepared set as a tree, and return what was found.

    Of a raw source all records are counted and the first `scan` decoded. With `tokenizers` (by
    modality) the text of a prepared set's samples is shown. Raises `DataError` and `UsageError` as
    opening the source does.
    """
    console = console or Console()
    if not isinstance(target, Source) and is_prepared(target):
        return _inspect_set(Path(target), samples, tokenizers or {}, console)
    source = target if isinstance(target, Source) else str(target)
    return _inspect_raw(open_reader(source), samples, scan, console)


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a prepared set."""
    return (settled(Path(path)) / MANIFEST).is_file()


def _inspect_raw(reader: Reader, samples: int, scan: int, console: Console) -> RawInspection:
    records = filtered = 0
    items, rejected = [], []
    for record in reader.selected():
        if record is None:
            filtered += 1
            continue
        records += 1
        if records <= scan or isinstance(record, RecordError):
            found = decode(reader, record)
            (rejected if isinstance(found, RecordError) else items).append(found)
    lengths = _lengths(items)
    out = RawInspection(
        format=reader.format,
        reason=reader.reason,
        licence=licence_of(reader),
        files=len(reader.files),
        records=records,
        filtered=filtered,
        scanned=min(records, scan),
        lengths=lengths,
        rejected=tuple(rejected),
        samples=tuple(items[:samples]),
    )
    console.print(_raw_tree(reader, out))
    return out


def _lengths(items: list[Any]) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {}
    for item in items:
        for kind, raw in item.parts.items():
            found.setdefault(kind, []).append(_length(raw))
    return {k: np.array(found[k]) for k in KINDS if k in found}


def _length(raw: Any) -> float:
    if isinstance(raw, Audio):
        return raw.seconds
    return len(raw) if isinstance(raw, str) else max(raw.shape[:2])


def _raw_tree(reader: Reader, found: RawInspection) -> Tree:
    tree = Tree(f"[bold]{escape(str(reader.source))}")
    tree.add(f"format: {found.format} ({escape(found.reason)}; {found.files} files)")
    for note in reader.notes():
        tree.add(escape(note))
    left_out = f", {found.filtered} left out by where" if found.filtered else ""
    tree.add(f"records: {found.records}{left_out}")
    tree.add(f"licence: {escape(found.licence)}")
    lengths = tree.add(f"lengths of the first {found.scanned}")
    for kind, values in found.lengths.items():
        unit = {"text": "characters", "image": "pixels (longest side)", "audio": "s"}[KINDS[kind]]
        lengths.add(f"{kind}: {len(values)}, {_range(values)} {unit}")
    _add_samples(tree, found.samples, _shown_raw)
    rejected = tree.add(f"rejected so far: {len(found.rejected)}")
    for error in found.rejected[:SAMPLES]:
        rejected.add(escape(str(error)))
    return tree


def _inspect_set(path: Path, samples: int, tokenizers: Mapping[str, Tokenizer], console: Console) -> SetInspection:
    shard = Shard(path)
    lengths = {kind: tokens[tokens > 0] for kind, tokens in shard.lengths.items()}
    first = tuple(shard[i] for i in range(min(samples, len(shard))))
    out = SetInspection(shard.manifest, lengths, first)
    console.print(_set_tree(path, out, tokenizers))
    return out


def _set_tree(path: Path, found: SetInspection, tokenizers: Mapping[str, Tokenizer]) -> Tree:
    manifest = found.manifest
    tree = Tree(f"[bold]{escape(str(path))}[/] (prepared set {manifest.fingerprint[:12]}, {manifest.dtype})")
    tree.add(f"items: {manifest.items}; rejected: {manifest.rejected}")
    made = tree.add("tokenizers")
    for name, t in manifest.tokenizers.items():
        size = f"{t.codes} codes" + (f" x {t.levels} levels" if t.levels > 1 else "")
        made.add(f"{name}: {t.name} {t.fingerprint[:12]}, {size} {escape(t.folder)}".rstrip())
    sources = tree.add("sources")
    for source in manifest.sources:
        _add_source(sources, source)
    tokens = tree.add(f"tokens: {si(sum(manifest.tokens.values()))}")
    for kind, values in found.lengths.items():
        branch = tokens.add(f"{kind}: {si(manifest.tokens[kind])} in {len(values)} segments, {_range(values)} each")
        for line in histogram(values):
            branch.add(line)
    _add_samples(tree, found.samples, lambda kind, codes: _shown_codes(kind, codes, tokenizers))
    return tree


def _add_source(tree: Tree, source: SourceRecord) -> None:
    branch = tree.add(f"{escape(source.source)}: {source.items} items, {source.rejected} rejected")
    tokens = ", ".join(f"{kind} {si(n)}" for kind, n in source.tokens.items())
    branch.add(f"{source.format}, {source.file_count} files {source.sha256[:12]}; tokens: {tokens}")
    branch.add(f"licence: {escape(source.licence)}")


def _add_samples(tree: Tree, samples: tuple[Any, ...], show: Callable[[str, Any], str]) -> None:
    branch = tree.add("samples")
    for item in samples:
        parts = branch.add(escape(item.key))
        for kind, content in item.parts.items():
            parts.add(f"{kind}: {escape(show(kind, content))}")


def _shown_raw(kind: str, raw: Any) -> str:
    if isinstance(raw, str):
        return _cut(raw)
    if isinstance(raw, Audio):
        return f"{raw.seconds:.2f} s at {raw.rate} Hz"
    if KINDS[kind] == "image" and raw.ndim == 3:
        return f"{raw.shape[1]} x {raw.shape[0]} pixels"
    return f"codes {' x '.join(map(str, raw.shape))}"


def _shown_codes(kind: str, codes: np.ndarray, tokenizers: Mapping[str, Tokenizer]) -> str:
    shape = f"{' x '.join(map(str, codes.shape))} codes"
    tokenizer = tokenizers.get(KINDS[kind])
    text = tokenizer is not None and KINDS[kind] == "text"
    return f"{shape}: {_cut(tokenizer.decode([codes])[0])}" if tokenizer and text else shape


def histogram(values: np.ndarray) -> list[str]:
    """A text histogram of lengths; nothing where all are equal."""
    if len(values) == 0 or values.min() == values.max():
        return []
    counts, edges = np.histogram(values, bins=BINS)
    return [
        f"{edges[i]:>7.0f}..{edges[i + 1]:<7.0f} {'#' * round(BAR * n / counts.max()):<{BAR}} {n}"
        for i, n in enumerate(counts)
    ]


def _range(values: np.ndarray) -> str:
    low, middle, high = (f"{v:.4g}" for v in (values.min(), np.median(values), values.max()))
    return low if low == high else f"{low}..{high}, median {middle}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
