"""The recipe of the model that ships with the package: 4M parameters in the blocks, three modalities.

    python -m trimask.recipes.sets --data DATA --tokenizers tokenizers --out sets
    trimask train nano
    trimask train trimask.recipes.nano:finish

The first run learns to draw and to speak, the second goes on from its weights and spends more of its time on
what is left to learn: reading pictures and sounds, and whole sentences of speech. `docs/nano.md` says how long
they take and what comes out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz
from chz.blueprint import Reference

from trimask.data.stream import SourceConfig, StreamConfig
from trimask.data.tasks import Conditions
from trimask.recipes.samples import Samples
from trimask.train.config import Budget, Checkpoints, RowSettings, TrainConfig, Validation, vocabulary

SETS = Path("sets")
TOKENIZERS = Path("tokenizers")

SLOTS, TOKENS, ROWS = 256, 768, 16
ROPE_BASE = 100
"""Pictures are 8 codes wide and rows have 256 positions: no longer wavelengths are needed."""
WEIGHTS: Mapping[str, float] = {
    "scenes": 0.30,
    "fashion": 0.05,
    "digits": 0.05,
    "emoji": 0.01,
    "storybook": 0.01,
    "speech": 0.26,
    "spoken-scenes": 0.01,
    "spoken-digits": 0.05,
    "spoken-words": 0.01,
    "read-speech": 0.01,
    "orders": 0.01,
    "books": 0.07,
    "sentences": 0.07,
    "stories": 0.08,
    "world-text": 0.01,
}
"""Share of transformer positions of each set of `recipes.sets`."""

TASKS: Mapping[str, tuple[str, ...]] = {"spoken-scenes": ("any",)}
"""Sets that are not trained on the stream's own tasks: of a picture, its caption and its sound, any part is given."""

TASK_WEIGHTS: Mapping[str, float] = {
    "text": 1.0,
    "text>image": 6.0,
    "image>text": 1.5,
    "text>speech": 6.0,
    "speech>text": 3.0,
}
"""Drawing and speaking have many target tokens to learn, describing has few: with equal weights two thirds of the
positions of a captioned picture would be spent on tasks that hardly teach how to draw."""

ROW_SETTINGS: Mapping[str, RowSettings] = {
    "text": RowSettings(schedule="linear", buckets=(8, 16, 32, 64), pace=6),
    "image": RowSettings(schedule="cosine", elbo=False, patch=2),
    "audio": RowSettings(schedule="cosine", elbo=False, buckets=(32, 64, 96), stack=True),
}
"""How each modality is masked and weighed; `dev/LOG.md` has the comparisons behind it.

A token of text lasts about six frames of speech: with `pace` what is said and its words have like coordinates.
"""


def stream(
    folder: Path, names: Mapping[str, float], tasks: Mapping[str, float] = TASK_WEIGHTS, seed: int = 0
) -> StreamConfig:
    """A mixture of the prepared sets below `folder` in the given shares, their tasks drawn by weight."""
    sources = tuple(
        SourceConfig(path=str(folder / name), weight=weight, tasks=TASKS.get(name, ()))
        for name, weight in names.items()
    )
    return StreamConfig(sources=sources, tasks=tasks, rows=ROWS, slots=SLOTS, tokens=TOKENS, seed=seed)


def run(
    name: str,
    weights: Mapping[str, float],
    budget: Budget,
    sets: Path = SETS,
    tokenizers: Path = TOKENIZERS,
    tasks: Mapping[str, float] = TASK_WEIGHTS,
) -> "chz.Blueprint[TrainConfig]":
    """A run of nano's shape on the sets of `recipes.sets` named in `weights`."""
    folders = tuple(str(tokenizers / part) for part in ("text", "image", "audio"))
    # The headline is the bound under clean conditions; training mixes them.
    clean = Conditions(clean=1.0, joint=0.0, null=0.0)
    held_out = chz.replace(stream(sets / "validation", weights, tasks, seed=1), conditions=clean)
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
            "model.rope_base": ROPE_BASE,
            **spread("data", stream(sets / "train", weights, tasks)),
            **spread("validation", validation),
            **spread("budget", budget),
            "optimizer.rate": 2**-8,
            "optimizer.matrices": "muon",
            **spread("hooks.0", Samples(every=1000)),
            **spread("checkpoints", Checkpoints(every=1000)),
        }
    )


def spread(key: str, config: object) -> dict[str, Any]:
    """A configuration as one entry a field, so that each field can be overridden by itself."""
    fields = chz.beta_to_blueprint_values(config)
    return {key: type(config), **{f"{key}.{name}": value for name, value in fields.items()}}


def nano() -> "chz.Blueprint[TrainConfig]":
    """The shipped model: about two hours on two cores."""
    return run("runs/nano", WEIGHTS, Budget(minutes=110))


FINISH_WEIGHTS: Mapping[str, float] = {
    **{"scenes": 0.14, "fashion": 0.12, "digits": 0.10, "emoji": 0.005, "storybook": 0.005},
    **{"speech": 0.40, "spoken-scenes": 0.01, "spoken-digits": 0.05},
    **{"spoken-words": 0.005, "read-speech": 0.005, "orders": 0.005},
    **{"books": 0.05, "sentences": 0.05, "stories": 0.05, "world-text": 0.005},
}
FINISH_TASKS: Mapping[str, float] = {
    **{"text": 0.3, "text>image": 4.0, "image>text": 5.0, "text>speech": 6.0, "speech>text": 3.0}
}
GIVEN_WEIGHT = 10.0
"""A caption of a digit has four tokens of which one tells what is seen; its picture has 49."""


def finish() -> "chz.Blueprint[TrainConfig]":
    """What follows on `nano`: 80 minutes more on another mixture."""
    settings = {"model.vocabulary.rows.text.given_weight": GIVEN_WEIGHT, "optimizer.rate": 3e-3, "init": "runs/nano"}
    return run("runs/nano-finish", FINISH_WEIGHTS, Budget(minutes=80), tasks=FINISH_TASKS).apply(settings)
