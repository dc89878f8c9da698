"""Bundles: everything a model needs to be used, in one folder that is safe to load from strangers.

    config.json         format, version, model configuration, tokenizer fingerprints, what trained it,
                        SHA-256 of every other file but sampling.json, which you may change
    model.safetensors   weights
    sampling.json       sampling defaults (`hub.defaults`)
    manifests.json      manifests of the data that trained it
    tokenizers/NAME/    one artifact per modality

A training checkpoint is a bundle with further files; a run folder holds checkpoints.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import trimask
from trimask.core.compute import DTYPES
from trimask.core.config import from_json, to_json
from trimask.core.errors import ArtifactError, DataError, UsageError
from trimask.core.files import read_json, replacing, settled, sha256, write_json
from trimask.hub import defaults as sampling
from trimask.hub.defaults import Defaults
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer
from trimask.tokenizers import artifact
from trimask.tokenizers.contract import Tokenizer

FORMAT = 1
CONFIG, WEIGHTS, SAMPLING, MANIFESTS = "config.json", "model.safetensors", "sampling.json", "manifests.json"
TOKENIZERS = "tokenizers"
CHECKPOINTS = "checkpoints"
MODELS = Path(trimask.__file__).parent / "models"
"""Where the models live that come with the package."""
SHIPPED = ("nano",)


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `tokenizers` are keyed by modality; weights are fp32."""

    model: Transformer
    tokenizers: Mapping[str, Tokenizer]
    manifests: Sequence[Mapping[str, Any]] = ()
    defaults: Defaults = field(default_factory=Defaults)
    train: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def context(self) -> int | None:
        """Transformer positions of the rows it was trained on; None where the bundle does not say."""
        found = self.train.get("config", {}).get("data.slots")
        return found if isinstance(found, int) else None


def save_bundle(
    folder: Path | str,
    model: Transformer,
    tokenizers: Mapping[str, Tokenizer],
    manifests: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
    *,
    defaults: Defaults | None = None,
    weights: Mapping[str, Tensor] | None = None,
    dtype: str = "bf16",
) -> None:
    """Write a bundle folder atomically; an existing folder is replaced.

    `extra` is JSON about the training. `weights` are stored instead of the model's own (an average
    of them, say). `dtype` is "bf16" or "fp32". Raises `UsageError` when a tokenizer does not belong
    to the model.
    """
    folder = Path(folder)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_bundle(temporary, model, tokenizers, manifests, extra, defaults=defaults, weights=weights, dtype=dtype)


def write_bundle(
    folder: Path,
    model: Transformer,
    tokenizers: Mapping[str, Tokenizer],
    manifests: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
    *,
    defaults: Defaults | None = None,
    weights: Mapping[str, Tensor] | None = None,
    dtype: str = "bf16",
) -> None:
    """Write the files of a bundle into a new folder, for callers that have their own transaction."""
    if dtype not in DTYPES:
        raise UsageError(f"weights are stored as {' or '.join(DTYPES)}, not as {dtype!r}")
    _check_tokenizers(model.config, tokenizers)
    state = {k: v.detach().to("cpu", DTYPES[dtype]).contiguous() for k, v in (weights or model.state_dict()).items()}
    save_file(state, folder / WEIGHTS)
    write_defaults(folder, defaults or Defaults(sampling.starting(model.vocabulary)))
    _write(folder / MANIFESTS, list(manifests))
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / TOKENIZERS / name)
    config = {
        "format": FORMAT,
        "version": trimask.__version__,
        "model": {**to_json(model.config), "width": model.config.width},
        "tokenizers": {k: t.fingerprint for k, t in tokenizers.items()},
        "train": dict(extra or {}),
        "files": {p.relative_to(folder).as_posix(): sha256(p) for p in _files(folder) if p.name != SAMPLING},
    }
    _write(folder / CONFIG, config)


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle folder. Raises `ArtifactError` when it is missing, damaged or incompatible."""
    folder = settled(Path(folder))
    config = read_config(folder)
    _check_files(folder, config)
    where = str(folder / CONFIG)
    model = Transformer(from_json(ModelConfig, config["model"], where))
    _install(model, folder / WEIGHTS)
    tokenizers = {name: _tokenizer(folder, name, mark) for name, mark in config["tokenizers"].items()}
    try:
        _check_tokenizers(model.config, tokenizers)
    except UsageError as e:
        raise ArtifactError(f"{folder}: {e}") from None
    return Bundle(
        model.eval().requires_grad_(False),
        tokenizers,
        json.loads((folder / MANIFESTS).read_text()),
        read_defaults(folder),
        config.get("train", {}),
        folder,
    )


def read_defaults(folder: Path) -> Defaults:
    """The sampling defaults of a bundle."""
    return sampling.from_json(_read(folder / SAMPLING), str(folder / SAMPLING))


def write_defaults(folder: Path, defaults: Defaults) -> None:
    """Give a bundle other sampling defaults, atomically."""
    write_json(folder / SAMPLING, sampling.to_json(defaults))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a bundle, of a format that this version reads."""
    config = _read(folder / CONFIG)
    number = config.get("format")
    if number != FORMAT:
        what = "is not a model bundle" if number is None else f"has bundle format {number}"
        raise ArtifactError(
            f"{folder} {what}; this version of trimask ({trimask.__version__}) reads format {FORMAT}. "
            "Name a bundle, a checkpoint or a run folder, or install the version that wrote it"
        )
    missing = [k for k in ("model", "tokenizers", "files") if not isinstance(config.get(k), dict)]
    if missing:
        raise ArtifactError(f"{folder / CONFIG}: field {missing[0]!r} is missing or no object; fetch the bundle again")
    return config


def find(name: str | Path) -> Path:
    """The bundle folder that a name means: a shipped model, a bundle, a checkpoint or a run folder.

    Of a run folder the newest complete checkpoint is taken. Raises `ArtifactError`.
    """
    if str(name) in SHIPPED:
        return _shipped(str(name))
    path = settled(Path(name).expanduser())
    if _is_bundle(path):
        return path
    if not path.exists():
        raise ArtifactError(
            f"there is no model {str(name)!r}: no such folder, and the shipped models are {', '.join(SHIPPED)}"
        )
    holder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    complete = [p for p in sorted(holder.glob("step-*")) if p.suffix != ".old" and _is_bundle(p)]
    if complete:
        return complete[-1]
    reason = "its checkpoints folder has no complete checkpoint yet" if holder.is_dir() else f"it has no {WEIGHTS}"
    raise ArtifactError(
        f"{path} is no model: {reason}. Name a bundle, a checkpoint (RUN/{CHECKPOINTS}/step-...) or a run folder"
    )


def _shipped(name: str) -> Path:
    folder = MODELS / name
    if _is_bundle(folder):
        return folder
    raise ArtifactError(
        f"the model {name!r} is not part of this installation ({folder} is not there). Either install a release "
        f"of trimask that ships it, or train it (`trimask train {name}`) and name the run folder instead"
    )


def _is_bundle(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _check_files(folder: Path, config: Mapping[str, Any]) -> None:
    for name, expected in config["files"].items():
        path = folder / name
        if name == SAMPLING:
            continue
        if not path.is_file():
            raise ArtifactError(f"{path} is missing from the bundle; fetch or copy the whole folder again")
        if sha256(path) != expected:
            raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch it again")


def _install(model: Transformer, path: Path) -> None:
    try:
        state = {k: v.float() for k, v in load_file(path).items()}
        model.load_state_dict(state)
    except SafetensorError as e:
        raise ArtifactError(f"{path} cannot be read: {e}; fetch it again") from None
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise ArtifactError(f"{path} does not fit the model configuration in {CONFIG}: {reason}") from None


def _tokenizer(folder: Path, name: str, fingerprint: str) -> Tokenizer:
    tokenizer = artifact.load(folder / TOKENIZERS / name)
    if tokenizer.fingerprint != fingerprint:
        raise ArtifactError(
            f"{folder / TOKENIZERS / name} is not the tokenizer this model was trained with (fingerprint "
            f"{tokenizer.fingerprint[:12]}, expected {fingerprint[:12]}); fetch the bundle again"
        )
    return tokenizer


def _check_tokenizers(config: ModelConfig, tokenizers: Mapping[str, Tokenizer]) -> None:
    rows = {m.name: m for m in config.vocabulary.modalities}
    for name, tokenizer in tokenizers.items():
        mine, theirs = rows.get(name), tokenizer.modality
        if mine is None:
            raise UsageError(f"a tokenizer for {name} does not belong to a model of {', '.join(rows)}")
        if (mine.grid, mine.codes, mine.levels) != (theirs.grid, theirs.codes, theirs.levels):
            raise UsageError(
                f"the {name} tokenizer has {theirs.levels} x {theirs.codes} codes on a {theirs.grid} grid; the model "
                f"has {mine.levels} x {mine.codes} on a {mine.grid} grid: they were not made for each other"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DataError as e:
        raise ArtifactError(f"{e}; the bundle is incomplete or damaged, fetch it again") from None


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
