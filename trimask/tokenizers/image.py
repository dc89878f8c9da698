"""Image tokenizer: a small convolutional autoencoder with finite scalar quantization (FSQ).

One code for every 4 x 4 pixels. Picture rows Y and columns X are those of the array at hand: pixels
outside the network, code cells inside it.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from trimask.core.modality import Modality
from trimask.tokenizers import artifact
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.layers import Conv2d, blocks

CELL = 4
"""Pixels per code, in both directions."""
SIDES = (28, 96)
"""Shortest and longest side of a picture in pixels."""


@chz.chz
class ImageSettings:
    """What the network of an image tokenizer looks like."""

    levels: tuple[int, ...] = chz.field(default=(8, 4, 4, 4, 4), doc="FSQ levels of a code's dimensions")
    width: int = chz.field(default=64, doc="channels at half of the picture's resolution")
    inner: int = chz.field(default=96, doc="channels at the resolution of the codes")
    encoder_blocks: tuple[int, int] = chz.field(default=(1, 2), doc="residual blocks: half, code resolution")
    decoder_blocks: tuple[int, int] = chz.field(default=(2, 2), doc="residual blocks: code, half resolution")

    @property
    def codes(self) -> int:
        return math.prod(self.levels)


class ImageAutoencoder(nn.Module):
    """Pixels in [-1, 1] to codes and back. FSQ: Mentzer et al. 2023, arXiv 2309.15505.

    The encoder sees the cell of a code and two pixels around it, the decoder far more: what stands in a
    cell decides its code, so a model has few codes to learn for each thing, and blank cells stay blank.
    """

    def __init__(self, settings: ImageSettings):
        super().__init__()
        half, inner, dims = settings.width, settings.inner, len(settings.levels)
        self.stem = Conv2d(3 * 4, half, 3, padding=1)
        self.encoder_half = blocks(Conv2d, half, settings.encoder_blocks[0], kernel=1)
        self.down = Conv2d(half, inner, 2, stride=2)
        self.encoder_inner = blocks(Conv2d, inner, settings.encoder_blocks[1], kernel=1)
        self.to_code = Conv2d(inner, dims, 1)
        self.quantizer = FSQ(list(settings.levels))
        self.register_buffer("levels", torch.tensor(settings.levels), persistent=False)
        self.levels: Tensor
        self.from_code = Conv2d(dims, inner, 3, padding=1)
        self.decoder_inner = blocks(Conv2d, inner, settings.decoder_blocks[0])
        self.up = Conv2d(inner, half * 4, 1)
        self.decoder_half = blocks(Conv2d, half, settings.decoder_blocks[1])
        self.head = Conv2d(half, 3 * 4, 3, padding=1)

    def latent(self, pixels_B3YX: Tensor) -> Tensor:
        """What is quantized: (B, D, Y/4, X/4) in fp32."""
        half = self.encoder_half(self.stem(F.pixel_unshuffle(pixels_B3YX, 2)))
        return self.to_code(self.encoder_inner(self.down(half))).float()

    def indecision(self, z_BDYX: Tensor) -> Tensor:
        """Mean squared distance of latents from the level they are rounded to, in levels: 0 to 1/4.

        The bounded latent is that of FSQ (Mentzer et al. 2023, section 3.1). Where it lies between two
        levels, noise that nobody sees decides the code, and a model pays for it in nats.
        """
        half_D1 = ((self.levels - 1) * 1.001 / 2)[:, None, None]
        offset_D1 = torch.where(self.levels % 2 == 0, 0.5, 0.0)[:, None, None]
        bounded_BDYX = torch.tanh(z_BDYX + torch.atanh(offset_D1 / half_D1)) * half_D1 - offset_D1
        return (bounded_BDYX - bounded_BDYX.round().detach()).square().mean()

    def encode(self, pixels_B3YX: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized vectors (B, D, Y/4, X/4) in fp32, with gradient, and codes (B, Y/4, X/4)."""
        return self.quantize(self.latent(pixels_B3YX))

    def quantize(self, z_BDYX: Tensor) -> tuple[Tensor, Tensor]:
        quantized_BND, ids_BN = self.quantizer(z_BDYX.flatten(2).transpose(1, 2))
        quantized_BDYX = quantized_BND.transpose(1, 2).unflatten(2, z_BDYX.shape[2:])
        return quantized_BDYX, ids_BN.unflatten(1, z_BDYX.shape[2:])

    def decode(self, quantized_BDYX: Tensor) -> Tensor:
        """Pixels in about [-1, 1] in fp32 from quantized vectors."""
        half = F.pixel_shuffle(self.up(self.decoder_inner(self.from_code(quantized_BDYX))), 2)
        return F.pixel_shuffle(self.head(self.decoder_half(half)), 2).float()

    def vectors(self, ids_BYX: Tensor) -> Tensor:
        """Quantized vectors (B, D, Y, X) of codes."""
        vectors_BND = self.quantizer.indices_to_codes(ids_BYX.flatten(1))
        return vectors_BND.transpose(1, 2).unflatten(2, ids_BYX.shape[1:])

    def forward(self, pixels_B3YX: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The reconstruction in fp32, computed in `dtype`, and the indecision of its codes."""
        z_BDYX = self.latent(pixels_B3YX.to(dtype, memory_format=torch.channels_last))
        quantized_BDYX, _ = self.quantize(z_BDYX)
        made_B3YX = self.decode(quantized_BDYX.to(dtype, memory_format=torch.channels_last))
        return made_B3YX, self.indecision(z_BDYX)


class ImageTokenizer(Tokenizer[np.ndarray]):
    """`uint8` pictures (Y, X, 3) to codes (Y/4, X/4) and back.

    Sides are multiples of 4 from 28 to 96 pixels; a grey picture has three equal channels. Weights
    are rounded to fp16, as they are stored, and all computing is in fp32, one picture at a time, so
    a picture's codes do not depend on its batch.
    """

    name = "image-fsq"

    def __init__(
        self,
        settings: ImageSettings,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.settings = settings
        self.network = ImageAutoencoder(settings)
        self.weights = artifact.install(self.network, weights)
        self.quality, self.provenance = dict(quality or {}), dict(provenance or {})

    @classmethod
    def from_artifact(cls, folder: Path, manifest: Mapping[str, Any]) -> "ImageTokenizer":
        """The tokenizer of an artifact folder whose manifest has been read."""
        return cls(
            artifact.read_settings(folder, manifest, ImageSettings),
            artifact.read_weights(folder),
            manifest.get("quality"),
            manifest.get("provenance"),
        )

    @property
    def modality(self) -> Modality:
        return Modality(
            name="image", grid="plane", codes=self.settings.codes, schedule="cosine", digits=self.settings.levels
        )

    @cached_property
    def fingerprint(self) -> str:
        return artifact.fingerprint(self.name, chz.asdict(self.settings), self.weights)

    @torch.no_grad()
    def encode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Codes (Y/4, X/4) of each picture; `ValueError` for a type, shape or side it cannot encode."""
        return [self.network.encode(to_pixels(one))[1][0].numpy().astype(np.int32) for one in batch]

    @torch.no_grad()
    def decode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Pictures (4 Y, 4 X, 3) `uint8` of codes (Y, X)."""
        out = []
        for ids in batch:
            ids = checked_codes(ids, 2, self.settings.codes, "image codes have shape (Y, X)")
            vectors_BDYX = self.network.vectors(torch.from_numpy(ids)[None])
            out.append(to_bytes(self.network.decode(vectors_BDYX))[0])
        return out

    def save(self, folder: Path) -> None:
        artifact.write_network(folder, self)


def to_pixels(picture: np.ndarray) -> Tensor:
    """Pixels (1, 3, Y, X) in [-1, 1] of a `uint8` picture (Y, X, 3); see `checked_picture`."""
    return checked_picture(picture, CELL, *SIDES)


def checked_picture(picture: np.ndarray, cell: int, least: int = 1, most: float = math.inf) -> Tensor:
    """Pixels (1, 3, Y, X) in [-1, 1] of a `uint8` picture (Y, X, 3).

    Raises `ValueError` for another type or shape and for sides that are no multiple of `cell` or out of
    range: nothing is padded or resized behind the caller's back.
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is a uint8 array (Y, X, 3), got {picture.dtype} {picture.shape}")
    for side in picture.shape[:2]:
        if side % cell or not max(least, 1) <= side <= most:
            between = "" if most == math.inf else f" from {least} to {most}"
            raise ValueError(
                f"a picture of {picture.shape[0]} x {picture.shape[1]} pixels cannot be encoded: sides are "
                f"multiples of {cell}{between}; resize, crop or pad it first"
            )
    pixels_YX3 = torch.from_numpy(picture.astype(np.float32)) / 127.5 - 1
    return pixels_YX3.permute(2, 0, 1)[None].contiguous()


def to_bytes(pixels_B3YX: Tensor) -> np.ndarray:
    """`uint8` pictures (B, Y, X, 3) of pixels in [-1, 1]; what lies outside is clipped."""
    scaled = ((pixels_B3YX + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def checked_codes(ids: np.ndarray, ndim: int, codes: int, rule: str) -> np.ndarray:
    """`ids` as int64; `ValueError` for a wrong number of axes or a code outside the alphabet."""
    ids = np.asarray(ids)
    if ids.ndim != ndim or not np.issubdtype(ids.dtype, np.integer) or 0 in ids.shape:
        raise ValueError(f"{rule}, integers and not empty; got {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= codes:
        raise ValueError(f"codes lie in 0..{codes - 1}, got {ids.min()}..{ids.max()}")
    return ids.astype(np.int64)
