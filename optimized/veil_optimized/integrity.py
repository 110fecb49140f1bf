"""Freivalds' check of the masked product, on int64 tensors."""

from dataclasses import dataclass

import torch

from veil_optimized.field import Operand, check_elements, field_operand, product
from veil_optimized.tape import field_elements
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain


def repetitions(modulus: int) -> int:
    """Return the least k with modulus**-k <= 2**-64.

    Implements: INT-R1.
    """
    return next(
        k for k in range(1, constants.SOUNDNESS_BITS + 1) if modulus**k >= 2**constants.SOUNDNESS_BITS
    )


def challenge(tape: Tape, group: int, outputs: int, modulus: int) -> torch.Tensor:
    """Return the secret vectors z of a group and epoch, uniform field elements [repetitions, outputs].

    Implements: INT-R2.
    """
    count = repetitions(modulus)
    elements = field_elements(tape, Domain.CHALLENGE, group, 0, count * outputs, modulus)
    return torch.from_numpy(elements).reshape(count, outputs)


def check_key(weights: torch.Tensor, secret: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return z W for each secret vector z, field elements [repetitions, inner]; weights [outputs, inner].

    Implements: INT-R3.
    """
    return product(secret, Operand(weights.to(torch.float64).T.unsqueeze(0), 15), modulus)


@dataclass(frozen=True, slots=True)
class Check:
    """The secret of one group in one epoch, ready to multiply; `macs` a row checked."""

    secret: Operand
    key: Operand
    modulus: int

    @property
    def macs(self) -> int:
        """Return the field multiplications that checking one row takes."""
        vectors, outputs = self.secret.limbs.shape[1:]
        return vectors * (outputs + int(self.key.limbs.shape[2]))

    def verify(self, masked: torch.Tensor, masked_product: torch.Tensor) -> None:
        """Return nothing if Y' z = X' (z W) for every row and every z.

        Implements: INT-R4.
        Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, CHECK_FAILED.
        """
        check_elements(masked, self.modulus)
        check_elements(masked_product, self.modulus)
        (_, vectors, outputs), (_, keys, inner) = self.secret.limbs.shape, self.key.limbs.shape
        if (*masked.shape, outputs, keys) != (len(masked_product), inner, masked_product.shape[1], vectors):
            raise Refused(Refusal.SHAPE_MISMATCH)
        returned = product(masked_product, self.secret, self.modulus)
        if not torch.equal(returned, product(masked, self.key, self.modulus)):
            raise Refused(Refusal.CHECK_FAILED)


def prepare(tape: Tape, group: int, weights: torch.Tensor, modulus: int) -> Check:
    """Return a fresh check for a group's weights [outputs, inner]."""
    secret = challenge(tape, group, weights.shape[0], modulus)
    return Check(field_operand(secret), field_operand(check_key(weights, secret, modulus)), modulus)
