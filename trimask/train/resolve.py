"""From a configuration to the numbers a run uses: what follows from its size, its batch and its horizon."""

from dataclasses import dataclass

import chz

from trimask.core.units import si
from trimask.model import accounting
from trimask.model.config import ModelConfig
from trimask.model.transformer import matrix_std
from trimask.optim.optimizer import OptimizerConfig, Scale, Setting, setting
from trimask.optim.parametrization import COMPLETEP, IN_BLOCKS, rule_of
from trimask.optim.sde import BasePoint, Horizon, cautions
from trimask.train.config import TrainConfig

DERIVED = "Mlodozeniec et al. 2025, arXiv 2512.22382"
"""Where the rules of size and batch come from."""
FACTORS = "of the size: var, rate, eps, decay"


@dataclass(frozen=True)
class Resolved:
    """All derived settings of a run. Without a base point (`horizon` is None) settings are used as they stand."""

    config: TrainConfig
    scale: Scale
    base: BasePoint | None
    horizon: Horizon | None

    @property
    def kappa(self) -> float:
        if self.config.batch.kappa is not None:
            return self.config.batch.kappa
        return self.horizon.kappa if self.horizon else 1.0

    @property
    def optimizer(self) -> OptimizerConfig:
        """Settings at the base, under this run's schedule."""
        tuned = self.config.optimizer
        return chz.replace(tuned, rate=tuned.rate * self.base.rate) if self.base else tuned

    @property
    def ema(self) -> float:
        """Decay of the average of weights; its memory follows kappa as those of the optimizer do."""
        return self.config.ema**self.kappa if self.config.ema else 0.0

    def setting(self, group: str, block: int | None = None) -> Setting:
        return setting(self.optimizer, self.scale, self.kappa, group, block)

    def groups(self) -> list[str]:
        """Groups that this model has, in the order of the table."""
        v, model = self.config.model.vocabulary, self.config.model
        absent = {
            "place": not any(m.patch > 1 for m in v.modalities),
            "level": not any(m.shares_positions for m in v.modalities),
            "head": model.tied,
        }
        return [g for g in COMPLETEP if not absent.get(g)]

    def settings(self) -> list[Setting]:
        """Of every group; where multipliers differ with the depth, of every block."""
        blocks = range(self.config.model.depth) if self.config.optimizer.depths else (None,)
        return [self.setting(g, b) for g in self.groups() for b in (blocks if g in IN_BLOCKS else (None,))]

    @property
    def cautions(self) -> list[str]:
        if self.horizon is None:
            return []
        c = self.config
        by_steps = c.budget.steps is not None
        return cautions(self.horizon, self.kappa, self.optimizer.beta1, c.rows, c.data.slots, by_steps)


def scale_of(model: ModelConfig) -> Scale:
    """A model beside its base."""
    return Scale(model.parametrization, model.width_ratio, model.depth_ratio, model.alpha, model.depth)


def resolve(config: TrainConfig, step_seconds: float | None = None) -> Resolved:
    """Derive a run's settings. A budget of minutes needs the measured time of a step."""
    base = config.base
    horizon = None
    if base is not None:
        horizon = Horizon(base, config.rows * config.data.slots, steps(config, step_seconds))
    return Resolved(config, scale_of(config.model), base, horizon)


def steps(config: TrainConfig, step_seconds: float | None = None) -> float:
    """Steps that the budget lasts. A row holds as many tokens as at the base point; without one, all it can."""
    budget, data = config.budget, config.data
    if budget.steps is not None:
        return budget.steps
    if budget.tokens is not None:
        density = config.base.density if config.base else (data.tokens or data.slots) / data.slots
        return budget.tokens / (config.rows * data.slots * density)
    assert budget.minutes is not None and step_seconds is not None, "minutes become steps by a measurement"
    return 60 * budget.minutes / step_seconds


def run_seconds(config: TrainConfig, block_seconds: float) -> float:
    """Least time of the whole run."""
    step = least_seconds(config, block_seconds)
    return steps(config, step) * step


def least_seconds(config: TrainConfig, block_seconds: float) -> float:
    """Least time of a step, from that of a block on one pass's batch: as if all else ran as well as a block."""
    return block_seconds * step_flops(config) / block_flops(config)


def step_flops(config: TrainConfig) -> int:
    """FLOPs of a step whose rows are full and whose masked share is `accounting.MASKED_SHARE`."""
    model, data = config.model, config.data
    queried = accounting.assumed_queries(model, data.rows * (data.tokens or data.slots))
    return config.passes * accounting.step_flops(model, data.rows, data.slots, queried)


def block_flops(config: TrainConfig) -> float:
    """FLOPs of a block on one pass, forward and backward."""
    return accounting.step_flops(config.model, config.data.rows, config.data.slots, {}) / config.model.depth


def describe(made: Resolved) -> list[str]:
    """Every derived setting and where it comes from, one line each."""
    c, m, o = made.config, made.config.model, made.optimizer
    lines = [
        f"size         {m.depth} blocks, width {m.width}"
        f"{'' if m.width != _by_aspect(m) else f' = aspect {m.aspect} x depth in whole heads'}, {m.heads} heads of "
        f"{m.head_dim}, gated MLP {m.hidden}",
        f"base         width {m.base_width}, {m.base_depth} blocks: m_N = {made.scale.m_N:.4g}, "
        f"m_L = {made.scale.m_L:.4g} ({m.parametrization}{_source(m)})",
        f"branches     attention {m.branch_scales[0]:.4g}, MLP {m.branch_scales[1]:.4g}: "
        f"{m.attention_branch:g} and {m.mlp_branch:g} at the base, times m_L^-alpha, alpha {m.alpha:g}",
    ]
    if c.batch.kappa is not None:
        lines.append(f"kappa        {made.kappa:.4g}, by hand (batch.kappa)")
    elif made.horizon is None:
        lines.append("batch        no base point is stored: settings are used as they stand, whatever the batch")
    else:
        lines += _horizon_lines(made, made.horizon)
    lines += [
        f"rate         {o.rate:.4g} at the base"
        + (f" (under {made.base.schedule}: {made.base.rate:g} times optimizer.rate)" if made.base else ""),
        f"clip         {o.clip:g}, the same at every size",
        *([f"average      decay {made.ema:.6g} = {c.ema:g}^kappa"] if c.ema else []),
        "",
        *table(made),
        *(f"caution      {line}" for line in made.cautions),
    ]
    return lines


def _by_aspect(m: ModelConfig) -> int:
    return max(1, m.aspect * m.depth // m.head_dim) * m.head_dim


def _source(m: ModelConfig) -> str:
    return {"completep": f", {DERIVED}", "mup": ", Yang et al. 2022, arXiv 2203.03466"}.get(m.parametrization, "")


def _horizon_lines(made: Resolved, h: Horizon) -> list[str]:
    c, b, slots = made.config, h.base, made.config.data.slots
    passes = f" in {c.passes} passes of {c.data.rows}" if c.passes > 1 else ""
    return [
        f"base point   {b.schedule}: {b.rows} rows of {b.slots}, {si(b.steps)} steps, {si(b.tokens)} tokens"
        f"{f' ({b.source})' if b.source else ''}",
        f"batch        {c.rows} rows of {slots}{passes}: m_B = {h.batch_ratio:.4g}",
        f"horizon      {si(h.tokens)} tokens, {h.steps:.0f} steps, {b.density:.3g} tokens a position: "
        f"m_D = {h.horizon_ratio:.4g}",
        f"kappa        {h.kappa:.4g} = m_B m_D^-{b.gamma:g}: the logical batch of this horizon is "
        f"{si(h.logical_positions / slots)} rows; AdamW rate and decay kappa^1/2, eps kappa^-1/2, betas^kappa; "
        "Muon rate kappa, momentum^kappa",
        f"critical     B_crit = {si(h.critical_positions / slots)} rows, beyond which fewer than S_crit = "
        f"{b.critical_steps} steps are left",
    ]


def table(made: Resolved) -> list[str]:
    """The groups with their numbers, the multiplier of their rate at the base, and their factors of the size."""
    columns = ("group", "steps by", "init std", "rate", "betas", "eps", "decay", "multiplier", FACTORS)
    rows = [columns, *(_row(made, s) for s in made.settings())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) - 1)]
    return ["  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def _row(made: Resolved, s: Setting) -> tuple[str, ...]:
    rule = rule_of(made.scale.parametrization, s.group, s.kind)
    muon = s.kind == "muon"
    return (
        s.name,
        s.kind,
        initial(made.config.model, s.group),
        f"{s.rate:.4g}",
        f"{s.momentum:.4g}" if muon else f"{s.beta1:.4g} {s.beta2:.4g}",
        "" if muon else f"{s.eps:.3g}",
        f"{s.decay:.4g}",
        f"{getattr(made.config.optimizer.multipliers, s.group):g}",
        ", ".join(str(x) for x in (rule.init, rule.rate, rule.eps, rule.decay)),
    )


def initial(model: ModelConfig, group: str) -> str:
    """Standard deviation of a group's initial weights, in words where they are constant."""
    if group.endswith("gain"):
        return "ones"
    if group in ("embedding", "head"):
        return f"{model.embedding_std if group == 'embedding' else model.head_std / model.width_ratio:.4g}"
    fan_in = model.hidden if group == "mlp_out" else model.width
    return f"{matrix_std(fan_in):.4g}"
