"""From logits to a token: greedily, or drawn by integer weights from one word of the tape."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Final

import torch

from veil_optimized.fixed_point import exp2, round_shift
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.types import Domain, Sampling

DIGITS: Final = 60
"""Decimal places: log2(e) over a rational lies on no half, and no temperature in use is this close to one."""


@cache
def temperature_factor(temperature: Fraction) -> int:
    """Return log2(e) / temperature in units of 2**-24, correctly rounded."""
    with localcontext() as context:
        context.prec = DIGITS
        scaled = 2**constants.SAMPLING_FRACTION / Decimal(2).ln() * temperature.denominator
        exact = scaled / temperature.numerator
        rounded = exact.to_integral_value(ROUND_HALF_EVEN)
        if abs(abs(exact - rounded) - Decimal("0.5")) < Decimal("1e-35"):
            raise ArithmeticError("the factor of a temperature lies too close to a tie")
        return int(rounded)


def greedy(row: torch.Tensor) -> int:
    """Return the lowest index of the largest logit.

    Implements: MDL-R10.
    """
    return int((row == row.max()).nonzero()[0, 0])


def make_sampling(temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
    """Return a sampling at this temperature, of at most `count` tokens that hold a `share` of the weight.

    Implements: MDL-R22.
    Refuses: SAMPLING_OUT_OF_RANGE.
    """
    return Sampling(temperature, count, share)


def sampling_weights(row: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the weight of each token of a row of logits, int64 [vocabulary], 0 for those left out.

    Implements: MDL-R20.
    """
    factor = temperature_factor(sampling.temperature)
    shift = constants.HIDDEN_FRACTION + constants.SAMPLING_FRACTION - constants.EXPONENT_FRACTION
    weights = exp2(-round_shift((row.max() - row) * factor, shift))
    order = torch.argsort(row, descending=True, stable=True)[: sampling.count]
    sums = weights[order].cumsum(0)
    enough = -(-sampling.share.numerator * int(sums[-1]) // sampling.share.denominator)
    order = order[: int((sums < enough).sum()) + 1]
    kept = torch.zeros_like(weights)
    kept[order] = weights[order]
    return kept


def sample_token(weights: torch.Tensor, tape: Tape, sample: int, token: int) -> int:
    """Return the index that new token `token` of sample `sample` is.

    Implements: MDL-R21.
    """
    sums = weights.cumsum(0)
    reached = tape.word(Domain.SAMPLING, sample, token) * int(sums[-1]) >> constants.WORD_BITS
    return int((sums <= reached).sum())
