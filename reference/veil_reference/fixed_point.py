"""Integer functions between the linear groups: rounding, exp2, SiLU, norm, softmax, rotation."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor, isqrt

from veil_reference import tables
from veil_reference.field import dot
from veil_spec import constants
from veil_spec.types import Quantised, Row, Rows


def round_shift(value: int, shift: int) -> int:
    """Return value / 2**shift rounded to the nearest integer, halves up, 0 <= shift <= 62.

    Implements: FXP-R1.
    """
    return (value + (1 << shift >> 1)) >> shift


def clamp(value: int, limit: int) -> int:
    """Return value brought into [-limit, limit]."""
    return max(-limit, min(limit, value))


def rescale(value: int, shift: int, limit: int) -> int:
    """Return value / 2**shift, rounded and saturated at +-limit; a negative shift multiplies.

    Implements: FXP-R2.
    """
    if shift <= 0:
        return clamp(value << -shift, limit)
    return clamp(round_shift(value, min(shift, constants.SHIFT_LIMIT)), limit)


def quantise(row: Row, fraction: int) -> Quantised:
    """Return the row, whose words have `fraction` fractional bits, as 16-bit integers and an exponent.

    Implements: FXP-R3.
    """
    shift = max(abs(word) for word in row).bit_length() - 15
    return Quantised(
        tuple(rescale(word, shift, constants.ACTIVATION_LIMIT) for word in row), fraction - shift
    )


def exp2(exponent: int) -> int:
    """Return 2**(exponent / 2**16) in units of 2**-30, exponent <= 0.

    Implements: FXP-R5.
    """
    coarse, fine = tables.exp2_digits()
    whole, part = divmod(-exponent, 1 << constants.EXPONENT_FRACTION)
    product = coarse[part >> 8] * fine[part & 255]
    return round_shift(product, min(constants.EXP2_FRACTION + whole, constants.SHIFT_LIMIT))


def silu(value: int) -> int:
    """Return x / (1 + exp(-x)) of x = value * 2**-18, in the same units.

    Implements: FXP-R6.
    """
    shift = constants.HIDDEN_FRACTION + constants.LOG2E_FRACTION - constants.EXPONENT_FRACTION
    decay = exp2(-round_shift(abs(value) * tables.log2e(), shift))
    one = 1 << constants.EXP2_FRACTION
    sigmoid = ((one if value >= 0 else decay) << constants.EXP2_FRACTION) // (one + decay)
    return round_shift(value * sigmoid, constants.EXP2_FRACTION)


def rms_norm(row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Quantised:
    """Return row / sqrt(mean(row**2) + epsilon) * gains, quantised; row has 24 fractional bits.

    Implements: FXP-R7.
    """
    shift = max(max(abs(word) for word in row).bit_length() - constants.NORM_BITS, constants.NORM_SHIFT_FLOOR)
    scaled = [rescale(word, shift, 1 << constants.NORM_BITS) for word in row]
    energy = dot(scaled, scaled) + len(row) * _norm_epsilon(epsilon, shift)
    lift = (62 - energy.bit_length()) >> 1
    inverse = (isqrt(len(row) << 44) << 34) // isqrt(energy << 2 * lift)
    normal = [round_shift(word * inverse, 56 - constants.NORM_FRACTION - lift) for word in scaled]
    gained = [word * gain for word, gain in zip(normal, gains, strict=True)]
    return quantise(gained, constants.NORM_FRACTION + gain_exponent)


def _norm_epsilon(epsilon: Fraction, shift: int) -> int:
    units: int = floor(epsilon * 2**constants.EPSILON_FRACTION + Fraction(1, 2))
    return units >> 2 * shift if shift >= 0 else units << -2 * shift


def attention_score(query: Quantised, key: Quantised) -> int:
    """Return query . key * log2(e) / sqrt(head width) in units of 2**-16.

    Implements: FXP-R9.
    """
    product = dot(query.values, key.values) * tables.score_factor(len(query.values))
    shift = query.exponent + key.exponent + constants.SCORE_FRACTION - constants.EXPONENT_FRACTION
    return rescale(product, shift, constants.ATTENTION_LIMIT)


def softmax_average(scores: Row, values: Rows) -> Sequence[int]:
    """Return the average of value rows [positions, width], weighted by 2**(score / 2**16) [width].

    Implements: FXP-R10.
    """
    peak = max(scores)
    dropped = constants.EXP2_FRACTION - constants.WEIGHT_FRACTION
    weights = [round_shift(exp2(score - peak), dropped) for score in scores]
    total = sum(weights)
    return [(dot(weights, column) + total // 2) // total for column in zip(*values, strict=True)]


def rotate(row: Row, position: int, theta: Fraction) -> Sequence[int]:
    """Return the row with element i and element i + width / 2 rotated by position * theta**(-2 i / width).

    Implements: FXP-R11.
    """
    half = len(row) // 2
    first, second = [], []
    for i, (a, b) in enumerate(zip(row[:half], row[half:], strict=True)):
        cos, sin = tables.rope(position, i, len(row), theta)
        first.append(round_shift(a * cos - b * sin, constants.ROPE_FRACTION))
        second.append(round_shift(b * cos + a * sin, constants.ROPE_FRACTION))
    return first + second
