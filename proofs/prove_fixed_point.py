"""How far exp2 and silu are from the functions that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from math import isqrt

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
"""Words of silu's argument and result to the unit."""


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
