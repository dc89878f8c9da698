"""What trials of sampling settings say: the frontier of quality and cost, and the presets on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trimask.hub.defaults import BALANCED, Defaults, settings_of
from trimask.studies import plots
from trimask.studies.base import Report

FAST, BEST = "fast", "best"
Options = Mapping[str, Any]
"""Options of sampling as the command line takes them, relative to the model's own."""


@dataclass(frozen=True)
class Trial:
    """One setting of one task, measured."""

    task: str
    section: str
    options: Options
    settings: Mapping[str, Any]
    final: bool
    items: int
    metric: str
    quality: float
    error: float
    passes: float
    """Evaluations of the model for an item; those of its null condition count too."""
    cost: float
    """The same in evaluations of all positions: with a cache an evaluation is a part of one."""
    seconds: float
    """For an item, with what grades it."""

    @property
    def key(self) -> str:
        """What is sampled, and on what."""
        return json.dumps([self.section, self.final, self.items, self.settings], sort_keys=True)


def said(options: Options) -> str:
    """Options as they are typed."""
    return " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items()) or "the model's own"


def frontier(trials: Sequence[Trial], slack: float = 0.0) -> list[Trial]:
    """Those that no cheaper one beats, by rising cost.

    With a slack one is beaten only by what is better by so many standard errors of the difference.
    """

    def beaten(one: Trial) -> bool:
        return any(
            (other.cost, -other.quality) < (one.cost, -one.quality)
            and other.quality >= one.quality + slack * float(np.hypot(other.error, one.error))
            for other in trials
        )

    return sorted((t for t in trials if not beaten(t)), key=lambda t: t.cost)


def finalists(trials: Sequence[Trial], count: int, fewer: float) -> list[Trial]:
    """What is measured anew, at most `count` and the model's own setting.

    The best, the best of those that ask the model so many times less, and others of the frontier over its range of
    costs; where these are too few, the next best.
    """
    best = max(trials, key=lambda t: t.quality)
    quick = max((t for t in trials if t.passes * fewer <= best.passes), key=lambda t: t.quality, default=best)
    chosen = [t for t in trials if t in (best, quick) or not t.options]
    wanted = count + sum(not t.options for t in chosen)
    edge = [t for t in frontier(trials) if t not in chosen]
    places = np.unique(np.linspace(0, len(edge) - 1, max(wanted - len(chosen), 0)).round().astype(int))
    chosen += [edge[i] for i in places] if edge else []
    rest = sorted((t for t in trials if t not in chosen), key=lambda t: -t.quality)
    return [*chosen, *rest[: wanted - len(chosen)]]


def presets(finals: Sequence[Trial], fewer: float, loss: float) -> dict[str, Trial]:
    """best: of the highest quality. balanced: the cheapest that loses at most so much against it.

    fast: the same among those that ask the model so many times less than best; where none of them is good enough, the
    best of them; where there are none, or balanced is cheaper and better than that, balanced.
    """
    best = max(finals, key=lambda t: (t.quality, -t.cost))
    good = [t for t in finals if t.quality >= best.quality - loss]
    balanced = min(good, key=lambda t: t.cost)
    few = [t for t in finals if t.passes * fewer <= best.passes]
    quick = min((t for t in few if t in good), key=lambda t: t.cost, default=None)
    fast = quick or max(few, key=lambda t: t.quality, default=balanced)
    if balanced.cost <= fast.cost and balanced.quality >= fast.quality:
        fast = balanced
    return {FAST: fast, BALANCED: balanced, BEST: best}


def defaults_of(before: Defaults, tasks: Sequence[Sequence[Trial]], fewer: float, loss: float) -> Defaults:
    """Defaults with the presets of some tasks, of each the trials, and what was measured of them."""
    settings, named = dict(before.settings), {k: dict(v) for k, v in before.presets.items()}
    measured = dict(before.measured)
    for trials in tasks:
        finals = [t for t in trials if t.final]
        task = finals[0].task
        figures: dict[str, Any] = {"data": finals[0].section, "metric": finals[0].metric, "items": finals[0].items}
        for name, trial in presets(finals, fewer, loss).items():
            table = settings if name == BALANCED else named.setdefault(name, {})
            table[task] = settings_of(trial.settings, f"trial {said(trial.options)}")
            figures[name] = {k: round(getattr(trial, k), 4) for k in ("quality", "error", "passes", "cost", "seconds")}
        measured[task] = figures
    return replace(before, settings=settings, presets=named, measured=measured)


def report_of(tasks: Sequence[Sequence[Trial]], fewer: float, loss: float) -> Report:
    """Of each task the trials: its presets, its frontier, a table of what was measured anew."""
    out = Report("Sampling settings: quality against cost")
    for trials in tasks:
        finals = sorted((t for t in trials if t.final), key=lambda t: t.cost)
        task, chosen = finals[0].task, presets(finals, fewer, loss)
        fast, best = chosen[FAST], chosen[BEST]
        out.findings.append(
            f"{task}, {finals[0].metric}: fast {fast.quality:.3f} +- {fast.error:.3f} with {fast.passes:.0f} passes, "
            f"best {best.quality:.3f} +- {best.error:.3f} with {best.passes:.0f}."
        )
        out.plots[task.replace(">", "-to-")] = _plot(task, trials, chosen)
        columns = ["setting", "preset", "quality", "passes", "in whole passes", "seconds"]
        lines = [
            [
                said(t.options), " ".join(n for n, c in chosen.items() if c is t), f"{t.quality:.3f} +- {t.error:.3f}",
                f"{t.passes:.1f}", f"{t.cost:.1f}", f"{t.seconds:.2f}",
            ]
            for t in finals
        ]  # fmt: skip
        out.tables.append((f"{task}: {finals[0].metric}, {finals[0].items} items", columns, lines))
    return out


def _plot(task: str, trials: Sequence[Trial], chosen: Mapping[str, Trial]) -> Figure:
    figure, plot = plots.axes("cost of an item, in whole passes of the model", trials[0].metric)
    plot.set_title(task)
    plot.set_xscale("log", base=2)
    plot.xaxis.set_major_formatter("{x:g}")
    searched, finals = ([t for t in trials if t.final is final] for final in (False, True))
    plot.plot([t.cost for t in searched], [t.quality for t in searched], ".", color="0.75", label="tried")
    edge = frontier(finals)
    plot.plot([t.cost for t in edge], [t.quality for t in edge], "-", color="tab:blue", alpha=0.5)
    bars = [t.error for t in finals]
    plot.errorbar(
        [t.cost for t in finals], [t.quality for t in finals], bars, fmt="o", color="tab:blue", label="measured"
    )
    named: dict[tuple[float, float], list[str]] = {}
    for name, t in chosen.items():
        named.setdefault((t.cost, t.quality), []).append(name)
    for place, names in named.items():
        plot.annotate(", ".join(names), place, xytext=(6, -12), textcoords="offset points")
    plot.legend(fontsize=8, loc="upper left")
    return figure
