"""Masked outsourcing on int64 tensors: the same words as the reference, drawn and multiplied in bulk."""

from typing import Protocol

import torch

from veil_optimized.field import centred as _centred
from veil_optimized.field import check_elements, field_operand, multiply, product
from veil_optimized.tape import field_elements
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain

__all__ = [
    "Addresses",
    "LocalMinter",
    "Minter",
    "RankMinter",
    "choose_modulus",
    "mask",
    "multiply",
    "pad",
    "unmask",
]


def choose_modulus(weights: torch.Tensor) -> int:
    """Return the smallest prime of the specification in which no product with 16-bit activations wraps.

    Implements: RMO-R1, RMO-R2.
    Refuses: WEIGHT_OUT_OF_RANGE, WOULD_WRAP.
    """
    magnitudes = weights.to(torch.float64).abs()
    if float(magnitudes.max()) > constants.WEIGHT_LIMIT:
        raise Refused(Refusal.WEIGHT_OUT_OF_RANGE)
    largest = int(magnitudes.sum(-1).max())
    for modulus in constants.PRIMES:
        if (constants.ACTIVATION_LIMIT + 1) * largest <= (modulus - 1) // 2:
            return modulus
    raise Refused(Refusal.WOULD_WRAP, "no field of the specification holds this layer's products")


def pad_stream(group: int, step: int) -> int:
    """Return the stream of a group's pads in one step.

    Implements: RMO-R6.
    Refuses: STREAM_OUT_OF_RANGE.
    """
    if not (0 <= group < 2**32 and 0 <= step < 2**32):
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    return (group << 32) + step


class Addresses:
    """The pad addresses burnt in one epoch."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def burn(self, group: int, step: int) -> None:
        """Return nothing, and let a group's steps only ever increase.

        Implements: RMO-R11.
        Refuses: PAD_REUSED, STREAM_OUT_OF_RANGE.
        """
        pad_stream(group, step)
        if step <= self._last.get(group, -1):
            raise Refused(Refusal.PAD_REUSED)
        self._last[group] = step


def _matrix(tape: Tape, domain: Domain, stream: int, rows: int, width: int, modulus: int) -> torch.Tensor:
    return torch.from_numpy(field_elements(tape, domain, stream, 0, rows * width, modulus)).reshape(
        rows, width
    )


def pad(tape: Tape, group: int, step: int, rows: int, width: int, modulus: int) -> torch.Tensor:
    """Return uniform field elements [rows, width]; row r, column c is element r * width + c of its stream.

    Implements: RMO-R7.
    """
    return _matrix(tape, Domain.PAD, pad_stream(group, step), rows, width, modulus)


def rank_basis(tape: Tape, group: int, rank: int, width: int, modulus: int) -> torch.Tensor:
    """Return the public basis of a group, uniform field elements [rank, width].

    Source: Talaria, M_pub.
    Implements: RMO-R10.
    Refuses: RANK_OUT_OF_RANGE.
    """
    if not 1 <= rank < width:
        raise Refused(Refusal.RANK_OUT_OF_RANGE)
    return _matrix(tape, Domain.RANK_BASIS, group, rank, width, modulus)


def rank_secret(tape: Tape, group: int, step: int, rows: int, rank: int, modulus: int) -> torch.Tensor:
    """Return the private factor of a step's pads, uniform field elements [rows, rank].

    Source: Talaria, M_pvt.
    """
    return _matrix(tape, Domain.RANK_MASK, pad_stream(group, step), rows, rank, modulus)


def rank_pad(tape: Tape, basis: torch.Tensor, group: int, step: int, rows: int, modulus: int) -> torch.Tensor:
    """Return the paper's pads M_pvt M_pub [rows, width]: not private, for comparison only.

    Implements: RMO-R9.
    """
    secret = rank_secret(tape, group, step, rows, basis.shape[0], modulus)
    return product(secret, field_operand(basis.T), modulus)


def mask(activations: torch.Tensor, pads: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return activations plus pads, mod p [rows, width].

    Implements: RMO-R3, RMO-R12.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, ACTIVATION_OUT_OF_RANGE.
    """
    check_elements(pads, modulus)
    if activations.shape != pads.shape:
        raise Refused(Refusal.SHAPE_MISMATCH)
    if max(-int(activations.min()), int(activations.max())) > constants.ACTIVATION_LIMIT:
        raise Refused(Refusal.ACTIVATION_OUT_OF_RANGE)
    return (activations + pads).remainder(modulus)


def unmask(masked_product: torch.Tensor, correction: torch.Tensor, modulus: int) -> torch.Tensor:
    """Return the plain product as integers [rows, outputs]: the centred lift of product minus correction.

    Implements: RMO-R5.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked_product, modulus)
    check_elements(correction, modulus)
    if masked_product.shape != correction.shape:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return _centred((masked_product - correction).remainder(modulus), modulus)


class Outsourced(Protocol):
    """The public facts of a linear group that masking needs."""

    @property
    def number(self) -> int: ...
    @property
    def weights(self) -> torch.Tensor: ...
    @property
    def modulus(self) -> int: ...


class Minter(Protocol):
    """A source of pads with their corrections, each address once; `macs` counts its multiplications."""

    macs: int

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads [rows, inner], pads times weights [rows, outputs])."""
        ...


class LocalMinter:
    """Mints uniform pads in the enclave, which holds the weights: profile `pad`."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._used = Addresses()
        self._ahead: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self.macs = 0

    def _corrected(self, group: Outsourced, pads: torch.Tensor) -> torch.Tensor:
        self.macs += pads.shape[0] * group.weights.numel()
        return multiply(pads, group.weights, group.modulus)

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads, corrections), minted ahead or now. Refuses: PAD_REUSED."""
        self._used.burn(group.number, step)
        ready = self._ahead.pop((group.number, step), None)
        if ready is not None and rows == 1:
            return ready
        pads = pad(self._tape, group.number, step, rows, group.weights.shape[1], group.modulus)
        return pads, self._corrected(group, pads)

    def mint(self, group: Outsourced, first_step: int, steps: int) -> None:
        """Prepare a group's one-row pads for steps first_step to first_step + steps - 1."""
        numbers = range(first_step, first_step + steps)
        width = group.weights.shape[1]
        pads = torch.cat([pad(self._tape, group.number, step, 1, width, group.modulus) for step in numbers])
        corrections = self._corrected(group, pads)
        for row, step in enumerate(numbers):
            self._ahead[group.number, step] = pads[row : row + 1], corrections[row : row + 1]


class RankMinter:
    """The paper's pads: a public basis a group, a fresh private factor a step. Not private."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._used = Addresses()
        self._bases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.macs = 0

    def publish(self, group: Outsourced, basis: torch.Tensor, image: torch.Tensor) -> None:
        """Keep a group's basis [rank, inner] with its image under the weights [rank, outputs]."""
        self._bases[group.number] = basis, image

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads, corrections) of this step. Refuses: PAD_REUSED."""
        self._used.burn(group.number, step)
        basis, image = self._bases[group.number]
        pads = rank_pad(self._tape, basis, group.number, step, rows, group.modulus)
        secret = rank_secret(self._tape, group.number, step, rows, basis.shape[0], group.modulus)
        self.macs += rows * basis.shape[0] * (basis.shape[1] + image.shape[1])
        return pads, product(secret, field_operand(image.T), group.modulus)
