"""What the shipped sanitizers share: a description, documents token by token, and noisy maxima in bulk."""

from collections.abc import Sequence
from fractions import Fraction
from math import log
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_conformance.program import Fields, Value

Floats = npt.NDArray[np.float64]
WITNESS: Final = {"high": [1] + [0] * 29, "low": [0] + [1] * 29}
"""Two rows of scores, each within 1 of the other: no pair of this sensitivity loses more."""
ILLS: Final = ("asthma", "bronchitis", "diabetes", "migraine", "epilepsy", "arthritis", "anaemia", "eczema")


class Described:
    """A sanitizer's description from class attributes, and documents as tokens one after the other."""

    name = ""
    epsilon = "1"
    adjacency = "part"
    parts: Sequence[Sequence[str]] = (ILLS,)
    offers: Sequence[str] = ()
    monotone = False
    worst: Sequence[str] | None = None

    def describe(self) -> Fields:
        """Return the claim."""
        parts = [list(part) for part in self.parts]
        return {
            "name": self.name,
            "epsilon": self.epsilon,
            "adjacency": self.adjacency,
            "parts": parts,
            "offers": list(self.offers),
            "monotone": self.monotone,
            "worst": list(self.worst) if self.worst else None,
        }

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` outputs."""
        return [self.draw(token) for _ in range(count)]

    def draw(self, token: str) -> Value:
        """Return one output."""
        raise NotImplementedError

    def sanitize(self, document: Sequence[str]) -> Sequence[Value]:
        """Return one output for each token."""
        return [self.sample(token, 1)[0] for token in document]


class NoisyMax(Described):
    """The index of the largest score plus floating-point noise of one scale, by default Laplace noise."""

    rows: dict[str, list[int]] = WITNESS
    parts = (tuple(WITNESS),)
    worst: Sequence[str] | None = tuple(WITNESS)
    scale = 2.0

    def __init__(self) -> None:
        self.random = np.random.default_rng()

    def noise(self, size: tuple[int, int]) -> Floats:
        """Return noise [count, candidates]."""
        return self.random.laplace(scale=self.scale, size=size)

    def noisy(self, token: str, count: int) -> Floats:
        """Return noisy scores [count, candidates]."""
        row = np.array(self.rows[token], dtype=np.float64)
        return row + self.noise((count, row.size))

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` indices."""
        indices: list[Value] = self.noisy(token, count).argmax(axis=1).tolist()
        return indices


class PermuteAndFlip(NoisyMax):
    """One-sided exponential noise, whose law is that of permute-and-flip, with the law exposed."""

    offers: Sequence[str] = ("law",)
    alpha = Fraction(39750, 65536)
    """P(noise >= 1), just above e**(-1/2)."""

    def noise(self, size: tuple[int, int]) -> Floats:
        """Return exponential noise with P(noise >= 1) = alpha."""
        return self.random.exponential(scale=-1 / log(self.alpha), size=size)

    def law(self, token: str) -> Fields:
        """Return scores and noise."""
        return {"scores": self.rows[token], "noise": {"kind": "exponential", "alpha": str(self.alpha)}}
