"""Linear groups through masks, as enclave and worker compute them together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from veil_reference import integrity, remo
from veil_reference.model import Group
from veil_reference.tape import SeededTape
from veil_spec.types import Row, Rows


@dataclass
class Masked:
    """Computes products through masks, as enclave and worker would, from a given seed: for tests.

    Implements: RMO-R8.
    """

    seed: bytes
    rank: Fraction | None = None
    used: remo.Addresses = field(default_factory=remo.Addresses)
    calls: Counter[int] = field(default_factory=Counter)

    def __call__(self, group: Group, row: Row) -> Sequence[int]:
        """Return the same integers as `accumulate`, through mask, multiply, verify and unmask."""
        tape, number = SeededTape(self.seed), group.number
        modulus = remo.choose_modulus(group.weights)
        step = self.calls[number]
        self.calls[number] += 1
        self.used.burn(number, step)
        pads = self._pads(number, step, len(row), modulus)
        masked = remo.mask([row], pads, modulus)
        returned = remo.multiply(masked, group.weights, modulus)
        secret = integrity.challenge(tape, number, len(group.weights), modulus)
        key = integrity.check_key(group.weights, secret, modulus)
        integrity.verify(masked, returned, secret, key, modulus)
        return remo.unmask(returned, remo.multiply(pads, group.weights, modulus), modulus)[0]

    def _pads(self, number: int, step: int, width: int, modulus: int) -> Rows:
        tape = SeededTape(self._seed_of(step))
        if self.rank is None:
            return remo.pad(tape, number, step, 1, width, modulus)
        basis = remo.rank_basis(SeededTape(self.seed), number, int(self.rank * width), width, modulus)
        return remo.rank_pad(tape, basis, number, step, 1, modulus)

    def _seed_of(self, step: int) -> bytes:
        seed = self.seed
        for _ in range(step):
            seed = remo.ratchet(seed)
        return seed
