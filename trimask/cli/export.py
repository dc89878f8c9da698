"""`trimask export`: a trained model as a small folder to keep, share or ship."""

from pathlib import Path
from typing import Annotated

import typer

from trimask.core.errors import UsageError


def export(
    model: Annotated[str, typer.Argument(help="Run folder, checkpoint or bundle.")],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="Type of the stored weights: bf16 or fp32.")] = "bf16",
    sampling: Annotated[
        Path | None, typer.Option(help="JSON file of sampling defaults, as sampling.json of a bundle has them.")
    ] = None,
) -> None:
    """Write weights, tokenizers, sampling defaults and data manifests of a model into one folder.

    A checkpoint also holds the optimizer and fp32 weights; this is about a quarter of it and loads
    everywhere a model is named.

    \b
    trimask export runs/mine shared/mine
    trimask generate "a red circle" --model shared/mine -o out.png
    """
    from trimask.core.files import read_json
    from trimask.hub import defaults
    from trimask.hub.bundle import find, load_bundle, save_bundle

    if out.exists():
        raise UsageError(f"{out} exists; choose another folder")
    source = load_bundle(find(model))
    chosen = source.defaults if sampling is None else defaults.from_json(read_json(sampling), str(sampling))
    save_bundle(out, source.model, source.tokenizers, source.manifests, source.train, defaults=chosen, dtype=dtype)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{out} ({size / 1e6:.1f} MB)")
