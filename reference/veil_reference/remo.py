"""Masked outsourcing: mask, multiply, unmask over F_p, with pads that are uniform or of low rank."""

from veil_reference.field import centred, check_elements, check_shape, columns, product
from veil_reference.tape import domain_key, field_elements
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Rows


def choose_modulus(weights: Rows) -> int:
    """Return the smallest prime of the specification in which no product with 16-bit activations wraps.

    Implements: RMO-R1, RMO-R2.
    Refuses: SHAPE_MISMATCH, WEIGHT_OUT_OF_RANGE, WOULD_WRAP.
    """
    check_shape(weights)
    if any(abs(weight) > constants.WEIGHT_LIMIT for row in weights for weight in row):
        raise Refused(Refusal.WEIGHT_OUT_OF_RANGE)
    largest = max(sum(abs(weight) for weight in row) for row in weights)
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


def ratchet(seed: bytes) -> bytes:
    """Return the seed of the next step: one way, so that a seed says nothing about those before it.

    Implements: RMO-R22.
    """
    return domain_key(seed, Domain.RATCHET)


def matrix(tape: Tape, domain: Domain, stream: int, rows: int, width: int, modulus: int) -> list[list[int]]:
    """Return field elements [rows, width] of a stream, row after row."""
    return [field_elements(tape, domain, stream, row * width, width, modulus) for row in range(rows)]


def pad(tape: Tape, group: int, step: int, rows: int, width: int, modulus: int) -> Rows:
    """Return uniform field elements [rows, width]; row r, column c is element r * width + c of its stream.

    Implements: RMO-R7.
    """
    return matrix(tape, Domain.PAD, pad_stream(group, step), rows, width, modulus)


def rank_basis(tape: Tape, group: int, rank: int, width: int, modulus: int) -> Rows:
    """Return the public basis of a group, uniform field elements [rank, width].

    Source: Talaria, M_pub.
    Implements: RMO-R10.
    Refuses: RANK_OUT_OF_RANGE.
    """
    if not 1 <= rank < width:
        raise Refused(Refusal.RANK_OUT_OF_RANGE)
    return matrix(tape, Domain.RANK_BASIS, group, rank, width, modulus)


def rank_secret(tape: Tape, group: int, step: int, rows: int, rank: int, modulus: int) -> Rows:
    """Return the private factor of a step's pads, uniform field elements [rows, rank].

    Source: Talaria, M_pvt.
    """
    return matrix(tape, Domain.RANK_MASK, pad_stream(group, step), rows, rank, modulus)


def rank_pad(tape: Tape, basis: Rows, group: int, step: int, rows: int, modulus: int) -> Rows:
    """Return the paper's pads M_pvt M_pub [rows, width]: not private, for comparison only.

    Implements: RMO-R9.
    """
    return product(rank_secret(tape, group, step, rows, len(basis), modulus), columns(basis), modulus)


def check_activations(activations: Rows) -> None:
    """Refuse activations of more than 16 bits. Refuses: ACTIVATION_OUT_OF_RANGE."""
    if any(abs(value) > constants.ACTIVATION_LIMIT for row in activations for value in row):
        raise Refused(Refusal.ACTIVATION_OUT_OF_RANGE)


def mask(activations: Rows, pads: Rows, modulus: int) -> Rows:
    """Return activations plus pads, mod p [rows, width].

    Implements: RMO-R3, RMO-R12.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, ACTIVATION_OUT_OF_RANGE.
    """
    check_elements(pads, modulus)
    check_activations(activations)
    if [len(row) for row in activations] != [len(row) for row in pads]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return [
        [(x + r) % modulus for x, r in zip(*both, strict=True)]
        for both in zip(activations, pads, strict=True)
    ]


def multiply(masked: Rows, weights: Rows, modulus: int) -> Rows:
    """Return masked rows times the transpose of weights, mod p [rows, outputs]: the worker's whole job.

    Implements: RMO-R4.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked, modulus)
    if not weights or any(len(channel) != len(masked[0]) for channel in weights):
        raise Refused(Refusal.SHAPE_MISMATCH)
    return product(masked, weights, modulus)


def unmask(masked_product: Rows, correction: Rows, modulus: int) -> Rows:
    """Return the plain product as integers [rows, outputs]: the centred lift of product minus correction.

    Implements: RMO-R5.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked_product, modulus)
    check_elements(correction, modulus)
    if [len(row) for row in masked_product] != [len(row) for row in correction]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    return [
        [centred((y - c) % modulus, modulus) for y, c in zip(*both, strict=True)]
        for both in zip(masked_product, correction, strict=True)
    ]
