"""Why a draw from a table of integer weights is private: its law is the table, so NMX-G2 is exact.

1. The draw returns index i for exactly weights[i] of the 2**64 words (`test_each_index_*` and
   `test_the_borders_*`).
2. The rounding rule leaves every weight positive and every row whole (`test_rounding_*`).
3. Every selection reads one word, at an address of its own, so the law of a document is a product and one
   replaced token changes one factor (`test_the_law_of_a_document_*`).
4. That factor is at most the certificate's exact figure, and reaches it (`test_the_exact_figure_*`).
5. Level 0 does not look at the private token: its factor is 1 (`test_level_0_*`).

The complete enumerations replace 2**64 by a small number of words; the code runs as it is otherwise.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, combinations, pairwise, product

import pytest
import z3

from veil_reference import tabulated
from veil_reference.accounting import exact_pmf
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refused
from veil_spec.types import (
    Domain,
    Geometric,
    ListedTape,
    Noise,
    Rows,
    Selection,
    TabulatedPart,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
)

Draw = Callable[[Sequence[int], Tape, int, int], Selection]
"""A tabulated selection: (weights, tape, token number, document number) to index."""
Law = tuple[int, ...]
"""For each index, the number of words, or of tapes, that give it."""
DOCUMENT = 5
"""The number of every document below."""
WORD_LIMIT = 2**constants.WORD_BITS


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation (True) or finds a counterexample (False)."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    verdict = solver.check()
    assert verdict in (z3.sat, z3.unsat), "undecided"
    return bool(verdict == z3.unsat)


def tape_of(words: Sequence[int]) -> ListedTape:
    """Return a tape that holds one word for each token of the document, and no other."""
    return ListedTape({(Domain.DRAW, DOCUMENT, token): word for token, word in enumerate(words)})


def rows_of(total: int, size: int) -> Iterator[Law]:
    """Yield every row of positive weights with that sum."""
    for cuts in combinations(range(1, total), size - 1):
        yield tuple(b - a for a, b in pairwise((0, *cuts, total)))


def law_of(draw: Draw, row: Sequence[int], words: int) -> Law:
    """Return for how many of the words the draw returns each index."""
    drawn = Counter(int(draw(row, tape_of([word]), 0, DOCUMENT).index) for word in range(words))
    assert set(drawn) <= set(range(len(row)))
    return tuple(drawn[i] for i in range(len(row)))


# 1. The draw is its weights


@pytest.mark.requirement("NMX-G2")
def test_each_index_is_drawn_by_as_many_words_as_its_weight_says() -> None:
    """P(index i) is weights[i] over the number of words.

    Given: 16 words; every row of one to five positive weights with the sum 16 (by machine: complete).
    Then: the number of words that give index i is weights[i].
    Assuming: nothing.
    Proves: NMX-G2.
    Pins: veil_reference.tabulated.draw 13a21a86.
    """
    rows = [row for size in range(1, 6) for row in rows_of(16, size)]
    assert len(rows) == 1 + 15 + 105 + 455 + 1365
    assert all(law_of(tabulated.draw, row, 16) == row for row in rows)


def borders_are_the_sums(size: int, closed: bool) -> bool:
    """Return whether the count of sums at most (or below) a word is i exactly between sums i - 1 and i."""
    weights, word = z3.Ints(" ".join(f"weight{i}" for i in range(size))), z3.Int("word")
    sums = [z3.Sum(weights[: i + 1]) for i in range(size)]
    given = z3.And(*(weight >= 1 for weight in weights), sums[-1] == WORD_LIMIT, word >= 0, word < WORD_LIMIT)
    count = z3.Sum([z3.If(s <= word if closed else s < word, 1, 0) for s in sums[:-1]])
    claims = [
        (count == i) == z3.And(word >= low, word < high)
        for i, (low, high) in enumerate(zip([z3.IntVal(0), *sums[:-1]], sums, strict=True))
    ]
    return is_theorem(z3.Implies(given, z3.And(*claims)))


@pytest.mark.requirement("NMX-G2")
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_borders_between_indices_are_the_sums_for_all_64_bit_rows(size: int) -> None:
    """The words that give index i are those from sum i - 1 to sum i, without the latter: weights[i] of them.

    Given: any positive weights with the sum 2**64, any word (by machine: z3 over all integers, two to four
    weights). For any number of them: the sums rise, so those at most the word are the first ones (argued).
    Then: the index is i exactly for weights[i] words; the reference is seen to change it at these borders.
    Assuming: nothing.
    Proves: NMX-G2.
    """
    assert borders_are_the_sums(size, closed=True)
    for row in product((1, 2**32 + 1, 3), repeat=size - 1):
        whole = [*row, WORD_LIMIT - sum(row)]
        for i, border in enumerate(accumulate(row)):
            for word, index in ((border - 1, i), (border, i + 1)):
                assert tabulated.draw(whole, tape_of([word]), 0, DOCUMENT).index == index


# 2. The rounding


def is_a_row(weights: Sequence[int], total: int) -> bool:
    """Return whether weights are positive and sum to total."""
    return min(weights) >= 1 and sum(weights) == total


@pytest.mark.requirement("NMX-G2")
def test_rounding_can_always_be_put_right_at_the_largest_weight() -> None:
    """The largest weight exceeds what the correction takes from it.

    Given: chances x > 0 in units of 2**-64 whose sum is 2**64, each rounded down and raised to 1 (by machine:
    z3 over all reals: each moves by less than 1). So the sum of K moves by at most K - 1, a whole number, and
    the largest is at least the K-th part of 2**64, rounded down (argued).
    Then: it stays positive for every K up to PART_LIMIT (by machine: complete), and for CANDIDATE_LIMIT.
    Assuming: nothing.
    Proves: NMX-G2.
    Pins: veil_reference.tabulated.tabulate c1f63937.
    """
    chance, floor = z3.Real("chance"), z3.Int("floor")
    raised = z3.If(floor < 1, 1, floor)
    rounded = z3.And(chance > 0, floor <= chance, chance < floor + 1)
    assert is_theorem(z3.Implies(rounded, z3.And(raised - chance < 1, chance - raised < 1)))
    sizes = (*range(1, constants.PART_LIMIT + 1), constants.CANDIDATE_LIMIT)
    assert all(WORD_LIMIT // size - (size - 1) >= 1 for size in sizes)


def rounds_well(
    tabulate: Callable[[Sequence[int], Noise], Sequence[int]], scores: Sequence[int], noise: Noise, total: int
) -> bool:
    """Return whether rounding gives a row within K of the law at one index, and within 1 at all others."""
    weights = tabulate(scores, noise)
    law = exact_pmf(scores, noise)
    *others, farthest = sorted(abs(w - total * chance) for w, chance in zip(weights, law, strict=True))
    near = farthest < len(scores) and all(move < 1 for move in others)
    return is_a_row(weights, total) and near


STEEP = (Fraction(1, 2**16), Fraction(1, 3), Fraction(65535, 65536))


@pytest.mark.requirement("NMX-G2")
@pytest.mark.parametrize("kind", [Geometric, TwoSidedGeometric])
def test_rounding_keeps_every_weight_positive_and_every_row_whole(
    kind: type[Geometric] | type[TwoSidedGeometric], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are at least 1 and sum to 2**64, however steep or flat the law is.

    Given: one to four candidates, all scores 0 to 3, three noises, and 16 words in place of 2**64 (by
    machine: complete); 2**64 words and the steepest scores of a built table (checked).
    Then: positive weights with the right sum, within K of the law at one index and within 1 at all others.
    Assuming: nothing.
    Proves: NMX-G2.
    """
    for alpha in STEEP:
        assert rounds_well(tabulated.tabulate, (constants.LEVELS - 1, 0, 0, 1), kind(alpha), WORD_LIMIT)
    monkeypatch.setattr(tabulated, "WHOLE", 16)
    for alpha, size in product(STEEP, range(1, 5)):
        rows = product(range(4), repeat=size)
        assert all(rounds_well(tabulated.tabulate, scores, kind(alpha), 16) for scores in rows)


# 3. and 4. Documents


def joint_law(draw: Draw, rows: Rows, words: int) -> Counter[tuple[int, ...]]:
    """Return for how many tapes a document whose tokens have these rows gets each outputs."""
    return Counter(
        tuple(draw(row, tape, token, DOCUMENT).index for token, row in enumerate(rows))
        for tape in map(tape_of, product(range(words), repeat=len(rows)))
    )


def is_product(joint: Counter[tuple[int, ...]], rows: Rows) -> bool:
    """Return whether each pair of outputs has as many tapes as the product of its weights says."""
    outputs = product(*(range(len(row)) for row in rows))
    return all(joint[i, j] == rows[0][i] * rows[1][j] for i, j in outputs)


def within(joint: Counter[tuple[int, ...]], other: Counter[tuple[int, ...]], factor: Fraction) -> bool:
    """Return whether no output is more than factor times as likely in the first law as in the second."""
    return all(joint[output] <= factor * other[output] for output in joint | other)


PARTS: tuple[tuple[Law, ...], ...] = (((5, 2, 1), (1, 5, 2), (2, 2, 4)), ((6, 2), (3, 5)))
"""Two parts with rows that sum to 8: their exact figures are 5 and 5/2."""


def table_of(*parts: Rows) -> TabulatedTable:
    """Return a table with these weights and the largest claim that can be made."""
    names = iter(range(sum(map(len, parts))))
    return TabulatedTable(
        "proof",
        str(constants.EPSILON_LIMIT),
        tuple(
            TabulatedPart(
                tokens=tuple(str(next(names)) for _ in rows),
                scores=((0,) * len(rows),) * len(rows),
                weights=tuple(map(tuple, rows)),
            )
            for rows in parts
        ),
    )


def adjacent_documents() -> Iterator[tuple[tuple[Law, ...], tuple[Law, ...]]]:
    """Yield every pair of documents of two tokens that differ in one token, inside its part, as rows."""
    tokens = [(part, row) for part in PARTS for row in part]
    for (part, row), (_, kept) in product(tokens, repeat=2):
        for other in part:
            yield (row, kept), (other, kept)
            yield (kept, row), (kept, other)


@pytest.mark.requirement("NMX-G2")
def test_the_law_of_a_document_is_a_product_in_which_one_factor_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replacing one token by another of its part changes the law of all outputs by at most the exact figure.

    Given: a table with parts of three and of two tokens, all documents of two tokens, all 64 tapes of two
    words below 8 (by machine: complete).
    Then: the joint law is the product of the rows. So the factor of a pair is that of the changed token, at
    most the certificate's exact figure; some pair reaches it, hence a smaller figure fails.
    For any number of tokens: the address of a word is the document's and the token's number, so the words are
    independent, and p <= r p' stays so when both are multiplied by the chance of the other outputs (by
    machine: z3 over all reals).
    Assuming: TAP-A1, NMX-A1, NMX-A2, NMX-A3.
    Proves: NMX-G2.
    Pins: veil_reference.tabulated.tabulated_certificate 54ef5e96.
    """
    monkeypatch.setattr(tabulated, "WHOLE", 8)
    exact = tabulated.tabulated_certificate(table_of(*PARTS)).exact
    laws = {
        rows: joint_law(tabulated.draw, rows, 8)
        for rows in product((row for p in PARTS for row in p), repeat=2)
    }
    assert all(is_product(joint, rows) for rows, joint in laws.items())
    pairs = [(laws[one], laws[other]) for one, other in adjacent_documents()]
    assert all(within(one, other, exact) for one, other in pairs)
    assert not all(within(one, other, exact - Fraction(1, 1000)) for one, other in pairs)
    p, q, factor, rest = z3.Reals("p q factor rest")
    assert is_theorem(z3.Implies(z3.And(rest >= 0, p <= factor * q), p * rest <= factor * q * rest))


@pytest.mark.requirement("NMX-G2")
@pytest.mark.parametrize(("size", "words"), [(2, 16), (3, 6)])
def test_the_exact_figure_is_the_largest_ratio_of_the_law_of_the_draw(
    size: int, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate's exact figure is what the draw does, for every table.

    Given: every table of one part of two tokens and 16 words, or three tokens and 6 words; the law of the
    draw, counted over all words (by machine: complete).
    Then: the largest ratio of two chances of one output, in any two rows, is the exact figure.
    Assuming: nothing.
    Proves: NMX-G2.
    Pins: veil_reference.tabulated.check_tabulated 5d360035.
    """
    monkeypatch.setattr(tabulated, "WHOLE", words)
    law = {row: law_of(tabulated.draw, row, words) for row in rows_of(words, size)}
    for rows in product(law, repeat=size):
        columns = zip(*(law[row] for row in rows), strict=True)
        largest = max(Fraction(max(column), min(column)) for column in columns)
        assert tabulated.tabulated_certificate(table_of(rows)).exact == largest


# 5. Level 0


def knows_no_token(select: Callable[..., Selection]) -> bool:
    """Return whether a selection gets the size of a part, a tape and two numbers, and nothing else."""
    return list(inspect.signature(select).parameters) == ["size", "tape", "token", "document"]


@pytest.mark.requirement("NMX-G2")
def test_level_0_does_not_look_at_the_private_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law of level 0 is one law for all tokens of a part: ratio 1.

    Given: the parameters of `draw_uniformly`, of which `token` is the number of the selection (by machine:
    its signature); parts of up to 8 tokens and 16 words (by machine: complete); every part size and every
    word below 2**64 (by machine: z3).
    Then: the index is in the part, every index is possible, and the chances of two differ by one word at
    most. The private token is no argument, so exchanging it changes nothing (argued).
    Assuming: TAP-A1.
    Proves: NMX-G2.
    Pins: veil_reference.tabulated.draw_uniformly 6355288b.
    """
    assert knows_no_token(tabulated.draw_uniformly)
    monkeypatch.setattr(tabulated, "WHOLE", 16)
    for size in range(1, 9):
        drawn = [
            int(tabulated.draw_uniformly(size, tape_of([word]), 0, DOCUMENT).index) for word in range(16)
        ]
        counts = [drawn.count(index) for index in range(size)]
        assert sum(counts) == 16 and max(counts) - min(counts) <= 1 <= min(counts)
    word, size_ = z3.Ints("word size")
    given = z3.And(word >= 0, word < WORD_LIMIT, size_ >= 1, size_ <= constants.PART_LIMIT)
    index = size_ * word / WORD_LIMIT
    assert is_theorem(z3.Implies(given, z3.And(index >= 0, index < size_)))


# Negative controls


def strict_draw(weights: Sequence[int], tape: Tape, token: int, document: int) -> Selection:
    """Return an index by the number of sums below the word, where the specification says at most."""
    word = tape.word(Domain.DRAW, document, token)
    return Selection(TokenIndex(sum(s < word for s in list(accumulate(weights))[:-1])))


def one_word_for_all(weights: Sequence[int], tape: Tape, token: int, document: int) -> Selection:
    """Return a draw that reads the word of token 0 for every token."""
    return tabulated.draw(weights, tape, 0, document)


def unraised(scores: Sequence[int], noise: Noise) -> list[int]:
    """Return the law rounded down, with the rest at the largest weight: improbable outputs get 0."""
    weights = [int(chance * WORD_LIMIT) for chance in exact_pmf(scores, noise)]
    weights[weights.index(max(weights))] += WORD_LIMIT - sum(weights)
    return weights


def uncorrected(scores: Sequence[int], noise: Noise) -> list[int]:
    """Return the law rounded down and raised, without the correction of the sum."""
    return [max(1, int(chance * WORD_LIMIT)) for chance in exact_pmf(scores, noise)]


def test_negative_control_a_draw_with_the_wrong_comparison() -> None:
    """The same count and the same z3 claim reject < in place of <=.

    Controls: NMX-G2.
    """
    assert law_of(strict_draw, (5, 6, 5), 16) == (6, 6, 4)
    assert not borders_are_the_sums(3, closed=False)


def test_negative_control_a_weight_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a weight is 0, the same comparison finds no factor at all; the certificate refuses the table.

    Controls: NMX-G2.
    """
    even, certain = (joint_law(tabulated.draw, (row,), 8) for row in ((4, 4), (8, 0)))
    assert not within(even, certain, Fraction(10**30))
    monkeypatch.setattr(tabulated, "WHOLE", 8)
    with pytest.raises(Refused):
        tabulated.tabulated_certificate(table_of(((4, 4), (8, 0))))


def test_negative_control_a_row_whose_sum_is_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row lacks a word or has one too many, the same count differs; the certificate refuses it.

    Controls: NMX-G2.
    """
    monkeypatch.setattr(tabulated, "WHOLE", 16)
    for row in ((5, 6, 4), (5, 6, 6)):
        assert law_of(tabulated.draw, row, 16) == (5, 6, 5)
        with pytest.raises(Refused):
            tabulated.tabulated_certificate(table_of((row,) * 3))


def test_negative_control_other_roundings() -> None:
    """The same check rejects a rounding without the raise to 1, and one without the correction.

    Controls: NMX-G2.
    """
    steep, flat = Geometric(STEEP[0]), Geometric(STEEP[1])
    assert not rounds_well(unraised, (63, 0, 0, 1), steep, WORD_LIMIT)
    assert not rounds_well(uncorrected, (2, 1, 0), flat, WORD_LIMIT)


def test_negative_control_one_word_for_two_tokens() -> None:
    """Tokens that share a word have no product law, and no factor holds: the same checks say so.

    Controls: NMX-G2.
    """
    kept = PARTS[1][0]
    one, other = (joint_law(one_word_for_all, (row, kept), 8) for row in PARTS[1])
    assert not is_product(one, (kept, kept))
    assert not within(other, one, Fraction(10**30))


def test_negative_control_a_selection_that_gets_the_token() -> None:
    """The same look at the parameters rejects the draw from a row, which is the private token's.

    Controls: NMX-G2.
    """
    assert not knows_no_token(tabulated.draw)
