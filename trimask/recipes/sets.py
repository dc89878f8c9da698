"""The prepared sets that the recipes train on: which sources, read how.

    python -m trimask.recipes.sets --data DATA --tokenizers TOKENIZERS --out sets

makes every set of `nano` below `sets/`; `--world` makes those of the built-in world alone. The same
command goes on after an interruption and does nothing where a set is up to date.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trimask.data.prepare import Prepared, prepare
from trimask.tokenizers.artifact import load
from trimask.tokenizers.contract import Tokenizer

WHERE: Mapping[str, str] = {"spoken-words": "licence:CC BY-SA*"}
"""Public set -> the records that weights we ship may be trained on; the rest of this one is under the GPL."""
LOUDNESS = "loudness=-23"
"""Recordings of one set differ much in level; this is EBU R 128's target, taken as RMS."""


def world(scale: float = 1.0, split: str = "train") -> dict[str, tuple[str, ...]]:
    """Sets of the built-in world; `scale` multiplies their size."""

    def of(kind: str, count: int) -> str:
        return f"world:{kind}?count={max(1, round(scale * count))}&split={split}"

    return {
        "scenes": (of("scenes", 60_000),),
        "speech": (of("speech", 40_000),),
        "spoken-scenes": (of("spoken-scenes", 3_000),),
        "world-text": (of("text", 6_000),),
    }


def public(data: Path | str, split: str = "train") -> dict[str, tuple[str, ...]]:
    """Sets of the thirteen public data sets below `data`, without those that nano keeps for tests.

    Left out: `stamps`, and the recordings of `spoken-words` that are under the GPL.
    """
    root = Path(data)
    clean = f"where={WHERE['spoken-words']}"
    return {
        "books": (f"{root / 'classic-books'}:{split}",),
        "sentences": (f"{root / 'tatoeba-en'}:{split}",),
        "stories": (f"{root / 'stories'}:{split}", f"{root / 'wikitext-2'}:{split}"),
        "fashion": (f"{root / 'fashion-mnist'}:{split}",),
        "digits": (f"{root / 'mnist'}:{split}",),
        "emoji": (f"{root / 'emoji'}:{split}?image_size=32",),
        "storybook": (f"{root / 'storybook'}:{split}?image_size=32",),
        "spoken-digits": (f"{root / 'fsdd'}:{split}?{LOUDNESS}",),
        "spoken-words": (f"{root / 'spoken-words'}:{split}?{clean}&{LOUDNESS}",),
        "read-speech": (f"{root / 'read-speech'}:{split}?{LOUDNESS}",),
        "orders": (f"{root / 'spoken-orders'}:{split}?{LOUDNESS}",),
    }


def make(
    sets: Mapping[str, Sequence[str]], tokenizers: Mapping[str, Tokenizer], out: Path, console: Console | None = None
) -> dict[str, Prepared]:
    """Prepare each set below `out`. Finished sets are kept."""
    console = console or Console()
    made = {}
    for name, sources in sets.items():
        made[name] = prepare(list(sources), tokenizers, out / name, console=console)
        console.print("\n".join(made[name].lines()), highlight=False, markup=False)
    return made


def main(
    tokenizers: Annotated[Path, typer.Option(help="Folder with text/, image/ and audio/.")],
    out: Annotated[Path, typer.Option(help="Folder that gets a prepared set each.")] = Path("sets"),
    data: Annotated[Path | None, typer.Option(help="Folder of the public sets.")] = None,
    only_world: Annotated[bool, typer.Option("--world", help="The built-in world alone.")] = False,
    scale: Annotated[float, typer.Option(help="Size of the world's sets, relative to nano's.")] = 1.0,
) -> None:
    """Prepare the sets that the recipes train on, and their validation parts."""
    if data is None and not only_world:
        raise typer.BadParameter("name the folder of the public sets with --data, or ask for --world")
    loaded = {part: load(tokenizers / part) for part in ("text", "image", "audio")}
    train = {**world(scale), **({} if data is None else public(data))}
    held_out = {**world(scale / 60, "validation"), **({} if data is None else public(data, "validation"))}
    make(train, loaded, out / "train")
    make(held_out, loaded, out / "validation")


if __name__ == "__main__":
    typer.run(main)
