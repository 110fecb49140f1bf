"""How a sanitizer table is built from public vectors: directions, parts, scores. No seed, no rounding."""

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite, isqrt

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import PaperCertificate, Row, Rows, WorstPair

__all__ = ["direction", "paper_candidates", "paper_certificate", "part_scores", "partition", "similarity"]

PAPER_ADJACENCY = "one token replaced by any other token"
"""ACC-R15."""


def direction(vector: Sequence[float]) -> list[int]:
    """Return the vector at length 2**12, truncated towards zero [dimensions].

    Source: spec/noisy_max.md, Building a table.
    Implements: NMX-R9.
    Refuses: TABLE_MALFORMED.
    """
    if not all(map(isfinite, vector)):
        raise Refused(Refusal.TABLE_MALFORMED, "a vector has an entry that is not a finite number")
    exact = [Fraction(value) for value in vector]
    square = sum(value * value for value in exact)
    if not square:
        return [0] * len(exact)
    sizes = [isqrt(int((constants.DIRECTION_NORM * value) ** 2 / square)) for value in exact]
    return [size if value > 0 else -size for size, value in zip(sizes, exact, strict=True)]


def similarity(one: Row, other: Row) -> int:
    """Return the cosine of two directions in units of 2**-24, within [-2**24, 2**24]."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def partition(directions: Rows, part_size: int) -> list[list[int]]:
    """Return the parts as lists of entry numbers: all of `part_size` but the last, which may be longer.

    Implements: NMX-R10.
    Refuses: TABLE_MALFORMED.
    """
    if not 1 <= part_size <= constants.PART_LIMIT // 2:
        raise Refused(Refusal.TABLE_MALFORMED, f"part size must be between 1 and {constants.PART_LIMIT // 2}")
    left, parts = list(range(len(directions))), []
    while len(left) >= 2 * part_size:
        first = left.pop(0)
        nearest = sorted(left, key=lambda other: -similarity(directions[first], directions[other]))
        parts.append([first, *nearest[: part_size - 1]])
        left = sorted(nearest[part_size - 1 :])
    return [*parts, left] if left else parts


def part_scores(directions: Rows) -> list[list[int]]:
    """Return the score matrix of a part, entries 0 to 63 [tokens, tokens].

    Implements: NMX-R11.
    """
    table = [[similarity(one, other) for other in directions] for one in directions]
    least, most = min(map(min, table)), max(map(max, table))
    span, steps = max(most - least, 1), constants.LEVELS - 1
    return [[(2 * steps * (cell - least) + span) // (2 * span) for cell in row] for row in table]


def paper_candidates(directions: Rows, entry: int, count: int) -> tuple[list[int], list[int]]:
    """Return the nearest other entries of an entry, nearest first, and their scores [count], [count].

    Source: arXiv 2509.09091 and its published code.
    Implements: NMX-R16.
    Refuses: TABLE_MALFORMED.
    """
    if not 1 <= count < len(directions):
        raise Refused(Refusal.TABLE_MALFORMED, f"{count} candidates among {len(directions) - 1} others")
    found = {
        other: similarity(directions[entry], row) for other, row in enumerate(directions) if other != entry
    }
    nearest = sorted(found, key=lambda other: -found[other])[:count]
    half, steps = constants.DIRECTION_NORM**2, constants.LEVELS - 1
    return nearest, [(steps * (found[other] + half) + half) // (2 * half) for other in nearest]


def paper_certificate(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """Return the guarantee of candidate lists that leave the token itself out: none, and where it shows.

    Implements: ACC-R15.
    """
    x, other, y = next(
        (x, other, y)
        for x, row in enumerate(candidates)
        for other, others in enumerate(candidates)
        for y in row
        if y not in others
    )
    return PaperCertificate(PAPER_ADJACENCY, "infinite", WorstPair(tokens[x], tokens[other], tokens[y]))
