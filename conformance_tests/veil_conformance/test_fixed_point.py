"""Fixed point: every operation against its definition in exact arithmetic, and against the real function."""

from decimal import Decimal, localcontext
from fractions import Fraction
from math import cos, isqrt, sin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import DIGITS, clipped, examples, ln, nearest, nearest_decimal, power_of_two
from veil_spec import constants
from veil_spec.interface import Implementation
from veil_spec.types import Quantised

ONE = 2**30
LIMITS = (32767, 2**24, 2**30 - 1, 2**40, 2**46 - 1)


def rescaled(value: int, shift: int, limit: int) -> int:
    """Return rescale(value, shift, limit) by its definition."""
    return clipped(nearest(value / Fraction(2) ** min(shift, 62)), limit)


@pytest.mark.requirement("FXP-R1")
@given(value=strategies.signed(2**62), shift=st.integers(0, 62))
@example(value=-3, shift=1)
@example(value=3, shift=1)
@example(value=-(2**62), shift=62)
@example(value=5, shift=0)
def test_round_shift_is_the_nearest_integer_halves_up(impl: Implementation, value: int, shift: int) -> None:
    assert impl.round_shift(value, shift) == nearest(Fraction(value, 2**shift))


@pytest.mark.requirement("FXP-R2")
@given(value=strategies.signed(2**62), shift=st.integers(-80, 200), limit=st.sampled_from(LIMITS))
@example(value=1, shift=-30, limit=2**30 - 1)
@example(value=2**61, shift=90, limit=32767)
@example(value=2**16, shift=1, limit=32767)
def test_rescale_rounds_multiplies_and_saturates(
    impl: Implementation, value: int, shift: int, limit: int
) -> None:
    assert impl.rescale(value, shift, limit) == rescaled(value, shift, limit)


@pytest.mark.requirement("FXP-R3")
@given(row=st.lists(strategies.signed(2**62), min_size=1, max_size=6), fraction=st.integers(0, 60))
@example(row=[0, 0], fraction=18)
@example(row=[2**20 - 1, -1], fraction=18)
@example(row=[-(2**20), 2**19], fraction=24)
def test_quantise_keeps_sixteen_bits_of_the_largest_word(
    impl: Implementation, row: list[int], fraction: int
) -> None:
    largest = max(abs(word) for word in row)
    shift = next(s for s in range(-15, 64) if largest < Fraction(2) ** (s + 15))
    expected = Quantised(tuple(rescaled(word, shift, 32767) for word in row), fraction - shift)
    assert impl.quantise(row, fraction) == expected


@pytest.mark.requirement("FXP-R4")
def test_the_coarse_table_is_correctly_rounded(impl: Implementation) -> None:
    coarse = list(impl.exp2_digits()[0])
    assert len(coarse) == 256 and coarse[0] == ONE
    for i, entry in enumerate(coarse):
        assert (2 * entry - 1) ** 256 < 2 ** (31 * 256 - i) < (2 * entry + 1) ** 256


@pytest.mark.requirement("FXP-R4")
def test_the_fine_table_is_correctly_rounded(impl: Implementation) -> None:
    expected = [nearest_decimal(ONE * power_of_two(-i, 65536)) for i in range(256)]
    assert list(impl.exp2_digits()[1]) == expected


@pytest.mark.requirement("FXP-R5")
@given(exponent=st.integers(-(2**41), 0) | st.integers(-(2**22), 0))
@example(exponent=-65536 * 32)
@example(exponent=-65536 * 32 - 1)
@example(exponent=-65535)
def test_exp2_is_a_product_of_two_table_entries(impl: Implementation, exponent: int) -> None:
    coarse, fine = impl.exp2_digits()
    whole, rest = divmod(-exponent, 65536)
    product = coarse[rest // 256] * fine[rest % 256]
    assert impl.exp2(exponent) == nearest(Fraction(product, 2 ** min(30 + whole, 62)))


@pytest.mark.requirement("FXP-R5")
def test_known_powers_of_two(impl: Implementation) -> None:
    expected = [2 ** (30 - n) for n in range(31)] + [1, 0]
    assert [impl.exp2(-65536 * n) for n in range(31)] == expected[:31]
    assert abs(impl.exp2(-32768) - isqrt(2**59)) < 2


@pytest.mark.requirement("FXP-R6")
@given(value=strategies.signed(2**30 - 1))
@example(value=2**30 - 1)
@example(value=-(2**30) + 1)
@example(value=-1050029)
def test_silu_follows_its_steps(impl: Implementation, value: int) -> None:
    log2e = nearest_decimal(ONE / ln(Fraction(2)))
    decay = impl.exp2(-nearest(Fraction(abs(value) * log2e, 2**32)))
    sigmoid = ONE * (ONE if value >= 0 else decay) // (ONE + decay)
    assert impl.silu(value) == nearest(Fraction(value * sigmoid, ONE))


@pytest.mark.requirement("FXP-R6")
@given(value=strategies.signed(2**30 - 1))
@examples(50)
def test_silu_is_close_to_the_real_function(impl: Implementation, value: int) -> None:
    with localcontext() as context:
        context.prec = DIGITS
        exact = value / (1 + (Decimal(-value) / 2**18).exp())
    assert abs(Fraction(exact) - impl.silu(value)) < 1 + Fraction(abs(value), 2**28)


@st.composite
def normed(draw: st.DrawFn) -> tuple[list[int], list[int], int, Fraction]:
    """Return a row with gains, their exponent and epsilon."""
    width = draw(st.integers(1, 9))
    row = draw(st.lists(strategies.signed(2**46 - 1), min_size=width, max_size=width))
    gains = draw(st.lists(strategies.signed(2**24 - 1), min_size=width, max_size=width))
    epsilon = st.sampled_from(
        [Fraction(1, 2**40), Fraction(1, 100_000), Fraction(1, 10**6), Fraction(1, 2**16)]
    )
    return row, gains, draw(st.integers(-5, 40)), draw(epsilon)


@pytest.mark.requirement("FXP-R7")
@given(given_=normed())
@example(given_=([0, 0], [2**23, 1], 23, Fraction(1, 2**16)))
@example(given_=([2**46 - 1] * 3, [2**24 - 1] * 3, 23, Fraction(1, 2**40)))
@example(given_=([1], [2**23], 23, Fraction(1, 2**40)))
def test_rms_norm_follows_its_steps(
    impl: Implementation, given_: tuple[list[int], list[int], int, Fraction]
) -> None:
    row, gains, exponent, epsilon = given_
    t = max(max(abs(word) for word in row).bit_length() - 24, -8)
    u = [rescaled(word, t, 2**24) for word in row]
    units = nearest(2**48 * epsilon)
    energy = sum(word * word for word in u) + len(row) * (units * Fraction(4) ** -t).__floor__()
    j = (62 - energy.bit_length()) // 2
    inverse = 2**34 * isqrt(2**44 * len(row)) // isqrt((energy * Fraction(4) ** j).__floor__())
    y = [nearest(Fraction(a * inverse, 2 ** (36 - j))) * gain for a, gain in zip(u, gains, strict=True)]
    assert impl.rms_norm(row, gains, exponent, epsilon) == impl.quantise(y, 20 + exponent)


@pytest.mark.requirement("FXP-R7")
@pytest.mark.parametrize("scale", [1, 2**10, 2**20, 2**40])
def test_a_constant_row_is_normalised_to_one(impl: Implementation, scale: int) -> None:
    made = impl.rms_norm([7 * scale * 2**5, -7 * scale * 2**5], [2**23, 2**23], 23, Fraction(1, 2**40))
    exact = 1 / (1 + Fraction(2**48, 2**40 * (7 * scale * 2**5) ** 2))
    squares = [Fraction(word) ** 2 / Fraction(4) ** made.exponent for word in made.values]
    assert all(abs(square - exact) < Fraction(1, 2**13) for square in squares)
    assert made.values[0] > 0 > made.values[1]


@pytest.mark.requirement("FXP-R8")
@given(
    position=st.integers(0, 600),
    pair=st.integers(0, 31),
    width=strategies.head_widths,
    theta=strategies.thetas,
)
def test_rope_entries_are_correctly_rounded(
    impl: Implementation, position: int, pair: int, width: int, theta: Fraction
) -> None:
    pair %= width // 2
    angle = position * float(theta) ** (-2 * pair / width)
    made = impl.rope(position, pair, width, theta)
    assert abs(made[0] - ONE * cos(angle)) < 0.5001 and abs(made[1] - ONE * sin(angle)) < 0.5001


@pytest.mark.requirement("FXP-R8")
def test_rope_at_the_ends_of_its_range(impl: Implementation) -> None:
    assert impl.rope(0, 0, 2, Fraction(10_000)) == (ONE, 0)
    cosine, sine = impl.rope(2**14 - 1, 0, 2, Fraction(10_000))
    assert abs(cosine - ONE * cos(2**14 - 1)) < 0.501 and abs(sine - ONE * sin(2**14 - 1)) < 0.501


@pytest.mark.requirement("FXP-R9")
@given(data=st.data(), width=strategies.head_widths)
def test_attention_scores_are_rescaled_products(
    impl: Implementation, data: st.DataObject, width: int
) -> None:
    query, key = data.draw(strategies.quantised(width)), data.draw(strategies.quantised(width))
    with localcontext() as context:
        context.prec = DIGITS
        factor = int((2**27 / (Decimal(2).ln() * Decimal(width).sqrt())).to_integral_value())
    product = sum(a * b for a, b in zip(query.values, key.values, strict=True))
    shift = query.exponent + key.exponent + 11
    assert impl.attention_score(query, key) == rescaled(product * factor, shift, 2**40)


@pytest.mark.requirement("FXP-R9")
def test_a_known_attention_score(impl: Implementation) -> None:
    unit = Quantised((2**14, 0, 0, 0), 14)
    assert impl.attention_score(unit, unit) == 47274
    """65536 * log2(e) / 2 is 47274.2."""


@pytest.mark.requirement("FXP-R10")
@given(data=st.data(), count=st.integers(1, 5), width=st.integers(1, 4))
def test_softmax_averages_are_rounded_quotients(
    impl: Implementation, data: st.DataObject, count: int, width: int
) -> None:
    near = st.integers(-(2**20), 2**20)
    scores = data.draw(st.lists(strategies.signed(2**40) | near, min_size=count, max_size=count))
    values = data.draw(strategies.matrices(strategies.signed(2**30 - 1), count, width))
    weights = [nearest(Fraction(impl.exp2(z - max(scores)), 2**12)) for z in scores]
    sums = [sum(e * v for e, v in zip(weights, column, strict=True)) for column in zip(*values, strict=True)]
    total = sum(weights)
    assert list(impl.softmax_average(scores, values)) == [(s + total // 2) // total for s in sums]


@pytest.mark.requirement("FXP-R10")
def test_equal_scores_average_equally(impl: Implementation) -> None:
    assert list(impl.softmax_average([5, 5, 5], [[9, -9], [0, 0], [3, -3]])) == [4, -4]
    assert list(impl.softmax_average([7, 7], [[3, -3], [0, 0]])) == [2, -1]
    assert list(impl.softmax_average([0, -(2**40)], [[7, -7], [2**30 - 1, 1]])) == [7, -7]


@pytest.mark.requirement("FXP-R11")
@given(data=st.data(), width=strategies.head_widths, position=st.integers(0, 300), theta=strategies.thetas)
@examples(60)
def test_rotation_turns_each_pair(
    impl: Implementation, data: st.DataObject, width: int, position: int, theta: Fraction
) -> None:
    limit = constants.HIDDEN_LIMIT
    row = data.draw(st.lists(strategies.signed(limit), min_size=width, max_size=width))
    half = width // 2
    expected = [0] * width
    for i in range(half):
        (c, s), a, b = impl.rope(position, i, width, theta), row[i], row[i + half]
        expected[i] = nearest(Fraction(a * c - b * s, ONE))
        expected[i + half] = nearest(Fraction(b * c + a * s, ONE))
    assert list(impl.rotate(row, position, theta)) == expected


@pytest.mark.requirement("FXP-R11")
def test_position_zero_turns_nothing(impl: Implementation) -> None:
    assert list(impl.rotate([1, -2, 3, 2**30 - 1], 0, Fraction(10_000))) == [1, -2, 3, 2**30 - 1]
