"""What a kernel has to compute before it is used: extreme and random words, against exact integers.

The right answers come from numpy's and Python's integers, so that no kernel judges another.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_optimized.kernels.interface import Kernel
from veil_spec import constants

Integers = NDArray[np.int64]
Elements = Callable[[int], Integers]
"""Gives the field elements [n, inner] of a probe in a field, as the bits of unsigned words."""
SHAPES: Final = ((1, 1, 5), (1, 129, 40), (2, 1030, 17), (5, 2085, 9), (34, 70, 33), (125, 71, 33))
"""(rows, inner, outputs): odd tails, inner dimensions beyond every kernel's first block, and many rows."""
LONG: Final = ((1, 8300, 2), (2, 2085, 9), (100, 2085, 1))
"""The same with sums as long as any lane adds up, for few rows and for many."""
LIMITS: Final = {torch.int8: constants.SHORT_WEIGHT_LIMIT, torch.int16: constants.WEIGHT_LIMIT}
DIGITS: Final = (8, 10, 11, 14, 16)
"""Bits of the digits in which some kernel writes elements."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights [outputs, inner], 16-bit rows int64 [n, inner], and elements of the same shape."""

    weights: torch.Tensor
    rows: torch.Tensor
    elements: Elements


def is_right(kernel: Kernel, device: str) -> bool:
    """Return whether a kernel gets every probe right on a device."""
    return all(agrees(kernel, device, probe) for probe in chain(_extremes(), _wraps(), _scattered()))


def agrees(kernel: Kernel, device: str, probe: Probe) -> bool:
    """Return whether both products, in every field, are what whole integers give."""
    there, big = probe.weights.to(device), probe.weights.numpy().astype(np.int64).T
    found = kernel.exact(probe.rows.to(device), there).cpu().numpy()
    return np.array_equal(found, probe.rows.numpy() @ big) and all(
        _multiplies(kernel, there, big, probe.elements(modulus), modulus)
        for modulus in (*constants.PRIMES, constants.LWE_MODULUS)
    )


def _multiplies(kernel: Kernel, weights: torch.Tensor, big: Integers, rows: Integers, modulus: int) -> bool:
    """Return whether a product is right, and leaves its rows alone.

    Sums of 16-bit digits are exact, and Python's integers join them.
    """
    digits = [rows >> 16 * n & 0xFFFF for n in range(4)]
    right = np.sum([(digit @ big).astype(object) << 16 * n for n, digit in enumerate(digits)], 0) % modulus
    given = torch.from_numpy(rows.copy()).to(weights.device)
    found = kernel.multiply(given, weights, modulus).cpu().numpy().view(np.uint64)
    return np.array_equal(found, right.astype(np.uint64)) and np.array_equal(given.cpu().numpy(), rows)


def _extremes() -> Iterator[Probe]:
    """Yield the longest sums, of the largest words of either sign and of elements of the largest digits."""
    for (count, inner, outputs), (kind, limit) in product(LONG, LIMITS.items()):
        weights = torch.full((outputs, inner), limit, dtype=kind)
        weights[1::2] = -limit
        rows = torch.full((count, inner), constants.ACTIVATION_LIMIT)
        tops = [(2, -1), *((2, -_largest_digits(bits)) for bits in DIGITS)]
        for halves, offset in (*tops, (1, 0), (1, 1), (1, -(2**15)), (0, 1)):
            yield Probe(weights, rows, partial(_near, (count, inner), halves, offset))
            rows = -rows


def _largest_digits(bits: int) -> int:
    """Return the number of at most 31 bits whose balanced digits are all of the largest magnitude."""
    return sum(1 << place for place in range(bits - 1, 31, bits))


def _near(shape: tuple[int, int], halves: int, offset: int, modulus: int) -> Integers:
    """Return the element that is so far from so many halves of the modulus, everywhere."""
    return np.full(shape, np.uint64(modulus * halves // 2 + offset)).view(np.int64)


def _wraps() -> Iterator[Probe]:
    """Yield products about the modulus, and about 0 and 2^64 in the last step of a reduction.

    A quarter of p is no large element: four times it comes close to p. Of 2^30 times 4 less 2^32 the low part
    is 2^32 and the high part -1: as a word, 2^32 below 2^64.
    """
    for kind, place in product(LIMITS, range(3)):
        many = torch.arange(102)
        start = ((2,), (4,), (-1, 4))[place]
        weights = torch.stack([*(torch.full_like(many, each) for each in start), many], 1)
        elements = partial(_few, place)
        yield Probe(weights.to(kind), torch.ones(1, len(start) + 1, dtype=torch.int64), elements)


def _few(place: int, modulus: int) -> Integers:
    rows = ([modulus // 2, 1], [modulus // 4, 1], [2**32 % modulus, 2**30, 1])
    return np.array([rows[place]], dtype=np.uint64).view(np.int64)


def _scattered() -> Iterator[Probe]:
    """Yield every shape with words without a pattern."""
    for kind, limit in LIMITS.items():
        for count, inner, outputs in SHAPES:
            words = _words(count * inner).reshape(count, inner)
            weights = _words(outputs * inner).reshape(outputs, inner) % (2 * limit + 1) - limit
            yield scattered(weights.to(kind), words)


def scattered(weights: torch.Tensor, words: torch.Tensor) -> Probe:
    """Return a probe whose rows and elements are what words, int64 [n, inner], leave."""
    rows = words % (2 * constants.ACTIVATION_LIMIT + 1) - constants.ACTIVATION_LIMIT
    unsigned = words.numpy().view(np.uint64)
    return Probe(weights, rows, lambda modulus: (unsigned % np.uint64(modulus)).view(np.int64))


def _words(count: int) -> torch.Tensor:
    """Return words in which every bit changes often: multiples of the golden ratio."""
    return torch.arange(1, count + 1) * -7046029254386353131
