"""Laws in exact arithmetic: what a sanitizer exposes as rational probabilities, and ratios against e**E."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import ceil, floor, log
from typing import Final

from veil_conformance.program import Value, short
from veil_conformance.sanitizers.subject import Crashed
from veil_reference.accounting import exact_pmf
from veil_spec.refusals import Refused
from veil_spec.types import Geometric, TwoSidedGeometric

ZERO: Final = Fraction(0)
NOISES: Final = ("geometric", "two-sided-geometric", "exponential", "gumbel", "listed")


class NoLaw(Exception):
    """Raised with the reason why exposed numbers are no probability distribution."""


@dataclass(frozen=True, slots=True)
class Law:
    """The probability of each output, as canonical symbols; the probabilities sum to 1."""

    chances: Mapping[str, Fraction]
    scores: tuple[int, ...] | None
    """The scores that it follows from, where they were exposed."""


def _integers(value: Value, field: str) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise Crashed(f"law: {field} must be a list of integers, not {short(value)}")
    return [_integer(item, field) for item in value]


def _integer(value: Value, field: str) -> int:
    """Return an integer that may be written as a decimal string, where JSON readers stop at 2**53."""
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    if type(value) is not int:
        raise Crashed(f"law: {field} must hold integers, not {short(value)}")
    return value


def _alpha(value: Value) -> Fraction:
    try:
        alpha = Fraction(value) if isinstance(value, str) else ZERO
    except (ValueError, ZeroDivisionError):
        alpha = ZERO
    if not 0 < alpha < 1:
        raise Crashed(f"law: alpha must be a fraction between 0 and 1 such as '2/3', not {short(value)}")
    return alpha


def one_sided_exponential(scores: Sequence[int], alpha: Fraction) -> list[Fraction]:
    """Return the law of the largest score plus exponential noise with P(Z >= 1) = alpha (permute-and-flip).

    With p = alpha**(max - score), P(i) is p_i times the integral over [0, 1] of all 1 - p_j t, j != i.
    """
    keeps = [alpha ** (max(scores) - score) for score in scores]
    return [_integral(keep, [*keeps[:i], *keeps[i + 1 :]]) for i, keep in enumerate(keeps)]


def _integral(keep: Fraction, others: Sequence[Fraction]) -> Fraction:
    polynomial = [keep]
    for other in others:
        shifted = [ZERO, *(other * term for term in polynomial)]
        polynomial = [a - b for a, b in zip([*polynomial, ZERO], shifted, strict=True)]
    return sum((term / (power + 1) for power, term in enumerate(polynomial)), ZERO)


def exponential_mechanism(scores: Sequence[int], alpha: Fraction) -> list[Fraction]:
    """Return the law that is proportional to alpha**-score: the largest score plus Gumbel noise."""
    weights = [alpha ** (max(scores) - score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def listed_noise(scores: Sequence[int], start: int, weights: Sequence[int]) -> list[Fraction]:
    """Return the law of the largest score plus integer noise start + k of probability weights[k] / sum.

    Ties go to the lowest index.
    """
    total = sum(weights)
    below = [Fraction(sum(weights[:k]), total) for k in range(len(weights) + 1)]

    def less(value: int) -> Fraction:
        return below[min(max(value - start, 0), len(weights))]

    def chance(winner: int) -> Fraction:
        found = ZERO
        for k, weight in enumerate(weights):
            top, here = scores[winner] + start + k, Fraction(weight, total)
            for other, score in enumerate(scores):
                if other != winner and here:
                    here *= less(top - score + (other > winner))
            found += here
        return found

    return [chance(winner) for winner in range(len(scores))]


def _from_scores(scores: list[int], noise: Value) -> list[Fraction]:
    if not isinstance(noise, Mapping) or noise.get("kind") not in NOISES:
        raise Crashed(f"law: noise must have a kind of {', '.join(NOISES)}, not {short(noise)}")
    if noise["kind"] == "listed":
        start, weights = _integer(noise.get("start"), "start"), _integers(noise.get("weights"), "noise")
        if min(weights) < 0 or sum(weights) < 1:
            raise NoLaw("a weight of the noise is negative, or all are 0")
        return listed_noise(scores, start, weights)
    alpha = _alpha(noise.get("alpha"))
    if noise["kind"] == "exponential":
        return one_sided_exponential(scores, alpha)
    if noise["kind"] == "gumbel":
        return exponential_mechanism(scores, alpha)
    try:
        kind = Geometric if noise["kind"] == "geometric" else TwoSidedGeometric
        return list(exact_pmf(scores, kind(alpha)))
    except Refused as refused:
        raise Crashed(f"law: {refused}") from None


def _from_weights(weights: list[int], total: int) -> list[Fraction]:
    if min(weights) < 0 or total < 1:
        raise NoLaw(f"a weight is negative, or the total {total} is below 1")
    if sum(weights) != total:
        raise NoLaw(f"the weights sum to {total} {sum(weights) - total:+d}, not to the total")
    return [Fraction(weight, total) for weight in weights]


def parse(value: Value) -> Law:
    """Return what `law` answered, checked. Raises: NoLaw, and Crashed for what cannot be read."""
    if not isinstance(value, Mapping):
        raise Crashed(f"law must give an object, not {short(value)}")
    scores = None
    if set(value) - {"outputs"} == {"weights", "total"}:
        total = _integer(value["total"], "total")
        chances = _from_weights(_integers(value["weights"], "weights"), total)
    elif set(value) - {"outputs"} == {"scores", "noise"}:
        scores = _integers(value["scores"], "scores")
        chances = _from_scores(scores, value["noise"])
    else:
        raise Crashed(f"law must give scores and noise, or weights and total, not {short(sorted(value))}")
    outputs = value.get("outputs", list(range(len(chances))))
    if isinstance(outputs, str) or not isinstance(outputs, Sequence) or len(outputs) != len(chances):
        raise Crashed(f"law: outputs must list {len(chances)} symbols, not {short(outputs)}")
    symbols = [symbol(output) for output in outputs]
    if len(set(symbols)) != len(symbols):
        raise Crashed("law: outputs must name each symbol once")
    return Law(dict(zip(symbols, chances, strict=True)), tuple(scores) if scores else None)


def symbol(output: Value) -> str:
    """Return a name for an output; equal outputs have equal names and no others do."""
    return json.dumps(output, ensure_ascii=False)


def _series(exponent: Fraction, terms: int) -> tuple[Fraction, Fraction]:
    """Return rationals around e**exponent, 0 <= exponent <= 1."""
    low, term = ZERO, Fraction(1)
    for k in range(terms):
        low += term
        term *= exponent / (k + 1)
    # What is left out is below a geometric series of ratio 1/2.
    return low, low + 2 * term


def powers_of_e(exponent: Fraction, bits: int = 256) -> tuple[Fraction, Fraction]:
    """Return rationals around e**exponent, exponent >= 0, some 2**-bits apart."""
    halvings = int(exponent).bit_length()
    low, high = _series(exponent / 2**halvings, bits // 4 + 8)
    scale = 2 ** (bits + 2 * halvings)
    for doubling in range(halvings + 1):
        low, high = Fraction(floor(low * scale), scale), Fraction(ceil(high * scale), scale)
        if doubling < halvings:
            low, high = low * low, high * high
    return low, high


def exceeds(ratio: Fraction, claim: Fraction) -> bool:
    """Return whether ratio > e**claim; decided exactly, as e**claim is irrational unless claim is 0."""
    if claim == 0:
        return ratio > 1
    for bits in count(256, 256):
        low, high = powers_of_e(claim, bits)
        if ratio <= low:
            return False
        if ratio >= high:
            break
    return True


def natural_log(ratio: Fraction) -> float:
    """Return ln(ratio) for display."""
    return log(ratio.numerator) - log(ratio.denominator)
