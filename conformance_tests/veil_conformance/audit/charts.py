"""The matrix as heat maps and the curve over the mask scale, in shades that also read in grey."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from veil_conformance.audit.picture import INK, WRONG, address, styled

SHADES: Final = "Greys"
DARK: Final = 0.55
"""Shares above this are written in white."""
HEADS: Final = {
    "rank": "rank,\nfield",
    "real rank": "rank,\nreal",
    "own target": "its own\ntarget",
    "pad": "pad",
    "lwe": "lwe",
}
"""Columns of a heat map from left to right."""
SOFT: Final = "#5a626d"


@dataclass(frozen=True, slots=True)
class Square:
    """One square of a heat map; the share is None where the profile was refused."""

    attack: str
    column: str
    share: float | None
    holds: bool


def percent(share: float) -> str:
    """Return a share as a short number of percent."""
    hundred = 100 * share
    if hundred >= 99.95 or not hundred:
        return f"{hundred:.0f}"
    return f"{hundred:.1f}" if hundred >= 0.095 else f"{hundred:.1g}"


def said(square: Square) -> str:
    """Return what a square says: its share, with a cross if it is not as expected."""
    text = "refused" if square.share is None else percent(square.share)
    return text if square.holds else f"\N{BALLOT X} {text}"


def heat_map(squares: Sequence[Square]) -> str:
    """Return one model's heat map as a data address: a row for each attack, a column for each profile."""
    rows = list(dict.fromkeys(square.attack for square in squares))
    with styled():
        figure = Figure(figsize=(4.1, 0.27 * len(rows) + 0.62), layout="constrained")
        axes = figure.subplots()
        for square in squares:
            _square(axes, rows.index(square.attack), list(HEADS).index(square.column), square)
        axes.set_xlim(0, len(HEADS))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks(np.arange(len(HEADS)) + 0.5, list(HEADS.values()), fontsize=8.5, color=INK)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8.5, color=INK)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        return address(figure)


def _square(axes: Axes, row: int, column: int, square: Square) -> None:
    share = square.share
    shade = "white" if share is None else mpl.colormaps[SHADES](0.06 + 0.8 * share)
    edge = "white" if square.holds else WRONG
    hatch = "////" if share is None else None
    axes.add_patch(Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, facecolor=shade, edgecolor=edge))
    if hatch:
        axes.add_patch(
            Rectangle(
                (column + 0.03, row + 0.05), 0.94, 0.9, facecolor="none", edgecolor="#d9dde3", hatch=hatch
            )
        )
    ink = "white" if share is not None and share > DARK else INK
    size = 6.5 if share is None else 8
    axes.text(column + 0.5, row + 0.5, said(square), ha="center", va="center", color=ink, fontsize=size)


def curve(sigmas: Sequence[float], nearest: Sequence[float], null_space: Sequence[float]) -> str:
    """Return both attacks' shares over the scale of real-valued masks, as a data address."""
    with styled():
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        about = (("null space", null_space, "-", "s", INK), ("nearest neighbour", nearest, "--", "o", SOFT))
        for name, shares, line, mark, ink in about:
            axes.plot(sigmas, 100 * np.array(shares), line, marker=mark, color=ink, label=name, markersize=5)
        axes.set_xscale("log")
        axes.set_xticks(list(sigmas), [f"{sigma:g}" for sigma in sigmas], fontsize=8)
        axes.minorticks_off()
        axes.set_ylim(-4, 106)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("mask scale sigma, activations = 1", fontsize=8.5)
        axes.set_ylabel("tokens named, percent", fontsize=8.5)
        axes.legend(fontsize=8.5, frameon=False, loc="center right")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return address(figure)
