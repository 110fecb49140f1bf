"""What every kernel offers."""

from typing import Protocol

import torch


class Kernel(Protocol):
    """Two exact products with weights int8 or int16 [outputs, inner], on one type of device."""

    @property
    def name(self) -> str:
        """Return its name in `CHOICE`."""
        ...

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs], for field elements int64 [n, inner].

        Elements of 2^64 - 59 are int64 with the bits of the unsigned word. Copies of the rows, which may be
        a mask, and their sums are overwritten.
        """
        ...

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return rows, int64 [n, inner] of 16 bits with sign, times weights as integers, int64 [n, outputs].

        Every sum stays below 2^53.
        """
        ...
