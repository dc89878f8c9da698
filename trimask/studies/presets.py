"""What trials of sampling settings say: the frontier of quality and cost, and the presets on it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trimask.hub.defaults import BALANCED, Defaults, settings_of
from trimask.studies import plots
from trimask.studies.base import Report

FAST, BEST = "fast", "best"
FIGURES = ("quality", "error", "variety", "passes", "cost", "seconds")
"""What is published of a preset."""
Options = Mapping[str, Any]
"""Options of sampling as the command line takes them, relative to the model's own."""


SEARCHED, SIFTED, MEASURED, CONFIRMED = "searched", "sifted", "measured", "confirmed"
"""Stages of a trial: of many settings on few items; of some on more and with other seeds, of a few on more still, which
choose; and of the chosen ones with yet other seeds: a figure that was chosen for being high is too high."""
FAR = 5
"""What asks the model less often is given up where it loses more than this many times what may be lost."""


@dataclass(frozen=True)
class Trial:
    """One setting of one task, measured."""

    task: str
    section: str
    options: Options
    settings: Mapping[str, Any]
    stage: str
    items: int
    metric: str
    quality: float
    error: float
    passes: float
    """Evaluations of the model for an item; those of its null condition count too."""
    cost: float
    """The time these take, in evaluations of all positions: with a cache one takes less."""
    seconds: float
    """For an item, with what grades it."""
    tokens: int = 0
    """Most tokens that had to be filled for an item."""
    variety: float | None = None
    """Of samples, over that of real items; None where there is but one right answer."""
    sets: Mapping[str, float] = field(default_factory=dict)
    """What the quality is the mean of."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of the sets: one of few items is known less well."""

    def __post_init__(self):
        if self.sets.keys() != self.errors.keys():
            raise ValueError("every set needs its error; search anew in another folder")

    @property
    def key(self) -> str:
        """What is sampled, and on what."""
        return json.dumps([self.section, self.stage, self.items, self.settings], sort_keys=True)


def said(options: Options) -> str:
    """Options as they are typed."""
    return " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items()) or "the model's own"


def by_cost(trial: Trial) -> float:
    return trial.cost


def by_passes(trial: Trial) -> float:
    return trial.passes


def frontier(trials: Sequence[Trial], slack: float = 0.0, price: Callable[[Trial], float] = by_cost) -> list[Trial]:
    """Those that no cheaper one beats, by rising price; of equals the first.

    With a slack one is beaten only by what is better by so many standard errors of the difference.
    """
    distinct = list({(price(t), t.passes, t.quality): t for t in reversed(trials)}.values())[::-1]

    def beaten(one: Trial) -> bool:
        return any(
            (price(other), -other.quality) < (price(one), -one.quality)
            and other.quality >= one.quality + slack * float(np.hypot(other.error, one.error))
            for other in distinct
        )

    return sorted((t for t in distinct if not beaten(t)), key=price)


def finalists(trials: Sequence[Trial], count: int, fewer: float) -> list[Trial]:
    """What is measured anew, at most `count` and the model's own setting.

    A third are the best, and with them the best of those that ask the model so many times more than one that noise
    cannot tell from the very best: few items do not tell whether that is worth it. A third are the best of those that
    ask so many times less than the dearest of all these. The others are of the frontiers over costs and over numbers of
    passes; where these are too few, the next best.
    """
    third, ranked = max(count // 3, 1), _distinct(sorted(trials, key=lambda t: -t.quality))
    dear = [t for t in ranked if t.passes >= fewer * min(t.passes for t in _alike(ranked))]
    tops = _distinct([*ranked[:third], *dear[:1]])
    dearest = max(t.passes for t in tops)
    wanted = [*tops, *[t for t in ranked if t.passes * fewer <= dearest][:third]]
    chosen = [t for t in trials if t in wanted or not t.options]
    whole = count + sum(not t.options for t in chosen)
    edges = [[t for t in frontier(trials, price=price) if t not in chosen] for price in (by_passes, by_cost)]
    for edge in edges:
        places = np.unique(np.linspace(0, len(edge) - 1, max(-(-(whole - len(chosen)) // 2), 0)).round().astype(int))
        chosen += [edge[i] for i in places if edge and edge[i] not in chosen][: whole - len(chosen)]
    rest = sorted((t for t in [*edges[0], *edges[1], *trials] if t not in chosen), key=lambda t: -t.quality)
    return [*chosen, *_distinct(rest)[: max(whole - len(chosen), 0)]]


def _distinct(trials: Sequence[Trial]) -> list[Trial]:
    return list({t.key: t for t in trials}.values())


def _alike(trials: Sequence[Trial]) -> list[Trial]:
    """Those that noise cannot tell from the best."""
    top = max(trials, key=lambda t: t.quality)
    return [t for t in trials if top.quality - t.quality <= float(np.hypot(top.error, t.error))]


def presets(finals: Sequence[Trial], fewer: float, loss: float) -> dict[str, Trial]:
    """best: of those that noise cannot tell from the highest quality the one that asks the model most often: fewer
    tokens at once are nearer to the model's own law.

    balanced: the cheapest that loses at most so much against it, and of no set for certain more. fast: the cheapest of
    these that asks the model so many times less; where there is none, the best of those that ask so rarely and lose at
    most `FAR` times as much, and where there is none either, or balanced is cheaper and better, balanced.
    """
    best = max(_alike(finals), key=lambda t: (t.passes, t.quality))

    def near(of: Trial, most: float) -> list[Trial]:
        return [
            t for t in finals
            if t.quality >= of.quality - most
            and all(of.sets[s] - t.sets[s] <= most + np.hypot(of.errors[s], t.errors[s]) for s in of.sets)
        ]  # fmt: skip

    def partners(of: Trial, most: float) -> list[Trial]:
        return [t for t in near(of, most) if t.passes * fewer <= of.passes]

    balanced = min(near(best, loss), key=by_cost)
    if quick := partners(best, loss):
        fast = min(quick, key=by_cost)
    else:
        fast = max(partners(best, FAR * loss), key=lambda t: t.quality, default=balanced)
    if balanced.cost <= fast.cost and balanced.quality >= fast.quality:
        fast = balanced
    return {FAST: fast, BALANCED: balanced, BEST: best}


def chosen(trials: Sequence[Trial], fewer: float, loss: float) -> dict[str, Trial]:
    """The presets as they were confirmed, or as they were measured where that is still to be done.

    Where balanced then loses for certain more than it may, which chance had hidden, best takes its place; where it is
    no dearer than best and for certain better, it is best too.
    """
    again = {json.dumps(t.settings, sort_keys=True): t for t in trials if t.stage == CONFIRMED}
    found = presets([t for t in trials if t.stage == MEASURED], fewer, loss)
    out = {name: again.get(json.dumps(t.settings, sort_keys=True), t) for name, t in found.items()}
    best, balanced = out[BEST], out[BALANCED]
    gains, unsure = best.quality - balanced.quality, float(np.hypot(best.error, balanced.error))
    if gains > loss + unsure:
        out[BALANCED] = best
    elif balanced.cost <= best.cost and gains < -unsure:
        out[BEST] = balanced
    return out


def defaults_of(before: Defaults, tasks: Sequence[Sequence[Trial]], fewer: float, loss: float) -> Defaults:
    """Defaults with the presets of some tasks, of each the trials, and what was measured of them."""
    settings, named = dict(before.settings), {k: dict(v) for k, v in before.presets.items()}
    measured = dict(before.measured)
    for trials in tasks:
        found = chosen(trials, fewer, loss)
        task, any_ = found[BEST].task, found[BEST]
        figures: dict[str, Any] = {"data": any_.section, "metric": any_.metric, "items": any_.items}
        for name, trial in found.items():
            table = settings if name == BALANCED else named.setdefault(name, {})
            table[task] = settings_of(trial.settings, f"trial {said(trial.options)}")
            figures[name] = {k: round(getattr(trial, k), 4) for k in FIGURES if getattr(trial, k) is not None}
            if len(trial.sets) > 1:
                figures[name]["sets"] = {key: round(value, 4) for key, value in trial.sets.items()}
        measured[task] = figures
    return replace(before, settings=settings, presets=named, measured=measured)


def report_of(tasks: Sequence[Sequence[Trial]], fewer: float, loss: float) -> Report:
    """Of each task the trials: its presets, its frontier, a table of what was measured anew."""
    out = Report("Sampling settings: quality against cost")
    for trials in tasks:
        finals = sorted((t for t in trials if t.stage == MEASURED), key=by_cost)
        task, confirmed = finals[0].task, chosen(trials, fewer, loss)
        fast, best = confirmed[FAST], confirmed[BEST]
        out.findings.append(
            f"{task}, {best.metric}, {best.items} items: fast {fast.quality:.3f} +- {fast.error:.3f} with "
            f"{fast.passes:.0f} passes, best {best.quality:.3f} +- {best.error:.3f} with {best.passes:.0f}: "
            f"{best.passes / fast.passes:.1f} times as many for {best.quality - fast.quality:+.3f}."
        )
        named = {name: next(t for t in finals if t.settings == one.settings) for name, one in confirmed.items()}
        out.plots[task.replace(">", "-to-")] = _plot(task, trials, named)
        sets = list(best.sets) if len(best.sets) > 1 else []
        costs = ["passes", "in whole passes", "seconds"]
        columns = ["setting", "preset", "quality", "confirmed", *sets, "variety", *costs]
        again = [t for t in trials if t.stage == CONFIRMED]
        lines = []
        for t in finals:
            names = [name for name, one in named.items() if one is t]
            told = [said(t.options), " ".join(names), f"{t.quality:.3f} +- {t.error:.3f}"]
            told.append(" ".join(f"{c.quality:.3f} +- {c.error:.3f}" for c in again if c.settings == t.settings))
            told += [f"{t.sets[name]:.3f}" for name in sets]
            told.append("" if t.variety is None else f"{t.variety:.2f}")
            lines.append([*told, f"{t.passes:.1f}", f"{t.cost:.1f}", f"{t.seconds:.2f}"])
        out.tables.append((f"{task}: {finals[0].metric}, {finals[0].items} items", columns, lines))
    return out


def _plot(task: str, trials: Sequence[Trial], chosen: Mapping[str, Trial]) -> Figure:
    figure, plot = plots.axes("cost of an item, in whole passes of the model", trials[0].metric)
    plot.set_title(task)
    plot.set_xscale("log", base=2)
    plot.xaxis.set_major_formatter("{x:g}")
    tried, finals = ([t for t in trials if t.stage in stages] for stages in ((SEARCHED, SIFTED), (MEASURED,)))
    plot.plot([t.cost for t in tried], [t.quality for t in tried], ".", color="0.75", label="tried")
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
