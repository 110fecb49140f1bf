"""A sampled token has the probability of its weight, up to less than one word of the tape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, product

import pytest
import z3

from veil_reference import sampling
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.types import Domain, ListedTape

Draw = Callable[[Sequence[int], Tape, int, int], int]
"""A draw: (weights, tape, sample, number of the new token) to index."""
BITS = 6
"""Bits of the words of the complete enumeration."""


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation (True) or finds a counterexample (False)."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    verdict = solver.check()
    assert verdict in (z3.sat, z3.unsat), "undecided"
    return bool(verdict == z3.unsat)


def rows() -> Iterator[tuple[int, ...]]:
    """Yield every row of one to four weights from 0 to 5 that are not all 0."""
    for size in range(1, 5):
        yield from (row for row in product(range(6), repeat=size) if any(row))


def drawn(draw: Draw, row: Sequence[int]) -> Counter[int]:
    """Return for how many of the words of BITS bits each index is drawn."""
    tapes = (ListedTape({(Domain.SAMPLING, 3, 7): word}) for word in range(2**BITS))
    return Counter(draw(row, tape, 3, 7) for tape in tapes)


def is_close(draw: Draw, row: Sequence[int]) -> bool:
    """Return whether every index has its share of the words, up to less than one, and weight 0 none."""
    counts, total = drawn(draw, row), sum(row)
    return all(
        abs(counts[index] * total - weight * 2**BITS) < total and (weight > 0 or not counts[index])
        for index, weight in enumerate(row)
    )


@pytest.mark.requirement("MDL-G2")
def test_every_index_has_its_share_of_the_words_up_to_less_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probability of an index is within one word's of its weight over the sum.

    Given: words of 6 bits; all 1,550 rows of one to four weights from 0 to 5 (by machine: complete).
    Then: each index is drawn by its share of the 64 words, up to less than one, and weight 0 by none.
    Assuming: nothing.
    Proves: MDL-G2.
    Pins: veil_reference.sampling.sample_token 3b2ab441.
    """
    monkeypatch.setattr(constants, "WORD_BITS", BITS)
    every = list(rows())
    assert len(every) == 5 + 35 + 215 + 1295
    assert all(is_close(sampling.sample_token, row) for row in every)


def count_is_close(strict: bool) -> bool:
    """Return whether as many words x have A <= x W < B as (B - A) / W says, up to less than one, or W / 2.

    c and d are the least integers with c W >= A and d W >= B; the words in question are c to d - 1.
    """
    low, high, total, c_total, d_total = z3.Reals("A B W cW dW")
    least = [z3.And(c_total - total < low, low <= c_total), z3.And(d_total - total < high, high <= d_total)]
    given = z3.And(low >= 0, low <= high, total >= 1, *least)
    difference = (d_total - c_total) - (high - low)
    bound = total if strict else total / 2
    return is_theorem(z3.Implies(given, z3.And(difference < bound, -difference < bound)))


@pytest.mark.requirement("MDL-G2")
def test_the_words_of_an_index_are_counted_within_one_for_all_weights() -> None:
    """For any weights, the number of words of an index differs from its share of 2**64 by less than one.

    Given: floor(x W / 2**64) >= a exactly if x W >= a 2**64 (argued: a is an integer), so the words of an
    index with the sums a and b around it are those with a 2**64 <= x W < b 2**64; any real borders and sum
    (by machine: z3). They are words of the tape, since b <= W (argued).
    Then: the probability of an index differs from (b - a) / W by less than 2**-64.
    Assuming: uniform words.
    Proves: MDL-G2.
    """
    assert count_is_close(strict=True)


def by_remainder(weights: Sequence[int], tape: Tape, sample: int, token: int) -> int:
    """Return the index that a word's remainder draws, which favours the first indices."""
    reached = tape.word(Domain.SAMPLING, sample, token) % sum(weights)
    return next(index for index, upto in enumerate(accumulate(weights)) if upto > reached)


def closed(weights: Sequence[int], tape: Tape, sample: int, token: int) -> int:
    """Return the index whose sum reaches the word's share, with a border that belongs to the index before."""
    reached = tape.word(Domain.SAMPLING, sample, token) * sum(weights) >> BITS
    return next(index for index, upto in enumerate(accumulate(weights)) if upto >= reached)


def test_negative_control_wrong_draws_and_a_tighter_bound_are_noticed() -> None:
    """The same checks reject a remainder, a border on the wrong side, and a bound of half a word.

    Controls: MDL-G2.
    """
    assert not all(is_close(by_remainder, row) for row in rows())
    assert not all(is_close(closed, row) for row in rows())
    assert not count_is_close(strict=False)
