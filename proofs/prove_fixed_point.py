"""How far exp2, silu, gelu and tanh are from the functions that they stand for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from math import ceil, factorial, floor, isqrt

import pytest
import sympy

from veil_reference import fixed_point, tables
from veil_spec import constants

BITS = 128
"""Fractional bits of the enclosures."""
UNIT = 1 << constants.EXP2_FRACTION
EXP2_CLAIM = Fraction(2)
"""The error of exp2 that FXP-G2 states, in units of 2**-30."""
SCALE = 2**constants.HIDDEN_FRACTION
"""Words of an argument of silu, gelu and tanh to the unit."""


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A real number between low * 2**-128 and high * 2**-128."""

    low: int
    high: int

    def times(self, other: "Enclosure") -> "Enclosure":
        """Return an enclosure of the product of two numbers that are not negative."""
        return Enclosure(self.low * other.low >> BITS, -(-self.high * other.high >> BITS))

    def root(self) -> "Enclosure":
        """Return an enclosure of the square root."""
        return Enclosure(isqrt(self.low << BITS), isqrt(self.high << BITS) + 1)

    def scaled(self) -> tuple[Fraction, Fraction]:
        """Return both ends in units of 2**-30."""
        return Fraction(self.low * UNIT, 1 << BITS), Fraction(self.high * UNIT, 1 << BITS)


def powers(steps: int) -> list[Enclosure]:
    """Return enclosures of 2**(-i / steps) for i below 256, steps a power of two, by roots of 1/2."""
    step = Enclosure(1 << BITS - 1, 1 << BITS - 1)
    for _ in range(steps.bit_length() - 1):
        step = step.root()
    found = [Enclosure(1 << BITS, 1 << BITS)]
    for _ in range(255):
        found.append(found[-1].times(step))
    return found


COARSE, FINE = powers(2**8), powers(2**16)


def nearest_integers(entries: Sequence[int], exact: Sequence[Enclosure]) -> bool:
    """Return whether each entry is the one integer nearest to its number in units of 2**-30."""
    ends = [number.scaled() for number in exact]
    return all(
        2 * entry - 1 < 2 * low <= 2 * high < 2 * entry + 1
        for entry, (low, high) in zip(entries, ends, strict=True)
    )


def largest_error(coarse: Sequence[int], fine: Sequence[int]) -> Fraction:
    """Return a bound on |A[i] B[j] 2**-30 - 2**30 2**-(256 i + j)/65536| over all 65,536 pairs."""
    worst = 0
    for (a, x), (b, y) in product(zip(coarse, COARSE, strict=True), zip(fine, FINE, strict=True)):
        entry, exact = a * b << BITS - 2 * constants.EXP2_FRACTION, x.times(y)
        worst = max(worst, abs(entry - exact.low), abs(entry - exact.high))
    return Fraction(worst * UNIT, 1 << BITS)


@pytest.mark.requirement("FXP-G2")
def test_exp2_tables_hold_the_nearest_integers() -> None:
    """Each of the 512 entries is the integer nearest to its power of two.

    Given: enclosures of width below 2**-110 from square roots of 1/2 in integers (by machine: all entries).
    Then: an entry errs by less than 1/2.
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.tables.exp2_digits 0bf3ee2c.
    """
    assert max(number.high - number.low for number in COARSE + FINE) < 2 ** (BITS - 110)
    coarse, fine = tables.exp2_digits()
    assert nearest_integers(coarse, COARSE) and nearest_integers(fine, FINE)


@pytest.mark.requirement("FXP-G2")
def test_exp2_errs_by_less_than_two_units() -> None:
    """|exp2(z) - 2**30 2**(z / 65536)| < 2 for all z <= 0.

    Given: all 65,536 fractional arguments before rounding (by machine: enclosures), error b.
    Then: for n = floor(-z / 65536) < 33 the error is at most b 2**-n + 1/2 < 2 (argued: rounding to nearest),
    and for n >= 32 the shift is 62, the result 0 and the exact value at most 1/4 (by machine: the largest
    table product).
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.fixed_point.exp2 9cac299e.
    Pins: veil_reference.fixed_point.round_shift 3c536b9e.
    """
    coarse, fine = tables.exp2_digits()
    assert largest_error(coarse, fine) + Fraction(1, 2) < EXP2_CLAIM
    assert fixed_point.round_shift(max(coarse) * max(fine), constants.SHIFT_LIMIT) == 0
    assert Fraction(UNIT, 2**32) <= Fraction(1, 4)
    assert [fixed_point.exp2(z) for z in (0, -65536, -(32 << 16), -(2**41))] == [UNIT, UNIT // 2, 0, 0]


# SiLU

RADIUS = 2**30
"""FXP-G2 claims silu for |x| below this."""


def argument_error() -> Fraction:
    """Return the largest error of round_shift(|x| L, 32), in units of 2**-16: rounding and L."""
    return Fraction(1, 2) + Fraction(RADIUS, 2 * 2**32)


def silu_bound(x: int) -> Fraction:
    """Return the proved bound on silu's error at x, in units of 2**-18.

    rounding + (argument error, weighted with the slope of the sigmoid) + (exp2 and floor).
    """
    ln2_above = Fraction(694, 1000)
    shift = argument_error() * ln2_above / 2**16
    sloped = SCALE * shift * (1 + shift) / 4
    return Fraction(1, 2) + sloped + abs(x) * (EXP2_CLAIM + 1) / UNIT


@pytest.mark.requirement("FXP-G2")
def test_the_slope_of_the_sigmoid_times_its_argument_is_at_most_a_quarter() -> None:
    """t s'(t) <= 1/4 for all t >= 0, with s the sigmoid, so that a small shift of t moves t s(t) little.

    Given: s'(t) = 1 / (4 cosh(t/2)**2) (by machine: sympy) and cosh(y)**2 >= 1 + y**2, as every coefficient
    of the series of cosh is positive (argued; by machine: its first terms).
    Then: t / (4 + t**2) <= 1/4, since 4 + t**2 - 4 t = (t - 2)**2 (by machine: sympy).
    Assuming: nothing.
    Proves: FXP-G2.
    """
    t, y = sympy.symbols("t y", real=True)
    sigmoid = 1 / (1 + sympy.exp(-t))
    slope = 1 / (4 * sympy.cosh(t / 2) ** 2)
    assert sympy.simplify((sympy.diff(sigmoid, t) - slope).rewrite(sympy.exp)) == 0
    excess = sympy.series(sympy.cosh(y) ** 2 - 1 - y**2, y, 0, 12).removeO()
    assert all(coefficient > 0 for coefficient in sympy.Poly(excess, y).coeffs())
    assert sympy.factor(4 + t**2 - 4 * t) == (t - 2) ** 2


@pytest.mark.requirement("FXP-G2")
def test_the_claimed_bound_of_silu_follows() -> None:
    """The proved bound is below 1 + |x| 2**-28, hence below the stated 1 + |x| 2**-18.

    Given: |x| < 2**30; e = 2**30 exp(-t') + r with |r| < 2 (exp2), |t' - t| <= (argument error) ln 2 / 65536,
    and g 2**-30 = c / (2**30 + e) less at most 2**-30. By the mean value theorem the sigmoid errs by at most
    the shift times its slope, plus 2 * 2**-30, plus 2**-30; times |x|, plus 1/2 (argued; the sum by machine,
    exactly).
    Then: |silu(x) - exact| < 1 + |x| 2**-28: the bound is linear in |x|, so its ends decide.
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.fixed_point.silu 37e37a07.
    """
    factor = Fraction(694, 1000) - Fraction(sympy.Rational(str(sympy.N(sympy.log(2), 30))))
    assert factor > 0
    for x in (0, RADIUS):
        assert silu_bound(x) < 1 + Fraction(x, 2**28) <= 1 + Fraction(x, SCALE)


def silu_errors(words: Sequence[int], slope: Fraction = Fraction(1)) -> list[tuple[int, Fraction]]:
    """Return (x, error) of silu at each word against 60 decimal digits, the result scaled by slope."""
    return [(x, abs(fixed_point.silu(x) * slope - exact_silu(x))) for x in words]


def exact_silu(x: int) -> Fraction:
    """Return x / (1 + exp(-x 2**-18)) to 50 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        return Fraction(Decimal(x) / (1 + (-Decimal(x) / SCALE).exp()))


def sample() -> list[int]:
    """Return some 4,000 words: powers of two, their neighbours, and an even spread on |x| <= 12."""
    edges = [sign * (2**k + d) for k in range(1, 30) for d in (-1, 0, 1) for sign in (1, -1)]
    spread = [place * 12 * SCALE // 1900 + place % 7 for place in range(-1900, 1900)]
    return [0, 2**30 - 1, 1 - 2**30, *edges, *spread]


@pytest.mark.requirement("FXP-G2")
def test_silu_keeps_the_proved_bound_on_a_sample() -> None:
    """The measured error stays below the proved bound at some 4,000 words.

    Given: exact values from 60-digit decimals (checked, not proved: a sample).
    Then: no step of the argument above is contradicted, and the bound is not idle: an error above 1/2 occurs.
    Assuming: nothing.
    Proves: FXP-G2.
    """
    errors = silu_errors(sample())
    assert all(error < silu_bound(x) for x, error in errors)
    assert max(error for _, error in errors) > Fraction(1, 2)


# GELU

GELU_CLAIM = Fraction(1)
"""The error of gelu that FXP-G2 states, in units of 2**-18."""
STEP = constants.CDF_STEP_FRACTION
TERMS = 140
"""Terms of the series of Phi: for x**2 < TERMS the rest is then below the last one."""


def arctan(inverse: int) -> tuple[Fraction, Fraction]:
    """Return a bound below and one above arctan(1 / inverse): two partial sums of an alternating series."""
    terms = [Fraction((-1) ** k, (2 * k + 1) * inverse ** (2 * k + 1)) for k in range(70)]
    ends = sum(terms[:-1]), sum(terms)
    return Fraction(min(ends)), Fraction(max(ends))


@cache
def pi() -> tuple[Fraction, Fraction]:
    """Return a bound below and one above pi = 4 arctan(1/2) + 4 arctan(1/3)."""
    (low, high), (less, more) = arctan(2), arctan(3)
    return 4 * (low + less), 4 * (high + more)


def rounded_out(low: Fraction, high: Fraction) -> Enclosure:
    """Return the enclosure of all numbers between two rationals."""
    return Enclosure(floor(low * 2**BITS), ceil(high * 2**BITS))


@cache
def densities(step_fraction: int) -> list[Enclosure]:
    """Return enclosures of exp(-x**2 / 2) / sqrt(2 pi) at x = i * 2**-step_fraction, up to the limit."""
    x = Fraction(1, 2 ** (2 * step_fraction + 1))
    terms = [Fraction((-x).numerator**k, x.denominator**k * factorial(k)) for k in range(20)]
    ends = sum(terms[:-1], Fraction(0)), sum(terms, Fraction(0))
    decay = rounded_out(min(ends), max(ends))
    low, high = pi()
    value, factor = rounded_out(1 / (2 * high), 1 / (2 * low)).root(), decay
    found = [value]
    for _ in range(constants.CDF_LIMIT << step_fraction):
        value, factor = value.times(factor), factor.times(decay).times(decay)
        found.append(value)
    return found


def series(x: Fraction) -> Enclosure:
    """Return an enclosure of the sum of x**(2 k + 1) / (1 * 3 * ... * (2 k + 1)), 0 <= x <= 6."""
    square, low, high = x * x, floor(x * 2**BITS), ceil(x * 2**BITS)
    sums = [low, high]
    for k in range(1, TERMS):
        low = low * square.numerator // (square.denominator * (2 * k + 1))
        high = -(-high * square.numerator // (square.denominator * (2 * k + 1)))
        sums = [sums[0] + low, sums[1] + high]
    return Enclosure(sums[0], sums[1] + 2 * high)


@cache
def tails(step_fraction: int) -> list[Enclosure]:
    """Return enclosures of Phi(-x) = 1/2 - density(x) series(x) at x = i * 2**-step_fraction."""
    half, found = 1 << BITS - 1, []
    for i, density in enumerate(densities(step_fraction)):
        inner = density.times(series(Fraction(i, 2**step_fraction)))
        found.append(Enclosure(half - inner.high, half - inner.low))
    return found


def gelu_bound(step_fraction: int) -> Fraction:
    """Return the proved bound on gelu's error with a table of that step, in units of 2**-18, over all cells.

    rounding + |x| (half a unit of a table entry + step**2 / 8 times the largest second derivative).
    """
    step, worst = Fraction(1, 2**step_fraction), Fraction(0)
    for i, (density, _) in enumerate(pairwise(densities(step_fraction))):
        after = (i + 1) * step
        bent = step**2 / 8 * after * Fraction(density.high, 2**BITS)
        worst = max(worst, after * (Fraction(1, 2 * UNIT) + bent))
    return Fraction(1, 2) + SCALE * worst


@pytest.mark.requirement("FXP-G2")
def test_the_table_of_the_normal_distribution_holds_the_nearest_integers() -> None:
    """Each of the 3,073 entries is the integer nearest to 2**30 Phi(-i / 512).

    Given: the series of Phi, cut where the quotient of neighbouring terms is below 1/2; pi from two
    arctangents, exp(-2**-19) from an alternating series; all rounded outwards (by machine: all entries,
    enclosures of width below 2**-80).
    Then: an entry errs by less than 1/2.
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.tables.normal_tail 49e68a70.
    """
    low, high = pi()
    assert high - low < Fraction(1, 2**BITS) and 2 * constants.CDF_LIMIT**2 < 2 * TERMS + 1
    exact = tails(STEP)
    assert max(number.high - number.low for number in exact) < 2 ** (BITS - 80)
    assert nearest_integers(tables.normal_tail(), exact)


@pytest.mark.requirement("FXP-G2")
def test_the_claimed_bound_of_gelu_follows() -> None:
    """|gelu(x) - exact| < 1 in units of 2**-18 for |x| < 2**30.

    Given: gelu(x) is max(x, 0) less |x| times the table, interpolated; an entry errs by less than 1/2, and so
    does a mean of two; a line through two points of Phi(-x), whose second derivative is x times the density,
    errs by at most step**2 / 8 times its maximum on the cell, which is at most the cell's right end times the
    density at its left end (argued); the density falls (by machine: all 3,072 cells, rounded outwards).
    Beyond the limit the term left out is |x| Phi(-|x|), at most the density there, as t / x >= 1 under the
    integral (argued; by machine: the density at 6).
    Then: with 1/2 for the rounding, each cell's sum is below the claim.
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.fixed_point.gelu 680675a1.
    """
    x = sympy.Symbol("x", real=True)
    density = sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi)
    tail = sympy.erfc(x / sympy.sqrt(2)) / 2
    assert sympy.simplify(sympy.diff(tail, x) + density) == 0
    assert sympy.simplify(sympy.diff(tail, x, 2) - x * density) == 0
    assert all(after.high < before.low for before, after in pairwise(densities(STEP)))
    assert SCALE * Fraction(densities(STEP)[-1].high, 2**BITS) < Fraction(1, 2)
    assert gelu_bound(STEP) < GELU_CLAIM


def exact_gelu(x: int) -> Fraction:
    """Return the GELU of x 2**-18 in units of 2**-18, to 30 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        size = Decimal(abs(x)) / SCALE
        bound = Fraction(sum(pi())) / 2
        density = (-size * size / 2).exp() / (2 * Decimal(bound.numerator) / bound.denominator).sqrt()
        term, total = size, Decimal(0)
        for k in range(1, TERMS):
            total += term
            term = term * size * size / (2 * k + 1)
        tail = Decimal("0.5") - density * total if abs(x) < 7 * SCALE else Decimal(0)
        return max(x, 0) - abs(x) * Fraction(tail)


def interpolated_gelu(x: int, step_fraction: int) -> int:
    """Return gelu by a table of another step: its entries are those nearest to the enclosures."""
    fine = constants.HIDDEN_FRACTION - step_fraction
    i, j = divmod(abs(x), 1 << fine)
    left, right = (
        floor(sum(number.scaled()) / 2 + Fraction(1, 2)) for number in tails(step_fraction)[i : i + 2]
    )
    share = left * ((1 << fine) - j) + right * j
    return max(x, 0) - fixed_point.round_shift(abs(x) * share, constants.EXP2_FRACTION + fine)


@pytest.mark.requirement("FXP-G2")
def test_gelu_keeps_the_proved_bound_on_a_sample() -> None:
    """The measured error stays below the proved bound at some 4,000 words.

    Given: exact values from 60-digit decimals, 0 or x beyond 7 (checked, not proved: a sample).
    Then: no step of the argument above is contradicted, and the bound is not idle: an error above 1/2 occurs.
    Assuming: nothing.
    Proves: FXP-G2.
    """
    errors = [abs(fixed_point.gelu(x) - exact_gelu(x)) for x in sample()]
    assert Fraction(1, 2) < max(errors) < gelu_bound(STEP)


def test_negative_control_a_coarser_table_of_the_normal_distribution_is_noticed() -> None:
    """With steps of 2**-5 the proved bound exceeds the claim, and so does a measured error.

    Controls: FXP-G2.
    """
    assert gelu_bound(5) > GELU_CLAIM
    middle = SCALE * 45 // 32 + SCALE // 64
    assert abs(interpolated_gelu(middle, STEP) - exact_gelu(middle)) < GELU_CLAIM
    assert abs(interpolated_gelu(middle, 5) - exact_gelu(middle)) > GELU_CLAIM
    entries = tables.normal_tail()
    for place in (0, 700, 3072):
        assert not nearest_integers([entry + (i == place) for i, entry in enumerate(entries)], tails(STEP))


# tanh

TANH_CLAIM = Fraction(2**12)
"""The error of tanh that FXP-G2 states, in units of 2**-30."""


def tanh_bound() -> Fraction:
    """Return the proved bound on tanh's error in units of 2**-30.

    (rounded argument + scaled argument, both weighted with twice the sigmoid's slope) + exp2 + floor.
    """
    ln2_above = Fraction(694, 1000)
    rounding = Fraction(1, 2) * ln2_above / 2**16
    scaling = ln2_above / 2**31
    return UNIT * (rounding + scaling / (1 - scaling)) / 2 + 2 * EXP2_CLAIM + 1


@pytest.mark.requirement("FXP-G2")
def test_the_claimed_bound_of_tanh_follows() -> None:
    """|tanh(x) - exact| < 2**12 in units of 2**-30 for |x| < 2**30.

    Given: tanh(y / 2) = 2 s(y) - 1 with s the sigmoid (by machine: sympy). The computed argument is y (1 + k)
    plus a rounding: |k| <= ln 2 * 2**-31, since L errs by at most 1/2, and the rounding is at most half a
    unit of 2**-16 in the base 2. With s' <= 1/4 the rounding moves 2 s by at most half of itself, and with
    t s'(t) <= 1/4, proved above, the factor moves it by at most k / (2 (1 - k)). exp2 errs by less than 2,
    and (1 - e) / (1 + e) has a slope of at most 2 for e >= 0; the floor takes less than 1 (argued; the sum by
    machine, exactly). tanh is odd.
    Then: the sum is below the claim.
    Assuming: nothing.
    Proves: FXP-G2.
    Pins: veil_reference.fixed_point.tanh 7e7e1336.
    """
    y, e = sympy.symbols("y e", positive=True)
    assert sympy.simplify((sympy.tanh(y / 2) - 2 / (1 + sympy.exp(-y)) + 1).rewrite(sympy.exp)) == 0
    assert sympy.simplify(sympy.diff((1 - e) / (1 + e), e) + 2 / (1 + e) ** 2) == 0
    assert abs(tables.log2e() - UNIT * sympy.N(1 / sympy.log(2), 30)) < 0.5
    assert tanh_bound() < TANH_CLAIM


def tanh_errors(tanh: Callable[[int], int]) -> list[Fraction]:
    """Return the error of each sampled word against 60 decimal digits, in units of 2**-30."""
    with localcontext() as context:
        context.prec = 60
        decays = [(-2 * abs(Decimal(x)) / SCALE).exp() for x in sample()]
        sizes = [UNIT * Fraction((1 - decay) / (1 + decay)) for decay in decays]
    return [abs(abs(tanh(x)) - size) for x, size in zip(sample(), sizes, strict=True)]


def test_negative_control_a_coarser_argument_of_tanh_is_noticed() -> None:
    """With exponents rounded to 2**-15 a measured error exceeds the claim.

    Controls: FXP-G2.
    """

    def coarser(x: int) -> int:
        decay = fixed_point.exp2(-2 * fixed_point.round_shift(abs(x) * tables.log2e(), 32))
        return ((UNIT - decay) << constants.TANH_FRACTION) // (UNIT + decay)

    assert max(tanh_errors(coarser)) > TANH_CLAIM


@pytest.mark.requirement("FXP-G2")
def test_tanh_keeps_the_proved_bound_on_a_sample() -> None:
    """The measured error stays below the proved bound at some 4,000 words.

    Given: exact values from 60-digit decimals (checked, not proved: a sample).
    Then: no step of the argument above is contradicted, and the bound is not idle: 9/10 of it occurs.
    Assuming: nothing.
    Proves: FXP-G2.
    """
    worst = max(tanh_errors(fixed_point.tanh))
    assert tanh_bound() * 9 / 10 < worst < tanh_bound()
    assert all((fixed_point.tanh(x) < 0) == (x < 0) for x in sample() if abs(x) > 8)


def test_negative_control_one_wrong_table_entry_is_noticed() -> None:
    """The same checks reject an entry that is off by one, and a silu that is off by a part in 2**16.

    Controls: FXP-G2.
    """
    coarse, fine = tables.exp2_digits()
    for place in (1, 128, 255):
        wrong = [entry + (i == place) for i, entry in enumerate(coarse)]
        assert not nearest_integers(wrong, COARSE)
    assert largest_error([entry + 2 * (i == 1) for i, entry in enumerate(coarse)], fine) > EXP2_CLAIM
    errors = silu_errors(sample(), 1 + Fraction(1, 2**16))
    assert not all(error < silu_bound(x) for x, error in errors)
