"""Small raw content and untrained tokenizers for the tests of this folder."""

import chz
import numpy as np
import torch
from torch import nn

from trimask.core.item import Audio
from trimask.core.rng import generator
from trimask.tokenizers.audio import AudioAutoencoder, AudioSettings, AudioTokenizer
from trimask.tokenizers.image import ImageAutoencoder, ImageSettings, ImageTokenizer

SMALL_IMAGE = ImageSettings(levels=(4, 3), width=8, inner=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
SMALL_AUDIO = AudioSettings(
    levels=(4, 3),
    codebooks=2,
    bands=20,
    encoder_width=8,
    inner=8,
    decoder_width=8,
    decoder_blocks=(1, 1),
    iterations=4,
)


def shapes(index: int, rows: int = 32, columns: int = 32) -> np.ndarray:
    """A light picture with two coloured discs."""
    rng = generator("test shapes", index)
    picture = np.full((rows, columns, 3), 250, np.uint8)
    y, x = np.mgrid[:rows, :columns]
    for _ in range(2):
        row, column, radius = rng.uniform(6, rows - 6), rng.uniform(6, columns - 6), rng.uniform(3, 6)
        picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = rng.integers(0, 200, 3)
    return picture


def tone(index: int, samples: int = 12_000, rate: int = 16_000) -> Audio:
    """A gliding tone with harmonics and a little noise."""
    rng = generator("test tone", index)
    time = np.arange(samples) / rate
    phase = 2 * np.pi * (rng.uniform(100, 250) * time + rng.uniform(-40, 40) * time**2)
    wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * 0.2 + 0.002 * rng.standard_normal(samples)
    return Audio(np.asarray(wave, np.float32), rate)


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in network.state_dict().items()}


def image_tokenizer(settings: ImageSettings = SMALL_IMAGE, seed: int = 0) -> ImageTokenizer:
    torch.manual_seed(seed)
    return ImageTokenizer(settings, weights(ImageAutoencoder(settings)))


def audio_tokenizer(settings: AudioSettings = SMALL_AUDIO, seed: int = 0) -> AudioTokenizer:
    torch.manual_seed(seed)
    return AudioTokenizer(settings, weights(AudioAutoencoder(settings)))


def other(settings: ImageSettings) -> ImageSettings:
    return chz.replace(settings, levels=(3, 3))
