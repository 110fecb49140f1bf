"""Arithmetic of an attacker over F_p and over F_q, q = 2^64 - 59, exact and in bulk.

Elements are int64 words; over q they are read as unsigned. None of it is the product's own arithmetic.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from veil_spec import constants

Elements = NDArray[np.int64]
"""Field elements, any shape: words that, read as unsigned, are in 0 .. modulus - 1."""
Floats = NDArray[np.float64]
Unsigned = NDArray[np.uint64]
Pivot = tuple[int, int]
"""Row and column of a leading 1 that is alone in its column."""

BLOCK: Final = 32
"""Rows eliminated one by one; larger matrices are halved, and the halves meet in matrix products."""
LIMB_BITS: Final = 16
"""Bits of a limb: sums of limb products stay below 2^53 up to an inner dimension of 2^19."""
EXCESS: Final = np.uint64(2**64 - constants.LWE_MODULUS)
"""2^64 mod q."""
HALF: Final = np.uint64(2**32 - 1)
SHIFT: Final = np.uint64(32)
NULL_VECTORS: Final = 4
"""Two rows agree on all of them by chance with probability p^-4."""


def residues(integers: NDArray[np.integer], modulus: int) -> Elements:
    """Return integers of at most 63 bits as field elements."""
    wide = integers.astype(np.int64)
    if modulus != constants.LWE_MODULUS:
        return wide % modulus
    return np.where(wide < 0, wide - np.int64(EXCESS), wide)


def centred(elements: Elements, modulus: int) -> Elements:
    """Return for each element the integer nearest to 0 that is congruent to it."""
    if modulus != constants.LWE_MODULUS:
        return np.where(2 * elements > modulus, elements - modulus, elements)
    return np.where(elements < 0, elements + np.int64(EXCESS), elements)


def added(left: Elements, right: Elements, modulus: int) -> Elements:
    """Return left + right mod p, element by element."""
    if modulus != constants.LWE_MODULUS:
        return (left + right) % modulus
    a, b = _unsigned(left, right)
    total = a + b
    return _below_q(total + EXCESS * (total < a))


def subtracted(left: Elements, right: Elements, modulus: int) -> Elements:
    """Return left - right mod p, element by element."""
    if modulus != constants.LWE_MODULUS:
        return (left - right) % modulus
    a, b = _unsigned(left, right)
    return np.asarray(a - b - EXCESS * (a < b)).view(np.int64)


def multiplied(left: Elements, right: Elements, modulus: int) -> Elements:
    """Return left * right mod p, element by element, p < 2^49 or p = q.

    Below 2^49 the float64 quotient is off by at most one, and the difference of two wrapped words is exact.
    """
    if modulus == constants.LWE_MODULUS:
        return _multiplied_q(*_unsigned(left, right))
    quotient = np.floor(left.astype(np.float64) * right.astype(np.float64) / modulus).astype(np.int64)
    rest = left * right - quotient * modulus
    rest += modulus * (rest < 0)
    return rest - modulus * (rest >= modulus)


def _unsigned(left: Elements, right: Elements) -> tuple[Unsigned, Unsigned]:
    return np.atleast_1d(left).view(np.uint64), np.atleast_1d(right).view(np.uint64)


def _below_q(words: Unsigned) -> Elements:
    q = np.uint64(constants.LWE_MODULUS)
    return np.asarray(words - q * (words >= q)).view(np.int64)


def _multiplied_q(a: Unsigned, b: Unsigned) -> Elements:
    """Return a * b mod q: four products of halves, and the high word folded twice by 2^64 = 59 mod q."""
    a_low, a_high, b_low, b_high = a & HALF, a >> SHIFT, b & HALF, b >> SHIFT
    lowest, cross, other = a_low * b_low, a_low * b_high, a_high * b_low
    middle = (lowest >> SHIFT) + (cross & HALF) + (other & HALF)
    low = (lowest & HALF) | (middle << SHIFT)
    high = a_high * b_high + (cross >> SHIFT) + (other >> SHIFT) + (middle >> SHIFT)
    over = ((high >> SHIFT) * EXCESS + ((high & HALF) * EXCESS >> SHIFT)) >> SHIFT
    once = low + high * EXCESS
    fold = (over + (once < low)) * EXCESS
    twice = once + fold
    return _below_q(twice + EXCESS * (twice < fold))


def _limbs(elements: Elements, modulus: int) -> list[Floats]:
    words = np.ascontiguousarray(elements).view(np.uint64)
    count = -(-modulus.bit_length() // LIMB_BITS)
    low = np.uint64(2**LIMB_BITS - 1)
    return [(words >> np.uint64(LIMB_BITS * n) & low).astype(np.float64) for n in range(count)]


def product(left: Elements, right: Elements, modulus: int) -> Elements:
    """Return left times right mod p, [n, k] times [k, outputs], for k below 2^19."""
    lefts, rights = _limbs(left, modulus), _limbs(right, modulus)
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.int64)
    base = np.array([2**LIMB_BITS], dtype=np.int64)
    for shift in reversed(range(len(lefts) + len(rights) - 1)):
        pairs = [(n, shift - n) for n in range(len(lefts)) if 0 <= shift - n < len(rights)]
        exact = sum((lefts[n] @ rights[m] for n, m in pairs), np.zeros(total.shape))
        total = added(multiplied(total, base, modulus), residues(exact.astype(np.int64), modulus), modulus)
    return total


def inverse(element: np.int64, modulus: int) -> Elements:
    """Return 1 / element mod p [1]."""
    found = pow(int(np.uint64(element)), -1, modulus)
    return np.array([found], dtype=np.uint64).view(np.int64)


def reduce(rows: Elements, modulus: int, columns: int | None = None) -> list[Pivot]:
    """Return the pivots, the rows brought in place to a form with every pivot alone in its column.

    A row without a pivot is 0 in the first `columns` columns, the only ones that pivots are taken from.
    """
    if len(rows) <= BLOCK:
        return _reduce_block(rows, modulus, columns)
    middle = len(rows) // 2
    upper, lower = rows[:middle], rows[middle:]
    first = reduce(upper, modulus, columns)
    _eliminate(lower, upper, first, modulus)
    second = reduce(lower, modulus, columns)
    _eliminate(upper, lower, second, modulus)
    return [*first, *((middle + row, column) for row, column in second)]


def _reduce_block(block: Elements, modulus: int, columns: int | None) -> list[Pivot]:
    pivots = []
    for row in range(len(block)):
        candidates = np.flatnonzero(block[row, :columns])
        if not candidates.size:
            continue
        column = int(candidates[0])
        block[row] = multiplied(block[row], inverse(block[row, column], modulus), modulus)
        factors = block[:, column].copy()
        factors[row] = 0
        change = multiplied(factors[:, None], block[row][None, :], modulus)
        block[:] = subtracted(block, change, modulus)
        pivots.append((row, column))
    return pivots


def _eliminate(rows: Elements, block: Elements, pivots: list[Pivot], modulus: int) -> None:
    if not pivots:
        return
    chosen, columns = (list(part) for part in zip(*pivots, strict=True))
    rows[:] = subtracted(rows, product(rows[:, columns], block[chosen], modulus), modulus)


def null_vectors(basis: Elements, modulus: int, count: int = NULL_VECTORS) -> Elements:
    """Return columns N [width, at most count] with basis N = 0 mod p, by elimination on the first columns."""
    rank, width = basis.shape
    reduced = basis[:, : min(width, rank + count)].copy()
    pivots = reduce(reduced, modulus)
    rows, columns = [row for row, _ in pivots], [column for _, column in pivots]
    free = np.setdiff1d(np.arange(reduced.shape[1]), columns)[:count]
    vectors = np.zeros((width, len(free)), dtype=np.int64)
    vectors[columns] = subtracted(np.zeros(1, dtype=np.int64), reduced[rows][:, free], modulus)
    vectors[free, range(len(free))] = 1
    return vectors


def solved(matrix: Elements, images: Elements, modulus: int) -> Elements | None:
    """Return the one X [n, k] with X matrix = images mod p, for a matrix [k, outputs]; None if not one."""
    inner = len(matrix)
    rows = np.concatenate((matrix.T, images.T), axis=1)
    pivots = reduce(rows, modulus, inner)
    spare = np.setdiff1d(np.arange(len(rows)), [row for row, _ in pivots])
    if len(pivots) < inner or rows[spare, inner:].any():
        return None
    result = np.empty((len(images), inner), dtype=np.int64)
    for row, column in pivots:
        result[:, column] = rows[row, inner:]
    return result
