"""The exact output law in integers over one common denominator, and the certificate that follows from it.

The reference sums, for each index, the probability that it wins at each height. Here that is a difference:
with A[i] = P(the candidates before i stay below the height, the others at or below it), index i wins at the
height with probability A[i] - A[i + 1]. Both are exact, so they agree.
"""

import json
import math
import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context
from fractions import Fraction
from itertools import accumulate, count, pairwise
from operator import mul
from pathlib import Path
from typing import Final

import numpy as np

from veil_optimized.noise import check_scores
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Certificate,
    Geometric,
    Noise,
    Part,
    Table,
    TabulatedPart,
    TabulatedTable,
    WorstPair,
)

__all__ = [
    "calibrate",
    "certificate",
    "certify",
    "check_table",
    "claim_limit",
    "decimals",
    "exact_pmf",
    "load_table",
    "logarithm",
    "part_bits",
    "range_distance",
]

AnyPart = Part | TabulatedPart
Laws = Sequence[Sequence[int | Fraction]]
"""One law for each token of a part."""
ADJACENCY: Final = "one token replaced by another token of the same part"
"""ACC-R9."""
NOT_COVERED: Final = ("length", "positions", "timing", "context", "case and white space")
"""ACC-R14."""
SERIES_TERMS: Final = 256
"""ACC-R7."""
DECIMAL_GRAMMAR: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
"""ACC-R8."""


class _Law:
    """P(noise <= z) as an integer over `denominator`, for z from -reach to reach."""

    def __init__(self, noise: Noise, reach: int) -> None:
        a, b = noise.alpha.numerator, noise.alpha.denominator
        rising, falling = [a**k for k in range(reach + 2)], [b**k for k in range(reach + 2)]
        if isinstance(noise, Geometric):
            self.denominator = falling[-1]
            self.tails = [rising[k] * falling[-1 - k] for k in range(reach + 2)]
            self.lower = [0] * (reach + 1)
        else:
            self.denominator = (a + b) * falling[-1]
            self.tails = [b * rising[k] * falling[-1 - k] for k in range(reach + 2)]
            self.lower = self.tails

    def at_most(self, value: int) -> int:
        """Return the numerator of P(noise <= value)."""
        return self.denominator - self.tails[value + 1] if value >= 0 else self.lower[-value]


def _differences(strict: Sequence[int], at_most: Sequence[int]) -> list[int]:
    """Return A[i] - A[i + 1] for one height, A[i] = product(strict[:i]) * product(at_most[i:])."""
    before = accumulate(strict, mul, initial=1)
    after = list(accumulate(reversed(at_most), mul, initial=1))[::-1]
    products = [left * right for left, right in zip(before, after, strict=True)]
    return [left - right for left, right in pairwise(products)]


def _tail_polynomials(strict: Sequence[int], at_most: Sequence[int]) -> list[list[int]]:
    """Return the coefficients of A[i] - A[i + 1] above all scores, in y = alpha**t / denominator.

    A[i] is a product of factors 1 - slope * y: dividing one factor out and another in gives the next.
    """
    products = [[1]]
    for slope in at_most:
        products.append(_times(products[-1], slope))
    steps = products[-1:]
    for slope, strict_slope in zip(at_most, strict, strict=True):
        steps.append(_times(_divided(steps[-1], slope), strict_slope))
    return [[a - b for a, b in zip(left, right, strict=True)] for left, right in pairwise(steps)]


def _divided(polynomial: Sequence[int], slope: int) -> list[int]:
    """Return polynomial / (1 - slope * y), which leaves no rest."""
    return list(accumulate(polynomial[:-1], lambda carry, term: term + slope * carry))


def _times(polynomial: Sequence[int], slope: int) -> list[int]:
    """Return polynomial * (1 - slope * y)."""
    return [a - slope * b for a, b in zip([*polynomial, 0], [0, *polynomial], strict=True)]


def exact_pmf(scores: Sequence[int], noise: Noise) -> tuple[Fraction, ...]:
    """Return the probability of each index under a uniform tape [candidates]; they sum to exactly 1.

    Source: spec/accounting.md, The exact law.
    Implements: ACC-R1.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    check_scores(scores)
    size, low, high = len(scores), min(scores), max(scores)
    law = _Law(noise, high - low + 2)
    heights = [
        _differences([law.at_most(top - 1 - u) for u in scores], [law.at_most(top - u) for u in scores])
        for top in range(low - 1, high)
    ]
    tails = _tail_polynomials(
        [law.denominator - law.at_most(high - 1 - u) for u in scores],
        [law.denominator - law.at_most(high - u) for u in scores],
    )
    # 1 / (1 - alpha**k) = b**k / gaps[k]: geometric sums over all heights above, and for k = size below.
    b = noise.alpha.denominator
    gaps = [b**k - noise.alpha.numerator**k for k in range(size + 1)]
    common = math.lcm(*gaps[1:])
    sums = [0, *(b**k * (common // gaps[k]) * law.denominator ** (size - k) for k in range(1, size + 1))]
    whole = common * law.denominator**size

    def chance(i: int) -> Fraction:
        below = heights[0][i] * sums[size]
        between = common * sum(height[i] for height in heights[1:])
        return Fraction(below + between + sum(map(mul, tails[i], sums)), whole)

    return tuple(chance(i) for i in range(size))


def check_table(table: Table | TabulatedTable) -> None:
    """Refuse a table that is not a partition with square score matrices in range.

    Implements: NMX-R8.
    Refuses: TABLE_MALFORMED.
    """
    seen: set[str] = set()
    for part in table.parts:
        _check_part(part)
        if len(seen) + len(part.tokens) != len(seen.union(part.tokens)):
            raise Refused(Refusal.TABLE_MALFORMED, "a token is in two places")
        seen.update(part.tokens)
    if not seen:
        raise Refused(Refusal.TABLE_MALFORMED, "no tokens")


def _check_part(part: AnyPart) -> None:
    size = len(part.tokens)
    if any(type(token) is not str for token in part.tokens):
        raise Refused(Refusal.TABLE_MALFORMED, "a token is not a string")
    if not 1 <= size <= constants.CANDIDATE_LIMIT or {len(part.scores), *map(len, part.scores)} != {size}:
        raise Refused(Refusal.TABLE_MALFORMED, "a part's scores are not a square matrix over its tokens")
    for row in part.scores:
        for score in row:
            if type(score) is not int or not -constants.SCORE_LIMIT <= score <= constants.SCORE_LIMIT:
                raise Refused(
                    Refusal.TABLE_MALFORMED, f"scores must be integers within {constants.SCORE_LIMIT}"
                )


def load_table(path: Path) -> Table:
    """Return the checked table of a JSON file.

    Refuses: TABLE_MALFORMED.
    """
    try:
        fields = json.loads(path.read_text("utf-8"))
        parts = [Part(tuple(part["tokens"]), tuple(map(tuple, part["scores"]))) for part in fields["parts"]]
        table = Table(fields["name"], tuple(parts))
        check_table(table)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(Refusal.TABLE_MALFORMED, f"cannot read a table from {path}: {error}") from None
    return table


def range_distance(table: Table | TabulatedTable) -> int:
    """Return the largest spread, over the outputs of a part, of the score change between two of its tokens.

    Implements: ACC-R2.
    """
    largest = 0
    for part in table.parts:
        scores = np.array(part.scores, dtype=np.int64)
        for row in scores:
            largest = max(largest, int(np.ptp(row - scores, axis=1).max()))
    return largest


def _worst_in_part(part: AnyPart, laws: Laws) -> tuple[Fraction, WorstPair]:
    """Return the largest ratio in a column, and the first (token, other, output) that reaches it."""
    columns = list(zip(*laws, strict=True))
    ratios = [Fraction(max(column), min(column)) for column in columns]
    largest = max(ratios)
    x, other, y = min(
        (column.index(max(column)), column.index(min(column)), y)
        for y, column in enumerate(columns)
        if ratios[y] == largest
    )
    return largest, WorstPair(part.tokens[x], part.tokens[other], part.tokens[y])


def certificate(table: Table, noise: Noise) -> Certificate:
    """Return the guarantee of a table with a noise: its figures are exact, its decimals rounded up.

    Source: spec/accounting.md, The certificate.
    Implements: ACC-R3.
    Refuses: TABLE_MALFORMED.
    """
    check_table(table)
    laws = [[exact_pmf(row, noise) for row in part.scores] for part in table.parts]
    distance = range_distance(table)
    bound = Fraction(noise.alpha.denominator**distance, noise.alpha.numerator**distance)
    return certify(table, laws, Fraction(1), bound, logarithm(bound))


def certify(
    table: Table | TabulatedTable,
    laws: Sequence[Laws],
    whole: Fraction,
    bound: Fraction,
    epsilon_bound: str,
) -> Certificate:
    """Return the guarantee of a table whose part n has these laws, in units in which a row sums to `whole`.

    Implements: ACC-R4, ACC-R6, ACC-R9, ACC-R11, ACC-R14.
    """
    exact, worst = Fraction(0), WorstPair("", "", "")
    parts: Sequence[AnyPart] = table.parts
    for part, rows in zip(parts, laws, strict=True):
        ratio, pair = _worst_in_part(part, rows)
        exact, worst = (ratio, pair) if ratio > exact else (exact, worst)
    sizes = [len(part.tokens) for part in table.parts]
    best = sum((max(column) for rows in laws for column in zip(*rows, strict=True)), Fraction(0))
    verbatim = tuple(part.tokens[0] for part in table.parts if len(part.tokens) == 1)
    return Certificate(
        range_distance=range_distance(table),
        bound=bound,
        exact=exact,
        worst=worst,
        epsilon_bound=epsilon_bound,
        epsilon_exact=logarithm(exact),
        adjacency=ADJACENCY,
        part_bits=part_bits(sum(sizes), min(sizes)),
        bayes_recovery=best / (whole * sum(sizes)),
        verbatim=verbatim,
        not_covered=(*NOT_COVERED, "verbatim tokens") if verbatim else NOT_COVERED,
    )


def logarithm(ratio: Fraction) -> str:
    """Return ln(ratio) for ratio >= 1, rounded up to six decimals, from correctly rounded logarithms.

    Implements: ACC-R5.
    """
    if ratio == 1:
        return "0.000000"
    for precision in count(40, 40):
        context = Context(prec=precision, Emax=MAX_EMAX, Emin=MIN_EMIN)
        logs = [Fraction(context.ln(term)) for term in (ratio.numerator, ratio.denominator)]
        # Each logarithm is off by at most half a unit in its last digit, and is below 10**20.
        slack = Fraction(1, 10 ** (precision - 20))
        low, high = (math.ceil((logs[0] - logs[1] + error) * 10**6) for error in (-slack, slack))
        if low == high:
            break
    return decimals(Fraction(high, 10**6))


def decimals(value: Fraction) -> str:
    """Return a value >= 0 rounded up to six decimals."""
    millionths = math.ceil(value * 10**6)
    return f"{millionths // 10**6}.{millionths % 10**6:06d}"


def part_bits(tokens: int, part: int) -> str:
    """Return log2(tokens / part) rounded up to three decimals: a float guess, corrected exactly."""
    target, base = tokens**1000, part**1000
    n = max(0, int(1000 * math.log2(tokens / part)) - 1)
    while base << n < target:
        n += 1
    return f"{n // 1000}.{n % 1000:03d}"


def _checked_epsilon(epsilon: Fraction | int | str) -> Fraction:
    """Return epsilon as a Fraction, 0 < epsilon <= EPSILON_LIMIT.

    Implements: ACC-R8.
    Refuses: EPSILON_OUT_OF_RANGE.
    """
    if isinstance(epsilon, str):
        readable = DECIMAL_GRAMMAR.fullmatch(epsilon) is not None
    else:
        readable = isinstance(epsilon, Fraction | int)
    value = Fraction(epsilon) if readable else Fraction(0)
    if value <= 0 or value > constants.EPSILON_LIMIT:
        raise Refused(
            Refusal.EPSILON_OUT_OF_RANGE, f"not a number above 0 and at most {constants.EPSILON_LIMIT}"
        )
    return value


def _exponential_below(value: Fraction) -> Fraction:
    """Return the first 256 terms of the exponential series, in integers over one denominator."""
    p, q = value.numerator, value.denominator
    total, scale = 1, 1
    for k in range(SERIES_TERMS - 1, 0, -1):
        total, scale = total * p + scale * k * q, scale * k * q
    return Fraction(total, scale)


def claim_limit(epsilon: Fraction | int | str) -> Fraction:
    """Return a rational just below e**epsilon. Refuses: EPSILON_OUT_OF_RANGE."""
    return _exponential_below(_checked_epsilon(epsilon))


def calibrate(epsilon: Fraction | int | str, range_distance: int) -> Fraction:
    """Return the smallest alpha = a / 2**16 whose bound is at most e**epsilon: a guess, put right exactly.

    Source: spec/accounting.md, Calibration.
    Implements: ACC-R7.
    Refuses: EPSILON_OUT_OF_RANGE.
    """
    limit, scale = claim_limit(epsilon), constants.ALPHA_DENOMINATOR_LIMIT

    distance = max(0, range_distance)

    def meets(a: int) -> bool:
        return bool(scale**distance * limit.denominator <= a**distance * limit.numerator)

    a = min(max(1, int(scale * math.exp(-float(Fraction(epsilon)) / max(1, distance)))), scale - 1)
    while not meets(a):
        a += 1
    while a > 1 and meets(a - 1):
        a -= 1
    if a == scale:
        raise Refused(
            Refusal.EPSILON_OUT_OF_RANGE, f"too small for range distance {range_distance}: {epsilon}"
        )
    return Fraction(a, scale)
