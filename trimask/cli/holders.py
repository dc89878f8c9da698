"""Where tokenizers are: single artifacts, a folder of them, or a model that brings its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimask.core.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from trimask.tokenizers.contract import Tokenizer


def tokenizers(holder: str | None, folders: Sequence[Path]) -> "tuple[dict[str, Tokenizer], dict[str, str]]":
    """Tokenizers by modality, and the folder each was loaded from.

    `holder` is a folder with one folder per tokenizer, a model (shipped name, bundle, checkpoint,
    run) or a tokenizer itself; `folders` are single tokenizers, which replace the holder's.
    """
    from trimask.tokenizers import artifact

    out: dict[str, Tokenizer] = {}
    places: dict[str, str] = {}
    stated: set[str] = set()
    for folder in [*(_held(holder) if holder else ()), *folders]:
        tokenizer = artifact.load(folder)
        name = tokenizer.modality.name
        if folder in folders:
            if name in stated:
                raise UsageError(f"--tokenizer {folder}: a tokenizer for {name} was given already")
            stated.add(name)
        out[name], places[name] = tokenizer, str(folder)
    return out, places


def _held(holder: str) -> list[Path]:
    from trimask.hub import bundle
    from trimask.tokenizers.artifact import MANIFEST

    path = bundle.MODELS / holder / bundle.TOKENIZERS if holder in bundle.SHIPPED else Path(holder).expanduser()
    if (path / MANIFEST).is_file():
        return [path]
    inside = sorted(p.parent for p in path.glob(f"*/{MANIFEST}"))
    if inside:
        return inside
    try:
        folder = bundle.find(holder)
    except ArtifactError as e:
        raise ArtifactError(
            f"--tokenizers {holder}: no tokenizers there ({e}). Name a folder with one folder per tokenizer, or a "
            "model; `trimask tokenizer train` makes tokenizers"
        ) from None
    return sorted(p.parent for p in (folder / bundle.TOKENIZERS).glob(f"*/{MANIFEST}"))
