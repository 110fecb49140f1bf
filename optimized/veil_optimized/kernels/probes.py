"""What a kernel has to compute before it is used: extreme and random words, against exact integers.

The right answers come from numpy's and Python's integers, so that no kernel judges another.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_optimized.kernels.interface import Kernel
from veil_spec import constants

Integers = NDArray[np.int64]
SHAPES: Final = ((1, 3, 1), (1, 129, 40), (2, 1030, 17), (5, 2085, 9), (34, 70, 33))
"""(rows, inner, outputs): odd tails, and inner dimensions beyond every kernel's first block."""
LIMITS: Final = {torch.int8: constants.SHORT_WEIGHT_LIMIT, torch.int16: constants.WEIGHT_LIMIT}


def is_right(kernel: Kernel, device: str) -> bool:
    """Return whether a kernel gets every probe right on a device."""
    return all(kernel_agrees(kernel, device, weights, rows) for weights, rows in _probes())


def kernel_agrees(kernel: Kernel, device: str, weights: torch.Tensor, rows: torch.Tensor) -> bool:
    """Return whether both products of these weights, and of rows of words, are what whole integers give."""
    there, big = weights.to(device), weights.numpy().astype(np.int64).T
    signed = rows % (2 * constants.ACTIVATION_LIMIT + 1) - constants.ACTIVATION_LIMIT
    found = kernel.exact(signed.to(device), there).cpu().numpy()
    return np.array_equal(found, signed.numpy() @ big) and all(
        _multiplies(kernel, there, big, rows, modulus)
        for modulus in (*constants.PRIMES, constants.LWE_MODULUS)
    )


def _multiplies(
    kernel: Kernel, weights: torch.Tensor, big: Integers, rows: torch.Tensor, modulus: int
) -> bool:
    """Return whether a product is right: sums of 16-bit digits are exact, and Python's integers join them."""
    elements = rows.numpy().view(np.uint64) % np.uint64(modulus)
    digits = [(elements >> np.uint64(16 * n) & np.uint64(0xFFFF)).astype(np.int64) for n in range(4)]
    right = np.sum([(digit @ big).astype(object) << 16 * n for n, digit in enumerate(digits)], 0) % modulus
    masked = torch.from_numpy(elements.view(np.int64)).to(weights.device)
    found = kernel.multiply(masked, weights, modulus).cpu().numpy().view(np.uint64)
    return np.array_equal(found, right.astype(np.uint64))


def _probes() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (weights [outputs, inner], words [n, inner]): extremes, and words without a pattern."""
    for kind, limit in LIMITS.items():
        for count, inner, outputs in SHAPES:
            extreme = torch.full((outputs, inner), limit, dtype=kind)
            extreme[1::2] = -limit
            yield extreme, torch.full((count, inner), -60 - constants.ACTIVATION_LIMIT - 1)
            words = _scattered(count * inner).reshape(count, inner)
            spread = _scattered(outputs * inner).reshape(outputs, inner) % (2 * limit + 1) - limit
            yield spread.to(kind), words


def _scattered(count: int) -> torch.Tensor:
    """Return words in which every bit changes often: multiples of the golden ratio."""
    return torch.arange(1, count + 1) * -7046029254386353131
