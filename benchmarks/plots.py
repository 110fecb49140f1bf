"""The pictures of a report: costs over sizes, and where the time of a token goes."""

import io
from collections.abc import Sequence
from typing import Final

import matplotlib as mpl
from benchmarks.growth import Curve
from benchmarks.splitting import Split
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

mpl.use("Agg")

COLOURS: Final = ("#5a626d", "#1a4f8b", "#c2571a", "#0b6e4f", "#8a5a00", "#7b3294", "#b0b7c0")
MARKERS: Final = "osD^v"
SCALES: Final = {"s": (1e3, "ms"), "B": (2**-20, "MiB")}
"""A unit to what it is multiplied by in a plot, and how the result is called."""
PANEL: Final = (4.3, 3.6)
"""Inches of one panel."""
FEW_DECADES: Final = 100
"""Below this ratio of a scale's ends, it also names twice and five times a power of ten."""


def drawn(splits: Sequence[Split], curves: Sequence[Curve]) -> list[tuple[str, bytes]]:
    """Return the name and the PNG of every picture that there is something to draw for."""
    axes = dict.fromkeys(curve.axis for curve in curves)
    made = [(f"growth-{axis}.png", _growth([each for each in curves if each.axis == axis])) for axis in axes]
    return made + ([("split.png", _splits(splits))] if splits else [])


def _growth(curves: Sequence[Curve]) -> bytes:
    """Return one panel for each operation, with logarithmic scales."""
    operations = list(dict.fromkeys(curve.operation for curve in curves))
    figure = Figure(figsize=(PANEL[0] * len(operations), PANEL[1]), layout="constrained")
    panels = figure.subplots(1, len(operations), squeeze=False)[0]
    for panel, operation in zip(panels, operations, strict=True):
        _curves(panel, operation, [curve for curve in curves if curve.operation == operation])
    return _png(figure)


def _curves(panel: Axes, operation: str, curves: Sequence[Curve]) -> None:
    scale, unit = SCALES[curves[0].unit]
    for place, curve in enumerate(curves):
        sizes, costs = zip(*curve.points, strict=True)
        label = f"{curve.series}: exponent {curve.exponent:.2f}"
        colour, marker = COLOURS[place], MARKERS[place]
        panel.plot(sizes, [cost * scale for cost in costs], color=colour, marker=marker, ms=4, label=label)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.set_xlabel(curves[0].axis)
    panel.set_ylabel(f"{'time' if curves[0].unit == 's' else 'memory'} in {unit}")
    panel.set_title(operation, fontsize=10)
    panel.grid(True, color="#d9dde3", linewidth=0.6)
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * (high / low) ** 0.4)
    if high / low < FEW_DECADES:
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.legend(fontsize=8, loc="upper left")


def _splits(splits: Sequence[Split]) -> bytes:
    """Return one panel for each operation, with a stacked bar for each split."""
    operations = list(dict.fromkeys(split.operation for split in splits))
    parts = list(dict.fromkeys(part for split in splits for part in split.seconds))
    tall = max(sum(split.operation == operation for split in splits) for operation in operations)
    size = (9.0, (0.38 * tall + 0.9) * len(operations) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(operations), 1, squeeze=False)[:, 0]
    for panel, operation in zip(panels, operations, strict=True):
        _bars(panel, operation, [split for split in splits if split.operation == operation], parts)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(parts), fontsize=8)
    return _png(figure)


def _bars(panel: Axes, operation: str, splits: Sequence[Split], parts: Sequence[str]) -> None:
    names, starts = [split.who for split in splits], [0.0] * len(splits)
    for part, colour in zip(parts, COLOURS, strict=False):
        widths = [1e3 * split.seconds.get(part, 0) for split in splits]
        panel.barh(names, widths, left=starts, color=colour, label=part, height=0.7)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    panel.invert_yaxis()
    panel.set_xlabel("ms a token")
    panel.set_title(operation, fontsize=10)


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=130)
    return target.getvalue()
