"""What a run would cost, before it is run: parameters, FLOPs, memory, time and schedule."""

import math
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from trimask.core.compute import DTYPES
from trimask.core.config import to_json
from trimask.core.errors import TrimaskError
from trimask.core.units import duration, si
from trimask.data.stream import Stream
from trimask.model import accounting
from trimask.model.accounting import Memory, Parameters
from trimask.optim.schedules import Schedule
from trimask.train import device, resolve
from trimask.train.config import TrainConfig
from trimask.train.steptime import measured_density, measured_pace

PLOT_WIDTH, PLOT_HEIGHT = 60, 8


@dataclass(frozen=True)
class Plan:
    """Estimates for a run whose rows are full and whose masked share is `accounting.MASKED_SHARE`."""

    parameters: Parameters
    memory: Memory
    tokens_per_step: float
    step_flops: int
    steps: int
    compute: device.Compute
    resolved: resolve.Resolved
    block_share: float
    """Share of the matmul rate that a block reaches here, forward and backward."""
    pace: device.Pace

    @property
    def flops_per_token(self) -> float:
        return self.step_flops / self.tokens_per_step

    @property
    def seconds(self) -> float:
        assert self.pace.seconds is not None
        return self.steps * self.pace.seconds


def plan(config: TrainConfig) -> Plan:
    """Count what can be counted, measure a block and a matrix product, and estimate the rest."""
    model, rows, slots = config.model, config.data.rows, config.data.slots
    tokens = config.data.tokens or slots
    compute = _timed(config)
    assert compute.block_seconds is not None
    pace = _pace(config, compute)
    dtype = DTYPES[compute.dtype]
    return Plan(
        accounting.parameters(model),
        accounting.memory(model, rows, slots, tokens, dtype, config.ema > 0, config.optimizer.matrices == "muon"),
        config.rows * slots * resolve.density(config, pace),
        resolve.step_flops(config),
        math.ceil(resolve.steps(config, pace)),
        compute,
        resolve.resolve(config, pace),
        resolve.block_flops(config) / compute.block_seconds / compute.matmul_rate,
        pace,
    )


def _timed(config: TrainConfig) -> device.Compute:
    wanted, expected = (config.device, config.dtype, config.compile), partial(resolve.run_seconds, config)
    return device.choose(wanted, config.model, config.data.rows, config.data.slots, expected, timed=True)


def resolved(config: TrainConfig) -> resolve.Resolved:
    """The derived settings of a run on this machine; a block is timed only where the budget is a time."""
    if config.base is None or config.budget.steps is not None:
        return resolve.resolve(config)
    if config.budget.tokens is not None:
        return resolve.resolve(config, device.Pace(density=_density(config)))
    return resolve.resolve(config, _pace(config, _timed(config)))


def _pace(config: TrainConfig, compute: device.Compute) -> device.Pace:
    """Of the run: measured on whole steps where settings depend on it and the data are there, else on one block."""
    assert compute.block_seconds is not None
    guessed = device.Pace(resolve.least_seconds(config, compute.block_seconds), density=_density(config))
    if config.budget.minutes is None:
        return guessed
    source = _stream(config)
    return guessed if source is None else replace(measured_pace(config, source, compute), density=guessed.density)


def _density(config: TrainConfig) -> float | None:
    """Counted where the data are there."""
    source = _stream(config)
    return None if source is None else measured_density(config, source)


def _stream(config: TrainConfig) -> Stream | None:
    try:
        return Stream(config.data, config.model.vocabulary, config.budget.positions(config.rows * config.data.slots))
    except TrimaskError:
        return None


def plot(schedule: Schedule, rate: float) -> str:
    """The learning rate over the budget, drawn with characters."""
    values = [rate * schedule.factor((i + 0.5) / PLOT_WIDTH) for i in range(PLOT_WIDTH)]
    lines = []
    for level in range(PLOT_HEIGHT, 0, -1):
        low = rate * (level - 0.5) / PLOT_HEIGHT
        label = f"{rate:.2e}" if level == PLOT_HEIGHT else ""
        lines.append(f"{label:>9} |" + "".join("█" if v >= low else " " for v in values).rstrip())
    return "\n".join([*lines, f"{0:>9} +{'-' * PLOT_WIDTH}", f"{'':>11}0 %{'budget':^{PLOT_WIDTH - 8}}100 %"])


def describe(config: TrainConfig, made: Plan) -> str:
    """The plan in words."""
    p, m, c = made.parameters, made.memory, made.compute
    settings = [f"  {key} = {value}" for key, value in to_json(config).items()]
    return "\n".join(
        [
            "configuration",
            *settings,
            "",
            f"parameters   {si(p.total)}: embedding {si(p.embedding)}, body {si(p.body)}, head {si(p.head)}",
            f"step         {config.rows} rows, {si(made.tokens_per_step)} tokens; "
            f"{accounting.MASKED_SHARE:.0%} of the targets masked",
            f"FLOPs        {si(made.flops_per_token)} per token, {si(made.step_flops)} per step, "
            f"{si(made.steps * made.step_flops)} in all (forward and backward)",
            f"memory       about {si(m.total, 'B')}: weights {si(m.weights, 'B')}, gradients {si(m.gradients, 'B')}, "
            f"optimizer {si(m.optimizer, 'B')}, average {si(m.average, 'B')}, activations {si(m.activations, 'B')}",
            *(f"compute      {reason}" for reason in c.reasons),
            f"time         {'about' if made.pace.whole else 'at least'} {duration(made.seconds)}: {made.steps} steps "
            f"of {made.pace.seconds:.3g} s, measured on "
            f"{'whole steps' if made.pace.whole else 'one block; data and all else that is slower are not counted'}; "
            f"a block reaches {made.block_share:.0%} of the matmul rate",
            "",
            "derived settings",
            *resolve.describe(made.resolved),
            "",
            "learning rate at the base",
            plot(config.schedule, made.resolved.optimizer.rate),
        ]
    )


def dry_run(config: TrainConfig) -> Plan:
    """Print the plan of a run and write nothing."""
    made = plan(config)
    Console().print(describe(config, made), markup=False, highlight=False, soft_wrap=True)
    return made
