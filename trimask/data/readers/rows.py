"""Readers whose records are rows of named fields: which field is which kind, and decoding them.

The kinds are found from the first rows: a field holding images or audio (by file suffix or first
bytes), a text field by its usual names, a speaker for speech. The text and the first of image,
speech and sound must be in every record; further kinds may be missing (`require` overrides).
"""

import json
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from trimask.core.errors import DataError, RecordError, UsageError
from trimask.core.item import Item
from trimask.core.modality import KINDS
from trimask.core.remote import local
from trimask.data.readers import media
from trimask.data.readers.base import Reader, Record, read_bytes
from trimask.data.readers.classes import class_names
from trimask.data.readers.source import Source

TEXT_NAMES = ("text", "caption", "txt", "sentence", "transcription", "transcript", "content", "story")
VOICE_NAMES = ("voice", "speaker", "speaker_id")
SAMPLE = 100
"""Rows that are looked at to find out which field is which."""

Row = dict[str, Any]


class Mapped(NamedTuple):
    """Which field each kind comes from, and which kinds a record must have."""

    fields: Mapping[str, str]
    required: tuple[str, ...]


class RowReader(Reader):
    """A reader of rows. A subclass gives `records`, `row` and, for referenced files, `fetch`."""

    def __init__(self, source: Source, folder: Path, files: tuple[Path, ...], reason: str = ""):
        super().__init__(source, folder, files, reason)
        self.classes = class_names(source, folder)
        self.mapped = map_fields(source, self._sample())

    @abstractmethod
    def row(self, record: Record) -> Row:
        """The fields of a record. Raises `RecordError`."""

    def fetch(self, reference: Any, record: Record) -> bytes:
        """Bytes of a media field: by default a file name below the source's root.

        Raises `ValueError` with the reason.
        """
        return read_bytes(inside(self.root, reference))

    @property
    def root(self) -> Path:
        return local(self.source.root).expanduser() if self.source.root else self.folder

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.mapped.fields)

    def notes(self) -> tuple[str, ...]:
        required = self.mapped.required
        caption = self.source.caption
        return tuple(
            f"{kind}: template {caption!r}"
            if kind == "text" and caption
            else f"{kind}: field {name!r}" + ("" if kind in required else ", may be missing")
            for kind, name in self.mapped.fields.items()
        )

    def item(self, record: Record) -> Item:
        row = self._named(self.row(record))
        parts = {}
        try:
            for kind, name in self.mapped.fields.items():
                part = self._part(kind, name, row, record)
                if part is not None:
                    parts[kind] = part
        except DataError:
            raise  # a damaged container, not this record's fault
        except ValueError as e:
            raise record.bad(e) from None
        if not parts:
            raise record.bad(f"no part: none of the fields {', '.join(self.mapped.fields.values())} is there")
        return Item(record.key, parts, _labels(row, self.mapped.fields))

    def _sample(self) -> list[Row]:
        rows = []
        for record in islice(self.records(), SAMPLE):
            if isinstance(record, Record):
                try:
                    rows.append(self._named(self.row(record)))
                except RecordError:
                    continue  # reported when the record is read for good
        return rows

    def _named(self, row: Row) -> Row:
        """With class names known, field `name` says in words what the integer `label` says."""
        label = row.get("label")
        if self.classes and isinstance(label, int) and 0 <= label < len(self.classes) and "name" not in row:
            return {**row, "name": self.classes[label]}
        return row

    def _part(self, kind: str, name: str, row: Row, record: Record) -> object:
        templated = kind == "text" and self.source.caption
        value = _fill(self.source.caption, row) if templated else row.get(name)
        if value is None or value == "":
            if kind in self.mapped.required:
                raise ValueError(_missing(kind, name))
            return None
        if KINDS[kind] == "text":
            return _text(kind, name, value)
        return self._media(KINDS[kind], name, value, record)

    def _media(self, modality: str, name: str, value: Any, record: Record) -> object:
        if isinstance(value, dict) and "array" in value:
            return media.clip(value["array"], value.get("sampling_rate"), self.source)
        if isinstance(value, dict):
            data = value.get("bytes")
            value = data if data is not None else value.get("path")
        if value is None:
            raise ValueError(f"field {name!r} has neither bytes nor a path")
        data = value if isinstance(value, bytes) else self.fetch(value, record)
        return media.DECODERS[modality](data, self.source)


def inside(root: Path, reference: Any) -> Path:
    """The file that a record names; it must lie below `root`, since data may come from strangers."""
    if not isinstance(reference, str):
        raise ValueError(f"a file name must be a string, got {type(reference).__name__}")
    path = (root / reference).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"file {reference} lies outside {root}; say ?root=FOLDER to allow it")
    return path


def map_fields(source: Source, rows: list[Row]) -> Mapped:
    """Decide which field is which kind. Raises `DataError` when the text cannot be found."""
    found = {**_media_fields(source, rows), **source.fields}
    text = _text_field(source, rows, found)
    fields = {**({"text": text} if text and source.keeps("text") else {}), **found}
    if {"speech", "sound"} & set(fields) and "voice" not in fields and source.keeps("voice"):
        voice = next((n for n in VOICE_NAMES if any(n in row for row in rows)), None)
        fields |= {"voice": voice} if voice else {}
    fields = {k: fields[k] for k in KINDS if k in fields and source.keeps(k)}
    if not fields:
        raise UsageError(f"{source}: none of the kinds {', '.join(source.kinds) or 'known'} is there")
    main = [k for k in ("image", "speech", "sound") if k in fields][:1]
    default = [k for k in fields if k == "text" or k in main or k in source.fields]
    return Mapped(fields, tuple(source.require or default))


def _media_fields(source: Source, rows: list[Row]) -> dict[str, str]:
    seen: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.items():
            modality = None if name in TEXT_NAMES or name in source.fields.values() else _holds(value)
            if modality is not None:
                seen.setdefault(name, Counter())[modality] += 1
    found: dict[str, str] = {}
    for name, modalities in seen.items():
        # A field is one kind: a lone clip among pictures is a bad record.
        is_image = modalities.most_common(1)[0][0] == "image"
        found.setdefault("image" if is_image else _audio_kind(source, name), name)
    return {k: n for k, n in found.items() if source.keeps(k) and k not in source.fields}


def _holds(value: Any) -> str | None:
    if isinstance(value, dict) and "array" in value:
        return "audio"
    return media.sniff(getattr(value, "name", value))


def _audio_kind(source: Source, name: str) -> str:
    return "sound" if "sound" in name else "speech" if "speech" in name else source.sound_as


def _text_field(source: Source, rows: list[Row], found: Mapping[str, str]) -> str | None:
    if not source.keeps("text") or "text" in source.fields:
        return source.fields.get("text")
    if source.caption:
        return "caption"
    present = dict.fromkeys(n for row in rows for n, v in row.items() if isinstance(v, str))
    for name in TEXT_NAMES:
        if name in present:
            return name
    left = [n for n in present if n not in found.values()]
    if len(left) == 1 and not found:
        return left[0]
    names = dict.fromkeys(n for row in rows for n in row)
    raise DataError(
        f"{source}: no field is known to hold the text; fields: {', '.join(names) or 'none'}; say "
        "?text=FIELD, ?caption=TEMPLATE, or leave the text out with ?kinds=image (speech, sound)"
    )


def _fill(template: str, row: Row) -> str:
    try:
        return template.format_map(row)
    except (KeyError, IndexError, AttributeError, ValueError) as e:
        raise ValueError(f"missing caption: template {template!r} needs field {e}") from None


def _missing(kind: str, name: str) -> str:
    what = {"text": "caption", "voice": "voice"}.get(kind, f"{kind} file")
    return f"missing {what}: field {name!r} is absent or empty"


def _text(kind: str, name: str, value: Any) -> str:
    if kind == "voice" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} ({kind}) must be a string, got {type(value).__name__}")
    if not value.strip():
        raise ValueError(_missing(kind, name))
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"field {name!r} ({kind}) has no UTF-8 form: {e.reason}") from None
    return value


def _labels(row: Row, fields: Mapping[str, str]) -> dict[str, Any]:
    """What is left of the row and has a JSON form; the speaker stays, it is a label too."""
    used = {n for k, n in fields.items() if k != "voice"}
    return {n: v for n, v in row.items() if n not in used and v is not None and _is_json(v)}


def _is_json(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_is_json(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    return value is None or isinstance(value, str | int | bool)


def parse_object(line: bytes) -> Row:
    """One line of JSON -> an object. Raises `ValueError` with the reason."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise ValueError(f"invalid UTF-8 at byte {e.start} of the line") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"JSON syntax: {e.msg} at column {e.colno}") from None
    except RecursionError:
        raise ValueError("JSON syntax: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, got {type(row).__name__}")
    return row
