"""`trimask generate`: a picture, speech or a text from a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType, ModelName, Output, Seed, Watch
from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from trimask.hub.defaults import Overrides

KINDS = ("image", "speech", "text")


@options.sampling
def generate(
    text: Annotated[str, typer.Argument(help="What to draw or to say; for text, how it begins ('' for no prompt).")],
    to: Annotated[str | None, typer.Option(help="image, speech or text; by default as --output is named.")] = None,
    output: Output = None,
    model: ModelName = "nano",
    n: Annotated[int, typer.Option("-n", help="Number of results; files are numbered.", min=1)] = 1,
    seed: Seed = 0,
    size: Annotated[
        str | None, typer.Option(help="Pixels of an image: 32 (which it is by default), or WIDTHxHEIGHT.")
    ] = None,
    voice: Annotated[str | None, typer.Option(help="Who speaks, by a name the model was trained with.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of the speech; by default the model decides.")] = None,
    negative: Annotated[str | None, typer.Option(help="A text that guidance pushes away from.")] = None,
    weaker: Annotated[str | None, typer.Option(help="A weaker model that guidance pushes away from instead.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of the text; by default the model decides.")] = None,
    watch: Watch = False,
    device: Device = "auto",
    dtype: DType = "auto",
    *,
    given: "Overrides",
) -> None:
    """Draw, speak or write.

    Prints the text, or the name of the file it wrote (out.png or out.wav by default). A GIF of a picture, or an HTML
    page of anything, shows every step.

    \b
    trimask generate "a red circle above two blue squares" --to image -o out.png
    trimask generate "a small green star" -n 4 --guidance 4 --seed 7 -o star.png
    trimask generate "a green star" --negative "a small star" --guidance 2 -o star.png
    trimask generate "seven" --to speech -o out.wav --voice "american woman"
    trimask generate "Once upon a time" --to text --temperature 0.8
    trimask generate "a red circle above two blue squares" --watch -o steps.gif
    trimask generate "two red moons" --to image --model runs/mine -o moons.png
    """
    kind = _kind(to, output)
    output = output or {"image": Path("out.png"), "speech": Path("out.wav"), "text": None}[kind]
    replayed = output is not None and output.suffix.lower() in options.REPLAYS
    options.check_output(output, (*options.FILES[kind], ".html"))
    if kind == "text" and negative is not None:
        raise UsageError("--negative is for pictures and speech: a text has no other text as its condition")
    options.belongs("image", kind, size=size)
    options.belongs("speech", kind, voice=voice, seconds=seconds)
    options.belongs("text", kind, length=length)
    pixels = options.size(size or options.SIDE)
    loaded = options.load(model, device, dtype, weaker)
    replay = options.replay(loaded) if watch or replayed else None
    with options.progress(f"making {kind}", replay, watch) as on_step:
        if kind == "image":
            made = loaded.image([text], n, negative=negative, size=pixels, seed=seed, on_step=on_step, **given)
        elif kind == "speech":
            speak = loaded.speech
            made = speak([text], voice, seconds, n, negative=negative, seed=seed, on_step=on_step, **given)
        else:
            made = loaded.text([text], n, length=length, seed=seed, on_step=on_step, **given)
    results = made if n == 1 else made[0]
    if output is not None and replay is not None and replayed:
        options.write_replay(replay, output, text, results if kind == "speech" else ())
        return
    for number, result in enumerate(results):
        options.write(kind, result, options.numbered(output, number, n))


def _kind(to: str | None, output: Path | None) -> str:
    if to is None:
        if output is None:
            raise UsageError("say what to make: --to image, --to speech or --to text, or -o with a file name")
        to = next((k for k in KINDS if output.suffix.lower() in options.FILES[k]), None)
        if to is None:
            endings = ", ".join(e for k in KINDS for e in options.FILES[k])
            raise UsageError(f"--output {output}: the name must end in one of {endings}; or say what to make with --to")
    if to not in KINDS:
        raise UsageError(f"--to {to}: choose one of {', '.join(KINDS)}")
    return to
