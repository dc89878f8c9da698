"""How settings follow the batch and the horizon: the rule of stochastic differential equations, with one kappa.

kappa = m_B * m_D^-gamma, with m_B the transformer positions of a step and m_D those of the run over those of the base
point. Both are counted in positions: what the tokens of a position are differs from modality to modality.
AdamW (Malladi et al. 2022, Mlodozeniec et al. 2025): rate and coupled decay by kappa^1/2, epsilon by kappa^-1/2, every
beta to the power kappa. Muon normalises an average of gradients, so its drift in a step does not depend on their
noise: rate by kappa, momentum to the power kappa, decay as it is. Nothing is clipped.
"""

from dataclasses import dataclass
from math import ceil, floor, inf, log

import chz

from trimask.core.config import POSITIVE, SHARE, check
from trimask.core.errors import UsageError
from trimask.optim.parametrization import Kind

NARROW, WIDE = 1 / 16, 4.0
"""Outside these the rule is an extrapolation that nobody has measured."""
SHORT_MEMORY = 0.6
"""A beta1 below it averages over less than two and a half steps."""


@chz.chz
class BasePoint:
    """Where the settings of a schedule were tuned, and the constants of the rule that were fitted there."""

    schedule: str = chz.field(doc="class of the learning-rate schedule, for example Cosine")
    rows: int = chz.field(doc="rows of a step")
    slots: int = chz.field(doc="transformer positions of a row")
    steps: int
    tokens: int = chz.field(doc="processed tokens of the run D_base")
    gamma: float = chz.field(doc="by what power of the horizon the logical batch grows")
    gammas: tuple[float, ...] = chz.field(default=(), doc="ends of the 95 % interval of gamma; empty: not known")
    longest: float | None = chz.field(default=None, doc="longest run it was measured on, in runs of the base")
    critical_steps: int = chz.field(doc="fewest steps S_crit for which the rule holds, at the length of the base")
    critical_growth: float = chz.field(default=0.0, doc="by what power of the horizon S_crit grows")
    rate: float = chz.field(default=1.0, doc="multiplier of optimizer.rate under this schedule")
    source: str = chz.field(default="", doc="where this was measured")

    @chz.validate
    def _check(self):
        where = f"the base point of {self.schedule}: bases"
        check(self, where, POSITIVE, "rows", "slots", "steps", "tokens", "critical_steps", "rate", "longest")
        check(self, where, SHARE, "critical_growth")
        if not 0 <= self.gamma <= 1 or len(self.gammas) not in (0, 2) or not all(0 <= g <= 1 for g in self.gammas):
            raise UsageError(f"{where}.gamma={self.gamma} and its interval {self.gammas} must lie in [0, 1]")

    @property
    def positions(self) -> int:
        """Transformer positions of a step."""
        return self.rows * self.slots

    @property
    def density(self) -> float:
        """Processed tokens of a position: a picture's patch and a stacked frame hold several."""
        return self.tokens / (self.steps * self.positions)


@dataclass(frozen=True)
class Horizon:
    """A run beside its base point: positions of a step, steps, processed tokens of a position."""

    base: BasePoint
    positions: int
    steps: float
    density: float

    @property
    def tokens(self) -> float:
        return self.steps * self.positions * self.density

    @property
    def batch_ratio(self) -> float:
        """m_B."""
        return self.positions / self.base.positions

    @property
    def horizon_ratio(self) -> float:
        """m_D."""
        return (self.steps * self.positions) / (self.base.steps * self.base.positions)

    @property
    def kappa(self) -> float:
        return kappa(self.batch_ratio, self.horizon_ratio, self.base.gamma)

    @property
    def kappas(self) -> tuple[float, float] | None:
        """kappa at the ends of the interval of gamma, the smaller first."""
        if not self.base.gammas:
            return None
        low, high = sorted(kappa(self.batch_ratio, self.horizon_ratio, g) for g in self.base.gammas)
        return low, high

    @property
    def logical_positions(self) -> float:
        """Positions of a step at which the settings of the base hold as they are."""
        return self.base.positions * self.horizon_ratio**self.base.gamma

    @property
    def critical_positions(self) -> float:
        """B_crit: positions of a step beyond which fewer than S_crit steps are left."""
        return self.positions * self.steps / self.critical_steps

    @property
    def critical_steps(self) -> float:
        """S_crit of this horizon."""
        return self.base.critical_steps * self.horizon_ratio**self.base.critical_growth

    @property
    def least_steps(self) -> float:
        """Fewest steps of this batch that are S_crit of so long a run or more."""
        each = self.positions / (self.base.steps * self.base.positions)
        growth = self.base.critical_growth
        return (self.base.critical_steps * each**growth) ** (1 / (1 - growth))


def kappa(m_B: float, m_D: float, gamma: float) -> float:
    """m_B * m_D^-gamma."""
    return m_B * m_D**-gamma


@dataclass(frozen=True)
class Factors:
    """What kappa does to a group's settings; betas and momentum go to the power `memory`."""

    rate: float
    eps: float
    decay: float
    memory: float


def factors(kappa: float, kind: Kind) -> Factors:
    """Factors of AdamW or Muon at this kappa."""
    if kind == "muon":
        return Factors(kappa, 1.0, 1.0, kappa)
    return Factors(kappa**0.5, kappa**-0.5, kappa**0.5, kappa)


def cautions(
    k: float, beta1: float, horizon: Horizon | None, rows: int = 1, unit: int = 1, by_steps: bool = False
) -> list[str]:
    """What a user must know of a run that leaves the range in which the rule was measured.

    `k` is kappa, `rows` are those of a step and come in multiples of `unit`. With `by_steps` the run's length is a
    number of steps, so that more rows are also more tokens. Without a horizon nothing but kappa is known.
    """
    most = min(WIDE, log(SHORT_MEMORY) / log(beta1) if beta1 > 0 else inf)
    if horizon is None or k != horizon.kappa:
        advice = f"choose batch.kappa from {NARROW:g} to {most:.3g}"
        where = "set by hand"
    else:
        advice = _advice(horizon, k, most, rows, unit, by_steps)
        logical = horizon.logical_positions / horizon.positions * rows
        where = f"a step has {rows} rows, the logical batch {logical:.3g}"
    out = []
    if not NARROW <= k <= WIDE:
        out.append(f"kappa={k:.3g} is outside [{NARROW:g}, {WIDE:g}], where nothing was measured: {where}; {advice}")
    if beta1 > 0 and beta1**k < SHORT_MEMORY:
        out.append(
            f"beta1^kappa = {beta1:g}^{k:.3g} = {beta1**k:.2f} is below {SHORT_MEMORY:g}, too short a memory; {advice}"
        )
    return out if horizon is None else [*out, *_of_length(horizon, rows, advice, by_steps)]


def _of_length(horizon: Horizon, rows: int, advice: str, by_steps: bool) -> list[str]:
    """Cautions about too few steps, and about a length that nobody has measured."""
    base, out = horizon.base, []
    if horizon.steps < horizon.critical_steps:
        cure = f"train for at least {ceil(horizon.least_steps)} steps" if by_steps else advice
        critical = horizon.critical_positions / horizon.positions * rows
        limit = f"{floor(critical)}" if critical >= 1 else f"{critical:.2g}"
        out.append(
            f"the run has {horizon.steps:.0f} steps, fewer than S_crit={horizon.critical_steps:.0f}: batch.rows={rows} "
            f"is past the critical batch of so many tokens, B_crit={limit} rows, and the loss will be higher than need "
            f"be; {cure}"
        )
    if base.longest is not None and horizon.horizon_ratio > base.longest:
        between = horizon.kappas
        spread = f": over the interval of gamma kappa is {between[0]:.3g} to {between[1]:.3g}" if between else ""
        out.append(
            f"the run is {horizon.horizon_ratio:.3g} times as long as the base, and gamma was measured up to "
            f"{base.longest:g}{spread}. `trimask study horizon` measures longer runs"
        )
    return out


def _advice(horizon: Horizon, k: float, most: float, rows: int, unit: int, by_steps: bool) -> str:
    """Which rows give a kappa from `NARROW` to `most` and steps enough."""
    gamma = horizon.base.gamma
    if by_steps and gamma == 1:
        return "choose another length"
    power = 1 / (1 - gamma) if by_steps else 1.0
    low, high = (rows * (wanted / k) ** power for wanted in (NARROW, most))
    if not by_steps:
        high = min(high, horizon.critical_positions / horizon.positions * rows)
    # A hair of slack: at the edges rounding decides.
    least, largest = max(1, ceil(low / unit - 1e-9)) * unit, int(high / unit + 1e-9) * unit
    if largest == least:
        return f"choose batch.rows={least}"
    return f"choose batch.rows from {least} to {largest}" if largest > least else "train longer"
