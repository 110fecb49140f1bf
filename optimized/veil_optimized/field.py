"""Exact matrix products over F_p with float64 GEMMs as the integer engine.

Elements are int64. Those of q = 2^64 - 59 are the bits of the unsigned word; `veil_optimized.wide` adds,
shifts and centres them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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
    count = -(-modulus.bit_length() // bits)
    width = [min(bits, modulus.bit_length() - n * bits) for n in range(count)]
    return torch.stack([(elements >> n * bits) & (2 ** width[n] - 1) for n in range(count)]).to(torch.float64)


def field_operand(elements: torch.Tensor, modulus: int = constants.PRIMES[-1]) -> Operand:
    """Return field elements, int64 [outputs, inner], as an operand of 16-bit limbs: three, or four for q."""
    return Operand(limbs_of(elements, FIELD_LIMB_BITS, modulus), FIELD_LIMB_BITS)


def shift_left(elements: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
    """Return elements * 2**bits mod p, in steps that stay inside 63 bits."""
    room = 62 - modulus.bit_length()
    while bits > 0:
        elements = (elements << min(bits, room)).remainder(modulus)
        bits -= room
    return elements


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
    wider = modulus == constants.LWE_MODULUS
    result = torch.zeros_like(sums[0, :, 0])
    for i in range(sums.shape[0]):
        for j in range(sums.shape[2]):
            shift = i * LEFT_BITS + j * right_bits
            if wider:
                result = wide.add(result, wide.shift_left(wide.from_signed(sums[i, :, j]), shift))
            else:
                result += shift_left(sums[i, :, j].remainder(modulus), shift, modulus)
    return result if wider else result.remainder(modulus)


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
        outside = int(rows.min()) < 0 or int(rows.max()) >= modulus
    if outside:
        raise Refused(Refusal.NOT_IN_FIELD)


def centred(elements: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return for each element the integer nearest to 0 that is congruent to it."""
    if modulus == constants.LWE_MODULUS:
        return wide.centred(elements)
    return torch.where(2 * elements > modulus, elements - modulus, elements)
