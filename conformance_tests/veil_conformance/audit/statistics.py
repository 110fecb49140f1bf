"""Exact intervals and tests for counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import binomtest

CONFIDENCE: Final = 0.95
"""Coverage of every interval in the report."""
FALSE_ALARM: Final = 1e-3
"""An honest audit fails by chance with at most this probability, all comparisons together."""

Interval = tuple[float, float]


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact two-sided interval for the probability of a hit, each end in [0, 1]."""
    interval = binomtest(hits, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two attacks on the same tokens: hits of one alone, and how likely so many are if neither is better.

    Tokens were exchanged one by one, or with the message or prompt that they come in: `differences` says how
    many of these units the first is ahead by so many hits, behind if below 0; `interval` covers the
    difference of the two hit rates with at least 95 %, for independent tokens: with that probability both
    rates lie in their own exact 97.5 % intervals.
    """

    only_first: int
    only_second: int
    differences: Mapping[int, int]
    p_value: float
    interval: Interval

    @property
    def units(self) -> int:
        """Return how many units were exchanged."""
        return sum(self.differences.values())

    def decides(self, level: float) -> bool:
        """Return whether there are units enough for a p-value below a level, if one side is always ahead."""
        return 0.5**self.units < level


def exchanged(differences: Mapping[int, int]) -> float:
    """Return how likely a sum as large as this is if each difference had either sign by a fair coin.

    Differences come with the number of times that they occur. Exact up to rounding: the distribution is
    summed up coin by coin, from the smallest difference on.
    """
    counts = Counter(differences)
    steps = sorted(abs(step) for step in counts.elements() if step)
    law = np.ones(1)
    for step in steps:
        law = (np.pad(law, (2 * step, 0)) + np.pad(law, (0, 2 * step))) / 2
    total = sum(step * count for step, count in counts.items())
    return float(min(1.0, law[total + sum(steps) :].sum()))


def counted(hits: tuple[int, int], tokens: int, only_first: int, differences: Mapping[int, int]) -> Paired:
    """Return the comparison of two attacks from counts alone: the hits of each, and of the first alone."""
    each = (1 + CONFIDENCE) / 2
    high, low = clopper_pearson(hits[0], tokens, each), clopper_pearson(hits[1], tokens, each)
    return Paired(
        only_first,
        only_first - hits[0] + hits[1],
        differences,
        exchanged(differences),
        (high[0] - low[1], high[1] - low[0]),
    )


def paired(first: Sequence[bool], second: Sequence[bool], units: Sequence[int] | None = None) -> Paired:
    """Return the exact one-sided comparison of two attacks on the same tokens; `units` says whose each is.

    With single tokens as units it is McNemar's test.
    """
    difference = np.asarray(first, dtype=np.int64) - np.asarray(second, dtype=np.int64)
    labels = range(len(difference)) if units is None else units
    numbers = np.unique(np.array(labels, dtype=np.int64), return_inverse=True)[1]
    summed = np.bincount(numbers, difference).astype(np.int64).tolist()
    differences = dict(sorted(Counter(summed).items()))
    return counted((sum(first), sum(second)), len(first), int((difference > 0).sum()), differences)
