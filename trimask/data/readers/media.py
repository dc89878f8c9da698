"""Bytes of images and audio files -> arrays, with a reason for everything that cannot be used.

Every function raises `ValueError` with the reason alone; the reader adds file and record.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np

from trimask.core.item import Audio
from trimask.data.readers.source import IMAGE_MULTIPLE, Source

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".au")
RATES = (4_000, 192_000)
"""Sampling rates in Hz outside this range are taken for damaged headers."""

MIN_SECONDS = 0.02
"""Shorter clips hold no frame of any audio tokenizer and are called empty."""

PEAK = 0.99
"""Highest sample after a change of loudness."""

_MAGIC = (
    *((m, "image") for m in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")),
    *((m, "audio") for m in (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"FORM", b".snd")),
)


def sniff(value: object) -> str | None:
    """ "image" or "audio" when a field holds one: a file name, bytes, or a {bytes, path} struct."""
    if isinstance(value, str):
        suffix = PurePath(value).suffix.lower()
        return "image" if suffix in IMAGE_SUFFIXES else "audio" if suffix in AUDIO_SUFFIXES else None
    if isinstance(value, dict) and value and set(value) <= {"bytes", "path", "sampling_rate"}:
        return sniff(value.get("path")) or sniff(value.get("bytes"))
    if isinstance(value, bytes):
        if value[:4] == b"RIFF":
            return "image" if value[8:12] == b"WEBP" else "audio"
        return next((m for magic, m in _MAGIC if value.startswith(magic)), None)
    return None


def image(data: bytes, source: Source) -> np.ndarray:
    """Decode one image to uint8 (Y, X, 3), transparent pixels on white, turned as its EXIF says."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                _check_picture(picture, source)
                picture.load()
                return _resized(_white_rgb(picture), source)
        except Image.UnidentifiedImageError:
            raise ValueError(f"not an image file that can be read ({_start(data)})") from None
        except Image.DecompressionBombError as e:
            raise ValueError(f"image too large: {e}") from None
        except (OSError, SyntaxError, EOFError) as e:
            raise ValueError(f"image cannot be decoded: {e}") from None


def pixels(array: np.ndarray, source: Source) -> np.ndarray:
    """An image given as uint8 (Y, X) or (Y, X, 3) pixels, resized as the source says."""
    from PIL import Image

    return _resized(Image.fromarray(array).convert("RGB"), source)


def _check_picture(picture: Any, source: Source) -> None:
    size = picture.width * picture.height
    if size > source.max_pixels:
        raise ValueError(
            f"image too large: {picture.width}x{picture.height} is more than max_pixels={source.max_pixels}"
        )
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(f"the image has {picture.n_frames} frames; one is expected")
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"image mode {picture.mode} has more than 8 bits; convert it to 8 bits a channel")


def _white_rgb(picture: Any) -> Any:
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _resized(picture: Any, source: Source) -> np.ndarray:
    from PIL import Image, ImageOps

    side = source.image_size
    if side is not None:
        size = (side, side)
        if source.fit == "crop":
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        elif source.fit == "pad":
            picture = ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white")
        elif picture.size != (size := _kept(picture.size, side)):
            picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.array(picture, dtype=np.uint8)


def _kept(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height with the longest at `side`, the other rounded to the multiple of images."""
    longest = max(size)
    x, y = (max(1, round(s * side / longest / IMAGE_MULTIPLE)) * IMAGE_MULTIPLE for s in size)
    return x, y


def audio(data: bytes, source: Source) -> Audio:
    """Decode one clip to mono float32 in [-1, 1]; several channels are averaged."""
    import soundfile

    if not data:
        raise ValueError("empty audio file (0 bytes)")
    _check_complete(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as f:
            _check_clip(f.frames, f.samplerate, source)
            samples = f.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
            expected, rate = f.frames, f.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as e:
        raise ValueError(f"audio cannot be decoded: {_short(e)} ({_start(data)})") from None
    if len(samples) != expected:
        raise ValueError(f"audio is truncated: {len(samples)} of {expected} samples can be read")
    return Audio(_levelled(samples, source), rate)


def clip(samples: object, rate: object, source: Source) -> Audio:
    """A clip given as numbers and a rate, as some Parquet files hold it."""
    if not isinstance(rate, int):
        raise ValueError("audio given as numbers needs an integer 'sampling_rate'")
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim != 1:
        raise ValueError(f"audio given as numbers must be one list, got shape {array.shape}")
    _check_clip(len(array), rate, source)
    return Audio(_levelled(array, source), rate)


def _check_clip(frames: int, rate: int, source: Source) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"sampling rate {rate} Hz is outside {RATES[0]}..{RATES[1]} Hz")
    seconds = frames / rate
    if seconds < MIN_SECONDS:
        raise ValueError(f"empty clip: {frames} samples ({seconds:.3f} s)")
    if seconds > source.max_seconds:
        raise ValueError(f"clip of {seconds:.1f} s is longer than max_seconds={source.max_seconds:g}")


def _levelled(samples: np.ndarray, source: Source) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise ValueError("audio holds values that are not finite")
    peak = float(np.abs(samples).max())
    if peak == 0:
        raise ValueError("silent clip: every sample is zero")
    if source.loudness is None:
        return np.clip(samples, -1, 1)
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    gain = min(10 ** (source.loudness / 20) / rms, PEAK / peak)
    return (samples * np.float32(gain)).astype(np.float32)


def _check_complete(data: bytes) -> None:
    """libsndfile reads a cut WAV or Ogg file as a shorter one; their containers tell."""
    if data[:4] == b"RIFF" and len(data) >= 8:
        declared = int.from_bytes(data[4:8], "little")
        if declared != 0xFFFFFFFF and declared + 8 > len(data) + 1:
            raise ValueError(f"audio is truncated: {len(data)} of {declared + 8} bytes")
    page = data.rfind(b"OggS")
    if data[:4] == b"OggS" and not (len(data) > page + 5 and data[page + 5] & 4):
        raise ValueError("audio is truncated: the Ogg stream has no last page")


def _short(e: Exception) -> str:
    """libsndfile's reason without the address of the buffer."""
    return str(e).split(">: ")[-1].strip()


def _start(data: bytes) -> str:
    return f"{len(data)} bytes, starting {data[:4].hex(' ')}" if data else "0 bytes"


DECODERS: dict[str, Callable[[bytes, Source], object]] = {"image": image, "audio": audio}
"""Modality -> decoder of its files."""
