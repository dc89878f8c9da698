"""How a judge takes in its content: pictures, recordings or the codes of pictures, each with its network.

A sense turns raw items into tensors, batches them, spoils them for training (so that the judge is
not put off by what a tokenizer does to a picture or a sound), and builds the network. Every network
gives features (B, D) before its last layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import chz
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.core.errors import UsageError
from trimask.core.item import Audio
from trimask.evaluation import hearing

Batch = tuple[Tensor, ...]


class Classifier(nn.Module):
    """Features and a last layer; `cosine` makes its outputs scaled cosines (as speaker networks have)."""

    def __init__(self, body: nn.Module, features: int, classes: int, cosine: float = 0.0):
        super().__init__()
        self.body, self.scale = body, cosine
        self.head = nn.Linear(features, classes, bias=not cosine)

    def features(self, *batch: Tensor) -> Tensor:
        """(B, D); unit vectors where the outputs are cosines."""
        out_BD = self.body(*batch)
        return F.normalize(out_BD, dim=1) if self.scale else out_BD

    def forward(self, *batch: Tensor) -> Tensor:
        """Logits (B, classes)."""
        features_BD = self.features(*batch)
        if self.scale:
            return self.scale * features_BD @ F.normalize(self.head.weight, dim=1).T
        return self.head(features_BD)


class Sense(ABC):
    """Settings of one kind of content; a subclass is a `chz` configuration."""

    @abstractmethod
    def network(self, classes: int) -> Classifier:
        """A fresh network."""

    @abstractmethod
    def tensor(self, item: Any) -> Tensor:
        """One item as a tensor."""

    @abstractmethod
    def batch(self, items: Sequence[Tensor]) -> Batch:
        """Inputs of the network."""

    @abstractmethod
    def spoil(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch as training sees it."""

    @property
    def together(self) -> int:
        """Items judged at once; 1 where a batch would have to be padded."""
        return 256


def _layer(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class Mean(nn.Module):
    """Mean over the last two axes."""

    def forward(self, x_BDYX: Tensor) -> Tensor:
        return x_BDYX.mean((2, 3))


@chz.chz
class ImageSense(Sense):
    """Pictures, uint8 (Y, X, 3)."""

    side: int = chz.field(default=28, doc="pixels; a picture of another size is resized to a square")
    width: int = chz.field(default=32, doc="channels of the first layer")
    flip: bool = chz.field(default=True, doc="mirror images are the same class")

    def network(self, classes: int) -> Classifier:
        a, b, c = self.width, self.width * 3 // 2, self.width * 3
        stages = [_layer(3, a), _layer(a, b) + _layer(b, b), _layer(b, c) + _layer(c, c)]
        body = [*stages[0], nn.MaxPool2d(2), *stages[1], nn.MaxPool2d(2), *stages[2], Mean()]
        return Classifier(nn.Sequential(*body), c, classes)

    def tensor(self, item: Any) -> Tensor:
        if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
            raise UsageError(f"a picture is a uint8 array (Y, X, 3), got {getattr(item, 'shape', type(item))}")
        pixels = torch.from_numpy(item.copy()).permute(2, 0, 1).float() / 127.5 - 1
        if pixels.shape[1:] != (self.side, self.side):
            size = (self.side, self.side)
            pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        return pixels

    def batch(self, items: Sequence[Tensor]) -> Batch:
        return (torch.stack(list(items)).contiguous(memory_format=torch.channels_last),)

    def spoil(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Moved by up to two pixels, a little turned and scaled, mirrored, blurred, with noise or a hole."""
        x = _moved(batch[0], rng, self.flip)
        draw = torch.from_numpy(rng.random((3, len(x), 1, 1, 1)))
        x = torch.where(draw[0] < 0.25, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), x)
        x = torch.where(draw[1] < 0.25, x + 0.1 * torch.from_numpy(_normal(rng, x)), x)
        return (torch.where(draw[2] < 0.3, _holed(x, rng), x).contiguous(memory_format=torch.channels_last),)


def _normal(rng: np.random.Generator, like: Tensor) -> np.ndarray:
    return rng.standard_normal(tuple(like.shape), dtype=np.float32)


def _moved(x: Tensor, rng: np.random.Generator, flip: bool) -> Tensor:
    n = len(x)
    angle, size = rng.uniform(-0.12, 0.12, n), rng.uniform(0.92, 1.08, n)
    mirror = np.where(rng.random(n) < 0.5, -1, 1) if flip else np.ones(n)
    shift = rng.uniform(-4, 4, (2, n)) / x.shape[-1]
    rows = [[np.cos(angle) * size * mirror, -np.sin(angle) * size, shift[0]]]
    rows.append([np.sin(angle) * size * mirror, np.cos(angle) * size, shift[1]])
    theta = torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _holed(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A square of a quarter of the side painted grey (cutout, DeVries and Taylor 2017)."""
    side = x.shape[-1]
    place = torch.arange(side)
    start = torch.from_numpy(rng.integers(0, side - side // 4, (2, len(x), 1)))
    inside = (place >= start) & (place < start + side // 4)
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


class _SoundBody(nn.Module):
    """Residual dilated convolutions, then mean, deviation and maximum over the frames of the clip."""

    def __init__(self, width: int, dilations: Sequence[int]):
        super().__init__()
        self.stem = nn.Conv1d(hearing.BANDS, width, 5, stride=2, padding=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(len(dilations) + 1))
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d, bias=False) for d in dilations)

    def forward(self, mel_BMN: Tensor, lengths_B: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(hearing.normalised(mel_BMN))))
        lengths_B = (lengths_B + 1) // 2
        mask = (torch.arange(x.shape[2]) < lengths_B[:, None])[:, None].float()
        for norm, layer in zip(list(self.norms)[1:], self.layers, strict=True):
            x = (x + F.relu(norm(layer(x)))) * mask
        count = lengths_B[:, None].float()
        mean = x.sum(2) / count
        spread = (((x - mean[:, :, None]) * mask).square().sum(2) / count + 1e-4).sqrt()
        return torch.cat((mean, spread, x.amax(2)), 1)


@chz.chz
class SoundSense(Sense):
    """Recordings (`core.item.Audio`), brought to one loudness."""

    width: int = chz.field(default=96, doc="channels")
    dilations: tuple[int, ...] = chz.field(default=(1, 2, 4), doc="one residual layer each")
    cosine: float = chz.field(default=0.0, doc="scale of cosine outputs; 0: linear outputs")
    crop: int = chz.field(default=0, doc="frames of the pieces that training hears; 0: whole clips")

    def network(self, classes: int) -> Classifier:
        return Classifier(_SoundBody(self.width, self.dilations), 3 * self.width, classes, self.cosine)

    def tensor(self, item: Any) -> Tensor:
        if not isinstance(item, Audio):
            raise UsageError(f"a recording is an Audio (samples, rate), got {type(item)}")
        return hearing.mel_frames(item)

    def batch(self, items: Sequence[Tensor]) -> Batch:
        return hearing.padded(items)

    def spoil(self, batch: Batch, rng: np.random.Generator) -> Batch:
        mel_BMN, lengths_B = batch
        if self.crop:
            mel_BMN, lengths_B = _cropped(mel_BMN, lengths_B, self.crop, rng)
        # A speaker is known by the resonances of the vocal tract, so training on crops keeps them.
        return hearing.spoil(mel_BMN, lengths_B, rng, tract=not self.crop)

    @property
    def together(self) -> int:
        return 1


def _cropped(mel_BMN: Tensor, lengths_B: Tensor, frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    pieces = []
    for mel_MN, length in zip(mel_BMN, lengths_B.tolist(), strict=True):
        start = int(rng.integers(0, max(length - frames, 0) + 1))
        pieces.append(mel_MN[:, start : min(length, start + frames)])
    return hearing.padded(pieces)


@chz.chz
class CodeSense(Sense):
    """Codes (Y, X) of pictures, as the image tokenizer gives them: what the model itself sees."""

    codes: int = chz.field(doc="size of the codebook")
    width: int = chz.field(default=64, doc="channels")

    def network(self, classes: int) -> Classifier:
        a, b = self.width, 2 * self.width
        layers = _layer(a, b) + _layer(b, b)
        body = nn.Sequential(_Embed(self.codes, a), *layers, nn.MaxPool2d(2), *_layer(b, b), Mean())
        return Classifier(body, b, classes)

    def tensor(self, item: Any) -> Tensor:
        if not isinstance(item, np.ndarray) or item.ndim != 2 or not np.issubdtype(item.dtype, np.integer):
            raise UsageError(f"codes of a picture are an integer array (Y, X), got {type(item)}")
        return torch.from_numpy(item.astype(np.int64))

    def batch(self, items: Sequence[Tensor]) -> Batch:
        return (torch.stack(list(items)),)

    def spoil(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """A tenth of the codes replaced by those of other items of the batch."""
        codes = batch[0]
        swapped = torch.from_numpy(rng.random(tuple(codes.shape)) < 0.1)
        return (torch.where(swapped, codes[torch.from_numpy(rng.permutation(len(codes)))], codes),)


class _Embed(nn.Module):
    """Codes (B, Y, X) to vectors (B, D, Y, X)."""

    def __init__(self, codes: int, width: int):
        super().__init__()
        self.table = nn.Embedding(codes, width)

    def forward(self, codes_BYX: Tensor) -> Tensor:
        return self.table(codes_BYX).permute(0, 3, 1, 2)


SENSES: Mapping[str, type[Sense]] = MappingProxyType({"image": ImageSense, "sound": SoundSense, "codes": CodeSense})
"""Kind of judge in `judge.json` -> class."""
