"""`trimask evaluate`: a typed table and a report for a model."""

import shlex
import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimask.cli import options
from trimask.cli.options import Device, DType
from trimask.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from trimask.core.item import Item
    from trimask.data.shards import TokenItem
    from trimask.evaluation.sets import EvaluationSet
    from trimask.evaluation.suite import Judges
    from trimask.hub.model import Model

WORLD = (
    "world:scenes?split=test",
    "world:scenes?split=test-seen",
    "world:scenes?split=test-pairs",
    "world:speech?split=test&limit=400",
    "world:text?split=test&count=4000",
)
"""The test part of the built-in world."""
COMPARED = ("test-seen", "test-pairs")
"""Splits that the test split is compared with; their likelihood is not measured."""
TASKS = (
    *("text", "image", "speech", "sound"),
    *("text>image", "image>text", "text>speech", "speech>text", "text>sound", "sound>text"),
)
"""Tasks whose likelihood is measured where a set and the model allow it; those of one kind where a set has no other."""


def evaluate(
    model: Annotated[str, typer.Argument(help="Shipped model, bundle, checkpoint or run folder.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Sources as for `trimask prepare`, and settings key=value.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results; by default evaluation in the run folder.")
    ] = None,
    world: Annotated[bool, typer.Option("--world", help="Add the test part of the built-in world.")] = False,
    judges: Annotated[
        Path | None,
        typer.Option(help="Folder of judges (recognizer, speaker, one per set); by default those of the package."),
    ] = None,
    label: Annotated[str, typer.Option(help="Field of the records that holds the class, for class judges.")] = "",
    items: Annotated[int, typer.Option(help="Records read of each source.", min=1)] = 1000,
    device: Device = "auto",
    dtype: DType = "auto",
) -> None:
    """Measure a model on held-out data.

    Writes OUT/results.json, a typed table with standard errors, and OUT/report.html with curves,
    pictures, recordings and transcripts. An interrupted evaluation goes on with the same command.

    A source is named with its split, as in photos:test; its train split, where there is one, serves
    the baselines. What is measured follows from the kinds in a source, the model's modalities and
    the judges. Settings: drawings, captions, speech, texts, cloze, likelihood (how many of each, 0
    for all), draws, seed, only (names of sections, * for anything).

    \b
    trimask evaluate nano --world --out runs/nano-evaluation
    trimask evaluate runs/mine "photos:test?image_size=32" drawings=100 likelihood=50
    trimask evaluate runs/mine stories:validation "only=likelihood*"
    """
    import chz

    from trimask.core.config import configure, split_settings
    from trimask.evaluation.suite import SuiteConfig
    from trimask.evaluation.suite import evaluate as run

    sources, settings = split_settings(arguments or ())
    if not sources and not world:
        raise UsageError("say what to evaluate on: one or several sources, or --world")
    config = configure(chz.Blueprint(SuiteConfig), settings, "evaluation")
    loaded, known = options.load(model, device, dtype), graders(judges)
    sets = sets_of([*(WORLD if world else ()), *sources], items, label, loaded, known)
    training = _run_folder(loaded)
    run(
        loaded,
        sets,
        out or _default_out(loaded, training),
        known,
        loaded.bundle.tokenizers,
        config,
        {**facts(loaded), "sampling": _sampling(loaded)},
        training,
        shlex.join(["trimask", *sys.argv[1:]]),
    )


def graders(folder: Path | None) -> "Judges":
    """The judges of a folder, or those of the package."""
    from trimask.evaluation.suite import SHIPPED, Judges, load_judges

    if folder is not None and not folder.is_dir():
        raise DataError(f"--judges {folder}: no such folder")
    chosen = folder or (SHIPPED if SHIPPED.is_dir() else None)
    return load_judges(chosen) if chosen else Judges()


def sets_of(sources: Sequence[str], limit: int, label: str, model: "Model", judges: "Judges") -> "list[EvaluationSet]":
    """The sets of sources, each by a name of its own."""
    return _titled([_set(s, limit, label, model, judges.classes) for s in sources])


def _set(source: str, limit: int, label: str, model: "Model", judged: Container[str]) -> "EvaluationSet":
    import chz

    from trimask.data.readers.source import parse
    from trimask.evaluation.sets import EvaluationSet

    stated = parse(source)
    limited = chz.replace(stated, limit=min(limit, stated.limit or limit))
    found = _read(limited, model)
    common = set.intersection(*(set(i.parts) for i in found))
    labelled = label if all(label in i.labels for i in found) else ""
    classes = bool(labelled) or stated.name in judged
    train = _part(limited, "train", model) if classes or common == {"text"} else []
    validation = _part(limited, "validation", model) if classes and stated.split != "validation" else []
    tasks = () if stated.split in COMPARED else _tasks(dict.fromkeys(common), model)
    return EvaluationSet(stated.name, stated.split or "", found, train, validation, labelled, tasks)


def _titled(sets: "list[EvaluationSet]") -> "list[EvaluationSet]":
    """The sets, those of equal names called after their splits too."""
    names = Counter(s.name for s in sets)
    return [replace(s, title=f"{s.name}:{s.split}") if names[s.name] > 1 and s.split else s for s in sets]


def _read(source: Any, model: "Model") -> list[Any]:
    from trimask.core.errors import RecordError
    from trimask.core.item import Item
    from trimask.data.readers.detect import read
    from trimask.data.shards import TokenItem

    found = [_decoded(r, source, model) if isinstance(r, TokenItem) else r for r in read(source)]
    bad = [r for r in found if isinstance(r, RecordError)]
    if bad:
        options.note(f"{source}: {len(bad)} records cannot be read and are left out; the first: {bad[0]}")
    good = [r for r in found if isinstance(r, Item)]
    if not good:
        raise DataError(f"{source} has no records to evaluate on; look with `trimask inspect`")
    return good


def _decoded(row: "TokenItem", source: Any, model: "Model") -> "Item":
    """What the codes of a row that is tokenised already stand for, by the model's tokenizers."""
    from trimask.core.item import Item
    from trimask.data.chunks import misfit

    known = {k: v for k, v in row.parts.items() if k in model.vocabulary.kinds}
    for kind, codes in known.items():
        if reason := misfit(kind, codes, model.layout.tokenizer(kind).modality):
            raise DataError(f"{source}, {row.key}: {reason}; were these rows made by the model's tokenizers?")
    return Item(row.key, {k: model.layout.decode(k, [v])[0] for k, v in known.items()}, row.labels)


def _part(source: Any, split: str, model: "Model") -> list[Any]:
    """Another split of a source, for baselines and judges; none where there is no such split."""
    import chz

    if source.split in (None, split):
        return []
    try:
        return _read(chz.replace(source, split=split, limit=None), model)
    except DataError as e:
        options.note(f"no {split} part beside {source}: {e}")
        return []


def _tasks(parts: Mapping[str, Any], model: "Model") -> tuple[str, ...]:
    from trimask.data.tasks import VOICE, feasible

    known = {k: v for k, v in parts.items() if k in model.vocabulary.kinds}
    return tuple(t for t in feasible(TASKS, known) if ">" in t or set(known) - {VOICE} == {t})


def facts(model: "Model") -> dict[str, Any]:
    """What names the model in the table."""
    from trimask.hub import bundle

    folder = model.bundle.folder
    assert folder is not None
    return {"path": str(folder), "weights": bundle.read_config(folder)["files"][bundle.WEIGHTS]}


def _sampling(model: "Model") -> str:
    """A hash of the model's sampling defaults: with others its sections are run again."""
    import hashlib
    import json

    from trimask.hub.defaults import to_json

    return hashlib.sha256(json.dumps(to_json(model.bundle.defaults), sort_keys=True).encode()).hexdigest()


def _run_folder(model: "Model") -> Path | None:
    folder = model.bundle.folder
    if folder is None or len(folder.parents) < 2:
        return None
    run = folder.parents[1]
    return run if (run / "metrics.jsonl").is_file() else None


def _default_out(model: "Model", run: Path | None) -> Path:
    return (run or Path(f"{Path(str(model.bundle.folder)).name}-evaluation")) / ("evaluation" if run else "")
