"""The one training loop of the autoencoders.

Everything random is a function of (seed, step), so the checkpoint holds no generator and a resumed
run ends with the weights of an uninterrupted one, bit for bit.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import chz
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from trimask.core.compute import DTYPES
from trimask.core.config import to_json
from trimask.core.errors import TrainingError, UsageError
from trimask.core.files import read_json, replacing, settled, write_json
from trimask.core.rng import generator, key
from trimask.core.running import interruptible, progress, restore_state, save_state
from trimask.tokenizers.artifact import load
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.objectives import Objective
from trimask.tokenizers.quality import Figures, measure

Raw = TypeVar("Raw")
RawOut = TypeVar("RawOut", covariant=True)
Grader = Callable[[Tokenizer], Figures]
"""Measures something of a finished tokenizer that this layer cannot know, e.g. scenes graded right."""

ARTIFACT = "tokenizer"
"""Folder of the finished tokenizer inside the run folder."""
CHECKPOINT = "checkpoint"


class Examples(Protocol[RawOut]):
    """Raw content with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> RawOut: ...


@dataclass(frozen=True)
class Weighted(Generic[Raw]):
    """A source of the mixture: its name, its raw content and its share, relative to the others."""

    name: str
    data: Examples[Raw]
    weight: float = 1.0


@chz.chz
class TokenizerTraining:
    """A training run of an autoencoder."""

    objective: Objective = chz.field(doc="what is trained, and for what")
    steps: int = chz.field(default=4000, doc="optimizer steps; ignored where minutes are given")
    minutes: float = chz.field(default=0.0, doc="if positive, as many steps as a measurement finds to fit")
    batch: int = chz.field(default=64, doc="examples per step")
    rate: float = chz.field(default=2e-3, doc="peak learning rate of AdamW")
    warmup: int = chz.field(default=100, doc="steps of linear warm-up; then the rate falls along a cosine to 0")
    decay: float = chz.field(default=0.01, doc="weight decay")
    clip: float = chz.field(default=1.0, doc="largest norm of the gradient")
    dtype: str = chz.field(default="auto", doc="bf16, fp32, or auto: the faster by a measurement at start")
    seed: int = chz.field(default=0, doc="of the first weights, the order and the crops")
    checkpoint_every: int = chz.field(default=500, doc="steps between checkpoints")
    log_every: int = chz.field(default=50, doc="steps between lines of metrics.jsonl")

    @chz.validate
    def _check(self):
        for name in ("steps", "batch", "rate", "clip", "checkpoint_every", "log_every"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if self.dtype not in ("auto", *DTYPES):
            raise UsageError(f"dtype is auto, {' or '.join(DTYPES)}, got {self.dtype!r}")


BETAS = (0.9, 0.99)


def train_tokenizer(
    config: TokenizerTraining,
    sources: Sequence[Weighted],
    folder: Path,
    held_out: Mapping[str, Sequence[Any]] | None = None,
    graders: Mapping[str, Grader] | None = None,
    provenance: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Tokenizer:
    """Train an autoencoder, or go on where an earlier call with the same arguments stopped.

    The run folder gets `run.json` (configuration and what was measured at start), `metrics.jsonl`,
    `checkpoint/`, and at the end `tokenizer/`, whose manifest holds the quality on each held-out set
    and, under its name, what each grader says. A finished run is loaded, not repeated.

    Raises `UsageError` when the folder belongs to another configuration, `TrainingError` for a
    non-finite loss (before the optimizer moves), `KeyboardInterrupt` after saving on SIGINT/SIGTERM.
    """
    console = console or Console()
    folder = Path(folder)
    run = _open_run(config, sources, folder, console)
    if settled(folder / ARTIFACT).exists():
        console.print(f"{folder / ARTIFACT} is finished; it is used as it is")
        return load(folder / ARTIFACT)

    network = _fresh(config)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.rate, betas=BETAS, weight_decay=config.decay, fused=True
    )
    step = restore_state(network, optimizer, folder / CHECKPOINT)
    log = _MetricsLog(folder / "metrics.jsonl", step)
    steps, dtype = int(run["steps"]), DTYPES[run["dtype"]]

    with interruptible() as asked, progress(console, steps, step, "training") as advance:
        while step < steps:
            groups = batch(config, sources, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps)
            loss, terms = _mean_loss(config.objective, network, groups, dtype)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"{folder}: the loss is {loss.item()} at step {step}; start a new folder with a lower "
                    f"rate than {config.rate}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            step += 1
            if step % config.log_every == 0 or step == steps:
                log.write({"step": step, "loss": loss.item(), "norm": norm.item(), **terms})
            advance(step, f"loss {loss.item():.4f}")
            if step % config.checkpoint_every == 0 or step == steps or asked:
                save_state(network, optimizer, step, folder / CHECKPOINT)
            if asked:
                raise KeyboardInterrupt(f"stopped after step {step}; the same command goes on from there")

    tokenizer = config.objective.tokenizer(_numpy(network))
    quality = {name: measure(tokenizer, raws) for name, raws in (held_out or {}).items()}
    quality |= {name: dict(grader(tokenizer)) for name, grader in (graders or {}).items()}
    about = {"run": run, **(provenance or {})}
    tokenizer = config.objective.tokenizer(_numpy(network), quality, about)
    tokenizer.save(folder / ARTIFACT)
    return tokenizer


def learning_rate(config: TokenizerTraining, step: int, steps: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up, then a cosine that reaches 0 after the last step."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.rate * 0.5 * (1 + math.cos(math.pi * done))


def batch(config: TokenizerTraining, sources: Sequence[Weighted], step: int) -> list[Tensor]:
    """The examples of a step, grouped by shape; a function of (seed, step, place in the batch)."""
    weights = np.array([s.weight for s in sources])
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for row in range(config.batch):
        rng = generator("tokenizer batch", config.seed, step, row)
        source = sources[rng.choice(len(sources), p=weights / weights.sum())].data
        example = config.objective.example(source[int(rng.integers(len(source)))], rng)
        groups.setdefault(tuple(example.shape), []).append(example)
    return [torch.stack(group) for group in groups.values()]


def _mean_loss(
    objective: Objective, network: nn.Module, groups: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, dict[str, float]]:
    """Mean over all examples, whatever their shapes, and its terms."""
    total, terms = torch.zeros(()), {}
    examples = sum(len(group) for group in groups)
    for group in groups:
        loss, parts = objective.loss(network, group, dtype)
        share = len(group) / examples
        total = total + share * loss
        for name, value in parts.items():
            terms[name] = terms.get(name, 0.0) + share * value.item()
    return total, terms


def _fresh(config: TokenizerTraining) -> nn.Module:
    """A network whose first weights depend on the seed alone; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("tokenizer weights", config.seed) % 2**63)
        return config.objective.network()


def _open_run(config: TokenizerTraining, sources: Sequence[Weighted], folder: Path, console: Console) -> dict:
    """The run's record: written by the first call, compared by later ones."""
    asked = {
        "config": json.loads(json.dumps(to_json(config))),
        "sources": [{"name": s.name, "items": len(s.data), "weight": s.weight} for s in sources],
    }
    path = folder / "run.json"
    if path.exists():
        run = read_json(path)
        for name, value in asked.items():
            if run.get(name) != value:
                raise UsageError(
                    f"{path} records another {name} than the one asked for; name another folder, "
                    f"or repeat the earlier settings to go on"
                )
        return run
    if not sources or not all(len(s.data) for s in sources):
        raise UsageError("training needs at least one source, and every source at least one record")
    measured = _measure_start(config, sources)
    console.print(f"computing in {measured['dtype']}: {measured['reason']}; {measured['steps']} steps")
    run = asked | measured
    write_json(path, run)
    return run


def _measure_start(config: TokenizerTraining, sources: Sequence[Weighted]) -> dict:
    """Choose the type and, where minutes are given, the number of steps, on throw-away networks."""
    if config.dtype != "auto" and config.minutes <= 0:
        return {"dtype": config.dtype, "reason": "as asked", "steps": config.steps}
    names = list(DTYPES) if config.dtype == "auto" else [config.dtype]
    seconds = {name: _step_seconds(config, sources, DTYPES[name]) for name in names}
    best = min(seconds, key=lambda name: seconds[name])
    reason = ", ".join(f"{1000 * s:.0f} ms a step in {name}" for name, s in seconds.items())
    steps = max(1, int(config.minutes * 60 / seconds[best])) if config.minutes > 0 else config.steps
    return {"dtype": best, "reason": reason, "steps": steps}


def _step_seconds(config: TokenizerTraining, sources: Sequence[Weighted], dtype: torch.dtype) -> float:
    """Median time of a step without the optimizer (whose share is small); the first one is warm-up."""
    network = _fresh(config)
    times = []
    for step in range(6):
        start = time.perf_counter()
        _mean_loss(config.objective, network, batch(config, sources, step), dtype)[0].backward()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _numpy(network: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().contiguous().numpy() for k, v in network.state_dict().items()}


class _MetricsLog:
    """Appends lines to `metrics.jsonl`; lines past the checkpoint are dropped on resuming."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = []
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, record: Mapping[str, float]) -> None:
        with self.path.open("a") as f:
            f.write(json.dumps(record) + "\n")
