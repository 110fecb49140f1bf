"""Ratios of time: a candidate against a baseline, measured in turns, so that a busy machine slows both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

ROUNDS: Final = 15
"""Rounds of a figure; each times the baseline once and the candidate once."""
SHORTEST_S: Final = 0.004
"""Least seconds of one timing: shorter work is called several times."""
MOST_CALLS: Final = 10_000
"""Most calls in one timing."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed; one call of `run` does `items` items. A `single` call is never repeated in a round."""

    run: Callable[[], object]
    items: int = 1
    single: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured ratio; seconds are those of each round, for one item."""

    title: str
    candidate: tuple[float, ...]
    baseline: tuple[float, ...]
    target: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return each round's candidate seconds divided by the same round's baseline seconds."""
        return tuple(ours / theirs for ours, theirs in zip(self.candidate, self.baseline, strict=True))

    @property
    def ratio(self) -> float:
        """Return the median of the rounds' ratios."""
        return median(self.ratios)

    @property
    def verdict(self) -> str:
        """Return `met` or `missed`, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.ratio <= self.target else "missed"

    def record(self) -> dict[str, object]:
        """Return the figure as report.json holds it; seconds are medians for one item."""
        return {
            "title": self.title,
            "ratio": self.ratio,
            "lowest": min(self.ratios),
            "highest": max(self.ratios),
            "rounds": len(self.ratios),
            "candidate_s": median(self.candidate),
            "baseline_s": median(self.baseline),
            "target": self.target,
            "verdict": self.verdict,
        }


def calls_for(seconds: float) -> int:
    """Return how often work of this length is called in one timing, so that it lasts SHORTEST_S or more."""
    return max(1, min(MOST_CALLS, math.ceil(SHORTEST_S / seconds))) if seconds > 0 else MOST_CALLS


def timed_text(seconds: float) -> str:
    """Return seconds with three digits in the unit that suits them: s, ms, us or ns."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(figures: Sequence[Figure]) -> list[str]:
    """Return the lines of the table that ends a run."""
    wide = max([len("figure"), *(len(figure.title) for figure in figures)])
    lines = [f"{'figure':{wide}}  {'this':>9}  {'baseline':>9}  {'ratio':>7}  {'range':>15}  target"]
    for figure in figures:
        span = f"{min(figure.ratios):.2f} - {max(figure.ratios):.2f}"
        seconds = [timed_text(median(side)) for side in (figure.candidate, figure.baseline)]
        judged = f"<= {figure.target:g} {figure.verdict}" if figure.target is not None else ""
        times = f"{seconds[0]:>9}  {seconds[1]:>9}"
        lines.append(f"{figure.title:{wide}}  {times}  {figure.ratio:>7.2f}  {span:>15}  {judged}".rstrip())
    return lines
