"""Exact matrix products over F_p with float64 GEMMs as the integer engine.

Elements are int64. Those of q = 2^64 - 59 are the bits of the unsigned word; `veil_optimized.wide` adds,
shifts and centres them.
"""

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


@dataclass(frozen=True, slots=True)
class Operand:
    """A right operand: float64 limbs [limbs, outputs, inner], lowest first, magnitudes below 2**bits."""

    limbs: torch.Tensor
    bits: int


def weight_operand(weights: torch.Tensor) -> Operand:
    """Return 16-bit weights [outputs, inner] as an operand of one limb."""
    return Operand(weights.to(torch.float64).unsqueeze(0), WEIGHT_BITS)


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

    The inner dimension is cut into blocks whose limb products stay below 2**53, so each float64 sum is exact;
    fewer than 2**9 blocks are added up as int64. The limbs of the left operand, which may be a mask, and
    their sums are overwritten.
    """
    rows, inner = left.shape
    limbs, outputs, _ = right.limbs.shape
    block = 2 ** (FLOAT64_BITS - LEFT_BITS - right.bits)
    pieces = limbs_of(left, LEFT_BITS, modulus)
    stacked = pieces.reshape(len(pieces) * rows, inner)
    flat = right.limbs.reshape(limbs * outputs, inner)
    total = torch.zeros(len(stacked), limbs * outputs, dtype=torch.int64, device=left.device)
    for start in range(0, inner, block):
        total += (stacked[:, start : start + block] @ flat[:, start : start + block].T).to(torch.int64)
    result = _recombined(total.reshape(len(pieces), rows, limbs, outputs), right.bits, modulus)
    for copy in (pieces, stacked, total):
        copy.zero_()
    return result


def _recombined(sums: torch.Tensor, right_bits: int, modulus: int) -> torch.Tensor:
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
    """Return masked rows times weights, mod p, int64 [n, outputs]; weights [outputs, inner].

    Implements: RMO-R4.
    Refuses: SHAPE_MISMATCH.
    """
    if masked.shape[1] != weights.shape[1]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return product(masked, weight_operand(weights), modulus)


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
