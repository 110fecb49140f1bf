"""Sampling: the weights of tokens, and the token that a word of the tape chooses."""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import DIGITS, SEED, ln, nearest, nearest_decimal, refusal
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Domain, ListedTape, Sampling

ONE, HALVED = 2**30, 181_705
"""The largest weight, and at temperature 1 the distance of a logit that has half of it."""
rows = st.lists(st.integers(-3, 3) | strategies.signed(2**30 - 1), min_size=1, max_size=8)
masses = st.lists(st.integers(0, ONE) | st.integers(0, 2), min_size=1, max_size=6).filter(any)


def plain_weights(impl: Implementation, row: Sequence[int], temperature: Fraction) -> list[int]:
    """Return the weights before any is left out."""
    with localcontext() as context:
        context.prec = DIGITS
        log2e = 1 / ln(Fraction(2))
        factor = nearest_decimal(2**24 * log2e * temperature.denominator / Decimal(temperature.numerator))
    return [impl.exp2(-nearest(Fraction((max(row) - word) * factor, 2**26))) for word in row]


def kept(row: Sequence[int], weights: Sequence[int], sampling: Sampling) -> set[int]:
    """Return the tokens that a sampling leaves, by counting those before each."""
    first = set(range(len(row)))
    if sampling.count is not None:
        first = {i for i in first if rank(row, i) < sampling.count}
    enough = sampling.share * sum(weights[i] for i in first)
    return {i for i in first if sum(weights[j] for j in first if rank(row, j) < rank(row, i)) < enough}


def rank(row: Sequence[int], index: int) -> int:
    """Return how many tokens come before one in the order of falling logits and rising index."""
    return sum((-word, i) < (-row[index], index) for i, word in enumerate(row))


@pytest.mark.requirement("MDL-R20")
@given(row=rows, sampling=strategies.samplings())
@example(row=[0, 1, 2], sampling=Sampling(Fraction(64), 1))
@example(row=[3, 3, 3, 3], sampling=Sampling(Fraction(1), 3, Fraction(2, 3)))
@example(row=[0, -(2**27)], sampling=Sampling(Fraction(64)))
@example(row=[2**30 - 1, -(2**30) + 1], sampling=Sampling(Fraction(1, 64)))
@example(row=[0, -HALVED, -(2**30) + 1], sampling=Sampling(Fraction(1), None, Fraction(2, 3)))
def test_weights_are_powers_of_two_of_the_distance_to_the_largest_logit(
    impl: Implementation, row: list[int], sampling: Sampling
) -> None:
    weights = plain_weights(impl, row, sampling.temperature)
    left = kept(row, weights, sampling)
    assert list(impl.sampling_weights(row, sampling)) == [
        w if i in left else 0 for i, w in enumerate(weights)
    ]


@pytest.mark.requirement("MDL-R20")
def test_known_weights(impl: Implementation) -> None:
    assert list(impl.sampling_weights([0, -HALVED, 0], Sampling())) == [ONE, ONE // 2, ONE]
    assert list(impl.sampling_weights([9 - 2 * HALVED, 9], Sampling(Fraction(2)))) == [ONE // 2, ONE]
    assert list(impl.sampling_weights([-(2**29), 2**29], Sampling(Fraction(1, 64)))) == [0, ONE]
    assert list(impl.sampling_weights([5], Sampling(Fraction(64), 1, Fraction(1, 1000)))) == [ONE]


@pytest.mark.requirement("MDL-R20")
@pytest.mark.parametrize(("count", "left"), [(1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (4, [0, 1, 3, 4])])
def test_the_first_of_equal_logits_are_kept(impl: Implementation, count: int, left: list[int]) -> None:
    made = impl.sampling_weights([4, 7, 3, 7, 7], Sampling(Fraction(1), count))
    assert [i for i, weight in enumerate(made) if weight] == left


@pytest.mark.requirement("MDL-R20")
@pytest.mark.parametrize(("row", "left"), [([0, 1, 2], 2), ([2, 3, 3], 1), ([-1, -2, -1, 0], 3)])
def test_logits_and_not_their_weights_give_the_order(impl: Implementation, row: list[int], left: int) -> None:
    """At a temperature of 64 logits so close have one weight."""
    assert set(impl.sampling_weights(row, Sampling(Fraction(64)))) == {ONE}
    expected = [ONE * (i == left) for i in range(len(row))]
    assert list(impl.sampling_weights(row, Sampling(Fraction(64), 1))) == expected
    assert list(impl.sampling_weights(row, Sampling(Fraction(64), None, Fraction(1, len(row))))) == expected


@pytest.mark.requirement("MDL-R20")
@pytest.mark.parametrize(
    ("share", "count", "left"),
    [
        (Fraction(1, 2), None, 2),
        (Fraction(1, 2) + Fraction(1, 2**40), None, 3),
        (Fraction(1, 2) - Fraction(1, 2**40), None, 2),
        (Fraction(1, 4), None, 1),
        (Fraction(3, 4), None, 3),
        (Fraction(1, 2**60), None, 1),
        (Fraction(1), None, 4),
        (Fraction(2, 3), 3, 2),
        (Fraction(2, 3) + Fraction(1, 2**40), 3, 3),
        (Fraction(1, 2), 2, 1),
    ],
)
def test_a_share_is_of_what_the_count_left_and_exact(
    impl: Implementation, share: Fraction, count: int | None, left: int
) -> None:
    made = impl.sampling_weights([8, 8, 8, 8], Sampling(Fraction(3), count, share))
    assert list(made) == [ONE] * left + [0] * (4 - left)


@pytest.mark.requirement("MDL-R20")
@given(row=rows, sampling=strategies.samplings())
def test_the_largest_logit_is_always_kept(impl: Implementation, row: list[int], sampling: Sampling) -> None:
    assert impl.sampling_weights(row, sampling)[row.index(max(row))] == ONE


def drawn(impl: Implementation, weights: Sequence[int], word: int, sample: int = 0, token: int = 0) -> int:
    """Return what one word chooses; the tape has no other."""
    tape = ListedTape({(Domain.SAMPLING, sample, token): word})
    return int(impl.sample_token(weights, tape, sample, token))


@pytest.mark.requirement("MDL-R21")
@given(weights=masses, word=strategies.words)
def test_a_word_chooses_in_proportion(impl: Implementation, weights: list[int], word: int) -> None:
    reached = word * sum(weights) // 2**64
    before = [upto - weight for upto, weight in zip(accumulate(weights), weights, strict=True)]
    chosen = [i for i, w in enumerate(weights) if before[i] <= reached < before[i] + w]
    assert [drawn(impl, weights, word)] == chosen


@pytest.mark.requirement("MDL-R21")
@given(weights=masses)
@example(weights=[1, 0, 2, 0])
@example(weights=[0, 0, 1])
@example(weights=[ONE] * 3)
def test_a_token_ends_where_the_next_begins(impl: Implementation, weights: list[int]) -> None:
    total, ends = sum(weights), list(accumulate(weights))
    for index, (weight, end) in enumerate(zip(weights, ends, strict=True)):
        if weight:
            first, last = -(-(end - weight) * 2**64 // total), -(-end * 2**64 // total) - 1
            assert (drawn(impl, weights, first), drawn(impl, weights, last)) == (index, index)


@pytest.mark.requirement("MDL-R21")
def test_a_weight_of_zero_is_never_drawn(impl: Implementation) -> None:
    for word in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert drawn(impl, [0, 0, 5, 0, 5, 0], word) == (2 if word < 2**63 else 4)


@pytest.mark.requirement("MDL-R21")
def test_many_large_weights_are_summed_exactly(impl: Implementation) -> None:
    weights, word = [ONE] * 174_762, 2**64 - 1
    assert drawn(impl, weights, word) == 174_761
    assert drawn(impl, weights, -(-(2**64) * 100_000 // 174_762)) == 100_000
    assert drawn(impl, weights, -(-(2**64) * 100_000 // 174_762) - 1) == 99_999


@pytest.mark.requirement("MDL-R21")
@pytest.mark.parametrize(("sample", "token"), [(0, 0), (0, 1), (1, 0), (7, 130_000), (2**32, 5)])
def test_each_new_token_of_a_sample_has_its_own_word(impl: Implementation, sample: int, token: int) -> None:
    assert [drawn(impl, [1, 1, 1, 1], n * 2**62, sample, token) for n in range(4)] == [0, 1, 2, 3]


@pytest.mark.requirement("MDL-R21")
def test_a_sample_reads_its_stream_of_a_seeded_tape(impl: Implementation) -> None:
    tape, weights = impl.seeded_tape(SEED), [3, 1, 4, 1, 5]
    for sample in range(2):
        for token in range(20):
            word = tape.word(Domain.SAMPLING, sample, token)
            assert impl.sample_token(weights, tape, sample, token) == drawn(
                impl, weights, word, sample, token
            )


@pytest.mark.requirement("MDL-R22")
@pytest.mark.parametrize(
    ("temperature", "count", "share"),
    [
        (Fraction(0), None, Fraction(1)),
        (Fraction(-1), None, Fraction(1)),
        (Fraction(1, 64) - Fraction(1, 2**60), None, Fraction(1)),
        (64 + Fraction(1, 2**60), None, Fraction(1)),
        (Fraction(2**32 + 1, 2**32), None, Fraction(1)),
        (Fraction(2**32, 2**32 + 1), None, Fraction(1)),
        (Fraction(1), 0, Fraction(1)),
        (Fraction(1), -1, Fraction(1)),
        (Fraction(1), None, Fraction(0)),
        (Fraction(1), None, Fraction(-1, 2)),
        (Fraction(1), None, 1 + Fraction(1, 2**60)),
    ],
    ids=str,
)
def test_a_sampling_out_of_range_is_refused(
    impl: Implementation, temperature: Fraction, count: int | None, share: Fraction
) -> None:
    assert refusal(impl.sampling, temperature, count, share) == Refusal.SAMPLING_OUT_OF_RANGE


@pytest.mark.requirement("MDL-R22")
@pytest.mark.parametrize(
    ("temperature", "count", "share"),
    [
        (Fraction(1, 64), 1, Fraction(1, 2**60)),
        (Fraction(64), 2**40, Fraction(1)),
        (Fraction(22, 7), None, Fraction(2, 3)),
    ],
    ids=str,
)
def test_a_sampling_at_the_ends_of_its_ranges_is_taken(
    impl: Implementation, temperature: Fraction, count: int | None, share: Fraction
) -> None:
    assert impl.sampling(temperature, count, share) == Sampling(temperature, count, share)
