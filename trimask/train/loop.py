"""The training loop, and what is set up around it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from trimask.core.compute import DTYPES, device_of
from trimask.core.config import to_json
from trimask.core.errors import DivergedError, TrainingError, UsageError
from trimask.core.running import Interrupt, interruptible
from trimask.core.units import duration, si
from trimask.data.manifest import different, require_tokenizers
from trimask.data.stream import Batch, Stream
from trimask.model.timing import Timing
from trimask.model.transformer import Transformer
from trimask.optim import gradients
from trimask.optim.average import Average
from trimask.optim.optimizer import Optimizer
from trimask.optim.parametrization import groups
from trimask.tokenizers import artifact
from trimask.tokenizers.contract import Tokenizer
from trimask.train import checkpoint, device, distributed, record, validation
from trimask.train.config import TrainConfig
from trimask.train.distributed import World
from trimask.train.failures import clear_failures
from trimask.train.hooks import Moment
from trimask.train.progress import Display, display
from trimask.train.resolve import Resolved, resolve, run_seconds
from trimask.train.state import Source, TrainState
from trimask.train.statistics import Window, all_finite, is_spike
from trimask.train.step import evaluate, flops, save_batch, to
from trimask.train.steptime import measured_pace

Task = tuple[int, Callable[[Moment], None]]
"""(cadence in steps, what to do then)."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    """The run folder; `trimask.load` takes it."""
    step: int
    tokens: int
    seconds: float
    complete: bool
    """False when a signal ended it before its budget was spent."""
    validation: Mapping[str, Any]
    """The last validation: modality -> nats per token, its error and the number of tokens."""
    processed: Mapping[str, int]
    """Processed tokens by modality."""
    unique: Mapping[str, int]
    """Different ones among those that the data hold: what was read of each set, once."""
    flops: int
    """Operations, forward and backward (`model.accounting`)."""

    @property
    def exit_code(self) -> int:
        """0 for a complete run, 130 for an interrupted one."""
        return 0 if self.complete else 130


def fit(config: TrainConfig) -> Result:
    """Train as a configuration says, from scratch, from `config.init`, or on from the last checkpoint.

    Raises `UsageError`, `DataError`, `ArtifactError` and `TrainingError`, each saying what to do.
    """
    vocabulary = config.model.vocabulary
    tokenizers = load_tokenizers(config)
    per_step = config.rows * config.data.slots
    source = Stream(config.data, vocabulary, config.budget.positions(per_step))
    held_out = Stream(config.validation.data, vocabulary) if config.validation else None
    for stream in (source, held_out) if held_out else (source,):
        for part, manifest in zip(stream.config.sources, stream.manifests, strict=True):
            require_tokenizers(manifest, {k: t.fingerprint for k, t in tokenizers.items()}, part.path)
    return train(config, source, tokenizers, held_out, notes=source.notes)


def load_tokenizers(config: TrainConfig) -> dict[str, Tokenizer]:
    """The tokenizers of `config.tokenizers` by modality. Raises `ArtifactError`, `UsageError`."""
    out: dict[str, Tokenizer] = {}
    for folder in config.tokenizers:
        tokenizer = artifact.load(folder)
        name = tokenizer.modality.name
        if name in out:
            raise UsageError(f"tokenizers={','.join(config.tokenizers)}: two of them are for {name}")
        out[name] = tokenizer
    return out


def train(
    config: TrainConfig,
    source: Source,
    tokenizers: Mapping[str, Tokenizer],
    held_out: Stream | Sequence[Batch] | None = None,
    clock: Callable[[], float] = time.monotonic,
    notes: Sequence[str] = (),
) -> Result:
    """`fit` on any source of batches. `held_out` is what `config.validation` scores; `notes` are printed first."""
    with ExitStack() as stack:
        world = stack.enter_context(distributed.joined(device_of(config.device).type, config.devices))
        source.share(world.rank, world.size)
        show = stack.enter_context(display(quiet=not world.first))
        run = world.from_first(lambda: stack.enter_context(record.opened(config))).seen_by(world)
        stack.enter_context(clear_failures(run.folder))
        compute = world.from_first(lambda: run.compute(config, partial(_choose, config, source, world)))
        where = device_of(compute.device)
        stack.enter_context(device.deterministic(where))
        resolved = resolve(config, compute.pace)
        for line in (*compute.reasons, *notes, *(f"caution: {c}" for c in resolved.cautions)):
            show.say(line)
        state = _state(resolved, source, compute, world)
        _begin(config, run, state, tokenizers, show)
        tasks = _tasks(config, held_out, where, world)
        asked = stack.enter_context(interruptible())
        return loop(config, run, state, tokenizers, tasks, compute, show, asked, clock)


def loop(
    config: TrainConfig,
    run: record.Run,
    state: TrainState,
    tokenizers: Mapping[str, Tokenizer],
    tasks: Sequence[Task],
    compute: device.Compute,
    show: Display,
    asked: Interrupt,
    clock: Callable[[], float],
) -> Result:
    """Train until the budget is spent or a signal comes. All that changes is in `state`."""
    model, optimizer, window, world, budget = state.model, state.optimizer, state.window, state.world, config.budget
    limit = config.optimizer.clip
    grouped = groups(model)
    where = torch.device(compute.device)
    extra = {"config": to_json(config)}
    batches = iter(state.source)
    (mark,) = world.sum(clock() if world.first else 0.0)
    saved, stop = mark, False
    done = budget.progress(state.tokens, state.step, state.seconds) >= 1

    while not done and not stop:
        started = time.perf_counter()
        world.reached(state.step + 1, distributed.DATA)

        # Data, and the schedule in the middle of the stretch of the budget that it spends.
        taken = list(islice(batches, config.passes))
        if len(taken) < config.passes:
            raise TrainingError(f"the data ended at step {state.step} before the budget was spent; lower the budget")
        world.reached(state.step + 1, distributed.WORK)
        read = time.perf_counter()
        tokens, maskable, work = _counts(model, taken, world)
        counted = time.perf_counter()
        progress = budget.progress(state.tokens + sum(tokens.values()) / 2, state.step + 0.5, state.seconds)
        factor = config.schedule.factor(progress)
        optimizer.set_factor(factor)

        # Loss and gradient, of all passes of all processes over the count of all.
        optimizer.zero_grad()
        part = 0.0
        for batch in taken:
            outcome = evaluate(model, to(batch.masked, where), maskable)
            outcome.loss.backward()
            part += float(outcome.loss.detach())
            window.add(batch, outcome)
        (loss,) = world.sum(part)
        norm_parts = {name: world.whole(norm) for name, norm in gradients.norms(grouped).items()}
        norm = gradients.total(norm_parts)
        norms = {"total": float(norm), **{k: float(v) for k, v in norm_parts.items()}}

        # Nothing moves on a loss or gradient that is not finite.
        if not all_finite({"loss": loss, **norms}):
            folder = _keep(run, "failed", state, taken, loss, norms)
            raise DivergedError(
                f"step {state.step + 1}: the loss is {loss} and the gradient norm {norms['total']}; nothing was "
                f"updated. The batch is in {folder}. Lower optimizer.rate ({config.optimizer.rate:.3g}) or look "
                "at the data; checkpoints that were saved before are whole"
            )
        if is_spike(state.losses, loss):
            folder = _keep(run, "spikes", state, taken, loss, norms)
            show.say(f"step {state.step + 1}: the loss jumped to {loss:.3f}; the batch is in {folder}")
            run.record("event", state.step + 1, {"event": "spike", "loss": loss, "batch": str(folder)})
        state.remember(loss)

        # The step.
        gradients.clip(model.parameters(), norm, limit)
        optimizer.step()
        state.advance(taken, tokens, work)
        if state.average:
            state.average.update(state.step)

        # What it measured.
        window.add_step(loss, norms, limit, sum(tokens.values()), work)
        window.add_times(time.perf_counter() - started, read - started, counted - read)
        now, stop = world.sum(clock() if world.first else 0.0, bool(asked))
        state.seconds, mark = state.seconds + now - mark, now
        progress = budget.progress(state.tokens, state.step, state.seconds)
        done = progress >= 1
        show.advance(progress)
        if state.step % config.log_every == 0 or done:
            row = window.of_all(world).row(compute.matmul_rate * world.size)
            rates = {g["name"]: g["lr"] for g in optimizer.param_groups}
            counters = {"tokens": state.tokens, "seconds": state.seconds, "progress": progress, "factor": factor}
            run.record("train", state.step, {**counters, "rates": rates, **row})
            show.row(state.step, progress, state.seconds, row, final=done)
            for name in window.newly_dominated(row, state.step):
                show.say(f"step {state.step}: END and FILL dominate the {name} predictions ({row['stops'][name]})")
                run.record("event", state.step, {"event": "stops dominate", "modality": name, **row["stops"][name]})
            window.clear()

        # Validation, samples and whatever else the recipe wants to see.
        for every, task in tasks:
            if state.step % every == 0 or done:
                with state.for_evaluation() as evaluated:
                    task(_moment(run, state, evaluated, progress, tokenizers, show))
                (now,) = world.sum(clock() if world.first else 0.0)
        state.seconds, mark = state.seconds + now - mark, now

        # Everything so far becomes permanent.
        keep = config.checkpoints
        due = state.step % keep.every == 0 or state.step in keep.keep_steps or now - saved > 60 * keep.minutes
        if due or done or stop:
            checkpoint.save(run.checkpoints, state, tokenizers, extra)
            checkpoint.prune(run.checkpoints, keep)
            saved = now

    ended = "done" if done else f"stopped by {asked.name or 'a signal'}, the same command goes on"
    spent = f"step {state.step}, {si(state.tokens)} tokens, {duration(state.seconds)}"
    show.say(f"{ended}: {spent}; checkpoints are in {run.checkpoints}")
    bounds = record.last(run.folder, "validation").get("bounds", {})
    unique = different(state.source.manifests, [state.epochs.get(s.path, 0.0) for s in config.data.sources])
    counts = (state.processed, unique, state.flops)
    return Result(run.folder, state.step, state.tokens, state.seconds, done, bounds, *counts)


def _counts(model: Transformer, taken: Sequence[Batch], world: World) -> tuple[dict[str, int], int, int]:
    """Processed tokens by modality, maskable tokens and operations of a step, over all processes."""
    names = [m.name for m in model.vocabulary.modalities]
    tokens = [sum(batch.tokens.get(name, 0) for batch in taken) for name in names]
    maskable = sum(batch.masked.maskable for batch in taken)
    work = sum(flops(model, batch.masked) for batch in taken)
    *counts, maskable, work = (round(n) for n in world.sum(*tokens, maskable, work))
    return {name: n for name, n in zip(names, counts, strict=True) if n}, maskable, work


def _choose(config: TrainConfig, source: Source, world: World) -> device.Compute:
    """Measure and choose how to compute, and how many steps the budget lasts."""
    wanted = (config.device, config.dtype, config.compile)
    rows = config.data.rows // world.size
    chosen = device.choose(wanted, config.model, rows, config.data.slots, partial(run_seconds, config))
    pace = measured_pace(config, source, chosen)
    return replace(chosen, step_seconds=pace.seconds, density=pace.density)


def _state(resolved: Resolved, source: Source, compute: device.Compute, world: World) -> TrainState:
    """The state before the first step."""
    config = resolved.config
    model = Transformer(config.model, config.seed).to(compute.device)
    model.dtype = DTYPES[compute.dtype]
    if compute.compile:
        model.compiled()
    world.shard(model)
    optimizer = Optimizer(resolved.optimizer, model, resolved.scale, resolved.kappa)
    average = Average(model, resolved.ema) if config.ema else None
    return TrainState(model, optimizer, average, source, Window(config.model.vocabulary), world)


def _begin(
    config: TrainConfig, run: record.Run, state: TrainState, tokenizers: Mapping[str, Tokenizer], show: Display
) -> None:
    """Put the state where the run stands: at its last checkpoint, at `config.init`, or at the start."""
    resumed = checkpoint.resume(run.checkpoints, state, show.say)
    run.rewind(state.step)
    if resumed:
        checkpoint.check_inputs(resumed, tokenizers, state.source.manifests)
        show.say(f"resuming {run.folder} at step {state.step} ({si(state.tokens)} tokens)")
        if run.threads not in (None, torch.get_num_threads()):
            show.say(
                f"the run began with {run.threads} threads, now there are {torch.get_num_threads()}: sums are "
                "rounded differently, so the weights will not be bit-identical to those of an unbroken run"
            )
        run.record("event", state.step, {"event": "resumed", "checkpoint": resumed.name})
        return
    if config.init:
        folder = checkpoint.initial_weights(config.init, state, tokenizers)
        show.say(f"starting from the weights of {folder}")
    else:
        for name, timing in state.model.timing.items():
            found = state.source.durations(name)
            if found is not None:
                assert isinstance(timing, Timing)
                timing.set(torch.from_numpy(found))
                show.say(f"a code of {name} lasts {found.min():.1f} to {found.max():.1f} frames (measured on the data)")
    parameters = sum(p.numel() for p in state.model.parameters())
    show.say(f"training {si(parameters)} parameters in {run.folder}")


def _tasks(
    config: TrainConfig, held_out: Stream | Sequence[Batch] | None, where: torch.device, world: World
) -> list[Task]:
    """Validation by all processes, then the configured hooks, by the first; each with its cadence."""
    tasks: list[Task] = []
    if config.validation and held_out is not None:
        kept = validation.batches(held_out, config.validation.batches)

        def validate(moment: Moment) -> None:
            result = validation.bounds(moment.model, kept, where, world)
            moment.record("validation", {"tokens": moment.tokens, "bounds": result})
            moment.say(f"step {moment.step}  validation: {validation.summary(result)}")

        tasks.append((config.validation.every, validate))
    return [*tasks, *((hook.every, hook if world.first else _nothing) for hook in config.hooks)]


def _nothing(_moment: Moment) -> None:
    """What the other processes do while the first one looks at its samples."""


def _moment(
    run: record.Run,
    state: TrainState,
    model: Transformer,
    progress: float,
    tokenizers: Mapping[str, Tokenizer],
    show: Display,
) -> Moment:
    """What a task sees now."""

    def write(kind: str, values: Mapping[str, Any]) -> None:
        run.record(kind, state.step, values)

    return Moment(state.step, state.tokens, progress, model, tokenizers, run.folder, write, show.say)


def _keep(
    run: record.Run, kind: str, state: TrainState, taken: Sequence[Batch], loss: float, norms: Mapping[str, float]
) -> Path:
    """Save the batch of the coming step for inspection; of several processes and passes a folder each."""
    folder = run.folder / kind / f"step-{state.step + 1:08d}"
    part = folder / f"process-{state.world.rank}" if state.world.size > 1 else folder
    for number, batch in enumerate(taken):
        place = part / f"pass-{number}" if len(taken) > 1 else part
        save_batch(place, batch, {"step": state.step + 1, "loss": loss, "gradient_norms": dict(norms)})
    return folder
