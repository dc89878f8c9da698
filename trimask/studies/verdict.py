"""The report of a fitted law: values with intervals, how it predicts sizes it has not seen, what makes it doubtful."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from trimask.core.errors import UsageError
from trimask.studies import plots
from trimask.studies.base import Report
from trimask.studies.fitting import DELTA, Fit, best_shares, bootstrap, fit, intervals, isoflop, twin
from trimask.studies.laws import FLOPS, Coupled, Mixture, Optimum, PowerLaw, Repeated, Shared, Table, Units
from trimask.studies.report import Frame

CHOSEN = "chosen"
RIVALS = ("power", "coupled")
"""What is chosen from, the simpler first: the other must predict the largest size clearly better from the rest."""
CLEARLY = 0.9
"""Times the error of the simpler law."""
LAWS = (*RIVALS, CHOSEN, "repeated", "shared", "additive", "joint")
FEWEST = 3
"""Sizes that a law is fitted to before it predicts another."""


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


TOLD = ("A", "B", "alpha", "beta")
FEW_RUNS = 20


@dataclass(frozen=True)
class Asked:
    """How a table is fitted."""

    law: str = "power"
    grid: bool = False
    """Descend from the 4,500 starts of Hoffmann et al., not from a variable projection."""
    drop_highest: int = 0
    """Leave out so many of the highest losses."""
    held_out: int = 0
    """Predict so many of the largest sizes from the others, before all are fitted."""
    draws: int = 300
    twins: int = 0
    """Tables of the same design for which the fit is the truth, to see how far its intervals can be trusted."""
    delta: float = DELTA
    jobs: int = 1


@dataclass(frozen=True)
class Judged:
    """A fit, the values of its bootstraps, and what both say."""

    fit: Fit
    drawn: list[dict[str, float]]
    report: Report


def frame(asked: Asked, columns: str, command: str) -> Frame:
    """What stands around the report of a law of anyone's runs. `columns`: which are N, D and L."""
    start = "the 4,500 starts of Hoffmann et al. (2022)" if asked.grid else "starts of the law's own"
    return Frame(
        "How does the final loss fall with the size of a model and with its tokens?",
        (
            f"Law: {asked.law}. Columns: {columns}.",
            f"Descents on the Huber loss of errors of log L (delta {asked.delta:g}) from {start}; intervals from "
            f"{asked.draws} fits to trainings drawn with replacement.",
        ),
        (
            "A loss counts as that of a finished training: one of a checkpoint, or of settings that do not fit a size, "
            "bends the law.",
            "Another count of parameters (with or without embeddings) is another law.",
            "Intervals are of the runs at hand; beyond their sizes and lengths they hold only if the law does.",
        ),
        command,
    )


def judged(table: Table, asked: Asked) -> Judged:
    """Fit what was asked for, and say what came of it. Raises `UsageError` where the table is too small for that."""
    if not 0 <= asked.drop_highest < len(table):
        raise UsageError(f"{asked.drop_highest} of {len(table)} losses cannot be left out")
    order_R = np.argsort(table.loss_R, kind="stable")
    dropped_R = table.loss_R[order_R[len(table) - asked.drop_highest :]]
    table = table.rows(np.sort(order_R[: len(table) - asked.drop_highest]))
    sizes = np.unique(table.params_R)
    if not 0 <= asked.held_out < len(sizes):
        raise UsageError(f"{asked.held_out} of {len(sizes)} sizes cannot be held out")
    runs, seen_R = len(np.unique(table.run_R)), table.params_R <= sizes[len(sizes) - 1 - asked.held_out]
    name, why = _chosen(table.rows(seen_R), asked.delta) if asked.law == CHOSEN else (asked.law, [])
    law = law_of(name, table)
    if asked.grid and type(law) is not PowerLaw:
        raise UsageError("the grid of starts is for the law `power`; the others have starts of their own")
    if isinstance(law, Shared) and runs == len(table):
        raise UsageError("several losses are of one training here: say which (run), or the intervals are too narrow")

    def fitted(known: Table) -> Fit:
        return fit(law, known, law.grid() if asked.grid else None, asked.delta, jobs=asked.jobs)

    out = Report(f"Scaling law: {name}")
    out.findings += why
    if len(dropped_R):
        out.findings.append(f"Left out: the {len(dropped_R)} highest losses, from {dropped_R[0]:.6g} up.")
    unseen = (~seen_R, fitted(table.rows(seen_R))) if asked.held_out else None
    final = fitted(table)
    out.findings.append(
        f"{len(table)} losses of {runs} trainings: {_formula(final)}. Sum of Huber losses of log L (delta "
        f"{asked.delta:g}) {final.objective:.6g}; {final.starts} starts, {final.reached:.0%} of which came within 1 % "
        f"of the best; mean relative error {final.error(table):.3%}."
    )
    out.findings += [f"Doubtful: {caution}." for caution in final.cautions]
    if runs < FEW_RUNS and asked.draws:
        out.findings.append(f"Doubtful: intervals from {runs} trainings are too narrow.")
    if unseen is not None:
        out.findings.append(_prediction(unseen[1], table.rows(~unseen[0]), table.rows(unseen[0])))
    drawn = bootstrap(final, table, asked.draws, asked.delta) if asked.draws else []
    between = intervals(drawn) if drawn else {}
    lines = [_line(name, value, between) for name, value in final.values.items()]
    if isinstance(law, Mixture):
        out.findings.append(_shares(final, table))
    if not isinstance(law, Mixture | Shared):
        lines += _of_budget(final, table, drawn, out)
    caption = f"Values, 95 % intervals of {asked.draws} bootstraps by training" if drawn else "Values"
    out.tables.append((caption, ["", "value", *(["from", "to"] if drawn else [])], lines))
    if asked.twins:
        of_twins = twin(final, table, asked.twins, delta=asked.delta)
        rows = [[name, f"{bias:+.2%}", f"{held:.0%}"] for name, (bias, held) in of_twins.items()]
        title = f"{asked.twins} tables for which this fit is the truth, fitted the same way"
        out.tables.append((title, ["", "bias", "80 % intervals that hold the truth"], rows))
    shown = (table, None) if unseen is None else (table.rows(~unseen[0]), table.rows(unseen[0]))
    of = final if unseen is None else unseen[1]
    out.plots["fit"], out.plots["errors"] = _fit_plot(of, *shown), _error_plot(of, *shown)
    return Judged(final, drawn, out)


def _chosen(table: Table, delta: float) -> tuple[str, list[str]]:
    """Which law of `RIVALS` predicts the largest size of a table well from the others, and why."""
    largest_R = table.params_R == table.params_R.max()
    if len(np.unique(table.params_R)) <= FEWEST:
        return RIVALS[0], [f"Law {RIVALS[0]}: {FEWEST + 1} sizes are needed to choose by the prediction of one."]
    known, unseen = table.rows(~largest_R), table.rows(largest_R)
    errors = {name: fit(law_of(name, known), known, delta=delta).error(unseen) for name in RIVALS}
    told = ", ".join(f"{name} by {error:.3%}" for name, error in errors.items())
    simple, other = RIVALS
    name = other if errors[other] < CLEARLY * errors[simple] else simple
    return name, [f"Law {name}: laws of the smaller sizes err on the {unseen.params_R[0]:.4g} parameters: {told}."]


def _line(name: str, value: float, between: dict[str, tuple[float, float]]) -> list[str]:
    return [name, f"{value:.6g}", *(f"{end:.6g}" for end in between.get(name, ()))]


def _formula(fitted: Fit) -> str:
    return ", ".join(f"{name} = {value:.6g}" for name, value in fitted.values.items())


def _prediction(fitted: Fit, known: Table, unseen: Table) -> str:
    """What it says of the sizes it has not seen, and what 'as the most alike of the largest seen' would say."""
    largest = known.rows(known.params_R == known.params_R.max())
    apart = np.abs(np.log(largest.tokens_R[None] / unseen.tokens_R[:, None]))
    if largest.shares_RK is not None and unseen.shares_RK is not None:
        apart += 10 * np.abs(largest.shares_RK[None] - unseen.shares_RK[:, None]).sum(-1)
    if largest.target_R is not None and unseen.target_R is not None:
        apart += np.where(largest.target_R[None] == unseen.target_R[:, None], 0, np.inf)
    naive = float(np.mean(np.abs(largest.loss_R[apart.argmin(1)] / unseen.loss_R - 1)))
    return (
        f"Held out, {len(unseen)} losses of {unseen.params_R.min():.4g} parameters and more, the largest seen "
        f"{known.params_R.max():.4g}: predicted with a mean relative error of {fitted.error(unseen):.3%}; 'as the "
        f"nearest run of the largest size seen' errs by {naive:.3%}. All values below are fitted with them."
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
    if min(fitted.values[name] for name in TOLD) <= 0:
        return []
    best = Optimum.of(fitted.values)
    flops = float((FLOPS * table.params_R * table.tokens_R).max())
    params, tokens = best.split(flops)
    inside = table.params_R.min() <= params <= table.params_R.max()
    out.findings.append(
        f"Of C = 6 N D operations the best are N = {best.scale:.6g} (C/6)^{best.a:.6f} parameters, the rest in new "
        f"tokens: D*(N) = {best.tokens(1.0):.6g} N^{best.b / best.a:.6f}. At {flops:.3g}, the largest of the table: "
        f"{params:.3g} parameters, {tokens:.3g} tokens, {tokens / params:.3g} a parameter"
        f"{'' if inside else ', beyond the sizes of the table'}."
    )
    if len(bottoms := isoflop(table)) > 1:
        flops_Q, params_Q = np.log(bottoms).T
        slope = np.polyfit(flops_Q, params_Q, 1)[0]
        out.findings.append(
            f"For comparison, parabolas at {len(bottoms)} budgets (isoFLOP): the best size grows as C^{slope:.4f}."
        )
    others = [Optimum.of(values) for values in drawn if min(values[name] for name in TOLD) > 0]
    if len(others) < len(drawn):
        out.findings.append(f"{len(drawn) - len(others)} bootstraps have no optimum; its intervals are of the others.")

    def of(one: Optimum) -> dict[str, float]:
        n, d = one.split(flops)
        return {"a": one.a, "b": one.b, "G": one.scale, f"D/N at {flops:.3g}": d / n}

    rows = of(best)

    between = intervals([of(one) for one in others]) if others else {}
    return [_line(name, value, between) for name, value in rows.items()]


def _fit_plot(fitted: Fit, known: Table, unseen: Table | None) -> Figure:
    figure, plot = plots.axes("measured loss", "loss of the law")
    for part, colour, label in ((known, "tab:blue", "fitted"), (unseen, "tab:red", "held out")):
        if part is not None:
            plot.plot(part.loss_R, fitted.law.predict(fitted.theta_P, part), ".", color=colour, label=label)
    ends = [known.loss_R.min(), known.loss_R.max()]
    plot.plot(ends, ends, "-", color="0.7", zorder=0)
    plot.legend(fontsize=8)
    return figure


def _error_plot(fitted: Fit, known: Table, unseen: Table | None) -> Figure:
    figure, plot = plots.axes("operations, 6 N D", "measured over predicted loss, %")
    for part, colour in ((known, "tab:blue"), (unseen, "tab:red")):
        if part is not None:
            errors = 100 * (part.loss_R / fitted.law.predict(fitted.theta_P, part) - 1)
            plot.plot(FLOPS * part.params_R * part.tokens_R, errors, ".", color=colour)
    plot.axhline(0, color="0.7", zorder=0)
    plots.logarithmic(plot, "x")
    return figure
