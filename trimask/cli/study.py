"""`trimask study`: measure how settings carry over sizes, batches and lengths, and fit laws to what came out."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from trimask.core.errors import UsageError

OURS = "study."


def named(name: str, asks: str) -> Callable[..., None]:
    """The command of one study."""

    def command(
        settings: Annotated[
            list[str] | None, typer.Argument(help="study.key=value for the study, key=value for its runs.")
        ] = None,
        recipe: Annotated[str, typer.Option(help="Recipe whose runs are varied.")] = "study",
        out: Annotated[Path | None, typer.Option(help=f"Folder of rows and report; by default studies/{name}.")] = None,
        options: Annotated[bool, typer.Option("--options", help="Print the study's own settings, and stop.")] = False,
    ) -> None:
        import chz

        from trimask import recipes
        from trimask.core.config import configure
        from trimask.studies import study
        from trimask.studies.conduct import conduct

        blueprint = chz.Blueprint(study(name))
        if options:
            print(blueprint.get_help())
            return
        stated = settings or []
        own = [s.removeprefix(OURS) for s in stated if s.startswith(OURS)]
        made = configure(blueprint, own, f"study {name}")
        base = recipes.configure(recipe, [s for s in stated if not s.startswith(OURS)])
        if not conduct(made, base, out or Path("studies") / name, command=shlex.join(["trimask", *sys.argv[1:]])):
            raise typer.Exit(130)

    command.__doc__ = f"""{asks}

    Says what it will cost before it starts, runs some trainings at a time, and keeps each that ends. The same
    command goes on where the last one stopped, and writes the report anew where nothing is missing.

    \b
    trimask study {name}
    trimask study {name} --recipe my_recipe.py:small --out studies/quick budget.steps=300
    trimask study {name} --options
    """
    return command


def fit(
    runs: Annotated[Path, typer.Argument(help="A .csv or .parquet file, a line a final loss.")],
    params: Annotated[str, typer.Option(help="Column of the number of parameters.")] = "params",
    tokens: Annotated[str, typer.Option(help="Column of the tokens processed.")] = "tokens",
    loss: Annotated[str, typer.Option(help="Column of the final loss.")] = "loss",
    run: Annotated[
        str | None, typer.Option(help="Column that names the training, where several lines are of one.")
    ] = None,
    law: Annotated[
        str,
        typer.Option(
            help="power, coupled, chosen (of these two), repeated (needs --unique), shared (--target), additive or "
            "joint (--shares)."
        ),
    ] = "power",
    unique: Annotated[str | None, typer.Option(help="Column of the number of different tokens.")] = None,
    target: Annotated[str | None, typer.Option(help="Column that says what a loss is of, such as a modality.")] = None,
    shares: Annotated[str, typer.Option(help="Columns of the shares of each source, with commas.")] = "",
    grid: Annotated[
        bool, typer.Option("--grid", help="Begin at the 4,500 starts of Hoffmann et al., minutes instead of seconds.")
    ] = False,
    drop_highest: Annotated[int, typer.Option(help="Leave out so many of the highest losses.")] = 0,
    hold_out: Annotated[int, typer.Option(help="First predict so many of the largest sizes from the others.")] = 0,
    bootstrap: Annotated[int, typer.Option(help="Fits to trainings drawn anew, for the intervals; 0: none.")] = 300,
    twins: Annotated[int, typer.Option(help="Tables made of the fit and fitted again: bias and coverage.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes of --grid; by default one a core.")] = None,
    delta: Annotated[float, typer.Option(help="Errors of log L up to this count squared; inf: least squares.")] = 1e-3,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; by default fits/FILE-LAW.")] = None,
) -> None:
    """Fit a scaling law to a table of runs, anyone's.

    L = E + A N^-alpha + B D^-beta by variable projection and by descents on the Huber loss of log L, with
    intervals from a bootstrap over trainings, how a budget is best split, and what makes the fit doubtful.

    \b
    trimask study fit runs.csv
    trimask study fit runs.csv --params N --tokens D --loss L --drop-highest 5 --grid
    trimask study fit runs.csv --hold-out 1 --law coupled --out fits/coupled
    """
    from rich.console import Console

    from trimask.core.compute import usable_cores
    from trimask.studies import report
    from trimask.studies.runs import read
    from trimask.studies.verdict import Asked, frame, judged

    if min(bootstrap, twins) < 0 or not delta > 0 or (jobs is not None and jobs < 1):
        raise UsageError("--bootstrap and --twins must not be negative, --delta and --jobs must be positive")
    columns = tuple(name.strip() for name in shares.split(",") if name.strip())
    table = read(runs, params, tokens, loss, run, columns, unique, target)
    several = (jobs or usable_cores()) if grid else 1
    asked = Asked(law, grid, drop_highest, hold_out, bootstrap, twins, delta, several)
    found = judged(table, asked).report
    folder = out or Path("fits") / f"{runs.stem}-{law}"
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    around = frame(asked, f"{params} is N, {tokens} D, {loss} L", shlex.join(["trimask", *sys.argv[1:]]))
    written = report.write(found, f"{len(table)} lines of {runs}", folder, around)
    console.print(written, highlight=False, markup=False)
    for caption, head, lines in found.tables:
        console.print(f"\n{caption}", highlight=False, markup=False)
        width = max(len(line[0]) for line in [head, *lines])
        for line in [head, *lines]:
            cells = "".join(f"{cell:>{max(14, len(name) + 2)}}" for cell, name in zip(line[1:], head[1:], strict=True))
            console.print(f"{line[0]:>{width}}{cells}", highlight=False, markup=False, soft_wrap=True)
