"""`trimask demo`: see what the shipped model makes, then train one from scratch and grade it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from trimask.hub.model import Model

DRAWN = (
    "a blue square below a yellow ring",
    "a large yellow heart",
    "three small green stars",
    "a black moon left of a pink ring",
)
SPOKEN = ("seven hundred and forty two", "two small red circles")
GRADED = ("drawings=100", "captions=50", "speech=60", "texts=20", "cloze=50", "likelihood=40", "draws=8")
"""Settings of the evaluation: small enough for a demo."""


def demo(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of everything; by default runs/demo, or runs/demo-scratch."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Training time of the model.")] = 13.0,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Train the tokenizers too, instead of using those of nano.")
    ] = False,
) -> None:
    """Generate with the shipped model, train one from scratch on the built-in world, and grade it.

    Takes about 18 minutes on two cores, and three quarters of an hour more where the tokenizers are trained
    too (--scratch). Interrupt it whenever you like: the same command goes on.

    \b
    OUT/nano/            what the shipped model makes
    OUT/model/           the run: curves, samples and checkpoints of the model trained here
    OUT/report.html      pictures, recordings and grades of that model
    """
    from rich.console import Console

    console = Console()
    out = out or Path("runs/demo-scratch" if scratch else "runs/demo")
    stages: list[tuple[str, Callable[[], Any]]] = [
        ("The shipped model", lambda: look(out / "nano", console)),
        ("Tokenizers", lambda: tokenizers(out, scratch, console)),
        ("Data: the built-in world", lambda: data(out, console)),
        (f"Training from scratch, {minutes:g} minutes", lambda: train(out, minutes)),
        ("Grading", lambda: grade(out)),
    ]
    for number, (title, work) in enumerate(stages, 1):
        console.rule(f"{number}/{len(stages)} {title}", align="left")
        work()
    console.print(f"Open {out / 'report.html'}; `trimask generate TEXT --model {out / 'model'}` uses the new model.")


def look(out: Path, console: "Console") -> None:
    """Pictures, speech and text of the shipped model; what is there already is kept."""
    if (out / "text.txt").is_file():
        console.print(f"{out}: kept")
        return
    import numpy as np
    import soundfile

    import trimask
    from trimask.core.files import replacing
    from trimask.recipes.samples import sheet

    model: Model = trimask.load("nano")
    console.print(repr(model), highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    sheet([np.asarray(p) for p in model.image(list(DRAWN))]).save(out / "pictures.png")
    for i, (samples, rate) in enumerate(model.speech(list(SPOKEN))):
        soundfile.write(out / f"speech-{i}.wav", samples, rate)
    # Last: it says that everything is there.
    with replacing(out / "text.txt") as temporary:
        temporary.write_text(model.text("Once upon a time") + "\n")
    console.print(f"{out}: pictures.png of {', '.join(DRAWN)}; recordings of {', '.join(SPOKEN)}; text.txt")


def tokenizers(out: Path, scratch: bool, console: "Console") -> None:
    """Those of nano, or new ones from the built-in world."""
    from trimask.cli import holders
    from trimask.tokenizers.artifact import load

    folder = out / "tokenizers"
    shipped, _ = holders.tokenizers("nano", ())
    there = {name: load(folder / name).fingerprint for name in shipped if (folder / name).exists()}
    if there and scratch == any(there[name] == shipped[name].fingerprint for name in there):
        raise UsageError(
            f"{out} is a demo {'without' if scratch else 'with'} --scratch; choose another folder with --out"
        )
    if scratch:
        from trimask.recipes.tokenizers import NanoTokenizers, nano_tokenizers

        nano_tokenizers(NanoTokenizers(out=str(folder)), console)
        return
    for name, tokenizer in shipped.items():
        if name not in there:
            tokenizer.save(folder / name)
    console.print(f"those of nano: {', '.join(shipped)}")


def data(out: Path, console: "Console") -> None:
    """Tokenised scenes, speech and text, for training and for validation."""
    from trimask.recipes import demo, sets
    from trimask.tokenizers.artifact import load

    loaded = {part: load(out / "tokenizers" / part) for part in ("text", "image", "audio")}
    for split in ("train", "validation"):
        sets.make(demo.sources(split), loaded, out / "sets" / split, console)


def train(out: Path, minutes: float) -> None:
    """The recipe `demo` with its folders below `out`."""
    from trimask import recipes
    from trimask.core.files import read_json
    from trimask.recipes.demo import WEIGHTS
    from trimask.train.loop import fit

    moved = [f"run={out / 'model'}", f"budget.minutes={minutes}"]
    begun = out / "model" / "config.json"
    if begun.is_file() and read_json(begun).get("budget.minutes") != minutes:
        # Another length is another run; the first is kept beside it.
        moved.append("on_existing=new")
    moved.append("tokenizers=" + ",".join(str(out / "tokenizers" / part) for part in ("text", "image", "audio")))
    for split, key in (("train", "data"), ("validation", "validation.data")):
        moved += [f"{key}.sources.{i}.path={out / 'sets' / split / name}" for i, name in enumerate(WEIGHTS)]
    result = fit(recipes.configure("demo", moved))
    if not result.complete:
        raise typer.Exit(result.exit_code)


def grade(out: Path) -> None:
    """`trimask evaluate` on held-out scenes, numbers and text, its report beside the run."""
    from trimask.cli.evaluate import evaluate
    from trimask.recipes.demo import TESTED

    evaluate(str(out / "model"), [*TESTED, *GRADED], out=out / "evaluation")
    (out / "report.html").write_bytes((out / "evaluation" / "report.html").read_bytes())
