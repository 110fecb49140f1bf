"""Integer functions between the linear groups, on int64 tensors, a row for each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor, isqrt
from typing import Final

import torch

from veil_optimized import tables
from veil_spec import constants

BLOCK: Final = 2**18
"""Scores, keys or values that attention widens at a time: tensors of 2 MiB stay in a processor's cache."""
ROWS: Final = 32
"""Rows of scores, at least, for which the keys and values are widened."""
UNSEEN: Final = -(2**61)
"""Score of a position that is not visible: so far below the others that its weight is 0."""


@dataclass(frozen=True, slots=True)
class Rows:
    """16-bit integers [..., width] with one exponent a row [...]: value i is values[i] * 2**-exponent."""

    values: torch.Tensor
    exponent: torch.Tensor


def round_shift(value: torch.Tensor, shift: int | torch.Tensor) -> torch.Tensor:
    """Return value / 2**shift rounded to the nearest integer, halves up, 0 <= shift <= 62.

    Implements: FXP-R1.
    """
    return (value + ((1 << shift) >> 1)) >> shift


def rescale(value: torch.Tensor, shift: int | torch.Tensor, limit: int) -> torch.Tensor:
    """Return value / 2**shift, rounded and saturated at +-limit; a negative shift multiplies.

    Implements: FXP-R2.
    """
    if isinstance(shift, int) and shift < 0:
        return _raised(value, _bounded(-shift), limit)
    down = round_shift(value, _bounded(shift)).clamp_(-limit, limit)
    if isinstance(shift, int) or bool((shift >= 0).all()):
        return down
    return torch.where(shift > 0, down, _raised(value, _bounded(-shift), limit))


def _bounded(shift: int | torch.Tensor) -> int | torch.Tensor:
    if isinstance(shift, int):
        return max(0, min(shift, constants.SHIFT_LIMIT))
    return shift.clamp(0, constants.SHIFT_LIMIT)


def _raised(value: torch.Tensor, left: int | torch.Tensor, limit: int) -> torch.Tensor:
    return torch.where(value.abs() > limit >> left, limit * value.sign(), value << left)


def added(word: torch.Tensor, bias: torch.Tensor, shift: int, limit: int) -> torch.Tensor:
    """Return words plus rescaled biases, saturated at +-limit."""
    return (word + rescale(bias, shift, limit)).clamp_(-limit, limit)


def bit_length(value: torch.Tensor) -> torch.Tensor:
    """Return the bits of each value, 0 <= value < 2**63: how many powers of two are not above it."""
    return torch.bucketize(value, tables.powers(value.device), right=True)


def integer_sqrt(value: torch.Tensor) -> torch.Tensor:
    """Return the floor of each square root, 0 <= value < 2**62: a float64 estimate, corrected in integers."""
    root = value.to(torch.float64).sqrt().to(torch.int64)
    root += (value - root * root) >> 63
    above = root + 1
    return root + (above * above <= value)


def quantise(row: torch.Tensor, fraction: int | torch.Tensor) -> Rows:
    """Return rows whose words have `fraction` fractional bits as 16-bit integers and exponents.

    Implements: FXP-R3.
    """
    shift = bit_length(_largest(row)) - 15
    return Rows(rescale(row, shift.unsqueeze(-1), constants.ACTIVATION_LIMIT), fraction - shift)


def _largest(row: torch.Tensor) -> torch.Tensor:
    least, most = row.aminmax(dim=-1)
    return torch.maximum(-least, most)


def exp2(exponent: torch.Tensor) -> torch.Tensor:
    """Return 2**(exponent / 2**16) in units of 2**-30, exponent <= 0.

    Implements: FXP-R5.
    """
    positive = -exponent
    part, whole = positive & 0xFFFF, positive >> constants.EXPONENT_FRACTION
    product = tables.exp2_products(exponent.device).index_select(0, part.flatten()).view_as(part)
    shift = whole.clamp_(max=constants.SHIFT_LIMIT - constants.EXP2_FRACTION).add_(constants.EXP2_FRACTION)
    return round_shift(product, shift)


def silu(value: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + exp(-x)) of x = value * 2**-18, in the same units.

    Implements: FXP-R6.
    """
    decay, one = _decay(value, 1), 1 << constants.EXP2_FRACTION
    numerator = (one + ((decay - one) & (value >> 63))) << constants.EXP2_FRACTION
    return round_shift(value * (numerator // (decay + one)), constants.EXP2_FRACTION)


def _decay(value: torch.Tensor, times: int) -> torch.Tensor:
    """Return exp(-|x| * times) of x = value * 2**-18 in units of 2**-30; times is 1 or 2."""
    shift = constants.HIDDEN_FRACTION + constants.LOG2E_FRACTION - constants.EXPONENT_FRACTION
    return exp2(-round_shift(value.abs() * tables.log2e(), shift + 1 - times))


def tanh(value: torch.Tensor) -> torch.Tensor:
    """Return tanh of x = value * 2**-18 in units of 2**-30.

    Implements: FXP-R16.
    """
    decay, one = _decay(value, 2), 1 << constants.EXP2_FRACTION
    return (((one - decay) << constants.TANH_FRACTION) // (decay + one)).mul_(value.sign())


def gelu(value: torch.Tensor) -> torch.Tensor:
    """Return x Phi(x) of x = value * 2**-18, in the same units; Phi is the normal distribution.

    Implements: FXP-R15.
    """
    fine = constants.HIDDEN_FRACTION - constants.CDF_STEP_FRACTION
    start, fall = tables.normal_cells(value.device)
    size = value.abs()
    cell = (size >> fine).clamp_(max=len(start) - 1).flatten()
    here, slope = (table.index_select(0, cell).view_as(size) for table in (start, fall))
    share = (here << fine) - slope * (size & ((1 << fine) - 1))
    return value.clamp(min=0) - round_shift(size * share, constants.EXP2_FRACTION + fine)


def rms_norm(row: torch.Tensor, gains: torch.Tensor, gain_exponent: int, epsilon: Fraction) -> Rows:
    """Return row / sqrt(mean(row**2) + epsilon) * gains, quantised; row has 24 fractional bits.

    Implements: FXP-R7.
    """
    return quantise(_gained(row, gains, epsilon), constants.NORM_FRACTION + gain_exponent)


def head_norm(row: torch.Tensor, gains: torch.Tensor, gain_exponent: int, epsilon: Fraction) -> torch.Tensor:
    """Return the words of heads [..., width], normalised and with gains; both have 18 fractional bits.

    Implements: FXP-R13.
    """
    lifted = row << (constants.RESIDUAL_FRACTION - constants.HIDDEN_FRACTION)
    shift = constants.NORM_FRACTION + gain_exponent - constants.HIDDEN_FRACTION
    return rescale(_gained(lifted, gains, epsilon), shift, constants.HIDDEN_LIMIT)


def layer_norm(
    row: torch.Tensor,
    gains: torch.Tensor,
    gain_exponent: int,
    biases: torch.Tensor,
    bias_exponent: int,
    epsilon: Fraction,
) -> torch.Tensor:
    """Return the words of rows less their means, over their deviations, with gains and biases.

    Arguments and result have 24 fractional bits.

    Implements: FXP-R12.
    """
    count, fraction, limit = row.shape[-1], constants.RESIDUAL_FRACTION, constants.RESIDUAL_LIMIT
    centred = row * count - row.sum(-1, keepdim=True)
    normal = _normal(centred, count.bit_length() + constants.NORM_SHIFT_FLOOR, units(epsilon) * count**2)
    scaled = rescale(normal * gains, constants.NORM_FRACTION + gain_exponent - fraction, limit)
    return added(scaled, biases, bias_exponent - fraction, limit)


def _gained(row: torch.Tensor, gains: torch.Tensor, epsilon: Fraction) -> torch.Tensor:
    """Return row / sqrt(mean(row**2) + epsilon) * gains; row has 24 fractional bits."""
    return _normal(row, constants.NORM_SHIFT_FLOOR, units(epsilon)) * gains


def _normal(row: torch.Tensor, shift_floor: int, epsilon: int) -> torch.Tensor:
    """Return row / sqrt(mean(row**2) + epsilon) with 20 fractional bits; epsilon has twice the row's."""
    count = row.shape[-1]
    shift = (bit_length(_largest(row)) - constants.NORM_BITS).clamp(min=shift_floor)
    scaled = rescale(row, shift.unsqueeze(-1), 1 << constants.NORM_BITS)
    energy = (scaled * scaled).sum(-1) + count * _moved(epsilon, 2 * shift)
    lift = (62 - bit_length(energy)) >> 1
    inverse = (isqrt(count << 44) << 34) // integer_sqrt(energy << 2 * lift)
    return round_shift(scaled * inverse.unsqueeze(-1), (56 - constants.NORM_FRACTION - lift).unsqueeze(-1))


def units(epsilon: Fraction) -> int:
    """Return epsilon in units of 2**-48, rounded."""
    rounded: int = floor(epsilon * 2**constants.EPSILON_FRACTION + Fraction(1, 2))
    return rounded


def _moved(value: int, shift: torch.Tensor) -> torch.Tensor:
    """Return floor(value * 2**-shift), 0 <= value < 2**62."""
    return torch.full_like(shift, value) >> _bounded(shift) << _bounded(-shift)


def attention_score(query: Rows, key: Rows) -> torch.Tensor:
    """Return query . key * log2(e) / sqrt(head width) in units of 2**-16 [..., n, positions].

    Implements: FXP-R9.
    """
    wide = query.values.to(torch.float64)
    parts = [
        (wide @ key.values[..., part, :].to(torch.float64).mT).to(torch.int64) for part in _blocks(key.values)
    ]
    product = torch.cat(parts, -1).mul_(tables.score_factor(wide.shape[-1]))
    constant = constants.SCORE_FRACTION - constants.EXPONENT_FRACTION
    shift = (query.exponent + constant).unsqueeze(-1) + key.exponent.unsqueeze(-2)
    return rescale(product, shift, constants.ATTENTION_LIMIT)


def softmax_average(
    scores: torch.Tensor, values: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Return averages of value rows, weighted by 2**(score / 2**16) where visible.

    Shapes [..., n, positions], [..., positions, width] and [n, positions] to [..., n, width]; without the
    last, all is visible. Values are cut into 15-bit halves, so that each float64 sum is exact and the
    integers stay below 63 bits.

    Implements: FXP-R10.
    """
    seen = scores if visible is None else scores.masked_fill(~visible, UNSEEN)
    dropped = constants.EXP2_FRACTION - constants.WEIGHT_FRACTION
    weights = round_shift(exp2(seen - seen.amax(-1, keepdim=True)), dropped)
    total = weights.sum(-1, keepdim=True)
    high = low = torch.zeros_like(total)
    for part in _blocks(values):
        exact, block = weights[..., part].to(torch.float64), values[..., part, :]
        high = high + (exact @ (block >> 15).to(torch.float64)).to(torch.int64)
        low = low + (exact @ (block & 32767).to(torch.float64)).to(torch.int64)
    whole = high // total
    rest = ((high - whole * total) << 15) + low + total // 2
    return (whole << 15) + rest // total


def attend(
    queries: Rows, keys: Rows, values: torch.Tensor, first_position: int | None, window: int = 0
) -> torch.Tensor:
    """Return each query's average of the values that it sees [heads, n, width].

    Shapes: queries [heads, n, width]; keys and values [kv heads, positions, width], of any integer types;
    query head i reads kv head i // (heads / kv heads). Query m stands at first_position + m and sees the
    positions up to its own, with a window only the last `window` of them; without a first position it sees
    all. Queries are taken a block at a time: the scores of all of them are never held together.

    Implements: MDL-R7, MDL-R15.
    """
    kv_heads, positions, width = keys.values.shape
    count = queries.values.shape[1]
    shared = queries.values.shape[0] // kv_heads
    grouped = queries.values.reshape(kv_heads, shared, count, width)
    exponents = queries.exponent.reshape(kv_heads, shared, count)
    result = torch.empty(grouped.shape, dtype=torch.int64, device=values.device)
    for own in _parts(kv_heads, BLOCK // (positions * width)):
        heads = own.stop - own.start
        for new in _parts(count, max(BLOCK // (positions * shared * heads), ROWS // shared)):
            seen, visible = _sight(new, positions, first_position, window, values.device)
            averages = softmax_average(
                attention_score(
                    Rows(grouped[own, :, new].flatten(1, 2), exponents[own, :, new].flatten(1, 2)),
                    Rows(keys.values[own, seen], keys.exponent[own, seen]),
                ),
                values[own, seen],
                None if visible is None else visible.repeat(shared, 1),
            )
            result[own, :, new] = averages.reshape(heads, shared, -1, width)
    return result.reshape(queries.values.shape)


def _blocks(rows: torch.Tensor) -> Iterator[slice]:
    """Yield the slices of positions [..., positions, width] that are widened at a time."""
    return _parts(rows.shape[-2], BLOCK * rows.shape[-2] // rows.numel())


def _parts(count: int, size: int) -> Iterator[slice]:
    """Yield the slices of at most `size`, at least one, that make up `count`."""
    step = max(size, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _sight(
    new: slice, positions: int, first_position: int | None, window: int, device: torch.device
) -> tuple[slice, torch.Tensor | None]:
    """Return the positions that some query of a block sees, and [block, seen] which sees which, or all."""
    if first_position is None:
        return slice(0, positions), None
    first, last = first_position + new.start, first_position + new.stop - 1
    start = max(0, first - window + 1) if window else 0
    if first == last:
        return slice(start, last + 1), None
    places = torch.arange(start, last + 1, device=device)
    distance = places[first - start :].unsqueeze(-1) - places
    visible = distance >= 0
    return slice(start, last + 1), visible & (distance < window) if window else visible


def rotate(row: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return rows [..., n, width] with pair (i, i + width / 2) of token n turned by row n of the tables.

    Implements: FXP-R11.
    """
    a, b = row.chunk(2, -1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    return torch.cat([round_shift(half, constants.ROPE_FRACTION) for half in turned], -1)
