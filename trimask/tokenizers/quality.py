"""Reconstruction quality of a tokenizer on held-out content: what `tokenizer.json` reports."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from trimask.core.errors import UsageError
from trimask.core.item import Audio
from trimask.tokenizers import spectral
from trimask.tokenizers.audio import to_wave
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.image import to_pixels
from trimask.tokenizers.similarity import psnr, ssim

PSNR_CAP = 100.0
"""An exact reconstruction counts as this many dB, so that a mean exists."""
MEL_BANDS = 80
"""Bands of the mel distance, the same for every codec."""


Figures = Mapping[str, float]
Quality = Mapping[str, Figures]
"""Name of a held-out set (or of a grader) -> its figures."""


def measure(tokenizer: Tokenizer, held_out: Sequence[Any]) -> dict[str, float]:
    """Quality over a round trip: figures of the raw type, and how the codes are used.

    Pictures: `psnr` (dB) and `ssim`. Recordings: `mel_distance` (mean absolute difference of natural
    log-mel) and `mel_floor`, what Griffin-Lim alone costs. Text: `exact` (share of equal round
    trips) and `bytes_per_code`. All, means over the items: `items`, `codes_per_item`, and by level c
    `usage_c` (share of codes that occur) and `perplexity_c`.
    """
    if not len(held_out):
        raise UsageError("quality needs at least one held-out item")
    codes = tokenizer.encode(held_out)
    rows = [compare(a, b) for a, b in zip(held_out, tokenizer.decode(codes), strict=True)]
    figures = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if "bytes" in figures:
        figures["bytes_per_code"] = figures.pop("bytes") / max(1.0, float(np.mean([c.size for c in codes])))
    counts = {"items": float(len(held_out)), "codes_per_item": float(np.mean([c.size for c in codes]))}
    return counts | figures | code_use(tokenizer, codes)


def code_use(tokenizer: Tokenizer, codes: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of codes that occur and perplexity of the code distribution, by level."""
    row = tokenizer.modality
    stacked = np.concatenate([c.reshape(-1, row.levels) for c in codes])
    out = {}
    for level in range(row.levels):
        counts = np.bincount(stacked[:, level], minlength=row.codes)
        p = counts[counts > 0] / counts.sum()
        out[f"usage_{level}"] = float((counts > 0).mean())
        out[f"perplexity_{level}"] = float(np.exp(-(p * np.log(p)).sum()))
    return out


@singledispatch
def compare(original: object, made: Any) -> dict[str, float]:
    """Figures of one reconstruction, by the type of the raw content."""
    raise UsageError(f"no measure of quality for content of type {type(original).__name__}")


@compare.register
def _(original: np.ndarray, made: np.ndarray) -> dict[str, float]:
    a, b = to_pixels(original), to_pixels(made)
    return {"psnr": float(psnr(a, b, 2.0).clamp(max=PSNR_CAP)), "ssim": float(ssim(a, b, 2.0))}


@compare.register
def _(original: Audio, made: Audio) -> dict[str, float]:
    wave_N = to_wave(original)
    again_BN = spectral.griffin_lim(spectral.magnitude(spectral.stft(wave_N[None])))
    return {
        "mel_distance": _mel_distance(wave_N, to_wave(made)),
        "mel_floor": _mel_distance(wave_N, again_BN[0]),
    }


@compare.register
def _(original: str, made: str) -> dict[str, float]:
    return {"exact": float(original == made), "bytes": float(len(original.encode()))}


def _mel_distance(one_N: torch.Tensor, other_N: torch.Tensor) -> float:
    mels = [spectral.log_mel(spectral.magnitude(spectral.stft(wave[None])), MEL_BANDS) for wave in (one_N, other_N)]
    return float((mels[0] - mels[1]).abs().mean())
