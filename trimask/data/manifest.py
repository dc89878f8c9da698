"""The record of a prepared set: what it was made from, by which tokenizers, and what is in it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimask.core.errors import ArtifactError, DataError, UsageError
from trimask.core.files import read_json
from trimask.core.modality import KINDS, Modality
from trimask.core.remote import local
from trimask.tokenizers.contract import Tokenizer

MANIFEST = "manifest.json"
VERSION = 1
"""Version of the format. It enters the fingerprint, so sets of another version are prepared anew."""


@dataclass(frozen=True)
class TokenizerRecord:
    """A tokenizer that made a set: its class, its folder where known, and the size of its alphabet."""

    name: str
    fingerprint: str
    grid: str
    codes: int
    levels: int
    folder: str = ""


@dataclass(frozen=True)
class SourceRecord:
    """A source: as the user gave it, what was read, and what became of it.

    `files` maps file names to SHA-256 (of at most `manifest.LISTED` files, `sha256` covers all).
    `segments` and `tokens` count by kind; `filtered` are records left out by `where`.
    """

    source: str
    name: str
    format: str
    options: Mapping[str, Any]
    sha256: str
    file_count: int
    files: Mapping[str, str]
    licence: str
    attribution: str
    notices: Sequence[str] = ()
    items: int = 0
    rejected: int = 0
    filtered: int = 0
    segments: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The whole set. `fingerprint` covers sources' bytes, reader options, tokenizers and the format.

    `hashes` are the SHA-256 of the set's own files; `tokens` counts by kind over all sources.
    """

    version: int
    fingerprint: str
    dtype: str
    items: int
    rejected: int
    segments: Mapping[str, int]
    tokens: Mapping[str, int]
    tokenizers: Mapping[str, TokenizerRecord]
    sources: Sequence[SourceRecord]
    hashes: Mapping[str, str]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(k for k in KINDS if k in self.tokens)

    @property
    def licences(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.licence for s in self.sources))

    def json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


LISTED = 100
"""Number of files of a source whose hashes a manifest lists one by one."""


def tokenizer_records(
    tokenizers: Mapping[str, Tokenizer], folders: Mapping[str, str] | None = None
) -> dict[str, TokenizerRecord]:
    """Records of tokenizers by modality. Raises `UsageError` for one under a wrong name."""
    out = {}
    for name, tokenizer in sorted(tokenizers.items()):
        row: Modality = tokenizer.modality
        if row.name != name:
            raise UsageError(f"tokenizer {tokenizer.name!r} is for {row.name}, it was given for {name}")
        folder = (folders or {}).get(name, "")
        out[name] = TokenizerRecord(tokenizer.name, tokenizer.fingerprint, row.grid, row.codes, row.levels, folder)
    return out


def read_manifest(folder: Path | str) -> Manifest:
    """Read the manifest of a prepared set, of a folder or a URL. Raises `DataError` for anything else."""
    path = local(folder) / MANIFEST
    if not path.exists():
        raise DataError(f"{folder} is not a prepared set: it has no {MANIFEST}; `trimask prepare` makes one")
    return parsed(path, read_json(path))


def parsed(path: Path | str, value: Any) -> Manifest:
    """The manifest that a file holds, from its JSON value. Raises `DataError`."""
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise DataError(f"{path} has version {version}, this program reads {VERSION}; prepare the set anew")
    try:
        return from_json(value)
    except (KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{path} is damaged ({e}); copy the folder again or prepare it anew") from None


def from_json(value: Mapping[str, Any]) -> Manifest:
    """The inverse of `Manifest.json`."""
    tokenizers = {name: TokenizerRecord(**record) for name, record in value["tokenizers"].items()}
    sources = tuple(SourceRecord(**record) for record in value["sources"])
    return Manifest(**{**value, "tokenizers": tokenizers, "sources": sources})


def different(manifests: Sequence[Manifest], epochs: Sequence[float]) -> dict[str, int]:
    """Tokens of each modality that so many epochs of each set have shown, however often."""
    out: dict[str, int] = {}
    for manifest, read in zip(manifests, epochs, strict=False):
        for kind, count in manifest.tokens.items():
            name = KINDS[kind]
            out[name] = out.get(name, 0) + round(min(read, 1.0) * count)
    return out


def require_tokenizers(manifest: Manifest, fingerprints: Mapping[str, str], where: str) -> None:
    """Refuse a set that was made by other tokenizers.

    `fingerprints` are those of the model by modality; `where` names the set. Raises `ArtifactError`.
    """
    used = {KINDS[kind] for kind in manifest.kinds}
    for modality in sorted(used):
        made = manifest.tokenizers[modality]
        here = fingerprints.get(modality)
        if here is None:
            raise ArtifactError(f"{where} holds {modality} tokens, but no {modality} tokenizer is in use")
        if here != made.fingerprint:
            folder = f" ({made.folder})" if made.folder else ""
            raise ArtifactError(
                f"{where} was made with {modality} tokenizer {made.fingerprint[:12]}{folder}, the one in use "
                f"is {here[:12]}; prepare the set again, or use the tokenizer it was made with"
            )
