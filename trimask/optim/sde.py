"""How settings follow the batch and the horizon: the rule of stochastic differential equations, with one kappa.

kappa = m_B * m_D^-gamma, with m_B the positions of a step and m_D the tokens of the run over those of the base point.
AdamW (Malladi et al. 2022, Mlodozeniec et al. 2025): rate and coupled decay by kappa^1/2, epsilon by kappa^-1/2, every
beta to the power kappa. Muon normalises an average of gradients, so its drift in a step does not depend on their
noise: rate by kappa, momentum to the power kappa, decay as it is. Nothing is clipped.
"""

from dataclasses import dataclass
from math import ceil, log

import chz

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
    critical_steps: int = chz.field(doc="fewest steps S_crit for which the rule holds")
    rate: float = chz.field(default=1.0, doc="multiplier of optimizer.rate under this schedule")
    source: str = chz.field(default="", doc="where this was measured")

    @chz.validate
    def _check(self):
        numbers = (self.rows, self.slots, self.steps, self.tokens, self.critical_steps, self.rate)
        if not all(n > 0 for n in numbers) or not 0 <= self.gamma <= 1:
            raise UsageError(f"a base point needs positive numbers and gamma in [0, 1], got {self}")

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
    """A run beside its base point: positions of a step, steps, processed tokens."""

    base: BasePoint
    positions: int
    steps: float

    @property
    def tokens(self) -> float:
        return self.steps * self.positions * self.base.density

    @property
    def batch_ratio(self) -> float:
        """m_B."""
        return self.positions / self.base.positions

    @property
    def horizon_ratio(self) -> float:
        """m_D."""
        # Tokens a position cancel: at the base this is exactly 1.
        return (self.steps * self.positions) / (self.base.steps * self.base.positions)

    @property
    def kappa(self) -> float:
        return kappa(self.batch_ratio, self.horizon_ratio, self.base.gamma)

    @property
    def logical_positions(self) -> float:
        """Positions of a step at which the settings of the base hold as they are."""
        return self.base.positions * self.horizon_ratio**self.base.gamma

    @property
    def critical_positions(self) -> float:
        """B_crit: positions of a step beyond which fewer than S_crit steps are left."""
        return self.positions * self.steps / self.base.critical_steps


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


def cautions(horizon: Horizon, k: float, beta1: float, rows: int, slots: int, by_steps: bool = False) -> list[str]:
    """What a user must know of a run that leaves the range in which the rule was measured.

    `k` is kappa, `rows` of `slots` positions are a step. With `by_steps` the run's length is a number of steps, so
    that more rows are also more tokens.
    """
    base = horizon.base
    by_hand = k != horizon.kappa
    power = 1.0 if not by_steps else 1 / (1 - base.gamma) if base.gamma < 1 else None

    def advice(low: float, high: float) -> str:
        """Which rows give a kappa in a range."""
        if by_hand or power is None:
            return "choose another kappa" if by_hand else "choose another length"
        least, most = (rows * (wanted / k) ** power for wanted in (low, high))
        return f"choose batch.rows from {max(1, ceil(least))} to {int(most)}" if most >= 1 else "train longer"

    out = []
    if not NARROW <= k <= WIDE:
        logical = horizon.logical_positions / slots
        out.append(
            f"kappa={k:.3g} is outside [{NARROW:g}, {WIDE:g}], where nothing was measured: a step has {rows} rows, "
            f"the logical batch {logical:.3g}; {advice(NARROW, WIDE)}"
        )
    if beta1 > 0 and beta1**k < SHORT_MEMORY:
        out.append(
            f"beta1^kappa = {beta1:g}^{k:.3g} = {beta1**k:.2f} is below {SHORT_MEMORY:g}, too short a memory; "
            f"{advice(NARROW, log(SHORT_MEMORY) / log(beta1))}"
        )
    if horizon.steps < base.critical_steps:
        cure = f"train for at least {base.critical_steps} steps" if by_steps else "choose fewer rows or a longer run"
        out.append(
            f"the run has {horizon.steps:.0f} steps, fewer than S_crit={base.critical_steps}: batch.rows={rows} is "
            f"past the critical batch of so many tokens, B_crit={horizon.critical_positions / slots:.0f} rows, and the "
            f"loss will be higher than need be; {cure}"
        )
    return out
