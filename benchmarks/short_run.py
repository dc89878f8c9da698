"""What the comparisons of short trainings share: their command line, the training, the bound."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import trimask
from trimask.core.config import configure
from trimask.core.item import Item
from trimask.diffusion.bounds import by_count
from trimask.hub.model import Model
from trimask.recipes import nano
from trimask.train.config import Budget
from trimask.train.loop import fit

SHIPPED = Path(trimask.__file__).parent / "models"
DRAWS = 8
"""Model evaluations an item and bound."""
NEVER = 1_000_000
SETTINGS = ("compile=off", "dtype=bf16", f"validation.every={NEVER}", f"hooks.0.every={NEVER}")


def arguments(description: str, minutes: float, name: str) -> argparse.Namespace:
    """Options of the command line; `minutes` and `name` (which of the sets) are its defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("settings", nargs="*", help="key=value, as for `trimask train`")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    parser.add_argument("--name", default=name, help="which of the sets")
    parser.add_argument("--tokenizers", type=Path, default=SHIPPED / "nano" / "tokenizers")
    parser.add_argument("--items", type=int, default=64, help="items of a split that are graded")
    return parser.parse_args()


def trained(asked: argparse.Namespace, task: str) -> tuple[Model, Path]:
    """Train recipe `nano` on one task of one set; prints what ran. The model and its run folder."""
    recipe = nano.run(asked.run, {asked.name: 1.0}, Budget(minutes=asked.minutes), asked.sets, asked.tokenizers)
    result = fit(configure(recipe, [f"data.sources.0.tasks={task}", *SETTINGS, *asked.settings], "recipe"))
    print(json.dumps({"run": asked.run, "settings": asked.settings, "steps": result.step, "tokens": result.tokens}))
    return trimask.load(result.folder, dtype="bf16"), result.folder


def bounds(model: Model, items: Sequence[Item], task: str) -> tuple[np.ndarray, np.ndarray]:
    """Nats a token of each item's target, given its own text and given that of the next item."""
    texts = [i.parts["text"] for i in items]
    other = [replace(i, parts={**i.parts, "text": t}) for i, t in zip(items, [*texts[1:], texts[0]], strict=True)]
    own, swapped = ([b.nats / b.tokens for b in model.bounds(x, task, by_count, DRAWS, seed=0)] for x in (items, other))
    return np.array(own), np.array(swapped)
