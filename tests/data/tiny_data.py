"""Exact tokenizers without weights, and writers of small files, for the tests of data reading."""

import contextlib
import hashlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from trimask.core.item import Audio
from trimask.core.modality import Modality
from trimask.tokenizers.contract import Tokenizer

RATE = 16_000
CELL = 4
HOP = 640


class Bytes(Tokenizer[str]):
    """Text as its UTF-8 bytes. `pause` seconds a batch make a run long enough to be killed."""

    name = "bytes"

    def __init__(self, pause: float = 0.0, salt: str = ""):
        self.pause, self.salt = pause, salt

    @property
    def modality(self) -> Modality:
        return Modality(name="text", grid="line", codes=256)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256((self.name + self.salt).encode()).hexdigest()

    def encode(self, batch: Sequence[str]) -> list[np.ndarray]:
        time.sleep(self.pause)
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in batch]

    def decode(self, batch: Sequence[np.ndarray]) -> list[str]:
        return [codes.astype(np.uint8).tobytes().decode() for codes in batch]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)


class Fatal(Bytes):
    """The same, but the first process that encodes is killed, once."""

    def __init__(self, flag: Path):
        super().__init__()
        self.flag = flag

    def encode(self, batch: Sequence[str]) -> list[np.ndarray]:
        with contextlib.suppress(FileExistsError):
            self.flag.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(batch)


class Cells(Tokenizer[np.ndarray]):
    """Images as the mean grey of cells of 4 x 4 pixels."""

    name = "cells"

    @property
    def modality(self) -> Modality:
        return Modality(name="image", grid="plane", codes=256)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def encode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._encode(pixels) for pixels in batch]

    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        y, x, _ = pixels.shape
        if y % CELL or x % CELL:
            raise ValueError(f"an image of {x} x {y} pixels has sides that are no multiples of {CELL}")
        return pixels.reshape(y // CELL, CELL, x // CELL, CELL * 3).mean((1, 3)).astype(np.int32)

    def decode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.repeat(np.kron(c, np.ones((CELL, CELL)))[..., None], 3, -1).astype(np.uint8) for c in batch]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)


class Levels(Tokenizer[Audio]):
    """Sound as mean and peak of |sample| in frames of 640 samples: two levels of 16 codes."""

    name = "levels"

    @property
    def modality(self) -> Modality:
        return Modality(name="audio", grid="frames", codes=16, levels=2)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def encode(self, batch: Sequence[Audio]) -> list[np.ndarray]:
        return [self._encode(np.abs(clip.samples)) for clip in batch]

    def _encode(self, loud: np.ndarray) -> np.ndarray:
        frames = np.pad(loud, (0, -len(loud) % HOP)).reshape(-1, HOP)
        codes = np.stack([frames.mean(1), frames.max(1)], -1) * 16
        return np.minimum(codes, 15).astype(np.int32)

    def decode(self, batch: Sequence[np.ndarray]) -> list[Audio]:
        return [Audio(np.repeat(c[:, 0] / 16, HOP).astype(np.float32), RATE) for c in batch]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)


def tokenizers(pause: float = 0.0) -> dict[str, Tokenizer]:
    return {"text": Bytes(pause), "image": Cells(), "audio": Levels()}


def png(side: int = 32, shade: int = 120, mode: str = "RGB", form: str = "PNG") -> bytes:
    """A picture with a gradient, so that its file has some length."""
    pixels = np.arange(side * side * 3).reshape(side, side, 3) * 7 % 256
    out = io.BytesIO()
    Image.fromarray(((pixels + shade) % 256).astype(np.uint8)).convert(mode).save(out, form)
    return out.getvalue()


def wav(seconds: float = 0.3, rate: int = RATE, form: str = "WAV", scale: float = 0.5, **options) -> bytes:
    t = np.arange(round(seconds * rate)) / rate
    out = io.BytesIO()
    samples = (scale * np.sin(2 * np.pi * 220 * t) * (1 + t)).astype(np.float32)
    soundfile.write(out, samples, rate, format=form, **options)
    return out.getvalue()


def jsonl(path: Path, rows: Sequence[Mapping | bytes | str]) -> Path:
    """A line a row; bytes and strings are written as they are."""
    lines = [
        r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)).encode()
        for r in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def pair(folder: Path, rows: Sequence[Mapping | bytes | str], files: Mapping[str, bytes], name: str = "train") -> Path:
    """`NAME.jsonl` and `NAME.zip` in a folder."""
    jsonl(folder / f"{name}.jsonl", rows)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return folder
