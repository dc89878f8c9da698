"""Tokenizers of others: their classes, their weights, our contract.

An artifact names a family, where its weights lie (a folder, or hf://OWNER/NAME, a repository of the Hugging Face hub)
and a hash of them; it holds no weights itself. Families are classes of `transformers` and `diffusers`,
driven as they are: networks in bf16 or fp32, the search for the nearest code in fp32.

Elements of one size are computed together, always as many (a smaller group is filled up), so that the codes of one do
not depend on the others.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

import chz
import numpy as np
import soxr
import torch
from torch import Tensor, nn

from trimask.core.compute import DTYPES, device_of
from trimask.core.errors import ArtifactError, UsageError
from trimask.core.extras import needed
from trimask.core.item import Audio
from trimask.core.modality import Modality
from trimask.tokenizers import artifact
from trimask.tokenizers.audio import checked_samples
from trimask.tokenizers.contract import Raw, Tokenizer
from trimask.tokenizers.image import checked_codes, checked_picture, to_bytes

TOGETHER: Mapping[str, int] = MappingProxyType({"cpu": 1, "cuda": 16, "mps": 4})
"""Elements computed at once, by device."""


@chz.chz
class PretrainedSettings:
    """Which weights, of which class, and how they are computed."""

    family: str = chz.field(doc="a key of FAMILIES")
    source: str = chz.field(doc="folder with config.json and *.safetensors, or hf://OWNER/NAME, which is fetched")
    revision: str | None = chz.field(default=None, doc="commit of the repository")
    subfolder: str = chz.field(default="", doc="folder within it")
    levels: int | None = chz.field(default=None, doc="codebooks of a frame that are used; None: all. Of sound alone")
    dtype: Literal["fp32", "bf16"] = chz.field(default="fp32", doc="of the networks")


class Family(ABC):
    """How a class of another library is driven. Codes are of a whole batch, networks run in `dtype`."""

    modality: ClassVar[str]
    loads: ClassVar[tuple[str, str]]
    """Module and class."""
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Of loading."""

    def __init__(self, model: nn.Module, levels: int | None):
        self.model: Any = model
        self.config: Any = model.config
        if levels is not None and not 1 <= levels <= self.most:
            raise UsageError(f"levels={levels}: this model has {self.most}")
        self.levels = levels or self.most

    @property
    def most(self) -> int:
        """Codebooks of a position."""
        return 1

    @property
    @abstractmethod
    def codes(self) -> int:
        """Entries of a codebook."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Pixels a code in both directions, or samples a frame."""

    @abstractmethod
    def encode(self, raw: Tensor) -> Tensor:
        """Codes (B, Y, X) of pixels (B, 3, Y, X) in [-1, 1], or (B, T, C) of samples (B, 1, N)."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """The inverse."""


class MoVQ(Family):
    """`diffusers.VQModel`: VQGAN (Esser et al. 2021), and MoVQ (Zheng et al. 2022) where `norm_type` is spatial."""

    modality, loads = "image", ("diffusers", "VQModel")
    options = MappingProxyType({"low_cpu_mem_usage": False})

    @property
    def codes(self):
        return self.config.num_vq_embeddings

    @property
    def step(self):
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, raw):
        z_BCYX = self.model.encode(raw).latents.float()
        with _exactly(z_BCYX):
            ids_N = self.model.quantize(z_BCYX)[2][2]
        return ids_N.view(len(raw), *z_BCYX.shape[2:])

    def decode(self, ids):
        vectors_BYXC = self.model.quantize.embedding(ids)
        vectors_BCYX = vectors_BYXC.permute(0, 3, 1, 2).contiguous()
        if self.config.lookup_from_codebook:
            return self.model.decode(ids.flatten(), force_not_quantize=True, shape=vectors_BYXC.shape).sample
        return self.model.decode(vectors_BCYX, force_not_quantize=True).sample


class Janus(Family):
    """The VQ model of Janus (Chen et al. 2025, arXiv 2501.17811) in `transformers`."""

    modality, loads = "image", ("transformers", "JanusVQVAE")

    @property
    def codes(self):
        return self.config.num_embeddings

    @property
    def step(self):
        return 2 ** (len(self.config.channel_multiplier) - 1)

    def encode(self, raw):
        z_BCYX = self.model.quant_conv(self.model.encoder(raw)).float()
        with _exactly(z_BCYX):
            ids_N = self.model.quantize(z_BCYX)[2]
        return ids_N.view(len(raw), *z_BCYX.shape[2:])

    def decode(self, ids):
        # The class knows one size of pictures; its networks know all.
        self.model.quantize.quant_state_dims = [*ids.shape[1:]]
        return self.model.decode(ids.flatten(1))


class Emu3(Family):
    """The VQ model of Emu3 (Wang et al. 2024, arXiv 2409.18869) in `transformers`, of pictures."""

    modality, loads = "image", ("transformers", "Emu3VQVAE")

    @property
    def codes(self):
        return self.config.codebook_size

    @property
    def step(self):
        return 2 ** (len(self.config.channel_multiplier) - 1)

    def encode(self, raw):
        # A picture is a film that stands still.
        film_BTCYX = raw[:, None].expand(-1, self.config.temporal_downsample_factor, -1, -1, -1)
        z_BCTYX = self.model.quant_conv(self.model.encoder(film_BTCYX).transpose(1, 2)).float()
        with _exactly(z_BCTYX):
            return self.model.quantize(z_BCTYX.transpose(1, 2))[:, 0]

    def decode(self, ids):
        return self.model.decode(ids)


class Mimi(Family):
    """Mimi (Defossez et al. 2024, arXiv 2410.00037) in `transformers`: 24 kHz, 12.5 frames a second."""

    modality, loads = "audio", ("transformers", "MimiModel")
    shared: ClassVar[bool] = False

    @property
    def most(self):
        return self.config.num_quantizers

    @property
    def codes(self):
        return self.config.codebook_size

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.config.sampling_rate

    @property
    def step(self):
        return round(self.config.sampling_rate / self.config.frame_rate)

    def encode(self, raw):
        return self.model.encode(raw, num_quantizers=self.levels).audio_codes.transpose(1, 2)

    def decode(self, ids):
        return self.model.decode(ids.transpose(1, 2)).audio_values


class Dac(Mimi):
    """The Descript Audio Codec (Kumar et al. 2023, arXiv 2306.06546) in `transformers`."""

    loads = ("transformers", "DacModel")

    @property
    def most(self):
        return self.config.n_codebooks

    @property
    def step(self):
        return math.prod(self.config.downsampling_ratios)

    def encode(self, raw):
        return self.model.encode(raw, n_quantizers=self.levels).audio_codes.transpose(1, 2)

    def decode(self, ids):
        return self.model.decode(audio_codes=ids.transpose(1, 2)).audio_values


class Higgs(Mimi):
    """The tokenizer of Higgs Audio v2 (Boson AI 2025) in `transformers`: 24 kHz, 25 frames a second.

    All levels use one range of ids. What its semantic half reads is resampled by soxr.
    """

    loads = ("transformers", "HiggsAudioV2TokenizerModel")
    shared = True

    @property
    def most(self):
        return self.config.num_quantizers

    @property
    def rate(self):
        return self.config.sample_rate

    @property
    def step(self):
        return self.config.hop_length

    def encode(self, raw):
        semantic = self.model.encoder_semantic(self._semantic(raw).transpose(1, 2))
        acoustic = self.model.acoustic_encoder(raw)
        if acoustic.shape[2] != semantic.shape[2]:
            acoustic = self.model.acoustic_encoder(nn.functional.pad(raw, (self.model.pad, self.model.pad)))
        joined_BCT = torch.cat([acoustic, semantic], 1)
        z_BCT = self.model.fc(joined_BCT.transpose(1, 2)).transpose(1, 2).float()
        with _exactly(z_BCT):
            ids_CBT = self.model.quantizer.encode(z_BCT, self.config.target_bandwidths[-1])
        return ids_CBT[: self.levels].permute(1, 2, 0)

    def decode(self, ids):
        return self.model.decode(ids.transpose(1, 2)).audio_values

    def _semantic(self, raw_B1N: Tensor) -> Tensor:
        """Mean of all layers of the semantic model (B, T, D), thinned out to the rate of the codes."""
        wave_BN = raw_B1N[:, 0]
        if self.rate != self.config.semantic_sample_rate:
            rates = self.rate, self.config.semantic_sample_rate
            waves = [soxr.resample(one.cpu().numpy(), *rates) for one in wave_BN]
            wave_BN = torch.from_numpy(np.stack(waves)).to(wave_BN)
        half = HUBERT_MARGIN // 2
        layers = self.model.semantic_model(nn.functional.pad(wave_BN, (half, half)), output_hidden_states=True)
        mean_BTC = torch.stack(layers.hidden_states, 1).mean(1)
        return mean_BTC[:, :: self.config.semantic_downsample_factor]


HUB = "hf://"
HUBERT_MARGIN = 320
"""Samples of silence around a recording, with which HuBERT has a vector for every 320 samples."""

FAMILIES: Mapping[str, type[Family]] = MappingProxyType(
    {"movq": MoVQ, "janus": Janus, "emu3": Emu3, "mimi": Mimi, "dac": Dac, "higgs": Higgs}
)


def opened(settings: PretrainedSettings) -> nn.Module:
    """The model with its weights. Raises `ArtifactError` where they are not there or not those of the family."""
    if settings.family not in FAMILIES:
        raise UsageError(f"no family is called {settings.family!r}; there are: {', '.join(FAMILIES)}")
    module, name = FAMILIES[settings.family].loads
    kind, place = _kind(module, name), settings.source.removeprefix(HUB)
    if place == settings.source and not Path(place).is_dir():
        raise ArtifactError(f"there is no folder {place}; a repository of the hub is written {HUB}OWNER/NAME")
    asked = {"revision": settings.revision, "subfolder": settings.subfolder}
    more = {**FAMILIES[settings.family].options, **{k: v for k, v in asked.items() if v}}
    try:
        # Only safetensors are read: nothing is unpickled.
        model = kind.from_pretrained(place, use_safetensors=True, local_files_only=place == settings.source, **more)
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise ArtifactError(f"{settings.source} holds no {name} that can be read: {str(e).splitlines()[0]}") from None
    return model.float().eval().requires_grad_(False)


def _kind(module: str, name: str) -> Any:
    asked = f"a tokenizer of the class {name}"
    try:
        return getattr(needed(module, asked, "pretrained"), name)
    except ImportError as e:  # of what the library finds only when the class is asked for
        raise UsageError(f"{asked}: {e}") from None


def _exactly(vectors: Tensor) -> torch.autocast:
    """Where the nearest codes of vectors are looked for."""
    return torch.autocast(vectors.device.type, enabled=False)


F = TypeVar("F", bound=Family)


class Pretrained(Tokenizer[Raw], Generic[Raw, F]):
    """What tokenizers of pictures and of sound share."""

    def __init__(
        self,
        settings: PretrainedSettings,
        model: nn.Module | None = None,
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        """`model`: one that is loaded already."""
        self.settings, self.device = settings, device_of("auto")
        loaded = (model or opened(settings)).to(self.device)
        self.family: Any = FAMILIES[settings.family](loaded, settings.levels)
        self.quality, self.provenance = dict(quality or {}), dict(provenance or {})

    @classmethod
    def from_artifact(cls, folder: Path, manifest: Mapping[str, Any]):
        """The tokenizer of an artifact folder whose manifest has been read."""
        settings = artifact.read_settings(folder, manifest, PretrainedSettings)
        return cls(settings, None, manifest.get("quality"), manifest.get("provenance"))

    @cached_property
    def fingerprint(self) -> str:
        tensors = {k: v.detach().cpu().float().numpy() for k, v in self.family.model.state_dict().items()}
        how = {"levels": self.family.levels, "dtype": self.settings.dtype}
        return artifact.fingerprint(self.settings.family, how, tensors)

    def save(self, folder: Path) -> None:
        manifest = {
            "class": self.name,
            "settings": chz.asdict(self.settings),
            "fingerprint": self.fingerprint,
            "quality": self.quality,
            "provenance": self.provenance,
        }
        artifact.write(Path(folder), manifest)

    @torch.no_grad()
    def _grouped(self, elements: Sequence[Tensor], work: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What `work` makes of each element, in fp32 on the CPU; those of one shape go through it together."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for n, one in enumerate(elements):
            shapes.setdefault(tuple(one.shape), []).append(n)
        many, out = TOGETHER[self.device.type], [torch.empty(0)] * len(elements)
        dtype = DTYPES[self.settings.dtype]
        lower = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        for numbers in shapes.values():
            for start in range(0, len(numbers), many):
                part = numbers[start : start + many]
                filled = [elements[n] for n in part] + [elements[part[0]]] * (many - len(part))
                with lower:
                    made = work(torch.stack(filled).to(self.device))
                for n, one in zip(part, made.cpu(), strict=False):
                    out[n] = one.float() if one.is_floating_point() else one
        return out


class PretrainedImage(Pretrained[np.ndarray, Family]):
    """`uint8` pictures (Y, X, 3) to codes (Y / s, X / s) and back; sides are multiples of the family's step s."""

    name = "image-pretrained"

    @property
    def modality(self) -> Modality:
        return Modality(name="image", grid="plane", codes=self.family.codes, schedule="cosine")

    def encode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        step = self.family.step
        pixels = [checked_picture(one, step)[0] for one in batch]
        found = self._grouped(pixels, self.family.encode)
        for one, ids in zip(pixels, found, strict=True):
            assert ids.shape == (one.shape[1] // step, one.shape[2] // step)
        return [ids.numpy().astype(np.int32) for ids in found]

    def decode(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        rule = "image codes have shape (Y, X)"
        ids = [torch.from_numpy(checked_codes(one, 2, self.family.codes, rule)) for one in batch]
        return [to_bytes(one[None])[0] for one in self._grouped(ids, self.family.decode)]


class PretrainedAudio(Pretrained[Audio, Mimi]):
    """Recordings to codes (T, C) and back: T is the number of samples at the family's rate over those of a frame,
    rounded up (the end is filled with silence). Other rates are resampled with soxr."""

    name = "audio-pretrained"

    @property
    def modality(self) -> Modality:
        f = self.family
        return Modality(
            name="audio", grid="frames", codes=f.codes, levels=f.levels, shared=f.shared and f.levels > 1,
            schedule="cosine",
        )  # fmt: skip

    def encode(self, batch: Sequence[Audio]) -> list[np.ndarray]:
        step = self.family.step
        waves = [torch.from_numpy(checked_samples(one, self.family.rate, step))[None] for one in batch]
        found = self._grouped(waves, self.family.encode)
        for wave, ids in zip(waves, found, strict=True):
            assert ids.shape == (wave.shape[1] // step, self.family.levels)
        return [ids.numpy().astype(np.int32) for ids in found]

    def decode(self, batch: Sequence[np.ndarray]) -> list[Audio]:
        rule = f"audio codes have shape (T, {self.family.levels})"
        ids = [torch.from_numpy(checked_codes(one, 2, self.family.codes, rule)) for one in batch]
        if wrong := [tuple(one.shape) for one in ids if one.shape[1] != self.family.levels]:
            raise ValueError(f"{rule}, got {wrong[0]}")
        out = []
        for one, wave in zip(ids, self._grouped(ids, self.family.decode), strict=True):
            samples, length = wave.flatten(), len(one) * self.family.step
            # Transposed convolutions of odd strides end a few samples early.
            samples = nn.functional.pad(samples[:length], (0, max(0, length - len(samples))))
            out.append(Audio(samples.clamp(-1, 1).numpy(), self.family.rate))
        return out


def pretrained(settings: PretrainedSettings) -> PretrainedImage | PretrainedAudio:
    """The tokenizer of some weights. Raises `UsageError` and `ArtifactError` where there is none."""
    model = opened(settings)
    return (PretrainedImage if FAMILIES[settings.family].modality == "image" else PretrainedAudio)(settings, model)
