"""The kernel of 8-bit hardware: torch's product of bytes, one row for each limb of a row.

`torch._int_mm` is exact where the processor has dot products of bytes, and saturates without a word where
oneDNN goes without them: the probes tell.
"""

from collections.abc import Iterator, MutableMapping
from typing import Final, cast

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from veil_optimized import field

LIMB_BITS: Final = 8
"""A limb is a byte of the element as it lies in memory."""
JOINED: Final = field.LEFT_BITS // LIMB_BITS
"""Limbs whose sums are joined in 64 bits before anything is reduced."""
ALONE: Final = 5
"""The most limbs that are joined like that where weights are bytes: sums of 29 bits, shifted by up to 32."""
SUMS: Final = 2**19
"""Sums that are made and joined at a time: 4 MiB in 64 bits."""
APART: Final = 6
"""The most rows of bytes that are multiplied one by one: the product of one does not rearrange weights."""
NEAR: Final = 2**22
"""Weights that one row after another is multiplied by, while a cache holds them: 4 MiB."""
SIGN: Final = 2**15
"""Added to a 16-bit integer with sign, it leaves two bytes without one."""
KEPT: Final = cast(MutableMapping[torch.Tensor, torch.Tensor], WeakTensorKeyDictionary())
"""16-bit weights to their halves, as long as the weights are there."""


class Int8:
    """Bytes of rows times bytes of weights; sums of 2^14 products of 15 bits stay below 2^31."""

    name = "int8"

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs]."""
        count = -(-modulus.bit_length() // LIMB_BITS)
        limbs = _bytes_of(masked, count)
        result = torch.empty(len(masked), len(weights), dtype=torch.int64)
        alone = weights.dtype == torch.int8 and count <= ALONE
        for columns, sums in _sums(limbs, weights):
            places = sums.reshape(count, len(masked), -1)
            if alone:
                torch.remainder(_joined(places), modulus, out=result[:, columns])
            else:
                joined = torch.stack([_joined(places[n : n + JOINED]) for n in range(0, count, JOINED)])
                result[:, columns] = field.recombined(joined.unsqueeze(2), field.WEIGHT_BITS, modulus)
                joined.zero_()
            sums.zero_()
        limbs.zero_()
        return result

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return 16-bit rows times weights as integers, int64 [n, outputs].

        SIGN makes the rows positive; a row of ones adds up the weights, by which it is taken out again.
        """
        ones = torch.ones(1, rows.shape[1], dtype=torch.uint8)
        result = torch.empty(len(rows), len(weights), dtype=torch.int64)
        for columns, sums in _sums(torch.cat((_bytes_of(rows + SIGN, 2), ones)), weights):
            result[:, columns] = _joined(sums[:-1].reshape(2, len(rows), -1)) - SIGN * sums[-1]
        return result


def _bytes_of(elements: torch.Tensor, count: int) -> torch.Tensor:
    """Return copies of the lowest bytes of elements [n, inner], limb after limb [count * n, inner]."""
    octets = elements.contiguous().view(torch.uint8).reshape(*elements.shape, 8)
    limbs = torch.empty(count, *elements.shape, dtype=torch.uint8)
    return limbs.copy_(octets[..., :count].permute(2, 0, 1)).flatten(0, 1)


def _joined(sums: torch.Tensor) -> torch.Tensor:
    """Return the integers with these sums of limb products [limbs, ...], lowest limb first, in the lowest."""
    for place, sum_ in enumerate(sums[1:], 1):
        sums[0].add_(sum_, alpha=2 ** (place * LIMB_BITS))
    return sums[0]


def _sums(limbs: torch.Tensor, weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (columns, rows of bytes times those weights, int64 [rows, columns])."""
    parts = (weights,) if weights.dtype == torch.int8 else _halves(weights).chunk(2)
    width = max(1, SUMS // len(limbs))
    for start in range(0, len(weights), width):
        columns = slice(start, min(start + width, len(weights)))
        sums = _dots(limbs, parts[0][columns])
        for high in parts[1:]:
            sums.add_(_dots(limbs, high[columns]), alpha=2**LIMB_BITS)
        yield columns, sums


def _dots(limbs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return rows of bytes times 8-bit weights, int64 [rows, outputs].

    An inner dimension of 1 is done elsewhere: torch 2.13 leaves most of its result as it finds it.
    """
    if weights.shape[1] == 1:
        return limbs.to(torch.int64) * weights.T
    made = _one_by_one(limbs, weights) if len(limbs) <= APART else torch._int_mm(limbs, weights.T)
    sums = made.to(torch.int64)
    made.zero_()
    return sums


def _one_by_one(limbs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the same in 32 bits, by a product for each row and as many weights as NEAR."""
    sums = torch.empty(len(limbs), len(weights), dtype=torch.int32)
    height = max(1, NEAR // weights.shape[1])
    for part, block in zip(torch.split(sums, height, 1), torch.split(weights, height), strict=True):
        for row, limb in zip(torch.split(part, 1), torch.split(limbs, 1), strict=True):
            torch._int_mm(limb, block.T, out=row)
    return sums


def _halves(weights: torch.Tensor) -> torch.Tensor:
    """Return the lower and then the upper halves of 16-bit weights, int8 [2 * outputs, inner].

    They are kept, since cutting them costs more than a row's product.
    """
    if weights not in KEPT:
        kept = torch.empty(2, *weights.shape, dtype=torch.int8)
        height = max(1, field.BLOCK // weights.shape[1])
        for block, low, high in zip(*(each.split(height) for each in (weights, *kept)), strict=True):
            low.copy_(block)
            high.copy_((block - low) >> LIMB_BITS)
        KEPT[weights] = kept.flatten(0, 1)
    return KEPT[weights]
