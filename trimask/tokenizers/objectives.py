"""What the autoencoders are trained for: how raw content becomes examples, and the loss on them.

An objective is what `training.train_tokenizer` needs to know about a modality; a new autoencoder
brings its own and the loop stays as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import chz
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.core.item import Audio
from trimask.tokenizers import spectral
from trimask.tokenizers.audio import (
    FRAME,
    AudioAutoencoder,
    AudioSettings,
    AudioTokenizer,
    to_wave,
)
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.image import CELL, ImageAutoencoder, ImageSettings, ImageTokenizer, to_pixels
from trimask.tokenizers.similarity import ssim

Raw = TypeVar("Raw")

SSIM_STRIDE = 3
"""Pixels between the windows of the loss; every window would cost a fifth of a step."""


class Objective(ABC, Generic[Raw]):
    """A network, examples for it, its loss, and the tokenizer it becomes. Implementations are final."""

    @abstractmethod
    def network(self) -> nn.Module:
        """A network with fresh weights from torch's global generator."""

    @abstractmethod
    def example(self, raw: Raw, rng: np.random.Generator) -> Tensor:
        """One training example of raw content, without a batch axis, cut out at random."""

    @abstractmethod
    def loss(self, network: nn.Module, examples: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over examples of one shape (B, ...), and its terms, detached."""

    @abstractmethod
    def tokenizer(
        self,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Tokenizer[Raw]:
        """The tokenizer that has these weights."""


@chz.chz
class ImageObjective(Objective[np.ndarray]):
    """L1, L2, differences between neighbours (edges) and structural similarity of pixels in [-1, 1]."""

    settings: ImageSettings = chz.field(default_factory=ImageSettings, doc="the network")
    crop: int = chz.field(default=32, doc="longest side of a training example in pixels")
    permute: float = chz.field(default=0.5, doc="share of examples whose colour channels are permuted")
    square_weight: float = chz.field(default=5.0, doc="weight of the squared error")
    edge_weight: float = chz.field(default=1.0, doc="weight of the error of neighbour differences")
    decision_weight: float = chz.field(default=0.25, doc="weight of the distance of latents from their levels")
    ssim_weight: float = chz.field(default=0.1, doc="weight of 1 - SSIM")

    def network(self) -> ImageAutoencoder:
        return ImageAutoencoder(self.settings)

    def example(self, raw: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Pixels (3, Y, X) of a random crop whose corner may lie anywhere, half of them with permuted channels.

        A shape is then seen in colours that it never has in the data, so that a new pair of the two
        survives the round trip.
        """
        pixels_3YX = to_pixels(raw)[0]
        rows, columns = (min(side, self.crop) // CELL * CELL for side in pixels_3YX.shape[1:])
        top = int(rng.integers(pixels_3YX.shape[1] - rows + 1))
        left = int(rng.integers(pixels_3YX.shape[2] - columns + 1))
        channels = rng.permutation(3) if rng.random() < self.permute else np.arange(3)
        return pixels_3YX[channels][:, top : top + rows, left : left + columns]

    def loss(self, network: nn.Module, examples: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        made, indecision = network(examples, dtype)
        error = made - examples
        terms = {
            "l1": error.abs().mean(),
            "l2": error.square().mean(),
            "edge": (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2,
            "ssim": 1 - ssim(made, examples, peak=2.0, stride=SSIM_STRIDE).mean(),
            "indecision": indecision,
        }
        weighted = terms["l1"] + self.square_weight * terms["l2"] + self.edge_weight * terms["edge"]
        weighted = weighted + self.ssim_weight * terms["ssim"] + self.decision_weight * indecision
        return weighted, {k: v.detach() for k, v in terms.items()}

    def tokenizer(
        self,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> ImageTokenizer:
        return ImageTokenizer(self.settings, weights, quality, provenance)


@chz.chz
class AudioObjective(Objective[Audio]):
    """L1 between log-mel bands and between log magnitudes of clips at random levels."""

    settings: AudioSettings = chz.field(default_factory=AudioSettings, doc="the network")
    frames: int = chz.field(default=32, doc="code frames of a training example")
    gain_db: tuple[float, float] = chz.field(default=(-30.0, 0.0), doc="range of peak levels, relative to 1")
    linear_weight: float = chz.field(default=0.5, doc="weight of the error of log magnitudes")

    def network(self) -> AudioAutoencoder:
        return AudioAutoencoder(self.settings)

    def example(self, raw: Audio, rng: np.random.Generator) -> Tensor:
        """Samples (N,) of a random stretch; a clip that is too short gets silence around it."""
        wave_N = to_wave(raw)
        peak = wave_N.abs().max().clamp(min=spectral.FLOOR)
        wave_N = wave_N / peak * 10 ** (float(rng.uniform(*self.gain_db)) / 20)
        length = self.frames * FRAME
        if len(wave_N) < length:
            before = int(rng.integers(length - len(wave_N) + 1))
            return F.pad(wave_N, (before, length - len(wave_N) - before))
        start = int(rng.integers(len(wave_N) - length + 1))
        return wave_N[start : start + length]

    def loss(self, network: nn.Module, examples: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        magnitude_BFN = spectral.magnitude(spectral.stft(examples))
        mel_BMN = spectral.log_mel(magnitude_BFN, self.settings.bands)
        log_BFN = network(mel_BMN, dtype)
        made_BMN = torch.log(spectral.mel_filters(self.settings.bands) @ log_BFN.exp())
        terms = {
            "mel": (made_BMN - mel_BMN).abs().mean(),
            "linear": (log_BFN - spectral.log_magnitude(magnitude_BFN)).abs().mean(),
        }
        return terms["mel"] + self.linear_weight * terms["linear"], {k: v.detach() for k, v in terms.items()}

    def tokenizer(
        self,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> AudioTokenizer:
        return AudioTokenizer(self.settings, weights, quality, provenance)
