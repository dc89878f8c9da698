"""Configuration of a run: everything that decides the weights, and how the run is watched and kept."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import chz

from trimask.core.config import POSITIVE, SHARE, check, to_json
from trimask.core.errors import UsageError
from trimask.core.modality import KINDS, Positions, Vocabulary
from trimask.core.units import count
from trimask.data.stream import StreamConfig, modality_table
from trimask.model.config import ModelConfig
from trimask.optim.optimizer import OptimizerConfig
from trimask.optim.schedules import Cosine, Schedule
from trimask.optim.sde import BasePoint
from trimask.tokenizers import artifact
from trimask.train.hooks import Hook

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["auto", "fp32", "bf16"]


def _count(text: str) -> int | None:
    """A count as people write it, or None."""
    try:
        return None if text == "None" else count(text)
    except UsageError as e:
        raise UsageError(f"budget.tokens and budget.steps are counts: {e}") from None


@chz.chz
class Budget:
    """When a run ends: after `tokens`, `steps` or `minutes`. Exactly one of them is given."""

    tokens: int | None = chz.field(default=None, blueprint_cast=_count, doc="processed tokens, for example 30M")
    steps: int | None = chz.field(default=None, blueprint_cast=_count)
    minutes: float | None = chz.field(default=None, doc="wall clock of the loop; depends on the machine")

    @chz.validate
    def _check(self):
        given = {k: v for k, v in chz.asdict(self).items() if v is not None}
        if len(given) != 1 or not 0 < min(given.values()) < math.inf:
            found = ", ".join(f"budget.{k}={v}" for k, v in given.items()) or "none of them"
            raise UsageError(
                f"a run needs one of budget.tokens, budget.steps and budget.minutes, positive; found {found}. "
                "Take one back with, for example, budget.tokens=None"
            )

    def progress(self, tokens: float, steps: float, seconds: float) -> float:
        """Share of the budget that is spent; 1 or more at the end."""
        if self.tokens is not None:
            return tokens / self.tokens
        return steps / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 0))

    def positions(self, per_step: int) -> int | None:
        """Transformer positions of the whole run; None where the machine's speed decides it."""
        # A processed token takes at most one position, and rows are nearly full.
        return self.steps * per_step if self.steps is not None else self.tokens


@chz.chz
class PhysicalBatch:
    """What one step of the optimizer takes. How it is split into passes and over devices changes nothing else."""

    rows: int | None = chz.field(default=None, doc="rows of a step, in passes of data.rows; by default one pass")
    kappa: float | None = chz.field(default=None, doc="kappa by hand, instead of m_B m_D^-gamma of the base point")

    @chz.validate
    def _check(self):
        check(self, "batch", POSITIVE, "rows", "kappa")


@chz.chz
class Devices:
    """How a run uses several devices (`torchrun ... -m trimask train`). Nothing of it changes the weights."""

    shards: int | None = chz.field(
        default=None, doc="devices that share one copy of the state; 1: each has its own; None: all share one"
    )
    timeout: float = chz.field(
        default=10.0, doc="minutes to wait for another process before the run fails; more than a hook takes"
    )

    @chz.validate
    def _check(self):
        check(self, "devices", POSITIVE, "shards", "timeout")


@chz.chz
class Validation:
    """Bounds on held-out data, always on the same batches with the same masks."""

    data: StreamConfig
    batches: int = chz.field(default=8, doc="batches of the stream that are scored each time")
    every: int = chz.field(default=500, doc="steps between two validations; one more at the end")

    @chz.validate
    def _check(self):
        if self.batches < 1 or self.every < 1:
            raise UsageError("validation: batches and every must be positive")
        if self.data.anti_masking:
            raise UsageError("validation.data.anti_masking must be off: the bound is that of single masks")


@chz.chz
class Checkpoints:
    """When the state is saved and what is kept. A save does not change the weights."""

    every: int = chz.field(default=500, doc="steps between two checkpoints")
    minutes: float = chz.field(default=5.0, doc="save at the latest after this time")
    keep: int = chz.field(default=2, doc="number of newest checkpoints that are kept")
    keep_steps: tuple[int, ...] = chz.field(default=(), doc="steps whose checkpoints are saved and kept for good")

    @chz.validate
    def _check(self):
        if self.every < 1 or self.keep < 1 or self.minutes <= 0:
            raise UsageError("checkpoints: every, keep and minutes must be positive")


@chz.chz
class TrainConfig:
    """A complete run."""

    run: str = chz.field(doc="run folder")
    model: ModelConfig
    data: StreamConfig
    budget: Budget
    tokenizers: tuple[str, ...] = chz.field(default=(), doc="folders of the tokenizers that made the data")
    batch: PhysicalBatch = chz.field(default_factory=PhysicalBatch)
    optimizer: OptimizerConfig = chz.field(default_factory=OptimizerConfig)
    bases: tuple[BasePoint, ...] = chz.field(
        default=(), doc="where the settings were tuned, one for each schedule; empty: they are used as they stand"
    )
    schedule: Schedule = chz.field(
        default_factory=Cosine, meta_factory=chz.factories.subclass(Schedule, default_cls=Cosine)
    )
    ema: float = chz.field(default=0.0, doc="decay of the average of weights; 0 for none")
    seed: int = chz.field(default=0, doc="seed of the initial weights; the data has its own")
    init: str | None = chz.field(default=None, doc="bundle, checkpoint or run whose weights to start from")
    validation: Validation | None = None
    hooks: tuple[Hook, ...] = chz.field(default=(), doc="what else to do every so many steps, for example samples")
    checkpoints: Checkpoints = chz.field(default_factory=Checkpoints)
    log_every: int = chz.field(default=10, doc="steps per row of metrics.jsonl")
    device: Device = "auto"
    devices: Devices = chz.field(default_factory=Devices)
    dtype: DType = chz.field(default="auto", doc="compute type; auto measures which is faster")
    compile: Literal["auto", "on", "off"] = chz.field(default="auto", doc="torch.compile for the blocks")
    on_existing: Literal["resume", "new", "fail"] = chz.field(
        default="resume", doc="what to do with a run folder that exists; new moves it aside"
    )

    @chz.validate
    def _check(self):
        check(self, "", POSITIVE, "log_every")
        check(self, "", SHARE, "ema")
        if self.rows < 1 or self.rows % self.data.rows:
            raise UsageError(
                f"batch.rows={self.rows} is not a multiple of data.rows={self.data.rows}, the rows of one pass; "
                "change one of them"
            )
        if self.bases and self.base is None and self.batch.kappa is None:
            raise UsageError(
                f"no base point is stored for the schedule {type(self.schedule).__name__}; there are: "
                f"{', '.join(b.schedule for b in self.bases)}. Use one of these, measure another (`trimask study`) and "
                "add it to the recipe's bases, or write batch.kappa=1 for settings that stand for this batch and length"
            )

    @property
    def rows(self) -> int:
        """Rows of a step of the optimizer, the physical batch."""
        return self.batch.rows if self.batch.rows is not None else self.data.rows

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step."""
        return self.rows // self.data.rows

    @property
    def base(self) -> BasePoint | None:
        """The base point of the run's schedule."""
        return next((b for b in self.bases if b.schedule == type(self.schedule).__name__), None)


FREE = (
    "run",
    "validation",
    "hooks",
    "checkpoints",
    "log_every",
    "on_existing",
    "init",
    "data.workers",
    "tokenizers",
    "devices",
)
"""Fields that may change when a run is resumed: they do not decide the weights.

Tokenizers are compared by fingerprint, not by the folder they lie in.
"""


def differences(saved: Mapping[str, Any], current: TrainConfig) -> list[str]:
    """Fields that decide the weights and that differ, as "key: old -> new"."""
    now = json.loads(json.dumps(to_json(current)))
    keys = [k for k in sorted({*saved, *now}) if not any(k == f or k.startswith(f + ".") for f in FREE)]
    return [f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in keys if saved.get(k) != now.get(k)]


@chz.chz
class RowSettings:
    """How training treats a modality, on top of what its tokenizer asks for. None keeps that."""

    schedule: str | None = chz.field(default=None, doc="noise schedule: linear, cosine or polyP")
    elbo: bool | None = chz.field(default=None, doc="weight the loss by the bound's weight, else by 1")
    weight: float | None = chz.field(default=None, doc="loss weight of the modality")
    fill_weight: float | None = chz.field(default=None, doc="loss weight of FILL")
    given_weight: float | None = chz.field(default=None, doc="loss weight of a target that has given parts")
    buckets: tuple[int, ...] | None = chz.field(default=None, doc="free lengths of a target")
    stack: bool | None = chz.field(default=None, doc="the levels of a frame share one position")
    pace: int | None = chz.field(default=None, doc="how far the coordinate of a line moves a position")
    timed: bool | None = chz.field(default=None, doc="that of a given line moves as long as its codes last")
    patch: int | None = chz.field(default=None, doc="patch x patch codes of a picture share one position")
    shared: bool | None = chz.field(default=None, doc="all levels use one id range")


def vocabulary(
    tokenizers: tuple[str, ...],
    rows: Mapping[str, RowSettings] | None = None,
    positions: Positions = "axial",
    sight: Literal["full", "cached", "causal"] = "full",
) -> Vocabulary:
    """The vocabulary of a model over the given tokenizer folders; rows of other modalities wait for theirs.

    A recipe hands it to `chz` as the factory of `model.vocabulary`, so that `tokenizers=...` and
    `model.vocabulary.rows.image.schedule=poly2` are overrides like any other.
    """
    table = {m.name: m for m in (artifact.load(folder).modality for folder in tokenizers)}
    known = {*table, *KINDS.values()}
    unknown = sorted(set(rows or {}) - known)
    if unknown:
        raise UsageError(f"model.vocabulary.rows.{unknown[0]}: the modalities are {', '.join(sorted(known))}")
    for name, settings in ((n, s) for n, s in (rows or {}).items() if n in table):
        changes = {k: v for k, v in chz.asdict(settings).items() if v is not None}
        table[name] = chz.replace(table[name], **changes)
    return Vocabulary(modalities=modality_table(table), positions=positions, sight=sight)
