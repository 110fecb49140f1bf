"""Ten thousand selections, one digest: what hand-written cases miss, an implementation has to share too."""

import hashlib
from fractions import Fraction
from typing import Final

from veil_spec.interface import Implementation
from veil_spec.types import Geometric, Noise, TwoSidedGeometric

CASES: Final = 10_000
"""Selections in the digest."""
RECIPE: Final = (
    "Case n, from 0, takes 16 bytes b of SHAKE-128 of `veil select ` and n in decimal: 2 + b0 mod 3 "
    "candidates, candidate c with score b(1 + c) mod 8; alpha = (1 + (b8 + 256 b9) mod 58982) / 65536; "
    "two-sided if b10 is odd; token n mod 100 of document floor(n / 100) of the tape with seed SHA-256 of "
    "`veil select`. The digest is "
    "SHAKE-128, 16 bytes, of all indices as one byte each."
)
"""How the cases are made."""


def case(number: int) -> tuple[list[int], Noise]:
    """Return the scores and the noise of one case."""
    b = hashlib.shake_128(f"veil select {number}".encode()).digest(16)
    alpha = Fraction(1 + (b[8] + 256 * b[9]) % 58982, 65536)
    scores = [b[1 + c] % 8 for c in range(2 + b[0] % 3)]
    return scores, TwoSidedGeometric(alpha) if b[10] % 2 else Geometric(alpha)


def digest(impl: Implementation, cases: int = CASES) -> str:
    """Return the digest of the selections as 32 hexadecimal digits."""
    tape, indices = impl.seeded_tape(hashlib.sha256(b"veil select").digest()), bytearray()
    for number in range(cases):
        scores, noise = case(number)
        document, token = divmod(number, 100)
        indices.append(int(impl.select(scores, noise, tape, token, document).index))
    return hashlib.shake_128(indices).hexdigest(16)
