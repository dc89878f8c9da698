"""What a run would cost, before it is run: parameters, FLOPs, memory, time and schedule."""

import math
from dataclasses import dataclass
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
from trimask.train.steptime import measured_step

PLOT_WIDTH, PLOT_HEIGHT = 60, 8


@dataclass(frozen=True)
class Plan:
    """Estimates for a run whose rows are full and whose masked share is `accounting.MASKED_SHARE`."""

    parameters: Parameters
    memory: Memory
    tokens_per_step: int
    step_flops: int
    steps: int
    compute: device.Compute
    resolved: resolve.Resolved
    block_share: float
    """Share of the matmul rate that a block reaches here, forward and backward."""
    step_seconds: float
    whole: bool
    """Whether that was measured on whole steps, not on one block."""

    @property
    def flops_per_token(self) -> float:
        return self.step_flops / self.tokens_per_step

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds


def plan(config: TrainConfig) -> Plan:
    """Count what can be counted, measure a block and a matrix product, and estimate the rest."""
    model, rows, slots = config.model, config.data.rows, config.data.slots
    tokens = config.data.tokens or slots
    compute = _timed(config)
    assert compute.block_seconds is not None
    step, whole = _step(config, compute)
    dtype = DTYPES[compute.dtype]
    return Plan(
        accounting.parameters(model),
        accounting.memory(model, rows, slots, tokens, dtype, average=config.ema > 0),
        config.rows * tokens,
        resolve.step_flops(config),
        math.ceil(resolve.steps(config, step)),
        compute,
        resolve.resolve(config, step),
        resolve.block_flops(config) / compute.block_seconds / compute.matmul_rate,
        step,
        whole,
    )


def _timed(config: TrainConfig) -> device.Compute:
    wanted, expected = (config.device, config.dtype, config.compile), partial(resolve.run_seconds, config)
    return device.choose(wanted, config.model, config.data.rows, config.data.slots, expected, timed=True)


def resolved(config: TrainConfig) -> resolve.Resolved:
    """The derived settings of a run on this machine; a block is timed only where the budget is a time."""
    if config.budget.minutes is None or config.base is None:
        return resolve.resolve(config)
    return resolve.resolve(config, _step(config, _timed(config))[0])


def _step(config: TrainConfig, compute: device.Compute) -> tuple[float, bool]:
    """Time of a step, and whether it is of whole ones: measured where settings depend on it and the data are there."""
    assert compute.block_seconds is not None
    if config.budget.minutes is not None:
        try:
            source = Stream(config.data, config.model.vocabulary)
        except TrimaskError:
            return resolve.least_seconds(config, compute.block_seconds), False
        return measured_step(resolve.resolve(config, 1.0), source, compute.dtype, compute.compile), True
    return resolve.least_seconds(config, compute.block_seconds), False


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
            f"step         {config.rows} rows, at most {si(made.tokens_per_step)} tokens; "
            f"{accounting.MASKED_SHARE:.0%} of the targets masked",
            f"FLOPs        {si(made.flops_per_token)} per token, {si(made.step_flops)} per step, "
            f"{si(made.steps * made.step_flops)} in all (forward and backward)",
            f"memory       about {si(m.total, 'B')}: weights {si(m.weights, 'B')}, gradients {si(m.gradients, 'B')}, "
            f"optimizer {si(m.optimizer, 'B')}, average {si(m.average, 'B')}, activations {si(m.activations, 'B')}",
            *(f"compute      {reason}" for reason in c.reasons),
            f"time         {'about' if made.whole else 'at least'} {duration(made.seconds)}: {made.steps} steps of "
            f"{made.step_seconds:.3g} s, measured on "
            f"{'whole steps' if made.whole else 'one block; data and all else that is slower are not counted'}; "
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
