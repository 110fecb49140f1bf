"""The tape in bulk: OpenSSL's ChaCha20 writes runs of words, numpy cuts them to field elements."""

import hashlib
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

from veil_spec import __version__, constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, ListedTape

__all__ = ["BulkTape", "ListedTape", "SeededTape", "domain_key", "draw_into", "field_elements", "fill"]

Words = npt.NDArray[np.uint64]
Elements = npt.NDArray[np.int64]
WORD: Final = np.dtype("<u8")
"""A word as the tape lays it out."""
CHUNK: Final = 2**16
"""Words drawn at a time: 512 KiB stay in the second-level cache from the cipher to the comparison."""
ZEROS: Final = memoryview(bytes(8 * CHUNK))
"""Encrypted, zeros become the key stream."""


@runtime_checkable
class BulkTape(Protocol):
    """A tape that also writes runs of words, little-endian uint64 [count]."""

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the word at an address, 0 <= word < 2**64."""
        ...

    def fill(self, words: Words, domain: Domain, stream: int, start: int) -> None:
        """Return nothing, and overwrite the array with words start, start + 1, ... of a stream."""
        ...


def domain_key(seed: bytes | bytearray, domain: Domain) -> bytes:
    """Return the 32-byte ChaCha20 key of a domain.

    Implements: TAP-R1.
    """
    tag = f"veil {__version__} {domain}".encode("ascii")
    digest = hashlib.sha256(bytes([len(tag)]) + tag)
    digest.update(seed)
    return digest.digest()


class SeededTape:
    """The tape of a 32-byte seed. In production the seed comes from the operating system.

    Implements: TAP-R6.
    Refuses: SEED_LENGTH.
    """

    def __init__(self, seed: bytes | bytearray) -> None:
        if len(seed) != constants.SEED_BYTES:
            raise Refused(Refusal.SEED_LENGTH, f"seed must have {constants.SEED_BYTES} bytes")
        self._keys = {domain: bytearray(domain_key(seed, domain)) for domain in Domain}

    def erase(self) -> None:
        """Return nothing, and overwrite the keys: the tape is of no use afterwards."""
        for key in self._keys.values():
            key[:] = bytes(len(key))
        self._keys.clear()

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the word at an address, 0 <= word < 2**64. Refuses: as `fill`."""
        return int.from_bytes(self._cipher(domain, stream, index, 1).update(bytes(8)), "little")

    def fill(self, words: Words, domain: Domain, stream: int, start: int) -> None:
        """Return nothing, and overwrite the array with words start, start + 1, ... of a stream.

        Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW.
        """
        cipher = self._cipher(domain, stream, start, words.size)
        octets = words.view(np.uint8).data
        for first in range(0, len(octets), len(ZEROS)):
            piece = octets[first : first + len(ZEROS)]
            cipher.update_into(ZEROS[: len(piece)], piece)

    def _cipher(self, domain: Domain, stream: int, start: int, count: int) -> CipherContext:
        """Return the cipher that turns the next 8 * count zeros into words start to start + count - 1.

        Implements: TAP-R2.
        """
        check_addresses(stream, start, count)
        block, skipped = divmod(start, constants.WORDS_PER_BLOCK)
        # Layout of OpenSSL's nonce: block counter (4 bytes, little-endian) || RFC 8439 nonce (12 bytes).
        nonce = block.to_bytes(4, "little") + stream.to_bytes(12, "little")
        cipher = Cipher(algorithms.ChaCha20(self._keys[domain], nonce), mode=None).encryptor()
        cipher.update(bytes(8 * skipped))
        return cipher


def check_addresses(stream: int, start: int, count: int) -> None:
    """Refuse a run of addresses that no nonce and block counter can hold.

    Implements: TAP-R5.
    """
    if not 0 <= stream < 2**constants.STREAM_BITS:
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    if not (start >= 0 and start + count <= constants.INDEX_LIMIT):
        raise Refused(Refusal.COUNTER_OVERFLOW)


def fill(words: Words, tape: Tape, domain: Domain, stream: int, start: int) -> None:
    """Return nothing, and overwrite the array with a run of words; one call where the tape can."""
    if isinstance(tape, BulkTape):
        tape.fill(words, domain, stream, start)
    else:
        words[:] = [tape.word(domain, stream, start + i) for i in range(words.size)]


def field_elements(tape: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int) -> Elements:
    """Return elements start to start + count - 1 of a stream, each in [0, modulus) [count].

    Elements of 2^64 - 59 are int64 with the bits of the unsigned word.

    Implements: TAP-R3, TAP-R4.
    Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW.
    """
    _check_elements(stream, start, count)
    elements = np.empty(count, dtype=np.int64)
    draw_into(elements, tape, domain, stream, start, modulus)
    return elements


def draw_into(elements: Elements, tape: Tape, domain: Domain, stream: int, start: int, modulus: int) -> None:
    """Return nothing, and overwrite the array with elements start, start + 1, ... of a stream.

    Words are drawn, cut and compared in place: a page fault costs more than the words on its page.

    Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW.
    """
    _check_elements(stream, start, elements.size)
    for first in range(0, elements.size, CHUNK):
        _draw(elements[first : first + CHUNK], tape, domain, stream, start + first, modulus)


def _check_elements(stream: int, start: int, count: int) -> None:
    if not 0 <= stream < 2**constants.RETRY_SHIFT:
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    if not (start >= 0 and start + count <= constants.ELEMENT_LIMIT):
        raise Refused(Refusal.COUNTER_OVERFLOW)


def _draw(chunk: Elements, tape: Tape, domain: Domain, stream: int, start: int, modulus: int) -> None:
    words = chunk.view(WORD)
    fill(words, tape, domain, stream, start)
    np.bitwise_and(words, _low_bits(modulus), out=words)
    if words.max() >= modulus:
        for i in np.flatnonzero(words >= modulus):
            retry_stream = stream + ((start + int(i) + 1) << constants.RETRY_SHIFT)
            words[i] = _retried(tape, domain, retry_stream, modulus)


def _retried(tape: Tape, domain: Domain, retry_stream: int, modulus: int) -> int:
    retry = 0
    while (candidate := tape.word(domain, retry_stream, retry) & _low_bits(modulus)) >= modulus:
        retry += 1
    return candidate


def _low_bits(modulus: int) -> int:
    return (1 << modulus.bit_length()) - 1
