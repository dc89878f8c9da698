"""Where a source comes from: hashes of its files, its licence, and the notices that go with it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from trimask.core.files import sha256
from trimask.data.manifest import LISTED, VERSION, SourceRecord, TokenizerRecord
from trimask.data.progress import Counter
from trimask.data.readers.base import Reader
from trimask.data.readers.world import WorldReader

DESCRIPTIONS = ("SOURCE.md", "README.md")
NOTICES = ("license*", "licence*", "copying*", "contributors*", "notice*", "source.md", "*attribution*")
"""Names, in small letters, of the files that a licence wants kept with a copy."""

UNKNOWN = "unknown"
MAX_NOTICE = 1 << 20
SHOWN = 4000
"""Characters of a description that the manifest quotes."""

_LICENCE = re.compile(r"^\W*licen[cs]e\W*:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def describe_source(reader: Reader, name: str, console: Console) -> SourceRecord:
    """The part of a source's record that is known before reading its records."""
    files = _hashes(reader, console)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    licence, attribution = _licence(reader)
    return SourceRecord(
        source=str(reader.source),
        name=name,
        format=reader.format,
        options=reader.source.options(),
        sha256=reader.fingerprint if isinstance(reader, WorldReader) else digest,
        file_count=len(files),
        files=dict(list(files.items())[:LISTED]),
        licence=licence,
        attribution=attribution,
        notices=tuple(p.name for p in notices(reader)),
    )


def fingerprint(sources: Sequence[SourceRecord], tokenizers: Mapping[str, TokenizerRecord]) -> str:
    """SHA-256 of all that decides the bytes of a prepared set; not of where its inputs lie."""
    job = {
        "version": VERSION,
        "sources": [[s.name, s.format, dict(s.options), s.sha256, s.licence] for s in sources],
        "tokenizers": {name: t.fingerprint for name, t in tokenizers.items()},
    }
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def notices(reader: Reader) -> list[Path]:
    """Files beside a source's files that its licence wants kept with them."""
    if isinstance(reader, WorldReader):
        return []
    found = (p for p in sorted(_home(reader).iterdir()) if p.is_file() and p.stat().st_size <= MAX_NOTICE)
    return [p for p in found if any(Path(p.name.lower()).match(pattern) for pattern in NOTICES)]


def _home(reader: Reader) -> Path:
    """The folder that describes the source: its own, or the one above a split's subfolder."""
    here = reader.folder
    above = [p for p in (here, here.parent) if any((p / n).is_file() for n in (*DESCRIPTIONS, "LICENSE"))]
    return above[0] if above and reader.source.split else here


def _hashes(reader: Reader, console: Console) -> dict[str, str]:
    with Counter(console, "checking files", "files", len(reader.files)) as counter:
        out = {}
        for path in reader.files:
            out[reader.name(path)] = sha256(path)
            counter.advance(1)
        return out


def licence_of(reader: Reader) -> str:
    """The licence of a source in one line, or "unknown"."""
    return _licence(reader)[0]


def _licence(reader: Reader) -> tuple[str, str]:
    """The licence in one line and the text that names the authors, as far as files tell."""
    given = reader.source.licence
    if isinstance(reader, WorldReader):
        return given or reader.licence, ""
    home = _home(reader)
    for name in DESCRIPTIONS:
        if (home / name).is_file():
            text = (home / name).read_text(errors="replace")
            if found := _LICENCE.search(text):
                return given or found[1], text[:SHOWN]
    for path in notices(reader):
        if path.name.lower().startswith(("license", "licence", "copying")):
            text = path.read_text(errors="replace")
            first = next((line.strip() for line in text.splitlines() if line.strip()), UNKNOWN)
            return given or first, text[:SHOWN]
    return given or UNKNOWN, ""
