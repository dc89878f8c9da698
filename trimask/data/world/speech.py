"""Speech synthesis by espeak-ng, called through ctypes from the optional `espeakng-loader` wheel.

espeak-ng keeps state between utterances (the phase of its flutter and its waveform buffers), which
makes a clip depend on the clips before it. The library is therefore loaded anew for every clip and
unloaded after it, which costs about three milliseconds and makes a clip a function of text, voice
and rate alone. Voices with breath noise are not used: their noise comes from the C library's `rand`.
"""

import _ctypes
import ctypes
import importlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from trimask.core.errors import DataError, UsageError
from trimask.core.item import Audio

RATE = 16_000
"""Hz of the clips."""
PEAK = 0.9
SILENCE = 0.006
"""Share of the peak below which the two ends count as silence (-44 dB)."""
MARGIN = 0.02
"""Seconds of the ends that are kept."""
LONGEST_PATH = 100
"""Characters; espeak-ng copies the path of its data into a buffer of 160."""

_SYNCHRONOUS, _DONT_EXIT, _RATE_PARAMETER, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1, 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """A speaker: the public `name` a model is told, and espeak's language with its variant."""

    name: str
    espeak: str


VOICES = (
    Voice("american man", "en-us"),
    Voice("american woman", "en-us+f4"),
    Voice("british man", "en-gb-x-rp+rob"),
    Voice("british woman", "en-gb-x-rp+linda"),
    Voice("scottish man", "en-gb-scotland+m3"),
    Voice("scottish woman", "en-gb-scotland+f1"),
    Voice("caribbean man", "en-029+m8"),
    Voice("caribbean woman", "en-029+Annie"),
)
HELD_OUT_VOICE = "scottish woman"
"""Spoken in the test part only; its accent and its gender are each heard in training."""
TRAIN_VOICES = tuple(voice for voice in VOICES if voice.name != HELD_OUT_VOICE)


def voice(name: str) -> Voice:
    """The voice of that public name; an unknown one raises `UsageError`."""
    for known in VOICES:
        if known.name == name:
            return known
    raise UsageError(f"no voice {name!r}; known: {', '.join(v.name for v in VOICES)}")


def synthesize(text: str, name: str, words_per_minute: int = 175) -> Audio:
    """`text` spoken by the voice `name`: mono float32 at 16 kHz, peak 0.9, without silent ends.

    Equal arguments give equal samples. Safe to call from several threads and processes.
    """
    samples, rate = _espeak(text, voice(name).espeak, words_per_minute)
    wave = samples.astype(np.float32) / 32768
    wave = _trimmed(soxr.resample(wave, rate, RATE))
    return Audio((wave * (PEAK / np.abs(wave).max())).astype(np.float32), RATE)


def version() -> str:
    """espeak-ng's version and soxr's, which together decide the samples."""
    with _library(_wheel().get_library_path()) as library:
        library.espeak_Info.restype = ctypes.c_char_p
        return f"espeak-ng {library.espeak_Info(None).decode()}, soxr {soxr.__version__}"


def _trimmed(wave: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(wave) > SILENCE * np.abs(wave).max())
    if len(loud) == 0:
        raise ValueError("the text has nothing that can be spoken")
    margin = round(MARGIN * RATE)
    return wave[max(loud[0] - margin, 0) : loud[-1] + 1 + margin]


def _wheel():
    try:
        return importlib.import_module("espeakng_loader")
    except ImportError:
        raise UsageError(
            "the built-in world speaks through espeak-ng, which is not installed; "
            "install it with: pip install 'trimask[world]'"
        ) from None


def _espeak(text: str, espeak_voice: str, words_per_minute: int) -> tuple[np.ndarray, int]:
    """16-bit samples and their rate, from a library loaded for this call alone."""
    wheel = _wheel()
    with _library(wheel.get_library_path()) as library, _short(Path(wheel.get_data_path())) as folder:
        try:
            return _speak(library, folder, text, espeak_voice, words_per_minute)
        finally:
            library.espeak_Terminate()


@contextmanager
def _library(path: str) -> Iterator[ctypes.CDLL]:
    """espeak-ng freshly loaded, with all its state at zero, for one thread at a time."""
    with _lock:
        library = ctypes.CDLL(path)
        try:
            yield library
        finally:
            # POSIX and Windows name it differently; without it the state would survive.
            unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009
            unload(library._handle)


@contextmanager
def _short(folder: Path) -> Iterator[Path]:
    """The folder, by a link where its path is too long for espeak's buffer."""
    if len(str(folder)) <= LONGEST_PATH:
        yield folder
        return
    with tempfile.TemporaryDirectory() as holder:
        link = Path(holder) / "espeak-ng-data"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _speak(
    library: ctypes.CDLL, folder: Path, text: str, espeak_voice: str, words_per_minute: int
) -> tuple[np.ndarray, int]:
    chunks: list[np.ndarray] = []

    def receive(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(receive)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), _DONT_EXIT)
    if rate <= 0:
        raise DataError(f"espeak-ng cannot read its data in {folder}; reinstall espeakng-loader")
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(espeak_voice.encode()) != 0:
        raise DataError(f"espeak-ng in {folder} has no voice {espeak_voice!r}; reinstall espeakng-loader")
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    raw = text.encode() + b"\0"
    status = library.espeak_Synth(raw, len(raw), 0, _BY_CHARACTER, 0, _UTF8, None, None)
    if status != 0 or not chunks:
        raise ValueError(f"espeak-ng could not speak {text!r} (status {status})")
    return np.concatenate(chunks), rate
