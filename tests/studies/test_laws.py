"""Scaling laws: what a fit finds of tables whose truth is known, and what it says of bad ones."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from trimask.core.errors import DataError, UsageError
from trimask.studies import fitting, runs
from trimask.studies.fitting import bootstrap, fit, intervals, isoflop, twin
from trimask.studies.laws import Coupled, Mixture, Optimum, PowerLaw, Repeated, Shared, Table, Units, published
from trimask.studies.verdict import Asked, judged

RUNS = 80
SHAPES = np.random.default_rng(7)
PARAMS = np.exp(SHAPES.uniform(math.log(1e6), math.log(1e9), RUNS))
TOKENS = PARAMS * np.exp(SHAPES.uniform(math.log(3), math.log(300), RUNS))


def table(loss_R=None, **more) -> Table:
    return Table(PARAMS, TOKENS, np.ones(RUNS) if loss_R is None else loss_R, np.arange(RUNS), **more)


def made(law, theta_P, noise: float = 0.0, **more) -> Table:
    """A table of which a law is the truth."""
    blank = table(**more)
    clean_R = law.predict(np.asarray(theta_P, float), blank)
    return blank.replaced(clean_R * np.exp(np.random.default_rng(1).normal(0, noise, RUNS)))


UNITS = Units.of(table())
TRUTH = np.array([-0.5, -0.2, 0.6, 0.34, 0.37])


@settings(max_examples=15, deadline=None)
@given(st.floats(-2, 0.5), st.floats(-2, 0.5), st.floats(-1, 1), st.floats(0.15, 0.9), st.floats(0.15, 0.9))
def test_a_power_law_is_found_again(a, b, e, alpha, beta):
    law = PowerLaw(UNITS)
    exact = made(law, [a, b, e, alpha, beta])
    found = fit(law, exact)
    assert found.values == pytest.approx(law.values(np.array([a, b, e, alpha, beta])), rel=1e-4)
    assert not found.cautions
    assert found.error(exact) < 1e-5


def shares() -> np.ndarray:
    return np.random.default_rng(3).dirichlet([2, 2, 2], RUNS) * 0.7 + 0.1


@pytest.mark.parametrize(
    ("law", "theta", "more"),
    [
        (Coupled(UNITS), [*TRUTH, 0.4], {}),
        (Repeated(UNITS), [*TRUTH, math.log(12)], {"unique_R": TOKENS / np.tile([1, 2, 8, 40], RUNS // 4)}),
        (
            Shared(UNITS, ("text", "image")),
            [0.34, 0.37, -0.5, -0.2, 0.6, -1.0, 0.3, 0.9],
            {"target_R": np.tile(["text", "image"], RUNS // 2)},
        ),
    ],
)
def test_its_relatives_are_found_again(law, theta, more):
    found = fit(law, made(law, theta, **more))
    assert found.values == pytest.approx(law.values(np.array(theta)), rel=1e-4)


@pytest.mark.parametrize("joint", [False, True])
def test_a_law_of_mixtures_predicts_other_mixtures(joint):
    rest = [0.1, -0.3, 0.5, 0.8, -0.2, 0.4, 0.1, 0.9] if joint else [-0.5, -0.2]
    theta = [0.3, 0.34, 0.37, 0.2, 0.6, -0.4, 0.3, 0.6, 0.5, *rest]
    law = Mixture(UNITS, sources=3, joint=joint, count=12)
    exact = made(law, theta, shares_RK=shares())
    seen = np.arange(RUNS) % 4 != 0
    found = fit(law, exact.rows(seen))
    assert found.error(exact.rows(~seen)) < 1e-4


@pytest.mark.parametrize("joint", [False, True])
def test_the_best_shares_are_those_of_a_grid(joint):
    rest = [0.1, -0.3, 0.5, 0.8, -0.2, 0.4, 0.1, 0.9] if joint else [-0.5, -0.2]
    theta = np.array([0.3, 0.34, 0.37, 0.2, 0.6, -0.4, 0.3, 0.6, 0.5, *rest])
    other = theta.copy()
    other[3:6] += 0.9, -0.9, 0.2
    law = Mixture(UNITS, sources=3, joint=joint)
    fits = [fitting.Fit(law, t, 0.0, 2, 1.0, True) for t in (theta, other)]
    found = fitting.best_shares(fits, 1e8, 1e10, weights=(1, 3))
    axis = np.linspace(0.005, 0.995, 199)
    grid = np.array([(a, b, 1 - a - b) for a in axis for b in axis if a + b < 0.999])
    size = len(grid)
    every = Table(np.full(size, 1e8), np.full(size, 1e10), np.ones(size), np.arange(size), shares_RK=grid)
    loss = law.predict(theta, every) + 3 * law.predict(other, every)
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx(grid[np.argmin(loss)], abs=0.01)


LAWS = [
    (PowerLaw(UNITS), {}),
    (Coupled(UNITS), {}),
    (Repeated(UNITS), {"unique_R": TOKENS / 7}),
    (Shared(UNITS, ("a", "b")), {"target_R": np.tile(["a", "b"], RUNS // 2)}),
    (Mixture(UNITS, sources=3), {"shares_RK": shares()}),
    (Mixture(UNITS, sources=3, joint=True), {"shares_RK": shares()}),
]


@pytest.mark.parametrize(("law", "more"), LAWS)
def test_gradients_are_those_of_the_objective(law, more):
    t = table(np.exp(np.random.default_rng(2).normal(1, 0.1, RUNS)), **more)
    value = fitting.objective(law, t, np.ones(RUNS), 0.05)
    theta = law.starts(t)[0]
    assert len(theta) == len(law.bounds)
    size = np.linalg.norm(value(theta)[1])
    assert check_grad(lambda x: value(x)[0], lambda x: value(x)[1], theta) < 1e-4 * size


@pytest.mark.parametrize(("law", "theta"), [(PowerLaw(UNITS), TRUTH), (Coupled(UNITS), [*TRUTH, -0.8])])
def test_values_are_published_as_the_law_predicts(law, theta):
    values = law.values(np.asarray(theta))
    told = [published(values, n, d) for n, d in zip(PARAMS, TOKENS, strict=True)]
    assert told == pytest.approx(law.predict(np.asarray(theta), table()))


def test_the_law_that_predicts_the_largest_size_better_is_chosen():
    """The choice is made without the sizes that are held out."""
    sizes, lengths = np.geomspace(1e6, 2e8, 6), np.geomspace(1e8, 1e10, 6)
    params_R, tokens_R = (x.ravel() for x in np.meshgrid(sizes, lengths))
    blank = Table(params_R, tokens_R, np.ones(36), np.arange(36))
    loss_R = Coupled(Units.of(blank)).predict(np.array([0.2, 0.2, -1.5, 0.3, 0.25, -1.2]), blank)
    runs = blank.replaced(loss_R * np.exp(np.random.default_rng(0).normal(0, 1e-3, 36)))
    told = judged(runs, Asked("chosen", held_out=1, draws=0))
    assert isinstance(told.fit.law, Coupled) and told.fit.values["k"] == pytest.approx(0.3, rel=0.2)
    assert f"Law coupled: laws of the smaller sizes err on the {sizes[-2]:.4g} parameters" in told.report.findings[0]
    few = judged(runs.rows(params_R <= sizes[2]), Asked("chosen", draws=0))
    assert "4 sizes are needed to choose" in few.report.findings[0] and type(few.fit.law) is PowerLaw


@pytest.mark.parametrize("kind", [Coupled, Repeated])
def test_a_law_contains_the_power_law(kind):
    law, t = kind(UNITS), table(unique_R=TOKENS)
    assert law.predict(np.array([*TRUTH, 0.0]), t) == pytest.approx(PowerLaw(UNITS).predict(TRUTH, t))


def test_data_that_repeat_often_are_worth_less_than_new_ones():
    """Muennighoff et al.: up to four epochs are almost as good as new data, forty are not."""
    law, theta = Repeated(UNITS), np.array([*TRUTH, math.log(15)])
    new, four, forty = (law.predict(theta, table(unique_R=TOKENS / epochs)) for epochs in (1, 4, 40))
    assert (new <= four).all() and (four < forty).all()
    assert ((four - new) < 0.2 * (forty - new)).all()


def test_the_grid_of_starts_and_variable_projection_end_alike():
    law = PowerLaw(UNITS)
    noisy = made(law, TRUTH, noise=0.01)
    grid = law.grid()
    assert len(grid) == 4500
    one, other = fit(law, noisy), fit(law, noisy, grid[::90], jobs=2)
    assert other.starts == 50 and 0 < other.reached < 1
    assert one.objective == pytest.approx(other.objective, rel=1e-6)
    assert one.values == pytest.approx(other.values, rel=1e-3)


def test_a_start_of_the_grid_means_what_is_published():
    law = PowerLaw(UNITS)
    values = [law.values(theta) for theta in law.grid()[[0, -1]]]
    assert values[0] == pytest.approx({"A": 1, "B": 1, "E": math.exp(-1), "alpha": 0, "beta": 0})
    assert values[1] == pytest.approx({"A": math.exp(25), "B": math.exp(25), "E": math.e, "alpha": 2, "beta": 2})


@pytest.mark.parametrize(
    ("starts", "options", "says"),
    [
        (1, fitting.OPTIONS, "a single start"),
        (9, {**fitting.OPTIONS, "maxiter": 4}, "stopped too early"),
        # The tolerances of the library's defaults on a sum a million times as small.
        (9, {"ftol": 2.2e-9 * fitting.SCALE, "gtol": 1e-5 * fitting.SCALE}, "stopped too early"),
    ],
)
def test_a_fit_that_is_not_one_says_so(starts, options, says):
    law = PowerLaw(UNITS)
    noisy = made(law, TRUTH, noise=0.01)
    found = fit(law, noisy, law.starts(noisy)[:starts], options=options)
    assert any(says in caution for caution in found.cautions), found.cautions


def test_what_a_table_does_not_tell_is_said():
    law = PowerLaw(UNITS)
    no_repetition = fit(Repeated(UNITS), made(Repeated(UNITS), [*TRUTH, 1.0], noise=0.01, unique_R=TOKENS))
    assert any("hardly depend on r, " in caution for caution in no_repetition.cautions)
    rule = Table(PARAMS, 20 * PARAMS, np.ones(RUNS), np.arange(RUNS))
    found = fit(law, rule.replaced(law.predict(TRUTH, rule)))
    assert any("tokens follow from the size" in caution for caution in found.cautions)


def test_sizes_of_nine_orders_can_be_fitted():
    params_R = np.geomspace(1e3, 1e12, RUNS)
    law = PowerLaw(Units(1e7, 1e9))
    wide = Table(params_R, TOKENS, np.ones(RUNS), np.arange(RUNS))
    found = fit(law, wide.replaced(law.predict(TRUTH, wide)))
    assert found.values == pytest.approx(law.values(TRUTH), rel=1e-3)


def test_a_source_without_a_share_adds_nothing():
    law = Mixture(UNITS, sources=3, count=12)
    theta = np.array([0.3, 0.34, 0.37, 0.2, 0.6, -0.4, 0.2, 0.3, 0.25, -0.5, -0.2])
    only = law.predict(theta, table(shares_RK=np.tile([0.0, 1.0, 0.0], (RUNS, 1))))
    bias = only - PowerLaw(UNITS).predict(np.array([-0.5, -0.2, 0.3, 0.34, 0.37]), table())
    assert bias == pytest.approx(math.exp(-0.6))
    value = fitting.objective(law, table(shares_RK=np.tile([0.0, 1.0, 0.0], (RUNS, 1))), np.ones(RUNS), 1e-3)
    assert np.isfinite(value(theta)[1]).all()


def test_least_squares_is_the_limit_of_a_wide_delta():
    law = PowerLaw(UNITS)
    noisy = made(law, TRUTH, noise=0.01)
    found = fit(law, noisy, delta=math.inf)
    errors = np.log(law.predict(found.theta_P, noisy)) - np.log(noisy.loss_R)
    assert found.objective == pytest.approx(0.5 * (errors**2).sum())


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 24 tables 80 % intervals hold each exponent at least 14 times: fewer has a chance of 1 % at a true 80 %."""
    law = PowerLaw(UNITS)
    noisy = made(law, TRUTH, noise=0.01)
    of_twins = twin(fit(law, noisy), noisy, count=24, draws=40)
    for name in ("alpha", "beta", "E"):
        bias, held = of_twins[name]
        assert abs(bias) < 0.1 and held >= 14 / 24, (name, bias, held)


def test_a_bootstrap_draws_trainings_not_rows():
    law = PowerLaw(UNITS)
    noisy = made(law, TRUTH, noise=0.01)
    found = fit(law, noisy)
    twice = Table(*(np.repeat(x, 2) for x in (PARAMS, TOKENS, noisy.loss_R, noisy.run_R)))
    widths = []
    for t in (noisy, twice):
        low, high = intervals(bootstrap(found, t, 60))["alpha"]
        widths.append(high - low)
    # Every row twice is not twice the evidence.
    assert widths[0] == pytest.approx(widths[1], rel=1e-3)


@pytest.mark.parametrize("k", [1.0, 0.3, 2.5])
def test_the_optimum_of_a_budget_has_the_lowest_loss(k):
    values = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.3, "k": k}
    optimum, flops = Optimum.of(values), 1e20
    params, tokens = optimum.split(flops)
    assert 6 * params * tokens == pytest.approx(flops)
    assert optimum.tokens(params) == pytest.approx(tokens)

    def loss(n: float) -> float:
        return published(values, n, flops / 6 / n)

    assert loss(params) < min(loss(params * 1.01), loss(params / 1.01))


def test_parabolas_of_budgets_find_the_exponent():
    """Sizes are off by one factor at every budget (alpha and beta differ), the exponent is right."""
    flops_R = np.repeat(np.geomspace(1e18, 1e21, 4), 9)
    values = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.33, "beta": 0.37}
    best = Optimum.of(values)
    middle_R = np.array([best.split(c)[0] for c in flops_R])
    params_R = middle_R * np.tile(np.geomspace(1 / 4, 4, 9), 4)
    tokens_R = flops_R / 6 / params_R
    loss_R = values["E"] + values["A"] * params_R ** -values["alpha"] + values["B"] * tokens_R ** -values["beta"]
    found = np.array(isoflop(Table(params_R, tokens_R, loss_R, np.arange(36))))
    assert found[:, 0] == pytest.approx(np.unique(flops_R))
    slope = np.polyfit(np.log(found[:, 0]), np.log(found[:, 1]), 1)[0]
    assert slope == pytest.approx(best.a, abs=1e-3)
    off = found[:, 1] / [best.split(c)[0] for c in found[:, 0]]
    assert off == pytest.approx(off[0], rel=1e-2) and abs(off[0] - 1) < 0.2


def test_runs_of_any_budget_are_no_isoflop_design():
    assert not isoflop(table(1 + PARAMS**-0.3 * 50))


def test_a_table_is_read_from_csv_and_parquet(tmp_path):
    columns = {"N": PARAMS, "D": TOKENS, "L": np.ones(RUNS), "who": [f"r{n // 2}" for n in range(RUNS)]}
    source = pa.table(columns)
    pyarrow.parquet.write_table(source, tmp_path / "runs.parquet")
    pyarrow.csv.write_csv(source, tmp_path / "runs.csv")
    for name in ("runs.csv", "runs.parquet"):
        read = runs.read(tmp_path / name, "N", "D", "L", run="who")
        assert read.params_R == pytest.approx(PARAMS) and read.run_R[3] == "r1"


@pytest.mark.parametrize("by", [",", ", ", ";", "\t"])
def test_columns_may_be_separated_as_other_programs_do(tmp_path, by):
    path = tmp_path / ("runs.tsv" if by == "\t" else "runs.csv")
    lines = (["N", "D", "L"], ["1e6", "2e9", "3.5"], ["2e6", "1", "3"])
    path.write_text("".join(f"{by.join(line)}\n" for line in lines))
    read = runs.read(path, "N", "D", "L")
    assert [x_R.tolist() for x_R in (read.params_R, read.tokens_R, read.loss_R)] == [[1e6, 2e6], [2e9, 1], [3.5, 3]]


def test_every_parameter_has_the_name_it_is_published_by():
    for law in (PowerLaw(), Coupled(), Repeated(), Shared(targets=("a", "b")), Mixture(), Mixture(joint=True)):
        assert sorted(law.names) == sorted(law.values(np.zeros(len(law.bounds)))) and len(law.names) == len(law.bounds)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("params,tokens\n1,2\n", {}, "no column 'loss'; there are: params, tokens"),
        ("params,tokens,loss\n1,2,3\n1,-2,3\n", {}, "row 2 has tokens=-2, which must be positive"),
        ("params,tokens,loss\n1,2,3\n1,2,\n", {}, "row 2 has no loss"),
        ("params,tokens,loss\n1,2,3\n1,2,inf\n", {}, "row 2 has loss=inf, which must be positive"),
        ("params,tokens,loss\n1,2,3\n1,2,diverged\n", {}, "row 2 has loss=diverged, which is no number"),
        ("params,tokens,loss\n2020-01-01,2,3\n", {}, "row 1 has params=2020-01-01"),
        ("params,tokens,loss\n", {}, "has no rows"),
        ("params,tokens,loss,loss\n1,2,3,4\n", {}, "two columns 'loss'"),
        ("params,tokens,loss,id\n1,2,3,\n1,2,3,b\n", {"run": "id"}, "row 1 has no id"),
        ("params,tokens,loss,h,g\n1,2,3,-0.5,1.5\n", {"shares": ("h", "g")}, "h=-0.5, which must be 0 or more"),
        ("params,tokens,loss\n1,2,3\n", {"run": "id"}, "no column 'id'"),
        ("params,tokens,loss,h,g\n1,2,3,0.5,0.4\n", {"shares": ("h", "g")}, "shares of row 1 sum to 0.9"),
        ("params,tokens,loss\n1,2\n", {}, "cannot be read"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, arguments, message):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        runs.read(path, **arguments)
    assert "runs.csv" in str(caught.value)


def test_what_cannot_be_fitted_is_refused(tmp_path):
    law = PowerLaw(UNITS)
    with pytest.raises(UsageError, match="5 losses are too few for a law of 5 parameters"):
        fit(law, table().rows(np.arange(5)))
    same = Table(np.full(RUNS, 1e6), TOKENS, np.ones(RUNS), np.arange(RUNS))
    for starts in (None, law.grid()):
        with pytest.raises(UsageError, match="of their size"):
            fit(law, same, starts)
    with pytest.raises(UsageError, match=r"unique"):
        fit(Repeated(UNITS), table())
    with pytest.raises(UsageError, match=r"share of each"):
        fit(Mixture(UNITS, sources=3), table())
    with pytest.raises(UsageError, match=r"\.csv, \.tsv or \.parquet"):
        runs.read(tmp_path / "runs.json")
    with pytest.raises(UsageError, match="there is no file"):
        runs.read(tmp_path / "runs.csv")
