"""Names of class labels: given by the source, or known for a few sets by the name of their folder."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from trimask.core.errors import UsageError
from trimask.data.readers.source import Source


class ClassTable(NamedTuple):
    """Names of labels 0, 1, ... and the caption they make."""

    names: tuple[str, ...]
    caption: str


KNOWN: Mapping[str, ClassTable] = MappingProxyType(
    {
        "mnist": ClassTable(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            "the digit {name}",
        ),
        "fashion-mnist": ClassTable(
            (
                *("a t-shirt", "trousers", "a pullover", "a dress", "a coat"),
                *("a sandal", "a shirt", "a sneaker", "a bag", "an ankle boot"),
            ),
            "{name}",
        ),
    }
)


def known_table(source: Source, folder: Path) -> ClassTable | None:
    """The table that `classes=SET` names, or that of a folder with a known name."""
    if len(source.classes) == 1:
        if source.classes[0] not in KNOWN:
            raise UsageError(
                f"source option classes={source.classes[0]}: not a known set ({', '.join(KNOWN)}) and not a "
                "list of names separated by commas"
            )
        return KNOWN[source.classes[0]]
    return None if source.classes else KNOWN.get(folder.resolve().name)


def class_names(source: Source, folder: Path) -> tuple[str, ...]:
    """Names of the labels, or nothing."""
    table = known_table(source, folder)
    return table.names if table else source.classes


def class_caption(source: Source, folder: Path) -> str:
    """Template of the caption: the source's, the known set's, or the name alone."""
    table = known_table(source, folder)
    return source.caption or (table.caption if table else "{name}")
