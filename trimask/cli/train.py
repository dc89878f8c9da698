"""`trimask train`: run a recipe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from trimask.train.config import TrainConfig

EXISTING = ("resume", "new", "fail")


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe that comes with trimask, or FILE.py:FUNCTION.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, for example budget.minutes=20.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Prepared set to train on instead of the recipe's; several have equal shares."),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(help="With --data: prepared set to validate on; by default none.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from these weights: a shipped model, a bundle, a checkpoint or a run.")
    ] = None,
    on_existing: Annotated[
        str | None, typer.Option(help="What to do with a run folder that exists: resume, new (move it aside) or fail.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print configuration, parameters, FLOPs, memory and time, and stop.")
    ] = False,
    options: Annotated[bool, typer.Option("--options", help="Print every key that can be set, and stop.")] = False,
) -> None:
    """Train a model.

    The same command resumes where the last one stopped. Everything is kept in the run folder
    (setting `run`): configuration, metrics.jsonl, samples, checkpoints. `trimask generate --model
    RUN` uses the newest checkpoint. An interrupt finishes the step, saves and exits with code 130.

    With --data, tokenizers are those that the sets were prepared with.

    \b
    trimask train nano --dry-run
    trimask train nano run=runs/first budget.minutes=20
    trimask train nano --data sets/photos --validation sets/photos-held run=runs/mine budget.minutes=20
    trimask train nano --data sets/photos --init nano run=runs/tuned optimizer.rate=1e-3
    trimask train nano --options
    trimask train my_recipe.py:big model.depth=12
    """
    from trimask import recipes
    from trimask.core.config import changed

    if options:
        print(recipes.options(recipe))
        return
    if on_existing is not None and on_existing not in EXISTING:
        raise UsageError(f"--on-existing {on_existing}: choose one of {', '.join(EXISTING)}")
    if validation and not data:
        raise UsageError("--validation goes with --data; a recipe has validation sets of its own")
    flags = {"init": init, "on_existing": on_existing}
    stated = [*(settings or ()), *(f"{k}={v}" for k, v in flags.items() if v is not None)]
    if data and not any(s.startswith("tokenizers=") for s in stated):
        stated.append(f"tokenizers={','.join(_tokenizers(data))}")
    if data:
        # The sets take the place of the recipe's before what is said of them is applied.
        later = [s for s in stated if s.startswith(("data.sources", "validation."))]
        config = recipes.configure(recipe, [s for s in stated if s not in later])
        config = changed(_with_sets(config, data, validation or ()), later, f"recipe {recipe}")
    else:
        config = recipes.configure(recipe, stated)
    if dry_run:
        from trimask.train import dryrun

        dryrun.dry_run(config)
        return
    from trimask.train.loop import fit

    result = fit(config)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _tokenizers(sets: Sequence[str]) -> list[str]:
    """Folders of the tokenizers that made the sets, as their manifests have them."""
    from trimask.data.manifest import read_manifest

    folders: dict[str, str] = {}
    for one in sets:
        for name, record in read_manifest(one).tokenizers.items():
            if not record.folder:
                raise UsageError(f"{one} does not say where its {name} tokenizer is; write tokenizers=FOLDER,FOLDER")
            folders.setdefault(name, record.folder)
    return list(folders.values())


def _with_sets(config: "TrainConfig", data: Sequence[str], validation: Sequence[str]) -> "TrainConfig":
    """The run on other sets; without sets to validate on there is no validation."""
    import chz

    from trimask.data.manifest import read_manifest
    from trimask.data.stream import SourceConfig
    from trimask.data.tasks import ANY, feasible
    from trimask.train.config import Validation

    def source(one: str) -> SourceConfig:
        # A set without captions, say: what it has is then learned as it is.
        fits = feasible(list(config.data.tasks), dict.fromkeys(read_manifest(one).kinds))
        return SourceConfig(path=one, tasks=() if fits else (ANY,))

    held_out = None
    if validation:
        settings = {"batches": config.validation.batches, "every": config.validation.every} if config.validation else {}
        stream = chz.replace(config.data, sources=tuple(map(source, validation)), anti_masking=False)
        held_out = Validation(data=stream, **settings)
    return chz.replace(config, data=chz.replace(config.data, sources=tuple(map(source, data))), validation=held_out)
