"""The recipe of the model that ships with the package: 4M parameters in the blocks, three modalities.

    python -m trimask.recipes.sets --data DATA --tokenizers trimask/models/nano/tokenizers --out sets
    trimask train nano
    trimask train trimask.recipes.nano:second

`docs/nano.md` says how long it takes and what comes out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz
from chz.blueprint import Reference

from trimask.data.stream import SourceConfig, StreamConfig
from trimask.data.tasks import Conditions
from trimask.hub.bundle import MODELS
from trimask.recipes.families import LAB, Family, spread
from trimask.recipes.samples import Samples
from trimask.train.config import Budget, Checkpoints, RowSettings, TrainConfig, Validation, vocabulary

SETS = Path("sets")
TOKENIZERS = MODELS / "nano" / "tokenizers"
"""Those that ship."""

SLOTS, TOKENS, ROWS = 256, 768, 16
ROPE_BASE = 100
"""Pictures are 8 codes wide and rows have 256 positions: no longer wavelengths are needed."""
WEIGHTS: Mapping[str, float] = {
    "scenes": 0.28,
    "fashion": 0.10,
    "digits": 0.09,
    "emoji": 0.005,
    "storybook": 0.005,
    "speech": 0.26,
    "spoken-scenes": 0.01,
    "spoken-digits": 0.05,
    "spoken-words": 0.005,
    "read-speech": 0.005,
    "orders": 0.005,
    "books": 0.055,
    "sentences": 0.055,
    "stories": 0.055,
    "world-text": 0.01,
}
"""Share of transformer positions of each set of `recipes.sets`."""

TASKS: Mapping[str, tuple[str, ...]] = {"spoken-scenes": ("any",)}
"""Sets that are not trained on the stream's own tasks: of a picture, its caption and its sound, any part is given."""

TASK_WEIGHTS: Mapping[str, float] = {
    "text": 0.4,
    "text>image": 5.5,
    "image>text": 3.5,
    "text>speech": 5.5,
    "speech>text": 3.0,
}
"""Of a captioned picture and of a recording; sets of text alone have one task. Drawing and speaking have many target
tokens to learn, describing has few."""

SECOND: Mapping[str, float] = {
    **WEIGHTS,
    **{"scenes": 0.29, "fashion": 0.20, "digits": 0.05, "speech": 0.25, "spoken-digits": 0.02},
    **{"books": 0.04, "sentences": 0.05, "stories": 0.06, "world-text": 0.005},
}
"""Shares of the second run: more of what the first is weakest at, captions of clothes above all."""
SECOND_TASKS: Mapping[str, float] = {**TASK_WEIGHTS, "text>image": 4.5, "image>text": 4.5, "text>speech": 6.0}

ROW_SETTINGS: Mapping[str, RowSettings] = {
    "text": RowSettings(schedule="linear", buckets=(8, 16, 32, 64), pace=6, timed=True, given_weight=6.0),
    "image": RowSettings(schedule="cosine", elbo=False, patch=2),
    "audio": RowSettings(schedule="cosine", elbo=False, buckets=(32, 64, 96), stack=True),
}
"""How each modality is masked and weighed; `dev/LOG.md` has the comparisons behind it.

A token of text lasts about six frames of speech (`pace`), each its own time (`timed`): what is said and its words have
like coordinates. A caption of a digit has four tokens, of which one tells what is seen, and its picture 49: hence
`given_weight`.
"""


def stream(
    folder: Path,
    names: Mapping[str, float],
    tasks: Mapping[str, float] = TASK_WEIGHTS,
    seed: int = 0,
    only: Mapping[str, tuple[str, ...]] = TASKS,
) -> StreamConfig:
    """A mixture of the prepared sets below `folder` in the given shares, their tasks drawn by weight.

    Sets in `only` are trained on these tasks alone.
    """
    sources = tuple(
        SourceConfig(path=str(folder / name), weight=weight, tasks=only.get(name, ())) for name, weight in names.items()
    )
    return StreamConfig(sources=sources, tasks=tasks, rows=ROWS, slots=SLOTS, tokens=TOKENS, seed=seed)


def run(
    name: str,
    weights: Mapping[str, float],
    budget: Budget,
    sets: Path = SETS,
    tokenizers: Path = TOKENIZERS,
    tasks: Mapping[str, float] = TASK_WEIGHTS,
    samples: bool = True,
    family: Family = LAB,
    only: Mapping[str, tuple[str, ...]] = TASKS,
) -> "chz.Blueprint[TrainConfig]":
    """A run on the sets of `recipes.sets` named in `weights`, with a family's settings and rows like nano's."""
    folders = tuple(str(tokenizers / part) for part in ("text", "image", "audio"))
    # The headline is the bound under clean conditions; training mixes them.
    clean = Conditions(clean=1.0, joint=0.0, null=0.0, unnamed=0.0)
    held_out = chz.replace(stream(sets / "validation", weights, tasks, 1, only), conditions=clean)
    validation = Validation(data=held_out, batches=6, every=1000)
    rows: dict[str, Any] = {}
    for modality, settings in ROW_SETTINGS.items():
        rows |= spread(f"model.vocabulary.rows.{modality}", settings)
    return chz.Blueprint(TrainConfig).apply(
        {
            "run": name,
            "tokenizers": folders,
            "model.vocabulary": vocabulary,
            "model.vocabulary.tokenizers": Reference("tokenizers"),
            **rows,
            **family.settings(),
            "model.rope_base": ROPE_BASE,
            **spread("data", stream(sets / "train", weights, tasks, only=only)),
            **spread("validation", validation),
            **spread("budget", budget),
            **(spread("hooks.0", Samples(every=1000)) if samples else {}),
            **spread("checkpoints", Checkpoints(every=1000)),
        }
    )


def nano() -> "chz.Blueprint[TrainConfig]":
    """The first run of the shipped model: two hours on two cores."""
    return run("runs/nano", WEIGHTS, Budget(minutes=115))


def second() -> "chz.Blueprint[TrainConfig]":
    """An hour more from the weights of `nano`, with half its rate and draws of its own."""
    base = run("runs/nano-second", SECOND, Budget(minutes=60), tasks=SECOND_TASKS)
    return base.apply({"init": "runs/nano", "data.seed": 2, "optimizer.rate": LAB.optimizer.rate / 2})
