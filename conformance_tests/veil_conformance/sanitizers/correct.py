"""Sanitizers whose claims hold: none of them may be rejected."""

import json
import os
import secrets
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

import veil_spec
from veil_conformance.program import Fields, Value
from veil_conformance.sanitizers.base import WITNESS, Described, NoisyMax, PermuteAndFlip
from veil_spec.types import Geometric, Noise, Selection, TwoSidedGeometric

TOY: Final = json.loads((Path(veil_spec.__file__).parent / "toy_table.json").read_text("utf-8"))["parts"]
RANGE_DISTANCE: Final = max(
    max(changes) - min(changes)
    for part in TOY
    for row in part["scores"]
    for other in part["scores"]
    for changes in [[a - b for a, b in zip(row, other, strict=True)]]
)
WHOLE: Final = 2**64


class Toy(Described):
    """The toy table of eight-word parts; the output is a word of the token's part."""

    parts = tuple(tuple(part["tokens"]) for part in TOY)
    offers: Sequence[str] = ("law", "compose")

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = {token: part["tokens"] for part in TOY for token in part["tokens"]}
        self.rows: dict[str, list[int]] = {
            token: row for part in TOY for token, row in zip(part["tokens"], part["scores"], strict=True)
        }
        self.alpha = calibrated(self.epsilon)

    def compose(self, epsilon: str, count: int, delta: str) -> str:
        """Return the sum: basic composition."""
        return f"{Decimal(epsilon) * count:f}"


def calibrated(epsilon: str) -> Fraction:
    """Return the alpha at which the toy table's range distance costs epsilon."""
    from veil_reference.accounting import calibrate

    return calibrate(epsilon, RANGE_DISTANCE)


class Selected(Toy):
    """Veil's own selection over a tape whose seed comes from the operating system."""

    package = "veil_optimized"
    two_sided = False

    def __init__(self) -> None:
        super().__init__()
        self._noise: Noise = (TwoSidedGeometric if self.two_sided else Geometric)(self.alpha)
        self._select: Callable[..., Selection] = import_module(f"{self.package}.noisy_max").select
        self._tape = import_module(f"{self.package}.tape").SeededTape(os.urandom(32))
        self._next = 0

    def draw(self, token: str) -> Value:
        """Return one word; every selection has its own token number."""
        self._next += 1
        return self.words[token][self._select(self.rows[token], self._noise, self._tape, self._next).index]

    def law(self, token: str) -> Fields:
        """Return scores and noise."""
        kind = "two-sided-geometric" if self.two_sided else "geometric"
        noise = {"kind": kind, "alpha": str(self.alpha)}
        return {"scores": self.rows[token], "noise": noise, "outputs": self.words[token]}


class OptimizedOneSided(Selected):
    """The optimized selection, one-sided noise."""

    name = "veil_optimized, one-sided"


class OptimizedTwoSided(Selected):
    """The optimized selection, two-sided noise."""

    name, two_sided = "veil_optimized, two-sided", True


class ReferenceTwoSided(Selected):
    """The reference's selection, two-sided noise."""

    name, package, two_sided = "veil_reference, two-sided", "veil_reference", True


class Tabulated(Toy):
    """The law as integer weights of at least 1 that sum to 2**64; one 64-bit word is one draw."""

    name = "tabulated weights"

    def __init__(self) -> None:
        super().__init__()
        self.tables = {token: self.weights(row) for token, row in self.rows.items()}

    def weights(self, row: Sequence[int]) -> list[int]:
        """Return the weights of a row: rounded down, at least 1, the rest to the largest."""
        from veil_reference.accounting import exact_pmf

        weights = [max(1, int(chance * WHOLE)) for chance in exact_pmf(row, Geometric(self.alpha))]
        weights[weights.index(max(weights))] += WHOLE - sum(weights)
        return weights

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` words: the number of cumulative sums that the 64-bit word reaches."""
        sums = list(accumulate(self.tables[token]))
        drawn = (int.from_bytes(os.urandom(8), "little") for _ in range(count))
        return [self.words[token][sum(total <= word for total in sums)] for word in drawn]

    def law(self, token: str) -> Fields:
        """Return the weights that run."""
        return {"weights": self.tables[token], "total": WHOLE, "outputs": self.words[token]}


class Batched(Described):
    """The sanitizer as it is used, in batches: a table built from vectors, drawn by its weights."""

    name = "veil_optimized, table of weights"
    offers: Sequence[str] = ("law", "compose")
    two_sided = False

    def __init__(self) -> None:
        from veil_optimized.sanitizer import Recipe, Sanitizer, build

        words = [f"w{number}" for number in range(24)]
        vectors = np.random.default_rng(7).normal(size=(24, 16))
        recipe = Recipe("shipped", part_size=8, epsilons=(self.epsilon,), two_sided=self.two_sided)
        self.sanitizer = Sanitizer(build(words, vectors, recipe))
        self.table = self.sanitizer.file.table(0)
        self.parts = [part.tokens for part in self.table.parts]
        self._tape = import_module("veil_optimized.tape").SeededTape(os.urandom(32))
        self._document = self._start = 0

    def replaced(self, ids: npt.NDArray[np.int64], document: int, start: int) -> list[Value]:
        """Return what replaces these entries, the tokens `start` and following of a document."""
        drawn = self.batch(ids, document, start)
        return [self.sanitizer.file.entries[number] for number in drawn]

    def batch(self, ids: npt.NDArray[np.int64], document: int, start: int) -> npt.NDArray[np.int64]:
        """Return the entries that replace these."""
        return self.sanitizer.draw(ids, self._tape, document, 1, start)

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` words: the next tokens of document 0."""
        self._start += count
        ids = np.full(count, self.sanitizer.file.entries.index(token))
        return self.replaced(ids, 0, self._start - count)

    def sanitize(self, document: Sequence[str]) -> Sequence[Value]:
        """Return one word a token; every document has its own number."""
        self._document += 1
        ids = np.array([self.sanitizer.file.entries.index(token) for token in document])
        return self.replaced(ids, self._document, 0)

    def law(self, token: str) -> Fields:
        """Return the weights that run."""
        part = self._part(token)
        weights = self.table.parts[part].weights[self.parts[part].index(token)]
        return {"weights": weights, "total": WHOLE, "outputs": self.parts[part]}

    def _part(self, token: str) -> int:
        return next(number for number, part in enumerate(self.parts) if token in part)

    def compose(self, epsilon: str, count: int, delta: str) -> str:
        """Return the sum: basic composition."""
        return f"{Decimal(epsilon) * count:f}"


class BatchedOneSided(Batched):
    """The sanitizer in batches by noisy max, one-sided noise."""

    name = "veil_optimized, batches of one-sided noise"

    def batch(self, ids: npt.NDArray[np.int64], document: int, start: int) -> npt.NDArray[np.int64]:
        """Return the entries that replace these."""
        return self.sanitizer.select(ids, self._tape, document, 1, start)

    def law(self, token: str) -> Fields:
        """Return scores and noise."""
        part = self._part(token)
        row = self.table.parts[part].scores[self.parts[part].index(token)]
        alpha = str(Fraction(int(self.sanitizer.file.alphas[0][part]), 2**16))
        kind = "two-sided-geometric" if self.two_sided else "geometric"
        return {"scores": row, "noise": {"kind": kind, "alpha": alpha}, "outputs": self.parts[part]}


class BatchedTwoSided(BatchedOneSided):
    """The sanitizer in batches by noisy max, two-sided noise."""

    name, two_sided = "veil_optimized, batches of two-sided noise", True


class ExponentialMechanism(Toy):
    """Weights (b / a)**score as integers, so that the exponential mechanism is drawn without a float."""

    name = "exponential mechanism"

    def __init__(self) -> None:
        super().__init__()
        self._sums = {token: list(accumulate(self.weights(row))) for token, row in self.rows.items()}

    def weights(self, row: Sequence[int]) -> list[int]:
        """Return integers in proportion to alpha**-score."""
        a, b = self.alpha.numerator, self.alpha.denominator
        return [b ** (score - min(row)) * a ** (max(row) - score) for score in row]

    def draw(self, token: str) -> Value:
        """Return one word, by a uniform integer below the sum of the weights."""
        sums = self._sums[token]
        point = secrets.randbelow(sums[-1])
        return self.words[token][sum(total <= point for total in sums)]

    def law(self, token: str) -> Fields:
        """Return scores and noise: Gumbel noise has this law."""
        noise = {"kind": "gumbel", "alpha": str(self.alpha)}
        return {"scores": self.rows[token], "noise": noise, "outputs": self.words[token]}


class OpenDp(NoisyMax):
    """OpenDP's noisy max under max divergence, which is permute-and-flip, at the scale of its own map."""

    name = "OpenDP make_noisy_max"

    def __init__(self) -> None:
        dp = import_module("opendp.prelude")
        dp.enable_features("contrib")
        domain = dp.vector_domain(dp.atom_domain(T=float, nan=False))
        self._select = dp.m.make_noisy_max(domain, dp.linf_distance(T=float), dp.max_divergence(), scale=2.0)
        self.epsilon = str(self._select.map(1.0))

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return `count` indices."""
        row = [float(score) for score in self.rows[token]]
        return [self._select(row) for _ in range(count)]


class OneSidedExponential(PermuteAndFlip):
    """Scale 2 D / epsilon on the pair of rows that loses most: exact epsilon 0.99999."""

    name = "one-sided exponential at 2 D / epsilon"


class Laplace(NoisyMax):
    """Laplace noise of scale 2 D / epsilon on the same pair of rows."""

    name = "Laplace at 2 D / epsilon"
    rows = WITNESS
