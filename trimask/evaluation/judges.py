"""Judges: small classifiers of real content, trained on the real training split.

A judge says what a generated picture or recording shows. It has never seen generated content, and
carries its own accuracy on real held-out data, to be printed beside whatever it says.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from trimask.core.errors import ArtifactError, UsageError
from trimask.core.files import settled
from trimask.core.item import Audio
from trimask.core.rng import generator
from trimask.evaluation import fitting, store
from trimask.evaluation.fitting import Fit
from trimask.evaluation.senses import SENSES, ImageSense, Sense, SoundSense
from trimask.evaluation.transcripts import Rate, share
from trimask.tokenizers import artifact

SMOOTHING = 0.05
"""Label smoothing of the training loss."""
LARGEST_SIDE = 48
"""Pixels; larger pictures are judged in this size."""
EPOCHS = 25
"""Passes over the training data where the caller does not say how long to train."""
HELD_OUT = 0.1
"""Share of the items kept for the judge's own accuracy, where no held-out items are given."""


class Judge:
    """A classifier of one kind of content with the names of its classes."""

    def __init__(self, sense: Sense, stored: store.Stored):
        self.sense, self.labels = sense, tuple(stored.labels)
        self.network = sense.network(len(self.labels))
        self.stored = replace(stored, weights=artifact.install(self.network, stored.weights))

    @classmethod
    def load(cls, folder: Path | str) -> "Judge":
        """The judge of an artifact folder. Raises `ArtifactError`."""
        stored = store.load(folder)
        if stored.kind not in SENSES:
            raise ArtifactError(f"{folder} holds a judge of kind {stored.kind!r}; known: {', '.join(SENSES)}")
        return cls(store.settings(folder, stored, SENSES[stored.kind]), stored)

    def save(self, folder: Path | str) -> None:
        """Write the artifact, atomically."""
        store.save(Path(folder), self.stored)

    def with_quality(self, about: Mapping[str, Any] | None = None, /, **figures: float) -> "Judge":
        """The same judge with further figures of its own quality, and facts for its provenance."""
        quality, provenance = {**self.stored.quality, **figures}, {**self.stored.provenance, **(about or {})}
        return Judge(self.sense, replace(self.stored, quality=quality, provenance=provenance))

    @property
    def accuracy(self) -> float:
        """Share of real held-out items that it names correctly."""
        return self.stored.quality["accuracy"]

    def predict(self, items: Sequence[Any]) -> list[str]:
        """The most probable class of each item."""
        best = self._run(items, self.network.forward).argmax(1) if len(items) else []
        return [self.labels[int(i)] for i in best]

    def features(self, items: Sequence[Any]) -> np.ndarray:
        """What the last layer sees, (N, D) float32."""
        return self._run(items, self.network.features)

    def agreement(self, items: Sequence[Any], labels: Sequence[str]) -> Rate:
        """Share of items judged to be of the given class."""
        return share([p == label for p, label in zip(self.predict(items), labels, strict=True)])

    @torch.no_grad()
    def _run(self, items: Sequence[Any], function) -> np.ndarray:
        step = self.sense.together
        tensors = [self.sense.tensor(item) for item in items]
        parts = [function(*self.sense.batch(tensors[i : i + step])) for i in range(0, len(tensors), step)]
        return torch.cat(parts).numpy()


def train_judge(
    items: Sequence[Any],
    labels: Sequence[str],
    held_out: tuple[Sequence[Any], Sequence[str]] | None = None,
    sense: Sense | None = None,
    fit: Fit | None = None,
    cache: Path | None = None,
    title: str = "judge",
    console: Console | None = None,
) -> Judge:
    """Train a classifier on real items and measure it on real held-out items.

    Items are pictures (uint8 (Y, X, 3)), `Audio`, or with a `CodeSense` integer codes (Y, X). Without
    `held_out` every tenth item or so is kept for it. `cache` is a folder that keeps judges by a
    fingerprint of data and settings: an equal call loads the judge, an interrupted one goes on.
    Raises `UsageError` for fewer than two classes, or items without a label.
    """
    if held_out is None:
        items, labels, held_out = _divided(items, labels)
    _check(items, labels)
    sense = sense or sense_of(items[0])
    fit = fit or Fit(steps=max(1, EPOCHS * len(items) // 64), batch=min(64, len(items)))
    if cache is None:
        return _trained(items, labels, held_out, sense, fit, title, None, console)
    path = Path(cache) / fingerprint(sense, fit, [(items, labels), held_out])[:16]
    unfinished = path.with_name(path.name + ".training")
    if not settled(path).exists():
        _trained(items, labels, held_out, sense, fit, title, unfinished, console).save(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    return Judge.load(path)


def sense_of(item: Any) -> Sense:
    """The sense for a raw item, with its usual settings."""
    if isinstance(item, Audio):
        return SoundSense()
    if isinstance(item, np.ndarray) and item.ndim == 3:
        return ImageSense(side=min(max(item.shape[:2]), LARGEST_SIDE))
    raise UsageError(f"no judge for items of type {type(item).__name__}; pictures and recordings have one")


def fingerprint(sense: Sense, fit: Fit, parts: Sequence[tuple[Sequence[Any], Sequence[str]]]) -> str:
    """Hex SHA-256 over settings, contents and labels."""
    settings = [type(sense).__name__, chz.asdict(sense), chz.asdict(fit)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for items, labels in parts:
        for item, label in zip(items, labels, strict=True):
            array, rate = (item.samples, item.rate) if isinstance(item, Audio) else (item, 0)
            digest.update(f"{label} {rate} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check(items: Sequence[Any], labels: Sequence[str]) -> None:
    if len(items) != len(labels):
        raise UsageError(f"{len(items)} items and {len(labels)} labels; every item needs one")
    if len(set(labels)) < 2:
        raise UsageError(f"a judge tells classes apart; the labels hold {len(set(labels))} class")


def _divided(items: Sequence[Any], labels: Sequence[str]) -> tuple[list[Any], list[str], tuple[list[Any], list[str]]]:
    """Training items and labels, and the held-out pair: the first part of each class in a fixed shuffle."""
    kept: list[int] = []
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        order = generator("judge split", label).permutation(len(own))
        kept += [own[i] for i in order[: max(1, round(HELD_OUT * len(own)))]]
    held = set(kept)
    rest = [i for i in range(len(items)) if i not in held]
    return (
        [items[i] for i in rest],
        [labels[i] for i in rest],
        ([items[i] for i in kept], [labels[i] for i in kept]),
    )


def _trained(
    items: Sequence[Any],
    labels: Sequence[str],
    held_out: tuple[Sequence[Any], Sequence[str]],
    sense: Sense,
    fit: Fit,
    title: str,
    unfinished: Path | None,
    console: Console | None,
) -> Judge:
    names = tuple(sorted(set(labels)))
    tensors = [sense.tensor(item) for item in items]
    targets = torch.tensor([names.index(label) for label in labels])
    network = fitting.fresh(lambda: sense.network(len(names)), fit.seed)

    def loss(step: int) -> torch.Tensor:
        rng = generator("judge batch", fit.seed, step)
        chosen = rng.choice(len(tensors), fit.batch, replace=fit.batch > len(tensors))
        inputs = sense.spoil(sense.batch([tensors[i] for i in chosen]), rng)
        return F.cross_entropy(network(*inputs), targets[chosen], label_smoothing=SMOOTHING)

    fitting.train(network, loss, fit, title, folder=unfinished, console=console)
    kind = next(name for name, cls in SENSES.items() if type(sense) is cls)
    about = {"items": len(items), "fit": chz.asdict(fit)}
    stored = store.Stored(kind, chz.asdict(sense), names, store.weights_of(network), {}, about)
    rate = Judge(sense, stored).agreement(*held_out)
    quality = {"accuracy": rate.value, "error": rate.error, "items": float(rate.n)}
    return Judge(sense, replace(stored, quality=quality))
