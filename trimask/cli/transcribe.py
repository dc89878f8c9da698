"""`trimask transcribe`: write down what recordings say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType, ModelName, Seed

if TYPE_CHECKING:
    from trimask.hub.defaults import Overrides


@options.sampling
def transcribe(
    recordings: Annotated[list[Path], typer.Argument(help="Audio files (wav, flac, ogg, mp3), any rate.")],
    model: ModelName = "nano",
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    *,
    given: "Overrides",
) -> None:
    """Write down what recordings say.

    Of several, each line starts with the file's name and a tab.

    \b
    trimask transcribe x.wav
    trimask transcribe a.flac b.ogg --model runs/mine
    """
    from trimask.hub.media import existing

    files = [existing(r) for r in recordings]
    loaded = options.load(model, device, dtype)
    with options.progress("listening") as on_step:
        texts = loaded.transcribe(list(files), seed=seed, on_step=on_step, **given)
    options.write_lines(files, texts)
