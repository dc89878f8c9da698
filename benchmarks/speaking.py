r"""How far a few minutes of training bring a model that speaks: what a change of recipe is worth.

    python -m trimask.recipes.sets --world --tokenizers trimask/models/nano/tokenizers --out sets
    OMP_NUM_THREADS=1 python benchmarks/speaking.py runs/base model.width=192 model.depth=4 data.rows=8
    OMP_NUM_THREADS=1 python benchmarks/speaking.py runs/pace model.width=192 model.depth=4 data.rows=8 \
        model.vocabulary.rows.text.pace=1

Trains recipe `nano` on text>speech of the world alone, in bf16 and not compiled, so that two runs fit side
by side on two cores. Then, for validation clips: the bound (nats a token), the gap (how much worse the
bound gets with another clip's text: whether it is read at all), and how many words the recognizer hears
wrong in what is spoken, by what is said. One line of JSON.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import trimask
from trimask.core.config import configure
from trimask.core.item import Item
from trimask.data.world.source import World
from trimask.diffusion.bounds import by_count
from trimask.evaluation.recognizer import Recognizer
from trimask.evaluation.transcripts import word_errors
from trimask.hub.model import Model
from trimask.recipes import nano
from trimask.train.config import Budget
from trimask.train.loop import fit

DRAWS = 8
"""Model evaluations a clip and bound."""
NEVER = 1_000_000
SETTINGS = (
    "data.sources.0.tasks=text>speech",
    "compile=off",
    "dtype=bf16",
    f"validation.every={NEVER}",
    f"hooks.0.every={NEVER}",
)
SHIPPED = Path(trimask.__file__).parent / "models"


def bound(model: Model, items: list[Item]) -> np.ndarray:
    """Nats a token of each clip, given its text and voice."""
    return np.array([b.nats / b.tokens for b in model.bounds(items, "text>speech", by_count, DRAWS, seed=0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("settings", nargs="*", help="key=value, as for `trimask train`")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    parser.add_argument("--name", default="speech", help="which of the sets")
    parser.add_argument("--clips", type=int, default=64)
    asked = parser.parse_args()

    tokenizers = SHIPPED / "nano" / "tokenizers"
    recipe = nano.run(asked.run, {asked.name: 1.0}, Budget(minutes=asked.minutes), asked.sets, tokenizers)
    result = fit(configure(recipe, [*SETTINGS, *asked.settings], "recipe"))
    model = trimask.load(result.folder, dtype="bf16")
    print(json.dumps({"run": asked.run, "settings": asked.settings, "steps": result.step, "tokens": result.tokens}))
    print(json.dumps(graded(model, asked.clips)))


def graded(model: Model, clips: int) -> dict[str, float]:
    world = World(kind="speech", split="validation", count=clips)
    items = [world[i] for i in range(clips)]
    texts, voices = ([str(i.parts[part]) for i in items] for part in ("text", "voice"))
    other = [replace(i, parts={**i.parts, "text": t}) for i, t in zip(items, [*texts[1:], texts[0]], strict=True)]
    right, wrong = bound(model, items), bound(model, other)
    recognizer = Recognizer.load(SHIPPED / "judges" / "recognizer")
    spoken = model.speech(texts, voices, seed=0)
    heard = [recognizer.transcribe([clip])[0] if len(clip.samples) else "" for clip in spoken]
    figures = {"bound": right.mean(), "gap": (wrong - right).mean()}
    for content in ("number", "sentence", "caption"):
        which = [n for n, item in enumerate(items) if item.labels["content"] == content]
        wer = word_errors([texts[n] for n in which], [heard[n] for n in which])
        figures[f"words wrong, {content}s"] = wer.value
    return {k: round(float(v), 3) for k, v in figures.items()}


if __name__ == "__main__":
    main()
