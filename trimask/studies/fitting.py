"""Fits of scaling laws: descents from many starts, intervals by bootstrap, and what makes a fit doubtful.

The objective is the sum of Huber losses of the errors of log L (Hoffmann et al. 2022). Of a sum or a mean as small as
these are, the default tolerances of an optimizer are met before it has begun (Besiroglu et al. 2024, arXiv 2404.10102):
here it is multiplied by a million and the tolerances are tight. `dev/LOG.md` has what a fit does without.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from trimask.core.errors import TrainingError, UsageError
from trimask.studies.laws import FLOPS, Law, Mixture, Table

DELTA = 1e-3
"""Errors of log L up to this count by their square, larger ones by their size."""
SCALE = 1e6
OPTIONS: Mapping[str, float] = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 5000, "maxfun": 50_000, "maxcor": 20}
"""Of SciPy's L-BFGS-B."""
NEAR = 0.01
"""A start has reached the best objective if it ends within this share of it."""
FEW = 0.02
"""Of many starts so many must have."""
FLAT, TOGETHER = 1e-6, 0.999
"""Derivatives in one direction over those in another, and a correlation of log N and log D, that tell nothing."""
ALIKE = 1.03
"""Largest over smallest number of operations of what counts as one budget."""
STILL, NOTHING = 1e-4, 1e-9
"""What another descent may gain, as a share; an objective that is no longer any (of noise-free tables)."""


@dataclass(frozen=True)
class Fit:
    """The best of some descents."""

    law: Law
    theta_P: np.ndarray
    objective: float
    """Sum of Huber losses."""
    starts: int
    reached: float
    """Share of starts that ended near the best."""
    converged: bool
    untold: tuple[str, ...] = ()
    """What the table does not tell."""

    @property
    def values(self) -> dict[str, float]:
        return self.law.values(self.theta_P)

    def error(self, table: Table) -> float:
        """Mean of |predicted - measured| / measured."""
        return float(np.mean(np.abs(self.law.predict(self.theta_P, table) / table.loss_R - 1)))

    @property
    def cautions(self) -> list[str]:
        """What makes the fit doubtful; empty where nothing does."""
        out = [] if self.converged else ["the best descent stopped too early: another from its end goes on down"]
        if self.starts == 1:
            out.append("a single start: others may end lower")
        elif self.starts > 20 and self.reached < FEW:
            out.append(f"only {self.reached:.1%} of {self.starts} starts came near the best: more may end lower")
        limits = zip(self.theta_P, self.law.bounds, strict=True)
        stuck = sum(any(end is not None and abs(x - end) < 1e-9 for end in ends) for x, ends in limits)
        return [*out, *([f"{stuck} of its parameters are at a bound"] if stuck else []), *self.untold]


def fit(
    law: Law,
    table: Table,
    starts_SP: np.ndarray | None = None,
    delta: float = DELTA,
    options: Mapping[str, float] = OPTIONS,
    jobs: int = 1,
) -> Fit:
    """The lowest of descents from `starts_SP` (default: those of the law), in `jobs` processes.

    `delta` = inf is least squares of log L. Raises `UsageError` where there are fewer rows than parameters, or rows of
    one size or one number of tokens alone.
    """
    _check(law, table)
    starts_SP = law.starts(table) if starts_SP is None else starts_SP
    weight_R = np.ones(len(table))
    if jobs == 1:
        found = _descents(law, table, weight_R, starts_SP, delta, options)
    else:
        parts = [part for part in np.array_split(starts_SP, 8 * jobs) if len(part)]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            work = [pool.submit(_descents, law, table, weight_R, part, delta, options) for part in parts]
            try:
                found = [one for future in work for one in future.result()]
            except BrokenProcessPool:
                raise TrainingError(
                    "a process of the fit ended without a word; a script that fits in several needs "
                    'if __name__ == "__main__": around what it does, or jobs=1'
                ) from None
    theta_P, value = min(found, key=lambda one: one[1])
    near = [end <= value * (1 + NEAR) + NOTHING for _, end in found]
    # One more descent, which has forgotten the way of the first, must not go on.
    again_P, again = _descents(law, table, weight_R, theta_P[None], delta, OPTIONS)[0]
    converged = math.isfinite(value) and again >= value * (1 - STILL) - NOTHING
    theta_P, value = (again_P, again) if again < value else (theta_P, value)
    return Fit(law, theta_P, value / SCALE, len(found), float(np.mean(near)), converged, _untold(law, theta_P, table))


def _untold(law: Law, theta_P: np.ndarray, table: Table) -> tuple[str, ...]:
    """What other values would fit as well, from the derivatives of log L and the design of the table."""
    out, x = [], law.columns(table)
    slopes_RP = torch.autograd.functional.jacobian(lambda t: law.log_loss(t, x), torch.from_numpy(theta_P)).numpy()
    _, sizes, directions = np.linalg.svd(slopes_RP, full_matrices=False)
    if sizes[-1] < FLAT * sizes[0]:
        name = law.names[int(np.argmax(np.abs(directions[-1])))]
        out.append(f"the losses hardly depend on {name}, or on it together with others")
    together = np.corrcoef(np.log(table.params_R), np.log(table.tokens_R))[0, 1]
    if abs(together) > TOGETHER:
        out.append("tokens follow from the size in these runs: which of the two a loss is due to cannot be told")
    return tuple(out)


def _check(law: Law, table: Table) -> None:
    if len(table) <= len(law.bounds):
        raise UsageError(f"{len(table)} losses are too few for a law of {len(law.bounds)} parameters")
    for name, x_R in (("size", table.params_R), ("number of tokens", table.tokens_R)):
        if len(np.unique(x_R)) < 3:
            raise UsageError(f"all runs have the same one or two values of their {name}: no exponent can be fitted")


def _descents(
    law: Law,
    table: Table,
    weight_R: np.ndarray,
    starts_SP: np.ndarray,
    delta: float,
    options: Mapping[str, float],
) -> list[tuple[np.ndarray, float]]:
    """Where the descents from some starts end, and SCALE times the objective there."""
    value, out = objective(law, table, weight_R, delta), []
    low_P, high_P = np.array([[np.nan if x is None else x for x in ends] for ends in law.bounds]).T
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The optimizer's own matrices are so small that threads wait for each other most of the time.
        with threadpool_limits(1):
            for start_P in starts_SP:
                inside_P = np.fmin(np.fmax(start_P, low_P), high_P)
                found = minimize(value, inside_P, jac=True, method="L-BFGS-B", bounds=law.bounds, options=dict(options))
                out.append((found.x, float(found.fun) if np.isfinite(found.fun) else math.inf))
    finally:
        torch.set_num_threads(before)
    return out


def objective(
    law: Law, table: Table, weight_R: np.ndarray, delta: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """SCALE times the sum of Huber losses of a vector, and its gradient."""
    x, target_R = law.columns(table), torch.from_numpy(np.log(table.loss_R))
    weight = SCALE * torch.from_numpy(weight_R)

    def value(theta_P: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(theta_P, requires_grad=True)
        error_R = law.log_loss(theta, x) - target_R
        inside_R = error_R.abs().clamp(max=delta)
        total = (weight * inside_R * (error_R.abs() - 0.5 * inside_R)).sum()
        (gradient_P,) = torch.autograd.grad(total, theta)
        return total.item(), gradient_P.numpy()

    return value


def bootstrap(fitted: Fit, table: Table, count: int = 300, delta: float = DELTA, seed: int = 0) -> list[dict]:
    """Values of `count` fits to trainings drawn with replacement, each begun where the fit ended."""
    _, number_R = np.unique(table.run_R, return_inverse=True)
    runs, rng, out = int(number_R.max()) + 1, np.random.default_rng(seed), []
    for _ in range(count):
        times = np.bincount(rng.integers(runs, size=runs), minlength=runs)
        weight_R = times[number_R].astype(float)
        theta_P, _ = _descents(fitted.law, table, weight_R, fitted.theta_P[None], delta, OPTIONS)[0]
        out.append(fitted.law.values(theta_P))
    return out


def intervals(drawn: Sequence[Mapping[str, float]], share: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentiles of bootstrapped values that hold so large a share."""
    ends = (50 * (1 - share), 50 * (1 + share))
    return {name: tuple(np.percentile([d[name] for d in drawn], ends).tolist()) for name in drawn[0]}  # pyright: ignore[reportReturnType]


def isoflop(table: Table) -> list[tuple[float, float]]:
    """(C, N): of each budget C = 6 N D the size at the bottom of a parabola of the loss over log N.

    Approach 2 of Hoffmann et al. 2022. Budgets are groups of runs within 3 % of each other, of at least four sizes with
    the bottom among them; none where less than half of the table is in such groups, for then they are there by chance.
    Where alpha and beta differ the sizes are off by a constant factor, the exponent is not.
    """
    flops_R, size_R = FLOPS * table.params_R * table.tokens_R, np.log(table.params_R)
    order = np.argsort(flops_R)
    groups: list[list[int]] = []
    for number in order:
        if not groups or flops_R[number] > ALIKE * flops_R[groups[-1][0]]:
            groups.append([])
        groups[-1].append(int(number))
    designed = [np.array(group) for group in groups if len(np.unique(size_R[group])) >= 4]
    if 2 * sum(map(len, designed)) < len(table):
        return []
    out = []
    for group in designed:
        bend, slope, _ = np.polyfit(size_R[group], table.loss_R[group], 2)
        bottom = -slope / (2 * bend) if bend > 0 else math.inf
        if size_R[group].min() <= bottom <= size_R[group].max():
            out.append((float(np.exp(np.log(flops_R[group]).mean())), float(np.exp(bottom))))
    return out


def best_shares(
    fits: Sequence[Fit], params: float, tokens: float, weights: Sequence[float] | None = None
) -> np.ndarray:
    """float64 (K,): shares of the sources with the lowest weighted mean of the losses that laws of mixtures predict.

    A law for each target, `weights` of the targets. By descent on the logits of the shares, from their middle and from
    near each corner.
    """
    laws = [one.law for one in fits]
    if not all(isinstance(law, Mixture) for law in laws) or not laws:
        raise UsageError("the best shares follow from laws of mixtures, one for each target")
    sources = laws[0].sources  # pyright: ignore[reportAttributeAccessIssue]
    weight_T = np.ones(len(fits)) if weights is None else np.asarray(weights, float)
    theta = [torch.from_numpy(one.theta_P) for one in fits]
    one_R = np.array([params]), np.array([tokens]), np.ones(1), np.zeros(1)
    row = Table(*one_R, shares_RK=np.full((1, sources), 1 / sources))
    columns = [law.columns(row) for law in laws]

    def value(logit_K: np.ndarray) -> tuple[float, np.ndarray]:
        logit = torch.tensor(logit_K, requires_grad=True)
        shares = {"shares": logit.softmax(0)[None]}
        losses = [law.log_loss(t, {**x, **shares}).exp() for law, t, x in zip(laws, theta, columns, strict=True)]
        total = sum(w * loss for w, loss in zip(weight_T / weight_T.sum(), losses, strict=True))
        assert isinstance(total, torch.Tensor)
        (gradient,) = torch.autograd.grad(total.sum(), logit)
        return total.item(), gradient.numpy()

    starts = [np.zeros(sources), *(3.0 * np.eye(sources))]
    best = min((minimize(value, z, jac=True, method="L-BFGS-B") for z in starts), key=lambda found: found.fun)
    return np.exp(best.x - np.logaddexp.reduce(best.x))


def twin(
    fitted: Fit, table: Table, count: int, draws: int = 50, share: float = 0.8, delta: float = DELTA, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """What the same procedure makes of tables for which the fit is the truth: bias and coverage of each value.

    `count` tables of the same design, each training with the errors of log L of one that was drawn from the table,
    each table fitted and bootstrapped `draws` times. Returns (mean of the fitted values over the true one minus 1,
    share of intervals that hold it).
    """
    truth, rng = fitted.values, np.random.default_rng(seed)
    clean_R = fitted.law.predict(fitted.theta_P, table)
    error_R = np.log(table.loss_R / clean_R)
    _, number_R = np.unique(table.run_R, return_inverse=True)
    of_run = [error_R[number_R == n] for n in range(int(number_R.max()) + 1)]
    found, held = {name: [] for name in truth}, {name: [] for name in truth}
    for number in range(count):
        drawn_R = np.empty(len(table))
        for n, place in enumerate(rng.integers(len(of_run), size=len(of_run))):
            mine = number_R == n
            drawn_R[mine] = np.resize(of_run[place], mine.sum()) * rng.choice([-1, 1])
        made = table.replaced(clean_R * np.exp(drawn_R))
        again = fit(fitted.law, made, delta=delta)
        between = intervals(bootstrap(again, made, draws, delta, seed=number), share)
        for name, value in again.values.items():
            found[name].append(value)
            held[name].append(between[name][0] <= truth[name] <= between[name][1])
    return {name: (float(np.mean(found[name]) / truth[name] - 1), float(np.mean(held[name]))) for name in truth}
