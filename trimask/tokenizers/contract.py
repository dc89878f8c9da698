"""The contract of a tokenizer: raw content in, integer codes out, and back.

A tokenizer is an artifact: a folder with `tokenizer.json` (its class, its settings, its measured
quality) and, where it has weights, `weights.safetensors`. Its fingerprint is a hash of what decides
the codes, so prepared data and checkpoints can refuse a tokenizer that is not theirs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from trimask.core.modality import Modality

Raw = TypeVar("Raw")


class Tokenizer(ABC, Generic[Raw]):
    """Maps raw content of one modality to codes of its grid, and back.

    Codes are local: each level counts from 0 to `codes - 1`. Shapes by grid: line (N,), plane
    (Y, X), frames (T, C). Arrays are `int32`.
    """

    name: str
    """Name of the class in `tokenizer.json` ("bpe", "image-fsq", "audio-fsq")."""

    quality: Mapping[str, Mapping[str, float]]
    """Measured when it was made: held-out set or grader -> figures. No part of the fingerprint."""

    provenance: Mapping[str, Any]
    """What it was made from and how, as JSON values. No part of the fingerprint."""

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """The row of the modality table that this tokenizer asks for."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 over settings and weights: equal codes for equal input, or another value."""

    @abstractmethod
    def encode(self, batch: Sequence[Raw]) -> list[np.ndarray]:
        """Codes of each element. The result of an element does not depend on the others.

        Raises `ValueError` with the reason for content it cannot encode (an empty clip).
        """

    @abstractmethod
    def decode(self, batch: Sequence[np.ndarray]) -> list[Raw]:
        """Raw content of each array of codes, the inverse of `encode` as far as it goes.

        Raises `ValueError` for a wrong shape or a code outside the alphabet.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the artifact, atomically."""
