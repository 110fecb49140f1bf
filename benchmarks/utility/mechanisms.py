"""The mechanisms compared: Veil's tables, and clean-room forms of CMIF, CUSTEXT+ and SANTEXT+.

All protect the same entries, those from `first` on in the vocabulary's order, and keep the entries before it.
Bayes recovery is the sum over outputs y of max_x prior(x) P(y|x): the best guess of a protected entry from
its output by somebody who knows the prior and the mechanism.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from benchmarks.utility.vocabulary import Floats, Ids, Vocabulary
from numpy.typing import NDArray
from scipy.optimize import brentq

from veil_optimized.partition import directions, partition
from veil_optimized.sanitizer import Recipe, Sanitizer, build
from veil_optimized.tape import SeededTape
from veil_spec import __version__
from veil_spec.constants import DIRECTION_NORM

PART: Final = 20
NEAREST: Final = 30
"""Candidates of a token in the code published under CMIF's title."""
ROWS: Final = 512
"""Entries whose row over all outputs is held in memory at once."""
POINTS: Final = 200
"""Steps of the quadrature for CMIF's law; its rows are then put on the sum 1."""
LOWEST: Final = 0.5
HIGHEST: Final = 200.0
CLOSE: Final = 0.01
"""The search for the epsilon of a wanted recovery: its range, and the relative width at which it ends."""
INFINITE: Final = math.inf
"""CMIF's exact epsilon: an entry is never its own output and is one of some other entry's."""


Step = Callable[[str, int, int], None]
"""Told a step's name, what is done of it, and of how much."""


class Mechanism(Protocol):
    """One mechanism at one setting."""

    def draw(self, ids: Ids, seed: int) -> Ids:
        """Return an output entry for each entry, protected or not."""
        ...

    def recovery(self, prior: Floats) -> float:
        """Return the Bayes recovery, 0 to 1, of protected entries under this prior [V], of any sum."""
        ...

    def epsilon(self) -> float:
        """Return the largest log ratio of an output's probability within the mechanism's adjacency."""
        ...

    def digest(self) -> str:
        """Return the hash of the table that is drawn from, or nothing where there is no table."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    """Noisy max inside public parts, in the tabulated form; adjacency: two entries of one part."""

    sanitizer: Sanitizer
    level: int
    first: int

    def draw(self, ids: Ids, seed: int) -> Ids:
        """Return outputs drawn from a tape that the seed fixes."""
        tape = SeededTape(hashlib.sha256(f"benchmark {seed}".encode()).digest())
        return np.asarray(self.sanitizer.draw(ids, tape, level=self.level))

    def recovery(self, prior: Floats) -> float:
        """Return the recovery under whole-number counts, from the table's integers."""
        counts = np.where(np.arange(len(prior)) < self.first, 0, prior).astype(np.int64)
        return float(self.sanitizer.weighted_recovery(counts.tolist(), self.level))

    def epsilon(self) -> float:
        """Return the logarithm of the certificate's exact ratio."""
        return math.log(self.sanitizer.certificate(self.level).exact)

    def digest(self) -> str:
        """Return the table's hash and the level."""
        return f"{self.sanitizer.file.digest} {self.level}"


@dataclass(frozen=True, slots=True)
class Kept:
    """No noise: every entry is its own output, so that only words outside the list change."""

    first: int

    def draw(self, ids: Ids, seed: int) -> Ids:
        """Return the entries."""
        return ids

    def recovery(self, prior: Floats) -> float:
        """Return 1."""
        return 1.0

    def epsilon(self) -> float:
        """Return infinity."""
        return math.inf

    def digest(self) -> str:
        """Return nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class Listed:
    """Outputs of each protected entry and their probabilities [n, k]; shorter lists are filled with zeros."""

    first: int
    outputs: Ids
    law: Floats
    exact: float

    def draw(self, ids: Ids, seed: int) -> Ids:
        """Return outputs drawn from the lists."""
        drawn = ids.copy()
        private = np.flatnonzero(ids >= self.first)
        rows = ids[private] - self.first
        points = np.random.default_rng(seed).random((len(rows), 1))
        chosen = (np.cumsum(self.law, axis=1)[rows] <= points).sum(axis=1)
        last = (self.law[rows] > 0).sum(axis=1) - 1
        drawn[private] = self.outputs[rows, np.minimum(chosen, last)]
        return drawn

    def recovery(self, prior: Floats) -> float:
        """Return the recovery."""
        best = np.zeros(len(prior))
        np.maximum.at(best, self.outputs, prior[self.first :, None] * self.law)
        return float(best.sum() / prior[self.first :].sum())

    def epsilon(self) -> float:
        """Return the largest log ratio, found where the lists were made."""
        return self.exact

    def digest(self) -> str:
        """Return nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class Santext:
    """SANTEXT+: softmax of -nominal * distance / 2 over all protected entries; adjacency: any two of them."""

    first: int
    vectors: torch.Tensor
    nominal: float

    def draw(self, ids: Ids, seed: int) -> Ids:
        """Return outputs, one row of probabilities for each different entry."""
        rng = np.random.default_rng(seed)
        drawn = ids.copy()
        for entry in np.unique(ids[ids >= self.first]):
            places = np.flatnonzero(ids == entry)
            row = torch.tensor([int(entry) - self.first])
            total = np.cumsum(self._logs(row)[0].double().exp().numpy())
            chosen = np.searchsorted(total, rng.random(len(places)) * total[-1], side="right")
            drawn[places] = np.minimum(chosen, len(total) - 1) + self.first
        return drawn

    def recovery(self, prior: Floats) -> float:
        """Return the recovery; entries of prior 0 are skipped."""
        weights = torch.from_numpy(prior[self.first :])
        best = torch.full((len(weights),), -math.inf)
        for rows in _blocks(torch.nonzero(weights)[:, 0]):
            best = torch.maximum(best, (self._logs(rows) + weights[rows, None].log().float()).amax(dim=0))
        return float(best.double().exp().sum() / weights.sum())

    def epsilon(self) -> float:
        """Return the largest log ratio of one output's probability, over all pairs of protected entries."""
        most = torch.full((len(self.vectors),), -math.inf)
        least = torch.full((len(self.vectors),), math.inf)
        for rows in _blocks(torch.arange(len(self.vectors))):
            logs = self._logs(rows)
            most, least = torch.maximum(most, logs.amax(dim=0)), torch.minimum(least, logs.amin(dim=0))
        return float((most - least).max())

    def digest(self) -> str:
        """Return nothing."""
        return ""

    def _logs(self, rows: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(self.vectors[rows], self.vectors)
        distance[torch.arange(len(rows)), rows] = 0
        return torch.log_softmax(distance * (-self.nominal / 2), dim=1)


@dataclass(frozen=True, slots=True)
class Family:
    """A mechanism for every nominal epsilon."""

    name: str
    at: Callable[[float], Mechanism]


def ours(
    vocabulary: Vocabulary, first: int, epsilons: Sequence[str], two_sided: bool, cache: Path, step: Step
) -> list[Ours]:
    """Return Veil's table at each epsilon, which limits the table's exact epsilon; its file is kept."""
    recipe = Recipe(
        name=vocabulary.name,
        part_size=PART,
        epsilons=tuple(epsilons),
        two_sided=two_sided,
        verbatim=frozenset(range(first)),
        policy=f"the {first} most frequent words of GloVe 6B are kept verbatim",
    )
    key = hashlib.sha256(f"{recipe.name} {first} {epsilons} {two_sided} {__version__}".encode())
    path = (
        cache / "tables" / f"{hashlib.sha256(key.digest() + vocabulary.vectors.tobytes()).hexdigest()}.veil"
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Sanitizer(build(vocabulary.entries, vocabulary.vectors, recipe, step)).save(path)
    sanitizer = Sanitizer.load(path)
    return [Ours(sanitizer, level, first) for level in range(1, len(epsilons) + 1)]


def custext(vocabulary: Vocabulary, first: int) -> Family:
    """Return CUSTEXT+ over the parts that Veil uses."""
    rows = directions(vocabulary.vectors[first:])
    parts = [np.asarray(part) for part in partition(rows, PART)]

    def at(nominal: float) -> Listed:
        outputs = np.zeros((len(rows), 2 * PART), dtype=np.int64)
        law, exact = np.zeros(outputs.shape), 0.0
        for part in parts:
            inside = _softmax(_row_scaled((rows[part] @ rows[part].T).astype(np.float64)) * (nominal / 2))
            outputs[part, : len(part)] = part + first
            law[part, : len(part)] = inside
            exact = max(exact, float(np.ptp(np.log(inside), axis=0).max()))
        return Listed(first, outputs, law, exact)

    return Family("CUSTEXT+", at)


def cmif_paper(vocabulary: Vocabulary, first: int) -> Family:
    """Return CMIF as published: Laplace noise, scale 1 / nominal, on the cosines of the nearest others."""
    nearest, cosines = nearest_others(directions(vocabulary.vectors[first:]), NEAREST)
    return Family(
        "cmif-paper", lambda nominal: Listed(first, nearest + first, laplace_law(cosines, nominal), INFINITE)
    )


def santext(vocabulary: Vocabulary, first: int) -> Family:
    """Return SANTEXT+ with Euclidean distances between the vectors as they are given."""
    vectors = torch.from_numpy(vocabulary.vectors[first:]).float()
    return Family("SANTEXT+", lambda nominal: Santext(first, vectors, nominal))


def nearest_others(rows: NDArray[np.float32], count: int) -> tuple[Ids, Floats]:
    """Return each row's most similar other rows and the cosines, most similar first: [n, count] each."""
    table = torch.from_numpy(rows)
    found, cosines = [], []
    for places in _blocks(torch.arange(len(rows))):
        products = table[places] @ table.T
        products[torch.arange(len(places)), places] = -math.inf
        best = products.topk(count, dim=1)
        found.append(best.indices)
        cosines.append(best.values.double() / DIRECTION_NORM**2)
    return torch.cat(found).numpy(), torch.cat(cosines).numpy()


def laplace_law(scores: Floats, nominal: float) -> Floats:
    """Return the law [n, k] of the largest score plus Laplace noise of scale 1 / nominal, by quadrature.

    Twelve scales below the highest score no maximum is found, and 16 above hardly any: 1e-6 of the mass.
    """
    scaled = torch.from_numpy((scores - scores.max(axis=1, keepdims=True)) * nominal).float()
    law = torch.zeros_like(scaled)
    edges = torch.linspace(-12, 16, POINTS + 1)
    below = _laplace_below(edges[0] - scaled)
    for edge in edges[1:]:
        above = _laplace_below(edge - scaled)
        middle = ((below + above) / 2).log()
        law += (above - below) * (middle.sum(dim=1, keepdim=True) - middle).exp()
        below = above
    return np.asarray((law / law.sum(dim=1, keepdim=True)).double().numpy())


def matching(family: Family, wanted: float, prior: Floats) -> float | None:
    """Return the nominal epsilon between LOWEST and HIGHEST at which the recovery is as wanted, or None.

    It is found to 1 % of epsilon; what it gives is measured again.
    """

    def excess(logarithm: float) -> float:
        return math.log(family.at(math.exp(logarithm)).recovery(prior) / wanted)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if excess(low) > 0 or excess(high) < 0:
        return None
    return math.exp(brentq(excess, low, high, xtol=CLOSE))


def _blocks(entries: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(entries), ROWS):
        yield entries[start : start + ROWS]


def _laplace_below(points: torch.Tensor) -> torch.Tensor:
    tail = (-points.abs()).exp() / 2
    return torch.where(points < 0, tail, 1 - tail)


def _row_scaled(table: Floats) -> Floats:
    least = table.min(axis=1, keepdims=True)
    return np.asarray((table - least) / np.maximum(np.ptp(table, axis=1, keepdims=True), 1))


def _softmax(table: Floats) -> Floats:
    weights = np.exp(table - table.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
