"""Tokenizers on disk: a folder with `tokenizer.json` and, where there are weights, `weights.safetensors`.

tokenizer.json
  class         name of the tokenizer class, a key of `CLASSES`
  settings      what its constructor needs besides weights
  fingerprint   SHA-256 over class, settings and weights
  quality       measured reconstruction quality (numbers only)
  provenance    what it was trained on and how (free JSON)
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import chz
import numpy as np

from trimask.core.errors import ArtifactError, DataError
from trimask.core.files import read_json, replacing, settled
from trimask.tokenizers.contract import Tokenizer

if TYPE_CHECKING:
    from torch import nn

MANIFEST = "tokenizer.json"
WEIGHTS = "weights.safetensors"

CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "bpe": "trimask.tokenizers.text:TextTokenizer",
        "image-fsq": "trimask.tokenizers.image:ImageTokenizer",
        "audio-fsq": "trimask.tokenizers.audio:AudioTokenizer",
        "image-pretrained": "trimask.tokenizers.pretrained:PretrainedImage",
        "audio-pretrained": "trimask.tokenizers.pretrained:PretrainedAudio",
    }
)
"""Class name in the manifest -> where the class lives. Only these can be loaded."""


def load(folder: Path | str) -> Tokenizer:
    """Load any tokenizer artifact, or a folder that holds a Hugging Face `tokenizer.json`.

    Raises `ArtifactError` when the folder is missing, damaged, of an unknown class, or when its
    content no longer has the fingerprint written in it.
    """
    folder = settled(Path(folder))
    manifest = read_manifest(folder)
    if "class" not in manifest and "model" in manifest:
        from trimask.tokenizers.text import TextTokenizer

        return TextTokenizer.from_file(folder / MANIFEST)
    name = str(manifest.get("class"))
    if name not in CLASSES:
        raise ArtifactError(f"{folder / MANIFEST}: class {name!r} is unknown; this version knows {', '.join(CLASSES)}")
    module, _, attribute = CLASSES[name].partition(":")
    tokenizer = getattr(importlib.import_module(module), attribute).from_artifact(folder, manifest)
    if tokenizer.fingerprint != manifest.get("fingerprint"):
        raise ArtifactError(
            f"{folder}: the content has fingerprint {tokenizer.fingerprint[:12]}, {MANIFEST} says "
            f"{str(manifest.get('fingerprint'))[:12]}; the artifact was changed or damaged, fetch it again"
        )
    return tokenizer


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact folder; `ArtifactError` when it is missing or broken."""
    try:
        return read_json(folder / MANIFEST)
    except DataError as e:
        raise ArtifactError(f"{folder} is not a tokenizer: {e}") from None


def read_settings(folder: Path, manifest: Mapping[str, Any], build: type) -> Any:
    """The settings object of a manifest; JSON lists become tuples."""
    values = manifest.get("settings")
    if not isinstance(values, dict):
        raise ArtifactError(f"{folder / MANIFEST}: field 'settings' must be an object, got {values!r}")
    try:
        return build(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as e:
        raise ArtifactError(f"{folder / MANIFEST}: field 'settings' does not fit: {e}") from None


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of an artifact; `ArtifactError` when the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as e:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read: {e}; fetch the artifact again") from None


def write(
    folder: Path,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray] | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write an artifact folder atomically: manifest, weights and further text files."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        if tensors is not None:
            from safetensors.numpy import save

            # safetensors' own file writer makes files that only their owner may read.
            (temporary / WEIGHTS).write_bytes(save(dict(tensors)))
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (temporary / MANIFEST).write_text(text, encoding="utf-8")


def fingerprint(name: str, settings: Any, tensors: Mapping[str, np.ndarray] | None = None) -> str:
    """Hex SHA-256 of a class name, JSON settings and tensors (name, type, shape and bytes)."""
    digest = hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode())
    for key, value in sorted((tensors or {}).items()):
        digest.update(f"{key} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def install(network: "nn.Module", weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put weights, rounded to fp16, into a network that is then only used; returns the rounded ones.

    A tokenizer fresh from training and the same one loaded again thus give the same codes.
    Raises `ArtifactError` when names or shapes do not fit.
    """
    import torch

    rounded = {k: np.asarray(v).astype(np.float16) for k, v in weights.items()}
    try:
        network.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in rounded.items()})
    except RuntimeError as e:
        raise ArtifactError(f"the weights do not fit the settings of the tokenizer: {e}") from None
    network.eval().requires_grad_(False)
    return rounded


def write_network(folder: Path, tokenizer: Any) -> None:
    """Write a tokenizer that has `settings` (chz), `weights`, `quality` and `provenance`."""
    manifest = {
        "class": tokenizer.name,
        "settings": chz.asdict(tokenizer.settings),
        "fingerprint": tokenizer.fingerprint,
        "quality": tokenizer.quality,
        "provenance": tokenizer.provenance,
    }
    write(Path(folder), manifest, tensors=tokenizer.weights)
