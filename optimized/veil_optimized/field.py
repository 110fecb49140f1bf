"""Exact matrix products over F_p with float64 GEMMs as the integer engine."""

from dataclasses import dataclass
from typing import Final

import torch

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

FLOAT64_BITS: Final = 53
"""Integers up to 2**53 are exact in float64."""
LEFT_BITS: Final = 24
"""Bits of a limb of the left operand: two limbs hold every field element."""
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


def field_operand(elements: torch.Tensor) -> Operand:
    """Return field elements, int64 [outputs, inner], as an operand of three 16-bit limbs."""
    limbs = [(elements >> (FIELD_LIMB_BITS * n)) & (2**FIELD_LIMB_BITS - 1) for n in range(3)]
    return Operand(torch.stack(limbs).to(torch.float64), FIELD_LIMB_BITS)


def shift_left(elements: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
    """Return elements * 2**bits mod p, in steps that stay inside 63 bits."""
    room = 62 - modulus.bit_length()
    while bits > 0:
        elements = (elements << min(bits, room)).remainder(modulus)
        bits -= room
    return elements


def product(left: torch.Tensor, right: Operand, modulus: int) -> torch.Tensor:
    """Return left times the transpose of right, mod p, int64 [n, outputs], for left int64 [n, inner].

    The inner dimension is cut into blocks whose limb products stay below 2**53, so each float64 sum is exact.
    """
    rows, inner = left.shape
    limbs, outputs, _ = right.limbs.shape
    block = 2 ** (FLOAT64_BITS - LEFT_BITS - right.bits)
    halves = torch.cat((left & (2**LEFT_BITS - 1), left >> LEFT_BITS)).to(torch.float64)
    flat = right.limbs.reshape(limbs * outputs, inner)
    total = torch.zeros(2 * rows, limbs * outputs, dtype=torch.int64, device=left.device)
    for start in range(0, inner, block):
        exact = halves[:, start : start + block] @ flat[:, start : start + block].T
        total += exact.to(torch.int64).remainder(modulus)
    sums = total.remainder(modulus).reshape(2, rows, limbs, outputs)
    result = torch.zeros(rows, outputs, dtype=torch.int64, device=left.device)
    for half in range(2):
        for limb in range(limbs):
            result += shift_left(sums[half, :, limb], half * LEFT_BITS + limb * right.bits, modulus)
    return result.remainder(modulus)


def multiply(masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return masked rows times weights, mod p, int64 [n, outputs]; weights float64 [outputs, inner].

    Implements: RMO-R4.
    Refuses: SHAPE_MISMATCH.
    """
    if masked.shape[1] != weights.shape[1]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return product(masked, Operand(weights.unsqueeze(0), WEIGHT_BITS), modulus)


def check_elements(rows: torch.Tensor, modulus: int) -> None:
    """Refuse anything but a non-empty matrix of field elements.

    Refuses: FIELD_UNKNOWN, SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    if modulus not in constants.PRIMES:
        raise Refused(Refusal.FIELD_UNKNOWN)
    if rows.dim() != 2 or not rows.numel():
        raise Refused(Refusal.SHAPE_MISMATCH)
    if int(rows.min()) < 0 or int(rows.max()) >= modulus:
        raise Refused(Refusal.NOT_IN_FIELD)


def centred(elements: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return for each element the integer nearest to 0 that is congruent to it."""
    return torch.where(2 * elements > modulus, elements - modulus, elements)
