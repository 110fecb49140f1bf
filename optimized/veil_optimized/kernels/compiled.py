"""The kernel compiled from `products.c` by `build`, where somebody has done that."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import torch

from veil_optimized.kernels.build import library

MACS_A_THREAD: Final = 2**19
"""Multiplications that are worth another thread: about ten microseconds of one."""
ROWS: Final = 128
"""Rows multiplied at a time: their digits and sums stay in tens of megabytes."""
EXACT_BITS: Final = 16
"""Stands for rows of 16-bit integers with sign, in place of the bits of a field."""


class Compiled:
    """Dot products of 16-bit digits; weights are read where they lie, once for each set of rows."""

    name = "compiled"

    def __init__(self, code: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._product = code.veil_product
        self._product.argtypes = [
            *(pointer, number, number, pointer, number, number, number, number, number),
            *(ctypes.c_uint64, pointer),
        ]
        self._product.restype = number
        self._pool = ThreadPoolExecutor(64, "veil-kernel")

    @classmethod
    def load(cls) -> Self | None:
        """Return the kernel, or nothing where it was not built for this processor."""
        path = library()
        return cls(ctypes.CDLL(str(path))) if path.exists() else None

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs]."""
        return self._multiplied(masked, weights, modulus.bit_length(), modulus)

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return 16-bit rows times weights as integers, int64 [n, outputs]."""
        return self._multiplied(rows, weights, EXACT_BITS, 0)

    def _multiplied(self, rows: torch.Tensor, weights: torch.Tensor, bits: int, modulus: int) -> torch.Tensor:
        values, held = rows.contiguous(), weights.contiguous()
        result = torch.empty(len(values), len(held), dtype=torch.int64)
        for start in range(0, len(values), ROWS):
            self._shared(values[start : start + ROWS], held, bits, modulus, result[start : start + ROWS])
        return result

    def _shared(
        self, values: torch.Tensor, weights: torch.Tensor, bits: int, modulus: int, result: torch.Tensor
    ) -> None:
        """Fill the result: every thread takes a share of the outputs."""
        (count, inner), outputs = values.shape, len(weights)
        threads = min(torch.get_num_threads(), 1 + count * inner * outputs // MACS_A_THREAD)
        share = -(-outputs // threads)

        def run(first: int) -> int:
            made: int = self._product(
                *(values.data_ptr(), count, inner, weights.data_ptr(), weights.element_size()),
                *(first, min(first + share, outputs), outputs, bits, modulus, result.data_ptr()),
            )
            return made

        firsts = range(0, outputs, share)
        done = map(run, firsts) if threads == 1 else self._pool.map(run, firsts)
        if not all(done):
            raise MemoryError("no memory for the digits of the rows")
