"""No word between the linear groups, no field product and no float64 sum ever leaves its exact range.

Exact interval arithmetic, split by bit lengths so that the cases are complete; then the reference itself runs
on integers that remember their largest intermediate, and the optimized code on the extremes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
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
from veil_optimized import wide
from veil_reference import fixed_point, lwe, remo, tables
from veil_spec import constants

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


def linear(mantissa_bits: int = constants.MANTISSA_BITS) -> Range:
    """Return a group's outputs in fixed point: the product |Y| <= (p - 1) / 2 times a mantissa, rescaled."""
    products = within((constants.PRIMES[-1] - 1) // 2)
    scaled = products * Range(0, 2**mantissa_bits - 1)
    rescale(scaled, constants.HIDDEN_LIMIT)
    return rescale(scaled, constants.RESIDUAL_LIMIT)


def residual() -> Range:
    """Return the residual stream after an addition; the embedding is a 16-bit word times a mantissa."""
    embedded = rescale(within(2**15) * Range(0, 2**constants.MANTISSA_BITS - 1), constants.RESIDUAL_LIMIT)
    return (embedded + linear()).clamped(constants.RESIDUAL_LIMIT)


def rms_norm(width: int = constants.WIDTH_LIMIT) -> int:
    """Return the largest word of a norm before quantising, over every bit length of row and energy."""
    largest = 0
    for bits in range(constants.RESIDUAL_LIMIT.bit_length() + 1):
        shift = max(bits - constants.NORM_BITS, constants.NORM_SHIFT_FLOOR)
        row = within(2**bits - 1)
        scaled = round_shift(row, shift).clamped(1 << constants.NORM_BITS) if shift > 0 else row << -shift
        largest = max(largest, *(part.reach for part in normalised(scaled, shift, width)))
    return largest


def epsilon_term(shift: int) -> Range:
    """Return epsilon in the units of a squared row that was shifted."""
    fixed_point._norm_epsilon(EPSILON[0], shift)
    ends = [fixed_point._norm_epsilon(epsilon, shift) for epsilon in EPSILON]
    return Range(min(ends), max(ends))


def normalised(scaled: Range, shift: int, width: int) -> Iterator[Range]:
    """Yield the words times gains for each bit length of the energy, with |u| <= sqrt(energy) in each."""
    widths = Range(1, width)
    squares = Range(0, scaled.reach**2) * widths
    epsilon = epsilon_term(shift)
    energy = squares + epsilon * widths
    largest_word = 0 if scaled.reach == 0 else 1 << (scaled.reach.bit_length() - 2)
    lowest = max(1, largest_word**2 + epsilon.low)
    for length in range(lowest.bit_length(), energy.high.bit_length() + 1):
        lift = (62 - length) >> 1
        if lift < 0:
            raise Wraps("the energy does not fit 62 bits")
        case = Range(max(lowest, 1 << length - 1), min(energy.high, (1 << length) - 1))
        lifted = case << 2 * lift
        root = Range(isqrt(lifted.low), isqrt(lifted.high))
        inverse = (Range(isqrt(1 << 44), isqrt(width << 44)) << 34) // root
        word = within(min(scaled.reach, isqrt(case.high)))
        normal = round_shift(word * inverse, 56 - constants.NORM_FRACTION - lift)
        gained = normal * within(INT32)
        quantise(gained)
        yield gained


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


def softmax_average(context: int = constants.CONTEXT_LIMIT) -> Range:
    """Return an average of value words over a context."""
    scores = within(constants.ATTENTION_LIMIT)
    weight = round_shift(exp2(scores - scores), constants.EXP2_FRACTION - constants.WEIGHT_FRACTION)
    peak = 1 << constants.WEIGHT_FRACTION
    total = weight * Range(0, context - 1) + peak
    summed = weight * within(constants.HIDDEN_LIMIT) * context
    average = (summed + total // 2) // total
    quantise(average)
    return average


def mlp() -> Range:
    """Return silu(gate) times up; the sigmoid is at most 1, as its numerator is at most 2**30."""
    value, one = Range(0, constants.HIDDEN_LIMIT), 1 << constants.EXP2_FRACTION
    decay = exp2(round_shift(value * tables.log2e(), 32))
    quotient = (Range(0, one) << constants.EXP2_FRACTION) // (decay + one)
    sigmoid = Range(0, min(quotient.high, one))
    gated = round_shift(within(constants.HIDDEN_LIMIT) * sigmoid, constants.EXP2_FRACTION)
    result = gated * within(constants.HIDDEN_LIMIT)
    quantise(result)
    return result


@pytest.mark.requirement("FXP-G1")
def test_no_intermediate_word_leaves_63_bits() -> None:
    """Every intermediate of every function lies strictly between -2**63 and 2**63.

    Given: the limits of constants.py; all shifts, all bit lengths of a row and of its energy, all head widths
    (by machine: exact intervals; each operation refuses to build a larger word). A left shift counts together
    with the saturation that follows it: the bare shift of FXP-R2 has no bound. Gains may be any 32-bit
    integer.
    Then: 64-bit signed words hold every result, and each division has a positive divisor.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_reference.fixed_point.rescale 86e766f0.
    Pins: veil_reference.fixed_point.quantise b9df0d8a.
    Pins: veil_reference.fixed_point.rms_norm fee987a3.
    Pins: veil_reference.fixed_point.attention_score 37051bd7.
    Pins: veil_reference.fixed_point.softmax_average 3f75778c.
    Pins: veil_reference.fixed_point.rotate 758eb90e.
    Pins: veil_reference.fixed_point.silu 37e37a07.
    Pins: veil_reference.model.Decoder.linear bc799014.
    Pins: veil_reference.model.Decoder.embed f42f00ef.
    Pins: veil_reference.model.Decoder.residual 02427eee.
    Pins: veil_reference.model.Decoder.mlp 8afdac72.
    """
    assert residual().reach == linear().reach == constants.RESIDUAL_LIMIT
    assert rms_norm() < 2**62
    assert rotated().reach < 2**32
    widths = range(2, constants.HEAD_WIDTH_LIMIT + 1, 2)
    assert max(attention_score(width).reach for width in widths) == constants.ATTENTION_LIMIT
    assert softmax_average().reach < 2**62
    assert mlp().reach < 2**60


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
THETA: Final = Fraction(10000)


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


def reference_runs() -> Iterator[tuple[Run, list[list[int]]]]:
    """Yield each function with the rows to run it on."""
    random = Random(1)
    for run in norm_runs():
        yield run, list(rows(constants.RESIDUAL_LIMIT, 8, random))
    yield lambda row: fixed_point.quantise(row, 36), list(rows(2**62, 3, random))
    yield lambda row: [fixed_point.silu(word) for word in row], list(rows(constants.HIDDEN_LIMIT, 3, random))
    yield lambda row: fixed_point.rotate(row, 5, THETA), list(rows(constants.HIDDEN_LIMIT, 4, random))
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
    """Return the largest sum of one float64 block of veil_optimized.field.product."""
    block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
    largest: int = min(block, inner) * (2**fast_field.LEFT_BITS - 1) * (2**right_bits - 1)
    return largest


@pytest.mark.requirement("RMO-G4")
def test_every_float64_sum_of_a_field_product_is_exact() -> None:
    """Limb products, their int64 sums, and the shifts that join them stay inside 2**53 and 2**63.

    Given: 48-bit elements in two 24-bit limbs, against 16-bit weights or three 16-bit limbs, inner dimensions
    up to the vocabulary (by machine: exact integers from the code's own constants).
    Then: the products that unmasking relies on are exact.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_optimized.field.product 9f4e7775.
    Pins: veil_optimized.field.shift_left 93fbe03a.
    """
    largest = constants.PRIMES[-1]
    assert largest < 2 ** (2 * fast_field.LEFT_BITS) and largest < 2 ** (3 * fast_field.FIELD_LIMB_BITS)
    assert constants.WEIGHT_LIMIT < 2**fast_field.WEIGHT_BITS
    for right_bits in (fast_field.WEIGHT_BITS, fast_field.FIELD_LIMB_BITS):
        assert largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < FLOAT
        block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
        Range(0, largest) * (constants.VOCABULARY_LIMIT // block + 1)
    for modulus in constants.PRIMES:
        Range(0, modulus - 1) << (62 - modulus.bit_length())
    Range(0, largest - 1) * 6


@pytest.mark.requirement("RMO-G4")
def test_every_float64_sum_of_the_plain_model_is_exact() -> None:
    """Plain products, attention scores and halves of softmax averages stay below 2**53.

    Given: the limits of constants.py (by machine: exact integers).
    Then: float64 is an integer engine there, in any order of summation: every partial sum is below the bound
    too.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_optimized.fixed_point.softmax_average bf9ba9d7.
    Pins: veil_optimized.fixed_point.attention_score 2bb93a9e.
    Pins: veil_optimized.model.plain_products cde213be.
    Pins: veil_optimized.remo.choose_modulus 62da384e.
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
        weights = torch.full((1, inner), -constants.WEIGHT_LIMIT, dtype=torch.float64)
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
        assert fast.rescale(torch.tensor(words), shift, constants.ATTENTION_LIMIT).tolist() == bounded
    for row in [
        [65535] * constants.WIDTH_LIMIT,
        [2**46 - 1] * constants.WIDTH_LIMIT,
        *rows(2**46 - 1, 5, random),
    ]:
        assert norms_agree(row)


def norms_agree(row: list[int]) -> bool:
    """Return whether both norms of a row with large gains agree at both ends of epsilon."""
    gains = [INT32 - 1 - i % 3 for i in range(len(row))]
    for epsilon in EPSILON:
        exact = fixed_point.rms_norm(row, gains, 3, epsilon)
        found = fast.rms_norm(torch.tensor([row]), torch.tensor(gains), 3, epsilon)
        if (list(exact.values), exact.exponent) != (found.values[0].tolist(), int(found.exponent)):
            return False
    return True


@pytest.mark.requirement("FXP-G1")
def test_square_roots_and_bit_lengths_from_float64_are_corrected() -> None:
    """The optimized integer_sqrt and bit_length are exact around squares and powers of two.

    Given: the float64 root errs by less than 1 below 2**62, and frexp by at most one up (argued: relative
    error 2**-52 of a root below 2**31); neighbours of squares and powers of two (checked).
    Then: the two corrections give the floor, and the bit length.
    Assuming: nothing.
    Proves: FXP-G1.
    Pins: veil_optimized.fixed_point.integer_sqrt b7694725.
    Pins: veil_optimized.fixed_point.bit_length 281326ea.
    """
    roots = [1, 2, 3, 2**20, 2**26 + 1, 2**31 - 1, *(Random(3).randrange(2**25, 2**31) for _ in range(2000))]
    squares = [root * root + d for root in roots for d in (-1, 0, 1)]
    assert fast.integer_sqrt(torch.tensor(squares)).tolist() == [isqrt(value) for value in squares]
    powers = [2**k + d for k in range(63) for d in (-1, 0, 1) if 2**k + d < 2**62]
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
    TooLarge("a context of 2**16", lambda: softmax_average(4 * constants.CONTEXT_LIMIT)),
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


def test_negative_control_a_longer_block_or_a_larger_weight_is_noticed() -> None:
    """The same bounds reject weights of 16 bits in blocks cut for 15, and a group that RMO-R2 would refuse.

    Controls: RMO-G4.
    """
    wide = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - fast_field.WEIGHT_BITS)
    assert wide * (2**fast_field.LEFT_BITS - 1) * (2**16 - 1) > FLOAT
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
    Pins: veil_optimized.field.product 9f4e7775.
    Pins: veil_optimized.field.limbs_of 46553024.
    Pins: veil_optimized.field._recombined c5b345f8.
    """
    for right_bits in (fast_field.WEIGHT_BITS, fast_field.FIELD_LIMB_BITS):
        block = 2 ** (fast_field.FLOAT64_BITS - fast_field.LEFT_BITS - right_bits)
        blocks = constants.VOCABULARY_LIMIT // block + 1
        assert largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < FLOAT
        assert blocks < 2**9 and blocks * largest_limb_sum(right_bits, constants.VOCABULARY_LIMIT) < 2**62
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
            weights = torch.full((1, inner), weight, dtype=torch.float64)
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
