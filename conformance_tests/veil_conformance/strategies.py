"""Hypothesis strategies for everything that an operation takes."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from hypothesis import strategies as st

from veil_conformance.tiny_model import ENCODER, LLAMA3, PLAIN, SMALL
from veil_spec import constants
from veil_spec.architecture import DecoderShape, EncoderShape, Precision, Rotation
from veil_spec.types import (
    Frame,
    FrameKind,
    Part,
    Quantised,
    Sampling,
    Table,
    TabulatedPart,
    TabulatedTable,
)

moduli = st.sampled_from(constants.PRIMES)
"""The fields of linear groups."""
fields = st.sampled_from((*constants.PRIMES, constants.LWE_MODULUS))
"""The fields in which a worker multiplies."""
words = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
"""Tape words."""
seeds = st.binary(min_size=32, max_size=32)
"""Tape seeds."""
activations = st.integers(-constants.ACTIVATION_LIMIT, constants.ACTIVATION_LIMIT)
"""Quantised activations."""
weights = st.integers(-constants.WEIGHT_LIMIT, constants.WEIGHT_LIMIT)
"""Weights of a linear map."""
half_weights = st.integers(-128, 127) | st.sampled_from([-128, 127])
"""Weights that profile `lwe` sends: one half of a weight."""
rotations = st.sampled_from(
    [
        PLAIN,
        Rotation(Fraction(3, 2)),
        Rotation(Fraction(100_000), Fraction(4)),
        Rotation(Fraction(2**40 - 1), Fraction(9, 8)),
        LLAMA3,
        Rotation(Fraction(500_000), Fraction(32), Fraction(1), Fraction(4), 8192),
        Rotation(Fraction(10_000), Fraction(1024), Fraction(1, 7), Fraction(1024), 2**17),
    ]
)
"""Rotations without a factor, with one for all waves, and with one for long waves."""
precisions = st.sampled_from(Precision)
"""Bits of weights and activations."""
head_widths = st.sampled_from([2, 4, 8, 64])
"""Widths of an attention head."""
small_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=4)
"""Scores whose exact law is cheap."""
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
"""Weights as a checkpoint holds them."""


def signed(limit: int) -> st.SearchStrategy[int]:
    """Return integers of every magnitude in [-limit, limit]."""
    bits = st.integers(0, limit.bit_length())
    return bits.flatmap(lambda n: st.integers(-min(limit, 2**n), min(limit, 2**n)))


@st.composite
def alphas(draw: st.DrawFn) -> Fraction:
    """Return a noise parameter that keeps exact arithmetic cheap."""
    denominator = draw(st.sampled_from([2, 3, 5, 16, 100, 2**16]))
    return Fraction(draw(st.integers(1, max(1, denominator * 7 // 8))), denominator)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Return a small sanitizer table."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    names = iter(range(sum(sizes)))
    parts = []
    for size in sizes:
        rows = st.lists(st.integers(-3, 3), min_size=size, max_size=size).map(tuple)
        scores = draw(st.lists(rows, min_size=size, max_size=size).map(tuple))
        parts.append(Part(tuple(f"t{next(names)}" for _ in range(size)), scores))
    return Table("drawn", tuple(parts))


vectors = st.lists(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-9, 9).map(float)
    | st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1e308, -1e308]),
    min_size=1,
    max_size=5,
)
"""Vectors of finite numbers, also very small and very large ones."""


@st.composite
def directions(draw: st.DrawFn, least: int = 1) -> list[list[int]]:
    """Return directions of at least so many entries, 2**12 long or less and often equally similar."""
    width, limit = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 2000]))
    return draw(matrices(st.integers(-limit, limit), draw(st.integers(least, 9)), width))


@st.composite
def weight_rows(draw: st.DrawFn, most: int) -> tuple[int, ...]:
    """Return positive integers with the sum 2**64, at most so many, often as small or large as can be."""
    return draw(_weights(draw(st.integers(1, most))))


@st.composite
def _weights(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    inside = st.integers(1, 2**64 - 1) | st.integers(1, 9) | st.integers(2**64 - 9, 2**64 - 1)
    cuts = draw(st.lists(inside, min_size=size - 1, max_size=size - 1, unique=True))
    edges = [0, *sorted(cuts), 2**64]
    return tuple(high - low for low, high in pairwise(edges))


@st.composite
def tabulated_tables(draw: st.DrawFn) -> TabulatedTable:
    """Return a small tabulated table with the claim 64, which 64-bit weights always meet."""
    parts = []
    for part in draw(tables()).parts:
        size = len(part.tokens)
        weights = draw(st.lists(_weights(size), min_size=size, max_size=size).map(tuple))
        parts.append(TabulatedPart(part.tokens, part.scores, weights))
    return TabulatedTable("drawn", "64", tuple(parts))


@st.composite
def table_levels(draw: st.DrawFn) -> list[TabulatedTable]:
    """Return one table with different weights at one to three levels."""
    first = draw(tabulated_tables())
    levels = []
    for epsilon in ("1", "2.5", "64")[-draw(st.integers(1, 3)) :]:
        weights = [
            draw(st.lists(_weights(len(part.tokens)), min_size=len(part.tokens), max_size=len(part.tokens)))
            for part in first.parts
        ]
        parts = [replace(part, weights=tuple(rows)) for part, rows in zip(first.parts, weights, strict=True)]
        levels.append(replace(first, epsilon=epsilon, parts=tuple(parts)))
    return levels


def matrices(cells: st.SearchStrategy[int], rows: int, columns: int) -> st.SearchStrategy[list[list[int]]]:
    """Return matrices of one shape [rows, columns]."""
    return st.lists(st.lists(cells, min_size=columns, max_size=columns), min_size=rows, max_size=rows)


@st.composite
def quantised(draw: st.DrawFn, width: int) -> Quantised:
    """Return a quantised row of this width."""
    values = draw(st.lists(activations, min_size=width, max_size=width))
    return Quantised(tuple(values), draw(st.integers(-20, 40)))


@st.composite
def shapes(draw: st.DrawFn) -> DecoderShape:
    """Return the shape of a tiny decoder: any widths, grouped heads, any switches."""
    kv_heads, switch = draw(st.integers(1, 2)), st.booleans()
    return DecoderShape(
        vocabulary=draw(st.integers(2, 9)),
        width=draw(st.integers(1, 7)),
        inner=draw(st.integers(1, 6)),
        layers=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_width=draw(st.sampled_from([2, 4, 6])),
        context=SMALL.context,
        rotation=draw(rotations),
        norm_epsilon=draw(st.sampled_from([Fraction(1, 100_000), Fraction(1, 2**40)])),
        tied=draw(switch),
        qkv_biased=draw(switch),
        o_biased=draw(switch),
        mlp_biased=draw(switch),
        head_norms=draw(switch),
        window=draw(st.integers(0, 3)),
    )


@st.composite
def encoder_shapes(draw: st.DrawFn) -> EncoderShape:
    """Return the shape of a tiny encoder with a classifier: any widths, heads and types."""
    heads = draw(st.integers(1, 3))
    return replace(
        ENCODER,
        vocabulary=draw(st.integers(2, 9)),
        width=heads * draw(st.integers(1, 3)),
        inner=draw(st.integers(1, 7)),
        layers=draw(st.integers(1, 2)),
        heads=heads,
        context=draw(st.integers(4, 7)),
        types=draw(st.integers(1, 3)),
        labels=draw(st.integers(1, 3)),
    )


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    """Return any sampling, the ends of its ranges included."""
    temperature = st.fractions(Fraction(1, 64), 64, max_denominator=1000) | st.sampled_from(
        [Fraction(1, 64), Fraction(1), Fraction(64)]
    )
    share = st.fractions(0, 1, max_denominator=1000).filter(bool) | st.just(Fraction(1))
    return Sampling(draw(temperature), draw(st.none() | st.integers(1, 9)), draw(share))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Return any frame that `decode` accepts, with a small payload."""
    kind = draw(st.sampled_from(FrameKind))
    if kind == FrameKind.REFUSAL:
        return Frame(kind, bytes(16), 0, 0, 0, 0, 0, 0, 0, b"")
    epoch = draw(st.binary(min_size=16, max_size=16))
    if kind in (FrameKind.HELLO, FrameKind.WELCOME):
        return Frame(kind, epoch, 0, 0, 0, 0, 0, 0, 0, draw(st.binary(min_size=32, max_size=32)))
    numbers = st.integers(0, 2**32 - 1)
    if kind in (FrameKind.ASK, FrameKind.SEED):
        size = 8 if kind == FrameKind.ASK else 32
        payload = draw(st.binary(min_size=size, max_size=size))
        return Frame(kind, epoch, 0, draw(numbers), 0, 0, 0, 0, 0, payload)
    group, step, first = draw(numbers), draw(numbers), draw(st.integers(0, 2**20))
    widths = [6] if kind in (FrameKind.EMBEDDED, FrameKind.ANSWER) else [4, 5, 6, 8]
    rows, columns, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.sampled_from(widths))
    size = rows * columns * width
    payload = draw(st.binary(min_size=size, max_size=size))
    total = first + rows + draw(st.integers(0, 9))
    return Frame(kind, epoch, group, step, first, rows, total, columns, width, payload)
