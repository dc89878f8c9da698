"""What to read: a path with options, as a frozen config and as one line of text.

    PATH[:SPLIT][?option=value&option=value...]

    ../data/emoji:train?image_size=32            folder with train.zip and train.jsonl
    books/*.txt.gz?separator=<|endoftext|>       several text files
    speech.jsonl?speech=wav_path&text=sentence   which field of a record is what
    words:train?where=licence:CC BY*&loudness=-20
    world:scenes?count=20000&seed=0&split=train  the built-in world

Values are percent-decoded (`%26` is `&`); lists are separated by commas. An option named like a
kind (text, voice, image, speech, sound) says which field of a record holds that kind.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import chz

from trimask.core.errors import DataError, UsageError
from trimask.core.modality import KINDS
from trimask.core.units import count as parse_count

FORMATS = ("archive", "folder", "idx", "jsonl", "parquet", "text", "tokens", "webdataset", "world")
WORLD = "world:"
IMAGE_MULTIPLE = 4
"""Image sides are multiples of this: the smallest downsampling factor of an image tokenizer."""


@chz.chz
class Source:
    """One source of records and how to read it."""

    path: str = chz.field(doc="file, folder, glob pattern, or world:NAME")
    split: str | None = chz.field(default=None, doc="part of a folder: train, validation, test, ...")
    format: str = chz.field(default="auto", doc="auto, or one of: " + ", ".join(FORMATS))
    separator: str = chz.field(
        default="auto", doc="text: the line between documents; or 'line' (a line a record), 'file', 'auto'"
    )
    begins: str = chz.field(default="", doc="text: regular expression of the first line of a document")
    fields: Mapping[str, str] = chz.field(default_factory=dict, doc="kind -> field of the record")
    kinds: tuple[str, ...] = chz.field(default=(), doc="kinds to keep; empty: all")
    require: tuple[str, ...] = chz.field(
        default=(), doc="kinds a record must have; empty: the text and the first of image, speech, sound"
    )
    caption: str = chz.field(default="", doc="template of the text: 'a photo of a {name}'")
    classes: tuple[str, ...] = chz.field(default=(), doc="names of class labels 0, 1, ...; or one known set")
    where: tuple[str, ...] = chz.field(default=(), doc="keep records with FIELD:PATTERN (or FIELD:!PATTERN)")
    limit: int | None = chz.field(default=None, doc="read at most this many records")
    image_size: int | None = chz.field(default=None, doc="resize the longest side to this, in pixels")
    fit: Literal["keep", "crop", "pad"] = chz.field(
        default="keep", doc="with image_size: keep the shape, crop or pad (white) to a square"
    )
    max_pixels: int = chz.field(default=2**26, doc="larger images are rejected before decoding")
    sound_as: Literal["speech", "sound"] = chz.field(default="speech", doc="kind of an audio field")
    loudness: float | None = chz.field(default=None, doc="bring clips to this RMS level, in dB full scale")
    max_seconds: float = chz.field(default=30.0, doc="longer clips are rejected")
    root: str = chz.field(default="", doc="folder that file names in records are relative to")
    licence: str = chz.field(default="", doc="licence of the source; empty: from its SOURCE.md or LICENSE")
    count: int = chz.field(default=20000, doc="world: number of items")
    seed: int = chz.field(default=0, doc="world: seed")

    @chz.validate
    def _check(self):
        _check_kinds(self)
        if self.format != "auto" and self.format not in FORMATS:
            _wrong("format", self.format, f"is unknown; write auto, {', '.join(FORMATS)}")
        if self.image_size is not None and (self.image_size < 1 or self.image_size % IMAGE_MULTIPLE):
            _wrong("image_size", self.image_size, f"must be a positive multiple of {IMAGE_MULTIPLE}")
        if self.fit != "keep" and self.image_size is None:
            _wrong("fit", self.fit, "needs image_size")
        if self.loudness is not None and not -60 <= self.loudness <= 0:
            _wrong("loudness", self.loudness, "must lie between -60 and 0 dB")
        for name in ("max_seconds", "max_pixels", "count", "limit"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                _wrong(name, getattr(self, name), "must be positive")
        for text in self.where:
            if ":" not in text:
                _wrong("where", text, "must be FIELD:PATTERN, for example licence:CC BY*")

    @property
    def is_world(self) -> bool:
        return self.path.startswith(WORLD)

    @property
    def name(self) -> str:
        """Short name: the folder's, or the file's without its suffixes; of the world its kind, and which test."""
        if self.is_world:
            return "-".join([*self.path.split(":"), *(self.split or "").split("-")[1:]])
        path = Path(self.path)
        if "*" in path.name:
            path = path.parent
        path = path.resolve() if path.name in ("", ".", "..") else path
        return path.name if path.is_dir() else path.name.split(".")[0]

    def keeps(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds

    def admits(self, row: Mapping[str, Any]) -> bool:
        """Whether a record passes every `where` condition; a missing field is the empty string."""
        for text in self.where:
            field, _, pattern = text.partition(":")
            value = row.get(field)
            shown = "" if value is None else str(value)
            if fnmatchcase(shown, pattern.removeprefix("!")) == pattern.startswith("!"):
                return False
        return True

    def options(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON values, without the path."""
        default = chz.asdict(Source(path=self.path))
        mine = chz.asdict(self)
        return {k: _json(v) for k, v in mine.items() if k != "path" and v != default[k]}

    def __str__(self) -> str:
        options = self.options()
        split = "" if self.is_world else options.pop("split", "")
        flat = {**options.pop("fields", {}), **options}
        pairs = [f"{k}={_quoted(v)}" for k, v in flat.items()]
        return self.path + (f":{split}" if split else "") + ("?" + "&".join(pairs) if pairs else "")


def parse(text: "str | Source") -> Source:
    """Read the string form. Raises `UsageError` that names the option that is wrong."""
    if isinstance(text, Source):
        return text
    path, values = _split_options(text)
    options: dict[str, Any] = {}
    fields = {k: unquote(values.pop(k)) for k in list(values) if k in KINDS}
    for name, value in values.items():
        if name not in _READ:
            _wrong(name, value, f"is not an option of a source; there are: {', '.join([*_READ, *KINDS])}")
        try:
            options[name] = _READ[name](value)
        except ValueError:
            _wrong(name, value, "is not a number")
    if fields:
        options["fields"] = fields
    if not path.startswith(WORLD):
        path, split = _split_name(path)
        options = {**({"split": split} if split else {}), **options}
    else:
        options.setdefault("split", "train")
    _check_world_options(path, options)
    return Source(path=path, **options)


_OF_FILES = (
    *("format", "separator", "begins", "fields", "require", "caption", "classes", "root", "licence"),
    *("image_size", "fit", "max_pixels", "sound_as", "loudness", "max_seconds"),
)
"""Options that say how files are read."""


def _check_world_options(path: str, options: Mapping[str, Any]) -> None:
    world = path.startswith(WORLD)
    for name in ("count", "seed"):
        if name in options and not world:
            _wrong(name, options[name], "applies to world: sources only; use limit")
    for name in _OF_FILES:
        if name in options and world:
            _wrong(name, options[name], "does not apply to world: sources")


def _split_options(text: str) -> tuple[str, dict[str, str]]:
    path, mark, query = text.partition("?")
    if not path:
        raise UsageError(f"source {text!r} has no path")
    values = {}
    for pair in query.split("&") if mark else ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"source {text!r}: {pair!r} is not option=value")
        if name in values:
            raise UsageError(f"source {text!r}: option {name!r} is given twice; separate values by commas")
        values[name] = value
    return path, values


def _split_name(path: str) -> tuple[str, str | None]:
    """Part `folder:train`; a colon that belongs to an existing path stays."""
    head, colon, tail = path.rpartition(":")
    if not colon or not head or "/" in tail or "\\" in tail or Path(path).exists():
        return path, None
    if not tail:
        raise UsageError(f"source {path!r} ends in a colon; write the name of the split after it")
    return head, tail


def _names(text: str) -> tuple[str, ...]:
    return tuple(unquote(part.strip()) for part in text.split(",") if part.strip())


_READ: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("split", "format", "separator", "begins", "caption", "fit"), unquote),
    **dict.fromkeys(("sound_as", "root", "licence"), unquote),
    **dict.fromkeys(("kinds", "require", "classes", "where"), _names),
    **dict.fromkeys(("limit", "image_size", "max_pixels", "count", "seed"), parse_count),
    **dict.fromkeys(("loudness", "max_seconds"), float),
}


def _check_kinds(source: Source) -> None:
    for name in ("kinds", "require", "fields"):
        for kind in getattr(source, name):
            if kind not in KINDS:
                _wrong(name, kind, f"is not a kind; there are: {', '.join(KINDS)}")
    for kind in (*source.require, *source.fields):
        if source.kinds and kind not in source.kinds:
            _wrong("kinds", ",".join(source.kinds), f"leaves out {kind!r}, which is required or has a field")
    choices = {"fit": ("keep", "crop", "pad"), "sound_as": ("speech", "sound")}
    for name, values in choices.items():
        if getattr(source, name) not in values:
            _wrong(name, getattr(source, name), f"must be one of {', '.join(values)}")


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _quoted(value: Any) -> str:
    safe = " /:*<>|.{}[]!'()^$=@"
    if isinstance(value, list):
        return ",".join(quote(part, safe=safe) for part in value)
    return quote(f"{value:g}" if isinstance(value, float) else str(value), safe=safe + ",")


def _wrong(name: str, value: object, reason: str) -> None:
    raise UsageError(f"source option {name}={value}: {reason}")


def existing(path: str) -> Path:
    """The path of a source that must exist; raises `DataError` with what is there instead."""
    found = Path(path).expanduser()
    if found.exists():
        return found
    parent = next(p for p in found.absolute().parents if p.exists())
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    raise DataError(f"{path} does not exist; {parent} holds: {', '.join(names[:12]) or 'nothing'}")
