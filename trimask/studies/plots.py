"""Plots of studies, one style."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from trimask.studies.table import Row

SIZE = (5.2, 3.6)
NARROW, WIDE = 5, 1000
"""An axis whose ends are fewer times apart is labelled as if it were linear; one of more at powers of ten alone."""
COLOURS = colormaps["tab20"]


def axes(x: str, y: str):
    """(figure, axes) with labels and a light grid."""
    figure, (plot,) = panels(1, x, y)
    return figure, plot


def panels(count: int, x: str, y: str):
    """(figure, axes of each panel) side by side."""
    figure = Figure(figsize=(count * SIZE[0], SIZE[1]), layout="constrained")
    found = figure.subplots(1, count, squeeze=False)[0]
    for plot in found:
        plot.set(xlabel=x, ylabel=y)
        plot.grid(True, alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
    return figure, found


def logarithmic(plot: Axes, name: Literal["x", "y"]) -> None:
    """Make the scale of an axis logarithmic, with ticks that can be read over less than a power of ten too.

    Call it when everything is drawn.
    """
    plot.set(**{f"{name}scale": "log"})
    axis: Axis = getattr(plot, f"{name}axis")
    low, high = axis.get_data_interval()
    narrow = high < NARROW * low
    axis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1.0,) if high > WIDE * low else (1, 2, 5)))
    axis.set_major_formatter("{x:g}" if narrow else EngFormatter(sep=""))
    axis.set_minor_locator(NullLocator())


def line(x: str, y: str, xs: Sequence[float], ys: Sequence[float]) -> Figure:
    """One line with its points."""
    figure, plot = axes(x, y)
    plot.plot(xs, ys, "o-")
    return figure


def coordinates(rows: Sequence[Row], axis: str, step: int, title: str) -> Figure:
    """Sizes at a step against width or depth, a panel a kind, a line a quantity: the geometric mean over seeds."""
    kinds = ("activation", "change", "update")
    figure = Figure(figsize=(3 * SIZE[0], SIZE[1]), layout="constrained")
    figure.suptitle(f"{title}, step {step}")
    at = sorted({getattr(row.cell, axis) for row in rows})
    for kind, plot in zip(kinds, figure.subplots(1, 3), strict=True):
        keys = [k for k in rows[0].values if k.startswith(f"{kind}/") and k.endswith(f"/{step}")]
        for number, key in enumerate(keys):
            sizes = [
                np.exp(np.mean([np.log(row.values[key]) for row in rows if getattr(row.cell, axis) == x])) for x in at
            ]
            plot.plot(at, sizes, "o-", color=COLOURS(number), label=key.split("/")[1])
        plot.set(xscale="log", yscale="log", xlabel=axis, title=kind)
        plot.set_xticks(at, [str(x) for x in at])
        plot.minorticks_off()
        plot.grid(True, alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
        plot.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def basins(curves: Mapping[str, Mapping[float, float]], title: str, x: str) -> Figure:
    """Final losses over a setting in powers of two, a line each; the lowest point of a line is marked."""
    figure, plot = axes(x, "final loss, nats a token")
    plot.set_title(title)
    for label, points in curves.items():
        fine = {k: v for k, v in sorted(points.items()) if np.isfinite(v)}
        if not fine:
            continue
        (drawn,) = plot.plot(list(fine), list(fine.values()), "o-", label=label, markersize=4)
        lowest = min(fine, key=lambda k: fine[k])
        plot.plot([lowest], [fine[lowest]], "*", markersize=13, color=drawn.get_color())
    plot.set_xscale("log", base=2)
    if curves:
        plot.legend(fontsize=8)
    return figure
