"""Arithmetic in F_q, q = 2^64 - 59, on int64 tensors that hold the bits of unsigned words.

int64 wraps, and 2^64 = 59 mod q: a carry out of the word comes back as 59.
"""

from typing import Final

import torch

FOLD: Final = 59
"""2^64 mod q."""
SIGN: Final = -(2**63)
"""Flips the order of unsigned words to that of signed ones."""
HALF: Final = 2**63 - 29
"""The least element whose double exceeds q."""
ROOM: Final = 56
"""Most bits of one shift: what is shifted out, times 59, stays below 2^62."""


def _below(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return where left < right, both unsigned."""
    return (left ^ SIGN) < (right ^ SIGN)


def outside(words: torch.Tensor) -> torch.Tensor:
    """Return where an unsigned word is q or more."""
    return (words < 0) & (words >= -FOLD)


def _reduced(words: torch.Tensor) -> torch.Tensor:
    """Return unsigned words mod q."""
    return torch.where(outside(words), words + FOLD, words)


def from_signed(integers: torch.Tensor) -> torch.Tensor:
    """Return integers of less than 63 bits and a sign, mod q."""
    return torch.where(integers < 0, integers - FOLD, integers)


def add(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the sum of elements, mod q."""
    total = left + right
    return _reduced(torch.where(_below(total, left), total + FOLD, total))


def subtract(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the difference of elements, mod q."""
    difference = left - right
    return torch.where(_below(left, right), difference - FOLD, difference)


def shift_left(elements: torch.Tensor, bits: int) -> torch.Tensor:
    """Return elements * 2**bits, mod q."""
    while bits > 0:
        now = min(bits, ROOM)
        out = (elements >> (64 - now)) & (2**now - 1)
        elements = add(_reduced(elements << now), FOLD * out)
        bits -= now
    return elements


def centred(elements: torch.Tensor) -> torch.Tensor:
    """Return for each element the integer nearest to 0 that is congruent to it, mod q."""
    return torch.where((elements < 0) | (elements >= HALF), elements + FOLD, elements)
