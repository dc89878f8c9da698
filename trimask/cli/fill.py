"""`trimask fill`: complete the missing part of a text, a picture or a recording."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType, ModelName, Output, Seed, Watch
from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from trimask.hub.defaults import Overrides


@options.sampling
def fill(
    text: Annotated[str | None, typer.Option(help="Holes are [...] (any length), [3] or [___] (3 tokens).")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture; --box or --mask says what to fill.")] = None,
    speech: Annotated[Path | None, typer.Option(help="A recording of speech; --interval says what to fill.")] = None,
    sound: Annotated[Path | None, typer.Option(help="A recording of anything else.")] = None,
    voice: Annotated[str | None, typer.Option(help="Who speaks.")] = None,
    box: Annotated[str | None, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM in pixels.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A picture of the same size; its white part is filled.")] = None,
    interval: Annotated[str | None, typer.Option(help="START,END in seconds; an END after the end goes on.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="A kind to make from nothing: image, speech, ...")] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels of a missing image: 32 (which it is by default), or WIDTHxHEIGHT.")
    ] = None,
    seconds: Annotated[
        str | None,
        typer.Option(help="Length of missing speech, or of what replaces the interval; any: the model decides."),
    ] = None,
    output: Output = None,
    model: ModelName = "nano",
    seed: Seed = 0,
    watch: Watch = False,
    device: Device = "auto",
    dtype: DType = "auto",
    *,
    given: "Overrides",
) -> None:
    """Fill holes in a text, a picture or a recording.

    Parts without a hole are conditions. A text is printed. With one picture or recording, -o names
    its file; with several parts, -o is a folder and the files are named by kind. Outside the hole
    the tokens stay exactly as they are. A GIF of a picture, or an HTML page of anything, shows every step.

    \b
    trimask fill --text "a red [1] above a blue square"
    trimask fill --text "a [...] star" --image star.png
    trimask fill --image x.png --box 0,0,16,32 --text "a red circle" -o edited.png
    trimask fill --image x.png --mask mask.png -o edited.png
    trimask fill --speech x.wav --interval 0.4,0.9 --text "seven" -o edited.wav
    trimask fill --speech x.wav --interval 0.4,0.9 --seconds any --text "seventy" -o longer.wav
    trimask fill --text "seven" --missing image --missing speech -o out/
    """
    stated = {"text": text, "image": image, "speech": speech, "sound": sound, "voice": voice}
    parts = {k: v for k, v in stated.items() if v is not None}
    if not parts and not missing:
        raise UsageError("nothing to fill: give --text, --image, --speech or --sound, with a hole in one of them")
    if output is not None and output.suffix:
        options.check_output(output, (*(s for allowed in options.FILES.values() for s in allowed), ".html"))
    cut = options.numbers(box, 4, "--box") if box else None
    times = options.numbers(interval, 2, "--interval", float) if interval else None
    if size is not None and "image" not in (missing or ()):
        raise UsageError("--size is of an image that is made from nothing: --missing image")
    pixels = options.size(size or options.SIDE)
    replayed = output is not None and output.suffix.lower() in options.REPLAYS
    if replayed and output and output.suffix.lower() == ".gif" and not (box or mask or "image" in (missing or ())):
        raise UsageError(f"--output {output}: a GIF shows how a picture is filled; here none is: name an .html page")
    filled = [k for k, hole in _holes(text, box or mask, interval).items() if hole and k in parts] + [*(missing or ())]
    paths = {} if replayed else _files(filled, output)
    loaded = options.load(model, device, dtype)
    replay = options.replay(loaded) if watch or replayed else None
    with options.progress("filling", replay, watch) as on_step:
        made = loaded.fill(
            **parts,
            box=cut,
            mask=mask,
            interval=times,
            missing=missing or (),
            size=pixels,
            seconds=options.seconds(seconds),
            seed=seed,
            on_step=on_step,
            options=given,
        )
    if replay is not None and output is not None and replayed:
        options.write_replay(replay, output, text or "filled", [made[k] for k in ("speech", "sound") if k in made])
        return
    for kind, path in paths.items():
        options.write(kind, made[kind], path)


def _holes(text: str | None, image: object, sound: object) -> dict[str, bool]:
    """Kind -> whether a part of it has a hole."""
    from trimask.hub.holes import template

    held = bool(text and template(text).holes)
    return {"text": held, "image": bool(image), "speech": bool(sound), "sound": bool(sound)}


def _files(kinds: list[str], output: Path | None) -> dict[str, Path | None]:
    """Where each completed part goes; a text is printed unless a file or a folder is named."""
    if not kinds or any(kind not in options.FILES for kind in kinds):
        return {}  # filling says what is wrong
    if len(kinds) == 1:
        kind = kinds[0]
        default = None if kind == "text" else Path(f"out{options.DEFAULT_FILES[kind]}")
        options.check_output(output, options.FILES[kind])
        return {kind: output or default}
    folder = output or Path()
    if folder.suffix or folder.is_file():
        raise UsageError(f"--output {folder}: {' and '.join(kinds)} are made, so it is a folder: name one")
    return {k: None if k == "text" and output is None else folder / f"{k}{options.DEFAULT_FILES[k]}" for k in kinds}
