"""`trimask caption`: describe pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType, ModelName, Seed

if TYPE_CHECKING:
    from trimask.hub.defaults import Overrides


@options.sampling
def caption(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: ModelName = "nano",
    side: Annotated[
        int | None,
        typer.Option(help="Resize the longest side to so many pixels, a multiple of 4; use the model's training size."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    *,
    given: "Overrides",
) -> None:
    """Describe pictures.

    Of several, each line starts with the file's name and a tab.

    \b
    trimask caption x.png
    trimask caption photo.jpg --side 32
    trimask caption *.png --temperature 0
    """
    from trimask.hub.media import existing

    files = [existing(i) for i in images]
    loaded = options.load(model, device, dtype)
    with options.progress("reading pictures") as on_step:
        texts = loaded.caption(list(files), side=side, seed=seed, on_step=on_step, **given)
    options.write_lines(files, texts)
