"""Options that several commands share, and what they do with them."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from trimask.hub.model import Model
    from trimask.hub.replay import Replay

SIDE = "32"
"""Pixels of an image, unless said."""
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
AUDIO_FILES = (".wav", ".flac", ".ogg")
TEXT_FILES = (".txt",)
REPLAYS = (".gif", ".html")
"""Endings of files that show every step."""

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Shipped model, or path of a bundle, a checkpoint or a run folder.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
DType = Annotated[str, typer.Option(help="Type of computing: auto, fp32 or bf16.")]
Watch = Annotated[bool, typer.Option("--watch", help="Draw every step in the terminal.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]


_SAMPLING: Mapping[str, tuple[type, str]] = {
    "preset": (str, "fast, balanced or best, where `trimask tune` has found them; what follows changes it."),
    "steps": (int, "Model evaluations; the most, of samplers that decide how many."),
    "guidance": (str, "w in (1+w)·conditional - w·null; 1:3 rises over the steps, 3@0.2-0.8 is 0 outside of a part."),
    "temperature": (str, "Of tokens; 0 takes the most probable, 1:0.2 falls over the steps."),
    "top_p": (float, "Draw from the most probable ids of this mass."),
    "top_k": (int, "Draw from so many most probable ids; 0: all."),
    "min_p": (float, "Draw from ids at least this share as probable as the likeliest."),
    "repetition": (float, "Divide the probability of ids that the row holds already by this."),
    "sampler": (
        str,
        "ancestral, blockwise, confidence, entropy-bounded, first-hitting, level-ordered, planning, random-order, "
        "remasking or threshold; with settings as threshold:probability=0.8.",
    ),
    "cache": (
        str,
        "What a step computes anew besides what it scores: changed, block, suffix or target, with settings as "
        "changed:every=8; none: everything.",
    ),
}
"""Option of sampling -> its type and what it does."""


def sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `given: Overrides` the options of sampling; it receives those that were stated."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        stated = {name: arguments.pop(name) for name in _SAMPLING}
        command(**arguments, given={k: v for k, v in stated.items() if v is not None})

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(kind, does))
        for name, (kind, does) in _SAMPLING.items()
    ]
    run.__signature__ = inspect.Signature([*own, *added])  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run


def _option(kind: type, does: str) -> Any:
    panel = "Sampling (defaults come from the model)"
    return Annotated[kind | None, typer.Option(help=does, rich_help_panel=panel)]


def load(name: str, device: str, dtype: str, weaker: str | None = None) -> "Model":
    """The model of `--model`, guided away from that of `--weaker`."""
    from trimask.hub.model import load

    return load(name, device, dtype, weaker)


def replay(model: "Model") -> "Replay":
    """What collects the steps of sampling, to be drawn."""
    from trimask.hub.replay import Replay

    return Replay(model.layout)


@contextmanager
def progress(title: str, replay: "Replay | None" = None, watch: bool = False) -> Iterator[Callable[[Any], None]]:
    """A callback for sampling steps: a bar on a terminal (on stderr), nothing elsewhere; or every step drawn there."""
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress

    console = Console(stderr=True)
    if replay is not None and watch:
        with Live(console=console, auto_refresh=False) as live:

            def draw(state: Any) -> None:
                replay(state)
                live.update(replay.terminal(), refresh=True)

            yield draw
        return
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def count(state: Any) -> None:
            bar.update(task, completed=state.step, total=state.steps)
            if replay is not None:
                replay(state)

        yield count


def numbers(text: str, count: int, option: str, of: type = int) -> tuple[Any, ...]:
    """ "8,8,24,24" -> (8, 8, 24, 24)."""
    parts = text.replace("x", ",").split(",")
    try:
        values = tuple(of(p) for p in parts)
    except ValueError:
        values = ()
    if len(values) != count:
        raise UsageError(f"{option} {text!r}: write {count} numbers with commas between them")
    return values


def size(text: str) -> tuple[int, int]:
    """ "32" -> (32, 32); "32x48" is width x height."""
    sides = numbers(text if "x" in text or "," in text else f"{text},{text}", 2, "--size")
    if min(sides) < 1:
        raise UsageError(f"--size {text!r}: a picture has at least one pixel a side")
    return sides


def seconds(text: str | None) -> float | str | None:
    """ "0.8" -> 0.8; "any" stays."""
    if text is None or text == "any":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--seconds {text!r}: write a number, or any to leave it to the model") from None


def check_output(path: Path | None, allowed: tuple[str, ...]) -> None:
    """Refuse an output file of the wrong kind, or one that cannot be there, before any work is done."""
    if path is None:
        return
    if path.suffix.lower() not in allowed:
        raise UsageError(f"--output {path}: the name must end in {', '.join(dict.fromkeys(allowed))}")
    above = next((p for p in path.parents if p.exists()), path.parent)
    if path.is_dir() or not above.is_dir():
        what = f"{path} is a folder" if path.is_dir() else f"{above} is no folder"
        raise UsageError(f"--output {path}: {what}; name a file that can be written")


def belongs(kind: str, made: str, **stated: object) -> None:
    """Raises `UsageError` where an option that only `kind` has was stated for another one."""
    if made != kind and (given := [name for name, value in stated.items() if value is not None]):
        raise UsageError(f"--{given[0]} is for {kind}; this makes {made}")


def write(kind: str, value: Any, path: Path | None) -> None:
    """Write a result atomically and print its path; a text without a path is printed."""
    from trimask.core.files import replacing

    if path is None:
        print(value)
        return
    with replacing(path) as temporary:
        WRITERS[kind](value, temporary)
    print(path)


def write_replay(replay: "Replay", path: Path, title: str, sounds: Sequence[Any]) -> None:
    """Write the steps of all rows as a page, or of each picture as a GIF; print the paths."""
    import io

    import soundfile

    if path.suffix.lower() == ".html":
        files = [io.BytesIO() for _ in sounds]
        for file, (samples, rate) in zip(files, sounds, strict=True):
            soundfile.write(file, samples, rate, format="WAV")
        replay.page(path, title or "from nothing", [f.getvalue() for f in files])
        print(path)
        return
    for row in range(len(replay.rows)):
        own = numbered(path, row, len(replay.rows))
        assert own is not None
        replay.gif(row, own)
        print(own)


def numbered(path: Path | None, number: int, count: int) -> Path | None:
    """out.png -> out-0.png where there are several results."""
    return path if path is None or count == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write_text(value: str, path: Path) -> None:
    path.write_text(value + "\n", encoding="utf-8")


def _write_image(value: Any, path: Path) -> None:
    value.save(path)


def _write_audio(value: Any, path: Path) -> None:
    import soundfile

    soundfile.write(path, value[0], value[1])


WRITERS: Mapping[str, Callable[[Any, Path], None]] = {
    "text": _write_text,
    "image": _write_image,
    "speech": _write_audio,
    "sound": _write_audio,
}
FILES: Mapping[str, tuple[str, ...]] = {
    "text": TEXT_FILES,
    "image": IMAGE_FILES,
    "speech": AUDIO_FILES,
    "sound": AUDIO_FILES,
}
"""Kind -> endings of the files it is written to."""
DEFAULT_FILES: Mapping[str, str] = {kind: endings[0] for kind, endings in FILES.items()}


def modality(kind: str) -> str:
    """The modality of a kind of segment."""
    from trimask.core.modality import KINDS

    return KINDS[kind]


def note(message: str) -> None:
    """A remark for people, beside the result."""
    print(message, file=sys.stderr)


def write_lines(files: Sequence[Path], texts: Sequence[str]) -> None:
    """One text for one file; a table of file and text for several."""
    if len(files) == 1:
        print(texts[0])
        return
    for path, text in zip(files, texts, strict=True):
        print(f"{path}\t{text}")
