"""The kernel compiled from `native/products.c`, where somebody has done that."""

import ctypes
from typing import Final, Self

import torch

from veil_optimized.kernels.shared import MACS_A_THREAD, among_threads
from veil_optimized.native.build import library

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
        if rows.dtype != torch.int64 or weights.dtype not in (torch.int8, torch.int16):
            raise ValueError(f"rows {rows.dtype} and weights {weights.dtype}, not int64 and int8 or int16")
        if rows.shape[1] != weights.shape[1]:
            raise ValueError(f"rows of {rows.shape[1]} for weights of {weights.shape[1]}")
        values, held = rows.contiguous(), weights.contiguous()
        result = torch.empty(values.shape[0], held.shape[0], dtype=torch.int64)
        for start in range(0, values.shape[0], ROWS):
            self._shared(values[start : start + ROWS], held, bits, modulus, result[start : start + ROWS])
        return result

    def _shared(
        self, values: torch.Tensor, weights: torch.Tensor, bits: int, modulus: int, result: torch.Tensor
    ) -> None:
        """Fill the result: every thread takes a share of the outputs."""
        (count, inner), outputs = values.shape, weights.shape[0]

        def run(first: int, last: int) -> int:
            made: int = self._product(
                *(values.data_ptr(), count, inner, weights.data_ptr(), weights.element_size()),
                *(first, last, outputs, bits, modulus, result.data_ptr()),
            )
            return made

        if not among_threads(run, outputs, count * inner * outputs // MACS_A_THREAD):
            raise MemoryError("no memory for the digits of the rows")
