"""Short-time spectra: framing, mel scale, and a waveform from magnitudes alone.

Frame n covers samples around [n * HOP, (n + 1) * HOP), so a clip of N * HOP samples has exactly N
frames. Arrays: `wave_BN` samples, `spectrum_BFN` F frequency bins by N frames.
"""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.core.rng import generator

RATE = 16_000
"""Samples per second."""
HOP = 160
"""Samples per frame: 100 frames per second."""
WINDOW = 512
"""Samples per window, and length of the Fourier transform."""
BINS = WINDOW // 2 + 1
FLOOR = 1e-4
"""Magnitude added before the logarithm: 80 dB below a full-scale sine of magnitude 1."""

_TINY = torch.finfo(torch.float32).tiny
_MARGIN = (WINDOW - HOP) // 2


@cache
def window() -> Tensor:
    return torch.hann_window(WINDOW)


def stft(wave_BN: Tensor) -> Tensor:
    """Complex spectrum (B, BINS, N / HOP) of samples whose number is a multiple of `HOP`.

    Scaled so that a sine of amplitude 1 has magnitude 1 in its bin.
    """
    padded_BN = F.pad(wave_BN, (_MARGIN, _MARGIN))
    spectrum = torch.stft(padded_BN, WINDOW, HOP, window=window(), center=False, return_complex=True)
    return spectrum * (2 / window().sum())


def istft(spectrum_BFN: Tensor) -> Tensor:
    """Samples (B, N * HOP) by weighted overlap-add: the least-squares inverse of `stft`."""
    frames = spectrum_BFN.shape[-1]
    waves_BWN = torch.fft.irfft(spectrum_BFN * (window().sum() / 2), n=WINDOW, dim=1)
    weighted = torch.cat((waves_BWN * window()[:, None], window().square()[None, :, None].expand(1, -1, frames)))
    length = (frames - 1) * HOP + WINDOW
    summed = F.fold(weighted, (1, length), (1, WINDOW), stride=(1, HOP))[:, 0, 0]
    kept = summed[:, _MARGIN : _MARGIN + frames * HOP]
    return kept[:-1] / kept[-1]


def mel(frequency: float) -> float:
    """Hertz to mel (O'Shaughnessy 1987)."""
    return 2595 * math.log10(1 + frequency / 700)


def hertz(mels: np.ndarray) -> np.ndarray:
    """Mel to hertz, the inverse of `mel`."""
    return 700 * (10 ** (mels / 2595) - 1)


@cache
def mel_filters(bands: int, low: float = 40.0, high: float = RATE / 2) -> Tensor:
    """Triangular filters (bands, BINS) at equal distances in mel, each of sum 1."""
    edges = hertz(np.linspace(mel(low), mel(high), bands + 2))
    bins = np.arange(BINS) * RATE / WINDOW
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    # A narrow low band can fall between two bins; half a bin of widening keeps it from being empty.
    filters = np.maximum(0, np.minimum(rising, falling)) + 1e-3 * (
        np.abs(bins - edges[1:-1, None]) <= RATE / WINDOW / 2
    )
    return torch.from_numpy((filters / filters.sum(1, keepdims=True)).astype(np.float32))


def magnitude(spectrum_BFN: Tensor) -> Tensor:
    """|S| of a complex spectrum; several times faster than `abs` on a CPU."""
    return torch.view_as_real(spectrum_BFN).square().sum(-1).sqrt()


def log_magnitude(magnitude_BFN: Tensor) -> Tensor:
    """log(|S| + FLOOR), natural."""
    return torch.log(magnitude_BFN + FLOOR)


def log_mel(magnitude_BFN: Tensor, bands: int) -> Tensor:
    """log(mel-weighted |S| + FLOOR), shape (B, bands, N)."""
    return torch.log(mel_filters(bands) @ magnitude_BFN + FLOOR)


def griffin_lim(magnitude_BFN: Tensor, iterations: int = 32, momentum: float = 0.99) -> Tensor:
    """Samples (B, N * HOP) whose magnitudes come near the given ones.

    Perraudin, Balazs and Sondergaard 2013, "A fast Griffin-Lim algorithm". The starting phases are
    random but always the same ones for a frame's place, so the result is a function of the input.
    """
    frames = magnitude_BFN.shape[-1]
    phases_NF = generator("griffin-lim").random((frames, BINS), dtype=np.float32)
    angles_BFN = torch.polar(torch.ones(BINS, frames), 2 * np.pi * torch.from_numpy(phases_NF).T)[None]
    previous_BFN = torch.zeros_like(magnitude_BFN, dtype=torch.complex64)
    for _ in range(iterations):
        projected_BFN = stft(istft(magnitude_BFN * angles_BFN))
        ahead_BFN = projected_BFN + momentum * (projected_BFN - previous_BFN)
        angles_BFN = ahead_BFN / magnitude(ahead_BFN).clamp(min=_TINY)
        previous_BFN = projected_BFN
    return istft(magnitude_BFN * angles_BFN)
