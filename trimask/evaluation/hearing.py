"""What every judge of sound hears: log-mel frames of a clip brought to one loudness, and their spoiling.

Arrays: `mel_MN` bands by frames (100 a second), `mel_BMN` a batch padded with silence.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trimask.core.item import Audio
from trimask.tokenizers import spectral
from trimask.tokenizers.audio import to_wave

BANDS = 64
LEVEL = 0.1
"""Root mean square of the louder half of a clip after levelling."""
SILENCE = math.log(spectral.FLOOR)
"""Log-mel value of digital silence."""
_CENTRE, _SPREAD = -6.5, 2.0


def mel_frames(clip: Audio) -> Tensor:
    """Natural log-mel (BANDS, N) of a clip at one loudness; `ValueError` for one that cannot be heard."""
    wave_N = to_wave(clip)
    power_N = wave_N.unflatten(0, (-1, spectral.HOP)).square().mean(1)
    loud = power_N.sort(descending=True).values[: (len(power_N) + 1) // 2].mean().sqrt()
    levelled_N = wave_N * (LEVEL / loud.clamp(min=1e-5))
    return spectral.log_mel(spectral.magnitude(spectral.stft(levelled_N[None])), BANDS)[0]


def normalised(mel: Tensor) -> Tensor:
    """Values around zero and of size one, for the networks."""
    return (mel - _CENTRE) / _SPREAD


def padded(mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A batch (B, BANDS, N) filled with silence, and the lengths (B,)."""
    lengths_B = torch.tensor([m.shape[1] for m in mels])
    longest = int(lengths_B.max())
    batch = [F.pad(m.float(), (0, longest - m.shape[1]), value=SILENCE) for m in mels]
    return torch.stack(batch), lengths_B


def spoil(mel_BMN: Tensor, lengths_B: Tensor, rng: np.random.Generator, tract: bool = True) -> tuple[Tensor, Tensor]:
    """The same speech at another speed, in noise, band-limited, coded or with gaps, and by another mouth.

    Every clip draws its own; some only change speed. `tract` moves the resonances of the voice too.
    Returns frames and new lengths.
    """
    mel_BMN, lengths_B = _warped(mel_BMN, lengths_B, rng, tract)
    batch = len(mel_BMN)
    chosen = torch.from_numpy(rng.random((batch, 4)) < (0.5, 0.4, 0.2, 0.5))[:, :, None, None]
    steps = (_coded, _noisy, _band_limited, _gapped)
    for column, step in enumerate(steps):
        mel_BMN = torch.where(chosen[:, column], step(mel_BMN, rng), mel_BMN)
    return mel_BMN, lengths_B


def _warped(mel_BMN: Tensor, lengths_B: Tensor, rng: np.random.Generator, tract: bool) -> tuple[Tensor, Tensor]:
    """Speed by 0.85 to 1.2 and the frequency axis by 0.88 to 1.14 (vocal tract length), by interpolation."""
    batch, bands, frames = mel_BMN.shape
    speed_B = torch.from_numpy(np.exp(rng.uniform(math.log(0.85), math.log(1.2), batch))).float()
    tract_B = torch.from_numpy(np.exp(tract * rng.uniform(math.log(0.88), math.log(1.14), batch))).float()
    lengths_B2 = (lengths_B / speed_B).round().long().clamp(min=1)
    longest = int(lengths_B2.max())
    time_BN = (torch.arange(longest) + 0.5)[None] * speed_B[:, None] * (2 / frames) - 1
    band_BM = (torch.arange(bands) + 0.5)[None] * tract_B[:, None] * (2 / bands) - 1
    grid = torch.stack(torch.broadcast_tensors(time_BN[:, None, :], band_BM[:, :, None]), dim=-1)
    # Zero outside the input stands for silence.
    lifted = (mel_BMN - SILENCE)[:, None]
    warped = F.grid_sample(lifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped[:, 0] + SILENCE, lengths_B2


def _coded(mel_BMN: Tensor, rng: np.random.Generator) -> Tensor:
    """Like a codec: detail smeared over bands and frames, then smooth random error."""
    bands, frames = (2 * int(rng.integers(0, 3)) + 1 for _ in range(2))
    smooth = F.avg_pool2d(mel_BMN[:, None], (bands, frames), 1, (bands // 2, frames // 2), count_include_pad=False)[
        :, 0
    ]
    shape = (len(mel_BMN), 1, mel_BMN.shape[1] // 4, -(-mel_BMN.shape[2] // 4))
    coarse = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    error = F.interpolate(coarse, mel_BMN.shape[1:], mode="bilinear")[:, 0]
    fine = torch.from_numpy(rng.standard_normal(tuple(mel_BMN.shape), dtype=np.float32))
    size_B = torch.from_numpy(rng.uniform(0, 0.5, (2, len(mel_BMN), 1, 1)).astype(np.float32))
    return (smooth + size_B[0] * error + size_B[1] * fine).clamp(min=SILENCE)


def _noisy(mel_BMN: Tensor, rng: np.random.Generator) -> Tensor:
    """Steady noise of random tilt, 5 to 40 dB below the loudest frame."""
    batch, bands, _ = mel_BMN.shape
    loud_B = mel_BMN.mean(1).amax(1)
    depth_B = torch.from_numpy(rng.uniform(5, 40, batch).astype(np.float32)) * (math.log(10) / 20)
    tilt_B = torch.from_numpy(rng.uniform(-2, 1, batch).astype(np.float32))
    shape_BM = tilt_B[:, None] * torch.linspace(0, 1, bands) + (loud_B - depth_B)[:, None]
    flutter = torch.from_numpy(rng.standard_normal(tuple(mel_BMN.shape), dtype=np.float32)) * 0.3
    return torch.logaddexp(mel_BMN, shape_BM[:, :, None] + flutter)


def _band_limited(mel_BMN: Tensor, rng: np.random.Generator) -> Tensor:
    """Silence above 3 to 8 kHz, or below 100 to 300 Hz."""
    batch, bands, _ = mel_BMN.shape
    low = torch.from_numpy(rng.uniform(0, 0.08, batch) * bands)
    high = torch.from_numpy(rng.uniform(0.65, 1.0, batch) * bands)
    band = torch.arange(bands)
    outside_BM = (band < low[:, None]) | (band > high[:, None])
    return mel_BMN.masked_fill(outside_BM[:, :, None], SILENCE)


def _gapped(mel_BMN: Tensor, rng: np.random.Generator) -> Tensor:
    """Two gaps in time of up to 60 ms and one of up to 8 bands (SpecAugment, Park et al. 2019)."""
    batch, bands, frames = mel_BMN.shape
    out = mel_BMN
    for axis, count, most in ((2, frames, 6), (2, frames, 6), (1, bands, 8)):
        start = torch.from_numpy(rng.uniform(0, count, (batch, 1)))
        stop = start + torch.from_numpy(rng.uniform(0, most, (batch, 1)))
        place = torch.arange(count)[None]
        gap = (place >= start) & (place < stop)
        out = out.masked_fill(gap[:, None, :] if axis == 2 else gap[:, :, None], float(out.mean()))
    return out
