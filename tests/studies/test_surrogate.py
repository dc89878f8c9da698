"""The model of trials that says what to try next, on laws that it can know and on one that it must find."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from test_tuning import trial

from trimask.core.rng import generator
from trimask.studies.presets import Options, Trial
from trimask.studies.surrogate import Encoding, best, log_odds, regression

SPACE = {"sampler": ("a", "b=1", "b=2", "b=4"), "steps": (4, 16, 64), "guidance": (0.0, 0.5, 2.0, "0:3")}
FAMILIES = (("a",), ("b=1", "b=2", "b=4"))


def limit(options: Options) -> float | None:
    """Of the family of b, which takes as many steps as the model asks for."""
    return options.get("steps", np.inf) if str(options.get("sampler", "")).startswith("b") else None


ENCODING = Encoding(SPACE, FAMILIES, {"steps": 64, "guidance": 2.0}, limit)


def measured(options: Options) -> Trial:
    """Log-odds that are sums of effects, and passes that are products."""
    guidance, most = options.get("guidance", 2.0), limit(options)
    odds = {0.0: 0.0, 0.5: 1.0, 2.0: 0.3, "0:3": 0.1}[guidance]
    odds += {"a": 0.9, "b=1": 0.5, "b=2": 0.1, "b=4": -0.5}.get(str(options.get("sampler")), 0.0)
    odds += 0.25 * np.log2((options.get("steps", 64) if most is None else min(most, 64)) / 64)
    rounds = (
        options.get("steps", 64) if most is None else min(most, {"b=1": 12, "b=2": 6, "b=4": 3}[options["sampler"]])
    )
    cost = float(rounds * (1 if guidance == 0 else 2))
    return replace(trial(float(expit(odds)), cost, error=0.01), options=options, items=10_000, passes=cost)


SINGLE = [
    {},
    *({"steps": n} for n in (4, 16)),
    *({"guidance": g} for g in (0.0, 0.5, "0:3")),
    *({"sampler": s} for s in SPACE["sampler"]),
]
PAIRS = [{"sampler": s, "guidance": g} for s in SPACE["sampler"] for g in (0.0, 0.5, "0:3")]


def test_numbers_and_families_are_steps_up_and_a_limit_is_no_number_of_steps():
    assert ENCODING.names({}) == {
        "always", "sampler=None", "steps>=4", "steps>=16", "steps>=64", "guidance>=0", "guidance>=0.5", "guidance>=2"
    }  # fmt: skip
    found = ENCODING.names({"sampler": "b=2", "steps": 4, "guidance": "0:3"})
    assert found == {"always", "b=1", "b=2", "limit<=4", "limit<=16", "limit<=64", "guidance=0:3"}
    assert not {name for name in ENCODING.names({"sampler": "b=1"}) if "limit" in name or "steps" in name}
    assert ENCODING.matrix([{}, {"steps": 4}]).sum(1).tolist() == [8, 6]


def test_effects_are_found_and_what_is_not_known_is_wide():
    rng = np.random.default_rng(0)
    x = (rng.random((400, 4)) < 0.5).astype(float)
    x[:, 3] = 0
    true = np.array([0.5, -0.3, 0.2, 0.0])
    mean, covariance = regression(x, x @ true + 0.1 * rng.standard_normal(400), np.full(400, 0.1))
    assert mean == pytest.approx(true, abs=0.05)
    assert np.sqrt(np.diag(covariance))[3] == pytest.approx(0.7) and np.sqrt(np.diag(covariance))[:3].max() < 0.02


def test_certain_trials_are_not_infinitely_sure():
    odds, error = log_odds([trial(1.0, 4, error=0.0), trial(0.5, 4, error=0.2)])
    assert np.isfinite(odds).all() and odds[0] == pytest.approx(logit(8.5 / 9)) and (error > 0.3).all()


def test_two_good_changes_are_put_together():
    """Of pairs that nobody tried, from what each change does alone: most draws of the effects say so."""
    trials = [measured(o) for o in SINGLE]
    known = {len(t) % 3: t for t in (trials[:9], trials, [*trials, trials[0]])}
    chosen = {
        aim: [best(ENCODING, known[aim], PAIRS, 4.0, generator("surrogate", n)) for n in range(30)] for aim in range(3)
    }
    assert chosen[0].count({"sampler": "a", "guidance": 0.5}) > 15
    # At most a quarter of 128 passes: only the family that decides itself is as quick, and its strictest is best.
    assert chosen[1].count({"sampler": "b=1", "guidance": 0.5}) > 15
    assert all(measured(o).passes <= 32 for o in chosen[1])
    # What rises most above what is known at its cost is cheap.
    assert max(measured(o).cost for o in chosen[2]) < 128
