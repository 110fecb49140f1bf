"""Fixed point: every operation against its definition in exact arithmetic, and against the real function."""

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from math import isqrt, tanh

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import (
    DIGITS,
    PI,
    clipped,
    cosine_and_sine,
    examples,
    ln,
    nearest,
    nearest_decimal,
    power_of_two,
    upper_tail,
)
from veil_conformance.tiny_model import LLAMA3, PLAIN
from veil_spec import constants
from veil_spec.architecture import Rotation
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
@example(exponent=-65793)
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
@example(given_=([1], [2**23], 23, Fraction(5131, 20 * 2**48)))
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


@cache
def turns(rotation: Rotation, pair: int, width: int) -> Decimal:
    """Return the angle of a pair for one position by the page's definition of F, to 55 places."""
    with localcontext() as context:
        context.prec = DIGITS + 10
        plain = (-ln(rotation.theta) * 2 * pair / width).exp()
        slow = plain * rotation.factor.denominator / rotation.factor.numerator
        if rotation.low is None or rotation.high is None or rotation.context is None:
            return slow
        low, high = (Decimal(end.numerator) / end.denominator for end in (rotation.low, rotation.high))
        in_context = rotation.context * plain / (2 * PI)
        if in_context > high:
            return plain
        if in_context < low:
            return slow
        share = (in_context - low) / (high - low)
        return plain * ((1 - share) * rotation.factor.denominator / rotation.factor.numerator + share)


def rope_entry(position: int, pair: int, width: int, rotation: Rotation) -> tuple[int, int]:
    """Return the correctly rounded entry."""
    with localcontext() as context:
        context.prec = DIGITS + 10
        cosine, sine = cosine_and_sine(position * turns(rotation, pair, width))
        return nearest_decimal(ONE * cosine), nearest_decimal(ONE * sine)


@pytest.mark.requirement("FXP-R8")
@given(
    position=st.integers(0, 2**17 - 1) | st.integers(0, 9),
    pair=st.integers(0, 31),
    width=strategies.head_widths,
    rotation=strategies.rotations,
)
@example(position=1, pair=0, width=6, rotation=LLAMA3)
@example(position=1, pair=1, width=6, rotation=LLAMA3)
@example(position=1, pair=2, width=6, rotation=LLAMA3)
@example(position=2**17 - 1, pair=127, width=256, rotation=Rotation(Fraction(500_000), Fraction(8)))
@examples(60)
def test_rope_entries_are_correctly_rounded(
    impl: Implementation, position: int, pair: int, width: int, rotation: Rotation
) -> None:
    pair %= width // 2
    assert tuple(impl.rope(position, pair, width, rotation)) == rope_entry(position, pair, width, rotation)


@pytest.mark.requirement("FXP-R8")
@pytest.mark.parametrize("position", [1, 2**16, 2**17 - 2, 2**17 - 1])
def test_rope_at_the_ends_of_its_range(impl: Implementation, position: int) -> None:
    assert tuple(impl.rope(0, 0, 2, PLAIN)) == (ONE, 0)
    assert tuple(impl.rope(position, 0, 2, PLAIN)) == rope_entry(position, 0, 2, PLAIN)


@pytest.mark.requirement("FXP-R8")
@pytest.mark.parametrize("beyond", [-1, 1])
@pytest.mark.parametrize("end", ["low", "high"])
def test_long_waves_begin_where_the_ends_say(impl: Implementation, end: str, beyond: int) -> None:
    at = Fraction(int(2**60 * 1000 / (2 * PI)) + beyond, 2**60)
    ends = (at, at + 7) if end == "low" else (at / 2, at)
    rotation = Rotation(Fraction(9), Fraction(16), *ends, 1000)
    expected = Fraction(1, 16 if end == "low" else 1)
    made = impl.rope(100_003, 0, 4, rotation)
    with localcontext() as context:
        context.prec = DIGITS + 10
        near = cosine_and_sine(100_003 * Decimal(expected.numerator) / expected.denominator)
    assert tuple(made) == tuple(nearest_decimal(ONE * value) for value in near)


@pytest.mark.requirement("FXP-R8")
def test_the_middle_of_the_ends_is_the_mean_of_both_speeds(impl: Implementation) -> None:
    at = Fraction(int(2**60 * 1000 / (2 * PI)), 2**60)
    halfway = Rotation(Fraction(9), Fraction(4), at - 3, at + 3, 1000)
    with localcontext() as context:
        context.prec = DIGITS + 10
        near = cosine_and_sine(100_003 * Decimal("0.625"))
    assert tuple(impl.rope(100_003, 0, 4, halfway)) == tuple(nearest_decimal(ONE * value) for value in near)


@pytest.mark.requirement("FXP-R8")
@given(position=st.integers(0, 2**14), width=strategies.head_widths)
@examples(20)
def test_a_factor_slows_all_waves(impl: Implementation, position: int, width: int) -> None:
    theta = Fraction(10_000)
    made = impl.rope(8 * position, width // 2 - 1, width, Rotation(theta, Fraction(8)))
    assert tuple(made) == tuple(impl.rope(position, width // 2 - 1, width, Rotation(theta)))


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


@pytest.mark.requirement("FXP-R10")
@pytest.mark.parametrize("counts", [(2**15 + 1, 0, 0), (2**17 - 2, 1, 1), (30_000, 2**15, 3)])
def test_sums_of_a_long_context_do_not_wrap(impl: Implementation, counts: tuple[int, int, int]) -> None:
    most = constants.HIDDEN_LIMIT
    scores = [(900, [most, -most]), (100, [most, 1 - most]), (-70_000, [-most, most])]
    repeated = [pair for pair, count in zip(scores, counts, strict=True) for _ in range(count)]
    peak = max(score for score, _ in repeated)
    weights = [nearest(Fraction(impl.exp2(min(z - peak, 0)), 2**12)) for z, _ in scores]
    total = sum(e * n for e, n in zip(weights, counts, strict=True))
    sums = [
        sum(e * n * row[i] for e, n, (_, row) in zip(weights, counts, scores, strict=True)) for i in (0, 1)
    ]
    made = impl.softmax_average([score for score, _ in repeated], [row for _, row in repeated])
    assert list(made) == [(s + total // 2) // total for s in sums]


@pytest.mark.requirement("FXP-R11")
@given(
    data=st.data(), width=strategies.head_widths, position=st.integers(0, 300), rotation=strategies.rotations
)
@examples(60)
def test_rotation_turns_each_pair(
    impl: Implementation, data: st.DataObject, width: int, position: int, rotation: Rotation
) -> None:
    limit = constants.HIDDEN_LIMIT
    row = data.draw(st.lists(strategies.signed(limit), min_size=width, max_size=width))
    half = width // 2
    expected = [0] * width
    for i in range(half):
        (c, s), a, b = impl.rope(position, i, width, rotation), row[i], row[i + half]
        expected[i] = nearest(Fraction(a * c - b * s, ONE))
        expected[i + half] = nearest(Fraction(b * c + a * s, ONE))
    assert list(impl.rotate(row, position, rotation)) == expected


@pytest.mark.requirement("FXP-R11")
def test_position_zero_turns_nothing(impl: Implementation) -> None:
    assert list(impl.rotate([1, -2, 3, 2**30 - 1], 0, PLAIN)) == [1, -2, 3, 2**30 - 1]
    assert list(impl.rotate([1, -2, 3, 2**30 - 1, 0, 7], 0, LLAMA3)) == [1, -2, 3, 2**30 - 1, 0, 7]


def normal_words(u: list[int], energy: int) -> list[int]:
    """Return n of steps 3 and 4 of FXP-R7 from u and D."""
    j = (62 - energy.bit_length()) // 2
    inverse = 2**34 * isqrt(2**44 * len(u)) // isqrt((energy * Fraction(4) ** j).__floor__())
    return [nearest(Fraction(a * inverse, 2 ** (36 - j))) for a in u]


@pytest.mark.requirement("FXP-R12")
@given(
    given_=normed(),
    biases=st.lists(strategies.signed(2**24), min_size=9, max_size=9),
    bias_exponent=st.integers(-40, 60),
)
@example(given_=([7, 7], [2**23, 1], 23, Fraction(1, 2**16)), biases=[5, -5] * 5, bias_exponent=24)
@example(
    given_=([2**46 - 1, 1 - 2**46], [2**24] * 2, -9, Fraction(1, 2**40)), biases=[1] * 9, bias_exponent=24
)
@example(given_=([1, 0, 0], [2**23] * 3, 23, Fraction(1, 2**16)), biases=[0] * 9, bias_exponent=0)
@example(given_=([9], [2**23], 23, Fraction(1, 2**40)), biases=[2**24] * 9, bias_exponent=-30)
def test_layer_norm_follows_its_steps(
    impl: Implementation,
    given_: tuple[list[int], list[int], int, Fraction],
    biases: list[int],
    bias_exponent: int,
) -> None:
    row, gains, exponent, epsilon = given_
    d, limit, biases = len(row), constants.RESIDUAL_LIMIT, biases[: len(row)]
    centred = [d * word - sum(row) for word in row]
    t = max(max(map(abs, centred)).bit_length() - 24, d.bit_length() - 8)
    u = [rescaled(word, t, 2**24) for word in centred]
    units = nearest(2**48 * epsilon)
    energy = sum(word * word for word in u) + d * (units * d * d * Fraction(4) ** -t).__floor__()
    expected = [
        clipped(rescaled(word * gain, exponent - 4, limit) + rescaled(bias, bias_exponent - 24, limit), limit)
        for word, gain, bias in zip(normal_words(u, energy), gains, biases, strict=True)
    ]
    assert list(impl.layer_norm(row, gains, exponent, biases, bias_exponent, epsilon)) == expected


@pytest.mark.requirement("FXP-R12")
@given(
    row=st.lists(st.integers(-(2**30), 2**30), min_size=2, max_size=9),
    shift=st.integers(-(2**40), 2**40),
    epsilon=st.sampled_from([Fraction(1, 10**12), Fraction(1, 10**5), Fraction(1, 2**16)]),
)
@example(row=[1, -1], shift=0, epsilon=Fraction(1, 10**5))
@example(row=[0, 1], shift=0, epsilon=Fraction(1, 10**12))
@example(row=[40_000, 0, 0, 0, 0], shift=0, epsilon=Fraction(1, 10**5))
@examples(60)
def test_layer_norm_is_close_to_the_real_one(
    impl: Implementation, row: list[int], shift: int, epsilon: Fraction
) -> None:
    d, gain, bias = len(row), 3 * 2**21, -5 * 2**20
    mean = Fraction(sum(row), d)
    variance = (sum(((word - mean) ** 2 for word in row), Fraction(0)) / d + nearest(2**48 * epsilon)) / 2**48
    with localcontext() as context:
        context.prec = DIGITS
        root = Fraction((Decimal(variance.numerator) / variance.denominator).sqrt())
    made = impl.layer_norm([word + shift for word in row], [gain] * d, 23, [bias] * d, 22, epsilon)
    for word, output in zip(row, made, strict=True):
        exact = (word - mean) / 2**24 / root * Fraction(gain, 2**23) + Fraction(bias, 2**22)
        assert abs(Fraction(output, 2**24) - exact) < Fraction(1, 2**17)


@pytest.mark.requirement("FXP-R12")
def test_known_layer_norms(impl: Implementation) -> None:
    one, tiny = 2**24, Fraction(1, 2**40)
    assert list(impl.layer_norm([5, 5, 5], [2**23] * 3, 23, [3, -1, 0], 20, tiny)) == [48, -16, 0]
    low, high = impl.layer_norm([10 * one, 16 * one], [2**23] * 2, 23, [0, 0], 0, tiny)
    assert abs(low + one) < 64 and abs(high - one) < 64


@pytest.mark.requirement("FXP-R13")
@given(given_=normed())
@example(given_=([0, 0], [2**23, 1], 23, Fraction(1, 2**16)))
@example(given_=([2**30 - 1] * 4, [2**24, -(2**24), 1, 0], -9, Fraction(1, 2**40)))
@example(given_=([1], [2**23], 23, Fraction(1, 2**16)))
def test_head_norm_follows_its_steps(
    impl: Implementation, given_: tuple[list[int], list[int], int, Fraction]
) -> None:
    row, gains, exponent, epsilon = given_
    row = [clipped(word, constants.HIDDEN_LIMIT) for word in row]
    lifted = [64 * word for word in row]
    t = max(max(map(abs, lifted)).bit_length() - 24, -8)
    u = [rescaled(word, t, 2**24) for word in lifted]
    units = nearest(2**48 * epsilon)
    energy = sum(word * word for word in u) + len(row) * (units * Fraction(4) ** -t).__floor__()
    y = [word * gain for word, gain in zip(normal_words(u, energy), gains, strict=True)]
    expected = [rescaled(word, 2 + exponent, constants.HIDDEN_LIMIT) for word in y]
    assert list(impl.head_norm(row, gains, exponent, epsilon)) == expected


@pytest.mark.requirement("FXP-R13")
@pytest.mark.parametrize("scale", [2**9, 2**18, 2**29])
def test_a_constant_head_is_normalised_to_its_gains(impl: Implementation, scale: int) -> None:
    made = impl.head_norm([scale, -scale], [2**23, 2**22], 22, Fraction(1, 2**40))
    assert abs(made[0] - 2**19) < 4 and abs(made[1] + 2**18) < 4


@pytest.mark.requirement("FXP-R14")
def test_the_normal_table_is_correctly_rounded(impl: Implementation) -> None:
    table = list(impl.normal_tail())
    assert table == [nearest_decimal(ONE * upper_tail(Decimal(i) / 512)) for i in range(3073)]
    assert (table[0], table[512], table[3072]) == (2**29, 170354782, 1)
    """Phi(-1) is 0.158655253931..., Phi(-6) is 9.8659e-10."""


@pytest.mark.requirement("FXP-R15")
@given(value=strategies.signed(2**30 - 1) | st.integers(-(2**21), 2**21))
@example(value=0)
@example(value=6 * 2**18)
@example(value=-6 * 2**18)
@example(value=6 * 2**18 - 1)
@example(value=1 - 6 * 2**18)
@example(value=-(2**30) + 1)
@example(value=-512)
@example(value=511)
@example(value=-1_200_000)
def test_gelu_follows_its_steps(impl: Implementation, value: int) -> None:
    table, size = impl.normal_tail(), abs(value)
    i, j = divmod(size, 512)
    q = table[i] * (512 - j) + table[i + 1] * j if size < 6 * 2**18 else 0
    assert impl.gelu(value) == max(value, 0) - nearest(Fraction(size * q, 2**39))


@pytest.mark.requirement("FXP-R15")
@given(value=st.integers(-(2**21), 2**21))
@example(value=-(2**18))
@example(value=2**17)
@examples(50)
def test_gelu_is_close_to_the_real_function(impl: Implementation, value: int) -> None:
    size = Decimal(abs(value)) / 2**18
    exact = max(value, 0) - Fraction(abs(value)) * Fraction(upper_tail(min(size, Decimal(8))))
    assert abs(impl.gelu(value) - exact) < 1


@pytest.mark.requirement("FXP-R16")
@given(value=strategies.signed(2**30 - 1))
@example(value=0)
@example(value=-1)
@example(value=2**30 - 1)
@example(value=-(2**30) + 1)
def test_tanh_follows_its_steps(impl: Implementation, value: int) -> None:
    log2e = nearest_decimal(ONE / ln(Fraction(2)))
    decay = impl.exp2(-nearest(Fraction(abs(value) * log2e, 2**31)))
    size = ONE * (ONE - decay) // (ONE + decay)
    assert impl.tanh(value) == (size if value >= 0 else -size)


@pytest.mark.requirement("FXP-R16")
@given(value=st.integers(-(2**22), 2**22))
@example(value=2**18)
@example(value=-1)
@examples(50)
def test_tanh_is_close_to_the_real_function(impl: Implementation, value: int) -> None:
    assert abs(impl.tanh(value) - ONE * tanh(value / 2**18)) < 2**12


@pytest.mark.requirement("FXP-R16")
def test_tanh_at_its_ends(impl: Implementation) -> None:
    assert (impl.tanh(0), impl.tanh(2**30 - 1), impl.tanh(1 - 2**30)) == (0, ONE, -ONE)
