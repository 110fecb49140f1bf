"""Correctly rounded tables: irrational numbers by integer series with 192 fractional bits."""

from fractions import Fraction
from functools import cache
from math import isqrt
from typing import Final

from veil_spec import constants
from veil_spec.architecture import Rotation

BITS: Final = 192
"""Working fractional bits: the series below err by less than 2**-150."""
ONE: Final = 1 << BITS


def nearest(scaled: int, fraction: int) -> int:
    """Return the integer nearest to scaled * 2**(fraction - BITS), or fail if the series cannot tell."""
    dropped = BITS - fraction
    value, rest = divmod(scaled + (1 << (dropped - 1)), 1 << dropped)
    if min(rest, (1 << dropped) - rest) < 1 << 64:
        raise ArithmeticError("a table entry lies too close to a tie")
    return value


def _atanh(x: Fraction) -> int:
    power, square, total, k = int(x * ONE), x * x, 0, 1
    while power:
        total += power // k
        power = power * square.numerator // square.denominator
        k += 2
    return total


@cache
def ln(x: Fraction) -> int:
    """Return ln(x) * 2**BITS, x > 0."""
    doublings = x.numerator.bit_length() - x.denominator.bit_length()
    reduced = x / Fraction(2) ** doublings
    ln2 = 2 * _atanh(Fraction(1, 3))
    return doublings * ln2 + 2 * _atanh((reduced - 1) / (reduced + 1))


@cache
def pi() -> int:
    """Return pi * 2**BITS, by Machin's formula."""
    return 4 * (4 * _arctan(5) - _arctan(239))


def _arctan(inverse: int) -> int:
    power, total, k = ONE // inverse, 0, 1
    while power:
        total += power // k if k % 4 == 1 else -(power // k)
        power //= inverse * inverse
        k += 2
    return total


def exp(scaled: int) -> int:
    """Return exp(scaled / 2**BITS) * 2**BITS, scaled <= 0."""
    halvings, rest = divmod(-scaled, ln(Fraction(2)))
    term, total, k = ONE, 0, 0
    while term:
        total += term
        k += 1
        term = term * rest // (k << BITS)
    return (ONE * ONE // total) >> halvings


def cos_sin(scaled: int) -> tuple[int, int]:
    """Return (cos, sin) of scaled / 2**BITS radians, each times 2**BITS, scaled >= 0."""
    angle = scaled % (2 * pi())
    sums, term, k = [0, 0, 0, 0], ONE, 0
    while term:
        sums[k % 4] += term
        k += 1
        term = term * angle // (k << BITS)
    return sums[0] - sums[2], sums[1] - sums[3]


@cache
def exp2_digits() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (2**(-i / 256), 2**(-i / 65536)) for i below 256, in units of 2**-30, correctly rounded.

    Implements: FXP-R4.
    """
    ln2 = ln(Fraction(2))

    def entry(i: int, steps: int) -> int:
        return (
            1 << constants.EXP2_FRACTION
            if i == 0
            else nearest(exp(-ln2 * i // steps), constants.EXP2_FRACTION)
        )

    return tuple(entry(i, 2**8) for i in range(256)), tuple(entry(i, 2**16) for i in range(256))


@cache
def log2e() -> int:
    """Return log2(e) in units of 2**-30, correctly rounded."""
    return nearest(ONE * ONE // ln(Fraction(2)), constants.LOG2E_FRACTION)


@cache
def score_factor(head_width: int) -> int:
    """Return log2(e) / sqrt(head_width) in units of 2**-27, correctly rounded."""
    return nearest(ONE**3 // (ln(Fraction(2)) * isqrt(head_width << 2 * BITS)), constants.SCORE_FRACTION)


@cache
def temperature_factor(temperature: Fraction) -> int:
    """Return log2(e) / temperature in units of 2**-24, correctly rounded."""
    scaled = ONE * ONE // ln(Fraction(2)) * temperature.denominator // temperature.numerator
    return nearest(scaled, constants.SAMPLING_FRACTION)


@cache
def frequency(pair: int, head_width: int, rotation: Rotation) -> int:
    """Return the angle by which a position turns a pair, in radians times 2**BITS."""
    plain = exp(-ln(rotation.theta) * 2 * pair // head_width)
    slow = plain * rotation.factor.denominator // rotation.factor.numerator
    if rotation.low is None or rotation.high is None or rotation.context is None:
        return slow
    turns = Fraction(rotation.context * plain, 2 * pi())
    share = (turns - rotation.low) / (rotation.high - rotation.low)
    return slow + int((plain - slow) * min(max(share, Fraction(0)), Fraction(1)))


@cache
def rope(position: int, pair: int, head_width: int, rotation: Rotation) -> tuple[int, int]:
    """Return (cos, sin) of a position's angle for a pair in units of 2**-30, correctly rounded.

    Implements: FXP-R8.
    """
    if position == 0:
        return 1 << constants.ROPE_FRACTION, 0
    cos, sin = cos_sin(position * frequency(pair, head_width, rotation))
    return nearest(cos, constants.ROPE_FRACTION), nearest(sin, constants.ROPE_FRACTION)


@cache
def normal_tail() -> tuple[int, ...]:
    """Return Phi(-i / 512) for i from 0 to 3072 in units of 2**-30, correctly rounded.

    Implements: FXP-R14.
    """
    count = constants.CDF_LIMIT << constants.CDF_STEP_FRACTION
    scale = isqrt(2 * pi() << BITS)
    return tuple(
        nearest(ONE // 2 - _odd_series(i) * ONE // scale, constants.EXP2_FRACTION) for i in range(count + 1)
    )


def _odd_series(step: int) -> int:
    """Return the integral of exp(-t**2 / 2) from 0 to x = step / 512, times 2**BITS."""
    square = Fraction(step, 1 << constants.CDF_STEP_FRACTION) ** 2 / 2
    power, total, k = step * ONE >> constants.CDF_STEP_FRACTION, 0, 0
    while power:
        total += power // (2 * k + 1) if k % 2 == 0 else -(power // (2 * k + 1))
        k += 1
        power = power * square.numerator // (square.denominator * k)
    return total
