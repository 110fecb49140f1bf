"""Mode accounting: claimed totals against exact lower bounds on what repeated selections lose."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, log
from typing import Final

import numpy as np
from scipy.stats import binom

from veil_conformance.sanitizers import laws
from veil_conformance.sanitizers.settings import Settings, looked_at
from veil_conformance.sanitizers.subject import Subject
from veil_conformance.sanitizers.verdicts import Finding, Verdict, concluded

MODE: Final = "accounting"
COUNTS: Final = ((1, "0"), (2, "0"), (10, "0"), (10, "0.000001"), (100, "0.000001"), (1000, "0.00001"))
"""Selections and deltas for which a total is asked."""
SPLITS: Final = tuple(Fraction(step, 16) for step in range(1, 16)) + tuple(
    1 - Fraction(1, 2**power) for power in range(5, 21)
)
"""Shares of epsilon that the first of two outputs gets, in the mechanisms that a total is compared with."""
GRID: Final = 2**256
"""Denominator of the probabilities of these mechanisms."""
ROUNDING: Final = 10**4
"""Lower bounds are stated in units of 1 / ROUNDING."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two laws on two outputs: the first has probability p / GRID under one and q / GRID under the other."""

    p: int
    q: int

    @property
    def loss(self) -> float:
        """Return ln(p / q)."""
        return log(self.p / self.q)


def delta_at_least(pair: Pair, count: int, epsilon: Fraction) -> Fraction:
    """Return a lower bound for the delta of `count` independent outputs of a pair at epsilon; an exact sum.

    delta is the sum over j of max(0, P(j) - e**epsilon Q(j)), where the first output comes up j times. A
    rational just above e**epsilon stands for it.
    """
    _, high = laws.powers_of_e(epsilon)
    mine, theirs, ways, total = pair.p**count, pair.q**count, 1, 0
    for j in range(count, -1, -1):
        excess = mine * high.denominator - high.numerator * theirs
        if excess <= 0:
            break
        total += ways * excess
        mine, theirs = mine // pair.p * (GRID - pair.p), theirs // pair.q * (GRID - pair.q)
        ways = ways * j // (count - j + 1)
    return Fraction(total, high.denominator * GRID**count)


def bounded_range_pairs(epsilon: Fraction) -> Iterator[Pair]:
    """Return pairs whose log ratios lie in an interval of length epsilon that holds 0.

    An exponential mechanism of this epsilon can have each of them, with its outputs merged to two; each is
    epsilon-differentially private, so an accountant for epsilon-private selections has to cover them.
    """
    for share in SPLITS:
        upper, _ = laws.powers_of_e(epsilon * share)
        lower = upper / laws.powers_of_e(epsilon)[1]
        q = ceil((1 - lower) / (upper - lower) * GRID) if lower < 1 < upper else 0
        p, step = int(upper * q), 1
        while 0 < q < p < GRID and laws.exceeds(Fraction(p * (GRID - q), q * (GRID - p)), epsilon):
            p, step = p - step, 2 * step
        if 0 < q < p < GRID:
            yield Pair(p, q)


def _about(pair: Pair, count: int, delta: float) -> float:
    """Return about the epsilon at which `count` outputs of a pair have this delta, in floating point."""
    if delta == 0:
        return count * pair.loss
    j = np.arange(count + 1)
    mine, theirs = binom.logpmf(j, count, pair.p / GRID), binom.logpmf(j, count, pair.q / GRID)

    def above(epsilon: float) -> bool:
        lost = np.exp(mine) * -np.expm1(np.minimum(theirs + epsilon - mine, 0))
        return bool(lost.sum() > delta)

    low, high = 0.0, count * pair.loss
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return low


@lru_cache(maxsize=256)
def strongest(epsilon: Fraction, count: int, delta: Fraction) -> tuple[Pair, Fraction] | None:
    """Return the pair that loses most in `count` outputs, and an epsilon below its loss at delta.

    Floating point finds them; that the exact delta at this epsilon exceeds `delta` is then decided exactly.
    """
    pairs = list(bounded_range_pairs(epsilon))
    if not pairs:
        return None
    best = max(pairs, key=lambda pair: _about(pair, count, float(delta)))
    steps = floor(_about(best, count, float(delta)) * ROUNDING)
    while steps > 0 and delta_at_least(best, count, Fraction(steps, ROUNDING)) <= delta:
        steps -= 1
    return best, Fraction(max(steps, 0), ROUNDING)


def audit(subject: Subject, settings: Settings) -> Verdict:
    """Return what the sanitizer's own accounting claims against what holds. Raises: Crashed."""
    offers, findings = subject.description.offers, []
    if "compose" in offers:
        findings += [_total(subject, count, delta) for count, delta in COUNTS]
    if subject.description.monotone:
        findings.append(_monotone(subject, settings))
    if not findings:
        return Verdict(MODE, "NOT EXPOSED", "the sanitizer has no accountant and claims nothing monotone")
    return concluded(MODE, findings, 0, 0.0)


def _total(subject: Subject, count: int, delta: str) -> Finding:
    epsilon, check = subject.description.epsilon, f"composition of {count}, delta {delta}"
    claimed = subject.compose(epsilon, count, delta)
    found = strongest(Fraction(epsilon), count, Fraction(delta))
    if found is None:
        return Finding(check, False, "", figures={"claimed": f"{float(claimed):g}"})
    pair, least = found
    rejects = delta_at_least(pair, count, claimed) > Fraction(delta)
    figures = {"claimed": f"{float(claimed):g}", "exact lower bound": f"{float(least):.4f}"}
    said = f"{count} selections of epsilon {epsilon} at delta {delta}"
    reason = f"{said} lose at least {float(least):.4f}, and {float(claimed):g} is claimed" if rejects else ""
    witness = f"an output of probability {pair.p / GRID:.4f} against {pair.q / GRID:.4f}"
    power = f"a total below {float(least):.4f} for {count} at delta {delta} would show"
    return Finding(check, rejects, reason, witness, figures, power)


def _monotone(subject: Subject, settings: Settings) -> Finding:
    """Return whether replacing a token moves scores both ways, for which no epsilon may be halved."""
    check = "monotone scores"
    if "law" not in subject.description.offers:
        return Finding(check, True, "a monotone claim without scores that would show it", "no law is exposed")
    for part in looked_at(subject, settings):
        rows = {token: laws.parse(subject.law(token)).scores for token in part}
        for token, row in rows.items():
            for other, other_row in rows.items():
                changes = [a - b for a, b in zip(row or (), other_row or (), strict=False)]
                if not changes or min(changes) < 0 < max(changes):
                    reason = (
                        f"not monotone: replacing {other!r} by {token!r} raises one score and lowers another"
                    )
                    return Finding(check, True, reason, f"{token!r} against {other!r}")
    return Finding(check, False, "", "", {}, "a score that moves against the others would show")
