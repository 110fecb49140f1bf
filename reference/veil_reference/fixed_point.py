"""Integer functions between the linear groups: rounding, exp2, SiLU, norm, softmax, rotation."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor, isqrt

from veil_reference import tables
from veil_reference.field import dot
from veil_spec import constants
from veil_spec.architecture import Rotation
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


def gelu(value: int) -> int:
    """Return x Phi(x) of x = value * 2**-18, in the same units.

    Implements: FXP-R15.
    """
    size, share = abs(value), 0
    fine = constants.HIDDEN_FRACTION - constants.CDF_STEP_FRACTION
    if size < constants.CDF_LIMIT << constants.HIDDEN_FRACTION:
        step, rest = divmod(size, 1 << fine)
        share = tables.normal_tail()[step] * ((1 << fine) - rest) + tables.normal_tail()[step + 1] * rest
    return max(value, 0) - round_shift(size * share, constants.EXP2_FRACTION + fine)


def tanh(value: int) -> int:
    """Return tanh of x = value * 2**-18 in units of 2**-30.

    Implements: FXP-R16.
    """
    shift = constants.HIDDEN_FRACTION + constants.LOG2E_FRACTION - constants.EXPONENT_FRACTION - 1
    decay, one = exp2(-round_shift(abs(value) * tables.log2e(), shift)), 1 << constants.EXP2_FRACTION
    size = ((one - decay) << constants.TANH_FRACTION) // (one + decay)
    return size if value >= 0 else -size


def _normal(scaled: Row, epsilon: int) -> list[int]:
    """Return a row over the root of its mean square plus `epsilon`, with 20 fractional bits."""
    energy = dot(scaled, scaled) + len(scaled) * epsilon
    lift = (62 - energy.bit_length()) >> 1
    inverse = (isqrt(len(scaled) << 44) << 34) // isqrt(energy << 2 * lift)
    return [round_shift(word * inverse, 56 - constants.NORM_FRACTION - lift) for word in scaled]


def _epsilon_units(epsilon: Fraction) -> int:
    units: int = floor(epsilon * 2**constants.EPSILON_FRACTION + Fraction(1, 2))
    return units


def _shifted(value: int, shift: int) -> int:
    return value >> shift if shift >= 0 else value << -shift


def _gained(row: Row, gains: Row, epsilon: Fraction) -> list[int]:
    """Return row / sqrt(mean(row**2) + epsilon) * gains; the row has 24 fractional bits."""
    shift = max(max(abs(word) for word in row).bit_length() - constants.NORM_BITS, constants.NORM_SHIFT_FLOOR)
    scaled = [rescale(word, shift, 1 << constants.NORM_BITS) for word in row]
    normal = _normal(scaled, _shifted(_epsilon_units(epsilon), 2 * shift))
    return [word * gain for word, gain in zip(normal, gains, strict=True)]


def rms_norm(row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Quantised:
    """Return row / sqrt(mean(row**2) + epsilon) * gains, quantised; row has 24 fractional bits.

    Implements: FXP-R7.
    """
    return quantise(_gained(row, gains, epsilon), constants.NORM_FRACTION + gain_exponent)


def head_norm(row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Sequence[int]:
    """Return a head's words, normalised and with gains; both have 18 fractional bits.

    Implements: FXP-R13.
    """
    lifted = [word << constants.RESIDUAL_FRACTION - constants.HIDDEN_FRACTION for word in row]
    shift = constants.NORM_FRACTION + gain_exponent - constants.HIDDEN_FRACTION
    return [rescale(word, shift, constants.HIDDEN_LIMIT) for word in _gained(lifted, gains, epsilon)]


def layer_norm(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Return the row without its mean, over its deviation, with gains and biases; 24 fractional bits.

    Implements: FXP-R12.
    """
    count, total, limit = len(row), sum(row), constants.RESIDUAL_LIMIT
    centred = [count * word - total for word in row]
    shift = max(max(map(abs, centred)).bit_length() - constants.NORM_BITS, count.bit_length() - 8)
    scaled = [rescale(word, shift, 1 << constants.NORM_BITS) for word in centred]
    normal = _normal(scaled, _shifted(_epsilon_units(epsilon) * count**2, 2 * shift))
    down = constants.NORM_FRACTION + gain_exponent - constants.RESIDUAL_FRACTION
    return [
        added(rescale(word * gain, down, limit), bias, bias_exponent - constants.RESIDUAL_FRACTION, limit)
        for word, gain, bias in zip(normal, gains, biases, strict=True)
    ]


def added(word: int, bias: int, shift: int, limit: int) -> int:
    """Return a word plus a rescaled bias, saturated at +-limit."""
    return clamp(word + rescale(bias, shift, limit), limit)


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


def rotate(row: Row, position: int, rotation: Rotation) -> Sequence[int]:
    """Return the row with the pair of elements i and i + width / 2 turned by its angle at this position.

    Implements: FXP-R11.
    """
    half = len(row) // 2
    first, second = [], []
    for i, (a, b) in enumerate(zip(row[:half], row[half:], strict=True)):
        cos, sin = tables.rope(position, i, len(row), rotation)
        first.append(round_shift(a * cos - b * sin, constants.ROPE_FRACTION))
        second.append(round_shift(b * cos + a * sin, constants.ROPE_FRACTION))
    return first + second
