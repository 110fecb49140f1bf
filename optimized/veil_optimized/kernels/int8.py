"""The kernel of 8-bit hardware: torch's product of bytes, one row for each limb of a row.

`torch._int_mm` is exact where the processor has dot products of bytes, and saturates without a word where
oneDNN goes without them: the probes tell.
"""

from typing import Final

import torch

from veil_optimized import field

LIMB_BITS: Final = 8
"""A limb is a byte of the element as it lies in memory."""
JOINED: Final = field.LEFT_BITS // LIMB_BITS
"""Limbs whose sums are joined in 64 bits before anything is reduced."""
BLOCK: Final = 2**18
"""Weights of 16 bits that are cut into halves at a time: they stay in a second-level cache."""
SIGN: Final = 2**15
"""Added to a 16-bit integer with sign, it leaves two bytes without one."""


class Int8:
    """Bytes of rows times bytes of weights; sums of 2^14 products of 15 bits stay below 2^31."""

    name = "int8"

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs]."""
        count = -(-modulus.bit_length() // LIMB_BITS)
        limbs = _bytes_of(masked, count)
        sums = _sums(limbs, weights).reshape(count, len(masked), 1, -1)
        groups = [sums[first : first + JOINED] for first in range(0, count, JOINED)]
        joined = torch.stack([_joined(group) for group in groups])
        result = field.recombined(joined, field.WEIGHT_BITS, modulus)
        for copy in (limbs, sums, joined):
            copy.zero_()
        return result

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return 16-bit rows times weights as integers, int64 [n, outputs].

        SIGN makes the rows positive; a row of ones adds up the weights, by which it is taken out again.
        """
        limbs = _bytes_of(rows + SIGN, 2)
        ones = torch.ones(1, rows.shape[1], dtype=torch.uint8)
        sums = _sums(torch.cat((limbs, ones)), weights)
        return _joined(sums[:-1].reshape(2, len(rows), -1)) - SIGN * sums[-1]


def _bytes_of(elements: torch.Tensor, count: int) -> torch.Tensor:
    """Return copies of the lowest bytes of elements [n, inner], limb after limb [count * n, inner]."""
    octets = elements.contiguous().view(torch.uint8).reshape(*elements.shape, 8)
    limbs = torch.empty(count, *elements.shape, dtype=torch.uint8)
    return limbs.copy_(octets[..., :count].permute(2, 0, 1)).flatten(0, 1)


def _joined(sums: torch.Tensor) -> torch.Tensor:
    """Return the integers with these sums of limb products, lowest limb first [limbs, ...]."""
    total = sums[0].clone()
    for place, sum_ in enumerate(sums[1:], 1):
        total += sum_ << place * LIMB_BITS
    return total


def _sums(limbs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return rows of bytes times weights, int64 [rows, outputs].

    An inner dimension of 1 is done elsewhere: torch 2.13 leaves most of its result as it finds it.
    """
    if weights.shape[1] == 1:
        return limbs.to(torch.int64) * weights.T
    if weights.dtype == torch.int8:
        return torch._int_mm(limbs, weights.T).to(torch.int64)
    outputs, inner = weights.shape
    result = torch.empty(len(limbs), outputs, dtype=torch.int64)
    height = max(1, BLOCK // inner)
    for start in range(0, outputs, height):
        block = weights[start : start + height]
        low = block.to(torch.int8)
        high = ((block - low) >> LIMB_BITS).to(torch.int8)
        both = torch._int_mm(limbs, torch.cat((low, high)).T).to(torch.int64)
        result[:, start : start + height] = both[:, : len(block)] + (both[:, len(block) :] << LIMB_BITS)
        both.zero_()
    return result
