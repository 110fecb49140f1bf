"""Freivalds' check of the masked product, on int64 tensors."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from veil_optimized import steps
from veil_optimized.field import aligned, combine, negated
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
    return combine(secret, weights, modulus)


@dataclass(frozen=True)
class Check:
    """The secret of one group in one epoch; `macs` a row checked.

    Secret vectors z [k, outputs] and their images z W [k, inner] are field elements.
    """

    vectors: torch.Tensor
    images: torch.Tensor
    modulus: int

    @cached_property
    def relation(self) -> torch.Tensor:
        """Return [-z W, z] as `field.vanishes` takes it: [X', Y'] times it is Y' z - X' (z W)."""
        return aligned(torch.cat((negated(self.images, self.modulus), self.vectors), 1), self.modulus)

    @property
    def macs(self) -> int:
        """Return the field multiplications that checking one row takes."""
        return self.vectors.numel() + self.images.numel()

    def verify(self, masked: torch.Tensor, masked_product: torch.Tensor) -> None:
        """Return nothing if Y' z = X' (z W) for every row and every z.

        Implements: INT-R4.
        Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, CHECK_FAILED.
        """
        rows, outputs, inner = masked.shape[0], self.vectors.shape[1], self.images.shape[1]
        if not rows or masked.shape != (rows, inner) or masked_product.shape != (rows, outputs):
            raise Refused(Refusal.SHAPE_MISMATCH)
        if not steps.chosen().verifies(self, masked, masked_product):
            raise Refused(Refusal.CHECK_FAILED)


def prepare(tape: Tape, group: int, weights: torch.Tensor, modulus: int) -> Check:
    """Return a fresh check for a group's weights [outputs, inner]."""
    secret = challenge(tape, group, weights.shape[0], modulus)
    key = check_key(weights, secret, modulus)
    return check_of(secret, key, modulus)


def check_of(secret: torch.Tensor, key: torch.Tensor, modulus: int) -> Check:
    """Return the check of vectors [k, outputs] with their images [k, inner]. Refuses: SHAPE_MISMATCH."""
    if len(secret) != len(key):
        raise Refused(Refusal.SHAPE_MISMATCH)
    return Check(secret, key, modulus)


class Committed(Protocol):
    """A linear group as its model's commitment covers it; weights [outputs, inner] of 16 bits."""

    @property
    def number(self) -> int:
        """Return its number in the model."""
        ...

    @property
    def weights(self) -> torch.Tensor:
        """Return [outputs, inner]."""
        ...


def weight_leaf(group: int, weights: torch.Tensor) -> bytes:
    """Return the bytes of a group that its model's commitment covers: number, shape, weights.

    Implements: INT-R5.
    """
    numbers = np.array([group, *weights.shape], dtype="<u4").tobytes()
    return numbers + weights.to(torch.int16).numpy(force=True).astype("<i2", copy=False).tobytes()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the 32-byte Merkle tree hash of a list of leaves.

    Source: RFC 9162, section 2.1.1.
    Implements: INT-R6.
    """
    return _root([hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves])


def commitment(groups: Iterable[Committed]) -> bytes:
    """Return the 32-byte commitment to a model's weights, reading one group at a time."""
    leaves = (weight_leaf(group.number, group.weights) for group in groups)
    return _root([hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves])


def _root(level: list[bytes]) -> bytes:
    """Return the root over leaf hashes: pairs are joined, level by level, and an odd one moves up."""
    if not level:
        return hashlib.sha256().digest()
    while len(level) > 1:
        pairs = [
            hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)
        ]
        level = pairs + level[2 * len(pairs) :]
    return level[0]
