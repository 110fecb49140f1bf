"""The tape: 64-bit words addressed by (domain, stream, index), and field elements drawn from them."""

import hashlib
from typing import Final

from veil_spec import __version__, constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain, ListedTape

__all__ = ["ListedTape", "SeededTape", "chacha20_block", "domain_key", "field_element", "field_elements"]

MASK: Final = 2**32 - 1
CHACHA_CONSTANTS: Final = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
"""RFC 8439, section 2.3: "expand 32-byte k" as four little-endian words."""
COLUMNS: Final = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS: Final = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def _quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & MASK
        mixed = state[z] ^ state[x]
        state[z] = ((mixed << bits) | (mixed >> (32 - bits))) & MASK


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """Return the 64-byte key stream block.

    Source: RFC 8439, section 2.3.
    """
    words = [
        int.from_bytes((key + counter.to_bytes(4, "little") + nonce)[i : i + 4], "little")
        for i in range(0, 48, 4)
    ]
    start = [*CHACHA_CONSTANTS, *words]
    state = list(start)
    for _ in range(10):
        for quarter in COLUMNS + DIAGONALS:
            _quarter_round(state, *quarter)
    return b"".join(((x + y) & MASK).to_bytes(4, "little") for x, y in zip(state, start, strict=True))


def domain_key(seed: bytes, domain: Domain) -> bytes:
    """Return the 32-byte ChaCha20 key of a domain.

    Implements: TAP-R1.
    """
    tag = f"veil {__version__} {domain}".encode("ascii")
    return hashlib.sha256(bytes([len(tag)]) + tag + seed).digest()


class SeededTape:
    """The tape of a 32-byte seed. In production the seed comes from the operating system.

    Implements: TAP-R6.
    Refuses: SEED_LENGTH.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != constants.SEED_BYTES:
            raise Refused(Refusal.SEED_LENGTH, f"seed must have {constants.SEED_BYTES} bytes")
        self._keys = {domain: domain_key(seed, domain) for domain in Domain}

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the word at an address, 0 <= word < 2**64.

        Implements: TAP-R2.
        Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW.
        """
        check_address(stream, index)
        block, place = divmod(index, constants.WORDS_PER_BLOCK)
        data = chacha20_block(self._keys[domain], block, stream.to_bytes(12, "little"))
        return int.from_bytes(data[8 * place : 8 * place + 8], "little")


def check_address(stream: int, index: int) -> None:
    """Refuse an address that no nonce and block counter can hold.

    Implements: TAP-R5.
    """
    if not 0 <= stream < 2**constants.STREAM_BITS:
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    if not 0 <= index < constants.INDEX_LIMIT:
        raise Refused(Refusal.COUNTER_OVERFLOW)


def check_elements(stream: int, start: int, count: int) -> None:
    """Refuse a run of elements that retry streams cannot serve, even where it is empty.

    Implements: TAP-R5.
    """
    if not 0 <= stream < 2**constants.RETRY_SHIFT:
        raise Refused(Refusal.STREAM_OUT_OF_RANGE)
    if not (start >= 0 and start + count <= constants.ELEMENT_LIMIT):
        raise Refused(Refusal.COUNTER_OVERFLOW)


def field_element(tape: Tape, domain: Domain, stream: int, index: int, modulus: int) -> int:
    """Return element `index` of a stream, uniform on [0, modulus).

    Implements: TAP-R3, TAP-R4.
    Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW.
    """
    check_elements(stream, index, 1)
    low_bits = (1 << modulus.bit_length()) - 1
    candidate = tape.word(domain, stream, index) & low_bits
    retry_stream = stream + ((index + 1) << constants.RETRY_SHIFT)
    retry = 0
    while candidate >= modulus:
        candidate = tape.word(domain, retry_stream, retry) & low_bits
        retry += 1
    return candidate


def field_elements(
    tape: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int
) -> list[int]:
    """Return elements start to start + count - 1 of a stream, each in [0, modulus)."""
    check_elements(stream, start, count)
    return [field_element(tape, domain, stream, start + i, modulus) for i in range(count)]
