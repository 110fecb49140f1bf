"""Freivalds' check of the masked product: is what the worker returned really X' W?"""

import hashlib
from collections.abc import Sequence

from veil_reference.field import check_elements, check_shape, columns, product
from veil_reference.tape import field_elements
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Rows


def repetitions(modulus: int) -> int:
    """Return the least k with modulus**-k <= 2**-64.

    Implements: INT-R1.
    """
    k = 1
    while modulus**k < 2**constants.SOUNDNESS_BITS:
        k += 1
    return k


def challenge(tape: Tape, group: int, outputs: int, modulus: int) -> Rows:
    """Return the secret vectors z of a group and epoch, uniform field elements [repetitions, outputs].

    Implements: INT-R2.
    """
    return [
        field_elements(tape, Domain.CHALLENGE, group, k * outputs, outputs, modulus)
        for k in range(repetitions(modulus))
    ]


def check_key(weights: Rows, secret: Rows, modulus: int) -> Rows:
    """Return z W for each secret vector z, field elements [repetitions, inner].

    Implements: INT-R3.
    """
    return product(secret, columns(weights), modulus)


def verify(masked: Rows, masked_product: Rows, secret: Rows, key: Rows, modulus: int) -> None:
    """Return nothing if Y' z = X' (z W) for every row and every z.

    Implements: INT-R4.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, CHECK_FAILED.
    """
    check_elements(masked, modulus)
    check_elements(masked_product, modulus)
    check_shape(secret)
    check_shape(key)
    sizes = len(masked), len(masked[0]), len(masked_product[0]), len(secret)
    if sizes != (len(masked_product), len(key[0]), len(secret[0]), len(key)):
        raise Refused(Refusal.SHAPE_MISMATCH)
    if product(masked_product, secret, modulus) != product(masked, key, modulus):
        raise Refused(Refusal.CHECK_FAILED)


def weight_leaf(group: int, weights: Rows) -> bytes:
    """Return the bytes of a group that its model's commitment covers: number, shape, weights.

    Implements: INT-R5.
    """
    numbers = b"".join(number.to_bytes(4, "little") for number in (group, len(weights), len(weights[0])))
    return numbers + b"".join((weight % 2**16).to_bytes(2, "little") for row in weights for weight in row)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the 32-byte Merkle tree hash of a list of leaves.

    Source: RFC 9162, section 2.1.1.
    Implements: INT-R6.
    """
    if len(leaves) < 2:
        return hashlib.sha256(b"".join(b"\0" + leaf for leaf in leaves)).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(leaves[:split]) + merkle_root(leaves[split:])).digest()
