"""Correctly rounded tables: series by decimal arithmetic, RoPE by repeated integer rotations in blocks."""

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Final

import torch

from veil_spec import constants
from veil_spec.architecture import Rotation

DIGITS: Final = 60
"""Decimal places; decimal's exp, ln and sqrt are correctly rounded at any precision."""
ROTATION_BITS: Final = 160
"""Fractional bits of a rotation: after 2**17 steps its error is below 2**-140."""
COARSE_BITS: Final = 58
"""Fractional bits of the rotations whose products make up a block."""
LIMB_BITS: Final = COARSE_BITS // 2
"""A word of a block is two limbs: sums of four products of them stay below 2**61."""
BLOCK: Final = 256
"""Positions that are computed together."""
DOUBT: Final = 8
"""Products err by less than 5 units of 2**-58: an entry this near to a tie is computed anew."""

Pair = tuple[int, int]
"""(cos, sin) in units of 2**-160."""
CPU: Final = torch.device("cpu")


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / value.denominator


def _nearest(value: Decimal, fraction: int) -> int:
    with localcontext() as context:
        context.prec = DIGITS
        scaled = value * 2**fraction
        rounded = int(scaled.to_integral_value())
        if abs(abs(scaled - rounded) - Decimal("0.5")) < Decimal("1e-20"):
            raise ArithmeticError("a table entry lies too close to a tie")
        return rounded


@cache
def powers(device: torch.device = CPU) -> torch.Tensor:
    """Return the powers of two below 2**63, int64 [63]."""
    return torch.tensor([1 << n for n in range(63)], device=device)


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
def exp2_products(device: torch.device = CPU) -> torch.Tensor:
    """Return the product of both exp2 entries for each of the 65,536 fractions, in units of 2**-60."""
    coarse, fine = exp2_digits()
    return (coarse.unsqueeze(-1) * fine).flatten().to(device)


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


@cache
def pi() -> Decimal:
    """Return pi to 55 places at least, by the arithmetic-geometric mean of 1 and sqrt(1/2)."""
    with localcontext() as context:
        context.prec = DIGITS
        a, b, rest, weight = Decimal(1), 1 / Decimal(2).sqrt(), Decimal("0.25"), 1
        for _ in range(7):
            mean = (a + b) / 2
            b, rest, weight = (a * b).sqrt(), rest - weight * (a - mean) ** 2, 2 * weight
            a = mean
        return a * a / rest


@cache
def normal_tail() -> torch.Tensor:
    """Return Phi(-i / 512) for i from 0 to 3072, int64 in units of 2**-30, correctly rounded.

    Phi(-x) is 1/2 less the density at x times the sum of x**(2 k + 1) / (1 * 3 * ... * (2 k + 1)).

    Implements: FXP-R14.
    """
    with localcontext() as context:
        context.prec = DIGITS
        scale = 1 / (2 * pi()).sqrt()
        places = [Decimal(i) / 2**constants.CDF_STEP_FRACTION for i in range(_cells() + 1)]
        tails = [Decimal("0.5") - scale * (-x * x / 2).exp() * _positive_series(x) for x in places]
    return torch.tensor([_nearest(tail, constants.EXP2_FRACTION) for tail in tails])


def _cells() -> int:
    return constants.CDF_LIMIT << constants.CDF_STEP_FRACTION


def _positive_series(x: Decimal) -> Decimal:
    square, term, total, odd = x * x, x, Decimal(0), 1
    while term > Decimal("1e-50"):
        total += term
        odd += 2
        term = term * square / odd
    return total


@cache
def normal_cells(device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each entry of `normal_tail` and by how much the next one is less; both are 0 at the last."""
    tail = normal_tail()
    start, fall = tail.clone(), tail - tail.roll(-1)
    start[-1] = fall[-1] = 0
    return start.to(device), fall.to(device)


def _frequency(pair: int, head_width: int, rotation: Rotation) -> Decimal:
    """Return the angle between neighbouring positions, in radians, to 55 places in a context of DIGITS."""
    plain = (-2 * pair * _decimal(rotation.theta).ln() / head_width).exp()
    slow = plain / _decimal(rotation.factor)
    if rotation.low is None or rotation.high is None or rotation.context is None:
        return slow
    turns = rotation.context * plain / (2 * pi())
    share = (turns - _decimal(rotation.low)) / _decimal(rotation.high - rotation.low)
    return slow + (plain - slow) * max(Decimal(0), min(Decimal(1), share))


@cache
def _step(pair: int, head_width: int, rotation: Rotation) -> Pair:
    """Return the rotation from one position to the next."""
    with localcontext() as context:
        context.prec = DIGITS
        angle = _frequency(pair, head_width, rotation)
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


def _turned(left: Pair, right: Pair) -> Pair:
    (a, b), (c, d) = left, right
    return (a * c - b * d) >> ROTATION_BITS, (a * d + b * c) >> ROTATION_BITS


def _repeated(step: Pair, times: int) -> Pair:
    """Return a rotation repeated: squared for each bit of `times`."""
    total = (1 << ROTATION_BITS, 0)
    while times:
        total = _turned(total, step) if times & 1 else total
        step, times = _turned(step, step), times >> 1
    return total


def _round(scaled: int) -> int:
    dropped = ROTATION_BITS - constants.ROPE_FRACTION
    value, rest = divmod(scaled + (1 << (dropped - 1)), 1 << dropped)
    if min(rest, (1 << dropped) - rest) < 1 << 40:
        raise ArithmeticError("a table entry lies too close to a tie")
    return value


def rope(
    count: int, head_width: int, rotation: Rotation, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cos, sin) of `count` positions from `first` on, for every pair: int64 [count, head_width / 2].

    Each entry is correctly rounded in units of 2**-30. Blocks of positions are computed when they are first
    asked for, so that a short prompt does not pay for a long context. The entries agree with the reference,
    which takes a series for each, because both are the nearest integers.

    Implements: FXP-R8.
    """
    end = first + count
    parts = [
        _block(number, head_width, rotation)[:, max(0, first - number * BLOCK) : end - number * BLOCK]
        for number in range(first // BLOCK, (end - 1) // BLOCK + 1)
    ]
    cos, sin = torch.cat(parts, 1).to(torch.int64)
    return cos, sin


@cache
def _block(number: int, head_width: int, rotation: Rotation) -> torch.Tensor:
    """Return the entries of a block of positions: int32 [2, 256, head_width / 2].

    The block's first rotation times each of the first 256, in limbs; an entry near a tie is computed anew.
    """
    pairs = range(head_width // 2)
    steps = [_step(pair, head_width, rotation) for pair in pairs]
    turned = _turned_limbs(
        _words([[_repeated(step, number * BLOCK) for step in steps]]), _small(tuple(steps))
    )
    dropped = COARSE_BITS - constants.ROPE_FRACTION
    raised = turned + (1 << (dropped - 1))
    rest = raised & ((1 << dropped) - 1)
    entries = (raised >> dropped).to(torch.int32)
    doubtful = torch.minimum(rest, (1 << dropped) - 1 - rest) < DOUBT
    for part, position, pair in doubtful.nonzero().tolist():
        entries[part, position, pair] = _round(_repeated(steps[pair], number * BLOCK + position)[part])
    return entries


@cache
def _small(steps: tuple[Pair, ...]) -> torch.Tensor:
    """Return the rotations of positions 0 to 255: int64 [2, 256, pairs] in units of 2**-58."""
    rows = [[(1 << ROTATION_BITS, 0)] * len(steps)]
    while len(rows) < BLOCK:
        rows.append([_turned(total, step) for total, step in zip(rows[-1], steps, strict=True)])
    return _words(rows)


def _words(rows: list[list[Pair]]) -> torch.Tensor:
    """Return rotations in units of 2**-58, rounded down: int64 [2, positions, pairs]."""
    dropped = ROTATION_BITS - COARSE_BITS
    words = [[(cos >> dropped, sin >> dropped) for cos, sin in row] for row in rows]
    return torch.tensor(words).permute(2, 0, 1)


def _turned_limbs(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the products of rotations, units of 2**-58: their lowest limb products are left out."""
    (a, b), (c, d) = left, right
    cos, sin = _product(a, c) - _product(b, d), _product(a, d) + _product(b, c)
    return torch.stack([high + (middle >> LIMB_BITS) for high, middle in (cos, sin)])


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the high and the middle sum of limb products, stacked."""
    (a, b), (c, d) = ((word >> LIMB_BITS, word & ((1 << LIMB_BITS) - 1)) for word in (left, right))
    return torch.stack((a * c, a * d + b * c))
