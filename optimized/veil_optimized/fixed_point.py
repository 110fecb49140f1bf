"""Integer functions between the linear groups, on int64 tensors, a row for each token."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor, isqrt

import torch

from veil_optimized import tables
from veil_spec import constants


@dataclass(frozen=True, slots=True)
class Rows:
    """16-bit integers [..., width] with one exponent a row [...]: value i is values[i] * 2**-exponent."""

    values: torch.Tensor
    exponent: torch.Tensor


def round_shift(value: torch.Tensor, shift: int | torch.Tensor) -> torch.Tensor:
    """Return value / 2**shift rounded to the nearest integer, halves up, 0 <= shift <= 62.

    Implements: FXP-R1.
    """
    half = (1 << shift >> 1) if isinstance(shift, int) else torch.ones_like(shift) << shift >> 1
    return (value + half) >> shift


def rescale(value: torch.Tensor, shift: int | torch.Tensor, limit: int) -> torch.Tensor:
    """Return value / 2**shift, rounded and saturated at +-limit; a negative shift multiplies.

    Implements: FXP-R2.
    """
    shifts = torch.as_tensor(shift, dtype=torch.int64, device=value.device)
    down = round_shift(value, shifts.clamp(0, constants.SHIFT_LIMIT)).clamp(-limit, limit)
    if bool((shifts >= 0).all()):
        return down
    left = (-shifts).clamp(0, constants.SHIFT_LIMIT)
    bound = torch.full_like(left, limit) >> left
    up = torch.where(value.abs() > bound, limit * value.sign(), value << left)
    return torch.where(shifts > 0, down, up)


def bit_length(value: torch.Tensor) -> torch.Tensor:
    """Return the number of bits of each value, 0 <= value < 2**63."""
    estimate = torch.frexp(value.to(torch.float64)).exponent.to(torch.int64)
    return torch.where(
        (torch.ones_like(value) << (estimate - 1).clamp(min=0)) > value, estimate - 1, estimate
    ).clamp(min=0)


def integer_sqrt(value: torch.Tensor) -> torch.Tensor:
    """Return the floor of each square root, 0 <= value < 2**62: a float64 estimate, corrected in integers."""
    root = value.to(torch.float64).sqrt().to(torch.int64)
    root = root - (root * root > value).to(torch.int64)
    return root + ((root + 1) * (root + 1) <= value).to(torch.int64)


def quantise(row: torch.Tensor, fraction: int | torch.Tensor) -> Rows:
    """Return rows whose words have `fraction` fractional bits as 16-bit integers and exponents.

    Implements: FXP-R3.
    """
    shift = bit_length(row.abs().amax(-1)) - 15
    return Rows(rescale(row, shift.unsqueeze(-1), constants.ACTIVATION_LIMIT), fraction - shift)


def exp2(exponent: torch.Tensor) -> torch.Tensor:
    """Return 2**(exponent / 2**16) in units of 2**-30, exponent <= 0.

    Implements: FXP-R5.
    """
    coarse, fine = tables.exp2_digits()
    positive = -exponent
    product = coarse[(positive >> 8) & 255] * fine[positive & 255]
    whole = positive >> constants.EXPONENT_FRACTION
    return round_shift(product, (constants.EXP2_FRACTION + whole).clamp(max=constants.SHIFT_LIMIT))


def silu(value: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + exp(-x)) of x = value * 2**-18, in the same units.

    Implements: FXP-R6.
    """
    shift = constants.HIDDEN_FRACTION + constants.LOG2E_FRACTION - constants.EXPONENT_FRACTION
    decay = exp2(-round_shift(value.abs() * tables.log2e(), shift))
    one = 1 << constants.EXP2_FRACTION
    numerator = torch.where(value >= 0, one, decay) << constants.EXP2_FRACTION
    return round_shift(value * (numerator // (decay + one)), constants.EXP2_FRACTION)


def rms_norm(row: torch.Tensor, gains: torch.Tensor, gain_exponent: int, epsilon: Fraction) -> Rows:
    """Return row / sqrt(mean(row**2) + epsilon) * gains, quantised; row has 24 fractional bits.

    Implements: FXP-R7.
    """
    shift = (bit_length(row.abs().amax(-1)) - constants.NORM_BITS).clamp(min=constants.NORM_SHIFT_FLOOR)
    scaled = rescale(row, shift.unsqueeze(-1), 1 << constants.NORM_BITS)
    energy = (scaled * scaled).sum(-1) + row.shape[-1] * _norm_epsilon(epsilon, shift)
    lift = (62 - bit_length(energy)) >> 1
    inverse = (isqrt(row.shape[-1] << 44) << 34) // integer_sqrt(energy << 2 * lift)
    normal = round_shift(scaled * inverse.unsqueeze(-1), (56 - constants.NORM_FRACTION - lift).unsqueeze(-1))
    return quantise(normal * gains, constants.NORM_FRACTION + gain_exponent)


def _norm_epsilon(epsilon: Fraction, shift: torch.Tensor) -> torch.Tensor:
    units = floor(epsilon * 2**constants.EPSILON_FRACTION + Fraction(1, 2))
    return torch.full_like(shift, units) >> (2 * shift).clamp(min=0) << (-2 * shift).clamp(min=0)


def attention_score(query: Rows, key: Rows) -> torch.Tensor:
    """Return query . key * log2(e) / sqrt(head width) in units of 2**-16 [..., n, positions].

    Implements: FXP-R9.
    """
    width = query.values.shape[-1]
    exact = query.values.to(torch.float64) @ key.values.to(torch.float64).mT
    product = exact.to(torch.int64) * tables.score_factor(width)
    exponent = query.exponent.unsqueeze(-1) + key.exponent.unsqueeze(-2)
    shift = exponent + (constants.SCORE_FRACTION - constants.EXPONENT_FRACTION)
    return rescale(product, shift, constants.ATTENTION_LIMIT)


def softmax_average(scores: torch.Tensor, values: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return averages of value rows, weighted by 2**(score / 2**16) where visible.

    Shapes [..., n, positions], [..., positions, width] and [n, positions] to [..., n, width]. Values are
    cut into 15-bit halves, so that each float64 sum is exact.

    Implements: FXP-R10.
    """
    peak = scores.masked_fill(~visible, -(2**62)).amax(-1, keepdim=True)
    dropped = constants.EXP2_FRACTION - constants.WEIGHT_FRACTION
    weights = round_shift(exp2((scores - peak).clamp(max=0)), dropped).masked_fill(~visible, 0)
    total = weights.sum(-1, keepdim=True)
    exact = weights.to(torch.float64)
    high, low = ((exact @ half.to(torch.float64)).to(torch.int64) for half in (values >> 15, values & 32767))
    return ((high << 15) + low + total // 2) // total


def rotate(row: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return rows [..., n, width] with pair (i, i + width / 2) of token n turned by row n of the tables.

    Implements: FXP-R11.
    """
    a, b = row.chunk(2, -1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    return torch.cat([round_shift(half, constants.ROPE_FRACTION) for half in turned], -1)
