"""Weights of whole tables: laws in fixed point with a counted error, and in float64 to steer a bisection.

Above all scores, at the height max + t, candidate i wins with the probability gap * s_i * y * product over j
before i of (1 - s_j y) * product over j after i of (1 - alpha s_j y), where y = alpha**t. That is a
polynomial in y, and y**k sums over t to 1 / (1 - alpha**k). One-sided noise never wins lower; two-sided noise
adds the heights between the scores one by one, and below them a geometric series.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_optimized.accounting import exact_pmf
from veil_optimized.noise import check_scores
from veil_spec import constants
from veil_spec.types import Geometric, Noise

__all__ = ["estimate", "tabulate"]

Floats = npt.NDArray[np.float64]
WHOLE: Final = 2**constants.TABLE_BITS
SLACK_BITS: Final = 80
MARGIN_BITS: Final = 48
"""A weight is ambiguous about once in 2**31, and where it is near 0: then its row's exact law decides."""


def tabulate(scores: Sequence[int], noise: Noise) -> list[int]:
    """Return the law of these scores as positive integers whose sum is 2**64 [candidates].

    Source: spec/noisy_max.md, Tabulated selection.
    Implements: NMX-R12.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    check_scores(scores)
    floors = _floors(scores, noise)
    if floors is None:
        floors = [int(chance * WHOLE) for chance in exact_pmf(scores, noise)]
    weights = [max(1, floor) for floor in floors]
    weights[weights.index(max(weights))] += WHOLE - sum(weights)
    return weights


def _floors(scores: Sequence[int], noise: Noise) -> list[int] | None:
    """Return floor(2**64 P) for each candidate, or None if the fixed point cannot tell.

    Errors are counted in units of the last place. A power of alpha is off by at most 2**9 (one a step). The
    polynomial starts off by at most 2**size size 2**9; going from one candidate to the next multiplies it by
    (1 - s y) / (1 - alpha s y), whose coefficients sum to at most 2 in absolute value, and adds size 2**9 or
    less: at most 2**(2 size) size 2**10 in all. Taking one factor out and summing adds a factor size**2, the
    heights below are products of at most size factors within [0, 1], and a geometric sum divides by at least
    1 - alpha, which is 2**-16 or more. Size is at most 2**8 and there are at
    most 2**9 heights, so 2**(2 size + MARGIN_BITS) is never reached.
    """
    size, spread = len(scores), max(scores) - min(scores)
    if max(size, spread + 2) > 2**8:
        return None
    slack = SLACK_BITS + 2 * size
    law = _FixedPoint(noise, constants.TABLE_BITS + slack, spread + 2).law(scores)
    margin = 1 << (2 * size + MARGIN_BITS)
    rests = [chance & ((1 << slack) - 1) for chance in law]
    if any(rest < margin or rest > (1 << slack) - margin for rest in rests):
        return None
    return [chance >> slack for chance in law]


class _FixedPoint:
    """Laws in units of 2**-bits."""

    def __init__(self, noise: Noise, bits: int, reach: int) -> None:
        self.bits, self.one = bits, 1 << bits
        a, b = noise.alpha.numerator, noise.alpha.denominator
        self.two_sided = not isinstance(noise, Geometric)
        head = self.one * b // (a + b) if self.two_sided else self.one
        self.alpha = self.one * a // b
        self.powers = list(accumulate(range(reach + 1), lambda power, _: power * a // b, initial=head))
        self.gap = self.one - self.alpha

    def law(self, scores: Sequence[int]) -> list[int]:
        """Return the probability of each candidate [candidates]."""
        law = self._above(scores)
        if self.two_sided:
            low, high = min(scores), max(scores)
            for top in range(low, high):
                law = list(map(int.__add__, law, self._at(scores, top)))
            series = self.one - self._power(len(scores))
            below = self._at(scores, low - 1)
            law = [here + (under << self.bits) // series for here, under in zip(law, below, strict=True)]
        return law

    def _power(self, exponent: int) -> int:
        power = self.one
        for _ in range(exponent):
            power = power * self.alpha >> self.bits
        return power

    def _at_most(self, value: int) -> int:
        return self.one - self.powers[value + 1] if value >= 0 else self.powers[-value]

    def _at(self, scores: Sequence[int], top: int) -> list[int]:
        """Return the probability of winning with the noisy score `top`, below the largest score."""
        strict = [self._at_most(top - 1 - score) for score in scores]
        at_most = [self._at_most(top - score) for score in scores]
        before = self._products(strict)
        after = self._products(at_most[::-1])[::-1]
        here = [high - low for high, low in zip(at_most, strict, strict=True)]
        return [
            (b * h >> self.bits) * a >> self.bits for b, h, a in zip(before, here, after[1:], strict=False)
        ]

    def _products(self, factors: Sequence[int]) -> list[int]:
        return list(accumulate(factors, lambda x, y: x * y >> self.bits, initial=self.one))

    def _above(self, scores: Sequence[int]) -> list[int]:
        """Return the probability of winning with a noisy score of max(scores) or more."""
        high = max(scores)
        slopes = [self.powers[high - score] for score in scores]
        falling = [slope * self.alpha >> self.bits for slope in slopes]
        sums, power = [], self.one
        for _ in scores:
            power = power * self.alpha >> self.bits
            sums.append((self.gap << self.bits) // (self.one - power))
        polynomial = [self.one]
        for slope in falling:
            polynomial = self._times(polynomial, slope)
        law = []
        for slope, next_slope in zip(slopes, falling, strict=True):
            rest = self._divided(polynomial, next_slope)
            law.append((sum(map(mul, rest, sums)) >> self.bits) * slope >> self.bits)
            polynomial = self._times(rest, slope)
        return law

    def _times(self, polynomial: Sequence[int], slope: int) -> list[int]:
        pairs = zip([*polynomial, 0], [0, *polynomial], strict=True)
        return [a - (slope * b >> self.bits) for a, b in pairs]

    def _divided(self, polynomial: Sequence[int], slope: int) -> list[int]:
        return list(accumulate(polynomial[:-1], lambda carry, term: term + (slope * carry >> self.bits)))


def estimate(scores: npt.NDArray[np.int64], alphas: Floats, two_sided: bool) -> tuple[Floats, Floats]:
    """Return the laws of rows in float64 [rows, size], and how far to trust them [rows]: absolute errors.

    The scores are [rows, size]; each row has its own alpha [rows]. The error is that of `_floors`, with the
    slopes as they are in place of 1. It steers a bisection; no certificate depends on it.
    """
    alpha = alphas[:, None]
    drop = (scores.max(axis=1)[:, None] - scores).astype(np.float64)
    head = 1 / (1 + alpha) if two_sided else np.ones_like(alpha)
    slopes = head * alpha**drop
    law = _above(slopes, alpha)
    if two_sided:
        law += _below(scores, alpha, head)
    size, spread = scores.shape[1], int(np.ptp(scores, axis=1).max())
    growth = np.prod((1 + slopes) * (1 + slopes * (1 - alpha) / (1 - alpha * slopes)), axis=1)
    series = 1 - alphas**size if two_sided else 1.0
    return law, 2.0**-50 * (size + spread) * growth / series


def _above(slopes: Floats, alpha: Floats) -> Floats:
    rows, size = slopes.shape
    falling = slopes * alpha
    sums = (1 - alpha) / (1 - alpha ** np.arange(1, size + 1))
    polynomial = np.zeros((size + 1, rows))
    polynomial[0] = 1
    for j in range(size):
        polynomial[1 : j + 2] -= falling[:, j] * polynomial[: j + 1]
    law = np.empty_like(slopes)
    for j in range(size):
        rest = polynomial[:size].copy()
        for k in range(1, size):
            rest[k] += falling[:, j] * rest[k - 1]
        law[:, j] = slopes[:, j] * np.einsum("kr,rk->r", rest, sums)
        polynomial[0], polynomial[size] = 1, 0
        polynomial[1:size] = rest[1:]
        polynomial[1 : size + 1] -= slopes[:, j] * rest
    return law


def _below(scores: npt.NDArray[np.int64], alpha: Floats, head: Floats) -> Floats:
    """Return the probability of winning with a noisy score below the largest score [rows, size]."""
    low, high = scores.min(axis=1), scores.max(axis=1)
    law = np.zeros(scores.shape)
    for step in range(int((high - low).max()) + 1):
        top = high - 1 - step
        lanes = np.flatnonzero(top >= low - 1)
        here = _at(scores[lanes], top[lanes, None], alpha[lanes], head[lanes])
        last = top[lanes] == low[lanes] - 1
        here[last] /= 1 - alpha[lanes][last] ** scores.shape[1]
        law[lanes] += here
    return law


def _at(scores: npt.NDArray[np.int64], top: npt.NDArray[np.int64], alpha: Floats, head: Floats) -> Floats:
    def at_most(value: npt.NDArray[np.int64]) -> Floats:
        tail = head * alpha ** np.where(value >= 0, value + 1, -value)
        return np.where(value >= 0, 1 - tail, tail)

    strict, reached = at_most(top - 1 - scores), at_most(top - scores)
    ones = np.ones((len(scores), 1))
    before = np.cumprod(np.hstack([ones, strict[:, :-1]]), axis=1)
    after = np.cumprod(np.hstack([ones, reached[:, :0:-1]]), axis=1)[:, ::-1]
    return before * (reached - strict) * after
