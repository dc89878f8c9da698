"""`trimask caption`: describe pictures."""

from pathlib import Path
from typing import Annotated

import typer

from trimask.cli import options
from trimask.cli.options import (
    Device,
    DType,
    Guidance,
    ModelName,
    SamplerName,
    Seed,
    Steps,
    Temperature,
    TopK,
    TopP,
)


def caption(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: ModelName = "nano",
    side: Annotated[
        int | None,
        typer.Option(help="Resize the longest side to so many pixels, a multiple of 4; use the model's training size."),
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    sampler: SamplerName = None,
    device: Device = "auto",
    dtype: DType = "auto",
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
    given = options.sampling(steps, guidance, temperature, top_p, top_k, sampler)
    loaded = options.load(model, device, dtype)
    with options.progress("reading pictures") as on_step:
        texts = loaded.caption(list(files), side=side, seed=seed, on_step=on_step, **given)
    options.write_lines(files, texts)
