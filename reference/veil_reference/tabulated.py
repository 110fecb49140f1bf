"""The tabulated sanitizer: a law as integer weights, drawn from with one word, and what it guarantees."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Final

from veil_reference.accounting import certify, check_table, claim_limit, decimals, exact_pmf, recovery
from veil_reference.noise import check_place
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Certificate,
    Domain,
    Geometric,
    Noise,
    Rows,
    Selection,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
)

__all__ = [
    "calibrate_part",
    "check_tabulated",
    "draw",
    "draw_uniformly",
    "tabulate",
    "tabulated_certificate",
    "weighted_recovery",
]

WHOLE: Final = 2**constants.TABLE_BITS


def tabulate(scores: Sequence[int], noise: Noise) -> list[int]:
    """Return the law of these scores as positive integers whose sum is 2**64 [candidates].

    Source: spec/noisy_max.md, Tabulated selection.
    Implements: NMX-R12.
    Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    weights = [max(1, int(chance * WHOLE)) for chance in exact_pmf(scores, noise)]
    weights[weights.index(max(weights))] += WHOLE - sum(weights)
    return weights


def draw(weights: Sequence[int], tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return index i with probability weights[i] * 2**-64 over a uniform tape.

    Implements: NMX-R13.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_place(token, document)
    sums = list(accumulate(weights))[:-1]
    return Selection(TokenIndex(bisect_right(sums, tape.word(Domain.DRAW, document, token))))


def draw_uniformly(size: int, tape: Tape, token: int = 0, document: int = 0) -> Selection:
    """Return an index below `size` that does not depend on the private token.

    Implements: NMX-R17.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    check_place(token, document)
    return Selection(TokenIndex(size * tape.word(Domain.DRAW, document, token) // WHOLE))


def calibrate_part(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Return an alpha = h / 2**16 at which the weights of a part meet epsilon.

    Source: spec/accounting.md, Certificates of tabulated tables.
    Implements: ACC-R10.
    Refuses: EPSILON_OUT_OF_RANGE, SCORES_EMPTY, SCORE_OUT_OF_RANGE.
    """
    limit, make = claim_limit(epsilon), TwoSidedGeometric if two_sided else Geometric
    low, high = 0, constants.ALPHA_DENOMINATOR_LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        noise = make(Fraction(middle, constants.ALPHA_DENOMINATOR_LIMIT))
        columns = zip(*(tabulate(row, noise) for row in scores), strict=True)
        meets = all(max(column) <= limit * min(column) for column in columns)
        low, high = (low, middle) if meets else (middle, high)
    if high == constants.ALPHA_DENOMINATOR_LIMIT:
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, f"too small for these scores: {epsilon}")
    return Fraction(high, constants.ALPHA_DENOMINATOR_LIMIT)


def check_tabulated(table: TabulatedTable) -> None:
    """Refuse a table whose rows are not laws in units of 2**-64.

    Implements: NMX-R14.
    Refuses: TABLE_MALFORMED.
    """
    check_table(table)
    for part in table.parts:
        size = len(part.tokens)
        if size > constants.PART_LIMIT or [len(row) for row in part.weights] != [size] * size:
            raise Refused(Refusal.TABLE_MALFORMED, "every part must have one square weight matrix")
        if any(type(weight) is not int or weight < 1 for row in part.weights for weight in row):
            raise Refused(Refusal.TABLE_MALFORMED, "weights must be positive integers")
        if any(sum(row) != WHOLE for row in part.weights):
            raise Refused(Refusal.TABLE_MALFORMED, "the weights of a row must sum to 2**64")


def tabulated_certificate(table: TabulatedTable) -> Certificate:
    """Return the guarantee of the weights that run. Refuses: TABLE_MALFORMED, CLAIM_NOT_MET.

    Implements: ACC-R12.
    """
    check_tabulated(table)
    laws, bound = [part.weights for part in table.parts], claim_limit(table.epsilon)
    # e(E) is below e**E by less than any decimal of E can show: rounded up, its logarithm is E.
    found = certify(table, laws, bound, decimals(Fraction(table.epsilon)))
    if found.exact > found.bound:
        raise Refused(Refusal.CLAIM_NOT_MET, f"exact epsilon {found.epsilon_exact}, claim {table.epsilon}")
    return found


def weighted_recovery(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Return the chance of the best guess of a token from its output, tokens drawn by public counts.

    Implements: ACC-R13.
    Refuses: TABLE_MALFORMED.
    """
    check_tabulated(table)
    readable = all(type(count) is int and count >= 0 for count in counts)
    if not readable or len(counts) != sum(len(part.tokens) for part in table.parts) or sum(counts) == 0:
        raise Refused(Refusal.TABLE_MALFORMED, "counts must be one integer >= 0 a token, and not all 0")
    return recovery([part.weights for part in table.parts], counts)
