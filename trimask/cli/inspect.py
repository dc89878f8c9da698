"""`trimask inspect`: look at a source, a prepared set, a tokenizer, a model or a recipe."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.core.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from rich.console import Console


def inspect(
    target: Annotated[str, typer.Argument(help="A source, a prepared set, a tokenizer, a model, a run or a recipe.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Of a recipe, with --optimizer: key=value.")] = None,
    samples: Annotated[int, typer.Option(help="Records to show.", min=0)] = 3,
    scan: Annotated[int, typer.Option(help="Records of a source to decode for lengths and rejections.", min=1)] = 200,
    holder: Annotated[
        str | None, typer.Option("--tokenizers", help="Tokenizers to show a prepared set's text with.")
    ] = None,
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="Of a recipe: every setting that follows from size, batch and length.")
    ] = False,
) -> None:
    """Look at data, a tokenizer, a model or a recipe.

    Prints counts, lengths, licence, samples or settings. Sources are written as for `trimask
    prepare`. Of a recipe it prints what `trimask train RECIPE key=value` can change, as `trimask
    train RECIPE --options` does.

    \b
    trimask inspect photos/
    trimask inspect "emoji:train?image_size=32" --samples 5
    trimask inspect sets/emoji --tokenizers nano
    trimask inspect nano
    trimask inspect runs/mine
    trimask inspect tri model.depth=12 --optimizer
    """
    from rich.console import Console

    console = Console()
    if optimizer:
        _optimizer(target, settings or (), console)
        return
    if settings:
        raise UsageError(f"{settings[0]}: settings go with --optimizer; see `trimask train {target} --options`")
    for show in (_model, _tokenizer, _recipe):
        if show(target, console):
            return
    from trimask.cli.holders import tokenizers
    from trimask.data.inspect import inspect as look

    loaded = tokenizers(holder, ())[0] if holder else None
    look(target, samples=samples, scan=scan, tokenizers=loaded, console=console)


def _optimizer(target: str, settings: Sequence[str], console: "Console") -> None:
    """Print a recipe's parameter groups with their numbers, and where each comes from."""
    from trimask import recipes
    from trimask.train import dryrun, resolve

    made = dryrun.resolved(recipes.configure(target, settings))
    console.print("\n".join(resolve.describe(made)), markup=False, highlight=False, soft_wrap=True)


def _model(target: str, console: "Console") -> bool:
    """Print a model, if the target is one."""
    from trimask.core.files import read_json
    from trimask.hub import bundle

    try:
        folder = bundle.find(target)
    except ArtifactError:
        return False
    from rich.tree import Tree

    config = bundle.read_config(folder)
    tree = Tree(f"[bold]{folder}[/]  bundle, written by trimask {config.get('version', '?')}")
    for title, values in (("model", config["model"]), ("tokenizers", config["tokenizers"])):
        branch = tree.add(title)
        for key, value in values.items():
            branch.add(f"{key} = {value}", highlight=True)
    data = tree.add("trained on")
    for manifest in json.loads((folder / bundle.MANIFESTS).read_text()):
        for source in manifest.get("sources", ()):
            data.add(f"{source.get('source')}: {source.get('items')} items, licence {source.get('licence')}")
    defaults = tree.add("sampling")
    for name, settings in read_json(folder / bundle.SAMPLING)["settings"].items():
        defaults.add(f"{name}: {json.dumps(settings)}")
    console.print(tree)
    return True


def _tokenizer(target: str, console: "Console") -> bool:
    """Print a tokenizer artifact, if the target is one."""
    from trimask.tokenizers.artifact import MANIFEST, read_manifest

    folder = Path(target).expanduser()
    if not (folder / MANIFEST).is_file():
        return False
    shown = {k: v for k, v in read_manifest(folder).items() if k in ("class", "settings", "fingerprint", "quality")}
    console.print(f"[bold]{folder}[/]  tokenizer")
    console.print_json(data=shown)
    return True


def _recipe(target: str, console: "Console") -> bool:
    """Print what can be set in a recipe, if the target is one."""
    if Path(target).expanduser().exists() or not re.fullmatch(r"[\w.-]+|[\w./]+:\w+", target):
        return False
    from trimask import recipes

    try:
        recipes.find(target)
    except UsageError:
        return False
    console.print(recipes.options(target), markup=False, highlight=False)
    return True
