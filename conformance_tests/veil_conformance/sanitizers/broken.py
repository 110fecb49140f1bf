"""Sanitizers whose claims are false, each for a reason found in published code: each must be rejected."""

import secrets
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import exp
from typing import Final

import numpy as np

from veil_conformance.program import Fields, Value
from veil_conformance.sanitizers.base import ILLS, Described, Floats, NoisyMax, PermuteAndFlip
from veil_conformance.sanitizers.correct import OptimizedOneSided, Tabulated, Toy

LINE: Final = tuple(f"w{place}" for place in range(12))
"""Words on a line: the distance of two is that of their numbers."""


class HalfScale(PermuteAndFlip):
    """Noise scale D / epsilon, without the factor 2 (CMIF's code: scale 1.0 / epsilon)."""

    name = "scale D / epsilon"
    alpha = Fraction(24109, 65536)
    """About 1 / e."""


class NearestCandidates(Described):
    """The candidates are the nearest words of the secret, so they name it (CMIF's code)."""

    name = "candidates from the secret"
    parts = (LINE,)

    def candidates(self, token: str) -> list[str]:
        """Return the four nearest words, the word itself first."""
        place = LINE.index(token)
        return sorted(LINE, key=lambda other: abs(LINE.index(other) - place))[:4]

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` candidates."""
        scores = -np.arange(4) + np.random.default_rng().laplace(scale=8.0, size=(count, 4))
        words = self.candidates(token)
        return [words[index] for index in scores.argmax(axis=1)]


class SecretRemoved(Described):
    """The first of the nearest words, the secret itself, is dropped (CMIF's code)."""

    name = "secret not among its candidates"
    parts = (LINE,)

    def draw(self, token: str) -> Value:
        """Return another word, uniformly."""
        return secrets.choice([other for other in LINE if other != token])


class NeverSensitive(Described):
    """The membership test compares with methods, never matches, and most words stay (CMIF's code)."""

    name = "membership test that never matches"
    sensitive: Sequence[object] = tuple(word.strip for word in ILLS)

    def draw(self, token: str) -> Value:
        """Return the word itself in seven of ten draws."""
        if token in self.sensitive:
            return secrets.choice(ILLS)
        return secrets.choice(ILLS) if secrets.randbelow(10) < 3 else token


class VerbatimUnknown(Described):
    """Words outside the table pass unchanged (CUSTEXT's code: 16 % of the tokens of SST-2)."""

    name = "unknown words verbatim"
    adjacency = "vocabulary"
    parts = (ILLS, ("Zyx", "4711", "the"))

    def draw(self, token: str) -> Value:
        """Return a uniform word for a known one."""
        return secrets.choice(ILLS) if token in ILLS else token


class MaximumReleased(PermuteAndFlip):
    """The largest noisy score comes with its index (a wrong variant that cmla-psu/statdp is tried on)."""

    name = "maximum released"
    offers = ()

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` pairs of index and noisy score."""
        noisy = self.noisy(token, count)
        return [[int(row.argmax()), float(row.max())] for row in noisy]


class InverseScale(NoisyMax):
    """Noise of scale epsilon in place of 1 / epsilon (made up)."""

    name, epsilon, scale = "scale epsilon", "0.5", 2 * 0.5


class FixedSeed(NoisyMax):
    """The generator has a default seed (CMIF's code: 52), so every process draws the same noise."""

    name = "fixed seed"

    def __init__(self) -> None:
        self.random = np.random.default_rng(52)


class CumulativeFloat(Described):
    """Cumulative floating-point sums: what follows the maximum is lost (differential-privacy-library)."""

    name, epsilon, offers = "floating-point cumulative sum", "100", ("law",)
    parts = (("first", "last"),)

    def sums(self, token: str) -> list[float]:
        """Return the cumulative probabilities of utilities 1, 0, 0, 0 or 0, 0, 0, 1."""
        utilities = [1.0, 0.0, 0.0, 0.0] if token == "first" else [0.0, 0.0, 0.0, 1.0]
        weights = [exp(float(self.epsilon) * utility / 2) for utility in utilities]
        sums = np.cumsum(np.array(weights) / sum(weights))
        return [float(each) for each in sums]

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` indices."""
        points = np.random.default_rng().random(count) * self.sums(token)[-1]
        indices: list[Value] = np.searchsorted(self.sums(token), points, side="right").tolist()
        return indices

    def law(self, token: str) -> Fields:
        """Return the differences of the sums, exactly."""
        sums = [Fraction(each) for each in self.sums(token)]
        return dyadic([b - a for a, b in zip([Fraction(0), *sums], sums, strict=False)])


def dyadic(chances: Sequence[Fraction]) -> Fields:
    """Return floating-point probabilities as integer weights with their sum."""
    scale = max(chance.denominator for chance in chances)
    weights = [int(chance * scale) for chance in chances]
    return {"weights": list(map(str, weights)), "total": str(sum(weights))}


class TruncatedNoise(NoisyMax):
    """Noise that ends at 36 scales, as numpy's Laplace does: far candidates never win (CMIF's code at 100).

    Scores are cosines in units of 0.01, and so is the scale 1 / epsilon.
    """

    name, epsilon, offers = "truncated noise", "100", ("law",)
    parts = (("near", "far"),)
    rows: dict[str, list[int]] = {"near": [100, 90, 80], "far": [100, 20, 80]}  # noqa: RUF012
    worst = ("near", "far")
    end = 36
    weights = tuple(int(2**52 * exp(-abs(k))) for k in range(-end, end + 1))

    def noise(self, size: tuple[int, int]) -> Floats:
        """Return integer noise within 36 of 0."""
        chances = np.array(self.weights) / sum(self.weights)
        drawn: Floats = self.random.choice(np.arange(-self.end, self.end + 1.0), p=chances, size=size)
        return drawn

    def law(self, token: str) -> Fields:
        """Return scores and the noise value by value."""
        return {
            "scores": self.rows[token],
            "noise": {"kind": "listed", "start": -self.end, "weights": self.weights},
        }


class Float32Softmax(Described):
    """softmax(-epsilon * distance / 2) in float32 has exact zeros (SANTEXT's code)."""

    name, epsilon, offers, parts = "float32 softmax", "20", ("law",), (LINE,)

    def chances(self, token: str) -> Floats:
        """Return probabilities by distance."""
        distances = np.abs(np.arange(12) - LINE.index(token)).astype(np.float32)
        weights = np.exp(-np.float32(self.epsilon) * distances / np.float32(2)).astype(np.float32)
        chances: Floats = (weights / weights.sum()).astype(np.float64)
        return chances

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` indices."""
        chances = self.chances(token)
        drawn: list[Value] = (
            np.random.default_rng().choice(12, p=chances / chances.sum(), size=count).tolist()
        )
        return drawn

    def law(self, token: str) -> Fields:
        """Return the probabilities, exactly."""
        return dyadic([Fraction(float(chance)) for chance in self.chances(token)])


class TieToInput(Described):
    """Equal noisy scores go to the input token, which gives its candidate an advantage (made up)."""

    name, epsilon, parts = "ties go to the input", "1.3863", (("a", "b"),)
    worst = ("a", "b")

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` words: score 1 for the own word, geometric noise with alpha 1/2."""
        own, other = np.random.default_rng().geometric(0.5, size=(2, count))
        words = ("a", "b") if token == "a" else ("b", "a")
        return [words[0] if wins else words[1] for wins in 1 + own >= other]


class CountIgnored(OptimizedOneSided):
    """An accountant that forgets the count (google/differential-privacy b5b0286)."""

    name, offers = "accountant without a count", ("compose",)

    def compose(self, epsilon: str, count: int, delta: str) -> str:
        """Return what one selection costs."""
        return f"{Decimal(epsilon) * Decimal('1.0058'):f}"


class MonotoneHalved(HalfScale):
    """Scale D / epsilon, by a library's switch for monotone scores, which token replacement does not have."""

    name, monotone = "monotone flag for token replacement", True


class BiasedBernoulli(PermuteAndFlip):
    """Permute-and-flip with coins e**-x from a rounded division (opendp/opendp before 2026-03, #2638)."""

    name = "biased Bernoulli(e**-x)"
    rows = {"high": [2, 1, 0, 0], "low": [1, 2, 0, 0]}  # noqa: RUF012
    digits = 2

    def coin(self, x: float, size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return coins that should be e**-x, 0 <= x <= 1: the alternating series of x**k / k!."""
        alive, odd = np.ones(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
        for k in range(1, 30):
            quotient = int(x / k * 2**self.digits) / 2**self.digits
            odd ^= alive
            alive &= self.random.random(size) < quotient
        return odd

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` indices: candidates in random order, each kept with e**(gap / scale)."""
        row = self.rows[token]
        order = self.random.permuted(np.tile(np.arange(len(row)), (count, 1)), axis=1)
        gaps = {score: (max(row) - score) / 2 for score in row}
        heads = {i: self.coin(gaps[score], count) for i, score in enumerate(row)}
        kept = np.stack([heads[i] for i in range(len(row))], axis=1)
        first = np.take_along_axis(kept, order, axis=1).argmax(axis=1)
        chosen: list[Value] = order[np.arange(count), first].tolist()
        return chosen


class GaussianNoise(NoisyMax):
    """Gaussian noise with a pure epsilon: no scale gives one for all scores (a switch in CMIF's code)."""

    name = "Gaussian noise"
    rows = {"near": [5, 1], "far": [6, 0]}  # noqa: RUF012
    parts, worst = (("near", "far"),), ("near", "far")

    def noise(self, size: tuple[int, int]) -> Floats:
        """Return normal noise."""
        return self.random.normal(scale=self.scale, size=size)


class ZeroWeight(Tabulated):
    """A table with the weight 0 (made up)."""

    name = "weight 0"

    def weights(self, row: Sequence[int]) -> list[int]:
        """Return weights with the last one moved to the first."""
        weights = super().weights(row)
        moved = weights[-1] if row[-1] == min(row) else 0
        return [weights[0] + moved, *weights[1:-1], weights[-1] - moved]


class RowSumOff(Tabulated):
    """A table whose rows sum to 2**64 - 1 (made up)."""

    name = "row sum off by one"

    def weights(self, row: Sequence[int]) -> list[int]:
        """Return weights of which the first is 1 too small."""
        weights = super().weights(row)
        return [weights[0] - 1, *weights[1:]]


class SharedState(Toy):
    """Workers that start from one state draw the same noise for each document (SANTEXT's code)."""

    name, offers = "workers share a state", ()

    def __init__(self) -> None:
        super().__init__()
        self._seed = secrets.randbits(64)
        self._random = np.random.default_rng()

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` words."""
        return self._drawn(token, self._random, count)

    def sanitize(self, document: Sequence[str]) -> Sequence[Value]:
        """Return one word a token, as a worker does that was forked from this process."""
        forked = np.random.default_rng(self._seed)
        return [self._drawn(token, forked, 1)[0] for token in document]

    def _drawn(self, token: str, random: np.random.Generator, count: int) -> list[Value]:
        scale = 2 * 15 / float(self.epsilon)
        noisy = np.array(self.rows[token]) + random.exponential(scale=scale, size=(count, 8))
        return [self.words[token][index] for index in noisy.argmax(axis=1)]
