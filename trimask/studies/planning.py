"""`trimask plan`: from a budget and a fitted law to a model's size, its tokens, its batch, and what to expect.

Of all sizes of a family that fit the memory the one with the lowest predicted loss is taken, each with the tokens that
the budget leaves for it by this package's own count of operations. Settings then follow from size, batch and length as
in every run (`train.resolve`).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch

from trimask.core.compute import DTYPES, device_of
from trimask.core.errors import DataError, UsageError
from trimask.core.files import read_json
from trimask.core.units import duration, si
from trimask.data.manifest import read_manifest
from trimask.model import accounting
from trimask.model.accounting import Parameters
from trimask.model.config import ModelConfig
from trimask.studies.laws import Optimum, published
from trimask.train import resolve
from trimask.train.config import PhysicalBatch, TrainConfig
from trimask.train.device import matmul_rate
from trimask.train.device import name as name_of

ALL = "all"
CHOSEN = ("model.depth", "model.width", "budget.tokens", "budget.steps", "budget.minutes", "batch.rows")
"""Settings that follow from the budget, not the other way about."""
DEEPEST, RISING = 96, 3
"""Blocks of the largest model that is considered; blocks beyond the best for which the loss must have risen."""
REPEATS = 4.0
"""Epochs beyond which repeated tokens are worth clearly less than new ones (Muennighoff et al. 2023)."""
NODE = 8
"""Devices of a machine."""
ROOM = 0.9
"""Share of a device's memory that a plan uses."""
SURE = 0.95


@dataclass(frozen=True)
class Device:
    """Something that trains."""

    name: str
    rate: float
    """FLOP/s that a training reaches."""
    memory: float
    """Bytes."""
    source: str
    """Where the rate comes from."""


PEAKS: Mapping[str, tuple[float, float]] = {
    "A100": (312e12, 80e9),
    "H100": (989e12, 80e9),
    "H200": (989e12, 141e9),
    "B200": (2250e12, 180e9),
    "MI300X": (1307e12, 192e9),
    "L40S": (362e12, 48e9),
    "L4": (121e12, 24e9),
    "RTX4090": (165e12, 24e9),
}
"""Dense bf16 FLOP/s and bytes, of the makers' data sheets."""


def device(kind: str, share: float) -> Device:
    """A known kind of which a training reaches so large a share of the peak. Raises `UsageError` for another."""
    found = next((name for name in PEAKS if name.lower() == kind.lower()), None)
    if found is None:
        raise UsageError(f"no device is called {kind!r}; there are: {', '.join(PEAKS)}")
    peak, memory = PEAKS[found]
    return Device(found, share * peak, memory, f"{share:.0%} of {si(peak, 'FLOP/s')}, assumed")


def here(share: float) -> Device:
    """This machine, of which a training reaches so large a share of what its matrix products are measured to."""
    where = device_of("auto")
    peak = max(matmul_rate(where, dtype) for dtype in DTYPES.values())
    if where.type == "cuda":
        memory = torch.cuda.get_device_properties(where).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    source = f"{share:.0%} of the {si(peak, 'FLOP/s')} that products of matrices were measured to reach"
    return Device(name_of(where), share * peak, float(memory), source)


@dataclass(frozen=True)
class Law:
    """Fitted laws by target, and where they were fitted; what `study scaling` keeps."""

    count: str
    targets: Mapping[str, Mapping[str, Any]]
    shares: Mapping[str, float]
    """Of each modality in the tokens of its runs."""
    aspect: int
    """Width over depth of its models."""
    codes: Mapping[str, int]
    """Tokens that each of its modalities has."""
    path: Path

    @classmethod
    def read(cls, path: Path) -> "Law":
        """Raises `DataError` for a file that is no law of sizes and lengths."""
        content = read_json(path)
        try:
            law = cls(**{name: content[name] for name in ("count", "targets", "shares", "aspect", "codes")}, path=path)
            for target in law.targets.values():
                published(target["values"], 1e6, 1e6)
                law.outside(target, 1.0, 1.0)
                "".join(target["doubts"])
            best = law.targets[ALL]["values"]
        except KeyError as e:
            raise DataError(f"{path} is no law of `trimask study scaling`: it lacks {e}") from None
        except (TypeError, AttributeError, ValueError) as e:
            raise DataError(f"{path} is no law of `trimask study scaling`: {e}") from None
        if flat := [name for name in ("A", "B", "alpha", "beta") if not best[name] > 0]:
            raise DataError(
                f"{path}: {flat[0]} is {best[flat[0]]:g}, so of this law no size is the best for a budget; fit it to "
                "more sizes and more lengths"
            )
        return law

    def size(self, counts: Parameters) -> int:
        """What of a model's parameters the law counts."""
        return counts.body if self.count == "body" else counts.total

    def loss(self, params: float, tokens: float, target: str = ALL) -> float:
        return published(self.targets[target]["values"], params, tokens)

    def interval(self, params: float, tokens: float, target: str = ALL) -> tuple[float, float]:
        """Ends of the interval of 95 % over the bootstraps of the fit."""
        drawn = [published(values, params, tokens) for values in self.targets[target]["drawn"]]
        if not drawn:
            return math.nan, math.nan
        low, high = np.percentile(drawn, (50 * (1 - SURE), 50 * (1 + SURE)))
        return float(low), float(high)

    def best_tokens(self, params: float) -> float:
        """D*(N): tokens of the budget C = 6 N D for which the size is the best."""
        return Optimum.of(self.targets[ALL]["values"]).tokens(params)

    def beyond(self, params: float, tokens: float) -> list[str]:
        """By how much a plan lies outside the trainings the law was fitted to, in words."""
        return self.outside(self.targets[ALL], params, tokens)

    @staticmethod
    def outside(target: Mapping[str, Any], params: float, tokens: float) -> list[str]:
        """The same of one target."""
        out = []
        for name, value in (("params", params), ("tokens", tokens)):
            least, most = target["ranges"][name]
            if value > most:
                out.append(f"{value / most:.3g} times the {name} of the largest")
            elif value < least:
                out.append(f"{value / least:.3g} times the {name} of the smallest")
        return out

    def unlike(self, model: ModelConfig) -> list[str]:
        """In what the models of its runs differ from this one, other than in size."""
        here = {m.name: m.codes for m in model.vocabulary.modalities}
        names = sorted({*here} | {*self.codes})
        out = [
            f"{self.codes.get(name, 0)} tokens of {name} ({here.get(name, 0)} here)"
            for name in names
            if self.codes.get(name) != here.get(name)
        ]
        if self.aspect != model.aspect:
            out.append(f"a width of {self.aspect} a block ({model.aspect} here)")
        return out


@dataclass(frozen=True)
class Asked:
    """What a plan is for: one of `flops`, `hours` and `params`, or params with one of the others."""

    law: Law
    recipe: str
    configure: Callable[[Sequence[str]], TrainConfig]
    """The configuration of that recipe with settings key=value."""
    settings: tuple[str, ...] = ()
    flops: float | None = None
    hours: float | None = None
    params: float | None = None
    device: Device | None = None
    devices: int = 1
    unique: Mapping[str, float] | None = None
    """Different tokens there are, by modality; None: what the recipe's sets hold, where they are there."""


@dataclass(frozen=True)
class Plan:
    """A run, and what is to be expected of it."""

    config: TrainConfig
    counts: Parameters
    tokens: float
    flops: float
    memory: accounting.Memory
    """Of a device: its share of weights, gradients and moments, and the activations of its pass."""
    seconds: float | None
    command: str


def plan(asked: Asked) -> Plan:
    """The best run. Raises `UsageError` for a budget in which nothing can be trained, and says why."""
    if asked.flops is not None and asked.hours is not None:
        raise UsageError("a budget is a number of operations or of hours, not both")
    if asked.flops is None and asked.hours is None and asked.params is None:
        raise UsageError("say what there is: --flops, --hours (with --gpus), or the size of the model with --params")
    if taken := [one for one in asked.settings if one.partition("=")[0] in CHOSEN]:
        raise UsageError(f"{taken[0]}: a plan chooses {', '.join(CHOSEN)}; a size is asked for by --params")
    if asked.hours is not None and asked.device is None:
        raise UsageError("hours need a device that they are spent on")
    ranked = sorted(_candidates(asked), key=lambda one: asked.law.loss(asked.law.size(one.counts), one.tokens))
    found = next((full for one in ranked if (full := _fitting(asked, one)) is not None), None)
    if found is None:
        smallest = min(ranked, key=lambda one: one.counts.total)
        raise UsageError(_no_room(asked, replace(smallest, memory=_memory(asked, smallest.config))))
    horizon = resolve.resolve(found.config).horizon
    warmup = found.config.schedule.warmup
    if horizon is not None and horizon.steps * warmup < 1:
        raise UsageError(
            f"{si(found.flops, 'FLOP')} are {horizon.steps:.3g} steps of {found.config.rows} rows for "
            f"{si(found.counts.total)} parameters, too few for a warm-up of {warmup:.0%} of them"
        )
    return found


def _candidates(asked: Asked) -> list[Plan]:
    """Sizes of the family, up to where more blocks make the predicted loss rise; or the one that was asked for."""
    budget = asked.flops
    if asked.hours is not None and asked.device is not None:
        budget = 3600 * asked.hours * asked.devices * asked.device.rate
    if asked.params is not None:
        return [_sized(asked, _depth_of(asked, asked.params), budget)]
    out: list[Plan] = []
    losses: list[float] = []
    for depth in range(1, DEEPEST + 1):
        out.append(_sized(asked, depth, budget))
        losses.append(asked.law.loss(asked.law.size(out[-1].counts), out[-1].tokens))
        if depth - 1 - int(np.argmin(losses)) >= RISING:
            break
    return out


def _configured(asked: Asked, depth: int) -> TrainConfig:
    return asked.configure([*asked.settings, f"model.depth={depth}"])


def _depth_of(asked: Asked, params: float) -> int:
    """The depth whose size is nearest, by bisection: a size grows with its depth."""
    low, high = 1, DEEPEST
    sizes = {d: accounting.parameters(_configured(asked, d).model).total for d in (low, high)}
    if not 0.5 * sizes[low] <= params <= 2 * sizes[high]:
        raise UsageError(
            f"{si(params)} parameters: the sizes of {asked.recipe} are {si(sizes[low])} to {si(sizes[high])}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        sizes[middle] = accounting.parameters(_configured(asked, middle).model).total
        low, high = (middle, high) if sizes[middle] <= params else (low, middle)
    return min(low, high, key=lambda d: abs(math.log(sizes[d] / params)))


def _sized(asked: Asked, depth: int, budget: float | None) -> Plan:
    """The run of one size, without its memory: its tokens and its batch."""
    config = _configured(asked, depth)
    # The recipe's rows of a pass are those that one device holds.
    data = chz.replace(config.data, rows=config.data.rows * asked.devices)
    config = chz.replace(config, data=data, batch=_of_passes(config, data.rows, config.rows))
    counts = accounting.parameters(config.model)
    density = resolve.density(config, resolve.UNMEASURED)
    # Operations of a pass of the recipe's own number of rows: those of a token do not depend on it.
    per_token = resolve.step_flops(config) / (config.rows * config.data.slots * density)
    tokens = budget / per_token if budget is not None else asked.law.best_tokens(asked.law.size(counts))
    length = chz.replace(config.budget, steps=None, minutes=None, tokens=max(1, int(tokens)))
    config = _batched(chz.replace(config, budget=length))
    flops = per_token * tokens
    seconds = None if asked.device is None else flops / (asked.devices * asked.device.rate)
    settings = [*asked.settings, f"model.depth={depth}", f"budget.tokens={int(tokens)}", f"batch.rows={config.rows}"]
    if asked.devices > 1:
        settings = [*(one for one in settings if not one.startswith("data.rows=")), f"data.rows={data.rows}"]
    command = " ".join([_launch(asked.devices), asked.recipe, *settings])
    return Plan(config, counts, tokens, flops, accounting.Memory(0, 0, 0, 0, 0), seconds, command)


def _launch(devices: int) -> str:
    """How a training on so many devices is started, on machines of up to eight."""
    if devices == 1:
        return "trimask train"
    each = max(n for n in range(1, NODE + 1) if devices % n == 0)
    nodes = f"--nnodes {devices // each} --rdzv-backend c10d --rdzv-endpoint HOST" if devices > each else "--standalone"
    return f"torchrun {nodes} --nproc-per-node {each} -m trimask train"


def _batched(config: TrainConfig) -> TrainConfig:
    """With the logical batch of its length, in whole passes of all devices, no more than the critical one."""
    horizon = resolve.resolve(config).horizon
    if horizon is None:
        return config
    wanted = min(horizon.logical_positions, horizon.critical_positions) / config.data.slots
    return chz.replace(config, batch=_of_passes(config, config.data.rows, wanted))


def _of_passes(config: TrainConfig, rows: int, wanted: float) -> PhysicalBatch:
    """The batch of whole passes of so many rows that is nearest to the wanted number of them."""
    return chz.replace(config.batch, rows=max(1, round(wanted / rows)) * rows)


def _fitting(asked: Asked, one: Plan) -> Plan | None:
    """The plan with its memory; None where that is more than there is. What is quick to tell is told first."""
    room = math.inf if asked.device is None else ROOM * asked.device.memory
    if _state(asked, one.config).total > room:
        return None
    memory = _memory(asked, one.config)
    return replace(one, memory=memory) if memory.total <= room else None


def _state(asked: Asked, config: TrainConfig) -> accounting.Memory:
    """Weights, gradients and moments of one device: all share them."""
    whole = accounting.state_memory(config.model, config.ema > 0, config.optimizer.matrices == "muon")
    parts = (whole.weights, whole.gradients, whole.optimizer, whole.average)
    return accounting.Memory(*(part // asked.devices for part in parts), activations=0)


def _memory(asked: Asked, config: TrainConfig) -> accounting.Memory:
    """Of one device, with the activations of a pass, which are its own."""
    rows, slots, tokens = config.data.rows // asked.devices, config.data.slots, config.data.tokens or config.data.slots
    queried = accounting.assumed_queries(config.model, rows * tokens)
    saved = accounting.saved_bytes(config.model, rows, slots, tokens, queried, torch.bfloat16)
    return replace(_state(asked, config), activations=saved)


def _no_room(asked: Asked, smallest: Plan) -> str:
    assert asked.device is not None
    m, each = smallest.memory, asked.device.memory
    fixed = m.total - m.activations
    reason = (
        f"{si(smallest.counts.total)} parameters do not fit {asked.devices} x {asked.device.name} of {si(each, 'B')}: "
        f"each would hold {si(fixed, 'B')} of weights, gradients and moments, {si(m.activations, 'B')} of activations"
    )
    fewer = f"fewer rows a pass (data.rows={smallest.config.data.rows // asked.devices} of each device)"
    if m.activations < ROOM * each:
        least = math.ceil(fixed * asked.devices / (ROOM * each - m.activations))
        return f"{reason}; take {least} devices, or {fewer}"
    return f"{reason}; take {fewer}"


def describe(asked: Asked, made: Plan) -> list[str]:
    """The plan in words."""
    law, m, model = asked.law, made.memory, made.config.model
    size = law.size(made.counts)
    epochs = _epochs(asked, made)
    lines = [
        f"law          {law.path}: {law.targets[ALL]['runs']} losses, N counts {law.count}",
        f"model        {model.depth} blocks of width {model.width}: {si(made.counts.total)} parameters, "
        f"{si(made.counts.body)} of them in blocks",
        f"tokens       {si(made.tokens)}, {made.tokens / size:.3g} for each of N",
        f"operations   {si(made.flops, 'FLOP')}, forward and backward",
        f"memory       {si(m.total, 'B')} a device of {asked.devices}: weights {si(m.weights, 'B')}, gradients "
        f"{si(m.gradients, 'B')}, moments {si(m.optimizer, 'B')}, activations {si(m.activations, 'B')} "
        f"({made.config.data.rows // asked.devices} rows a pass)",
    ]
    if made.seconds is not None and asked.device is not None:
        lines.append(
            f"time         {duration(made.seconds)} on {asked.devices} x {asked.device.name}: {asked.device.source}"
        )
    for target in (ALL, *sorted({*law.targets} - {ALL})):
        low, high = law.interval(size, made.tokens, target)
        loss = law.loss(size, made.tokens, target)
        lines.append(f"{'loss' if target == ALL else '':12} {target} {loss:.4f} ({low:.4f} to {high:.4f}) nats a token")
    mixture = ", ".join(f"{Path(s.path).name} {s.weight:g}" for s in made.config.data.sources)
    lines.append(f"mixture      {mixture} (shares of positions, of the recipe)")
    lines += [f"epochs       {name} {count:.3g}" for name, count in epochs.items()]
    lines += ["", *resolve.describe(resolve.resolve(made.config)), "", f"run          {made.command}"]
    if beyond := law.beyond(size, made.tokens):
        lines.append(f"caution      extrapolated: {' and '.join(beyond)} training that the law was fitted to")
    lines += [f"caution      the law of {name}: {doubt}" for name, of in law.targets.items() for doubt in of["doubts"]]
    if model.depth == DEEPEST and asked.params is None:
        lines.append(f"caution      {DEEPEST} blocks are the most that are looked at; a larger model may be better")
    if asked.devices > 1:
        lines.append(
            f"caution      time is that of a training as fast on {asked.devices} devices as so many times one; memory "
            "leaves out the blocks that are gathered while they are used"
        )
    if different := law.unlike(model):
        lines.append(f"caution      the law is of other models: {', '.join(different)}")
    if many := {name: count for name, count in epochs.items() if count > REPEATS}:
        lines.append(
            f"caution      {', '.join(many)}: more than {REPEATS:g} epochs, where repeated tokens are worth less than "
            "new ones and the law does not say so (`trimask study fit --law repeated`)"
        )
    return lines


def _epochs(asked: Asked, made: Plan) -> dict[str, float]:
    """How often the different tokens of each set, or of each modality that was stated, are seen."""
    if asked.unique:
        shares = asked.law.shares
        if unknown := [name for name in asked.unique if name not in shares]:
            raise UsageError(f"the law knows no tokens of {unknown[0]!r}; it has: {', '.join(shares)}")
        return {name: shares[name] * made.tokens / count for name, count in asked.unique.items()}
    total = sum(s.weight for s in made.config.data.sources)
    out = {}
    for source in made.config.data.sources:
        try:
            held = sum(read_manifest(source.path).tokens.values())
        except DataError:
            continue
        out[Path(source.path).name] = source.weight / total * made.tokens / max(held, 1)
    return out
