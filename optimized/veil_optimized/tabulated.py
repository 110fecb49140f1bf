"""The tabulated sanitizer on one row or part: lists in, lists out; `sanitizer` does whole vocabularies."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Final

import numpy as np

from veil_optimized.accounting import certify, check_table, claim_limit, decimals
from veil_optimized.laws import estimate, tabulate
from veil_optimized.noise import check_places, check_scores
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Certificate,
    Domain,
    Geometric,
    Row,
    Rows,
    Selection,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
)

__all__ = [
    "calibrate_part",
    "calibrate_parts",
    "check_rows",
    "check_tabulated",
    "draw",
    "draw_uniformly",
    "meets",
    "tabulate",
    "tabulated_certificate",
    "weighted_recovery",
]

WHOLE: Final = 2**constants.TABLE_BITS
SCALE: Final = constants.ALPHA_DENOMINATOR_LIMIT
STEERED_SIZE: Final = 24
"""Larger parts cancel too much in float64 to be steered by it."""
Advance = Callable[[int], None]


def draw(weights: Sequence[int], tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return index i with probability weights[i] * 2**-64 over a uniform tape.

    Implements: NMX-R13.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_places(token, 1, document)
    sums = list(accumulate(weights[:-1]))
    return Selection(TokenIndex(bisect_right(sums, tape.word(Domain.DRAW, document, token))))


def draw_uniformly(size: int, tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return an index below `size` that does not depend on the private token.

    Implements: NMX-R17.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_places(token, 1, document)
    return Selection(TokenIndex(size * tape.word(Domain.DRAW, document, token) >> constants.TABLE_BITS))


def meets(weights: Rows, limit: Fraction) -> bool:
    """Return whether no column's largest weight exceeds `limit` times its least."""
    columns = zip(*weights, strict=True)
    return all(max(column) * limit.denominator <= min(column) * limit.numerator for column in columns)


def calibrate_part(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Return an alpha = h / 2**16 at which the weights of a part meet epsilon.

    Refuses: EPSILON_OUT_OF_RANGE, SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    limit = claim_limit(epsilon)
    for row in scores:
        check_scores(row)
    (numerator,) = calibrate_parts(limit, [scores], two_sided)
    if numerator == SCALE:
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, f"too small for these scores: {epsilon}")
    return Fraction(int(numerator), SCALE)


def calibrate_parts(
    limit: Fraction, parts: Sequence[Rows], two_sided: bool, advance: Advance = lambda steps: None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bisection's numerator for each part, 2**16 where none meets the limit [parts].

    All parts of one size take a step together in float64; where that cannot tell, exact weights do.

    Source: spec/accounting.md, Certificates of tabulated tables.
    Implements: ACC-R10.
    """
    low = np.zeros(len(parts), dtype=np.int64)
    high = np.full(len(parts), SCALE, dtype=np.int64)
    sizes = np.array([len(part) for part in parts])
    while int((high - low).max(initial=0)) > 1:
        middle = (low + high) // 2
        for size in np.unique(sizes):
            which = np.flatnonzero(sizes == size)
            same = [parts[n] for n in which.tolist()]
            fine = _meet(same, middle[which], limit, two_sided)
            high[which[fine]] = middle[which[fine]]
            low[which[~fine]] = middle[which[~fine]]
        advance(1)
    return high


def _meet(
    parts: Sequence[Rows],
    numerators: np.ndarray[tuple[int], np.dtype[np.int64]],
    limit: Fraction,
    two_sided: bool,
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return whether the weights of each part, all of one size, meet the limit [parts]."""
    size = len(parts[0])
    fine, sure = np.zeros(len(parts), dtype=bool), np.zeros(len(parts), dtype=bool)
    if size <= STEERED_SIZE:
        rows = np.array(parts, dtype=np.int64).reshape(-1, size)
        alphas = np.repeat(numerators / SCALE, size)
        law, error = (found.reshape(len(parts), size, -1) for found in estimate(rows, alphas, two_sided))
        least = law.min(axis=(1, 2))
        excess = (law.max(axis=1) / law.min(axis=1).clip(2.0**-60)).max(axis=1) / float(limit) - 1
        fine = excess < 0
        sure = (np.abs(excess) * least > 8 * error.max(axis=(1, 2))) & (least > 2.0**-32)
    make = TwoSidedGeometric if two_sided else Geometric
    for n in map(int, np.flatnonzero(~sure)):
        noise = make(Fraction(int(numerators[n]), SCALE))
        fine[n] = meets([tabulate(row, noise) for row in parts[n]], limit)
    return fine


def check_rows(rows: Rows, size: int) -> None:
    """Refuse weights of a part that are not laws in units of 2**-64.

    Implements: NMX-R14.
    Refuses: TABLE_MALFORMED.
    """
    if size > constants.PART_LIMIT or {len(rows), *map(len, rows)} != {size}:
        raise Refused(Refusal.TABLE_MALFORMED, "a part's weights are not a square matrix over its tokens")
    for row in rows:
        if any(type(weight) is not int or weight < 1 for weight in row) or sum(row) != WHOLE:
            raise Refused(Refusal.TABLE_MALFORMED, "weights are positive integers, 2**64 in each row")


def check_tabulated(table: TabulatedTable) -> None:
    """Refuse a table whose rows are not laws in units of 2**-64. Refuses: TABLE_MALFORMED."""
    check_table(table)
    for part in table.parts:
        check_rows(part.weights, len(part.tokens))


def tabulated_certificate(table: TabulatedTable) -> Certificate:
    """Return the guarantee of the weights that run. Refuses: TABLE_MALFORMED, CLAIM_NOT_MET.

    Implements: ACC-R12.
    """
    check_tabulated(table)
    limit, shown = claim_limit(table.epsilon), decimals(Fraction(table.epsilon))
    found = certify(table, [part.weights for part in table.parts], Fraction(WHOLE), limit, shown)
    if found.exact > limit:
        raise Refused(Refusal.CLAIM_NOT_MET, f"exact epsilon {found.epsilon_exact}, claim {table.epsilon}")
    return found


def weighted_recovery(table: TabulatedTable, counts: Row) -> Fraction:
    """Return the chance of the best guess of a token from its output, tokens drawn by public counts.

    Implements: ACC-R13.
    Refuses: TABLE_MALFORMED.
    """
    check_tabulated(table)
    sizes = [len(part.tokens) for part in table.parts]
    readable = len(counts) == sum(sizes) and all(type(count) is int and count >= 0 for count in counts)
    if not readable or not any(counts):
        raise Refused(Refusal.TABLE_MALFORMED, "counts must be one integer >= 0 a token, and not all 0")
    rest, best = iter(counts), 0
    for part in table.parts:
        rows = [[weight * count for weight in row] for row, count in zip(part.weights, rest, strict=False)]
        best += sum(map(max, zip(*rows, strict=True)))
    return Fraction(best, WHOLE * sum(counts))
