"""Ratios of time: a candidate against a baseline, measured in turns, so that a busy machine slows both."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

ROUNDS: Final = 15
"""Most rounds of a figure; each times the baseline once and the candidate once."""
FEWEST: Final = 5
"""Fewest rounds of a figure, however long they take."""
LONGEST_S: Final = 3.0
"""Seconds of a figure's rounds, beyond which there are only the fewest."""
SHORTEST_S: Final = 0.004
"""Least seconds of one timing: shorter work is called several times."""
MOST_CALLS: Final = 10_000
"""Most calls in one timing."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed; one call of `run` does `items` items. A `single` call is never repeated in a round.

    `before` prepares a single call, and is not timed.
    """

    run: Callable[[], object]
    items: int = 1
    single: bool = False
    before: Callable[[], object] | None = None


class Stopwatch:
    """Times one item of some work: a share of enough calls, after one call that is not timed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._calls = 1
        self.seconds = 0.0
        if not work.single:
            work.run()
            self.seconds = self._once()
            self._calls = calls_for(self.seconds)
            self.seconds *= self._calls

    def __call__(self) -> float:
        """Return the seconds of an item."""
        if self._work.before is not None:
            self._work.before()
        return self._once() / self._work.items

    def _once(self) -> float:
        start = time.perf_counter()
        for _ in range(self._calls):
            self._work.run()
        return (time.perf_counter() - start) / self._calls


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a candidate is held against, the title of the figure, and its target or longest time."""

    title: str
    work: Work
    target: float | None = None
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured ratio; seconds are those of each round, for one item.

    It is judged by the highest ratio that meets its target, or by the longest time of an item.
    """

    title: str
    candidate: tuple[float, ...]
    baseline: tuple[float, ...]
    target: float | None = None
    limit_s: float | None = None

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
        if self.target is not None:
            return "met" if self.ratio <= self.target else "missed"
        if self.limit_s is not None:
            return "met" if median(self.candidate) <= self.limit_s else "missed"
        return ""

    @property
    def goal(self) -> str:
        """Return the target with its verdict, or nothing."""
        if self.target is not None:
            return f"<= {self.target:g} {self.verdict}"
        return "" if self.limit_s is None else f"<= {timed_text(self.limit_s)} {self.verdict}"

    def cells(self) -> list[str]:
        """Return the columns of a table."""
        sides = [timed_text(median(side)) for side in (self.candidate, self.baseline)]
        span = f"{min(self.ratios):.2f} - {max(self.ratios):.2f}"
        return [self.title, *sides, f"{self.ratio:.2f}", span, self.goal]

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
            "limit_s": self.limit_s,
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


def rounds_for(seconds: float) -> int:
    """Return how many rounds of so many seconds a figure has."""
    return max(FEWEST, min(ROUNDS, int(LONGEST_S / seconds))) if seconds > 0 else ROUNDS


def in_turns(works: Mapping[str, Work], rounds: int = FEWEST) -> dict[str, tuple[float, ...]]:
    """Return the seconds of an item in each round, by name; in a round all are timed, in their order.

    One more round, the first, is not counted.
    """
    watches = {name: Stopwatch(work) for name, work in works.items()}
    timed = [{name: watch() for name, watch in watches.items()} for _ in range(rounds + 1)]
    return {name: tuple(seconds[name] for seconds in timed[1:]) for name in works}


HEAD: Final = ("figure", "this", "baseline", "ratio", "range", "target")
"""The columns of a table of figures."""


def table(figures: Sequence[Figure]) -> list[str]:
    """Return the lines of a table for a terminal."""
    rows = [list(HEAD), *(figure.cells() for figure in figures)]
    wide = max(len(row[0]) for row in rows)
    return [
        f"{title:{wide}}  {ours:>9}  {theirs:>9}  {ratio:>7}  {span:>15}  {goal}".rstrip()
        for title, ours, theirs, ratio, span, goal in rows
    ]
