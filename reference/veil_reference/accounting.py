"""What a table with a noise guarantees: the exact output law, and the figures that follow from it."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count
from math import ceil, factorial
from pathlib import Path
from typing import Final

from veil_reference.noise import at_least, check_scores
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Certificate, Noise, Part, Table, TabulatedPart, TabulatedTable, WorstPair

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
    "range_distance",
    "recovery",
]

AnyPart = Part | TabulatedPart
Laws = Sequence[Sequence[int | Fraction]]
"""One law for each token of a part."""
ADJACENCY: Final = "one token replaced by another token of the same part"
"""ACC-R9."""
NOT_COVERED: Final = ("length", "positions", "timing", "context", "case and white space")
"""ACC-R14."""
ZERO: Final = Fraction(0)
SERIES_TERMS: Final = 256
"""ACC-R7: at epsilon 64 the rest of the series is below 2**-200 of its sum."""


def _wins_at(scores: Sequence[int], noise: Noise, winner: int, top: int) -> Fraction:
    """Return the probability that `winner` wins with the noisy score `top`."""
    chance = at_least(noise, top - scores[winner]) - at_least(noise, top - scores[winner] + 1)
    for other, score in enumerate(scores):
        if other != winner:
            chance *= 1 - at_least(noise, top - score + (other > winner))
    return chance


def _wins_above(scores: Sequence[int], noise: Noise, winner: int) -> Fraction:
    """Return the probability that `winner` wins with a noisy score of max(scores) or more.

    At max(scores) + t it is a polynomial in alpha**t, and alpha**(k * t) sums over t to 1 / (1 - alpha**k).
    """
    top = max(scores)
    polynomial: list[Fraction] = [Fraction(0), (1 - noise.alpha) * at_least(noise, top - scores[winner])]
    for other, score in enumerate(scores):
        if other != winner:
            slope = at_least(noise, top - score + (other > winner))
            polynomial = [
                a - slope * b for a, b in zip([*polynomial, ZERO], [ZERO, *polynomial], strict=True)
            ]
    return sum((polynomial[k] / (1 - noise.alpha**k) for k in range(1, len(polynomial))), ZERO)


def exact_pmf(scores: Sequence[int], noise: Noise) -> tuple[Fraction, ...]:
    """Return the probability of each index under a uniform tape [candidates]; they sum to exactly 1.

    Source: spec/accounting.md, The exact law.
    Implements: ACC-R1.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    check_scores(scores)
    low, high = min(scores), max(scores)

    def chance(winner: int) -> Fraction:
        # Below all scores, one step down multiplies the probability by alpha**len(scores).
        below = _wins_at(scores, noise, winner, low - 1) / (1 - noise.alpha ** len(scores))
        between = sum((_wins_at(scores, noise, winner, top) for top in range(low, high)), ZERO)
        return below + between + _wins_above(scores, noise, winner)

    return tuple(chance(winner) for winner in range(len(scores)))


def _tokens(table: Table | TabulatedTable) -> list[str]:
    return [token for part in table.parts for token in part.tokens]


def check_table(table: Table | TabulatedTable) -> None:
    """Refuse a table that is not a partition with square score matrices in range.

    Implements: NMX-R8.
    Refuses: TABLE_MALFORMED.
    """
    tokens = _tokens(table)
    if not tokens or len(set(tokens)) != len(tokens) or any(type(token) is not str for token in tokens):
        raise Refused(Refusal.TABLE_MALFORMED, "every token must be a string, in exactly one part")
    for part in table.parts:
        size = len(part.tokens)
        if not 1 <= size <= constants.CANDIDATE_LIMIT or [len(row) for row in part.scores] != [size] * size:
            raise Refused(Refusal.TABLE_MALFORMED, "every part must have one square score matrix")
        scores = [score for row in part.scores for score in row]
        if any(type(score) is not int or abs(score) > constants.SCORE_LIMIT for score in scores):
            raise Refused(Refusal.TABLE_MALFORMED, f"scores must be integers within {constants.SCORE_LIMIT}")


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
    changes = (
        [a - b for a, b in zip(row, other, strict=True)]
        for part in table.parts
        for row in part.scores
        for other in part.scores
    )
    return max(max(change) - min(change) for change in changes)


def _ratios(part: AnyPart, laws: Laws) -> Iterator[tuple[Fraction, WorstPair]]:
    for token, law in zip(part.tokens, laws, strict=True):
        for other, other_law in zip(part.tokens, laws, strict=True):
            for output, p, q in zip(part.tokens, law, other_law, strict=True):
                yield Fraction(p, q), WorstPair(token, other, output)


def certify(
    table: Table | TabulatedTable, laws: Sequence[Laws], bound: Fraction, epsilon_bound: str
) -> Certificate:
    """Return the guarantee of a table whose part n has these laws, up to one common factor for all rows.

    Implements: ACC-R4, ACC-R6, ACC-R9, ACC-R11, ACC-R14.
    """
    parts: Sequence[AnyPart] = table.parts
    ratios = (pair for part, rows in zip(parts, laws, strict=True) for pair in _ratios(part, rows))
    exact, worst = max(ratios, key=lambda pair: pair[0])
    sizes = [len(part.tokens) for part in table.parts]
    verbatim = tuple(part.tokens[0] for part in table.parts if len(part.tokens) == 1)
    return Certificate(
        range_distance=range_distance(table),
        bound=bound,
        exact=exact,
        worst=worst,
        epsilon_bound=epsilon_bound,
        epsilon_exact=logarithm(exact),
        adjacency=ADJACENCY,
        part_bits=_bits(sum(sizes), min(sizes)),
        bayes_recovery=recovery(laws, [1] * sum(sizes)),
        verbatim=verbatim,
        not_covered=NOT_COVERED + (("verbatim tokens",) if verbatim else ()),
    )


def recovery(laws: Sequence[Laws], counts: Sequence[int]) -> Fraction:
    """Return the chance that the best guess of a token from its output is right, tokens drawn by counts."""
    rest, right = iter(counts), ZERO
    for rows in laws:
        weighted = [[p * next_count for p in row] for row, next_count in zip(rows, rest, strict=False)]
        right += sum(map(max, zip(*weighted, strict=True))) / Fraction(sum(rows[0]))
    return right / sum(counts)


def certificate(table: Table, noise: Noise) -> Certificate:
    """Return the guarantee of a table with a noise: its figures are exact, its decimals rounded up.

    Source: spec/accounting.md, The certificate.
    Implements: ACC-R3.
    Refuses: TABLE_MALFORMED.
    """
    check_table(table)
    laws = [[exact_pmf(row, noise) for row in part.scores] for part in table.parts]
    bound = noise.alpha ** -range_distance(table)
    return certify(table, laws, bound, logarithm(bound))


def _series(value: Fraction, terms: int) -> Fraction:
    """Return ln(value) less at most 9**-terms, for 1 <= value <= 2: the series of 2 * artanh(t)."""
    t = (value - 1) / (value + 1)
    return 2 * sum((t ** (2 * k + 1) / (2 * k + 1) for k in range(terms)), ZERO)


def logarithm(ratio: Fraction) -> str:
    """Return ln(ratio) for ratio >= 1, rounded up to six decimals.

    Implements: ACC-R5.
    """
    halvings = (ratio.numerator // ratio.denominator).bit_length() - 1
    for terms in count(24, 24):
        mantissa = Fraction(int(ratio / 2**halvings * 16**terms), 16**terms)
        low = halvings * _series(Fraction(2), terms) + _series(mantissa, terms)
        high = low + (halvings + 2) * Fraction(1, 9**terms) if ratio > 1 else low
        if ceil(low * 10**6) == ceil(high * 10**6):
            break
    return decimals(high)


def decimals(value: Fraction) -> str:
    """Return a value >= 0 rounded up to six decimals."""
    return f"{ceil(value * 10**6) // 10**6}.{ceil(value * 10**6) % 10**6:06d}"


def _bits(tokens: int, part: int) -> str:
    """Return log2(tokens / part) rounded up to three decimals."""
    thousandths = (ceil(Fraction(tokens, part) ** 1000) - 1).bit_length()
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def _checked_epsilon(epsilon: Fraction | int | str) -> Fraction:
    """Return epsilon as a Fraction, 0 < epsilon <= EPSILON_LIMIT.

    Implements: ACC-R8.
    Refuses: EPSILON_OUT_OF_RANGE.
    """
    decimal = isinstance(epsilon, str) and re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", epsilon)
    value = Fraction(epsilon) if decimal or isinstance(epsilon, Fraction | int) else ZERO
    if not 0 < value <= constants.EPSILON_LIMIT:
        raise Refused(
            Refusal.EPSILON_OUT_OF_RANGE, f"not a number above 0 and at most {constants.EPSILON_LIMIT}"
        )
    return value


def claim_limit(epsilon: Fraction | int | str) -> Fraction:
    """Return a rational just below e**epsilon. Refuses: EPSILON_OUT_OF_RANGE."""
    exponent = _checked_epsilon(epsilon)
    return sum((exponent**k / factorial(k) for k in range(SERIES_TERMS)), ZERO)


def calibrate(epsilon: Fraction | int | str, range_distance: int) -> Fraction:
    """Return the smallest alpha = a / 2**16 whose bound is at most e**epsilon.

    Source: spec/accounting.md, Calibration.
    Implements: ACC-R7.
    Refuses: EPSILON_OUT_OF_RANGE.
    """
    limit = claim_limit(epsilon)
    scale = constants.ALPHA_DENOMINATOR_LIMIT
    a = 1 + bisect_left(range(1, scale), True, key=lambda a: Fraction(scale, a) ** range_distance <= limit)
    if a == scale:
        raise Refused(
            Refusal.EPSILON_OUT_OF_RANGE, f"too small for range distance {range_distance}: {epsilon}"
        )
    return Fraction(a, scale)
