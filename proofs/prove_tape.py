"""Field elements drawn from a uniform tape are independent and uniform."""

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product

import pytest
import sympy
import z3

from veil_reference import tape
from veil_spec import constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refused
from veil_spec.types import Address, Domain, ListedTape

Draw = Callable[[Tape, Domain, int, int, int], int]
"""An algorithm for one field element: (tape, domain, stream, index, modulus) to element."""
WORD_VALUES = 8
"""The small tape's words have 3 bits."""
MODULUS = 5
"""So 3 of 8 words are rejected."""
RETRIES = 2
"""Words of each retry stream on the small tape; a draw that needs more has no result."""
PRIMARY = [(Domain.TEST, 0, index) for index in (0, 1)]
RETRY = [
    (Domain.TEST, (index + 1) << constants.RETRY_SHIFT, retry) for index in (0, 1) for retry in range(RETRIES)
]


def small_tapes() -> Iterator[ListedTape]:
    """Yield every tape that holds two first words and two retry words for each of two elements."""
    addresses: list[Address] = [*PRIMARY, *RETRY]
    for words in product(range(WORD_VALUES), repeat=len(addresses)):
        yield ListedTape(dict(zip(addresses, words, strict=True)))


def pair_counts(draw: Draw) -> Counter[tuple[int, ...]]:
    """Return on how many small tapes elements 0 and 1 take each pair of values."""
    counts: Counter[tuple[int, ...]] = Counter()
    for words in small_tapes():
        try:
            first, second = (draw(words, Domain.TEST, 0, index, MODULUS) for index in (0, 1))
        except Refused:
            continue
        counts[first, second] += 1
    return counts


def is_uniform(counts: Counter[tuple[int, ...]]) -> bool:
    """Return whether every pair of field elements occurs equally often."""
    every = [counts[pair] for pair in product(range(MODULUS), repeat=2)]
    return len(set(every)) == 1 and every[0] > 0 and sum(every) == sum(counts.values())


@pytest.mark.requirement("TAP-G1")
def test_pairs_of_elements_are_uniform_and_independent_on_every_small_tape() -> None:
    """Two elements of one stream take each pair of values on the same number of tapes.

    Given: all 8**6 tapes of 3-bit words, p = 5, at most two retries an element (by machine: complete
    enumeration).
    Then: the pair is uniform on F_p x F_p, given that both draws end; they fail to end with probability below
    2 (1 - p / 2**b)**(n + 1) after n retries, which has the limit 0 (argued).
    Assuming: nothing.
    Proves: TAP-G1.
    Pins: veil_reference.tape.field_element 0c09ab48.
    """
    counts = pair_counts(tape.field_element)
    assert is_uniform(counts)
    ended = 1 - Fraction(WORD_VALUES - MODULUS, WORD_VALUES) ** (RETRIES + 1)
    assert sum(counts.values()) == ended**2 * WORD_VALUES ** len([*PRIMARY, *RETRY])


@pytest.mark.requirement("TAP-G1")
def test_the_number_of_words_read_says_nothing_about_the_element() -> None:
    """Given how many words a draw has read, every value is equally likely.

    Given: all sequences of three 3-bit words for one element, p = 5 (by machine: complete enumeration).
    Then: what time may show, the number of rejected words, is independent of the element.
    Assuming: nothing.
    Proves: TAP-G1.
    """
    addresses: list[Address] = [PRIMARY[0], *RETRY[:RETRIES]]
    seen: dict[int, Counter[int]] = {}
    for words in product(range(WORD_VALUES), repeat=len(addresses)):
        if min(words) >= MODULUS:
            continue
        listed = ListedTape(dict(zip(addresses, words, strict=True)))
        rejected = next(place for place, word in enumerate(words) if word < MODULUS)
        drawn = tape.field_element(listed, Domain.TEST, 0, 0, MODULUS)
        seen.setdefault(rejected, Counter())[drawn] += 1
    assert sorted(seen) == [0, 1, 2]
    assert all(set(c) == set(range(MODULUS)) and len(set(c.values())) == 1 for c in seen.values())


@pytest.mark.requirement("TAP-G1")
def test_rejection_gives_every_value_the_same_probability_for_every_modulus() -> None:
    """Summed over all retries, each value has probability 1 / p.

    Given: candidates uniform on 2**b values, q = p / 2**b the chance to keep one (by machine: sympy sums the
    series).
    Then: sum over n of (1 - q)**n / 2**b = 1 / p, for every p with 0 < p <= 2**b.
    Assuming: nothing.
    Proves: TAP-G1.
    """
    p, size, n = sympy.symbols("p size n", positive=True)
    q = p / size
    partial = sympy.summation((1 - q) ** sympy.Symbol("k"), (sympy.Symbol("k"), 0, n - 1)) / size
    assert sympy.simplify(partial - (1 - (1 - q) ** n) / p) == 0


@pytest.mark.requirement("TAP-G1")
def test_low_bits_of_a_uniform_word_are_uniform() -> None:
    """Each candidate has the same number of words above it.

    Given: the three fields of the specification; a word is high * 2**b + low (by machine: z3 on 64-bit
    words).
    Then: low bits and high bits determine the word and are free of each other: 2**(64 - b) words a candidate.
    Assuming: nothing.
    Proves: TAP-G1.
    """
    for modulus in constants.PRIMES:
        bits = modulus.bit_length()
        high, low = z3.BitVecs("high low", constants.WORD_BITS)
        word = (high << bits) | low
        bounds = [z3.ULT(low, 2**bits), z3.ULT(high, 2 ** (constants.WORD_BITS - bits))]
        splits = z3.And(word & (2**bits - 1) == low, z3.LShR(word, bits) == high)
        assert is_theorem(z3.Implies(z3.And(*bounds), splits))
        assert 2 ** (bits - 1) < modulus < 2**bits


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    return bool(solver.check() == z3.unsat)


def streams_apart(retry_shift: int) -> bool:
    """Return whether distinct elements read disjoint addresses when retry streams are that far apart."""
    s, t, i, j = z3.Ints("s t i j")
    owned = [s >= 0, s < 2**constants.RETRY_SHIFT, t >= 0, t < 2**constants.RETRY_SHIFT]
    indexed = [i >= 0, i < constants.ELEMENT_LIMIT, j >= 0, j < constants.ELEMENT_LIMIT]
    retry_s, retry_t = s + (i + 1) * 2**retry_shift, t + (j + 1) * 2**retry_shift
    apart = z3.And(
        z3.Implies(retry_s == retry_t, z3.And(s == t, i == j)),
        retry_s != t,
        retry_s < 2**constants.STREAM_BITS,
    )
    return is_theorem(z3.Implies(z3.And(*owned, *indexed), apart))


@pytest.mark.requirement("TAP-G1")
def test_distinct_elements_read_disjoint_words() -> None:
    """No word of the tape serves two elements.

    Given: any streams below 2**64 and indices below 2**32 - 1 (by machine: z3 over all integers).
    Then: retry streams differ from each other and from every first stream, and have 96 bits. So functions of
    disjoint independent words are independent (argued: the definition of independence).
    Assuming: nothing.
    Proves: TAP-G1.
    """
    assert streams_apart(constants.RETRY_SHIFT)


def modulo(words: Tape, domain: Domain, stream: int, index: int, modulus: int) -> int:
    """Return a biased element: the candidate modulo p, without rejection."""
    return words.word(domain, stream, index) % modulus


def shared_retry(words: Tape, domain: Domain, stream: int, index: int, modulus: int) -> int:
    """Return an element that retries on the same stream for every index."""
    candidate, retry = words.word(domain, stream, index), 0
    while candidate >= modulus:
        candidate = words.word(domain, stream + (1 << constants.RETRY_SHIFT), retry)
        retry += 1
    return candidate


def test_negative_control_bias_and_shared_retries_are_noticed() -> None:
    """The same count rejects a reduction modulo p, and elements that share their retry words.

    Controls: TAP-G1.
    """
    assert not is_uniform(pair_counts(modulo))
    assert not is_uniform(pair_counts(shared_retry))
    assert not streams_apart(constants.RETRY_SHIFT - 1)
