"""How far a few minutes of training bring a model that draws scenes: what a change of recipe is worth.

    python -m trimask.recipes.sets --world --scale 0.5 --tokenizers trimask/models/nano/tokenizers --out sets
    OMP_NUM_THREADS=1 python benchmarks/drawing.py runs/base model.width=192 model.depth=4
    OMP_NUM_THREADS=1 python benchmarks/drawing.py runs/heads model.width=192 model.depth=4 model.head_dim=32

Trains recipe `nano` on text>image of scenes alone, in bf16 and not compiled, so that two runs fit side by
side on two cores. Then, for held-out scenes: the bound (nats a token), the gap (how much worse the bound
gets with another scene's caption: whether captions are read at all), and what the checker says of
pictures drawn from the captions, which are kept as RUN/SPLIT.png. Lines of JSON, one a split, to the end.
"""

import json
from pathlib import Path

from short_run import arguments, bounds, trained

from trimask.data.world.grade import grade
from trimask.data.world.source import World
from trimask.evaluation.image import scene_table
from trimask.hub.model import Model
from trimask.recipes.samples import sheet

TASK = "text>image"


def main() -> None:
    asked = arguments(__doc__ or "", minutes=4.0, name="scenes")
    model, folder = trained(asked, TASK)
    for split in ("test-seen", "test", "test-pairs"):
        print(json.dumps({"split": split} | graded(model, split, asked.items, folder / f"{split}.png")))


def graded(model: Model, split: str, scenes: int, picture: Path) -> dict[str, float]:
    """The figures of a split."""
    world = World(kind="scenes", split=split, count=scenes)  # pyright: ignore[reportArgumentType]
    items = [world[i] for i in range(scenes)]
    captions = [str(i.parts["text"]) for i in items]
    right, wrong = bounds(model, items, TASK)
    error = (wrong - right).std(ddof=1) / scenes**0.5
    drawn = model.images(captions, seed=0)
    sheet(drawn[:16], columns=8).save(picture)
    rows = scene_table([grade(image, caption) for image, caption in zip(drawn, captions, strict=True)], items)
    figures = {"bound": right.mean(), "gap": (wrong - right).mean(), "gap error": error}
    return {k: round(float(v), 3) for k, v in (figures | {row.metric: row.value for row in rows}).items()}


if __name__ == "__main__":
    main()
