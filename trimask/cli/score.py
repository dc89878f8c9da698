"""`trimask score`: how probable a model finds something."""

from pathlib import Path
from typing import Annotated

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType, ModelName, Seed
from trimask.core.errors import UsageError


def score(
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture.")] = None,
    speech: Annotated[Path | None, typer.Option(help="A recording of speech.")] = None,
    sound: Annotated[Path | None, typer.Option(help="A recording of anything else.")] = None,
    voice: Annotated[str | None, typer.Option(help="Who speaks.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Part to be scored, given the others; needed with several parts.")
    ] = None,
    length_given: Annotated[bool, typer.Option("--length-given", help="Do not count the length.")] = False,
    draws: Annotated[int, typer.Option(help="Model evaluations an estimator: even, at least 4.")] = 32,
    model: ModelName = "nano",
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
) -> None:
    """Say how probable the model finds something.

    Prints an upper bound on -log p(target | other parts) in nats with its standard error, by two
    estimators of the same number, and for a text bits per byte.

    \b
    trimask score --text "a red circle above a blue square"
    trimask score --image x.png --text "a red circle" --target text
    trimask score --speech x.wav --text "seven" --target speech --draws 64
    """
    stated = {"text": text, "image": image, "speech": speech, "sound": sound, "voice": voice}
    parts = {k: v for k, v in stated.items() if v is not None}
    if draws < 4 or draws % 2:
        raise UsageError(f"--draws {draws}: give an even number of at least 4")
    if not parts:
        raise UsageError("nothing to score: give --text, --image, --speech or --sound")
    loaded = options.load(model, device, dtype)
    print(loaded.score(target=target, free=not length_given, draws=draws, seed=seed, **parts))
