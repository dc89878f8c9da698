"""Raw records: what a reader yields, a tokenizer encodes and a sampler returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Audio(NamedTuple):
    """A mono recording: `samples` float32 in [-1, 1], shape (N,), and its `rate` in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Item:
    """One raw record with one or several parts.

    `parts` maps a kind (`core.modality.KINDS`: "text", "voice", "image", "speech", "sound") to raw
    content: `str` for text kinds, `uint8` array (Y, X, 3) for images, `Audio` for audio kinds.
    `key` names the record within its source ("train.zip#a/b.png"); it is stable across runs and is
    what rejections and error messages quote. `labels` holds further JSON values of the record
    (class, speaker, tags): never seen by the model, kept for evaluation.
    """

    key: str
    parts: Mapping[str, object]
    labels: Mapping[str, object] = field(default_factory=dict)
