"""Exact matrix products over F_p with float64 GEMMs as the integer engine.

Elements are int64. Those of q = 2^64 - 59 are the bits of the unsigned word; `veil_optimized.wide` adds,
shifts and centres them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter
from typing import Final

import torch

from veil_optimized import wide
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

FLOAT64_BITS: Final = 53
"""Integers up to 2**53 are exact in float64."""
LEFT_BITS: Final = 24
"""Bits of a limb of the left operand: two limbs hold an element of the smaller fields, three one of q."""
FIELD_LIMB_BITS: Final = 16
"""Bits of a limb of a field operand on the right."""
SIGN_BIT: Final = 63
"""A word shifted by this is -1 where it is negative, else 0."""
WEIGHT_BITS: Final = 15
"""Bits of a weight's magnitude."""
BLOCK: Final = 2**17
"""Weights that are widened at a time, and sums that are joined at a time: 1 MiB of each.

Fastest of 2**15 to 2**20 at 576 inputs and 49,152 outputs, on a core with 2 MiB of second-level cache.
"""


@dataclass(frozen=True, slots=True)
class Operand:
    """A right operand: float64 limbs [limbs, outputs, inner], lowest first, magnitudes below 2**bits."""

    limbs: torch.Tensor
    bits: int


def blocks(weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the weights [outputs, inner] as (rows, those rows in float64), about BLOCK elements at a time.

    A block lasts until the next one: all are written to the same memory.
    """
    outputs, inner = weights.shape
    height = min(outputs, max(1, BLOCK // inner))
    wide = torch.empty(height, inner, dtype=torch.float64, device=weights.device)
    for start in range(0, outputs, height):
        part = slice(start, min(start + height, outputs))
        yield part, wide[: part.stop - start].copy_(weights[part])


def limbs_of(elements: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
    """Return the limbs of field elements, lowest first, each 0 to 2**bits - 1, float64 [limbs, ...]."""
    whole = modulus.bit_length()
    starts = range(0, whole, bits)
    limbs = torch.empty(len(starts), *elements.shape, dtype=torch.float64, device=elements.device)
    for limb, start in zip(limbs, starts, strict=True):
        above = elements >> start if start else elements
        limb.copy_(above & (2 ** min(bits, whole - start) - 1))
    return limbs


def field_operand(elements: torch.Tensor, modulus: int = constants.PRIMES[-1]) -> Operand:
    """Return field elements, int64 [outputs, inner], as an operand of 16-bit limbs: three, or four for q."""
    return Operand(limbs_of(elements, FIELD_LIMB_BITS, modulus), FIELD_LIMB_BITS)


def shifted(numbers: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
    """Return numbers congruent to numbers * 2**bits, mod p = 2**w - c: what passes w bits comes back c times.

    They stay below 2**58 where the given ones are below 2**62 and bits is LEFT_BITS or less.
    """
    width = modulus.bit_length()
    room = width - bits
    moved: torch.Tensor = ((numbers & (2**room - 1)) << bits) + (numbers >> room) * (2**width - modulus)
    return moved


def product(left: torch.Tensor, right: Operand, modulus: int) -> torch.Tensor:
    """Return left times the transpose of right, mod p, int64 [n, outputs], for left int64 [n, inner].

    The limbs of the left operand, which may be a mask, and their sums are overwritten.
    """
    pieces = limbs_of(left, LEFT_BITS, modulus)
    limbs, outputs, inner = right.limbs.shape
    total = _zeros(len(pieces) * len(left), limbs * outputs, left.device)
    _add_sums(total, pieces.flatten(0, 1), right.limbs.reshape(limbs * outputs, inner), right.bits)
    result = recombined(total.reshape(len(pieces), len(left), limbs, outputs), right.bits, modulus)
    for copy in (pieces, total):
        copy.zero_()
    return result


def negated(elements: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return field elements subtracted from 0, mod p."""
    if modulus == constants.LWE_MODULUS:
        return wide.subtract(torch.zeros_like(elements), elements)
    return (-elements).remainder_(modulus)


def aligned(elements: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return field elements [outputs, inner] as `vanishes` takes them: limbs of 16 bits, once for each place.

    The places are those of a left operand's limbs; float64 [left limbs, limbs, outputs, inner].
    """
    bits = range(0, modulus.bit_length(), LEFT_BITS)
    if modulus == constants.LWE_MODULUS:
        raised = [wide.shift_left(elements, place) for place in bits]
    else:
        raised = [shifted(elements, place, modulus).remainder_(modulus) for place in bits]
    return torch.stack([limbs_of(each, FIELD_LIMB_BITS, modulus) for each in raised])


def vanishes(left: torch.Tensor, right: torch.Tensor, modulus: int) -> bool:
    """Return whether left [n, inner] times the transpose of right, `aligned` elements, is 0, mod p.

    The limbs of the left operand and their sums are overwritten.
    """
    _, limbs, outputs, inner = right.shape
    vanished = True
    for rows in torch.split(left, max(1, BLOCK // inner)):
        pieces = limbs_of(rows, LEFT_BITS, modulus)
        total = _zeros(len(rows), limbs * outputs, rows.device)
        for piece, limb in zip(pieces, right.flatten(1, 2), strict=True):
            _add_sums(total, piece, limb, FIELD_LIMB_BITS)
        sums = total.reshape(1, len(rows), limbs, outputs)
        vanished &= not recombined(sums, FIELD_LIMB_BITS, modulus).any()
        for copy in (pieces, total):
            copy.zero_()
    return vanished


def _zeros(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(rows, columns, dtype=torch.int64, device=device)


def _add_sums(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, right_bits: int) -> None:
    """Add left [n, inner] times the transpose of right [outputs, inner], both limbs, to int64 sums.

    The inner dimension is cut into parts whose limb products stay below 2**53, so each float64 sum is exact.
    An int64 sum of up to 2**18 limb products stays below 2**58. The float64 sums are overwritten.
    """
    longest = 2 ** (FLOAT64_BITS - LEFT_BITS - right_bits)
    for start in range(0, left.shape[1], longest):
        part = slice(start, start + longest)
        sums = left[:, part] @ right[:, part].T
        total += sums.to(torch.int64)
        sums.zero_()


def recombined(sums: torch.Tensor, right_bits: int, modulus: int) -> torch.Tensor:
    """Return the elements with these signed sums of limb products [left limbs, n, right limbs, outputs]."""
    places = [
        (i * LEFT_BITS + j * right_bits, sums[i, :, j])
        for i in range(sums.shape[0])
        for j in range(sums.shape[2])
    ]
    if modulus == constants.LWE_MODULUS:
        parts = (wide.shift_left(wide.from_signed(sum_), place) for place, sum_ in places)
        return reduce(wide.add, parts)
    places.sort(key=itemgetter(0), reverse=True)
    above, total = places[0]
    for place, sum_ in places[1:]:
        total, above = shifted(total, above - place, modulus).add_(sum_), place
    return total.remainder(modulus)


def multiply(masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return masked rows times weights, mod p, int64 [n, outputs]; weights [outputs, inner] of any type.

    The limbs of the rows, which may be a mask, and their sums are overwritten.

    Implements: RMO-R4.
    Refuses: SHAPE_MISMATCH.
    """
    if masked.shape[1] != weights.shape[1]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    pieces = limbs_of(masked, LEFT_BITS, modulus)
    left = pieces.flatten(0, 1)
    result = torch.empty(len(masked), len(weights), dtype=torch.int64, device=masked.device)
    width = max(1, BLOCK // len(left))
    for start in range(0, len(weights), width):
        columns = slice(start, start + width)
        total = _zeros(len(left), len(weights[columns]), masked.device)
        for part, block in blocks(weights[columns]):
            _add_sums(total[:, part], left, block, WEIGHT_BITS)
        sums = total.reshape(len(pieces), len(masked), 1, -1)
        result[:, columns] = recombined(sums, WEIGHT_BITS, modulus)
        total.zero_()
    pieces.zero_()
    return result


def combine(rows: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return rows [n, outputs] of field elements times weights [outputs, inner], mod p, int64 [n, inner].

    The limbs of the rows, which may be secret, and their sums are overwritten.
    """
    pieces = limbs_of(rows, LEFT_BITS, modulus)
    left = pieces.flatten(0, 1)
    total = _zeros(len(left), weights.shape[1], rows.device)
    for part, block in blocks(weights):
        _add_sums(total, left[:, part], block.T, WEIGHT_BITS)
    result = recombined(total.reshape(len(pieces), len(rows), 1, -1), WEIGHT_BITS, modulus)
    for copy in (pieces, total):
        copy.zero_()
    return result


def check_elements(rows: torch.Tensor, modulus: int) -> None:
    """Refuse anything but a non-empty matrix of field elements.

    Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    if modulus not in (*constants.PRIMES, constants.LWE_MODULUS):
        raise Refused(Refusal.FIELD_UNKNOWN)
    if rows.dim() != 2 or not rows.numel():
        raise Refused(Refusal.SHAPE_MISMATCH)
    if modulus == constants.LWE_MODULUS:
        outside = bool(wide.outside(rows).any())
    else:
        least, most = rows.aminmax()
        outside = int(least) < 0 or int(most) >= modulus
    if outside:
        raise Refused(Refusal.NOT_IN_FIELD)


def centred(elements: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return for each element the integer nearest to 0 that is congruent to it."""
    if modulus == constants.LWE_MODULUS:
        return wide.centred(elements)
    above = (modulus // 2 - elements) >> SIGN_BIT
    return elements - (above & modulus)
