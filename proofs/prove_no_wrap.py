"""No word between the linear groups, no field product and no float64 sum ever leaves its exact range.

Exact interval arithmetic, split by bit lengths so that the cases are complete; then the reference itself runs
on integers that remember their largest intermediate, and the optimized code on the extremes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise, product
from math import isqrt
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import torch
import z3

from veil_optimized import field as fast_field
from veil_optimized import fixed_point as fast
from veil_optimized import integrity as fast_integrity
from veil_optimized import lwe as fast_lwe
from veil_optimized import tables as fast_tables
from veil_optimized import wide
from veil_optimized.kernels import int8
from veil_reference import fixed_point, lwe, remo, tables
from veil_spec import constants
from veil_spec.architecture import Rotation

WORD: Final = 2**63
"""Every intermediate lies strictly between -2**63 and 2**63."""
FLOAT: Final = 2**53
"""Integers up to here are exact in float64."""
EPSILON: Final = Fraction(1, 2**16), Fraction(1, 2**40)
"""Largest and least epsilon of a norm."""
INT32: Final = 2**31
"""Mantissas, gains and exponents of a model file are 32-bit integers."""


class Wraps(Exception):
    """A range that leaves the words."""


@dataclass(frozen=True, slots=True)
class Range:
    """All integers from low to high; building one beyond the words is refused."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not -WORD < self.low <= self.high < WORD:
            raise Wraps(f"{self.low} to {self.high}")

    def __add__(self, other: "Range | int") -> "Range":
        right = ranged(other)
        return Range(self.low + right.low, self.high + right.high)

    def __sub__(self, other: "Range | int") -> "Range":
        right = ranged(other)
        return Range(self.low - right.high, self.high - right.low)

    def __mul__(self, other: "Range | int") -> "Range":
        right = ranged(other)
        ends = [x * y for x in (self.low, self.high) for y in (right.low, right.high)]
        return Range(min(ends), max(ends))

    def __rshift__(self, bits: int) -> "Range":
        return Range(self.low >> bits, self.high >> bits)

    def __lshift__(self, bits: int) -> "Range":
        return Range(self.low << bits, self.high << bits)

    def __floordiv__(self, other: "Range | int") -> "Range":
        right = ranged(other)
        if right.low <= 0:
            raise Wraps("a divisor that may be 0")
        ends = [x // y for x in (self.low, self.high) for y in (right.low, right.high)]
        return Range(min(ends), max(ends))

    @property
    def reach(self) -> int:
        """Return the largest absolute value."""
        return max(-self.low, self.high)

    def clamped(self, limit: int) -> "Range":
        """Return the range brought into [-limit, limit]."""
        return Range(max(-limit, min(limit, self.low)), max(-limit, min(limit, self.high)))


def ranged(value: Range | int) -> Range:
    """Return an integer as a range."""
    return value if isinstance(value, Range) else Range(value, value)


def within(limit: int) -> Range:
    """Return the range [-limit, limit]."""
    return Range(-limit, limit)


def round_shift(value: Range, shift: int) -> Range:
    """Return the reference's own round_shift of a range."""
    if not 0 <= shift <= constants.SHIFT_LIMIT:
        raise Wraps(f"shift {shift}")
    return cast(Range, fixed_point.round_shift(cast(int, value), shift))


def rescale(value: Range, limit: int) -> Range:
    """Return the union over every shift: right ones stay words, left ones saturate in one step."""
    found = [round_shift(value, shift).clamped(limit) for shift in range(constants.SHIFT_LIMIT + 1)]
    return within(max([limit, *(part.reach for part in found)]))


def quantise(row: Range) -> Range:
    """Return the 16-bit words of a row of that range, over every bit length of its largest word."""
    for bits in range(row.reach.bit_length() + 1):
        words = within(min(row.reach, 2**bits - 1))
        shift = bits - 15
        (round_shift(words, shift) if shift > 0 else words << -shift).clamped(constants.ACTIVATION_LIMIT)
    return within(constants.ACTIVATION_LIMIT)


# FXP-G1, function by function


def added(word: Range, limit: int) -> Range:
    """Return words plus a bias of any 32-bit integer, rescaled."""
    return (word + rescale(within(INT32), limit)).clamped(limit)


def linear(mantissa_bits: int = constants.MANTISSA_BITS) -> Range:
    """Return a group's outputs in fixed point: the product |Y| <= (p - 1) / 2 times a mantissa, rescaled."""
    products = within((constants.PRIMES[-1] - 1) // 2)
    scaled = products * Range(0, 2**mantissa_bits - 1)
    added(rescale(scaled, constants.HIDDEN_LIMIT), constants.HIDDEN_LIMIT)
    return added(rescale(scaled, constants.RESIDUAL_LIMIT), constants.RESIDUAL_LIMIT)


def residual() -> Range:
    """Return the residual stream after an addition; an embedding is a 16-bit word times a mantissa."""
    embedded = rescale(within(2**15) * Range(0, 2**constants.MANTISSA_BITS - 1), constants.RESIDUAL_LIMIT)
    (embedded + embedded + embedded).clamped(constants.RESIDUAL_LIMIT)
    stream = (embedded + linear()).clamped(constants.RESIDUAL_LIMIT)
    quantise(stream)
    return stream


def rms_norm(width: int = constants.WIDTH_LIMIT) -> int:
    """Return the largest word of a norm before quantising, over every bit length of row and energy."""
    found = normalised(constants.RESIDUAL_LIMIT, Range(1, width), constants.NORM_SHIFT_FLOOR, 0)
    largest = max(gained.reach for gained in found)
    quantise(within(largest))
    return largest


def head_norm(width: int = constants.HEAD_WIDTH_LIMIT) -> Range:
    """Return the words of a normalised head."""
    lifted = within(constants.HIDDEN_LIMIT) << constants.RESIDUAL_FRACTION - constants.HIDDEN_FRACTION
    if lifted.reach > constants.RESIDUAL_LIMIT:
        raise Wraps("a head's words leave the residual stream's range")
    found = normalised(lifted.reach, Range(1, width), constants.NORM_SHIFT_FLOOR, 0)
    return rescale(within(max(gained.reach for gained in found)), constants.HIDDEN_LIMIT)


def layer_norm(width: int = constants.WIDTH_LIMIT, floor: int | None = None) -> Range:
    """Return the words of a layer norm, over every bit length of width, row and energy; or another floor."""
    row = within(constants.RESIDUAL_LIMIT)
    centred = row * Range(1, width) - row * Range(1, width)
    largest = 0
    for bits in range(1, width.bit_length() + 1):
        widths = Range(1 << bits - 1, min((1 << bits) - 1, width))
        least = bits + constants.NORM_SHIFT_FLOOR if floor is None else floor
        found = normalised(centred.reach, widths, least, 2)
        largest = max(largest, *(gained.reach for gained in found))
    return added(rescale(within(largest), constants.RESIDUAL_LIMIT), constants.RESIDUAL_LIMIT)


def normalised(reach: int, widths: Range, floor: int, power: int) -> Iterator[Range]:
    """Yield the words times gains for every bit length of a row within `reach`, and of its energy."""
    for bits in range(reach.bit_length() + 1):
        shift = max(bits - constants.NORM_BITS, floor)
        peak = Range(2**bits >> 1, 2**bits - 1)
        scaled = round_shift(peak, shift).clamped(1 << constants.NORM_BITS) if shift > 0 else peak << -shift
        yield from gained_by_energy(scaled, epsilon_term(shift, widths, power), widths)


def epsilon_term(shift: int, widths: Range, power: int) -> Range:
    """Return epsilon times a power of the width, in the units of a squared row that was shifted."""
    ends = []
    for epsilon, width in zip(EPSILON, (widths.high, widths.low), strict=True):
        units = Range(0, fixed_point._epsilon_units(epsilon) * width**power)
        ends.append(fixed_point._shifted(units.high, 2 * shift))
    return Range(min(ends), max(ends))


def gained_by_energy(peak: Range, epsilon: Range, widths: Range) -> Iterator[Range]:
    """Yield the words times gains for each bit length of the energy, with |u| <= sqrt(energy) in each."""
    energy = Range(0, peak.high**2) * widths + epsilon * widths
    lowest = max(1, peak.low**2 + epsilon.low)
    for length in range(lowest.bit_length(), energy.high.bit_length() + 1):
        lift = (62 - length) >> 1
        if lift < 0:
            raise Wraps("the energy does not fit 62 bits")
        case = Range(max(lowest, 1 << length - 1), min(energy.high, (1 << length) - 1))
        lifted = case << 2 * lift
        root = Range(isqrt(lifted.low), isqrt(lifted.high))
        inverse = (Range(isqrt(widths.low << 44), isqrt(widths.high << 44)) << 34) // root
        word = within(min(peak.high, isqrt(case.high)))
        normal = round_shift(word * inverse, 56 - constants.NORM_FRACTION - lift)
        yield normal * within(INT32)


def rotated() -> Range:
    """Return the words of a rotated head."""
    table = within(1 << constants.ROPE_FRACTION)
    head = within(constants.HIDDEN_LIMIT)
    words = round_shift(head * table + head * table, constants.ROPE_FRACTION)
    round_shift(head * table - head * table, constants.ROPE_FRACTION)
    quantise(words)
    return words


def attention_score(head_width: int) -> Range:
    """Return a score of a head of that width."""
    word = within(constants.ACTIVATION_LIMIT)
    return rescale(word * word * head_width * tables.score_factor(head_width), constants.ATTENTION_LIMIT)


def exp2(exponent: Range) -> Range:
    """Return exp2 over the two tables, for every whole part up to the shift limit."""
    coarse, fine = tables.exp2_digits()
    Range(0, 0) - exponent
    entries = Range(min(coarse), max(coarse)) * Range(min(fine), max(fine))
    parts = [
        round_shift(entries, shift) for shift in range(constants.EXP2_FRACTION, constants.SHIFT_LIMIT + 1)
    ]
    return Range(0, max(part.high for part in parts))


HALF_SUM: Final = 2**50
"""No sum of FXP-R10 by halves is larger."""


def softmax_average(context: int = constants.CONTEXT_LIMIT) -> Range:
    """Return an average of value words over a context, by halves of 15 bits."""
    scores, value = within(constants.ATTENTION_LIMIT), within(constants.HIDDEN_LIMIT)
    weight = round_shift(exp2(scores - scores), constants.EXP2_FRACTION - constants.WEIGHT_FRACTION)
    peak = 1 << constants.WEIGHT_FRACTION
    total = weight * Range(0, context - 1) + peak
    high, low = (half * weight * context for half in (value >> 15, Range(0, 2**15 - 1)))
    if max(high.reach, low.reach) > HALF_SUM:
        raise Wraps("a sum of halves")
    rest = Range(0, total.high - 1)
    average = (high // total << 15) + ((rest << 15) + low + total // 2) // total
    quantise(within(constants.HIDDEN_LIMIT))
    return average


def decayed(shift: int) -> Range:
    """Return exp2 of a scaled hidden word."""
    return exp2(Range(0, 0) - round_shift(Range(0, constants.HIDDEN_LIMIT) * tables.log2e(), shift))


def mlp() -> Range:
    """Return silu(gate) times up; the sigmoid is at most 1, as its numerator is at most 2**30."""
    one, decay = 1 << constants.EXP2_FRACTION, decayed(32)
    quotient = (Range(0, one) << constants.EXP2_FRACTION) // (decay + one)
    sigmoid = Range(0, min(quotient.high, one))
    gated = round_shift(within(constants.HIDDEN_LIMIT) * sigmoid, constants.EXP2_FRACTION)
    result = gated * within(constants.HIDDEN_LIMIT)
    quantise(result)
    return result


def gelu(limit: int = constants.CDF_LIMIT) -> Range:
    """Return gelu, with a table up to a limit."""
    size = Range(0, (limit << constants.HIDDEN_FRACTION) - 1)
    fine = constants.HIDDEN_FRACTION - constants.CDF_STEP_FRACTION
    entry = Range(min(tables.normal_tail()), max(tables.normal_tail()))
    share = entry * Range(1, 1 << fine) + entry * Range(0, (1 << fine) - 1)
    result = Range(0, constants.HIDDEN_LIMIT) - round_shift(size * share, constants.EXP2_FRACTION + fine)
    quantise(result)
    return result


def tanh(fraction: int = constants.TANH_FRACTION) -> Range:
    """Return tanh with some fractional bits."""
    one, decay = 1 << constants.EXP2_FRACTION, decayed(31)
    size = (Range(max(0, one - decay.high), one - decay.low) << fraction) // (decay + one)
    result = within(size.high)
    quantise(result)
    return result


def sentence(context: int = constants.CONTEXT_LIMIT) -> Range:
    """Return a column's average over the positions of a sequence."""
    return (within(constants.RESIDUAL_LIMIT) * context + context // 2) // Range(1, context)


def sampling(temperature: int = constants.TEMPERATURE_LIMIT) -> Range:
    """Return the sum of a row's weights under the lowest temperature, 1 / temperature."""
    factor = -(-tables.log2e() * temperature >> constants.LOG2E_FRACTION - constants.SAMPLING_FRACTION)
    distance = within(constants.HIDDEN_LIMIT) - within(constants.HIDDEN_LIMIT)
    scaled = round_shift(Range(0, distance.high) * factor, 26)
    return exp2(Range(0, 0) - scaled) * constants.VOCABULARY_LIMIT


@pytest.mark.requirement("FXP-G1")
def test_no_intermediate_word_leaves_63_bits() -> None:
    """Every intermediate of every function lies strictly between -2**63 and 2**63.

    Given: the limits of constants.py; all shifts, all bit lengths of a row and of its energy, all head widths
    (by machine: exact intervals; each operation refuses to build a larger word). A left shift counts together
    with the saturation that follows it: the bare shift of FXP-R2 has no bound. Gains and biases may be any
    32-bit integers. The sums of FXP-R10 are taken by halves. The draw of MDL-R21 has longer words.
    Then: 64-bit signed words hold every result, and each division has a positive divisor.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_reference.fixed_point.rescale 86e766f0.
    Pins: veil_reference.fixed_point.quantise b9df0d8a.
    Pins: veil_reference.fixed_point._normal e6de7d81.
    Pins: veil_reference.fixed_point._epsilon_units 6504cdd9.
    Pins: veil_reference.fixed_point._shifted cd7cb79f.
    Pins: veil_reference.fixed_point._gained a510ac97.
    Pins: veil_reference.fixed_point.rms_norm e5afdff5.
    Pins: veil_reference.fixed_point.head_norm 1e0772f4.
    Pins: veil_reference.fixed_point.layer_norm 9e9fba0f.
    Pins: veil_reference.fixed_point.added e02a2ed1.
    Pins: veil_reference.fixed_point.attention_score 37051bd7.
    Pins: veil_reference.fixed_point.softmax_average 3f75778c.
    Pins: veil_reference.fixed_point.rotate b5dfe078.
    Pins: veil_reference.fixed_point.silu 37e37a07.
    Pins: veil_reference.fixed_point.gelu 680675a1.
    Pins: veil_reference.fixed_point.tanh 7e7e1336.
    Pins: veil_reference.model.Model.linear fea432e6.
    Pins: veil_reference.model.Model.look_up 14fa89e6.
    Pins: veil_reference.model.Model.residual 70a14420.
    Pins: veil_reference.decoder.Decoder.mlp 3de82d5c.
    Pins: veil_reference.encoder.sentence 69312353.
    """
    assert residual().reach == linear().reach == constants.RESIDUAL_LIMIT
    assert rms_norm() < 2**62
    assert head_norm().reach == constants.HIDDEN_LIMIT
    assert layer_norm().reach == constants.RESIDUAL_LIMIT
    assert rotated().reach < 2**32
    widths = range(2, constants.HEAD_WIDTH_LIMIT + 1, 2)
    assert max(attention_score(width).reach for width in widths) == constants.ATTENTION_LIMIT
    assert softmax_average().reach < 2**48
    assert mlp().reach < 2**60
    assert gelu().reach < 2**60
    assert tanh().reach == 2**constants.TANH_FRACTION
    assert sentence().reach < WORD
    assert sampling().reach < 2**48


@pytest.mark.requirement("FXP-G1")
def test_a_softmax_average_by_halves_is_the_softmax_average() -> None:
    """2**15 floor(H / S) + floor((2**15 (H mod S) + L + c) / S) is floor((2**15 H + L + c) / S).

    Given: H = A + r with A = q S and 0 <= r < S, and B = t S with B <= 2**15 r + L + c < B + S, for all
    integers (by machine: z3, linear in A and B, as S (2**15 q + t) = 2**15 A + B).
    Then: the long sum of FXP-R10 need not be formed; the reference forms it and gives the same words at the
    longest context (checked: equal weights, all values at either limit).
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_reference.fixed_point.softmax_average 3f75778c.
    """
    assert halves_join(0)
    context, limit = constants.CONTEXT_LIMIT, constants.HIDDEN_LIMIT
    for value in (limit, -limit):
        exact = fixed_point.softmax_average([0] * context, [[value]] * context)
        found = fast.softmax_average(
            torch.zeros(1, context, dtype=torch.int64), torch.full((context, 1), value)
        )
        assert exact == found[0].tolist() == [value]


def halves_join(error: int) -> bool:
    """Return whether z3 finds the column by halves right, if the rest of the first division has an error."""
    a, r, b, low, half, total = z3.Ints("a r b low half total")
    given = z3.And(total > 0, r >= 0, r < total, b <= 2**15 * (r + error) + low + half)
    upper = 2**15 * (r + error) + low + half < b + total
    whole = 2**15 * (a + r) + low + half
    joined = 2**15 * a + b
    return always(z3.Implies(z3.And(given, upper), z3.And(joined <= whole, whole < joined + total)))


@pytest.mark.requirement("FXP-G1")
def test_limb_products_of_rotations_stay_inside_the_word() -> None:
    """A block of RoPE entries is computed from words of 58 bits in limbs of 29: sums stay below 2**61.

    Given: cosines and sines within 1 (by machine: exact intervals). Words are rounded down, so a product errs
    by less than the four factors, at most 2 sqrt(2) in sum, plus 1 for the lowest limbs and 1 for the middle
    sum (argued).
    Then: int64 holds every limb sum, and entries nearer than 8 units to a tie are those that need more bits.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_optimized.tables._turned_limbs 0d14f2a2.
    Pins: veil_optimized.tables._product 1929113d.
    Pins: veil_optimized.tables._block eec39a59.
    """
    bits = fast_tables.LIMB_BITS
    assert 2 * bits == fast_tables.COARSE_BITS
    word = within((1 << 2 * bits) + 1)
    high, low = word >> bits, Range(0, (1 << bits) - 1)
    middle = high * low + low * high
    turned = (high * high + high * high) + ((middle + middle) >> bits)
    assert max(turned.reach, (middle + middle).reach) < 2**61
    assert 2**2 * 2 < 3**2 and fast_tables.DOUBT > 3 + 2


def entries_right() -> bool:
    """Return whether each entry of the last block is the one that the exact rotation rounds to."""
    last, width = constants.CONTEXT_LIMIT // fast_tables.BLOCK - 1, 4
    fast_tables._block.cache_clear()
    block = fast_tables._block(last, width, ROTATION).tolist()
    fast_tables._block.cache_clear()
    for pair, place in product(range(width // 2), range(fast_tables.BLOCK)):
        step = fast_tables._step(pair, width, ROTATION)
        exact = fast_tables._repeated(step, last * fast_tables.BLOCK + place)
        if [part[place][pair] for part in block] != [fast_tables._round(word) for word in exact]:
            return False
    return True


@pytest.mark.requirement("FXP-G1")
def test_entries_near_a_tie_are_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of the longest context is right, also where entries count as doubtful.

    Given: every entry of two pairs against the rotation with 160 fractional bits; then 1 entry in 2 doubtful
    (checked).
    Then: neither the limb products nor the second computation changes an entry.
    Assuming: nothing.
    Proves: FXP-G1.
    """
    assert entries_right()
    monkeypatch.setattr(fast_tables, "DOUBT", 1 << 26)
    assert entries_right()


def test_negative_control_a_lost_middle_limb_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are wrong without the middle limb products.

    Controls: FXP-G1.
    """
    exact = fast_tables._product
    lost = torch.tensor([1, 0]).view(2, 1, 1)
    monkeypatch.setattr(fast_tables, "_product", lambda left, right: exact(left, right) * lost)
    assert not entries_right()


# The reference itself, with integers that remember


@dataclass(slots=True)
class Peak:
    """The largest absolute intermediate so far."""

    value: int = 0


class Tracked(int):
    """An integer whose sums, products and shifts are tracked too and noted in a shared peak."""

    peak: Peak

    def __new__(cls, value: int, peak: Peak) -> "Tracked":
        """Return a tracked integer, noted."""
        made = super().__new__(cls, value)
        made.peak = peak
        peak.value = max(peak.value, abs(value))
        return made

    def _made(self, value: int) -> "Tracked":
        return Tracked(value, self.peak)

    def __add__(self, other: int) -> "Tracked":
        return self._made(int(self) + int(other))

    __radd__ = __add__

    def __sub__(self, other: int) -> "Tracked":
        return self._made(int(self) - int(other))

    def __neg__(self) -> "Tracked":
        return self._made(-int(self))

    def __abs__(self) -> "Tracked":
        return self._made(abs(int(self)))

    def __mul__(self, other: int) -> "Tracked":
        return self._made(int(self) * int(other))

    __rmul__ = __mul__

    def __rshift__(self, bits: int) -> "Tracked":
        return self._made(int(self) >> bits)

    def __lshift__(self, bits: int) -> "Tracked":
        return self._made(int(self) << bits)

    def __floordiv__(self, other: int) -> "Tracked":
        return self._made(int(self) // int(other))


Row = Sequence[int]
Run = Callable[[Row], object]
ROTATION: Final = Rotation(Fraction(10000))


def rows(limit: int, width: int, random: Random) -> Iterator[list[int]]:
    """Yield the extremes of a row, each power of two, and random rows of every bit length."""
    for bits in range(limit.bit_length() + 1):
        top = min(limit, 2**bits - 1)
        yield [top] * width
        yield [-top] * width
        yield [random.randint(-top, top) for _ in range(width)]


def peak_of(run: Run, row: Row) -> int:
    """Return the largest intermediate of a run of the reference on one row."""
    peak = Peak()
    run([Tracked(word, peak) for word in row])
    return peak.value


def norm_runs() -> list[Run]:
    """Return rms_norm with the largest gains, at both ends of epsilon."""
    return [
        lambda row, epsilon=epsilon: fixed_point.rms_norm(row, [INT32 - 1] * len(row), 0, epsilon)  # type: ignore[misc]
        for epsilon in EPSILON
    ]


def layer_norm_runs() -> list[Run]:
    """Return layer_norm with the largest gains and biases, at both ends of epsilon."""
    return [
        lambda row, epsilon=epsilon: fixed_point.layer_norm(  # type: ignore[misc]
            row, [INT32 - 1] * len(row), 0, [INT32 - 1] * len(row), 0, epsilon
        )
        for epsilon in EPSILON
    ]


def reference_runs() -> Iterator[tuple[Run, list[list[int]]]]:
    """Yield each function with the rows to run it on."""
    random = Random(1)
    for run in [*norm_runs(), *layer_norm_runs()]:
        yield run, list(rows(constants.RESIDUAL_LIMIT, 8, random))
    largest = [INT32 - 1] * 4
    yield (
        lambda row: fixed_point.head_norm(row, largest, 0, EPSILON[0]),
        list(rows(constants.HIDDEN_LIMIT, 4, random)),
    )
    yield lambda row: fixed_point.quantise(row, 36), list(rows(2**62, 3, random))
    for function in (fixed_point.silu, fixed_point.gelu, fixed_point.tanh):
        yield (
            lambda row, function=function: [function(word) for word in row],  # type: ignore[misc]
            list(rows(constants.HIDDEN_LIMIT, 3, random)),
        )
    yield lambda row: fixed_point.rotate(row, 5, ROTATION), list(rows(constants.HIDDEN_LIMIT, 4, random))
    limit = constants.HIDDEN_LIMIT
    scores = [0, -1, constants.ATTENTION_LIMIT, -constants.ATTENTION_LIMIT]
    yield (
        lambda row: fixed_point.softmax_average(scores, [[word] for word in row]),
        list(rows(limit, 4, random)),
    )


@pytest.mark.requirement("FXP-G1")
def test_the_reference_stays_below_the_proved_bounds_on_its_extremes() -> None:
    """The largest intermediate of the running reference is a word too.

    Given: rows of every bit length, at their extremes and at random (checked, not proved).
    Then: no step of the reference was forgotten in the ranges above.
    Assuming: nothing.
    Proves: FXP-G1.
    """
    for run, inputs in reference_runs():
        assert 2**30 < max(peak_of(run, row) for row in inputs) < WORD


@pytest.mark.requirement("FXP-G1")
def test_the_widest_norm_needs_all_62_bits_and_no_more() -> None:
    """At width 8192, epsilon 2**-16 and words of 65535 the energy is just below 2**62.

    Given: the worst row of the proof (by machine: the reference on it).
    Then: the bound is nearly met, and the norm still works.
    Assuming: nothing.
    Proves: FXP-G1.
    """
    row, gains = [65535] * constants.WIDTH_LIMIT, [1] * constants.WIDTH_LIMIT
    run: Run = lambda words: fixed_point.rms_norm(words, gains, 0, EPSILON[0])  # noqa: E731
    assert 2**62 - 2**47 < peak_of(run, row) < 2**63


# The optimized code: float64 sums and int64 words


def largest_limb_sum(right_bits: int, inner: int) -> int:
    """Return the largest float64 sum of veil_optimized.field._add_sums."""
    block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
    largest: int = min(block, inner) * (2**fast_field.LEFT_BITS - 1) * (2**right_bits - 1)
    return largest


@pytest.mark.requirement("RMO-G4")
def test_every_float64_sum_of_a_field_product_is_exact() -> None:
    """Limb products and their int64 sums stay inside 2**53 and 2**62.

    Given: 48-bit elements in two 24-bit limbs, against 16-bit weights or three 16-bit limbs, inner dimensions
    up to the vocabulary; in a check's relation both limbs against an inner dimension and the vocabulary,
    added up together (by machine: exact integers from the code's own constants).
    Then: the products that unmasking and checks rely on are exact.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_optimized.field.product 22beac2e.
    Pins: veil_optimized.field._add_sums 362a981e.
    Pins: veil_optimized.field.multiply 50da8408.
    Pins: veil_optimized.field.combine 5dc276d1.
    Pins: veil_optimized.field.vanishes b7964561.
    """
    largest = constants.PRIMES[-1]
    assert largest < 2 ** (2 * fast_field.LEFT_BITS) and largest < 2 ** (3 * fast_field.FIELD_LIMB_BITS)
    assert constants.WEIGHT_LIMIT < 2**fast_field.WEIGHT_BITS
    for right_bits in (fast_field.WEIGHT_BITS, fast_field.FIELD_LIMB_BITS):
        assert largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < FLOAT
        block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
        Range(0, largest) * (constants.VOCABULARY_LIMIT // block + 1)
        assert constants.VOCABULARY_LIMIT * (2**fast_field.LEFT_BITS - 1) * (2**right_bits - 1) < 2**58
    related = 2 * (constants.INNER_LIMIT + constants.VOCABULARY_LIMIT)
    assert related * (2**fast_field.LEFT_BITS - 1) * (2**fast_field.FIELD_LIMB_BITS - 1) < 2**60


def places(right_limbs: int, right_bits: int) -> list[int]:
    """Return where the sums of two left limbs lie that `recombined` joins, the highest first."""
    both = product(range(2), range(right_limbs))
    return sorted((i * fast_field.LEFT_BITS + j * right_bits for i, j in both), reverse=True)


@pytest.mark.requirement("RMO-G4")
def test_a_shift_in_a_small_field_is_congruent_and_leaves_room() -> None:
    """shifted(a, n) = a 2**n mod p and below 2**58: with a sum below 2**60 it can be shifted again.

    Given: every n from 0 to 24, words a = high 2**(w - n) + low of less than 62 bits, p = 2**w - c (by
    machine: z3 through the code itself; exact intervals): a 2**n = high 2**w + low 2**n, and
    high 2**w = high c + high p. No two places that are joined lie further apart.
    Then: sums of limb products find their places without a division, and without a word of 63 bits.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_optimized.field.shifted 25b41bba.
    Pins: veil_optimized.field.recombined de6c61f4.
    Pins: veil_optimized.field.aligned 20eac818.
    """
    a = z3.BitVec("a", 64)
    for modulus, bits in product(constants.PRIMES, range(fast_field.LEFT_BITS + 1)):
        width = modulus.bit_length()
        room, c = width - bits, 2**width - modulus
        high, low = a >> room, a & (2**room - 1)
        assert always(signed(a) << bits == (signed(high) << width) + (signed(low) << bits))
        assert fast_field.shifted(cast(Any, a), bits, modulus).eq((low << bits) + high * c)
        assert ((within(2**62) >> room) * c + Range(0, 2**width)).reach < 2**58
    for right_limbs, right_bits in ((1, fast_field.WEIGHT_BITS), (3, fast_field.FIELD_LIMB_BITS)):
        joined = places(right_limbs, right_bits)
        gaps = [above - below for above, below in pairwise(joined)]
        assert max(gaps) <= fast_field.LEFT_BITS
    assert 2**58 + 2**60 < 2**62


@pytest.mark.requirement("RMO-G4")
def test_every_sum_of_bytes_is_exact() -> None:
    """Products of bytes add up below 2**31, and the limbs that are joined in 64 bits stay below 2**62.

    Given: limbs of 8 bits, weights of 8 bits with sign or halves of 16, the longest inner dimension of a
    group, fields of up to five limbs joined at once, or three at a time (by machine: exact integers from the
    code's own constants).
    Then: torch's products of bytes are exact, and what is left is one reduction.
    Assuming: torch._int_mm adds up exactly below 2**31, which a process asks before it uses it.
    Proves: RMO-G4.
    Pins: veil_optimized.kernels.int8.Int8.multiply f60d870f.
    Pins: veil_optimized.kernels.int8._joined 918e05ee.
    Pins: veil_optimized.kernels.int8._sums 76e0160c.
    """
    limb = 2**int8.LIMB_BITS - 1
    short = constants.INNER_LIMIT * limb * 2**7
    assert short < 2**29
    for sum_, count, room in (
        (short, int8.ALONE, 2**62),
        (short * (1 + 2**int8.LIMB_BITS), int8.JOINED, 2**58),
    ):
        assert sum(sum_ << n * int8.LIMB_BITS for n in range(count)) < room
    assert int8.JOINED * int8.LIMB_BITS == fast_field.LEFT_BITS
    assert constants.WEIGHT_LIMIT < 2**15 and int8.SIGN == 2**15


@pytest.mark.requirement("RMO-G4")
def test_every_float64_sum_of_the_plain_model_is_exact() -> None:
    """Plain products, attention scores and halves of softmax averages stay below 2**53.

    Given: the limits of constants.py (by machine: exact integers).
    Then: float64 is an integer engine there, in any order of summation: every partial sum is below the bound
    too.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_optimized.fixed_point.softmax_average 49e9b5df.
    Pins: veil_optimized.fixed_point.attention_score fe495043.
    Pins: veil_optimized.kernels.portable.Portable.exact 844f24c4.
    Pins: veil_optimized.remo.choose_modulus c588fe67.
    """
    assert (constants.PRIMES[-1] - 1) // 2 < FLOAT
    assert constants.HEAD_WIDTH_LIMIT * constants.ACTIVATION_LIMIT**2 < FLOAT
    high = max(-(-constants.HIDDEN_LIMIT >> 15), constants.HIDDEN_LIMIT >> 15)
    assert constants.CONTEXT_LIMIT * 2**constants.WEIGHT_FRACTION * max(high, 32767) < FLOAT
    assert constants.INNER_LIMIT * 2**15 < FLOAT


@pytest.mark.requirement("RMO-G4")
def test_field_products_of_the_largest_operands_are_exact() -> None:
    """The optimized product of all p - 1 with the largest operands equals plain integers.

    Given: the longest inner dimension of a group, and one block more than the limbs admit (checked, at the
    extremes).
    Then: the bounds above are those of the code that runs.
    Assuming: nothing.
    Proves: RMO-G4.
    """
    for modulus, inner in product(constants.PRIMES, (constants.INNER_LIMIT, constants.INNER_LIMIT + 1)):
        left = torch.full((1, inner), modulus - 1, dtype=torch.int64)
        weights = torch.full((1, inner), -constants.WEIGHT_LIMIT, dtype=torch.int16)
        assert int(fast_field.multiply(left, weights, modulus)) == inner * constants.WEIGHT_LIMIT % modulus
        assert int(fast_field.product(left, fast_field.field_operand(left), modulus)) == inner % modulus
        assert (
            int(fast_integrity.check_key(weights.T, left, modulus)[0, 0])
            == inner * constants.WEIGHT_LIMIT % modulus
        )


@pytest.mark.requirement("FXP-G1")
def test_the_optimized_functions_equal_the_reference_on_the_extremes() -> None:
    """int64 tensors give the words of unbounded integers where words are largest.

    Given: rows of every bit length up to the limits, the widest norm, and shifts of either sign (checked).
    Then: nothing wraps in the code that runs.
    Assuming: nothing.
    Proves: FXP-G1.
    """
    random = Random(2)
    for row in rows(2**62 - 1, 3, random):
        exact, found = fixed_point.quantise(row, 36), fast.quantise(torch.tensor(row), 36)
        assert (exact.values, exact.exponent) == (tuple(found.values.tolist()), int(found.exponent))
    words = [2**62 - 1, 1 - 2**62, 2**30, -1, 1, 0]
    for shift in (-(2**31), -63, -62, -40, -1, 0, 1, 47, 62, 63, 2**31):
        bounded = [fixed_point.rescale(word, max(shift, -128), constants.ATTENTION_LIMIT) for word in words]
        for given in (shift, torch.tensor(shift)):
            assert fast.rescale(torch.tensor(words), given, constants.ATTENTION_LIMIT).tolist() == bounded
    for row in [
        [65535] * constants.WIDTH_LIMIT,
        [2**46 - 1] * constants.WIDTH_LIMIT,
        *rows(2**46 - 1, 5, random),
    ]:
        assert norms_agree(row)
    for row in rows(constants.HIDDEN_LIMIT, 3, random):
        for name in ("silu", "gelu", "tanh"):
            exact_words = [getattr(fixed_point, name)(word) for word in row]
            assert getattr(fast, name)(torch.tensor(row)).tolist() == exact_words
    unseen = torch.tensor([fast.UNSEEN - constants.ATTENTION_LIMIT, fast.UNSEEN + constants.ATTENTION_LIMIT])
    assert fast.exp2(unseen).tolist() == [0, 0]


def norms_agree(row: list[int]) -> bool:
    """Return whether all norms of a row with large gains agree at both ends of epsilon."""
    gains = [INT32 - 1 - i % 3 for i in range(len(row))]
    half = [*row[::2], *(-word for word in row[1::2])]
    hidden = [word >> 16 for word in row]
    scale = torch.tensor(gains)
    for epsilon in EPSILON:
        exact = fixed_point.rms_norm(row, gains, 3, epsilon)
        found = fast.rms_norm(torch.tensor([row]), scale, 3, epsilon)
        words = fixed_point.layer_norm(half, gains, 3, gains, 40, epsilon)
        same = [
            (list(exact.values), exact.exponent) == (found.values[0].tolist(), int(found.exponent)),
            words == fast.layer_norm(torch.tensor([half]), scale, 3, scale, 40, epsilon)[0].tolist(),
            fixed_point.head_norm(hidden, gains, 3, epsilon)
            == fast.head_norm(torch.tensor([hidden]), scale, 3, epsilon)[0].tolist(),
        ]
        if not all(same):
            return False
    return True


@pytest.mark.requirement("FXP-G1")
def test_attention_in_blocks_gives_the_words_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of queries and of heads, grouped heads, windows and narrow caches change no word.

    Given: 6 heads that read 2, 9 positions of extreme words, blocks of 1, 40 and 2**18 words, windows of 0,
    1, 4 and 20, one new position, some, or all, seen by all or by later ones (checked).
    Then: a long prompt gets the words of one that fits into a block.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_optimized.fixed_point.attend 71ae4701.
    """
    random = Random(4)
    for block, window, (first, count) in product((1, 40, 2**18), (0, 1, 4, 20), ((8, 1), (5, 4), (0, 9))):
        monkeypatch.setattr(fast, "BLOCK", block)
        monkeypatch.setattr(fast, "ROWS", min(block, fast.ROWS))
        assert attention_agrees(random, 6, count, first, window, window)
        assert attention_agrees(random, 6, count, None, 0, 0)


def test_negative_control_another_window_is_noticed() -> None:
    """The same comparison fails if the reference's window is one position longer.

    Controls: FXP-G1.
    """
    assert not attention_agrees(Random(5), 6, 9, 0, 4, 5)


def attention_agrees(
    random: Random, heads: int, count: int, first: int | None, window: int, expected_window: int
) -> bool:
    """Return whether `attend` gives the reference's words for 9 positions of extreme words."""
    positions, width, kv_heads = 9, 4, 2
    queries, keys, values = (
        [[extreme_row(random, width) for _ in range(many)] for _ in range(group)]
        for group, many in ((heads, count), (kv_heads, positions), (kv_heads, positions))
    )
    placed, cached = (fast.quantise(torch.tensor(group), 18) for group in (queries, keys))
    narrow = fast.Rows(cached.values.to(torch.int16), cached.exponent)
    found = fast.attend(placed, narrow, torch.tensor(values, dtype=torch.int32), first, window).tolist()
    for head, place in product(range(heads), range(count)):
        own = head // (heads // kv_heads)
        end = positions if first is None else first + place + 1
        start = max(0, end - expected_window) if expected_window else 0
        query = fixed_point.quantise(queries[head][place], 18)
        scores = [
            fixed_point.attention_score(query, fixed_point.quantise(key, 18)) for key in keys[own][start:end]
        ]
        if found[head][place] != fixed_point.softmax_average(scores, values[own][start:end]):
            return False
    return True


def extreme_row(random: Random, width: int) -> list[int]:
    """Return words of some bit length, or the largest ones."""
    limit = min(constants.HIDDEN_LIMIT, 2 ** random.randrange(12, 31))
    return [random.choice((limit, -limit, random.randint(-limit, limit))) for _ in range(width)]


@pytest.mark.requirement("FXP-G1")
def test_square_roots_from_float64_are_corrected_and_bit_lengths_are_counted() -> None:
    """The optimized integer_sqrt and bit_length are exact around squares and powers of two.

    Given: the float64 root errs by less than 1 below 2**62 (argued: relative error 2**-52 of a root below
    2**31); a value has as many bits as powers of two are not above it (argued); neighbours of squares and of
    powers of two (checked).
    Then: the two corrections give the floor, and the count is the bit length.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_optimized.fixed_point.integer_sqrt 65837482.
    Pins: veil_optimized.fixed_point.bit_length eef04d31.
    """
    roots = [1, 2, 3, 2**20, 2**26 + 1, 2**31 - 1, *(Random(3).randrange(2**25, 2**31) for _ in range(2000))]
    squares = [root * root + d for root in roots for d in (-1, 0, 1)]
    assert fast.integer_sqrt(torch.tensor(squares)).tolist() == [isqrt(value) for value in squares]
    powers = [2**k + d for k in range(64) for d in (-1, 0, 1) if 2**k + d < 2**63]
    assert fast.bit_length(torch.tensor(powers)).tolist() == [value.bit_length() for value in powers]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A limit raised beyond what the proof admits, and the step that must then refuse."""

    name: str
    run: Callable[[], object] = field(repr=False)


TOO_LARGE = [
    TooLarge("a mantissa of 17 bits", lambda: linear(17)),
    TooLarge("a mantissa of 32 bits, as a model file may hold", lambda: linear(32)),
    TooLarge("a row of 2**14 words", lambda: rms_norm(2 * constants.WIDTH_LIMIT)),
    TooLarge("a context of 2**18", lambda: softmax_average(2 * constants.CONTEXT_LIMIT)),
    TooLarge("a layer norm of 2**14 words", lambda: layer_norm(2 * constants.WIDTH_LIMIT)),
    TooLarge(
        "a layer norm whose floor forgets the width", lambda: layer_norm(floor=constants.NORM_SHIFT_FLOOR)
    ),
    TooLarge("a normalised head of 2**14 words", lambda: head_norm(2 * constants.WIDTH_LIMIT)),
    TooLarge("a bias beside words of 2**62", lambda: added(within(2**62), 2**62)),
    TooLarge("a table of the normal distribution up to 128", lambda: gelu(128)),
    TooLarge("a tanh of 33 fractional bits", lambda: tanh(33)),
    TooLarge("a sentence of 2**18 positions", lambda: sentence(2 * constants.CONTEXT_LIMIT)),
    TooLarge("a temperature of 1/256", lambda: sampling(4 * constants.TEMPERATURE_LIMIT)),
    TooLarge("a head of 2048", lambda: attention_score(8 * constants.HEAD_WIDTH_LIMIT)),
    TooLarge("a row to quantise of 2**63", lambda: quantise(within(2**63))),
    TooLarge("a shift of 63", lambda: round_shift(within(1), 63)),
]


@pytest.mark.parametrize("case", TOO_LARGE, ids=lambda case: case.name)
def test_negative_control_a_larger_limit_is_noticed(case: TooLarge) -> None:
    """The same ranges refuse a limit that is a few bits too large.

    Controls: FXP-G1.
    """
    with pytest.raises(Wraps):
        case.run()


def test_negative_control_a_wrong_rest_of_the_first_division_is_noticed() -> None:
    """The column by halves is not the average if the rest is off by one.

    Controls: FXP-G1.
    """
    assert not halves_join(1)


def test_negative_control_a_longer_block_or_a_larger_weight_is_noticed() -> None:
    """The same bounds reject weights of 16 bits in blocks cut for 15, and a group that RMO-R2 would refuse.

    Controls: RMO-G4.
    """
    wide = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - fast_field.WEIGHT_BITS)
    assert wide * (2**fast_field.LEFT_BITS - 1) * (2**16 - 1) > FLOAT
    with pytest.raises(Wraps):
        (within(2**62) >> 1) * 5  # a shift by 31 bits of 32, whose c is 5
    assert constants.INNER_LIMIT * 255 * 128 << int8.ALONE * int8.LIMB_BITS > 2**62
    fitting = (constants.PRIMES[0] - 1) // 2 // (constants.ACTIVATION_LIMIT + 1)
    assert remo.choose_modulus([[32639] * (fitting // 32639 + 1)]) > constants.PRIMES[0]


# Profile `lwe`: the words of F_q, and its kernels

Q: Final = constants.LWE_MODULUS
LONG: Final = 140
"""Bits in which nothing below can wrap."""


@pytest.fixture
def symbolic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code of veil_optimized.wide run on 64-bit words of z3 in the place of int64 tensors."""
    monkeypatch.setattr(wide, "torch", SimpleNamespace(where=z3.If))


def always(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation."""
    solver = z3.Solver()
    solver.set("timeout", 60000)
    solver.add(z3.Not(claim))
    return bool(solver.check() == z3.unsat)


def unsigned(word: Any) -> Any:
    """Return the unsigned word as a long one."""
    return z3.ZeroExt(LONG - 64, word)


def signed(word: Any) -> Any:
    """Return the signed word as a long one."""
    return z3.SignExt(LONG - 64, word)


def element(word: Any) -> z3.BoolRef:
    """Return whether a word is below q."""
    return z3.ULT(word, z3.BitVecVal(Q, 64))


def is_congruent(word: Any, value: Any, most: int) -> z3.BoolRef:
    """Return whether a word is an element that differs from a long value by 0, q, ... or most times q."""
    return z3.And(element(word), z3.Or(*(unsigned(word) + k * Q == value for k in range(-1, most + 1))))


@pytest.mark.requirement("RMO-G7")
def test_words_of_f_q_add_subtract_and_centre_exactly(symbolic: None) -> None:
    """Sums, differences, lifts and signed sums are right mod q for all words, although int64 wraps.

    Given: all elements a and b below q, all signed words (by machine: z3 on 64-bit words, through the code
    itself).
    Then: 2**64 = 59 mod q brings back every carry.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_optimized.wide.add 5a4d8fc3.
    Pins: veil_optimized.wide.subtract b14f2c84.
    Pins: veil_optimized.wide.centred 082cb7ac.
    Pins: veil_optimized.wide.from_signed fef5e96f.
    """
    assert adds_exactly()
    a, b = z3.BitVecs("a b", 64)
    both = z3.And(element(a), element(b))
    assert always(z3.Implies(both, is_congruent(wide.subtract(a, b), unsigned(a) - unsigned(b), 0)))
    assert always(wide.outside(a) == z3.Not(element(a)))
    lifted, half = signed(wide.centred(a)), Q // 2
    near = z3.And(-half <= lifted, lifted <= half)
    same = z3.Or(lifted == unsigned(a), lifted == unsigned(a) - Q)
    assert always(z3.Implies(element(a), z3.And(near, same)))
    assert always(is_congruent(wide.from_signed(a), signed(a), 0))


def adds_exactly() -> bool:
    """Return whether z3 finds the code's sum right for all elements."""
    a, b = z3.BitVecs("a b", 64)
    right = is_congruent(wide.add(a, b), unsigned(a) + unsigned(b), 1)
    return always(z3.Implies(z3.And(element(a), element(b)), right))


@pytest.mark.requirement("RMO-G7")
def test_words_of_f_q_shift_exactly(symbolic: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """shift_left(a, n) = a 2**n mod q for every shift of one pass.

    Given: every n from 1 to 56, all words a = out 2**(64 - n) + low (by machine: z3 through the code itself):
    a 2**n = out 2**64 + rest, the code adds rest mod q and 59 out, both elements, by the sum proved above;
    out 2**64 = 59 out + out q. Longer shifts are passes of 56 and a rest.
    Then: limb sums find their places without a word longer than 64 bits.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_optimized.wide.shift_left ed32cfba.
    """
    monkeypatch.setattr(wide, "add", lambda left, right: (left, right))
    a = z3.BitVec("a", 64)
    assert always(is_congruent(wide._reduced(cast(Any, a)), unsigned(a), 1))
    for now in range(1, wide.ROOM + 1):
        out = z3.LShR(a, 64 - now)
        rest, carried = cast(tuple[Any, Any], wide.shift_left(cast(Any, a), now))
        assert always((unsigned(a) << now) == (unsigned(out) << 64 | unsigned(a << now)))
        assert rest.eq(wide._reduced(cast(Any, a << now)))
        assert always(z3.And(carried == 59 * out, z3.ULT(out, z3.BitVecVal(2**now, 64))))
    assert 59 * 2**wide.ROOM < 2**62 < Q
    assert 2**64 % Q == 59


@pytest.mark.requirement("RMO-G7")
def test_every_limb_sum_over_f_q_is_exact() -> None:
    """Three limbs of 24 bits against four of 16, or against weights: below 2**53 a block, 2**62 in all.

    Given: inner dimensions and outputs up to the vocabulary, weights of 15 bits and halves (by machine: exact
    integers from the code's own constants; limbs of every element add up to it: z3).
    Then: what `from_signed` is given is in its range.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_optimized.field.product 22beac2e.
    Pins: veil_optimized.field._add_sums 362a981e.
    Pins: veil_optimized.field.multiply 50da8408.
    Pins: veil_optimized.field.combine 5dc276d1.
    Pins: veil_optimized.field.limbs_of 8083fdf2.
    Pins: veil_optimized.field.vanishes b7964561.
    Pins: veil_optimized.field.recombined de6c61f4.
    """
    for right_bits in (fast_field.WEIGHT_BITS, fast_field.FIELD_LIMB_BITS):
        block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
        blocks = constants.VOCABULARY_LIMIT // block + 1
        assert largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < FLOAT
        assert blocks < 2**9 and blocks * largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < 2**62
    related = 3 * (constants.INNER_LIMIT + constants.VOCABULARY_LIMIT)
    assert related * (2**fast_field.LEFT_BITS - 1) * (2**fast_field.FIELD_LIMB_BITS - 1) < 2**62
    word = z3.BitVec("word", 64)
    for bits in (fast_field.LEFT_BITS, fast_field.FIELD_LIMB_BITS):
        widths = [min(bits, 64 - start) for start in range(0, 64, bits)]
        limbs = [((word >> n * bits) & (2**width - 1)) << n * bits for n, width in enumerate(widths)]
        assert always(z3.Sum(*limbs) == word)
    extremes = torch.tensor([[-60, -(2**63), 2**63 - 1, 0, 58 - 2**63]])
    for bits in (fast_field.LEFT_BITS, fast_field.FIELD_LIMB_BITS):
        joined = [0] * 5
        for n, limb in enumerate(fast_field.limbs_of(extremes, bits, Q)):
            joined = [total + (int(part) << n * bits) for total, part in zip(joined, limb[0], strict=True)]
        assert joined == [value % 2**64 for value in extremes[0].tolist()]


@pytest.mark.requirement("RMO-G7")
def test_masking_and_unmasking_of_profile_lwe_stay_inside_the_word() -> None:
    """D x + e is below 2**57, and the floor of a lift by D with its remainder rounds as RMO-R20 says.

    Given: all 16,384 inner dimensions (by machine: exact intervals); U = D t + r with 0 <= r < D for any D,
    so that 2 U + D is 2 D t and 2 r + D (by machine: z3); columns of halves up to q / 2 over D, times 256.
    Then: int64 holds what the code adds, multiplies and compares; D t may wrap, r comes back all the same.
    Assuming: nothing.
    Proves: RMO-G7.
    Pins: veil_optimized.lwe.lwe_levels 27ad63c5.
    """
    for inner in range(1, constants.INNER_LIMIT + 1):
        bits, scale = fast_lwe.lwe_levels(inner)
        assert (bits, scale) == lwe.lwe_levels(inner)
        assert (within(constants.ACTIVATION_LIMIT) * scale + within(2**bits)).reach < 2**57
        assert (within(Q // 2 // scale + 1) * 257).reach < 2**46
    scale, r = z3.Ints("scale r")
    up = z3.If(r >= scale - r, 1, 0)
    top = 2 * r + scale - 2 * scale * up
    given = z3.And(scale > 0, r >= 0, r < scale)
    assert always(z3.Implies(given, z3.And(top >= 0, top < 2 * scale)))


@pytest.mark.requirement("RMO-G7")
def test_products_over_f_q_of_the_largest_operands_are_exact() -> None:
    """The optimized products over q of all q - 1 equal plain integers.

    Given: the longest inner dimension of a group, field operands, weights and halves (checked).
    Then: the bounds above are those of the code that runs.
    Assuming: nothing.
    Proves: RMO-G7.
    """
    for inner in (1, constants.INNER_LIMIT, constants.INNER_LIMIT + 1):
        left = torch.full((1, inner), Q - 1 - 2**64, dtype=torch.int64)
        for weight in (-constants.WEIGHT_LIMIT, constants.WEIGHT_LIMIT, -128):
            weights = torch.full((1, inner), weight, dtype=torch.int16)
            assert int(fast_field.multiply(left, weights, Q)) % 2**64 == -inner * weight % Q
        squared = fast_field.product(left, fast_field.field_operand(left, Q), Q)
        assert int(squared) % 2**64 == inner % Q


def test_negative_control_another_fold_or_a_bare_floor_is_noticed(
    symbolic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same claims fail with 57 for 59, and a floor without its correction does not round.

    Controls: RMO-G7.
    """
    a = z3.BitVec("a", 64)
    monkeypatch.setattr(wide, "FOLD", 57)
    assert not adds_exactly()
    assert not always(wide.outside(a) == z3.Not(element(a)))
    scale, r = z3.Ints("scale r")
    down = 2 * r + scale
    assert not always(z3.Implies(z3.And(scale > 0, r >= 0, r < scale), down < 2 * scale))
