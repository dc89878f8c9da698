"""What people pass in and get back: paths, PIL images, arrays, `(samples, rate)` pairs.

Raises `DataError` that names the file or says "the image" or "the clip".
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from trimask.core.errors import DataError, UsageError
from trimask.core.item import Audio
from trimask.core.modality import KINDS
from trimask.data.readers import media
from trimask.data.readers.source import Source

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
AudioLike: TypeAlias = str | Path | Audio | tuple[np.ndarray, int]
T = TypeVar("T")


def picture(value: ImageLike, side: int | None = None) -> np.ndarray:
    """uint8 (Y, X, 3), transparent pixels on white; `side` resizes the longest side to that many pixels.

    Arrays are uint8, (Y, X) grey or (Y, X, 3).
    """
    source = Source(path="-", image_size=side)
    if isinstance(value, str | Path):
        path = existing(value)
        return _named(str(path), lambda: media.image(path.read_bytes(), source))
    if isinstance(value, Image.Image):
        return _named("the image", lambda: media.image(_png(value), source))
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise DataError(f"the image is {array.dtype} {array.shape}; pass uint8 of shape (Y, X) or (Y, X, 3)")
    return _named("the image", lambda: media.pixels(array, source))


def clip(value: AudioLike) -> Audio:
    """Mono float32 samples in [-1, 1] with their rate; channels of a file are averaged."""
    source = Source(path="-")
    if isinstance(value, str | Path):
        path = existing(value)
        return _named(str(path), lambda: media.audio(path.read_bytes(), source))
    try:
        samples, rate = value
    except (TypeError, ValueError):
        raise UsageError(f"a clip is a path or a pair (samples, rate), not {type(value).__name__}") from None
    return _named("the clip", lambda: media.clip(np.asarray(samples), int(rate), source))


def sentence(value: str) -> str:
    """The text itself; anything else is a `UsageError`."""
    if not isinstance(value, str):
        raise UsageError(f"a text must be a string, not {type(value).__name__}")
    return value


READ: Mapping[str, Callable[[Any], Any]] = {"text": sentence, "image": picture, "audio": clip}
"""Modality -> how a value of the caller becomes raw content."""

SHOW: Mapping[str, Callable[[Any], Any]] = {"text": str, "image": Image.fromarray, "audio": lambda a: a}
"""Modality -> how decoded content is handed to the caller."""


def raw(kind: str, value: Any) -> Any:
    """Raw content of a kind, as its tokenizer takes it."""
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is not a kind of content; there are: {', '.join(KINDS)}")
    return READ[KINDS[kind]](value)


def existing(path: str | Path) -> Path:
    """The path of a file that is there; else a `DataError` that names it."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    return path


def _png(image: Image.Image) -> bytes:
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _named(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as e:
        raise DataError(f"{name} cannot be read: {e.strerror or e}") from None
    except DataError:
        raise
    except ValueError as e:
        raise DataError(f"{name}: {e}") from None
