"""From real weights to integers, in exact rational arithmetic: what `veil import` does once."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, isfinite

from veil_spec import constants
from veil_spec.architecture import Precision
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import WeightRow


def _exact(values: Sequence[float]) -> list[Fraction]:
    """Return the values as exact rationals.

    Implements: MDL-R12.
    Refuses: WEIGHT_NOT_FINITE.
    """
    if not all(isfinite(value) for value in values):
        raise Refused(Refusal.WEIGHT_NOT_FINITE)
    return [Fraction(value) for value in values]


def floor_log2(x: Fraction) -> int:
    """Return the largest n with 2**n <= x, x > 0."""
    n = x.numerator.bit_length() - x.denominator.bit_length()
    return n if Fraction(2) ** n <= x else n - 1


def quantise_weights(weights: Sequence[float], precision: Precision = Precision.W16A16) -> WeightRow:
    """Return one output channel as integers within the precision's limit, a 15-bit mantissa and an exponent.

    Implements: MDL-R1.
    Refuses: WEIGHT_NOT_FINITE.
    """
    exact = _exact(weights)
    peak = max(abs(weight) for weight in exact) / precision.weight_limit
    if peak == 0:
        return WeightRow((0,) * len(exact), 2 ** (constants.MANTISSA_BITS - 1), 0)
    exponent = constants.MANTISSA_BITS - 1 - floor_log2(peak)
    if ceil(peak * Fraction(2) ** exponent) >= 2**constants.MANTISSA_BITS:
        exponent -= 1
    mantissa = ceil(peak * Fraction(2) ** exponent)
    unit = mantissa / Fraction(2) ** exponent
    return WeightRow(tuple(round(weight / unit) for weight in exact), mantissa, exponent)


def quantise_gains(gains: Sequence[float]) -> tuple[Sequence[int], int]:
    """Return gains or biases as integers of at most 24 bits and one exponent for all.

    Implements: MDL-R2.
    Refuses: WEIGHT_NOT_FINITE.
    """
    exact = _exact(gains)
    peak = max(abs(gain) for gain in exact)
    exponent = constants.GAIN_BITS - 1 - floor_log2(peak) if peak else 0
    return [round(gain * Fraction(2) ** exponent) for gain in exact], exponent
