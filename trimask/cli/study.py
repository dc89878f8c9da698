"""`trimask study`: measure how settings carry over sizes, batches and lengths."""

from pathlib import Path
from typing import Annotated

import typer

from trimask.core.errors import UsageError

OURS = "study."


def study(
    name: Annotated[str, typer.Argument(help="coordinates, transfer, batch, horizon or modules.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="study.key=value for the study, key=value for its runs.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe whose runs are varied.")] = "study",
    out: Annotated[Path | None, typer.Option(help="Folder of rows and report; by default studies/NAME.")] = None,
    options: Annotated[bool, typer.Option("--options", help="Print the study's own settings, and stop.")] = False,
) -> None:
    """Measure how settings carry: real trainings, kept as rows, with a report of tables and plots.

    Says what it will cost before it starts, runs some trainings at a time, and keeps each that ends. The same
    command goes on where the last one stopped, and writes the report anew where nothing is missing.

    \b
    coordinates  sizes of activations and updates against width and depth: are they flat?
    modules      multipliers of the model's parts, searched at the base size
    transfer     the best learning rate against width and depth: does it stay?
    batch        final loss against the physical batch, with and without the rule; finds S_crit
    horizon      how the best rate falls with the length of a run: fits gamma

    \b
    trimask study transfer
    trimask study transfer study.widths=64,128 study.depths=2,4 --out studies/quick budget.steps=300
    trimask study modules --recipe my_recipe.py:small
    trimask study batch --options
    """
    import chz

    from trimask import recipes
    from trimask.core.config import configure
    from trimask.studies import STUDIES
    from trimask.studies.conduct import conduct

    if name not in STUDIES:
        raise UsageError(f"no study is called {name!r}; there are: {', '.join(STUDIES)}")
    blueprint = chz.Blueprint(STUDIES[name]())
    if options:
        print(blueprint.get_help())
        return
    stated = settings or []
    own = [s.removeprefix(OURS) for s in stated if s.startswith(OURS)]
    made = configure(blueprint, own, f"study {name}")
    base = recipes.configure(recipe, [s for s in stated if not s.startswith(OURS)])
    if not conduct(made, base, out or Path("studies") / name):
        raise typer.Exit(130)
