"""From a configuration to the numbers a run uses: what follows from its size, its batch and its horizon."""

from dataclasses import dataclass

import chz

from trimask.core.units import si
from trimask.model import accounting
from trimask.model.config import ModelConfig, width_at
from trimask.model.transformer import matrix_std
from trimask.optim.optimizer import OptimizerConfig, Scale, Setting, setting
from trimask.optim.parametrization import COMPLETEP, IN_BLOCKS, Rule, at_depth, rule_of
from trimask.optim.sde import BasePoint, Horizon, cautions
from trimask.train.config import TrainConfig
from trimask.train.device import Pace

UNMEASURED = Pace()
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
    pace: Pace = UNMEASURED

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
        c = self.config
        if self.horizon is None and c.batch.kappa is None:
            return []
        by_steps = c.budget.steps is not None
        return cautions(self.kappa, self.optimizer.beta1, self.horizon, c.rows, c.data.rows, by_steps)


def scale_of(model: ModelConfig) -> Scale:
    """A model beside its base."""
    return Scale(model.parametrization, model.width_ratio, model.depth_ratio, model.alpha, model.depth)


def resolve(config: TrainConfig, pace: Pace = UNMEASURED) -> Resolved:
    """Derive a run's settings. A budget of minutes needs the time of a step."""
    base = config.base
    horizon = None
    if base is not None:
        horizon = Horizon(base, config.rows * config.data.slots, steps(config, pace), density(config, pace))
    return Resolved(config, scale_of(config.model), base, horizon, pace)


def density(config: TrainConfig, pace: Pace) -> float:
    """Processed tokens of a position: counted on the data, as at the base point, or without one all a row can hold."""
    if pace.density is not None:
        return pace.density
    return config.base.density if config.base else (config.data.tokens or config.data.slots) / config.data.slots


def steps(config: TrainConfig, pace: Pace = UNMEASURED) -> float:
    """Steps that the budget lasts."""
    budget = config.budget
    if budget.steps is not None:
        return budget.steps
    if budget.tokens is not None:
        return budget.tokens / (config.rows * config.data.slots * density(config, pace))
    assert budget.minutes is not None and pace.seconds is not None, "minutes become steps by a measurement"
    return 60 * budget.minutes / pace.seconds


def run_seconds(config: TrainConfig, block_seconds: float) -> float:
    """Least time of the whole run."""
    step = least_seconds(config, block_seconds)
    return steps(config, Pace(step)) * step


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
    by_dial = m.width == width_at(m.depth, m.aspect, m.head_dim)
    dial = f" = aspect {m.aspect} x depth in whole heads" if by_dial else ""
    lines = [
        f"size         {m.depth} blocks, width {m.width}{dial}, {m.heads} heads of {m.head_dim}, gated MLP {m.hidden}",
        _base_line(made),
        f"branches     attention {m.branch_scales[0]:.4g}, MLP {m.branch_scales[1]:.4g}: "
        f"{m.attention_branch:g} and {m.mlp_branch:g} at the base, times m_L^-alpha, alpha {m.alpha:g}",
    ]
    if made.horizon is not None:
        lines += _horizon_lines(made, made.horizon)
    elif c.batch.kappa is None:
        lines.append("batch        no base point is stored: settings are used as they stand, whatever the batch")
    if c.batch.kappa is not None:
        lines.append(f"kappa        {made.kappa:.4g}, by hand (batch.kappa)")
    warmup = f", {steps(c, made.pace) * c.schedule.warmup:.0f} steps" if made.horizon else ""
    lines += [
        f"settings     rate, betas, epsilon, decay, multipliers, branches and first sizes: {o.source or 'the recipe'}",
        f"rate         {o.rate:.4g} at the base"
        + (f" (under {made.base.schedule}: {made.base.rate:g} times optimizer.rate)" if made.base else ""),
        f"schedule     {type(c.schedule).__name__}, warm-up {c.schedule.warmup:.0%} of the budget{warmup}",
        f"clip         {o.clip:g}, the same at every size",
        *([f"logits       times {m.logit_scale:.4g}: tied weights have the size of embeddings"] if m.tied else []),
        *([f"average      decay {made.ema:.6g} = {c.ema:g}^kappa"] if c.ema else []),
        "",
        *table(made),
        *(f"caution      {line}" for line in made.cautions),
    ]
    return lines


def _base_line(made: Resolved) -> str:
    m = made.config.model
    if m.parametrization == "standard":
        return "base         none: with the standard parametrization settings do not follow the size"
    return (
        f"base         width {m.base_width}, {m.base_depth} blocks: m_N = {made.scale.m_N:.4g}, "
        f"m_L = {made.scale.m_L:.4g} ({m.parametrization}{_source(m)})"
    )


def _source(m: ModelConfig) -> str:
    return {"completep": f", {DERIVED}", "mup": ", Yang et al. 2022, arXiv 2203.03466"}.get(m.parametrization, "")


def _horizon_lines(made: Resolved, h: Horizon) -> list[str]:
    c, b, slots = made.config, h.base, made.config.data.slots
    passes = f" in {c.passes} passes of {c.data.rows}" if c.passes > 1 else ""
    return [
        f"base point   {b.schedule}: {b.rows} rows of {b.slots}, {si(b.steps)} steps, {si(b.tokens)} tokens"
        f"{f' ({b.source})' if b.source else ''}",
        f"batch        {c.rows} rows of {slots}{passes}: m_B = {h.batch_ratio:.4g}",
        f"horizon      {h.steps:.0f} steps, {si(h.tokens)} tokens ({_length(made)}): m_D = {h.horizon_ratio:.4g}",
        *([] if c.batch.kappa is not None else [_kappa_line(h, slots)]),
        f"critical     B_crit = {si(h.critical_positions / slots)} rows, beyond which fewer than S_crit = "
        f"{h.critical_steps:.0f} steps are left"
        + (f" ({b.critical_steps} m_D^{b.critical_growth:g})" if b.critical_growth else ""),
    ]


def _kappa_line(h: Horizon, slots: int) -> str:
    between = f" ({h.kappas[0]:.3g} to {h.kappas[1]:.3g} over its interval)" if h.kappas else ""
    return (
        f"kappa        {h.kappa:.4g} = m_B m_D^-gamma, gamma = {h.base.gamma:g}{between}: the logical batch of this "
        f"horizon is {si(h.logical_positions / slots)} rows; AdamW rate and decay kappa^1/2, eps kappa^-1/2, "
        "betas^kappa; Muon rate kappa, momentum^kappa"
    )


def _length(made: Resolved) -> str:
    """Where the number of steps and of tokens comes from."""
    budget, pace, each = made.config.budget, made.pace, density(made.config, made.pace)
    counted = "counted on the data" if pace.density is not None else "as at the base point"
    of_tokens = f"{each:.3g} a position, {counted}"
    if budget.minutes is None or pace.seconds is None:
        return of_tokens
    timed = "timed on whole steps" if pace.whole else "guessed from a block: fewer are likely"
    return f"{budget.minutes:g} minutes of {pace.seconds:.3g} s a step, {timed}; tokens {of_tokens}"


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
        f"{s.decay:.4g}" if rule.decays else "none",
        f"{_multiplier(made, s):.4g}",
        _factors(made, rule),
    )


def _multiplier(made: Resolved, s: Setting) -> float:
    """Of the rate at the base: that of the group, times that of the block."""
    tuned = made.config.optimizer
    return getattr(tuned.multipliers, s.group) * at_depth(tuned.depths, s.block, made.scale.blocks)


def _factors(made: Resolved, rule: Rule) -> str:
    if made.scale.parametrization == "standard":
        return "none"
    return ", ".join([*(str(x) for x in (rule.init, rule.rate, rule.eps)), str(rule.decay) if rule.decays else "none"])


def initial(model: ModelConfig, group: str) -> str:
    """Standard deviation of a group's initial weights, in words where they are constant."""
    if group.endswith("gain"):
        return "ones"
    if group in ("embedding", "head"):
        return f"{model.embedding_std if group == 'embedding' else model.head_std / model.width_ratio:.4g}"
    fan_in = model.hidden if group == "mlp_out" else model.width
    return f"{matrix_std(fan_in):.4g}"
