"""From real weights to integers, row by row in float64 steps that are exact or provably rounded alike."""

from dataclasses import dataclass

import torch

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True)
class WeightRows:
    """Output channels: int16 values [outputs, inner], int32 mantissa and exponent [outputs]."""

    values: torch.Tensor
    mantissa: torch.Tensor
    exponent: torch.Tensor


def _exact(weights: torch.Tensor) -> torch.Tensor:
    """Return the weights in float64.

    Implements: MDL-R12.
    Refuses: WEIGHT_NOT_FINITE.
    """
    if not bool(torch.isfinite(weights).all()):
        raise Refused(Refusal.WEIGHT_NOT_FINITE)
    return weights.to(torch.float32).to(torch.float64)


def quantise_weights(weights: torch.Tensor) -> WeightRows:
    """Return float32 channels [outputs, inner] as 16-bit integers with a scale each.

    Float64 suffices: a weight times a power of two is exact, and a quotient of a 24-bit and a 15-bit integer
    lies on a half or at least 2**-40 of itself away from one, so it rounds as the exact quotient does.

    Implements: MDL-R1.
    Refuses: WEIGHT_NOT_FINITE.
    """
    exact = _exact(weights)
    peak = exact.abs().amax(-1)
    exponent = _scale_exponent(peak)
    mantissa = _ceil_quotient(peak, exponent)
    exponent = torch.where(mantissa >= 2**constants.MANTISSA_BITS, exponent - 1, exponent)
    mantissa = _ceil_quotient(peak, exponent)
    empty = peak == 0
    mantissa = torch.where(empty, 2 ** (constants.MANTISSA_BITS - 1), mantissa)
    exponent = torch.where(empty, 0, exponent)
    quotient = torch.ldexp(exact, exponent.unsqueeze(-1)) / mantissa.unsqueeze(-1)
    return WeightRows(quotient.round().to(torch.int16), mantissa.to(torch.int32), exponent.to(torch.int32))


def _scale_exponent(peak: torch.Tensor) -> torch.Tensor:
    """Return 14 - floor(log2(peak / 32639)): the floor is that of peak's exponent less 14, or one less."""
    fraction, binary = torch.frexp(peak)
    at_least = 2 * fraction * 2**14 >= constants.WEIGHT_LIMIT
    log = binary.to(torch.int64) - 1 - torch.where(at_least, 14, 15)
    return constants.MANTISSA_BITS - 1 - log


def _ceil_quotient(peak: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Return ceil(peak * 2**exponent / 32639), by an estimate corrected with exact products."""
    scaled = torch.ldexp(peak, exponent)
    estimate = (scaled / constants.WEIGHT_LIMIT).ceil()
    estimate = torch.where((estimate - 1) * constants.WEIGHT_LIMIT >= scaled, estimate - 1, estimate)
    return torch.where(estimate * constants.WEIGHT_LIMIT < scaled, estimate + 1, estimate).to(torch.int64)


def quantise_gains(gains: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return a norm's float32 gains as int32 integers of at most 24 bits and one exponent.

    Implements: MDL-R2.
    Refuses: WEIGHT_NOT_FINITE.
    """
    exact = _exact(gains)
    peak = exact.abs().max()
    exponent = constants.GAIN_BITS - int(torch.frexp(peak).exponent) if bool(peak > 0) else 0
    return torch.ldexp(exact, torch.tensor(exponent)).round().to(torch.int32), exponent
