"""The rule of batch and horizon as invariants, and what a user is told outside its range."""

import math

import chz
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimask.core.errors import UsageError
from trimask.optim.optimizer import OptimizerConfig, Scale, Setting, setting
from trimask.optim.parametrization import COMPLETEP
from trimask.optim.sde import BasePoint, Horizon, cautions, factors, kappa

BASE = BasePoint(
    schedule="Cosine", rows=64, slots=256, steps=20_000, tokens=64 * 256 * 20_000, gamma=0.44, critical_steps=1000
)
"""A token a position; at its own horizon a run of n rows has kappa = n / 64."""

BASES = st.builds(
    BasePoint,
    schedule=st.just("Cosine"),
    rows=st.integers(1, 512),
    slots=st.integers(16, 4096),
    steps=st.integers(100, 10**6),
    tokens=st.integers(10**6, 10**13),
    gamma=st.floats(0, 1),
    critical_steps=st.integers(1, 10**5),
)
RATIO = st.floats(1 / 64, 64)
"""m_B or m_D."""


def at(base: BasePoint, m_B: float, m_D: float) -> Horizon:
    """A run with so many times the positions of a step and the tokens of the base. Positions are whole."""
    positions = max(1, round(m_B * base.positions))
    return Horizon(base, positions, m_D * base.tokens / (positions * base.density), base.density)


def settings(horizon: Horizon, matrices: str) -> list[Setting]:
    """Of every group that decays, at another size: what kappa does must not depend on either."""
    config, scale = OptimizerConfig(matrices=matrices), Scale("completep", 4.0, 3.0, 0.75)
    return [setting(config, scale, horizon.kappa, g) for g in COMPLETEP if COMPLETEP[g].decays]


def constant(s: Setting, h: Horizon) -> tuple[float, ...]:
    """What the batch must not change at one horizon."""
    B = h.positions
    if s.kind == "muon":
        return s.rate / B, s.decay, math.log(s.momentum) / B
    betas = math.log(s.beta1) / B, math.log(s.beta2) / B
    return s.rate**2 / B, s.rate * s.decay / B, *betas, s.eps * B**0.5


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
@given(base=BASES, one=RATIO, two=RATIO, m_D=RATIO)
def test_invariants_of_the_batch_at_one_horizon(matrices, base, one, two, m_D):
    a, b = at(base, one, m_D), at(base, two, m_D)
    assert a.tokens == pytest.approx(b.tokens, rel=1e-9)
    for s, t in zip(settings(a, matrices), settings(b, matrices), strict=True):
        assert constant(s, a) == pytest.approx(constant(t, b), rel=1e-9, abs=0)


@given(base=BASES, m_B=RATIO, one=RATIO, two=RATIO)
def test_the_noise_of_a_run_grows_with_the_horizon_at_one_batch(base, m_B, one, two):
    """rate^2 steps goes with m_D^(1 - gamma); the memory of the weights, in runs, with m_D^-(1 - gamma)."""
    a, b = at(base, m_B, one), at(base, m_B, two)
    growth = (two / one) ** (1 - base.gamma)
    for s, t in zip(settings(a, "adamw"), settings(b, "adamw"), strict=True):
        assert t.rate**2 * b.steps == pytest.approx(s.rate**2 * a.steps * growth, rel=1e-9)
        assert t.rate * t.decay * b.steps == pytest.approx(s.rate * s.decay * a.steps * growth, rel=1e-9)


@given(base=BASES, m_D=RATIO)
def test_at_the_logical_batch_the_settings_of_the_base_hold(base, m_D):
    logical = at(base, 1.0, m_D).logical_positions
    assert kappa(logical / base.positions, m_D, base.gamma) == pytest.approx(1.0, rel=1e-9)
    assert logical == pytest.approx(base.positions * m_D**base.gamma, rel=1e-9)
    assert at(base, 1.0, 1.0).kappa == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_known_factors(kind):
    f, at_one = factors(4.0, kind), factors(1.0, kind)
    expected = {"adamw": (2.0, 0.5, 2.0, 4.0), "muon": (4.0, 1.0, 1.0, 4.0)}
    assert (f.rate, f.eps, f.decay, f.memory) == expected[kind]
    assert (at_one.rate, at_one.eps, at_one.decay, at_one.memory) == (1.0, 1.0, 1.0, 1.0)


def test_betas_go_to_the_power_of_kappa_and_nothing_is_clipped():
    for k in (1e-3, 0.5, 100.0):
        s = setting(OptimizerConfig(), Scale(), k, "head")
        assert (s.beta1, s.beta2) == (pytest.approx(0.9**k), pytest.approx(0.95**k))
        assert (s.rate, s.eps) == (pytest.approx(2**-8 * k**0.5), pytest.approx(1e-8 / k**0.5))


@given(base=BASES, m_B=RATIO, m_D=RATIO)
def test_a_horizon_is_counted_in_the_tokens_of_its_base(base, m_B, m_D):
    h = at(base, m_B, m_D)
    assert h.tokens == pytest.approx(m_D * base.tokens, rel=1e-9)
    assert h.horizon_ratio == pytest.approx(m_D, rel=1e-9)
    assert h.batch_ratio == h.positions / (base.rows * base.slots)
    assert h.kappa == pytest.approx(h.batch_ratio * m_D**-base.gamma, rel=1e-9)
    itself = Horizon(base, base.positions, base.steps, base.density)
    assert itself.tokens == pytest.approx(base.tokens, rel=1e-12) and itself.batch_ratio == 1.0


@given(base=BASES, m_B=RATIO, m_D=RATIO)
def test_the_critical_batch_leaves_exactly_the_critical_steps(base, m_B, m_D):
    """It belongs to the horizon: whatever the batch, it is the same."""
    h = at(base, m_B, m_D)
    assert h.tokens / (h.critical_positions * base.density) == pytest.approx(base.critical_steps, rel=1e-9)
    assert h.critical_positions == pytest.approx(at(base, 1.0, m_D).critical_positions, rel=1e-9)
    assert (h.positions <= h.critical_positions) == (h.steps >= base.critical_steps)


def told(rows: int, base: BasePoint = BASE, beta1: float = 0.9, m_D: float = 1.0) -> list[str]:
    """Cautions for a run of so many rows."""
    horizon = Horizon(base, rows * base.slots, m_D * base.steps * base.rows / rows, base.density)
    return cautions(horizon.kappa, beta1, horizon, rows)


def horizon_of(rows: int, steps: float) -> Horizon:
    return Horizon(BASE, rows * BASE.slots, steps, BASE.density)


def at_rows(rows: int, base: BasePoint) -> Horizon:
    """So many rows a step, the tokens of the base."""
    return Horizon(base, rows * base.slots, base.steps * base.rows / rows, base.density)


def one(lines: list[str], *parts: str) -> None:
    assert len(lines) == 1 and all(part in lines[0] for part in parts), lines


def test_a_batch_far_from_the_logical_one_is_said():
    where = ("outside [0.0625, 4]", "logical batch 64;", "batch.rows from 4 to 256")
    one(told(3), "kappa=0.0469", "3 rows", *where)
    one(told(288), "kappa=4.5", "288 rows", *where)
    # At the edges the rule still holds; sixteen times the tokens make the logical batch 16^0.44 times as large.
    assert told(4) == told(256) == []
    one(told(4, m_D=16.0), "kappa=0.0185", "logical batch 217;", "batch.rows from 14 to 867")


def test_a_memory_that_is_too_short_is_said():
    one(told(256, beta1=0.85), "0.85^4 = 0.52", "below 0.6", "choose batch.rows from 4 to 201")
    assert told(201, beta1=0.85) == [] and len(told(202, beta1=0.85)) == 1
    assert 64 * math.log(0.6) / math.log(0.85) == pytest.approx(201.2, abs=0.05)


def test_a_batch_past_the_critical_one_is_said():
    base = chz.replace(BASE, critical_steps=15_000)
    one(told(128, base), "10000 steps", "S_crit=15000", "batch.rows=128", "B_crit=85 rows")
    assert told(85, base) == [] and len(told(86, base)) == 1
    assert told(64, chz.replace(BASE, critical_steps=20_000)) == []


def test_advice_holds_for_what_fixes_the_length_of_the_run():
    """With a number of steps more rows are more tokens: kappa grows as rows^(1 - gamma)."""
    by_steps = horizon_of(1024, 20_000)
    (line,) = cautions(by_steps.kappa, 0.99, by_steps, 1024, by_steps=True)
    most = int(line.rpartition(" to ")[2])
    assert horizon_of(most, 20_000).kappa <= 4 < horizon_of(most + 1, 20_000).kappa
    short = horizon_of(64, 0.02)
    assert cautions(short.kappa, 0.99, short, 64)[0].endswith("train longer")
    (line,) = cautions(100.0, 0.9999, horizon_of(64, 20_000), 64)
    assert "kappa=100" in line and line.endswith("choose batch.kappa from 0.0625 to 4")
    (line,) = cautions(0.01, 0.9, None)
    assert "kappa=0.01" in line and line.endswith("choose batch.kappa from 0.0625 to 4")


def test_advice_is_a_batch_that_can_be_had():
    """Whole passes, and no more than the critical batch: what is advised is not cautioned."""
    base = chz.replace(BASE, critical_steps=10_000)
    for unit in (1, 8, 48):
        far = at_rows(4800, base)
        lines = cautions(far.kappa, 0.9, far, 4800, unit)
        (low, high) = ({line.rpartition("batch.rows from ")[2] for line in lines}.pop()).split(" to ")
        for rows in (int(low), int(high)):
            assert rows % unit == 0 and not cautions(at_rows(rows, base).kappa, 0.9, at_rows(rows, base), rows, unit)
        assert at_rows(int(high) + unit, base).steps < base.critical_steps


def test_the_critical_steps_may_grow_with_the_horizon():
    base = chz.replace(BASE, critical_steps=1000, critical_growth=0.5)
    far = Horizon(base, base.positions, 16 * base.steps, base.density)
    assert far.critical_steps == pytest.approx(4000)
    assert far.critical_positions == pytest.approx(base.positions * 16 * base.steps / 4000)
    few = Horizon(base, 4 * base.positions, 100, base.density)
    enough = Horizon(base, few.positions, few.least_steps, base.density)
    assert enough.critical_steps == pytest.approx(enough.steps)
    assert "at least" in cautions(few.kappa, 0.99, few, 256, by_steps=True)[-1]


def test_every_caution_is_said_where_all_hold():
    lines = told(512, chz.replace(BASE, critical_steps=15_000))
    assert [line.split()[0] for line in lines] == ["kappa=8", "beta1^kappa", "the"]


@given(
    rows=st.integers(1, 10**4), m_D=st.floats(1 / 16, 16), beta1=st.floats(0.7, 0.99), critical=st.integers(1, 10**5)
)
def test_nothing_is_said_in_the_middle_of_the_range_and_something_outside(rows, m_D, beta1, critical):
    base = chz.replace(BASE, critical_steps=critical)
    k, steps = rows / 64 * m_D**-0.44, m_D * 20_000 * 64 / rows
    outside = [not 1 / 16 <= k <= 4, beta1**k < 0.6, steps < critical]
    # On an edge a rounding decides.
    assume(min(abs(k * 16 - 1), abs(k / 4 - 1), abs(beta1**k / 0.6 - 1), abs(steps / critical - 1)) > 1e-9)
    assert len(told(rows, base, beta1, m_D)) == sum(outside)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 0} for name in ("rows", "slots", "steps", "tokens", "critical_steps", "rate")),
        *({name: -1} for name in ("rows", "tokens", "rate")),
        {"gamma": -0.01},
        {"gamma": 1.01},
        {"gamma": math.nan},
        {"gammas": (0.1,)},
        {"gammas": (0.1, 1.2)},
        {"critical_growth": 1.0},
        {"tokens": math.inf},
    ],
    ids=str,
)
def test_an_impossible_base_point_is_refused(changes):
    (name,) = changes
    with pytest.raises(UsageError, match=rf"base point of Cosine: bases\.(gamma=.* interval|{name}=.* must be)"):
        chz.replace(BASE, **changes)


def test_a_base_point_may_sit_on_the_edges_of_gamma():
    for gamma, k in ((0.0, 0.5), (1.0, 1 / 32)):
        base = chz.replace(BASE, gamma=gamma)
        assert Horizon(base, 32 * 256, 16 * 40_000, base.density).kappa == pytest.approx(k)
