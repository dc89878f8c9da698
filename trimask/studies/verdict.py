"""The report of a fitted law: values with intervals, how it predicts sizes it has not seen, what makes it doubtful."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from trimask.core.errors import UsageError
from trimask.studies import plots
from trimask.studies.base import Report
from trimask.studies.fitting import DELTA, Fit, best_shares, bootstrap, fit, intervals, isoflop
from trimask.studies.laws import FLOPS, Coupled, Mixture, Optimum, PowerLaw, Repeated, Shared, Table, Units

LAWS = ("power", "coupled", "repeated", "shared", "additive", "joint")


def law_of(name: str, table: Table) -> PowerLaw:
    """A law by name, in the units of a table."""
    units = Units.of(table)
    if name in ("additive", "joint"):
        return Mixture(units, sources=0 if table.shares_RK is None else table.shares_RK.shape[1], joint=name == "joint")
    if name == "shared":
        return Shared(units, () if table.target_R is None else tuple(sorted({*table.target_R.tolist()})))
    kinds = {"power": PowerLaw, "coupled": Coupled, "repeated": Repeated}
    if name not in kinds:
        raise UsageError(f"no law is called {name!r}; there are: {', '.join(LAWS)}")
    return kinds[name](units)


@dataclass(frozen=True)
class Asked:
    """How a table is fitted."""

    law: str = "power"
    grid: bool = False
    """Descend from the 4,500 starts of Hoffmann et al., not from a variable projection."""
    drop_highest: int = 0
    """Leave out so many of the highest losses."""
    held_out: int = 0
    """Leave out so many of the largest sizes, and predict them."""
    draws: int = 300
    delta: float = DELTA
    jobs: int = 1


def judged(table: Table, asked: Asked) -> tuple[Fit, Report]:
    """Fit what was asked for, and say what came of it. Raises `UsageError` where the table is too small for that."""
    if not 0 <= asked.drop_highest < len(table):
        raise UsageError(f"{asked.drop_highest} of {len(table)} runs cannot be left out")
    table = table.rows(np.sort(np.argsort(table.loss_R, kind="stable")[: len(table) - asked.drop_highest]))
    sizes = np.unique(table.params_R)
    if not 0 <= asked.held_out < len(sizes):
        raise UsageError(f"{asked.held_out} of {len(sizes)} sizes cannot be held out")
    seen_R = table.params_R <= sizes[len(sizes) - 1 - asked.held_out]
    known, unseen = table.rows(seen_R), table.rows(~seen_R)
    law = law_of(asked.law, known)
    if asked.grid and type(law) is not PowerLaw:
        raise UsageError("the grid of starts is for the law `power`; the others have starts of their own")
    fitted = fit(law, known, law.grid() if asked.grid else None, asked.delta, jobs=asked.jobs)
    drawn = bootstrap(fitted, known, asked.draws, asked.delta) if asked.draws else []
    return fitted, _report(fitted, known, unseen, drawn, asked)


def _report(fitted: Fit, known: Table, unseen: Table, drawn: Sequence[dict[str, float]], asked: Asked) -> Report:
    out = Report(f"Scaling law: {asked.law}")
    ways = f"{fitted.starts} starts, {fitted.reached:.0%} of which came within 1 % of the best"
    out.findings.append(
        f"{len(known)} losses of {len(np.unique(known.run_R))} runs: {_formula(fitted)}. Sum of Huber losses of log L "
        f"(delta {asked.delta:g}) {fitted.objective:.6g}; {ways}; mean relative error {fitted.error(known):.3%}."
    )
    out.findings += [f"Doubtful: {caution}." for caution in fitted.cautions]
    if len(unseen):
        out.findings.append(_prediction(fitted, known, unseen))
    between = intervals(drawn) if drawn else {}
    lines = [_line(name, value, between) for name, value in fitted.values.items()]
    if isinstance(fitted.law, PowerLaw) and type(fitted.law) in (PowerLaw, Repeated):
        lines += _of_budget(fitted, known, drawn, out)
    if isinstance(fitted.law, Mixture):
        out.findings.append(_shares(fitted, known))
    out.tables.append((f"Values, 95 % intervals of {len(drawn)} bootstraps by run", ["", "value", "from", "to"], lines))
    out.plots["fit"] = _fit_plot(fitted, known, unseen)
    out.plots["errors"] = _error_plot(fitted, known, unseen)
    return out


def _line(name: str, value: float, between: dict[str, tuple[float, float]]) -> list[str]:
    return [name, f"{value:.6g}", *(f"{end:.4g}" for end in between.get(name, (math.nan, math.nan)))]


def _formula(fitted: Fit) -> str:
    return ", ".join(f"{name} = {value:.6g}" for name, value in fitted.values.items())


def _prediction(fitted: Fit, known: Table, unseen: Table) -> str:
    """What it says of the sizes it has not seen, and what 'as the largest that was seen' would say."""
    largest = known.rows(known.params_R == known.params_R.max())
    nearest = [largest.loss_R[np.argmin(np.abs(np.log(largest.tokens_R / d)))] for d in unseen.tokens_R]
    naive = float(np.mean(np.abs(np.array(nearest) / unseen.loss_R - 1)))
    return (
        f"Held out, {len(unseen)} runs of {unseen.params_R.min():.4g} parameters and more, the largest seen "
        f"{known.params_R.max():.4g}: predicted with a mean relative error of {fitted.error(unseen):.3%}; 'as the "
        f"largest that was seen' errs by {naive:.3%}."
    )


def _shares(fitted: Fit, table: Table) -> str:
    """The best shares of the longest run of the largest size, and the best that was tried there."""
    assert table.shares_RK is not None
    params = table.params_R.max()
    tokens = table.tokens_R[table.params_R == params].max()
    best = best_shares([fitted], params, tokens)
    least, most = table.shares_RK.min(0), table.shares_RK.max(0)
    beyond = ", beyond what the table has of some source" if ((best < least) | (best > most)).any() else ""
    return (
        f"At {params:.4g} parameters and {tokens:.4g} tokens the lowest loss is predicted for shares of "
        f"{', '.join(f'{share:.3f}' for share in best)}{beyond}."
    )


def _of_budget(fitted: Fit, table: Table, drawn: Sequence[dict[str, float]], out: Report) -> list[list[str]]:
    """Lines about how a budget is best split; a sentence about the largest one of the table."""
    if min(fitted.values[name] for name in ("alpha", "beta")) <= 0:
        return []
    best = Optimum.of(fitted.values)
    flops = float((FLOPS * table.params_R * table.tokens_R).max())
    params, tokens = best.split(flops)
    inside = table.params_R.min() <= params <= table.params_R.max()
    out.findings.append(
        f"Of C operations the best are N = {best.scale:.4g} (C/6)^{best.a:.4f} parameters and as many tokens as are "
        f"left; D*(N) = {best.tokens(1.0):.4g} N^{best.b / best.a:.4f}. At {flops:.3g}, the largest of the table: "
        f"{params:.3g} parameters, {tokens:.3g} tokens, {tokens / params:.3g} a parameter"
        f"{'' if inside else ', beyond the sizes of the table'}."
    )
    if len(bottoms := isoflop(table)) > 1:
        flops_Q, params_Q = np.log(bottoms).T
        slope = np.polyfit(flops_Q, params_Q, 1)[0]
        out.findings.append(
            f"For comparison, parabolas at {len(bottoms)} budgets (isoFLOP): the best size grows as C^{slope:.4f}."
        )
    others = [Optimum.of(values) for values in drawn if min(values["alpha"], values["beta"]) > 0]
    rows = {"a": best.a, "b": best.b, "G": best.scale, "tokens a parameter there": tokens / params}

    def of(one: Optimum) -> dict[str, float]:
        n, d = one.split(flops)
        return {"a": one.a, "b": one.b, "G": one.scale, "tokens a parameter there": d / n}

    between = intervals([of(one) for one in others]) if others else {}
    return [_line(name, value, between) for name, value in rows.items()]


def _fit_plot(fitted: Fit, known: Table, unseen: Table) -> Figure:
    figure, plot = plots.axes("measured loss", "loss of the law")
    for part, colour, label in ((known, "tab:blue", "fitted"), (unseen, "tab:red", "held out")):
        if len(part):
            plot.plot(part.loss_R, fitted.law.predict(fitted.theta_P, part), ".", color=colour, label=label)
    ends = [known.loss_R.min(), known.loss_R.max()]
    plot.plot(ends, ends, "-", color="0.7", zorder=0)
    plot.legend(fontsize=8)
    return figure


def _error_plot(fitted: Fit, known: Table, unseen: Table) -> Figure:
    figure, plot = plots.axes("operations, 6 N D", "measured over predicted loss, %")
    for part, colour in ((known, "tab:blue"), (unseen, "tab:red")):
        if len(part):
            errors = 100 * (part.loss_R / fitted.law.predict(fitted.theta_P, part) - 1)
            plot.plot(FLOPS * part.params_R * part.tokens_R, errors, ".", color=colour)
    plot.axhline(0, color="0.7", zorder=0)
    plot.set_xscale("log")
    return figure
