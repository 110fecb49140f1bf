"""Profile `lwe` on tensors: rows hidden by learning with errors, and unmasked exactly without the weights."""

import numpy as np
import torch

from veil_optimized import wide
from veil_optimized.field import blocks, check_elements, field_operand, product
from veil_optimized.remo import check_activations, matrix, pad_stream
from veil_optimized.tape import WORD, fill
from veil_spec import constants
from veil_spec.constants import LWE_DIMENSIONS, LWE_INNER_LEAST, LWE_MODULUS
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain


def size_class(inner: int) -> int:
    """Return the least k with inner <= 2**k."""
    return (inner - 1).bit_length()


def lwe_dimension(inner: int) -> int:
    """Return how many secrets hide a row, 1920 to 2432.

    Implements: RMO-R13.
    Refuses: LWE_UNSUITABLE.
    """
    if inner < LWE_INNER_LEAST:
        reason = f"below {LWE_INNER_LEAST}, m = {LWE_DIMENSIONS[0]} secrets gain too little"
    elif inner > constants.INNER_LIMIT:
        reason = f"above {constants.INNER_LIMIT} the noise would have fewer than 6 bits: split the layer"
    else:
        dimension = LWE_DIMENSIONS[size_class(inner) - size_class(LWE_INNER_LEAST)]
        if dimension < inner:
            return dimension
        reason = f"128 bits take m = {dimension} secrets, which does not pay"
    raise Refused(
        Refusal.LWE_UNSUITABLE, f"profile lwe at inner dimension {inner}: {reason}; use profile pad"
    )


def check_outputs(outputs: int, inner: int) -> None:
    """Refuse a group whose image of A is too long for one message. Refuses: LWE_UNSUITABLE."""
    most = constants.REPLY_LIMIT // (16 * lwe_dimension(inner))
    if outputs > most:
        remedy = f"profile lwe takes at most {most} outputs at inner dimension {inner}, not {outputs}"
        raise Refused(Refusal.LWE_UNSUITABLE, f"{remedy}: split the layer, or use profile pad")


def lwe_levels(inner: int) -> tuple[int, int]:
    """Return (noise bits b, scale D): noise is -2**b to 2**b - 1, and an activation is sent D times.

    Implements: RMO-R14.
    """
    largest = constants.ACTIVATION_LIMIT * 128 * inner
    return constants.LWE_NOISE_BUDGET - 2 * size_class(inner), LWE_MODULUS // (2 * largest + 1)


def halves(weights: torch.Tensor) -> torch.Tensor:
    """Return the high bytes and then the low bytes of weights, int8 [2 * outputs, inner].

    Implements: RMO-R15, RMO-R21.
    Refuses: SHAPE_MISMATCH, WEIGHT_OUT_OF_RANGE.
    """
    if weights.dim() != 2 or not weights.numel():
        raise Refused(Refusal.SHAPE_MISMATCH)
    if max(-int(weights.min()), int(weights.max())) > constants.WEIGHT_LIMIT:
        raise Refused(Refusal.WEIGHT_OUT_OF_RANGE)
    made = torch.empty(2, *weights.shape, dtype=torch.int8, device=weights.device)
    for part, block in blocks(weights):
        high = torch.floor((block + 128) / 256)
        made[0, part], made[1, part] = high, block - 256 * high
    return made.flatten(0, 1)


def lwe_basis(tape: Tape, group: int, dimension: int, inner: int) -> torch.Tensor:
    """Return the public matrix A of a group, uniform elements of F_q [dimension, inner].

    Implements: RMO-R16.
    """
    return matrix(tape, Domain.LWE_BASIS, group, dimension, inner, LWE_MODULUS)


def lwe_secret(tape: Tape, group: int, step: int, rows: int, dimension: int) -> torch.Tensor:
    """Return the secrets S of a step, uniform elements of F_q [rows, dimension].

    Implements: RMO-R17.
    """
    return matrix(tape, Domain.LWE_SECRET, pad_stream(group, step), rows, dimension, LWE_MODULUS)


def lwe_noise(tape: Tape, group: int, step: int, rows: int, inner: int) -> torch.Tensor:
    """Return the noise E of a step, uniform on -2**b to 2**b - 1, int64 [rows, inner].

    Implements: RMO-R18.
    """
    half = 2 ** lwe_levels(inner)[0]
    words = np.empty(rows * inner, dtype=WORD)
    fill(words, tape, Domain.LWE_NOISE, pad_stream(group, step), 0)
    return torch.from_numpy((words & np.uint64(2 * half - 1)).view(np.int64) - half).reshape(rows, inner)


def lwe_mask(
    tape: Tape, basis: torch.Tensor, group: int, step: int, activations: torch.Tensor, noisy: bool = True
) -> torch.Tensor:
    """Return D X + S A + E mod q [rows, inner]; without noise, which hides nothing, D X + S A.

    Implements: RMO-R19, RMO-R21.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, ACTIVATION_OUT_OF_RANGE.
    """
    check_elements(basis, LWE_MODULUS)
    check_activations(activations)
    rows, inner = activations.shape
    if inner != basis.shape[1]:
        raise Refused(Refusal.SHAPE_MISMATCH)
    secret = lwe_secret(tape, group, step, rows, len(basis))
    hidden = product(secret, field_operand(basis.T, LWE_MODULUS), LWE_MODULUS)
    plain = activations.to(torch.int64) * lwe_levels(inner)[1]
    if noisy:
        plain += lwe_noise(tape, group, step, rows, inner)
    return wide.add(wide.from_signed(plain), hidden)


def lwe_unmask(
    tape: Tape, masked_product: torch.Tensor, hint: torch.Tensor, group: int, step: int, inner: int
) -> torch.Tensor:
    """Return the plain product as integers [rows, outputs]; hint is A W [dimension, 2 * outputs].

    Implements: RMO-R20, RMO-R21.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked_product, LWE_MODULUS)
    check_elements(hint, LWE_MODULUS)
    if masked_product.shape[1] != hint.shape[1] or hint.shape[1] % 2:
        raise Refused(Refusal.SHAPE_MISMATCH)
    secret = lwe_secret(tape, group, step, len(masked_product), len(hint))
    hidden = product(secret, field_operand(hint.T, LWE_MODULUS), LWE_MODULUS)
    noisy = wide.centred(wide.subtract(masked_product, hidden))
    scale = lwe_levels(inner)[1]
    whole = noisy.div(scale, rounding_mode="floor")
    rest = noisy - whole * scale
    high, low = (whole + (rest >= scale - rest)).chunk(2, dim=1)
    return 256 * high + low
