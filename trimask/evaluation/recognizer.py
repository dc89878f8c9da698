"""A speech recognizer for the closed vocabulary of the built-in world, to judge generated speech.

Log-mel frames, a residual network of dilated convolutions at 33 frames a second, and connectionist
temporal classification over characters (Graves et al. 2006) with greedy decoding. It is
trained on real speech alone; `hearing.spoil` prepares it for what an audio codec does to speech.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from trimask.core.errors import ArtifactError, UsageError
from trimask.core.item import Audio
from trimask.core.rng import generator
from trimask.evaluation import fitting, hearing, store
from trimask.evaluation.fitting import Fit
from trimask.evaluation.transcripts import normal
from trimask.tokenizers import artifact

KIND = "recognizer"
CHARACTERS = (" ", "'", *string.ascii_lowercase)
BLANK = 0
"""Output 0 is CTC's blank; output i is character i - 1."""
STRIDE = 3
"""Spectral frames per output frame."""


@chz.chz
class RecognizerSettings:
    """Size of the network."""

    width: int = chz.field(default=160, doc="channels")
    dilations: tuple[int, ...] = chz.field(default=(1, 2, 4, 1, 2, 4, 1), doc="one residual block each")
    kernel: int = chz.field(default=5, doc="frames that a block's convolution sees")


class Block(nn.Module):
    """x + ReLU(norm(convolution(x))), frames past the end of a clip set to zero."""

    def __init__(self, width: int, kernel: int, dilation: int):
        super().__init__()
        self.convolution = nn.Conv1d(
            width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False
        )
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x_BDN: Tensor, mask_B1N: Tensor) -> Tensor:
        return (x_BDN + F.relu(self.norm(self.convolution(x_BDN)))) * mask_B1N


class Network(nn.Module):
    """Log-mel frames (B, BANDS, N) to log-probabilities (B, N / STRIDE, characters + 1)."""

    def __init__(self, settings: RecognizerSettings):
        super().__init__()
        self.stem = nn.Conv1d(hearing.BANDS, settings.width, 7, stride=STRIDE, padding=3, bias=False)
        self.norm = nn.BatchNorm1d(settings.width)
        self.blocks = nn.ModuleList(Block(settings.width, settings.kernel, d) for d in settings.dilations)
        self.head = nn.Conv1d(settings.width, len(CHARACTERS) + 1, 1)

    def forward(self, mel_BMN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and the number of output frames of each clip."""
        x_BDN = F.relu(self.norm(self.stem(hearing.normalised(mel_BMN))))
        lengths_B = (lengths_B + STRIDE - 1) // STRIDE
        mask_B1N = (torch.arange(x_BDN.shape[2]) < lengths_B[:, None])[:, None].to(x_BDN.dtype)
        for block in self.blocks:
            x_BDN = block(x_BDN, mask_B1N)
        return self.head(x_BDN).transpose(1, 2).log_softmax(-1), lengths_B


class Recognizer:
    """Speech to words of the alphabet `CHARACTERS`, one clip at a time."""

    def __init__(
        self,
        settings: RecognizerSettings,
        weights: Mapping[str, np.ndarray],
        quality: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.settings = settings
        self.network = Network(settings)
        self.weights = artifact.install(self.network, weights)
        self.quality, self.provenance = dict(quality or {}), dict(provenance or {})

    @classmethod
    def load(cls, folder: Path | str) -> "Recognizer":
        """The recognizer of an artifact folder. Raises `ArtifactError`."""
        stored = store.load(folder)
        if stored.kind != KIND or tuple(stored.labels) != CHARACTERS:
            raise ArtifactError(f"{folder} holds a judge of kind {stored.kind!r}, not a recognizer of this version")
        settings = store.settings(folder, stored, RecognizerSettings)
        return cls(settings, stored.weights, stored.quality, stored.provenance)

    @property
    def stored(self) -> store.Stored:
        settings = chz.asdict(self.settings)
        return store.Stored(KIND, settings, CHARACTERS, self.weights, self.quality, self.provenance)

    def save(self, folder: Path | str) -> None:
        """Write the artifact, atomically."""
        store.save(Path(folder), self.stored)

    def with_quality(self, about: Mapping[str, Any] | None = None, /, **figures: float) -> "Recognizer":
        """The same recognizer with further figures of its own quality, and facts for its provenance."""
        quality, provenance = {**self.quality, **figures}, {**self.provenance, **(about or {})}
        return Recognizer(self.settings, self.weights, quality, provenance)

    @torch.no_grad()
    def transcribe(self, clips: Sequence[Audio]) -> list[str]:
        """The words heard in each clip; a clip's result does not depend on the others."""
        out = []
        for clip in clips:
            mel_BMN, lengths_B = hearing.padded([hearing.mel_frames(clip)])
            log_BNV, _ = self.network(mel_BMN, lengths_B)
            out.append(spelled(log_BNV[0].argmax(-1).numpy()))
        return out


def spelled(best_N: np.ndarray) -> str:
    """Greedy decoding: repeats collapsed, blanks dropped, single spaces."""
    kept = best_N[np.r_[True, best_N[1:] != best_N[:-1]]]
    return " ".join("".join(CHARACTERS[i - 1] for i in kept if i != BLANK).split())


def spelling(text: str) -> Tensor:
    """Outputs of a text in normal form. Raises `UsageError` for a text that cannot be spelled."""
    words = normal(text)
    if not words or not set(words) <= set(CHARACTERS):
        raise UsageError(f"text {text!r} cannot be spelled with the letters a to z; leave it out of the training")
    return torch.tensor([CHARACTERS.index(c) + 1 for c in words])


def train_recognizer(
    clips: Sequence[Audio],
    texts: Sequence[str],
    fit: Fit,
    settings: RecognizerSettings | None = None,
    folder: Path | None = None,
    console: Console | None = None,
) -> Recognizer:
    """Train on real speech. `folder` keeps the state of an interrupted training."""
    if len(clips) != len(texts) or len(clips) < fit.batch:
        raise UsageError(f"training needs a text a clip and at least {fit.batch} clips, got {len(clips)} clips")
    settings = settings or RecognizerSettings()
    network = fitting.fresh(lambda: Network(settings), fit.seed)
    corpus = Corpus(clips, texts)
    fitting.train(
        network, lambda step: corpus.loss(network, fit, step), fit, "recognizer", folder=folder, console=console
    )
    return Recognizer(settings, store.weights_of(network), provenance={"fit": chz.asdict(fit), "clips": len(clips)})


class Corpus:
    """Frames of all clips in half precision, by length, so that a batch holds clips of similar length."""

    def __init__(self, clips: Sequence[Audio], texts: Sequence[str]):
        spelled_texts = [spelling(t) for t in texts]
        mels = [hearing.mel_frames(c).half() for c in clips]
        order = sorted(range(len(mels)), key=lambda i: (mels[i].shape[1], i))
        self.mels = [mels[i] for i in order]
        self.spellings = [spelled_texts[i] for i in order]

    def loss(self, network: nn.Module, fit: Fit, step: int) -> Tensor:
        """Mean CTC loss per character of the batch of a step."""
        rng = generator("recognizer batch", fit.seed, step)
        start = int(rng.integers(-fit.batch // 2, len(self.mels) - fit.batch // 2))
        start = min(max(start, 0), len(self.mels) - fit.batch)
        chosen = range(start, start + fit.batch)
        mel_BMN, lengths_B = hearing.padded([self.mels[i] for i in chosen])
        mel_BMN, lengths_B = hearing.spoil(mel_BMN, lengths_B, rng)
        log_BNV, frames_B = network(mel_BMN, lengths_B)
        targets = [self.spellings[i] for i in chosen]
        sizes_B = torch.tensor([len(t) for t in targets])
        return F.ctc_loss(
            log_BNV.transpose(0, 1), torch.cat(targets), frames_B, sizes_B, BLANK, reduction="sum", zero_infinity=True
        ) / float(sizes_B.sum())
