"""The reconstruction report: originals beside reconstructions, in one HTML file to look at and listen to."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from PIL import Image

from trimask.core.errors import UsageError
from trimask.core.files import replacing
from trimask.core.item import Audio
from trimask.tokenizers import spectral
from trimask.tokenizers.audio import to_wave
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.quality import MEL_BANDS, Quality

PICTURE_SIDE = 192
"""Pixels on the page of a picture's longest side; whole multiples keep pixels crisp."""
TEXT_LENGTH = 600
"""Characters shown of a text."""
LOUDEST = -1.0
"""Natural log magnitude that spectrograms show as the brightest colour; `spectral.FLOOR` is the darkest."""

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #999 } td:first-child, th:first-child { text-align: left }
.grid { display: flex; flex-wrap: wrap; gap: 14px } figure { margin: 0 } figcaption { font-size: 12px; color: #666 }
.pair { display: flex; gap: 4px } img { image-rendering: pixelated; display: block } audio { width: 100% }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .5em }
"""


def write_report(path: Path, tokenizer: Tokenizer, samples: Mapping[str, Sequence[Any]]) -> None:
    """Write the report of a tokenizer: its figures, then by set name each sample and its round trip.

    The samples should be held out from training. The file holds everything it shows.
    """
    if not samples:
        raise UsageError("a reconstruction report needs at least one set of samples")
    title = f"Reconstructions of {tokenizer.name}"
    row = tokenizer.modality
    facts = f"{row.codes} codes, {row.levels} a position; fingerprint {tokenizer.fingerprint[:16]}"
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>",
        f"<p>{facts}. Original left, reconstruction right.</p>",
        quality_table(getattr(tokenizer, "quality", {})),
    ]
    for name, raws in samples.items():
        made = tokenizer.decode(tokenizer.encode(raws))
        cells = "".join(show(a, b) for a, b in zip(raws, made, strict=True))
        parts.append(f"<h2>{html.escape(name)}</h2><div class=grid>{cells}</div>")
    with replacing(Path(path)) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def quality_table(quality: Quality) -> str:
    """The figures of every set as an HTML table, a set a row."""
    names = list(dict.fromkeys(name for figures in quality.values() for name in figures))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}" for name in names)
    lines = []
    for title, figures in quality.items():
        cells = "".join(f"<td>{figures[n]:.4g}" if n in figures else "<td>" for n in names)
        lines.append(f"<tr><td>{html.escape(title)}{cells}")
    return f"<table><tr><th>set{head}{''.join(lines)}</table>" if quality else ""


@singledispatch
def show(original: object, made: Any) -> str:
    """HTML of an original beside its reconstruction, by the type of the raw content."""
    raise UsageError(f"no way to show content of type {type(original).__name__}")


@show.register
def _(original: np.ndarray, made: np.ndarray) -> str:
    scale = max(1, PICTURE_SIDE // max(original.shape[:2]))
    pictures = "".join(_image(pixels, scale, scale) for pixels in (original, made))
    size = f"{original.shape[0]} × {original.shape[1]}"
    return f"<figure><div class=pair>{pictures}</div><figcaption>{size}</figcaption></figure>"


@show.register
def _(original: Audio, made: Audio) -> str:
    sides = "".join(f"<div>{_image(spectrogram(a), 2, 2)}{_player(a)}</div>" for a in (original, made))
    return f"<figure><div class=pair>{sides}</div><figcaption>{original.seconds:.2f} s, log-mel</figcaption></figure>"


@show.register
def _(original: str, made: str) -> str:
    verdict = "equal" if original == made else "different"
    shown = html.escape(made[:TEXT_LENGTH] + ("…" if len(made) > TEXT_LENGTH else ""))
    return f"<figure><pre>{shown}</pre><figcaption>{verdict}</figcaption></figure>"


def spectrogram(clip: Audio) -> np.ndarray:
    """Log-mel bands of a recording as a picture (bands, frames, 3) `uint8`, low frequencies below."""
    magnitude_BFN = spectral.magnitude(spectral.stft(to_wave(clip)[None]))
    mel_MN = spectral.log_mel(magnitude_BFN, MEL_BANDS)[0].numpy()
    darkest = np.log(spectral.FLOOR)
    scaled = np.clip((mel_MN[::-1] - darkest) / (LOUDEST - darkest), 0, 1)
    return matplotlib.colormaps["magma"](scaled, bytes=True)[..., :3]


def _image(pixels: np.ndarray, across: int, down: int) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    height, width = pixels.shape[0] * down, pixels.shape[1] * across
    return f'<img width={width} height={height} src="data:image/png;base64,{_base64(file)}">'


def _player(clip: Audio) -> str:
    file = io.BytesIO()
    soundfile.write(file, np.clip(clip.samples, -1, 1), clip.rate, format="WAV", subtype="PCM_16")
    return f'<audio controls preload=none src="data:audio/wav;base64,{_base64(file)}"></audio>'


def _base64(file: io.BytesIO) -> str:
    return base64.b64encode(file.getvalue()).decode()
