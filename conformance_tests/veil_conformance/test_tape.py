"""The tape: words, field elements, refusals."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import SEED, chacha20, examples, refusal
from veil_spec import __version__, constants
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Address, Domain, ListedTape

BLOCK_OF_RFC_8439 = bytes.fromhex(
    "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
    "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
)
NONCE_OF_RFC_8439 = bytes.fromhex("000000090000004a00000000")


def key(seed: bytes, domain: Domain) -> bytes:
    """Return the key that spec/tape.md gives a domain."""
    tag = f"veil {__version__} {domain.value}".encode("ascii")
    return hashlib.sha256(bytes([len(tag)]) + tag + seed).digest()


def word(seed: bytes, domain: Domain, stream: int, index: int) -> int:
    """Return a word by the definition of spec/tape.md."""
    block = chacha20(key(seed, domain), index // 8, stream.to_bytes(12, "little"))
    return int.from_bytes(block[8 * (index % 8) :][:8], "little")


def test_the_suites_own_chacha20_gives_the_block_of_rfc_8439() -> None:
    assert chacha20(bytes(range(32)), 1, NONCE_OF_RFC_8439) == BLOCK_OF_RFC_8439


@pytest.mark.requirement("TAP-R1")
@pytest.mark.parametrize("domain", Domain)
def test_each_domain_has_its_own_key(impl: Implementation, domain: Domain) -> None:
    tape = impl.seeded_tape(SEED)
    assert [tape.word(domain, 0, i) for i in range(3)] == [word(SEED, domain, 0, i) for i in range(3)]


@pytest.mark.requirement("TAP-R2")
@given(
    seed=strategies.seeds,
    domain=st.sampled_from(Domain),
    stream=st.integers(0, 2**96 - 1),
    index=st.integers(0, 2**35 - 1),
)
@example(seed=SEED, domain=Domain.TEST, stream=2**96 - 1, index=2**35 - 1)
@examples(50)
def test_a_word_is_cut_from_its_block(
    impl: Implementation, seed: bytes, domain: Domain, stream: int, index: int
) -> None:
    assert impl.seeded_tape(seed).word(domain, stream, index) == word(seed, domain, stream, index)


@pytest.mark.requirement("TAP-R3")
@given(modulus=strategies.moduli, data=st.data(), stream=st.integers(0, 2**64 - 1))
def test_a_candidate_below_p_is_the_element(
    impl: Implementation, modulus: int, data: st.DataObject, stream: int
) -> None:
    below = data.draw(st.lists(st.integers(0, modulus - 1) | st.just(modulus - 1), min_size=1, max_size=5))
    start = data.draw(st.integers(0, 2**32 - 7))
    high = data.draw(st.integers(0, 2**16 - 1)) << modulus.bit_length()
    listed: dict[Address, int] = {(Domain.PAD, stream, start + i): high + x for i, x in enumerate(below)}
    drawn = impl.field_elements(ListedTape(listed), Domain.PAD, stream, start, len(below), modulus)
    assert list(drawn) == below


@pytest.mark.requirement("TAP-R3")
@pytest.mark.parametrize("modulus", constants.PRIMES)
def test_elements_of_a_seeded_tape_are_the_low_bits_of_its_words(impl: Implementation, modulus: int) -> None:
    low = [word(SEED, Domain.TEST, 7, i) % 2 ** modulus.bit_length() for i in range(20)]
    assert list(impl.field_elements(impl.seeded_tape(SEED), Domain.TEST, 7, 0, 20, modulus)) == low


@pytest.mark.requirement("TAP-R4")
@given(modulus=strategies.moduli, data=st.data(), stream=st.sampled_from([0, 5, 2**64 - 1]))
def test_a_rejected_candidate_is_replaced_from_its_retry_stream(
    impl: Implementation, modulus: int, data: st.DataObject, stream: int
) -> None:
    high = st.integers(modulus, 2 ** modulus.bit_length() - 1)
    listed: dict[Address, int] = {}
    expected = []
    start = data.draw(st.integers(0, 2**32 - 5))
    for index in range(start, start + 3):
        rejected = data.draw(st.lists(high, max_size=3))
        expected.append(data.draw(st.integers(0, modulus - 1)))
        first, *retries = [*rejected, expected[-1]]
        listed[Domain.PAD, stream, index] = first
        retry_stream = stream + (index + 1) * 2**64
        listed |= {(Domain.PAD, retry_stream, n): retry for n, retry in enumerate(retries)}
    assert list(impl.field_elements(ListedTape(listed), Domain.PAD, stream, start, 3, modulus)) == expected


@pytest.mark.requirement("TAP-R5")
@pytest.mark.parametrize(
    ("stream", "index", "reason"),
    [
        (2**96, 0, Refusal.STREAM_OUT_OF_RANGE),
        (-1, 0, Refusal.STREAM_OUT_OF_RANGE),
        (0, 2**35, Refusal.COUNTER_OVERFLOW),
        (0, -1, Refusal.COUNTER_OVERFLOW),
        (0, 2**35 - 1, None),
        (2**96 - 1, 0, None),
    ],
)
def test_words_outside_the_tape_are_refused(
    impl: Implementation, stream: int, index: int, reason: Refusal | None
) -> None:
    assert refusal(impl.seeded_tape(SEED).word, Domain.TEST, stream, index) == reason


@pytest.mark.requirement("TAP-R5")
@pytest.mark.parametrize(
    ("stream", "start", "count", "reason"),
    [
        (2**64, 0, 1, Refusal.STREAM_OUT_OF_RANGE),
        (0, 2**32 - 1, 1, Refusal.COUNTER_OVERFLOW),
        (0, 2**32 - 2, 2, Refusal.COUNTER_OVERFLOW),
        (2**64, 0, 0, Refusal.STREAM_OUT_OF_RANGE),
        (-1, 0, 0, Refusal.STREAM_OUT_OF_RANGE),
        (0, -1, 1, Refusal.COUNTER_OVERFLOW),
        (0, 2**32, 0, Refusal.COUNTER_OVERFLOW),
        (2**64 - 1, 2**32 - 2, 1, None),
    ],
)
def test_elements_without_a_retry_stream_are_refused(
    impl: Implementation, stream: int, start: int, count: int, reason: Refusal | None
) -> None:
    tape = impl.seeded_tape(SEED)
    assert (
        refusal(impl.field_elements, tape, Domain.TEST, stream, start, count, constants.PRIMES[0]) == reason
    )


@pytest.mark.requirement("TAP-R6")
@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(impl: Implementation, length: int) -> None:
    assert refusal(impl.seeded_tape, bytes(length)) == Refusal.SEED_LENGTH


@pytest.mark.requirement("TAP-R7")
@given(listed=st.integers(0, 5), asked=st.integers(0, 5), content=strategies.words)
def test_a_listed_tape_holds_what_is_listed_and_no_more(
    impl: Implementation, listed: int, asked: int, content: int
) -> None:
    tape = impl.listed_tape({(Domain.TEST, 1, listed): content})
    assert tape.word(Domain.TEST, 1, listed) == content
    expected = None if asked == listed else Refusal.TAPE_EXHAUSTED
    assert refusal(tape.word, Domain.TEST, 1, asked) == expected
    assert refusal(tape.word, Domain.PAD, 1, listed) == Refusal.TAPE_EXHAUSTED
    assert refusal(tape.word, Domain.TEST, 0, listed) == Refusal.TAPE_EXHAUSTED
