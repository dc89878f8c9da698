"""`trimask world`: a few items of the built-in world, as files to look at and listen to."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trimask.cli import options
from trimask.core.errors import UsageError

DESCRIPTION = "metadata.jsonl"


def world(
    out: Annotated[Path, typer.Argument(help="Folder to write to; it must not exist or be empty.")],
    kind: Annotated[str, typer.Option(help="scenes, speech, spoken-scenes or text.")] = "scenes",
    count: Annotated[int, typer.Option(help="Number of items.", min=1)] = 12,
    split: Annotated[str, typer.Option(help="train, validation, test, test-seen or test-pairs.")] = "train",
    seed: Annotated[int, typer.Option(help="Same seed, same items.")] = 0,
) -> None:
    """Write items of the built-in world to look at.

    Pictures, recordings, and metadata.jsonl, which describes them: the folder is a source for `trimask
    inspect` and `trimask prepare`. Speech needs espeak-ng: pip install 'trimask[world]'.

    \b
    trimask world look/
    trimask world listen/ --kind speech --count 5 --seed 3
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; name another one")
    from trimask.core.files import replacing
    from trimask.data.world.source import World

    items = World(kind=kind, split=split, count=count, seed=seed)  # pyright: ignore[reportArgumentType]
    with replacing(out) as folder:
        folder.mkdir()
        lines = [json.dumps(_written(items[i].parts, folder, i), ensure_ascii=False) for i in range(count)]
        (folder / DESCRIPTION).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(out / DESCRIPTION)


def _written(parts: Any, folder: Path, number: int) -> dict[str, str]:
    """The item's line: texts as they are, the names of the files of its other parts."""
    from trimask.hub.media import SHOW

    line = {}
    for kind, raw in parts.items():
        if isinstance(raw, str):
            line[kind] = raw
            continue
        name = f"{number:04d}{options.DEFAULT_FILES[kind]}"
        options.WRITERS[kind](SHOW[options.modality(kind)](raw), folder / name)
        line[kind] = name
    return line
