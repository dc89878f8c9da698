"""`trimask plan`: what to train with the compute there is."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trimask.core.errors import UsageError


def plan(
    settings: Annotated[list[str] | None, typer.Argument(help="Of the recipe: key=value.")] = None,
    law: Annotated[
        Path | None,
        typer.Option(help="law.json of a `trimask study scaling`; else the one that ships, of the built-in world."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe whose sizes are considered.")] = "tri",
    flops: Annotated[float | None, typer.Option(help="Budget in floating-point operations, 1e21.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="Budget in hours, of the devices of --gpus or of this machine.")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Size of the model, 3e9; else the best is chosen.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="Devices, 64xH200; here is this machine. Else no memory limits a plan of --flops."),
    ] = None,
    mfu: Annotated[float, typer.Option(help="Share of a device's peak that the training reaches.")] = 0.4,
    unique: Annotated[
        str, typer.Option(help="Different tokens that you have, text=2e9,image=1e9; else those of the recipe's sets.")
    ] = "",
) -> None:
    """Plan a run: size, tokens, batch, settings, memory, time and the loss to expect, from a fitted law.

    Of all sizes of the recipe's family that fit the memory the one with the lowest predicted loss is taken. It says
    how far the plan lies beyond what the law was fitted to, and prints the command that runs it.

    \b
    trimask plan --hours 2
    trimask plan --hours 72 --gpus 64xH200
    trimask plan --flops 1e21
    trimask plan --params 3e9 --gpus 256xH100 --unique text=5e11,image=2e11,audio=1e11
    """
    from rich.console import Console

    from trimask import recipes
    from trimask.studies import planning

    numbers = {"--flops": flops, "--hours": hours, "--params": params, "--mfu": mfu}
    if bad := [name for name, value in numbers.items() if value is not None and not 0 < value < float("inf")]:
        raise UsageError(f"{bad[0]} {numbers[bad[0]]:g} must be positive and finite")
    if mfu > 1:
        raise UsageError(f"--mfu {mfu:g} is a share of the peak, at most 1")
    count, kind = _devices(gpus) if gpus else (1, "here" if hours is not None else None)
    if kind == "here" and count > 1:
        raise UsageError(f"--gpus {gpus}: there is one of this machine")
    device = planning.here(mfu) if kind == "here" else planning.device(kind, mfu) if kind else None
    stated = tuple(settings or ())
    held = _counts(unique) if unique else None
    made = partial(recipes.configure, recipe)
    asked = planning.Asked(
        planning.Law.read(law or recipes.LAW), recipe, made, stated, flops, hours, params, device, count, held
    )
    lines = planning.describe(asked, planning.plan(asked))
    Console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _devices(text: str) -> tuple[int, str]:
    """ "64xH200" -> (64, "H200"); "H200" is one."""
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([A-Za-z][\w-]*)", text)
    if not match:
        raise UsageError(f"--gpus {text!r}: write a number and a kind, as 64xH200")
    return int(match[1] or 1), match[2]


def _counts(text: str) -> dict[str, float]:
    """ "text=2e9,image=1e9" by name."""
    out = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            out[name.strip()] = 0.0
        if not 0 < out[name.strip()] < float("inf"):
            raise UsageError(f"--unique {part!r}: write modality=count, as text=2e9")
    return out
