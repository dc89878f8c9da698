"""Audio tokenizer: a small spectral codec with grouped finite scalar quantization.

16 kHz mono, 25 frames a second, C independent codebooks a frame. The encoder reads log-mel bands,
the decoder writes the log-magnitude spectrum, and Griffin-Lim finds a waveform that has it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import chz
import numpy as np
import soxr
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from trimask.core.item import Audio
from trimask.core.modality import Modality
from trimask.tokenizers import artifact, spectral
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.image import checked_codes
from trimask.tokenizers.layers import Conv1d, blocks

STRIDE = 4
"""Spectral frames per code frame."""
FRAME = STRIDE * spectral.HOP
"""Samples per code frame: 25 code frames a second at 16 kHz."""

# Mean and spread of log magnitudes of speech, so that the networks work on numbers around one.
_CENTRE, _SPREAD = -6.5, 2.0


@chz.chz
class AudioSettings:
    """What the network of an audio tokenizer looks like."""

    levels: tuple[int, ...] = chz.field(default=(8, 8, 8), doc="FSQ levels of the dimensions of one codebook")
    codebooks: int = chz.field(default=4, doc="codebooks per frame (C)")
    bands: int = chz.field(default=80, doc="mel bands that the encoder reads")
    encoder_width: int = chz.field(default=128, doc="encoder channels at 100 Hz")
    inner: int = chz.field(default=192, doc="channels at 25 Hz")
    decoder_width: int = chz.field(default=160, doc="decoder channels at 100 Hz")
    encoder_blocks: tuple[int, int] = chz.field(default=(1, 1), doc="residual blocks at 100 Hz, at 25 Hz")
    decoder_blocks: tuple[int, int] = chz.field(default=(2, 2), doc="residual blocks at 25 Hz, at 100 Hz")
    iterations: int = chz.field(default=48, doc="Griffin-Lim iterations of decoding")

    @property
    def codes(self) -> int:
        """Codes per codebook."""
        return prod(self.levels)


class AudioAutoencoder(nn.Module):
    """Log-mel bands to codes, and codes to log magnitudes. FSQ: Mentzer et al. 2023, arXiv 2309.15505."""

    def __init__(self, settings: AudioSettings):
        super().__init__()
        fast, inner, slow = settings.encoder_width, settings.inner, settings.decoder_width
        dims = len(settings.levels) * settings.codebooks
        self.bands = settings.bands
        self.stem = Conv1d(settings.bands, fast, 5, padding=2)
        self.encoder_fast = blocks(Conv1d, fast, settings.encoder_blocks[0])
        self.down = Conv1d(fast, inner, STRIDE, stride=STRIDE)
        self.encoder_inner = blocks(Conv1d, inner, settings.encoder_blocks[1])
        self.to_code = Conv1d(inner, dims, 1)
        self.quantizer = FSQ(list(settings.levels), num_codebooks=settings.codebooks, keep_num_codebooks_dim=True)
        self.from_code = Conv1d(dims, inner, 3, padding=1)
        self.decoder_inner = blocks(Conv1d, inner, settings.decoder_blocks[0])
        self.up = Conv1d(inner, slow * STRIDE, 1)
        self.decoder_fast = blocks(Conv1d, slow, settings.decoder_blocks[1])
        self.head = Conv1d(slow, spectral.BINS, 3, padding=1)

    def encode(self, mel_BMN: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized vectors (B, D, T) in fp32, with gradient, and codes (B, T, C), from log-mel bands."""
        fast = self.encoder_fast(self.stem((mel_BMN - _CENTRE) / _SPREAD))
        z_BDT = self.to_code(self.encoder_inner(self.down(fast))).float()
        quantized_BTD, ids_BTC = self.quantizer(z_BDT.transpose(1, 2))
        return quantized_BTD.transpose(1, 2), ids_BTC

    def decode(self, quantized_BDT: Tensor) -> Tensor:
        """Log magnitudes (B, BINS, 4 T) in fp32 from quantized vectors."""
        up_BDT = self.up(self.decoder_inner(self.from_code(quantized_BDT)))
        fast_BDN = up_BDT.unflatten(1, (-1, STRIDE)).transpose(2, 3).flatten(2)
        return self.head(self.decoder_fast(fast_BDN)).float() * _SPREAD + _CENTRE

    def vectors(self, ids_BTC: Tensor) -> Tensor:
        """Quantized vectors (B, D, T) of codes."""
        return self.quantizer.indices_to_codes(ids_BTC).transpose(1, 2)

    def forward(self, mel_BMN: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Log magnitudes (B, BINS, N) reconstructed from log-mel bands, computed in `dtype`."""
        quantized_BDT, _ = self.encode(mel_BMN.to(dtype))
        return self.decode(quantized_BDT.to(dtype))


class AudioTokenizer(Tokenizer[Audio]):
    """Recordings to codes (T, C) and back, 25 frames a second.

    T is the number of samples at 16 kHz divided by 640, rounded up (the end is filled with silence);
    decoding gives T * 640 samples. Other rates are resampled with soxr. Levels are taken as they are.
    Weights are rounded to fp16, as they are stored; computing is in fp32, one clip at a time, so a
    clip's codes do not depend on its batch.
    """

    name = "audio-fsq"

    def __init__(
        self,
        settings: AudioSettings,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.settings = settings
        self.network = AudioAutoencoder(settings)
        self.weights = artifact.install(self.network, weights)
        self.quality, self.provenance = dict(quality or {}), dict(provenance or {})

    @classmethod
    def from_artifact(cls, folder: Path, manifest: Mapping[str, Any]) -> "AudioTokenizer":
        """The tokenizer of an artifact folder whose manifest has been read."""
        return cls(
            artifact.read_settings(folder, manifest, AudioSettings),
            artifact.read_weights(folder),
            manifest.get("quality"),
            manifest.get("provenance"),
        )

    @property
    def modality(self) -> Modality:
        s = self.settings
        return Modality(name="audio", grid="frames", codes=s.codes, levels=s.codebooks, digits=s.levels)

    @cached_property
    def fingerprint(self) -> str:
        return artifact.fingerprint(self.name, chz.asdict(self.settings), self.weights)

    @torch.no_grad()
    def encode(self, batch: Sequence[Audio]) -> list[np.ndarray]:
        """Codes (T, C) of each recording; `ValueError` for one that is empty, not mono or not finite."""
        out = []
        for clip in batch:
            magnitude_BFN = spectral.magnitude(spectral.stft(to_wave(clip)[None]))
            ids_BTC = self.network.encode(spectral.log_mel(magnitude_BFN, self.settings.bands))[1]
            out.append(ids_BTC[0].numpy().astype(np.int32))
        return out

    @torch.no_grad()
    def decode(self, batch: Sequence[np.ndarray]) -> list[Audio]:
        """Recordings of T * 640 samples at 16 kHz, within [-1, 1], of codes (T, C)."""
        out = []
        for ids in batch:
            rule = f"audio codes have shape (T, {self.settings.codebooks})"
            ids = checked_codes(ids, 2, self.settings.codes, rule)
            if ids.shape[1] != self.settings.codebooks:
                raise ValueError(f"{rule}, got {ids.shape}")
            log_BFN = self.network.decode(self.network.vectors(torch.from_numpy(ids)[None]))
            wave_BN = spectral.griffin_lim(to_magnitude(log_BFN), self.settings.iterations)
            out.append(Audio(wave_BN[0].clamp(-1, 1).numpy(), spectral.RATE))
        return out

    def save(self, folder: Path) -> None:
        artifact.write_network(folder, self)


def to_wave(clip: Audio) -> Tensor:
    """Samples (N,) at 16 kHz, filled with silence to a multiple of `FRAME`; see `checked_samples`."""
    return torch.from_numpy(checked_samples(clip, spectral.RATE, FRAME))


def checked_samples(clip: Audio, rate: int, frame: int) -> np.ndarray:
    """float32 (N,): a recording at a rate, filled with silence to whole frames of so many samples.

    Raises `ValueError` for one that is empty, not mono, not finite or has no rate.
    """
    samples = np.asarray(clip.samples)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"a recording is a float array (N,), one channel; got {samples.dtype} {samples.shape}")
    if len(samples) == 0 or clip.rate <= 0:
        raise ValueError(f"a recording has samples and a rate; got {len(samples)} samples at {clip.rate} Hz")
    if not np.isfinite(samples).all():
        raise ValueError("the recording has samples that are not finite")
    if clip.rate != rate:
        samples = soxr.resample(samples, clip.rate, rate)
    return np.pad(np.array(samples, dtype=np.float32), (0, -len(samples) % frame))


def to_magnitude(log_BFN: Tensor) -> Tensor:
    """Magnitudes of `spectral.log_magnitude`, not below zero."""
    return (log_BFN.exp() - spectral.FLOOR).clamp(min=0)
