"""Exact intervals and tests for counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy.stats import binomtest

CONFIDENCE: Final = 0.95
"""Coverage of every interval in the report."""
SIGNIFICANCE: Final = 0.001
"""An excess over chance counts as one if it is less likely than this."""

Interval = tuple[float, float]


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact two-sided interval for the probability of a hit, each end in [0, 1]."""
    interval = binomtest(hits, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two attacks on the same tokens: hits of one alone, and how likely so many are if neither is better.

    `interval` covers the difference of the two hit rates with at least 95 %: with that probability both rates
    lie in their own exact 97.5 % intervals.
    """

    only_first: int
    only_second: int
    p_value: float
    interval: Interval


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Return the exact one-sided comparison (McNemar) of two attacks on the same tokens."""
    pairs = list(zip(first, second, strict=True))
    ahead, behind = pairs.count((True, False)), pairs.count((False, True))
    p_value = float(binomtest(ahead, ahead + behind, alternative="greater").pvalue) if ahead + behind else 1.0
    each = (1 + CONFIDENCE) / 2
    high, low = clopper_pearson(sum(first), len(first), each), clopper_pearson(sum(second), len(second), each)
    return Paired(ahead, behind, p_value, (high[0] - low[1], high[1] - low[0]))
