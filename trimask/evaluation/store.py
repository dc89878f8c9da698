"""Judges on disk: a folder with `judge.json` and `weights.safetensors`.

judge.json
  class        what kind of judge it is (a key of `judges.KINDS`, "recognizer", "speaker")
  settings     what its network is built from
  labels       the classes, voices or characters it tells apart, in the order of its outputs
  quality      its own accuracy on real held-out data (numbers only)
  provenance   what it was trained on and how (free JSON)
  fingerprint  SHA-256 over class, settings, labels and weights
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as tensor_bytes
from torch import nn

from trimask.core.errors import ArtifactError, DataError
from trimask.core.files import read_json, replacing, settled
from trimask.tokenizers import artifact

MANIFEST, WEIGHTS = "judge.json", "weights.safetensors"


@dataclass(frozen=True)
class Stored:
    """What a judge is on disk. Weights are fp16, as they are used."""

    kind: str
    settings: Mapping[str, Any]
    labels: Sequence[str]
    weights: Mapping[str, np.ndarray]
    quality: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        return artifact.fingerprint(self.kind, [dict(self.settings), list(self.labels)], self.weights)


def save(folder: Path, judge: Stored) -> None:
    """Write the artifact folder, atomically."""
    manifest = {
        "class": judge.kind,
        "settings": dict(judge.settings),
        "labels": list(judge.labels),
        "quality": dict(judge.quality),
        "provenance": dict(judge.provenance),
        "fingerprint": judge.fingerprint,
    }
    with replacing(Path(folder)) as temporary:
        temporary.mkdir()
        (temporary / WEIGHTS).write_bytes(tensor_bytes(dict(judge.weights)))
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def load(folder: Path | str) -> Stored:
    """Read an artifact; `ArtifactError` when it is missing, damaged or was changed."""
    folder = settled(Path(folder))
    try:
        manifest = read_json(folder / MANIFEST)
        weights = load_file(folder / WEIGHTS)
        judge = Stored(
            manifest["class"],
            manifest["settings"],
            tuple(manifest["labels"]),
            weights,
            manifest["quality"],
            manifest["provenance"],
        )
    except DataError as e:
        raise ArtifactError(f"{folder} is not a judge: {e}") from None
    except (OSError, SafetensorError, KeyError) as e:
        raise ArtifactError(f"{folder} cannot be read: {e}; train the judge again") from None
    if judge.fingerprint != manifest.get("fingerprint"):
        raise ArtifactError(f"{folder}: weights and {MANIFEST} do not belong together; train the judge again")
    return judge


def settings(folder_or_name: object, judge: Stored, build: type) -> Any:
    """The settings object of a judge; JSON lists become tuples."""
    try:
        return build(**{k: tuple(v) if isinstance(v, list) else v for k, v in judge.settings.items()})
    except (TypeError, ValueError) as e:
        raise ArtifactError(f"{folder_or_name}: field 'settings' does not fit: {e}") from None


def weights_of(network: nn.Module) -> dict[str, np.ndarray]:
    """The state of a network as arrays."""
    return {k: v.detach().contiguous().numpy() for k, v in network.state_dict().items()}
