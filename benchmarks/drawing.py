"""How far a few minutes of training bring a model that draws scenes: what a change of recipe is worth.

    python -m trimask.recipes.sets --world --scale 0.5 --tokenizers trimask/models/nano/tokenizers --out sets
    OMP_NUM_THREADS=1 python benchmarks/drawing.py runs/base model.width=192 model.depth=4
    OMP_NUM_THREADS=1 python benchmarks/drawing.py runs/heads model.width=192 model.depth=4 model.head_dim=32

Trains recipe `nano` on text>image of scenes alone, in bf16 and not compiled, so that two runs fit side by
side on two cores. Then, for held-out scenes: the bound (nats a token), the gap (how much worse the bound
gets with another scene's caption: whether captions are read at all), and what the checker says of
pictures drawn from the captions, which are kept as RUN/SPLIT.png. Lines of JSON, one a split, to the end.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import trimask
from trimask.core.config import configure
from trimask.core.item import Item
from trimask.data.world.grade import grade
from trimask.data.world.source import World
from trimask.diffusion.bounds import by_count
from trimask.evaluation.image import scene_table
from trimask.hub.model import Model
from trimask.recipes import nano
from trimask.recipes.samples import sheet
from trimask.train.config import Budget
from trimask.train.loop import fit

DRAWS = 8
"""Model evaluations a scene and bound."""
NEVER = 1_000_000
SETTINGS = (
    "data.sources.0.tasks=text>image",
    "compile=off",
    "dtype=bf16",
    f"validation.every={NEVER}",
    f"hooks.0.every={NEVER}",
)
SHIPPED = Path(trimask.__file__).parent / "models" / "nano" / "tokenizers"


def bound(model: Model, items: list[Item]) -> np.ndarray:
    """Nats a token of each picture, given its caption."""
    return np.array([b.nats / b.tokens for b in model.bounds(items, "text>image", by_count, DRAWS, seed=0)])


def recaptioned(items: list[Item]) -> list[Item]:
    """Every scene with the caption of the next."""
    captions = [i.parts["text"] for i in [*items[1:], items[0]]]
    return [replace(i, parts={**i.parts, "text": c}) for i, c in zip(items, captions, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("settings", nargs="*", help="key=value, as for `trimask train`")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    parser.add_argument("--tokenizers", type=Path, default=SHIPPED)
    parser.add_argument("--scenes", type=int, default=64, help="scenes of each split")
    asked = parser.parse_args()

    recipe = nano.run(asked.run, {"scenes": 1.0}, Budget(minutes=asked.minutes), asked.sets, asked.tokenizers)
    result = fit(configure(recipe, [*SETTINGS, *asked.settings], "recipe"))
    model = trimask.load(result.folder, dtype="bf16")
    print(json.dumps({"run": asked.run, "settings": asked.settings, "steps": result.step, "tokens": result.tokens}))
    for split in ("test-seen", "test", "test-pairs"):
        print(json.dumps({"split": split} | graded(model, split, asked.scenes, result.folder / f"{split}.png")))


def graded(model: Model, split: str, scenes: int, picture: Path) -> dict[str, float]:
    """The figures of a split."""
    world = World(kind="scenes", split=split, count=scenes)  # pyright: ignore[reportArgumentType]
    items = [world[i] for i in range(scenes)]
    captions = [str(i.parts["text"]) for i in items]
    right, wrong = bound(model, items), bound(model, recaptioned(items))
    error = (wrong - right).std(ddof=1) / scenes**0.5
    drawn = model.images(captions, seed=0)
    sheet(drawn[:16], columns=8).save(picture)
    rows = scene_table([grade(image, caption) for image, caption in zip(drawn, captions, strict=True)], items)
    figures = {"bound": right.mean(), "gap": (wrong - right).mean(), "gap error": error}
    return {k: round(float(v), 3) for k, v in (figures | {row.metric: row.value for row in rows}).items()}


if __name__ == "__main__":
    main()
