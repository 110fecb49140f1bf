"""The picture: tokens, the enclave's integers, the cloud's field elements and the guesses, on one scale."""

import base64
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK: Final = "#1c1f24"
RIGHT: Final = "#0b6e4f"
WRONG: Final = "#b3261e"
COLOURS: Final = "RdBu"
TITLES: Final = ("token", "in the enclave", "in the cloud", "attack's guess")


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures have the page's fonts, and the same bytes for the same content."""
    return mpl.rc_context(
        {"font.family": ["DejaVu Sans", "sans-serif"], "svg.hashsalt": "veil", "svg.fonttype": "none"}
    )


def signed_bits(values: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return sign(x) log2(1 + |x|), so that small integers and field elements share one scale."""
    array = np.array(values, dtype=np.float64)
    signed: NDArray[np.float64] = np.sign(array) * np.log2(1 + np.abs(array))
    return signed


def visible(token: str) -> str:
    """Return a token's text with its white space shown, short enough for a column."""
    shown = token.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")
    shown = "".join(sign if sign.isprintable() else "\N{WHITE SQUARE}" for sign in shown)
    return shown if len(shown) <= 11 else shown[:10] + "\N{HORIZONTAL ELLIPSIS}"


def _words(axes: Axes, words: Sequence[str], colours: Sequence[str]) -> None:
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.axis("off")
    for row, (word, colour) in enumerate(zip(words, colours, strict=True)):
        axes.text(0.02, row, word, va="center", color=colour, fontsize=8.5, parse_math=False)


def _cells(axes: Axes, values: Sequence[Sequence[int]], scale: Normalize) -> None:
    axes.imshow(signed_bits(values), cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_linewidth(0.5)


def draw(
    tokens: Sequence[str],
    integers: Sequence[Sequence[int]],
    elements: Sequence[Sequence[int]],
    guesses: Sequence[str],
    right: Sequence[bool],
    modulus: int,
) -> str:
    """Return one profile's picture as an SVG data address: a row for each token, four columns."""
    scale = Normalize(-np.log2(modulus / 2), np.log2(modulus / 2))
    with styled():
        figure = Figure(figsize=(4.6, 0.23 * len(tokens) + 1.0), layout="constrained")
        grid = figure.subplots(1, 4, width_ratios=(1.15, 1.5, 1.5, 1.3))
        _words(grid[0], [visible(token) for token in tokens], [INK] * len(tokens))
        _cells(grid[1], integers, scale)
        _cells(grid[2], elements, scale)
        signs = ["\N{CHECK MARK} " if hit else "\N{BALLOT X} " for hit in right]
        marked = [sign + visible(guess) for sign, guess in zip(signs, guesses, strict=True)]
        _words(grid[3], marked, [RIGHT if hit else WRONG for hit in right])
        for axes, title in zip(grid, TITLES, strict=True):
            axes.set_title(title, fontsize=8.5, color=INK, loc="left" if axes in grid[::3] else "center")
        shared = mpl.cm.ScalarMappable(scale, COLOURS)
        bar = figure.colorbar(shared, ax=list(grid), location="bottom", aspect=40, shrink=0.9, pad=0.02)
        bar.set_label("signed size in bits, the same scale for both", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        return address(figure)


def address(figure: Figure) -> str:
    """Return a figure as an SVG data address, which stands alone in a page.

    The layout's last digits differ from run to run, and the names of clips with them: they are rounded off.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(side, 4) for side in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()
