"""What the tests have in common: refusals as values, scaled effort, and one independent ChaCha20."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from math import floor
from typing import Final

from hypothesis import settings

from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Address, Domain, ListedTape

DIGITS: Final = 60
"""Decimal places of `decimal`, whose exp, ln and sqrt are correctly rounded."""
PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
"""The circle's number to 80 places."""
SEED: Final = bytes(range(32))
"""A seed whose bytes all differ."""


def refusal(call: Callable[..., object], *arguments: object) -> Refusal | None:
    """Return the name under which a call refuses, or None if it returns."""
    try:
        call(*arguments)
    except Refused as refused:
        return refused.reason
    return None


def examples(count: int) -> settings:
    """Return settings for `count` examples where the profile asks for 100, and in proportion elsewhere."""
    return settings(max_examples=max(10, count * settings().max_examples // 100))


def nearest(value: Fraction) -> int:
    """Return the nearest integer, halves up."""
    return floor(value + Fraction(1, 2))


def clipped(value: int, limit: int) -> int:
    """Return value brought into [-limit, limit]."""
    return min(max(value, -limit), limit)


def nearest_decimal(value: Decimal) -> int:
    """Return the nearest integer to a value that is no tie."""
    with localcontext() as context:
        context.prec = DIGITS
        return int(value.to_integral_value())


def ln(value: Fraction) -> Decimal:
    """Return the natural logarithm to 60 digits."""
    with localcontext() as context:
        context.prec = DIGITS
        return (Decimal(value.numerator) / value.denominator).ln()


def power_of_two(numerator: int, denominator: int) -> Decimal:
    """Return 2**(numerator / denominator) to 60 digits."""
    with localcontext() as context:
        context.prec = DIGITS
        return (Decimal(2).ln() * numerator / denominator).exp()


def cosine_and_sine(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Return (cos, sin) of an angle of at most 2**17 radians, to 50 places, by their power series."""
    with localcontext() as context:
        context.prec = DIGITS + 10
        rest = angle % (2 * PI)
        sums, term, n = [Decimal(0)] * 4, Decimal(1), 0
        while abs(term) > Decimal(10) ** -DIGITS:
            sums[n % 4] += term
            n += 1
            term = term * rest / n
        return sums[0] - sums[2], sums[1] - sums[3]


def upper_tail(x: Decimal) -> Decimal:
    """Return 1 - Phi(x) for 0 <= x <= 6, to 40 places, by a series of positive terms."""
    with localcontext() as context:
        context.prec = DIGITS
        term, total, n = x, Decimal(0), 1
        while term > Decimal(10) ** -45:
            total += term
            n += 2
            term = term * x * x / n
        density = (-x * x / 2).exp() / (2 * PI).sqrt()
        return Decimal("0.5") - density * total


def rotated(word: int, by: int) -> int:
    """Return a 32-bit word rotated left."""
    return (word << by | word >> (32 - by)) & 0xFFFFFFFF


def chacha20(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Return the 64-byte block of RFC 8439, section 2.3, as this suite understands it."""
    text = b"expand 32-byte k" + key + counter.to_bytes(4, "little") + nonce
    start = [int.from_bytes(text[4 * i : 4 * i + 4], "little") for i in range(16)]
    x = list(start)
    for turn in range(80):
        place, diagonal = turn % 4, turn // 4 % 2
        a, b, c, d = (4 * row + (place + row * diagonal) % 4 for row in range(4))
        for target, source, changed, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[target] = (x[target] + x[source]) & 0xFFFFFFFF
            x[changed] = rotated(x[changed] ^ x[target], by)
    return b"".join(((a + b) & 0xFFFFFFFF).to_bytes(4, "little") for a, b in zip(x, start, strict=True))


def noise_tape(draws: Mapping[tuple[int, int], Sequence[int]]) -> ListedTape:
    """Return a tape with the words of these geometric draws, each named by its (stream, number)."""
    listed: dict[Address, int] = {}
    for (stream, draw), words in draws.items():
        retry = stream + (draw + 1) * 2**64
        places = [(stream, draw), *((retry, index) for index in range(len(words)))]
        listed |= {(Domain.NOISE, *place): word for place, word in zip(places, words, strict=False)}
    return ListedTape(listed)


def halving_word(k: int) -> int:
    """Return a word whose geometric draw with alpha 1/2 is k, 0 <= k < 64."""
    return (1 << (64 - k)) - 1
