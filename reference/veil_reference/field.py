"""Arithmetic in F_p on plain integers."""

from collections.abc import Iterable
from operator import mul

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Row, Rows


def dot(left: Iterable[int], right: Iterable[int]) -> int:
    """Return the exact sum of products."""
    return sum(map(mul, left, right))


def centred(element: int, modulus: int) -> int:
    """Return the integer nearest to 0 that is congruent to element."""
    return element - modulus if 2 * element > modulus else element


def check_shape(rows: Rows) -> None:
    """Refuse rows that are empty or ragged. Refuses: SHAPE_MISMATCH."""
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise Refused(Refusal.SHAPE_MISMATCH)


def check_elements(rows: Rows, modulus: int) -> None:
    """Refuse rows that are empty, ragged or hold anything but field elements.

    Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    if modulus not in (*constants.PRIMES, constants.LWE_MODULUS):
        raise Refused(Refusal.FIELD_UNKNOWN)
    check_shape(rows)
    if any(not 0 <= element < modulus for row in rows for element in row):
        raise Refused(Refusal.NOT_IN_FIELD)


def product(rows: Rows, weights: Rows, modulus: int) -> list[list[int]]:
    """Return rows times the transpose of weights, mod p: [n, inner] by [outputs, inner] to [n, outputs]."""
    return [[dot(row, channel) % modulus for channel in weights] for row in rows]


def columns(rows: Rows) -> list[Row]:
    """Return the transpose."""
    return list(zip(*rows, strict=True))
