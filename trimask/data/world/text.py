"""English prose from the running Python's own documentation.

Two places: the docstrings of the standard library's source files, and the topics of `pydoc` (the
language reference that `help()` shows). Paragraphs that are prose are kept, code and tables are not.
The result is the same for the same interpreter; another version of Python reads a little differently.
"""

import ast
import hashlib
import importlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trimask.core.errors import DataError
from trimask.data.world.splits import part_of_text

SHORTEST, LONGEST = 40, 700
"""Characters of a paragraph."""
FEWEST_WORDS = 7
PLAIN_SHARE = 0.85
"""Least share of words made of letters alone, punctuation at the ends aside."""
LICENCE = "PSF-2.0"

_FOREIGN = frozenset(
    ["site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"]
)
_ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
_MARKUP = re.compile(r"``?|(?<!\w)\*{1,2}(?=\w)|(?<=\w)\*{1,2}(?!\w)")
_PLAIN = re.compile(r"""["'(]*[A-Za-z]+(?:['-][A-Za-z]+)*[.,;:!?"')]*""")


@lru_cache(maxsize=1)
def paragraphs() -> tuple[str, ...]:
    """Every paragraph of prose once, in a fixed order. Takes some seconds, once a process.

    Raises `DataError` where this Python comes without the sources of its library.
    """
    found = dict.fromkeys(p for document in _documents() for p in prose(document))
    if not found:
        raise DataError(
            f"this Python has no library sources under {_library()}, so the built-in world has no text "
            "to read; use a full Python installation, or leave out the world's text"
        )
    return tuple(found)


@lru_cache(maxsize=4)
def paragraphs_of(part: str) -> tuple[str, ...]:
    """The paragraphs of "train", "validation" or "test", divided by their hash."""
    return tuple(p for p in paragraphs() if part_of_text(p) == part)


def digest() -> str:
    """SHA-256 over all paragraphs: which documentation this Python has."""
    return hashlib.sha256("\n".join(paragraphs()).encode()).hexdigest()


def prose(document: str) -> Iterator[str]:
    """The paragraphs of a document that are English sentences, each on one line."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(document)):
        lines = block.strip("\n").split("\n")
        if any(line.startswith((" ", "\t", "*", "-", "#", ">")) for line in lines):
            continue
        text = _MARKUP.sub("", " ".join(" ".join(lines).split()).translate(_ASCII))
        if _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    if not (SHORTEST <= len(text) <= LONGEST and text.isascii() and text[0].isupper()):
        return False
    words = text.split()
    if len(words) < FEWEST_WORDS or text[-1] not in ".!?":
        return False
    return sum(_PLAIN.fullmatch(word) is not None for word in words) >= PLAIN_SHARE * len(words)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _documents() -> Iterator[str]:
    root = _library()
    for path in sorted(root.rglob("*.py")):
        if not _FOREIGN & set(path.relative_to(root).parts):
            yield from _docstrings(path)
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions package the topics apart
        return
    for name in sorted(topics):
        yield topics[name]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library holds templates that are not modules
        return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        nodes.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
