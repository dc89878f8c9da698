"""Files elsewhere: URLs that fsspec knows (s3://, gs://, hf://, http://, ...), mirrored in a cache folder.

What reads data maps files into memory, so it works on a copy; a file whose size, time or tag has changed is fetched
anew, one that is as it was is not. The cache is $TRIMASK_CACHE, else ~/.cache/trimask.
"""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from trimask.core.errors import DataError, TrimaskError, UsageError
from trimask.core.files import replacing, write_json

KNOWN = "known.json"
"""File of a mirror that says what each of its files was when it was fetched."""
MARKS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created", "md5", "sha256")


def is_remote(place: object) -> bool:
    return "://" in str(place)


def local(place: Path | str) -> Path:
    """A path as it is; of a URL (of a file, a folder or a pattern) the same in its mirror, which is brought up to date.

    Raises `DataError` where there is nothing, or where it cannot be reached.
    """
    if not is_remote(place):
        return Path(place)
    url = str(place).rstrip("/")
    with _reached(url) as (system, path):
        root = path.rpartition("/")[0] if glob.has_magic(path) else path
        if glob.has_magic(root):
            raise UsageError(f"{url}: only the last part of a URL can be a pattern")
        files = system.glob(path, detail=True) if root != path else system.find(path, detail=True)
        if not files:
            raise DataError(f"there is nothing at {url}")
        single, whole = [*files] == [path], root == path
        mirror = cached(url if whole else url.rpartition("/")[0], "mirror")
        names = {name: Path(path).name if single else str(Path(name).relative_to(root)) for name in files}
        _fetch(system, mirror, {names[name]: (name, info) for name, info in files.items()}, whole)
    return mirror / (Path(path).name if single or not whole else "")


def cached(url: str, use: Literal["mirror", "made"]) -> Path:
    """The folder of the cache that mirrors a URL, or where what is to be copied there is made."""
    cache = Path(os.environ.get("TRIMASK_CACHE") or "~/.cache/trimask").expanduser()
    return cache / hashlib.sha256(url.encode()).hexdigest()[:16] / use / url.rpartition("/")[2]


def read(url: str) -> bytes | None:
    """The content of a file; None where there is none."""
    with _reached(url) as (system, path):
        try:
            return system.cat_file(path)
        except FileNotFoundError:
            return None


def upload(folder: Path, url: str, last: str) -> None:
    """Make a URL hold the files of a folder and no others, one of them when all others are there: without it what is
    there counts for nothing."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    with _reached(url) as (system, path):
        there = {*system.find(path)} if system.exists(path) else set()
        for old in sorted(there, key=lambda name: name != f"{path}/{last}"):
            system.rm_file(old)
        for name in [*(n for n in names if n != last), last]:
            system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(folder / name), f"{path}/{name}")


def _fetch(system: Any, mirror: Path, wanted: dict[str, tuple[str, dict[str, Any]]], whole: bool) -> None:
    """Bring files of a mirror up to date; where they are all of them, drop what is there no more."""
    beside = mirror.with_name(KNOWN)
    for here in [p for p in mirror.rglob("*") if p.is_file()] if whole else ():
        if here.relative_to(mirror).as_posix() not in wanted:
            here.unlink()
    known: dict[str, str] = json.loads(beside.read_text()) if beside.exists() else {}
    for name, (there, info) in wanted.items():
        mark = str([info.get("size"), *(str(info[m]) for m in MARKS if m in info)])
        target = mirror / name
        if known.get(name) == mark and target.exists():
            continue
        with replacing(target) as temporary:
            system.get_file(there, str(temporary))
        known[name] = mark
        write_json(beside, known)


@contextlib.contextmanager
def _reached(url: str) -> Iterator[tuple[Any, str]]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        # What another process has written since is there as well.
        system.invalidate_cache()
        yield system, path
    except TrimaskError:
        raise
    except (ImportError, ValueError) as e:
        raise UsageError(f"{url}: {e}") from None
    except OSError as e:
        raise DataError(f"{url} cannot be reached or read: {e}; the same command goes on") from None
