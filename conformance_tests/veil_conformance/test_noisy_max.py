"""Noisy max: noise, selection, refusals."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import SEED, halving_word, noise_tape, refusal
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Geometric, Part, Selection, Table, TokenIndex, TwoSidedGeometric

HALF = Fraction(1, 2)
TWO_THIRDS = Fraction(2, 3)
STREAMS = 2**32
"""Streams of one token."""


def decided(alpha: Fraction, words: Sequence[int]) -> int | None:
    """Return the j that these words determine by the sentence after NMX-R1, or None."""
    digits, scale = 0, 2 ** (64 * len(words))
    for word in words:
        digits = digits * 2**64 + word
    low, high, j = Fraction(digits, scale), Fraction(digits + 1, scale), 0
    if not digits:
        return None
    while low < alpha ** (j + 1):
        j += 1
    return j if high <= alpha**j else None


@st.composite
def drawn_words(draw: st.DrawFn, alpha: Fraction) -> list[int]:
    """Return words around a threshold alpha**j, so that often several are needed."""
    threshold = alpha ** draw(st.integers(0, 12))
    words = []
    for _ in range(draw(st.integers(0, 2))):
        threshold *= 2**64
        words.append(min(int(threshold), 2**64 - 1))
        threshold -= int(threshold)
    return [*words, draw(strategies.words), draw(st.integers(1, 2**64 - 1))]


@pytest.mark.requirement("NMX-R1")
@given(data=st.data(), alpha=strategies.alphas())
def test_a_draw_is_the_largest_power_above_the_words_and_reads_no_more(
    impl: Implementation, data: st.DataObject, alpha: Fraction
) -> None:
    words = data.draw(drawn_words(alpha))
    for count in range(len(words) + 1):
        expected = decided(alpha, words[:count]) if count else None
        tape = noise_tape({0: words[:count]})
        if expected is None:
            assert refusal(impl.sample, Geometric(alpha), tape, 0, 0) == Refusal.TAPE_EXHAUSTED
        else:
            assert impl.sample(Geometric(alpha), tape, 0, 0) == expected
            break


@pytest.mark.requirement("NMX-R1")
@pytest.mark.parametrize(
    ("alpha", "words", "expected"),
    [
        (HALF, [2**63], 0),
        (HALF, [2**63 - 1], 1),
        (HALF, [2**64 - 1], 0),
        (HALF, [1], 63),
        (HALF, [0, 2**63], 64),
        (HALF, [0, 0, 2**64 - 1], 128),
        (TWO_THIRDS, [2**65 // 3, 0xAAAAAAAAAAAAAAAB], 0),
        (TWO_THIRDS, [2**65 // 3, 0xAAAAAAAAAAAAAAA9], 1),
        (TWO_THIRDS, [2**65 // 3, 0xAAAAAAAAAAAAAAAA, 0xAAAAAAAAAAAAAAAB], 0),
        (Fraction(1, 65536), [2**48], 0),
        (Fraction(1, 65536), [2**48 - 1], 1),
        (Fraction(65535, 65536), [2**64 - 1], 0),
    ],
)
def test_known_draws(impl: Implementation, alpha: Fraction, words: list[int], expected: int) -> None:
    assert impl.sample(Geometric(alpha), noise_tape({0: words}), 0, 0) == expected


@pytest.mark.requirement("NMX-R2")
@given(
    token=st.integers(0, 2**32 - 1),
    candidate=st.integers(0, 2**20 - 1),
    first=st.integers(0, 62),
    second=st.integers(0, 62),
)
@example(token=2**32 - 1, candidate=2**20 - 1, first=3, second=5)
def test_two_sided_noise_is_the_difference_of_neighbouring_streams(
    impl: Implementation, token: int, candidate: int, first: int, second: int
) -> None:
    stream = token * STREAMS + 2 * candidate
    tape = noise_tape({stream: [halving_word(first)], stream + 1: [halving_word(second)]})
    one, two = Geometric(HALF), TwoSidedGeometric(HALF)
    drawn = impl.sample(one, tape, token, candidate), impl.sample(two, tape, token, candidate)
    assert drawn == (first, first - second)


@pytest.mark.requirement("NMX-R2")
@pytest.mark.parametrize(("token", "candidate"), [(2**32, 0), (-1, 0), (0, 2**20), (0, -1)])
def test_noise_without_a_stream_is_refused(impl: Implementation, token: int, candidate: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.sample, Geometric(HALF), tape, token, candidate) == Refusal.STREAM_OUT_OF_RANGE


def selected(impl: Implementation, scores: list[int], noises: list[int]) -> Selection:
    """Return the selection of these scores under these noises."""
    tape = noise_tape({2 * i: [halving_word(noise)] for i, noise in enumerate(noises)})
    return impl.select(scores, Geometric(HALF), tape)


@pytest.mark.requirement("NMX-R3")
@given(data=st.data(), scores=st.lists(strategies.signed(2**20), min_size=1, max_size=6))
def test_the_winner_has_the_largest_noisy_score(
    impl: Implementation, data: st.DataObject, scores: list[int]
) -> None:
    noises = data.draw(st.lists(st.integers(0, 62), min_size=len(scores), max_size=len(scores)))
    noisy = [score + noise for score, noise in zip(scores, noises, strict=True)]
    assert noisy[selected(impl, scores, noises).index] == max(noisy)


@pytest.mark.requirement("NMX-R3")
def test_two_sided_noise_is_added_with_its_sign(impl: Implementation) -> None:
    tape = noise_tape(
        {0: [halving_word(0)], 1: [halving_word(9)], 2: [halving_word(1)], 3: [halving_word(2)]}
    )
    assert impl.select([5, 0], TwoSidedGeometric(HALF), tape) == Selection(TokenIndex(1))


@pytest.mark.requirement("NMX-R3")
def test_frequencies_fit_the_exact_law(impl: Implementation) -> None:
    law, count = (Fraction(112, 475), Fraction(1179, 2375), Fraction(636, 2375)), 2_000
    tape, noise = impl.seeded_tape(SEED), TwoSidedGeometric(TWO_THIRDS)
    winners = [int(impl.select([0, 2, 1], noise, tape, token).index) for token in range(count)]
    for index, chance in enumerate(law):
        surplus = winners.count(index) - count * chance
        assert surplus**2 <= 25 * count * chance * (1 - chance)


@pytest.mark.requirement("NMX-R4")
@given(noises=st.lists(st.integers(0, 3), min_size=2, max_size=6), top=st.integers(3, 20))
def test_the_lowest_of_equal_noisy_scores_wins(impl: Implementation, noises: list[int], top: int) -> None:
    scores = [top - noise for noise in noises]
    assert selected(impl, scores, noises) == Selection(TokenIndex(0))


@pytest.mark.requirement("NMX-R5")
def test_no_scores_are_refused(impl: Implementation) -> None:
    assert refusal(impl.select, [], Geometric(HALF), impl.seeded_tape(SEED)) == Refusal.SCORES_EMPTY
    assert refusal(impl.exact_pmf, [], Geometric(HALF)) == Refusal.SCORES_EMPTY


@pytest.mark.requirement("NMX-R6")
@pytest.mark.parametrize(
    "scores", [[2**20 + 1], [0, -(2**20) - 1], [0] * (2**20 + 1)], ids=["high", "low", "long"]
)
def test_scores_beyond_the_limits_are_refused(impl: Implementation, scores: list[int]) -> None:
    assert refusal(impl.select, scores, Geometric(HALF), impl.seeded_tape(SEED)) == Refusal.SCORE_OUT_OF_RANGE
    assert refusal(impl.exact_pmf, scores, Geometric(HALF)) == Refusal.SCORE_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R6")
def test_scores_at_the_limits_are_accepted(impl: Implementation) -> None:
    assert selected(impl, [-(2**20), 2**20], [9, 0]) == Selection(TokenIndex(1))


@pytest.mark.requirement("NMX-R7")
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(
    "alpha",
    [Fraction(0), Fraction(1), Fraction(3, 2), Fraction(-1, 2), Fraction(1, 65537), 0.5, 1, "1/2"],
    ids=str,
)
def test_an_alpha_out_of_range_is_refused(impl: Implementation, alpha: object, two_sided: bool) -> None:
    make: Callable[..., object] = impl.noise
    assert refusal(make, alpha, two_sided) == Refusal.ALPHA_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R7")
@pytest.mark.parametrize("alpha", [Fraction(1, 65536), Fraction(65535, 65536), Fraction(2, 131072)], ids=str)
def test_an_alpha_in_range_is_taken(impl: Implementation, alpha: Fraction) -> None:
    assert (impl.noise(alpha, False), impl.noise(alpha, True)) == (Geometric(alpha), TwoSidedGeometric(alpha))


def table(*parts: tuple[tuple[object, ...], tuple[tuple[object, ...], ...]]) -> Table:
    """Return a table of these parts, right or wrong."""
    build: Callable[..., Part] = Part
    return Table("test", tuple(build(*part) for part in parts))


@pytest.mark.requirement("NMX-R8")
@pytest.mark.parametrize(
    "malformed",
    [
        table(),
        table(((), ())),
        table((("a",), ((0,),)), (("a",), ((0,),))),
        table((("a", "a"), ((0, 0), (0, 0)))),
        table(((1,), ((0,),))),
        table((("a", "b"), ((0, 0),))),
        table((("a", "b"), ((0, 0), (0,)))),
        table((("a", "b"), ((0, 0), (0, 2**20 + 1)))),
        table((("a", "b"), ((0, 0), (-(2**20) - 1, 0)))),
        table((("a", "b"), ((0, 0), (0, 0.5)))),
    ],
    ids=["empty", "empty-part", "two-parts", "twice", "number", "short", "ragged", "high", "low", "float"],
)
def test_a_malformed_table_is_refused(impl: Implementation, malformed: Table) -> None:
    assert refusal(impl.certificate, malformed, Geometric(HALF)) == Refusal.TABLE_MALFORMED
