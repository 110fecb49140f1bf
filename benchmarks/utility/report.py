"""The table and the plot of the results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from benchmarks.utility.settings import OURS, Result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

mpl.use("Agg")

COLUMNS: Final = (
    "vectors",
    "protected",
    "mechanism",
    "nominal eps",
    "exact eps",
    "recovery, uniform",
    "recovery, weighted",
    "tokens protected",
    "tokens changed",
    "classifier trained on",
    "accuracy",
    "spread",
    "seeds",
)
COLOURS: Final = {
    OURS[0]: "#0b5394",
    OURS[1]: "#6fa8dc",
    "SANTEXT+": "#cc4125",
    "CUSTEXT+": "#e69138",
    "cmif-paper": "#6aa84f",
}
ROWS: Final = ((1.0, "text sanitized"), (1.0, "clean text"), (0.9, "clean text"))
"""Share protected and classifier of each row of the plot."""
AXES: Final = ("nominal eps", "exact eps", "recovery, uniform", "recovery, weighted")


def write(results: Sequence[Result], notes: dict[str, object], place: Path) -> None:
    """Write results.json and table.md into the folder, each complete or not at all."""
    ordered = sorted(results, key=order)
    record = {"notes": notes, "results": [result.record() for result in ordered]}
    _replace(place / "results.json", json.dumps(record, indent=1) + "\n")
    _replace(place / "table.md", "\n".join(table(ordered)) + "\n")


def table(results: Sequence[Result]) -> list[str]:
    """Return the lines of a Markdown table with one row for each result."""
    head = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    return head + ["| " + " | ".join(_cells(result)) + " |" for result in results]


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw accuracy against each axis, a row for each share and classifier; bars are standard deviations."""
    own = [result for result in results if result.setting.vectors != "GloVe"]
    figure = Figure(figsize=(15, 3.4 * len(ROWS)), layout="constrained")
    grid = figure.subplots(len(ROWS), len(AXES), sharey="row", squeeze=False)
    for axes, (share, trained_on) in zip(grid, ROWS, strict=True):
        shown = [r for r in own if r.setting.share == share and r.trained_on.startswith(trained_on)]
        for axis, name in zip(axes, AXES, strict=True):
            _panel(axis, shown, name)
        axes[0].set_ylabel(f"accuracy, {share:.0%} of words protected,\ntrained on {trained_on}")
    for axis, name in zip(grid[-1], AXES, strict=True):
        axis.set_xlabel(name)
    _legend(figure)
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, results: Sequence[Result], name: str) -> None:
    points = [(_place(result, name), result) for result in results]
    beyond = 2 * max([1.0, *(x for x, _ in points if x is not None)])
    for x, result in points:
        axis.errorbar(
            beyond if x is None else x,
            result.mean,
            yerr=result.spread,
            fmt="o" if result.setting.matched == "" else "s",
            color=COLOURS[result.setting.mechanism],
            markersize=5,
            capsize=2,
        )
    if name.endswith("eps"):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        if any(x is None for x, _ in points):
            axis.axvspan(beyond / 1.3, beyond * 1.3, color="#eeeeee", zorder=0)
            axis.text(beyond, axis.get_ylim()[0], "infinite", ha="center", va="bottom", fontsize=8)
    axis.grid(alpha=0.3)


def _legend(figure: Figure) -> None:
    marks = [
        mpl.lines.Line2D([], [], color=colour, marker="o", linestyle="", label=name)
        for name, colour in COLOURS.items()
    ]
    marks.append(
        mpl.lines.Line2D([], [], color="grey", marker="s", linestyle="", label="a recovery as ours at eps 1")
    )
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)


def _place(result: Result, name: str) -> float | None:
    if name == "nominal eps":
        return None if result.setting.nominal == "no noise" else float(result.setting.nominal)
    if name == "exact eps":
        return result.exact_epsilon
    return result.recovery_uniform if name.endswith("uniform") else result.recovery_weighted


def _cells(result: Result) -> list[str]:
    setting = result.setting
    matched = f" ({setting.matched} recovery as ours at 1)" if setting.matched else ""
    return [
        setting.vectors,
        f"{setting.share:.0%}",
        setting.mechanism,
        setting.nominal + matched,
        "infinite" if result.exact_epsilon is None else f"{result.exact_epsilon:.3f}",
        f"{result.recovery_uniform:.4f}",
        f"{result.recovery_weighted:.4f}",
        f"{result.tokens_protected:.1%}",
        f"{result.tokens_changed:.1%}",
        result.trained_on,
        f"{result.mean:.4f}",
        f"{result.spread:.4f}",
        str(len(result.accuracies)),
    ]


def order(result: Result) -> tuple[bool, float, int, str, str, str, str]:
    """Return the key by which results are listed: vectors, share, mechanism, classifier, setting."""
    setting = result.setting
    names = list(COLOURS)
    return (
        setting.vectors == "GloVe",
        setting.share,
        names.index(setting.mechanism),
        result.trained_on,
        setting.matched,
        setting.nominal,
        setting.vectors,
    )


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
