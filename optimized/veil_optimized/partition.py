"""How a sanitizer table is built from public vectors, a whole vocabulary at a time.

Directions are integers held in float32: a product of two is at most 2**24, so a float32 matrix product is
exact in any order (spec/noisy_max.md, Building a table).
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import PaperCertificate, Rows, WorstPair

__all__ = ["directions", "paper_candidates", "paper_certificate", "part_scores", "partition"]

Directions = npt.NDArray[np.float32]
Advance = Callable[[int], None]
CHUNK: Final = 4096
"""Vectors brought to their direction at a time."""
GUARD: Final = 2.0**-20
"""Float64 errs by less than 2**-26 for 2**14 dimensions: nearer to an integer, exact arithmetic decides."""
PAPER_ADJACENCY: Final = "one token replaced by any other token"
"""ACC-R15."""


def directions(vectors: npt.NDArray[np.floating]) -> Directions:
    """Return every vector at length 2**12, truncated towards zero: exact integers [vectors, dimensions].

    Source: spec/noisy_max.md, Building a table.
    Implements: NMX-R9.
    Refuses: TABLE_MALFORMED.
    """
    found = np.empty(vectors.shape, dtype=np.float32)
    for first in range(0, len(vectors), CHUNK):
        found[first : first + CHUNK] = _directions(vectors[first : first + CHUNK].astype(np.float64))
    return found


def _directions(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not np.isfinite(vectors).all():
        raise Refused(Refusal.TABLE_MALFORMED, "a vector has an entry that is not a finite number")
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = np.abs(vectors) / np.where(largest == 0, 1, largest)
    norms = np.sqrt(np.sum(scaled * scaled, axis=1, keepdims=True))
    sizes = constants.DIRECTION_NORM * scaled / np.where(norms == 0, 1, norms)
    floors = np.floor(sizes)
    rest = sizes - floors
    unsure = ((rest < GUARD) & (floors > 0)) | (rest > 1 - GUARD)
    for row in np.flatnonzero(unsure.any(axis=1)):
        floors[row] = _exact_sizes(vectors[row])
    return np.copysign(floors, vectors)


def _exact_sizes(vector: npt.NDArray[np.float64]) -> list[int]:
    exact = [Fraction(float(value)) for value in vector]
    square = sum(value * value for value in exact)
    return [isqrt((constants.DIRECTION_NORM * value) ** 2 // square) for value in exact]


def partition(
    rows: Directions, part_size: int, advance: Advance = lambda entries: None
) -> list[npt.NDArray[np.int64]]:
    """Return the parts as entry numbers: all of `part_size` but the last, which may be longer.

    Implements: NMX-R10.
    Refuses: TABLE_MALFORMED.
    """
    if not 1 <= part_size <= constants.PART_LIMIT // 2:
        raise Refused(Refusal.TABLE_MALFORMED, f"part size must be between 1 and {constants.PART_LIMIT // 2}")
    entries, free = np.arange(len(rows)), np.ones(len(rows), dtype=bool)
    left, lowest, parts = len(rows), 0, []
    while left >= 2 * part_size:
        if left < 0.9 * len(entries):
            rows, entries, free, lowest = rows[free], entries[free], np.ones(left, dtype=bool), 0
        while not free[lowest]:
            lowest += 1
        free[lowest] = False
        places = _nearest(rows, rows[lowest], free, part_size - 1)
        free[places] = False
        parts.append(entries[[lowest, *places]])
        left -= part_size
        advance(part_size)
    advance(left)
    return [*parts, entries[free]] if left else parts


def _nearest(
    rows: Directions, row: Directions, free: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.int64]:
    """Return the places of the most similar free rows, nearest first, lower place first on ties [count]."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    keys = (rows @ row).astype(np.int64) * 2**32 - np.arange(len(rows))
    keys[~free] = -(2**62)
    chosen = np.argpartition(keys, -count)[-count:]
    return chosen[np.argsort(-keys[chosen])]


def part_scores(rows: Directions) -> npt.NDArray[np.int64]:
    """Return the score matrix of a part, entries 0 to 63 [tokens, tokens].

    Implements: NMX-R11.
    """
    table = (rows @ rows.T).astype(np.int64)
    least, span = table.min(), max(int(np.ptp(table)), 1)
    found: npt.NDArray[np.int64] = (2 * (constants.LEVELS - 1) * (table - least) + span) // (2 * span)
    return found


def paper_candidates(
    rows: Directions, entry: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the nearest other entries of an entry, nearest first, and their scores [count], [count].

    Source: arXiv 2509.09091 and its published code.
    Implements: NMX-R16.
    Refuses: TABLE_MALFORMED.
    """
    if not 1 <= count < len(rows):
        raise Refused(Refusal.TABLE_MALFORMED, f"{count} candidates among {len(rows) - 1} others")
    others = np.arange(len(rows)) != entry
    nearest = _nearest(rows, rows[entry], others, count)
    found = (rows[nearest] @ rows[entry]).astype(np.int64)
    half = constants.DIRECTION_NORM**2
    return nearest, ((constants.LEVELS - 1) * (found + half) + half) // (2 * half)


def paper_certificate(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """Return the guarantee of candidate lists that leave the token itself out: none, and where it shows.

    The lists of entry 0 and of some other entry differ, since no entry is its own candidate.

    Implements: ACC-R15.
    """
    for x, row in enumerate(candidates):
        listed = list(map(int, row))
        for other, others in enumerate(candidates):
            missing = set(listed) - set(map(int, others))
            if missing:
                y = next(y for y in listed if y in missing)
                return PaperCertificate(
                    PAPER_ADJACENCY, "infinite", WorstPair(tokens[x], tokens[other], tokens[y])
                )
    raise Refused(Refusal.TABLE_MALFORMED, "an entry is its own candidate")
