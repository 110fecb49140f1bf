"""Noisy max: noise, selection, refusals."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from math import floor, inf, nan
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies, tiny_table
from veil_conformance.checking import SEED, examples, halving_word, noise_tape, refusal
from veil_conformance.tiny_model import Tensor, file_bytes
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import (
    Domain,
    Geometric,
    ListedTape,
    Noise,
    Part,
    Rows,
    Selection,
    Table,
    TabulatedPart,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
)

NOISES: tuple[type[Geometric], type[TwoSidedGeometric]] = (Geometric, TwoSidedGeometric)
HALF = Fraction(1, 2)
TWO_THIRDS = Fraction(2, 3)
STREAMS = 2**21
"""Streams of noise of one document."""
tokens, documents = st.integers(0, 2**32 - 2), st.integers(0, 2**43 - 1)
PLACES = [(2**32 - 1, 0), (-1, 0), (0, 2**43), (0, -1)]
"""(token, document) that no selection has."""


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
@given(data=st.data(), alpha=strategies.alphas(), token=tokens)
def test_a_draw_is_the_largest_power_above_the_words_and_reads_no_more(
    impl: Implementation, data: st.DataObject, alpha: Fraction, token: int
) -> None:
    words = data.draw(drawn_words(alpha))
    for count in range(len(words) + 1):
        expected = decided(alpha, words[:count]) if count else None
        tape = noise_tape({(0, token): words[:count]})
        if expected is None:
            assert refusal(impl.sample, Geometric(alpha), tape, token, 0) == Refusal.TAPE_EXHAUSTED
        else:
            assert impl.sample(Geometric(alpha), tape, token, 0) == expected
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
    assert impl.sample(Geometric(alpha), noise_tape({(0, 0): words}), 0, 0) == expected


@pytest.mark.requirement("NMX-R2")
@given(
    token=tokens,
    candidate=st.integers(0, 2**20 - 1),
    document=documents,
    first=st.integers(0, 62),
    second=st.integers(0, 62),
)
@example(token=2**32 - 2, candidate=2**20 - 1, document=2**43 - 1, first=3, second=5)
def test_two_sided_noise_is_the_difference_of_neighbouring_streams(
    impl: Implementation, token: int, candidate: int, document: int, first: int, second: int
) -> None:
    stream = document * STREAMS + 2 * candidate
    tape = noise_tape({(stream, token): [halving_word(first)], (stream + 1, token): [halving_word(second)]})
    one, two = (impl.sample(noise(HALF), tape, token, candidate, document) for noise in NOISES)
    assert (one, two) == (first, first - second)


@pytest.mark.requirement("NMX-R2")
@given(token=tokens, document=documents, noises=st.lists(st.integers(0, 62), min_size=1, max_size=4))
def test_a_selection_takes_the_noise_of_its_token_and_document(
    impl: Implementation, token: int, document: int, noises: list[int]
) -> None:
    draws = {(document * STREAMS + 2 * c, token): [halving_word(k)] for c, k in enumerate(noises)}
    selection = impl.select([0] * len(noises), Geometric(HALF), noise_tape(draws), token, document)
    assert selection == Selection(TokenIndex(noises.index(max(noises))))


@pytest.mark.requirement("NMX-R2")
def test_the_first_document_is_number_0(impl: Implementation) -> None:
    tape = noise_tape({(0, 5): [halving_word(7)]})
    assert impl.sample(Geometric(HALF), tape, 5, 0) == 7
    assert impl.select([3], Geometric(HALF), tape, 5) == Selection(TokenIndex(0))


@pytest.mark.requirement("NMX-R2")
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("token", "candidate", "document"),
    [
        (2**32 - 1, 0, 0),
        (2**32, 0, 0),
        (-1, 0, 0),
        (0, 2**20, 0),
        (0, -1, 0),
        (0, 0, 2**43),
        (0, 0, -1),
        (0, -2, 1),
    ],
)
def test_noise_without_a_place_is_refused(
    impl: Implementation, noise: Callable[[Fraction], Noise], token: int, candidate: int, document: int
) -> None:
    sample, tape = impl.sample, impl.seeded_tape(SEED)
    assert refusal(sample, noise(HALF), tape, token, candidate, document) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R2")
@pytest.mark.parametrize(("token", "document"), PLACES)
def test_a_selection_without_a_place_is_refused(impl: Implementation, token: int, document: int) -> None:
    select, tape = impl.select, impl.seeded_tape(SEED)
    assert refusal(select, [1, 0], Geometric(HALF), tape, token, document) == Refusal.STREAM_OUT_OF_RANGE


def selected(impl: Implementation, scores: list[int], noises: list[int]) -> Selection:
    """Return the selection of these scores under these noises."""
    tape = noise_tape({(2 * i, 0): [halving_word(noise)] for i, noise in enumerate(noises)})
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
    tape = noise_tape({(stream, 0): [halving_word(k)] for stream, k in enumerate((0, 9, 1, 2))})
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


@pytest.mark.requirement("NMX-R5")
def test_no_scores_have_no_law(impl: Implementation) -> None:
    assert refusal(impl.exact_pmf, [], Geometric(HALF)) == Refusal.SCORES_EMPTY


BEYOND = {"high": [2**20 + 1], "low": [0, -(2**20) - 1], "long": [0] * (2**20 + 1)}


@pytest.mark.requirement("NMX-R6")
@pytest.mark.parametrize("scores", BEYOND.values(), ids=BEYOND)
def test_scores_beyond_the_limits_are_refused(impl: Implementation, scores: list[int]) -> None:
    assert refusal(impl.select, scores, Geometric(HALF), impl.seeded_tape(SEED)) == Refusal.SCORE_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R6")
@pytest.mark.parametrize("scores", BEYOND.values(), ids=BEYOND)
def test_scores_beyond_the_limits_have_no_law(impl: Implementation, scores: list[int]) -> None:
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


def truncated(value: int, square: Fraction, scaled: Fraction) -> bool:
    """Return whether a value is scaled / sqrt(square) without its fraction."""
    size = abs(value)
    below = size**2 * square <= scaled**2 < (size + 1) ** 2 * square
    return below and (value == 0 or (value > 0) == (scaled > 0))


@pytest.mark.requirement("NMX-R9")
@given(vector=strategies.vectors)
def test_a_direction_is_the_vector_at_length_4096_truncated(
    impl: Implementation, vector: list[float]
) -> None:
    exact = [Fraction(value) for value in vector]
    square = sum((value**2 for value in exact), Fraction(0))
    found = impl.direction(vector)
    assert len(found) == len(vector)
    if square:
        assert all(truncated(a, square, 4096 * b) for a, b in zip(found, exact, strict=True))
    else:
        assert not any(found)


@pytest.mark.requirement("NMX-R9")
@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        ([3.0, 4.0], [2457, 3276]),
        ([-3.0, 4.0], [-2457, 3276]),
        ([-3.0, -4.0], [-2457, -3276]),
        ([0.1], [4096]),
        ([-7.5], [-4096]),
        ([0.0, -0.0, 0.0], [0, 0, 0]),
        ([1.0, 1.0, 1.0], [2364, 2364, 2364]),
        ([1.0, -1e-300], [4095, 0]),
        ([5e-324, 0.0], [4096, 0]),
        ([5e-324, -5e-324], [2896, -2896]),
        ([1.7976931348623157e308, -1.7976931348623157e308], [2896, -2896]),
        ([1e308, 1e-308], [4095, 0]),
        ([12.0, 4.0, 3.0], [3780, 1260, 945]),
        ([13.0, 84.0, 0.0, -0.0], [626, 4047, 0, 0]),
    ],
    ids=str,
)
def test_known_directions(impl: Implementation, vector: list[float], expected: list[int]) -> None:
    assert list(impl.direction(vector)) == expected


@pytest.mark.requirement("NMX-R9")
@pytest.mark.parametrize("vector", [[nan], [inf], [-inf], [1.0, nan], [inf, -inf], [0.0, inf]], ids=str)
def test_a_vector_that_is_not_finite_is_refused(impl: Implementation, vector: list[float]) -> None:
    assert refusal(impl.direction, vector) == Refusal.TABLE_MALFORMED


def scalar(one: Sequence[int], other: Sequence[int]) -> int:
    """Return S of two directions."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def nearest(directions: Rows, entry: int, among: list[int], count: int) -> list[int]:
    """Return the most similar entries one by one, the lower number first where equal."""
    rest, found = sorted(among), []
    for _ in range(count):
        best = rest[0]
        for other in rest[1:]:
            if scalar(directions[entry], directions[other]) > scalar(directions[entry], directions[best]):
                best = other
        rest.remove(best)
        found.append(best)
    return found


@pytest.mark.requirement("NMX-R10")
@given(directions=strategies.directions(), part_size=st.integers(1, 4))
def test_a_part_is_the_first_entry_left_and_those_nearest_to_it(
    impl: Implementation, directions: list[list[int]], part_size: int
) -> None:
    parts = [list(part) for part in impl.partition(directions, part_size)]
    left = list(range(len(directions)))
    for part in parts[:-1]:
        assert len(left) >= 2 * part_size
        assert part == [left[0], *nearest(directions, left[0], left[1:], part_size - 1)]
        left = [entry for entry in left if entry not in part]
    assert parts[-1] == left and len(left) < 2 * part_size


@pytest.mark.requirement("NMX-R10")
@pytest.mark.parametrize(
    ("values", "part_size", "expected"),
    [
        ([1, 1, 1, 1, 1, 1, 1], 2, [[0, 1], [2, 3], [4, 5, 6]]),
        ([1, 0, 2, 0, 2, 3], 3, [[0, 5, 2], [1, 3, 4]]),
        ([2, -1, 1, 3, -2], 2, [[0, 3], [1, 2, 4]]),
        ([0, 5, 0, 5, 0, 5], 2, [[0, 1], [2, 3], [4, 5]]),
        ([5, 1, 3], 1, [[0], [1], [2]]),
        ([5, 1, 3, 4, 2], 3, [[0, 1, 2, 3, 4]]),
        ([1, 1, 1, 1, 1, 1, 1], 4, [[0, 1, 2, 3, 4, 5, 6]]),
        ([1, 1, 1, 1, 1, 1, 1, 1], 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([7], 512, [[0]]),
    ],
    ids=str,
)
def test_known_partitions(
    impl: Implementation, values: list[int], part_size: int, expected: list[list[int]]
) -> None:
    assert [list(part) for part in impl.partition([[value] for value in values], part_size)] == expected


@pytest.mark.requirement("NMX-R10")
@pytest.mark.parametrize("part_size", [0, -1, 513, 2**20])
def test_a_part_size_out_of_range_is_refused(impl: Implementation, part_size: int) -> None:
    assert refusal(impl.partition, [[1], [2], [3]], part_size) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("NMX-R11")
@given(directions=strategies.directions())
def test_scores_spread_the_similarities_of_a_part_over_64_levels(
    impl: Implementation, directions: list[list[int]]
) -> None:
    table = [[scalar(one, other) for other in directions] for one in directions]
    least, most = min(map(min, table)), max(map(max, table))
    expected = [
        [floor(Fraction(63 * (cell - least), most - least) + HALF) if most > least else 0 for cell in row]
        for row in table
    ]
    assert [list(row) for row in impl.part_scores(directions)] == expected


@pytest.mark.requirement("NMX-R11")
@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        ([[7]], [[0]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[3, 4], [3, 4]], [[0, 0], [0, 0]]),
        ([[4096], [-4096]], [[63, 0], [0, 63]]),
        ([[4096, 0], [0, 4096]], [[63, 0], [0, 63]]),
        ([[0, 0, 0], [1, 0, 0], [2, 1, 1]], [[0, 0, 0], [0, 11, 21], [0, 21, 63]]),
        ([[0, 0], [1, 0], [1, 1]], [[0, 0, 0], [0, 32, 32], [0, 32, 63]]),
        ([[1, 0], [-1, 1]], [[42, 0], [0, 63]]),
    ],
    ids=str,
)
def test_known_part_scores(impl: Implementation, directions: Rows, expected: Rows) -> None:
    assert [list(row) for row in impl.part_scores(directions)] == expected


def rounded(law: Sequence[Fraction]) -> list[int]:
    """Return the weights of a law."""
    weights = [max(1, floor(2**64 * chance)) for chance in law]
    weights[weights.index(max(weights))] += 2**64 - sum(weights)
    return weights


@pytest.mark.requirement("NMX-R12")
@given(scores=strategies.small_scores, alpha=strategies.alphas(), noise=st.sampled_from(NOISES))
@examples(60)
def test_weights_are_the_law_rounded_down_but_for_the_largest(
    impl: Implementation, scores: list[int], alpha: Fraction, noise: Callable[[Fraction], Noise]
) -> None:
    weights = list(impl.tabulate(scores, noise(alpha)))
    assert weights == rounded(impl.exact_pmf(scores, noise(alpha)))
    assert sum(weights) == 2**64 and min(weights) >= 1


@pytest.mark.requirement("NMX-R12")
@given(gap=st.integers(0, 40), alpha=strategies.alphas())
@example(gap=4, alpha=Fraction(1, 65536))
@example(gap=5, alpha=Fraction(1, 65536))
@example(gap=63, alpha=HALF)
@example(gap=64, alpha=HALF)
def test_weights_of_two_candidates_by_hand(impl: Implementation, gap: int, alpha: Fraction) -> None:
    behind, ahead = alpha**gap / (1 + alpha), alpha ** (gap + 1) / (1 + alpha)
    assert list(impl.tabulate([0, gap], Geometric(alpha))) == rounded([behind, 1 - behind])
    assert list(impl.tabulate([gap, 0], Geometric(alpha))) == rounded([1 - ahead, ahead])


@pytest.mark.requirement("NMX-R12")
@pytest.mark.parametrize(
    ("scores", "noise", "expected"),
    [
        ([7], Geometric(HALF), [2**64]),
        ([0, 2, 1], TwoSidedGeometric(TWO_THIRDS), rounded([Fraction(n, 2375) for n in (560, 1179, 636)])),
        ([0, 2, 1], Geometric(TWO_THIRDS), rounded([Fraction(n, 855) for n in (180, 479, 196)])),
        ([5, 0, 0, 0], Geometric(Fraction(1, 65536)), [2**64 - 3, 1, 1, 1]),
        ([0, 9, 0, 0], Geometric(Fraction(1, 65536)), [1, 2**64 - 3, 1, 1]),
        ([0, 0, 0, 7], TwoSidedGeometric(Fraction(1, 65536)), [1, 1, 1, 2**64 - 3]),
    ],
)
def test_known_weights(impl: Implementation, scores: list[int], noise: Noise, expected: list[int]) -> None:
    assert list(impl.tabulate(scores, noise)) == expected


def draw_tape(word: int, token: int, document: int) -> ListedTape:
    """Return a tape with the one word of a tabulated selection."""
    return ListedTape({(Domain.DRAW, document, token): word})


@pytest.mark.requirement("NMX-R13")
@given(data=st.data(), weights=strategies.weight_rows(5), token=tokens, document=documents)
@example(data=None, weights=(1, 2**64 - 2, 1), token=2**32 - 2, document=2**43 - 1)
def test_a_word_falls_to_the_index_whose_weights_hold_it(
    impl: Implementation, data: st.DataObject | None, weights: tuple[int, ...], token: int, document: int
) -> None:
    edges = [edge + by for edge in accumulate(weights, initial=0) for by in (-1, 0)]
    words = [edge for edge in edges if 0 <= edge < 2**64]
    if data is not None:
        words.append(data.draw(strategies.words))
    for word in words:
        expected = sum(total <= word for total in list(accumulate(weights))[:-1])
        drawn = impl.draw(weights, draw_tape(word, token, document), token, document)
        assert drawn == Selection(TokenIndex(expected))


@pytest.mark.requirement("NMX-R13")
@pytest.mark.parametrize(
    ("weights", "word", "expected"),
    [
        ([2**64], 2**64 - 1, 0),
        ([2**63, 2**63], 2**63 - 1, 0),
        ([2**63, 2**63], 2**63, 1),
        ([1, 1, 2**64 - 2], 0, 0),
        ([1, 1, 2**64 - 2], 1, 1),
        ([1, 1, 2**64 - 2], 2, 2),
        ([2**64 - 2, 1, 1], 2**64 - 2, 1),
        ([2**64 - 2, 1, 1], 2**64 - 1, 2),
    ],
)
def test_known_draws_from_weights(impl: Implementation, weights: list[int], word: int, expected: int) -> None:
    assert impl.draw(weights, draw_tape(word, 0, 0)) == Selection(TokenIndex(expected))


@pytest.mark.requirement("NMX-R13")
@pytest.mark.parametrize(("token", "document"), PLACES)
def test_a_draw_without_a_place_is_refused(impl: Implementation, token: int, document: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.draw, [2**63, 2**63], tape, token, document) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R17")
@given(size=st.integers(1, 1024), word=strategies.words, token=tokens, document=documents)
@example(size=3, word=2**64 // 3, token=0, document=0)
@example(size=3, word=2**64 // 3 + 1, token=2**32 - 2, document=2**43 - 1)
@example(size=1024, word=2**64 - 1, token=0, document=7)
def test_a_uniform_draw_is_the_part_size_times_the_word(
    impl: Implementation, size: int, word: int, token: int, document: int
) -> None:
    drawn = impl.draw_uniformly(size, draw_tape(word, token, document), token, document)
    assert drawn == Selection(TokenIndex(floor(Fraction(size * word, 2**64))))


def tabulated(*parts: tuple[tuple[object, ...], Sequence[object], Sequence[object]]) -> TabulatedTable:
    """Return a tabulated table of these parts, right or wrong."""
    build: Callable[..., TabulatedPart] = TabulatedPart
    return TabulatedTable("test", "64", tuple(build(*part) for part in parts))


ZEROS = ((0, 0), (0, 0))
EVEN, ODD = (2**63, 2**63), (2**62, 3 * 2**62)
LONG = tuple(f"t{n}" for n in range(1025))


def long_part(size: int) -> TabulatedTable:
    """Return a table of one part of this size, right but for its size."""
    row, scores = (*(1,) * (size - 1), 2**64 - size + 1), (0,) * size
    return tabulated((LONG[:size], (scores,) * size, (row,) * size))


MALFORMED = {
    "empty": tabulated(),
    "empty-part": tabulated(((), (), ())),
    "twice": tabulated((("a", "a"), ZEROS, (EVEN, ODD))),
    "in-two-parts": tabulated((("a", "b"), ZEROS, (EVEN, ODD)), (("a",), ((0,),), ((2**64,),))),
    "number": tabulated(((1, "b"), ZEROS, (EVEN, ODD))),
    "short-scores": tabulated((("a", "b"), ((0, 0),), (EVEN, ODD))),
    "high-score": tabulated((("a", "b"), ((0, 2**20 + 1), (0, 0)), (EVEN, ODD))),
    "float-score": tabulated((("a", "b"), ((0, 0.5), (0, 0)), (EVEN, ODD))),
    "short": tabulated((("a", "b"), ZEROS, (EVEN,))),
    "long": tabulated((("a", "b"), ZEROS, (EVEN, ODD, ODD))),
    "narrow": tabulated((("a", "b"), ZEROS, ((2**64,), (2**64,)))),
    "wide": tabulated((("a", "b"), ZEROS, ((2**62, 2**62, 2**63), (2**62, 2**62, 2**63)))),
    "ragged": tabulated((("a", "b"), ZEROS, (EVEN, (2**64,)))),
    "zero": tabulated((("a", "b"), ZEROS, (EVEN, (0, 2**64)))),
    "negative": tabulated((("a", "b"), ZEROS, (EVEN, (-1, 2**64 + 1)))),
    "one-less": tabulated((("a", "b"), ZEROS, (EVEN, (2**63, 2**63 - 1)))),
    "one-more": tabulated((("a", "b"), ZEROS, ((2**63 + 1, 2**63), ODD))),
    "wrapped": tabulated((("a", "b", "c"), ((0,) * 3,) * 3, ((2**63, 2**63, 2**64),) * 3)),
    "later-part": tabulated((("a",), ((0,),), ((2**64,),)), (("b",), ((0,),), ((2**64 - 1,),))),
    "float": tabulated((("a", "b"), ZEROS, (EVEN, (2.0**63, 2.0**63)))),
    "1025-tokens": long_part(1025),
}


@pytest.mark.requirement("NMX-R14")
@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_tabulated_table_has_no_certificate(
    impl: Implementation, malformed: TabulatedTable
) -> None:
    assert refusal(impl.tabulated_certificate, malformed) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("NMX-R14")
@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_tabulated_table_has_no_recovery(impl: Implementation, malformed: TabulatedTable) -> None:
    counts = [1] * sum(len(part.tokens) for part in malformed.parts)
    assert refusal(impl.weighted_recovery, malformed, counts) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("NMX-R14")
def test_a_part_of_1024_tokens_is_taken(impl: Implementation) -> None:
    assert impl.weighted_recovery(long_part(1024), [1, *[0] * 1023]) == 1


LEVELS = [
    TabulatedTable(
        "tiny",
        epsilon,
        (
            TabulatedPart(("a", "b"), ((4, 0), (1, 4)), (EVEN, ODD)),
            TabulatedPart(("\u00e9", 'quote"', "\U0001f600"), ((5, 0, -(2**20)),) * 3, (thirds,) * 3),
            TabulatedPart(("the",), ((2**20,),), ((2**64,),)),
        ),
    )
    for epsilon, thirds in (
        ("0.5", (1, 2**64 - 2, 1)),
        ("2", (2**64 - 2, 1, 1)),
        ("64.000", (2**62,) * 2 + EVEN[:1]),
    )
]
STATED, TENSORS = tiny_table.metadata(LEVELS), tiny_table.tensors(LEVELS)


def loaded(impl: Implementation, data: bytes, level: int) -> TabulatedTable:
    """Return one level of a file with these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.safetensors"
        path.write_bytes(data)
        return impl.load_tabulated(path, level)


@pytest.mark.requirement("NMX-R15")
@given(levels=strategies.table_levels())
@example(levels=LEVELS)
@examples(15)
def test_every_level_of_a_table_file_is_read_as_it_was_written(
    impl: Implementation, levels: list[TabulatedTable]
) -> None:
    data = file_bytes(tiny_table.metadata(levels), tiny_table.tensors(levels))
    assert [loaded(impl, data, number) for number in range(len(levels))] == levels


def stating(**changes: object) -> bytes:
    """Return a table file whose metadata say something else."""
    return file_bytes(STATED | changes, TENSORS)


def without(name: str) -> bytes:
    """Return a table file whose metadata leave something out."""
    return file_bytes({key: value for key, value in STATED.items() if key != name}, TENSORS)


def holding(**changes: Tensor) -> bytes:
    """Return a table file with other tensors."""
    return file_bytes(STATED, TENSORS | changes)


def cell(name: str, place: int, value: int) -> bytes:
    """Return a table file with another value in one place of a tensor."""
    values = list(TENSORS[name].values)
    values[place] = value
    return holding(**{name: replace(TENSORS[name], values=tuple(values))})


def text(entries: str) -> Tensor:
    """Return entries as this text."""
    return Tensor("U8", (len(entries.encode()),), tuple(entries.encode()))


def lacking(name: str) -> bytes:
    """Return a table file without a tensor."""
    return file_bytes(STATED, {key: tensor for key, tensor in TENSORS.items() if key != name})


def reshaped(name: str, *size: int) -> bytes:
    """Return a table file that gives a tensor another shape."""
    return holding(**{name: replace(TENSORS[name], size=size)})


def headed(change: Callable[[dict[str, dict[str, object]]], object]) -> bytes:
    """Return a table file after a change of its header."""
    size = int.from_bytes(WHOLE_FILE[:8], "little")
    header = json.loads(WHOLE_FILE[8 : 8 + size])
    change(header)
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + WHOLE_FILE[8 + size :]


WHOLE_FILE = file_bytes(STATED, TENSORS)
ENTRIES = json.loads(bytes(TENSORS["entries"].values))
CORRUPT: dict[str, bytes] = {
    "nothing": b"",
    "header-length": WHOLE_FILE[:8],
    "half": WHOLE_FILE[: len(WHOLE_FILE) // 2],
    "cut": WHOLE_FILE[:-1],
    "no-header": b"\xff" * 64,
    **{
        f"header-{kind.decode()}": b"\4\0\0\0\0\0\0\0" + kind for kind in (b"null", b"1234", b"[{}]", b'"ab"')
    },
    **{f"no-{name}": without(name) for name in STATED},
    "one-field-more": stating(more=1),
    "metadata-is-empty": file_bytes({}, TENSORS),
    "no-metadata": headed(lambda header: header.pop("__metadata__")),
    "one-metadata-key-more": headed(lambda header: header["__metadata__"].update(more="1")),
    "metadata-not-json": headed(lambda header: header["__metadata__"].update(veil="{")),
    "metadata-not-an-object": headed(lambda header: header["__metadata__"].update(veil="[]")),
    "metadata-a-number": headed(lambda header: header["__metadata__"].update(veil="5")),
    "tensor-undescribed": headed(lambda header: header["sizes"].clear()),
    "unknown-type": headed(lambda header: header["sizes"].update(dtype="Q9")),
    "offsets-too-short": headed(lambda header: header["sizes"].update(data_offsets=[0, 4])),
    "name": stating(name=7),
    "entries-kind": stating(entries="letters"),
    "noise": stating(noise="gaussian"),
    "vectors": stating(vectors=None),
    "policy": stating(policy=["none"]),
    "epsilon-is-text": stating(epsilon="0.5"),
    "no-epsilon": stating(epsilon=[]),
    "epsilon-falls": stating(epsilon=["0.5", "2", "1"]),
    "epsilon-stays": stating(epsilon=["0.5", "2", "2.0"]),
    "one-level-less": stating(epsilon=["0.5", "2"]),
    "one-level-more": stating(epsilon=["0.5", "2", "3", "4"]),
    **{f"lacks-{name}": lacking(name) for name in TENSORS},
    "one-tensor-more": holding(more=Tensor("I32", (1,), (0,))),
    "type-of-sizes": holding(sizes=replace(TENSORS["sizes"], kind="I16")),
    "type-of-scores": holding(scores=replace(TENSORS["scores"], kind="U64", values=(0,) * 14)),
    "type-of-weights": holding(weights=replace(TENSORS["weights"], kind="I32", values=(1,) * 42)),
    "shape-of-weights": reshaped("weights", 14, 3),
    "flat-weights": reshaped("weights", 42),
    "flat-alphas": reshaped("alphas", 9),
    "shape-of-members": reshaped("members", 1, 6),
    "one-class-less": holding(classes=Tensor("I32", (2,), (0, 1))),
    "one-score-less": holding(scores=Tensor("I32", (13,), (0,) * 13)),
    "a-part-of-none": holding(
        sizes=Tensor("I32", (4,), (2, 3, 1, 0)),
        classes=Tensor("I32", (4,), (0,) * 4),
        alphas=Tensor("I32", (3, 4), (1,) * 12),
    ),
    "a-negative-size": cell("sizes", 0, -2),
    "sizes-too-large": cell("sizes", 2, 2),
    "member-twice": cell("members", 0, TENSORS["members"].values[1]),
    "member-too-high": cell("members", 0, 6),
    "member-negative": cell("members", 5, -6),
    "entries-not-json": holding(entries=text("[a]")),
    "entries-not-utf8": holding(entries=Tensor("U8", (2,), (0x5B, 0xFF))),
    "entries-not-a-list": holding(entries=text(json.dumps("abcdef"))),
    "entry-twice": holding(entries=text(json.dumps([*ENTRIES[:-1], ENTRIES[0]]))),
    "entry-not-a-string": holding(entries=text(json.dumps([*ENTRIES[:-1], 7]))),
    "one-entry-less": holding(entries=text(json.dumps(ENTRIES[:-1]))),
    "one-entry-more": holding(entries=text(json.dumps([*ENTRIES, "more"]))),
    "score-too-high": cell("scores", 13, 2**20 + 1),
    "score-too-low": cell("scores", 0, -(2**20) - 1),
    "alpha-0": cell("alphas", 0, 0),
    "alpha-1": cell("alphas", 8, 2**16),
    "weight-one-more": cell("weights", 0, 2**63 + 1),
    "weight-one-less": cell("weights", 2, 2**62 - 1),
    "weight-0": cell("weights", 4, 0),
    "weight-of-the-last-level": cell("weights", 28, 1),
    "weights-sum-to-twice": holding(
        weights=replace(
            TENSORS["weights"],
            values=(*TENSORS["weights"].values[:4], *(2**64 - 1,) * 2, 2, *TENSORS["weights"].values[7:]),
        )
    ),
    "weight-of-one-token": cell("weights", 13, 1),
}


@pytest.mark.requirement("NMX-R15")
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_table_file_that_is_not_as_stated_is_refused(impl: Implementation, data: bytes, level: int) -> None:
    assert refusal(loaded, impl, data, level) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("NMX-R15")
def test_a_missing_table_file_is_refused(impl: Implementation, tmp_path: Path) -> None:
    assert refusal(impl.load_tabulated, tmp_path / "none", 0) == Refusal.TABLE_MALFORMED


@pytest.mark.requirement("NMX-R15")
@pytest.mark.parametrize("version", ["0.1.0", "99.0.0", ""])
def test_a_table_file_of_another_version_is_refused(impl: Implementation, version: str) -> None:
    assert refusal(loaded, impl, stating(spec_version=version), 0) == Refusal.VERSION_MISMATCH


@pytest.mark.requirement("NMX-R15")
@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "65", "1e1", ""])
def test_a_table_file_with_no_epsilon_of_a_claim_is_refused(impl: Implementation, epsilon: str) -> None:
    assert refusal(loaded, impl, stating(epsilon=["0.5", "2", epsilon]), 0) == Refusal.EPSILON_OUT_OF_RANGE


@pytest.mark.requirement("NMX-R16")
@given(data=st.data(), directions=strategies.directions(2))
def test_candidates_of_the_paper_are_the_nearest_other_entries(
    impl: Implementation, data: st.DataObject, directions: list[list[int]]
) -> None:
    entry = data.draw(st.integers(0, len(directions) - 1))
    count = data.draw(st.integers(1, len(directions) - 1))
    others = [other for other in range(len(directions)) if other != entry]
    found, scores = impl.paper_candidates(directions, entry, count)
    assert list(found) == nearest(directions, entry, others, count)
    cosines = [Fraction(scalar(directions[entry], directions[other]), 2**24) for other in found]
    assert list(scores) == [floor(63 * (cosine + 1) / 2 + HALF) for cosine in cosines]


@pytest.mark.requirement("NMX-R16")
@pytest.mark.parametrize(
    ("entry", "count", "expected"),
    [
        (0, 3, ([3, 1, 2], [63, 32, 32])),
        (0, 4, ([3, 1, 2, 4], [63, 32, 32, 0])),
        (1, 2, ([0, 2], [32, 32])),
        (4, 1, ([1], [32])),
    ],
)
def test_known_candidates_of_the_paper(
    impl: Implementation, entry: int, count: int, expected: tuple[list[int], list[int]]
) -> None:
    directions = [[4096, 0], [0, 4096], [0, 0], [4096, 0], [-4096, 0]]
    candidates, scores = impl.paper_candidates(directions, entry, count)
    assert (list(candidates), list(scores)) == expected


@pytest.mark.requirement("NMX-R16")
@pytest.mark.parametrize("count", [0, -1, 3, 10])
def test_a_number_of_candidates_out_of_range_is_refused(impl: Implementation, count: int) -> None:
    assert refusal(impl.paper_candidates, [[1], [2], [3]], 1, count) == Refusal.TABLE_MALFORMED
