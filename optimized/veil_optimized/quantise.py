"""From real weights to integers, row by row in float64 steps that are exact or provably rounded alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from veil_spec import constants
from veil_spec.architecture import Precision
from veil_spec.refusals import Refusal, Refused

BLOCK: Final = 2**17
"""Weights that are widened at a time: 1 MiB in float64, within a core's cache."""
WORDS: Final = {Precision.W16A16: torch.int16, Precision.W8A16: torch.int8}
"""The type of a weight's word."""


@dataclass(frozen=True, slots=True)
class WeightRows:
    """Output channels: int16 or int8 values [outputs, inner], int32 mantissa and exponent [outputs]."""

    values: torch.Tensor
    mantissa: torch.Tensor
    exponent: torch.Tensor


def _exact(weights: torch.Tensor) -> torch.Tensor:
    """Return the weights, rounded to float32 where they are wider, in float64.

    The least or the largest is no number if any weight is none.

    Implements: MDL-R12.
    Refuses: WEIGHT_NOT_FINITE.
    """
    single = weights.to(torch.float32)
    if not bool(torch.isfinite(torch.stack(torch.aminmax(single))).all()):
        raise Refused(Refusal.WEIGHT_NOT_FINITE)
    return single.to(torch.float64)


def quantise_weights(weights: torch.Tensor, precision: Precision = Precision.W16A16) -> WeightRows:
    """Return channels [outputs, inner] of any float type as integers with a scale each.

    Implements: MDL-R1.
    Refuses: WEIGHT_NOT_FINITE.
    """
    outputs = len(weights)
    made = WeightRows(
        torch.empty(weights.shape, dtype=WORDS[precision]),
        torch.empty(outputs, dtype=torch.int32),
        torch.empty(outputs, dtype=torch.int32),
    )
    start = 0
    for rows in row_blocks(weights, precision):
        part = slice(start, start + len(rows.values))
        made.values[part], made.mantissa[part], made.exponent[part] = (
            rows.values,
            rows.mantissa,
            rows.exponent,
        )
        start = part.stop
    return made


def row_blocks(weights: torch.Tensor, precision: Precision) -> Iterator[WeightRows]:
    """Yield the same a few rows at a time, so that few weights are widened at once.

    Refuses: WEIGHT_NOT_FINITE.
    """
    for block in torch.split(weights, max(1, BLOCK // weights.shape[-1])):
        yield _block(_exact(block), precision)


def _block(exact: torch.Tensor, precision: Precision) -> WeightRows:
    """Return float64 channels as integers.

    Float64 suffices: the unit M 2**-e is exact, so each weight is divided once. With w 2**e = a 2**k, a below
    2**24, the quotient a 2**k / M lies on a half or at least 1 / (2 M) away from one if k >= 0, which is more
    than 2**-31 of itself as it is below 2**15; if k < 0 at least 1 / (2 a) > 2**-25 of itself. So an error of
    2**-53 of itself moves it neither onto a half nor across one, and it rounds as the exact quotient does,
    whatever B is.
    """
    peak = exact.abs().amax(-1)
    exponent = _scale_exponent(peak, precision.weight_limit)
    mantissa = _ceil_quotient(peak, exponent, precision.weight_limit)
    exponent = torch.where(mantissa >= 2**constants.MANTISSA_BITS, exponent - 1, exponent)
    mantissa = _ceil_quotient(peak, exponent, precision.weight_limit)
    empty = peak == 0
    mantissa = torch.where(empty, 2 ** (constants.MANTISSA_BITS - 1), mantissa)
    exponent = torch.where(empty, 0, exponent)
    unit = torch.ldexp(mantissa.to(torch.float64), -exponent)
    values = (exact / unit.unsqueeze(-1)).round().to(WORDS[precision])
    return WeightRows(values, mantissa.to(torch.int32), exponent.to(torch.int32))


def _scale_exponent(peak: torch.Tensor, limit: int) -> torch.Tensor:
    """Return 14 - floor(log2(peak / limit)); with limit in [2**m, 2**(m + 1)), the floor is that of peak's
    exponent less m, or one less."""
    fraction, binary = torch.frexp(peak)
    whole = limit.bit_length() - 1
    at_least = 2 * fraction * 2**whole >= limit
    log = binary.to(torch.int64) - 1 - torch.where(at_least, whole, whole + 1)
    return constants.MANTISSA_BITS - 1 - log


def _ceil_quotient(peak: torch.Tensor, exponent: torch.Tensor, limit: int) -> torch.Tensor:
    """Return ceil(peak * 2**exponent / limit).

    The quotient is below 2**16 and, as peak has 24 bits and the product is 2**20 or more, whole or at
    least 2**-4 / limit > 2**-19 away from one: more than float64's error of 2**-37.
    """
    return (torch.ldexp(peak, exponent) / limit).ceil().to(torch.int64)


def quantise_gains(gains: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return gains or biases as int32 integers of at most 24 bits and one exponent for all.

    Implements: MDL-R2.
    Refuses: WEIGHT_NOT_FINITE.
    """
    exact = _exact(gains)
    peak = exact.abs().max()
    exponent = constants.GAIN_BITS - int(torch.frexp(peak).exponent) if bool(peak > 0) else 0
    return torch.ldexp(exact, torch.tensor(exponent)).round().to(torch.int32), exponent
