"""Correctly rounded tables: exp2 by decimal arithmetic, RoPE by a repeated integer rotation."""

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Final

import torch

from veil_spec import constants

DIGITS: Final = 60
"""Decimal places; decimal's exp, ln and sqrt are correctly rounded at any precision."""
ROTATION_BITS: Final = 160
"""Fractional bits of the rotation: after 2**14 steps its error is below 2**-140."""


def _nearest(value: Decimal, fraction: int) -> int:
    with localcontext() as context:
        context.prec = DIGITS
        scaled = value * 2**fraction
        rounded = int(scaled.to_integral_value())
        if abs(abs(scaled - rounded) - Decimal("0.5")) < Decimal("1e-20"):
            raise ArithmeticError("a table entry lies too close to a tie")
        return rounded


@cache
def exp2_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return (2**(-i / 256), 2**(-i / 65536)) for i below 256, int64 in units of 2**-30, correctly rounded.

    Implements: FXP-R4.
    """
    with localcontext() as context:
        context.prec = DIGITS
        ln2 = Decimal(2).ln()
        digits = [[(-ln2 * i / steps).exp() for i in range(256)] for steps in (2**8, 2**16)]
    coarse, fine = ([_nearest(value, constants.EXP2_FRACTION) for value in row] for row in digits)
    return torch.tensor(coarse), torch.tensor(fine)


@cache
def log2e() -> int:
    """Return log2(e) in units of 2**-30, correctly rounded."""
    with localcontext() as context:
        context.prec = DIGITS
        return _nearest(1 / Decimal(2).ln(), constants.LOG2E_FRACTION)


@cache
def score_factor(head_width: int) -> int:
    """Return log2(e) / sqrt(head_width) in units of 2**-27, correctly rounded."""
    with localcontext() as context:
        context.prec = DIGITS
        return _nearest(1 / (Decimal(2).ln() * Decimal(head_width).sqrt()), constants.SCORE_FRACTION)


def _unit_rotation(pair: int, head_width: int, theta: Fraction) -> tuple[int, int]:
    with localcontext() as context:
        context.prec = DIGITS
        log = (Decimal(theta.numerator) / theta.denominator).ln()
        angle = (-2 * pair * log / head_width).exp()
        cos, sin, term, k = Decimal(0), Decimal(0), Decimal(1), 0
        while abs(term) > Decimal(10) ** -DIGITS:
            if k % 2:
                sin += term if k % 4 == 1 else -term
            else:
                cos += term if k % 4 == 0 else -term
            k += 1
            term = term * angle / k
        scale = Decimal(2) ** ROTATION_BITS
        return int(cos * scale), int(sin * scale)


def _round(scaled: int) -> int:
    dropped = ROTATION_BITS - constants.ROPE_FRACTION
    value, rest = divmod(scaled + (1 << (dropped - 1)), 1 << dropped)
    if min(rest, (1 << dropped) - rest) < 1 << 40:
        raise ArithmeticError("a table entry lies too close to a tie")
    return value


@cache
def rope(context: int, head_width: int, theta: Fraction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cos, sin) for every position below context and every pair, int64 [context, head_width / 2].

    Each entry is correctly rounded in units of 2**-30. Instead of a series for each position, one rotation is
    repeated; the entries agree with the reference because both are the nearest integers.

    Implements: FXP-R8.
    """
    columns = [_turns(context, *_unit_rotation(pair, head_width, theta)) for pair in range(head_width // 2)]
    entries = torch.tensor(columns).permute(2, 1, 0)
    return entries[0].contiguous(), entries[1].contiguous()


def _turns(count: int, unit_cos: int, unit_sin: int) -> list[tuple[int, int]]:
    cos, sin, turns = 1 << ROTATION_BITS, 0, []
    for position in range(count):
        turns.append((_round(cos), _round(sin)) if position else (1 << constants.ROPE_FRACTION, 0))
        cos, sin = (
            (cos * unit_cos - sin * unit_sin) >> ROTATION_BITS,
            (cos * unit_sin + sin * unit_cos) >> ROTATION_BITS,
        )
    return turns
