"""What the enclave does between the products, a whole step at a time: in torch, or compiled.

Both give the same words. Compiled steps are used only after they have agreed with torch's, in this process,
on extreme and on scattered rows.
"""

import functools
import os
from fractions import Fraction
from typing import Final, Protocol

import torch

from veil_optimized import field, fixed_point, kernels, remo, wire
from veil_optimized.fixed_point import Rows
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused


class Scaled(Protocol):
    """What turns a linear group's products into words; a bias has its own exponent."""

    @property
    def mantissa(self) -> torch.Tensor:
        """Return int64 [outputs]."""
        ...

    @property
    def exponent(self) -> torch.Tensor:
        """Return int64 [outputs]."""
        ...

    @property
    def bias(self) -> torch.Tensor | None:
        """Return int64 [outputs], if there is one."""
        ...

    @property
    def bias_exponent(self) -> int:
        """Return the fractional bits of the bias."""
        ...


class Vectors(Protocol):
    """The secret of a group's check."""

    @property
    def modulus(self) -> int:
        """Return the field's prime."""
        ...

    @property
    def vectors(self) -> torch.Tensor:
        """Return the secret vectors, int64 [k, outputs]."""
        ...

    @property
    def images(self) -> torch.Tensor:
        """Return their images under the weights, int64 [k, inner]."""
        ...

    @property
    def relation(self) -> torch.Tensor:
        """Return [-images, vectors], as `field.vanishes` takes them."""
        ...


class Steps:
    """The steps in torch, on any device."""

    name = "torch"

    def rms_norm(self, rows: torch.Tensor, gains: torch.Tensor, exponent: int, epsilon: Fraction) -> Rows:
        """Return rows normalised with gains, quantised [n, width]; see `fixed_point.rms_norm`."""
        return fixed_point.rms_norm(rows, gains, exponent, epsilon)

    def settle(
        self,
        products: torch.Tensor,
        group: Scaled,
        exponents: torch.Tensor,
        fraction: int,
        limit: int,
        stream: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a group's outputs in fixed point [n, outputs], added to a stream where one is given.

        Implements: MDL-R5.
        """
        shift = exponents.unsqueeze(-1) + group.exponent - fraction
        words = fixed_point.rescale(products * group.mantissa, shift, limit)
        if group.bias is not None:
            words = fixed_point.added(words, group.bias, group.bias_exponent - fraction, limit)
        return words if stream is None else (stream + words).clamp(-limit, limit)

    def gate(self, rows: torch.Tensor) -> Rows:
        """Return SiLU(gate) * up, quantised [n, width], of gates and ups side by side [n, 2 * width].

        Implements: MDL-R8.
        """
        gate, up = rows.chunk(2, -1)
        return fixed_point.quantise(fixed_point.silu(gate) * up, 2 * constants.HIDDEN_FRACTION)

    def place(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Rows:
        """Return heads [n, heads, width], turned and quantised [heads, n, width]."""
        rotated = fixed_point.rotate(heads.transpose(0, 1), cos, sin)
        return fixed_point.quantise(rotated, constants.HIDDEN_FRACTION)

    def attend(
        self, queries: Rows, keys: Rows, values: torch.Tensor, first: int | None, window: int
    ) -> torch.Tensor:
        """Return each query's average of the values that it sees [n, heads * width].

        See `fixed_point.attend`.
        """
        averages = fixed_point.attend(queries, keys, values, first, window)
        return averages.transpose(0, 1).flatten(1)

    def quantise(self, rows: torch.Tensor, fraction: int) -> Rows:
        """Return rows as 16-bit integers and exponents; see `fixed_point.quantise`."""
        return fixed_point.quantise(rows, fraction)

    def mask(self, rows: torch.Tensor, pads: torch.Tensor, modulus: int) -> tuple[torch.Tensor, bytes]:
        """Return activations plus pads, mod p, and their bytes; overwrites pads. Refuses as `remo.mask`."""
        try:
            masked = remo.mask(rows, pads, modulus)
        finally:
            pads.zero_()
        return masked, self.pack(masked, modulus)

    def unmask(self, product: torch.Tensor, correction: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return the plain product; overwrites the correction. Refuses as `remo.unmask`."""
        try:
            return remo.unmask(product, correction, modulus)
        finally:
            correction.zero_()

    def verifies(self, check: Vectors, masked: torch.Tensor, product: torch.Tensor) -> bool:
        """Return whether Y' z = X' (z W) for every row and every z, of rows of the right shapes.

        Refuses: FIELD_UNKNOWN, NOT_IN_FIELD.
        """
        for rows in (masked, product):
            field.check_elements(rows, check.modulus)
        return field.vanishes(torch.cat((masked, product), 1), check.relation, check.modulus)

    def pack(self, elements: torch.Tensor, modulus: int) -> bytes:
        """Return elements as bytes; see `wire.pack`, also for what is refused."""
        return wire.pack(elements.numpy(force=True), modulus)

    def unpack(self, data: bytes | bytearray, rows: int, columns: int, modulus: int) -> torch.Tensor:
        """Return elements [rows, columns]; see `wire.unpack`, also for what is refused."""
        return torch.from_numpy(wire.unpack(data, rows * columns, modulus)).reshape(rows, columns)


TORCH: Final = Steps()


@functools.cache
def chosen() -> Steps:
    """Return the steps that this process uses on the CPU, as the choice of kernels has it.

    Refuses: MODE_UNAVAILABLE where the compiled ones are asked for, and are not there or are wrong.
    """
    asked = os.environ.get(kernels.CHOICE, "")
    if asked in ("", "compiled"):
        from veil_optimized.compiled_steps import CompiledSteps, agree

        compiled = CompiledSteps.load()
        if compiled is not None and agree(compiled, TORCH):
            return compiled
        if asked:
            remedy = f"{kernels.CHOICE}=compiled: build it with python -m veil_optimized.native.build"
            raise Refused(Refusal.MODE_UNAVAILABLE, remedy)
    return TORCH
