"""Error probabilities that hold at any sample size, and the power that goes with them."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, inf, log
from typing import Final

import numpy as np
from scipy.special import betaincinv
from scipy.stats import binom, fisher_exact

POWER: Final = 0.95
"""Probability with which a stated excess is noticed."""
STEPS: Final = 40
"""Halvings of an interval in which a detectable excess is sought."""


def at_least(hits: int, trials: int, level: float) -> float:
    """Return Clopper and Pearson's lower bound of a probability; it errs with probability at most level."""
    return float(betaincinv(hits, trials - hits + 1, level)) if hits else 0.0


def log_ratio_bound(hits: int, trials: int, others: int, other_trials: int, level: float) -> float:
    """Return a lower bound for ln(p / q) that is too large with probability at most 2 * level.

    `hits` of `trials` have probability p, `others` of `other_trials` probability q: Clopper-Pearson on each.
    """
    low, high = at_least(hits, trials, level), 1 - at_least(other_trials - others, other_trials, level)
    return log(low / high) if low > 0 else -inf


def smallest(noticed: Callable[[float], bool], most: float) -> float | None:
    """Return about the smallest excess in (0, most] that is noticed, or None; larger ones must be, too."""
    low, high = 0.0, most
    if not noticed(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if noticed(middle) else (middle, high)
    return high


def detectable_excess(p: float, trials: int, claim: float, level: float) -> float | None:
    """Return the excess of ln(p / q) over the claim that is rejected with probability POWER, or None.

    Each count stays on the unlucky side of its quantile with probability (1 - POWER) / 2 at most.
    """
    unlucky = (1 - POWER) / 2
    hits = int(binom.ppf(unlucky, trials, p))

    def noticed(excess: float) -> bool:
        others = int(binom.ppf(1 - unlucky, trials, p * exp(-(claim + excess))))
        return log_ratio_bound(hits, trials, others, trials, level) > claim

    return smallest(noticed, 32.0)


def relative_entropy_p_value(counts: Mapping[str, int], chances: Mapping[str, float]) -> tuple[float, float]:
    """Return G = 2 n D(observed || law), and a bound on how likely the law gives at least that.

    Source: R. Agrawal, Finite-sample concentration of the multinomial in relative entropy (arXiv 1904.02291):
    over k cells, n D has a smaller moment generating function than a gamma variable of shape k - 1, hence
    P(n D >= t) <= e**(k - 1 - t) * (t / (k - 1))**(k - 1) for t > k - 1. It holds for every n.
    """
    trials, cells = sum(counts.values()), len(chances)
    if any(chances.get(name, 0.0) <= 0 for name, seen in counts.items() if seen):
        return inf, 0.0
    half = sum(seen * log(seen / trials / chances[name]) for name, seen in counts.items() if seen)
    return 2 * half, tail(half, cells - 1)


def tail(half: float, freedom: int) -> float:
    """Return the bound on P(n D >= half) over freedom + 1 cells."""
    if freedom == 0 or half <= freedom:
        return 1.0
    return exp(freedom - half + freedom * log(half / freedom))


def detectable_shift(p: float, trials: int, cells: int, level: float) -> float | None:
    """Return the smallest rise of one probability p that the G-test notices with probability POWER, or None.

    Merging all other cells can only lower the statistic, so the true power is at least this.
    """

    def noticed(shift: float) -> bool:
        share = float(binom.ppf(1 - POWER, trials, p + shift)) / trials
        parts = ((share, p), (1 - share, 1 - p))
        half = trials * sum(a * log(a / b) for a, b in parts if a > 0)
        return share > p and tail(half, cells - 1) <= level

    return smallest(noticed, (1 - p) * (1 - 1e-9))


Pairs = Sequence[tuple[str, str]]


def matching_p_value(suspects: Pairs, controls: Pairs) -> tuple[float, float, float]:
    """Return the shares of equal pairs among suspects and controls, and Fisher's exact p-value of the two.

    If all outputs are independent with one law, every pair is equal with the same probability.
    """
    equal, other = sum(a == b for a, b in suspects), sum(a == b for a, b in controls)
    table = np.array([[equal, len(suspects) - equal], [other, len(controls) - other]])
    return equal / len(suspects), other / len(controls), float(fisher_exact(table).pvalue)


def detectable_copies(q: float, trials: int, level: float) -> float | None:
    """Return the share of copied outputs that is noticed with probability POWER, or None.

    q is the probability that two independent outputs are equal; `trials` pairs are compared with as many.
    """
    unlucky = (1 - POWER) / 2
    other = int(binom.ppf(1 - unlucky, trials, q))

    def noticed(share: float) -> bool:
        equal = int(binom.ppf(unlucky, trials, q + share * (1 - q)))
        table = np.array([[equal, trials - equal], [other, trials - other]])
        return equal > other and float(fisher_exact(table).pvalue) <= level

    return smallest(noticed, 1.0)
