"""`trimask tune`: find out how a model is best sampled, and at what cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimask.cli import options
from trimask.cli.evaluate import facts, graders, sets_of
from trimask.cli.options import Device, DType
from trimask.core.errors import UsageError

if TYPE_CHECKING:
    from trimask.evaluation.sets import EvaluationSet

WORLD = (
    "world:scenes?split=validation",
    "world:speech?split=validation&limit=400",
    "world:text?split=validation&count=4000",
)
"""The validation part of the built-in world."""


def tune(
    model: Annotated[str, typer.Argument(help="Shipped model, bundle, checkpoint or run folder.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Sources as for `trimask evaluate`, and settings key=value.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of trials and report.")] = Path("tuned"),
    world: Annotated[bool, typer.Option("--world", help="Add the validation part of the built-in world.")] = False,
    judges: Annotated[Path | None, typer.Option(help="Folder of judges; by default those of the package.")] = None,
    label: Annotated[str, typer.Option(help="Field of the records that holds the class, for class judges.")] = "",
    items: Annotated[int, typer.Option(help="Records read of each source.", min=1)] = 1000,
    write: Annotated[bool, typer.Option(help="Write the presets into the model's sampling.json.")] = True,
    device: Device = "auto",
    dtype: DType = "auto",
) -> None:
    """Search sampling settings: order, steps, guidance, temperature and cache, by quality and cost.

    Tries settings on validation data, keeps every trial in OUT/trials.jsonl, draws the frontier of
    each task in OUT/report.html, and writes the presets fast, balanced and best, with what was
    measured of them, into the model's sampling.json; balanced is then used where nothing else is
    said. An interrupted search goes on with the same command.

    What can be tuned for: pictures that a checker or a judge grades, their captions, speech that a
    recognizer or a judge hears, transcripts, and texts. Of several sets the mean counts. Settings:
    trials, items (for a trial), sifted (tried again on four times the items), finalists, final
    (items that these are measured on), seed, fewer, loss, varied, only (names of tasks).

    \b
    trimask tune nano --world --no-write -o tuned/nano
    trimask tune runs/mine "photos:validation?image_size=32" trials=24 items=32
    trimask tune runs/mine --world only="text>image,text>speech"
    """
    import chz

    from trimask.core.config import configure, split_settings
    from trimask.evaluation.suite import SuiteConfig, own_judges, sections
    from trimask.hub.bundle import read_defaults, write_defaults
    from trimask.studies.presets import defaults_of
    from trimask.studies.tuning import TuneConfig
    from trimask.studies.tuning import tune as search

    sources, settings = split_settings(arguments or ())
    if not sources and not world:
        raise UsageError("say what to tune on: one or several sources, or --world")
    config = configure(chz.Blueprint(TuneConfig), settings, "tune")
    loaded = options.load(model, device, dtype)
    named = [*(WORLD if world else ()), *sources]
    known = graders(judges)
    sets = [_halved(s) for s in sets_of(named, items, label, loaded, known)]
    known = own_judges(sets, known, loaded.bundle.tokenizers, out / "judges")
    found = sections(sets, known, loaded.bundle.tokenizers, SuiteConfig())
    what = {"model": facts(loaded)["weights"], "sources": named, "records": items, "label": label}
    trials = search(loaded, found, out, config, {**what, "judges": known.fingerprints})
    folder = loaded.bundle.folder
    if write and folder is not None:
        # What has changed there meanwhile stays.
        write_defaults(folder, defaults_of(read_defaults(folder), trials, config.fewer, config.loss))
        options.note(f"written: {folder / 'sampling.json'}")


def _halved(one: "EvaluationSet") -> "EvaluationSet":
    """A set of classes without further real items: every second of its own says how varied those are."""
    from dataclasses import replace

    if one.validation or not one.train or one.kinds == {"text"}:
        return one
    return replace(one, items=one.items[::2], validation=one.items[1::2])
