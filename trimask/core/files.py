"""Writing files so that a kill at any moment leaves either the old state or the new one."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimask.core.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    A file replaces a file; a new folder takes the place of an old one (moved away first, so a kill
    between the two renames leaves the old folder as `NAME.old`, which `settled` puts back).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        _sync(temporary)
        if temporary.is_dir() and path.exists():
            old = path.with_name(path.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _sync_entry(path.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def settled(path: Path) -> Path:
    """Undo a folder replacement that was killed half-way; returns `path`."""
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        old.rename(path)
    return path


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object; a missing or broken file is a `DataError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read as JSON: {e}") from None


def append_json(path: Path, value: object) -> None:
    """Add a line of JSON to a file, so that a kill leaves it whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+" if path.exists() else "w+") as f:
        # A line that a kill cut short is written over.
        text = f.read()
        f.seek(len(text[: text.rfind("\n") + 1].encode()))
        f.truncate()
        f.write(f"{json.dumps(value)}\n")
        f.flush()
        os.fsync(f.fileno())


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that `append_json` writes; none where there is no file."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir():
        for child in sorted(path.iterdir()):
            _sync(child)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
