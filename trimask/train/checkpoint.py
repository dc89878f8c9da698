"""Checkpoints: atomic, complete, verified.

    checkpoints/step-00001000/
      config.json model.safetensors tokenizers/ ...   a bundle (`hub.bundle`): what a user needs
      training.safetensors                            optimizer, and the trained weights where the
                                                      bundle holds their average
      training.json                                   counters, statistics, position in the data,
                                                      SHA-256 of every other file and of itself

The bundle's weights are float32 here. A checkpoint is complete once its folder has its name.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trimask.core.config import to_json
from trimask.core.errors import ArtifactError, UsageError
from trimask.core.files import replacing, sha256
from trimask.core.modality import Vocabulary
from trimask.data.manifest import Manifest
from trimask.hub import bundle
from trimask.hub.defaults import Defaults
from trimask.tokenizers.contract import Tokenizer
from trimask.train.config import Checkpoints
from trimask.train.state import TrainState

TENSORS, VALUES = "training.safetensors", "training.json"
FORWARD: Mapping[str, tuple[str, ...]] = {
    "head_dim": ("head_dim",),
    "rope_base": ("rope_base",),
    "tied": ("tied",),
    "branch_scales": ("base_depth", "alpha", "attention_branch", "mlp_branch", "parametrization"),
    "logit_scale": ("base_width", "head_std", "embedding_std", "parametrization"),
}
"""What a model computes from its weights besides their shapes -> the settings that decide it."""
FORMAT = 1


def path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def save(folder: Path, state: TrainState, tokenizers: Mapping[str, Tokenizer], extra: Mapping[str, Any]) -> Path:
    """Write the checkpoint of this step into `folder`; `extra` is JSON about the training for the bundle."""
    target = path(folder, state.step)
    weights, tensors, values = state.weights(), state.tensors(), state.values()
    if not state.world.first:
        return target
    defaults = _defaults(folder)
    with replacing(target) as temporary:
        temporary.mkdir()
        written = state.model, tokenizers, state.manifests(), extra
        bundle.write_bundle(temporary, *written, defaults=defaults, weights=weights, dtype="fp32")
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
        # How it is sampled may be changed later.
        kept = [p for p in temporary.rglob("*") if p.is_file() and p.name != bundle.SAMPLING]
        files = {p.relative_to(temporary).as_posix(): sha256(p) for p in kept}
        content = {"format": FORMAT, "state": values, "files": files}
        content["digest"] = _digest(content)
        (temporary / VALUES).write_text(json.dumps(content))
    return target


def _defaults(folder: Path) -> Defaults | None:
    """How the checkpoint before is sampled: what was tuned on it holds on. None where that cannot be read."""
    try:
        return next((bundle.read_defaults(p) for p in found(folder)), None)
    except ArtifactError:
        return None


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in content.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def found(folder: Path) -> list[Path]:
    """Checkpoints in a folder, newest first."""
    named = [p for p in folder.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdigit()]
    return sorted(named, key=lambda p: p.name, reverse=True)


def resume(folder: Path, state: TrainState, say: Callable[[str], None]) -> Path | None:
    """Restore the newest checkpoint that is whole; None where there is none.

    A damaged one is passed over with a message. Raises `ArtifactError` when all are damaged.
    """
    for stale in folder.glob(".step-*") if state.world.first else ():
        shutil.rmtree(stale, ignore_errors=True)
    checkpoints = found(folder)
    for checkpoint in checkpoints:
        try:
            load(checkpoint, state)
            return checkpoint
        except ArtifactError as e:
            say(f"{e}; going back to the checkpoint before it")
    if checkpoints:
        raise ArtifactError(f"no checkpoint in {folder} is whole; use on_existing=new to start over")
    return None


def load(checkpoint: Path, state: TrainState) -> None:
    """Verify a checkpoint, then restore it. Raises `ArtifactError` and leaves the state alone when damaged."""
    content = verified(checkpoint)
    try:
        weights, tensors = load_file(checkpoint / bundle.WEIGHTS), load_file(checkpoint / TENSORS)
    except (OSError, SafetensorError) as e:
        raise ArtifactError(f"{checkpoint} cannot be read: {e}") from None
    state.restore(weights, tensors, content["state"])
    state.inherited = _manifests(checkpoint)[len(state.source.manifests) :]


def _manifests(folder: Path) -> list[Mapping[str, Any]]:
    return json.loads((folder / bundle.MANIFESTS).read_text())


def verified(checkpoint: Path) -> dict[str, Any]:
    """Content of `training.json`, after every file was compared with its hash. Raises `ArtifactError`."""
    try:
        content = json.loads((checkpoint / VALUES).read_text())
        number, whole = content["format"], content["digest"] == _digest(content)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"{checkpoint} is damaged: {VALUES} cannot be read ({e})") from None
    if not whole:
        raise ArtifactError(f"{checkpoint} is damaged: {VALUES} is not as it was written")
    if number != FORMAT:
        raise ArtifactError(f"{checkpoint} has checkpoint format {number}; this version of trimask reads {FORMAT}")
    for name, expected in content["files"].items():
        file = checkpoint / name
        if name == bundle.SAMPLING:
            continue
        if not file.is_file():
            raise ArtifactError(f"{checkpoint} is damaged: {name} is missing")
        if sha256(file) != expected:
            raise ArtifactError(f"{checkpoint} is damaged: {name} is not as it was written")
    return content


def prune(folder: Path, config: Checkpoints) -> None:
    """Delete all but the newest `keep` checkpoints and those of `keep_steps`."""
    kept = {path(folder, step).name for step in config.keep_steps}
    for old in [p for p in found(folder) if p.name not in kept][config.keep :]:
        # Renamed first: a kill while deleting must not leave half a checkpoint under its name.
        doomed = old.with_name(f".{old.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        old.rename(doomed)
        shutil.rmtree(doomed)


def layout(vocabulary: Vocabulary) -> str:
    """Fingerprint of what ids mean: ranges, grids, tasks and coordinates, not how they are trained."""
    values = to_json(vocabulary)
    free = {"schedule", "elbo", "weight", "fill_weight", "given_weight", "buckets"}
    fixed = {k: v for k, v in values.items() if k.rsplit(".", 1)[-1] not in free}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def initial_weights(name: str, state: TrainState, tokenizers: Mapping[str, Tokenizer]) -> Path:
    """Start from the weights of a bundle, checkpoint or run.

    Raises `ArtifactError` when its vocabulary, its tokenizers or its shape are others than this run's.
    """
    folder = bundle.find(name)
    source = bundle.load_bundle(folder)
    here, there = layout(state.model.vocabulary), layout(source.model.vocabulary)
    if here != there:
        raise ArtifactError(
            f"{folder} has vocabulary {there[:12]}, this run has {here[:12]}: their ids mean different things. "
            "Use the tokenizers and the tasks of the checkpoint, or start from scratch"
        )
    for modality, tokenizer in tokenizers.items():
        theirs = source.tokenizers.get(modality)
        if theirs is not None and theirs.fingerprint != tokenizer.fingerprint:
            raise ArtifactError(
                f"{folder} was trained with {modality} tokenizer {theirs.fingerprint[:12]}, this run uses "
                f"{tokenizer.fingerprint[:12]}. Prepare the data with {folder / 'tokenizers' / modality}, "
                "or start from scratch"
            )
    state.inherited = source.manifests
    try:
        state.load(source.model.state_dict())
    except RuntimeError as e:
        reason = str(e).splitlines()[1].strip()
        raise ArtifactError(f"{folder} is of another shape than model.* of this run: {reason}") from None
    for field, settings in FORWARD.items():
        ours, theirs = getattr(state.model.config, field), getattr(source.model.config, field)
        if ours != theirs:
            write = " ".join(f"model.{s}={getattr(source.model.config, s)}" for s in settings)
            raise ArtifactError(
                f"{folder} was trained with {field.replace('_', ' ')} {theirs}, this run has {ours}: the same weights "
                f"would compute something else. Write {write}, or start from scratch"
            )
    if state.average:
        for k, v in state.model.named_parameters():
            state.average.weights[k].copy_(v.detach())
    return folder


def check_inputs(checkpoint: Path, tokenizers: Mapping[str, Tokenizer], manifests: Sequence[Manifest]) -> None:
    """Refuse to go on with other tokenizers or other data than those the run began with."""
    now = [m.fingerprint for m in manifests]
    then = [m["fingerprint"] for m in _manifests(checkpoint)][: len(now)]
    if then != now:
        raise UsageError(
            f"the prepared sets are not those the run began with (fingerprints {', '.join(f[:12] for f in then)}, "
            f"now {', '.join(f[:12] for f in now)}); prepare them from the same sources again, or use another run="
        )
    began: Mapping[str, str] = bundle.read_config(checkpoint)["tokenizers"]
    for modality, tokenizer in tokenizers.items():
        if began.get(modality, tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UsageError(
                f"the run began with {modality} tokenizer {began[modality][:12]}, tokenizers= now names "
                f"{tokenizer.fingerprint[:12]}; name the first again, or use another run="
            )
