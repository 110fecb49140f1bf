"""Profile `lwe`: rows hidden by learning with errors, and unmasked exactly without the weights."""

from veil_reference.field import centred, check_elements, check_shape, columns, product
from veil_reference.remo import check_activations, matrix, pad_stream
from veil_spec import constants
from veil_spec.constants import LWE_DIMENSIONS, LWE_INNER_LEAST, LWE_MODULUS
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, Rows


def size_class(inner: int) -> int:
    """Return the least k with inner <= 2**k."""
    return (inner - 1).bit_length()


def lwe_dimension(inner: int) -> int:
    """Return how many secrets hide a row, 1920 to 2432.

    Implements: RMO-R13.
    Refuses: LWE_UNSUITABLE.
    """
    if not LWE_INNER_LEAST <= inner <= constants.INNER_LIMIT:
        raise Refused(Refusal.LWE_UNSUITABLE, f"inner dimension {inner} is not in 2048 to 16384")
    dimension = LWE_DIMENSIONS[size_class(inner) - size_class(LWE_INNER_LEAST)]
    if dimension >= inner:
        raise Refused(Refusal.LWE_UNSUITABLE, f"inner dimension {inner} is hidden by {dimension} secrets")
    return dimension


def lwe_levels(inner: int) -> tuple[int, int]:
    """Return (noise bits b, scale D): noise is -2**b to 2**b - 1, and an activation is sent D times.

    Implements: RMO-R14.
    """
    largest = constants.ACTIVATION_LIMIT * 128 * inner
    return constants.LWE_NOISE_BUDGET - 2 * size_class(inner), LWE_MODULUS // (2 * largest + 1)


def halves(weights: Rows) -> Rows:
    """Return the high bytes and then the low bytes of weights, each -128 to 127 [2 * outputs, inner].

    Implements: RMO-R15, RMO-R21.
    Refuses: SHAPE_MISMATCH, WEIGHT_OUT_OF_RANGE.
    """
    check_shape(weights)
    if any(abs(weight) > constants.WEIGHT_LIMIT for row in weights for weight in row):
        raise Refused(Refusal.WEIGHT_OUT_OF_RANGE)
    high = [[(weight + 128) // 256 for weight in row] for row in weights]
    return high + [[(weight + 128) % 256 - 128 for weight in row] for row in weights]


def lwe_basis(tape: Tape, group: int, dimension: int, inner: int) -> Rows:
    """Return the public matrix A of a group, uniform field elements [dimension, inner].

    Implements: RMO-R16.
    """
    return matrix(tape, Domain.LWE_BASIS, group, dimension, inner, LWE_MODULUS)


def lwe_secret(tape: Tape, group: int, step: int, rows: int, dimension: int) -> Rows:
    """Return the secrets S of a step, uniform field elements [rows, dimension].

    Implements: RMO-R17.
    """
    return matrix(tape, Domain.LWE_SECRET, pad_stream(group, step), rows, dimension, LWE_MODULUS)


def lwe_noise(tape: Tape, group: int, step: int, rows: int, inner: int) -> Rows:
    """Return the noise E of a step, uniform on -2**b to 2**b - 1 [rows, inner].

    Implements: RMO-R18.
    """
    half, stream = 2 ** lwe_levels(inner)[0], pad_stream(group, step)
    words = [tape.word(Domain.LWE_NOISE, stream, index) for index in range(rows * inner)]
    return [[word % (2 * half) - half for word in words[i : i + inner]] for i in range(0, len(words), inner)]


def lwe_mask(tape: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Return D X + S A + E mod q [rows, inner].

    Implements: RMO-R19, RMO-R21.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD, ACTIVATION_OUT_OF_RANGE.
    """
    check_elements(basis, LWE_MODULUS)
    check_shape(activations)
    check_activations(activations)
    rows, inner = len(activations), len(activations[0])
    if inner != len(basis[0]):
        raise Refused(Refusal.SHAPE_MISMATCH)
    secret = lwe_secret(tape, group, step, rows, len(basis))
    hidden = product(secret, columns(basis), LWE_MODULUS)
    scale = lwe_levels(inner)[1]
    return [
        [(scale * x + s + e) % LWE_MODULUS for x, s, e in zip(*three, strict=True)]
        for three in zip(activations, hidden, lwe_noise(tape, group, step, rows, inner), strict=True)
    ]


def lwe_unmask(tape: Tape, masked_product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Return the plain product as integers [rows, outputs]; hint is A W [dimension, 2 * outputs].

    Implements: RMO-R20, RMO-R21.
    Refuses: SHAPE_MISMATCH, NOT_IN_FIELD.
    """
    check_elements(masked_product, LWE_MODULUS)
    check_elements(hint, LWE_MODULUS)
    if len(masked_product[0]) != len(hint[0]) or len(hint[0]) % 2:
        raise Refused(Refusal.SHAPE_MISMATCH)
    secret = lwe_secret(tape, group, step, len(masked_product), len(hint))
    hidden = product(secret, columns(hint), LWE_MODULUS)
    return [
        _joined([_rounded(y - s, inner) for y, s in zip(*both, strict=True)])
        for both in zip(masked_product, hidden, strict=True)
    ]


def _rounded(noisy: int, inner: int) -> int:
    scale = lwe_levels(inner)[1]
    return (2 * centred(noisy % LWE_MODULUS, LWE_MODULUS) + scale) // (2 * scale)


def _joined(both: list[int]) -> list[int]:
    outputs = len(both) // 2
    return [256 * high + low for high, low in zip(both[:outputs], both[outputs:], strict=True)]
