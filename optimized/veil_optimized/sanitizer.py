"""The sanitizer over batches: building a table from vectors, drawing from it, and what it guarantees."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_optimized import table_file
from veil_optimized.accounting import certificate as noisy_max_certificate
from veil_optimized.accounting import claim_limit, logarithm, part_bits, range_distance
from veil_optimized.budget import cost_of
from veil_optimized.native import draws
from veil_optimized.noise import check_places, inverse_log, samples
from veil_optimized.partition import directions, part_scores, partition
from veil_optimized.table_file import Statement, TableFile
from veil_optimized.tabulated import (
    calibrate_parts,
    meets,
    tabulate,
    tabulated_certificate,
    weighted_recovery,
)
from veil_optimized.tape import fill
from veil_spec import __version__, constants
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Certificate,
    Domain,
    Geometric,
    Noise,
    Part,
    Rows,
    Table,
    TabulatedTable,
    TwoSidedGeometric,
)

__all__ = ["Recipe", "Sanitizer", "build"]

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Progress = Callable[[str, int, int], None]
"""Told the step's name, what is done of it, and of how much."""
SCALE: Final = constants.ALPHA_DENOMINATOR_LIMIT
LANE: Final = 8
"""Comparisons counted at a time: as many bytes as a word has."""


def _enclosure(weights: Rows) -> tuple[float, float]:
    """Return two numbers between which a part's largest ratio of exact probabilities lies.

    A weight differs from its probability by less than its row has candidates, plus one.
    """
    slack, columns = len(weights) + 1, list(zip(*weights, strict=True))
    low = max((max(column) - slack) / (min(column) + slack) for column in columns)
    high = max(
        (max(column) + slack) / (min(column) - slack) if min(column) > slack else inf for column in columns
    )
    return low * (1 - 2.0**-50), high * (1 + 2.0**-50)


def _largest_bound(table: TabulatedTable, noises: Sequence[Noise]) -> Fraction:
    """Return the largest alpha**-D_R over the parts."""
    bounds: list[tuple[float, Noise, int]] = []
    for part, noise in zip(table.parts, noises, strict=True):
        distance = range_distance(Table(table.name, (Part(part.tokens, part.scores),)))
        bounds.append((distance / -inverse_log(noise.alpha), noise, distance))
    _, noise, distance = max(bounds, key=lambda bound: bound[0])
    return noise.alpha**-distance


def _byte_sums(lanes: Words) -> Words:
    """Return the sum of the eight bytes of each word, which is below 2**16 [lanes]."""
    even, eight = np.uint64(0x00FF00FF00FF00FF), np.uint64(8)
    pairs = (lanes & even) + ((lanes >> eight) & even)
    sums: Words = (pairs * np.uint64(0x0001000100010001)) >> np.uint64(48)
    return sums


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a table is built. Refuses, when it is used: EPSILON_OUT_OF_RANGE, TABLE_MALFORMED."""

    name: str
    kind: str = "words"
    part_size: int = 20
    epsilons: tuple[str, ...] = ("1",)
    two_sided: bool = False
    verbatim: frozenset[int] = frozenset()
    policy: str = "nothing is kept verbatim"
    classes: Sequence[int] | None = None
    """A public class for each entry; that of a part is the largest of its entries."""


def _quiet(step: str, done: int, whole: int) -> None:
    del step, done, whole


def build(
    entries: Sequence[str], vectors: npt.NDArray[np.floating], recipe: Recipe, progress: Progress = _quiet
) -> TableFile:
    """Return the table of these vectors [entries, dimensions], not yet in a file.

    Refuses: TABLE_MALFORMED, EPSILON_OUT_OF_RANGE.
    """
    if len(entries) != len(vectors) or not len(entries):
        raise Refused(Refusal.TABLE_MALFORMED, f"{len(entries)} entries and {len(vectors)} vectors")
    limits = [claim_limit(epsilon) for epsilon in recipe.epsilons]
    if not limits or any(high <= low for low, high in pairwise(limits)):
        raise Refused(Refusal.TABLE_MALFORMED, "the levels' epsilons must rise")
    parts, scores = _scored_parts(vectors, recipe, progress)
    levels = [_level(scores, limit, recipe.two_sided, progress) for limit in limits]
    classes = recipe.classes if recipe.classes is not None else [0] * len(entries)
    return TableFile(
        statement=Statement(
            spec_version=__version__,
            name=recipe.name,
            entries=recipe.kind,
            noise="two-sided" if recipe.two_sided else "one-sided",
            epsilon=list(recipe.epsilons),
            vectors=hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest(),
            policy=recipe.policy,
        ),
        entries=list(entries),
        members=np.concatenate(parts).astype(np.int32),
        sizes=np.array([len(part) for part in parts], dtype=np.int32),
        classes=np.array([max(classes[n] for n in part) for part in parts], dtype=np.int32),
        scores=np.concatenate([matrix.ravel() for matrix in scores]).astype(np.int32),
        alphas=np.array([alphas for alphas, _ in levels], dtype=np.int32),
        weights=np.array([weights for _, weights in levels], dtype=np.uint64),
    )


def _scored_parts(
    vectors: npt.NDArray[np.floating], recipe: Recipe, progress: Progress
) -> tuple[list[Ids], list[Ids]]:
    rows = directions(vectors)
    private = np.array([n for n in range(len(rows)) if n not in recipe.verbatim], dtype=np.int64)
    done = 0

    def advance(entries: int) -> None:
        nonlocal done
        done += entries
        progress("partition", done, len(private))

    found = partition(rows[private], recipe.part_size, advance)
    parts = [private[part] for part in found]
    parts += [np.array([n]) for n in sorted(recipe.verbatim)]
    return parts, [part_scores(rows[part]) for part in parts]


def _level(
    scores: Sequence[Ids], limit: Fraction, two_sided: bool, progress: Progress
) -> tuple[Ids, list[int]]:
    """Return the numerators of alpha [parts] and the weights, flat, of one level."""
    steps, rows = SCALE.bit_length() - 1, sum(map(len, scores))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("calibrate", done, steps)

    lists = [matrix.tolist() for matrix in scores]
    alphas = calibrate_parts(limit, lists, two_sided, advance)
    if alphas.max() == SCALE:
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, "too small for these scores: raise epsilon")
    make, written, weights = TwoSidedGeometric if two_sided else Geometric, 0, []
    for matrix, alpha in zip(lists, alphas, strict=True):
        found = [tabulate(row, make(Fraction(int(alpha), SCALE))) for row in matrix]
        if not meets(found, limit):
            raise Refused(Refusal.CLAIM_NOT_MET, "a part's rounded weights exceed the claim")
        weights += [weight % 2**constants.TABLE_BITS for row in found for weight in row]
        written += len(matrix)
        progress("tabulate", written, rows)
    return alphas, weights


class _Level:
    """One level of a table file, laid out for drawing."""

    def __init__(self, sanitizer: "Sanitizer", number: int) -> None:
        if not 1 <= number <= sanitizer.levels:
            raise Refused(Refusal.TABLE_MALFORMED, f"level {number} of a table with {sanitizer.levels}")
        self.weights = sanitizer.file.weights[number - 1]
        self.limits = _limits(sanitizer, self.weights)
        alphas = [Fraction(int(a), SCALE) for a in sanitizer.file.alphas[number - 1]]
        self.alphas = np.array(alphas, dtype=object)
        self.inverse_logs = np.array([inverse_log(alpha) for alpha in alphas])


def _limits(sanitizer: "Sanitizer", weights: Words) -> Words:
    """Return, for each entry, its cumulative weights less 1 [entries, usual size - 1 to a whole lane].

    What is left over is filled so that no word exceeds it.
    """
    columns = -(-max(sanitizer.usual_size - 1, 1) // LANE) * LANE
    table = np.full((len(sanitizer.file.entries), columns), 2**constants.TABLE_BITS - 1, dtype=np.uint64)
    for size in range(2, sanitizer.usual_size + 1):
        lanes = np.flatnonzero(sanitizer.size_of == size)
        cells = sanitizer.row_of[lanes, None] + np.arange(size - 1)
        table[lanes, : size - 1] = np.cumsum(weights[cells], axis=1) - np.uint64(1)
    return table


class Sanitizer:
    """A table file, ready to draw from; `file.digest` names the weights that it draws from.

    Levels are numbered from 1, as the file lists them; level 0 is the uniform replacement inside the part.
    """

    def __init__(self, file: TableFile) -> None:
        self.file = file
        self._levels: dict[int, _Level] = {}

    @classmethod
    def load(cls, path: Path) -> "Sanitizer":
        """Return the sanitizer of a table file.

        Implements: NMX-P1.
        Refuses: TABLE_MALFORMED, VERSION_MISMATCH.
        """
        return cls(table_file.read(path))

    def save(self, path: Path) -> "Sanitizer":
        """Return the sanitizer of the new file."""
        return Sanitizer(replace(self.file, digest=table_file.write(path, self.file)))

    @property
    def levels(self) -> int:
        """Return the number of levels above 0."""
        return len(self.file.statement.epsilon)

    def level_of(self, epsilon: str | None) -> int:
        """Return the level of a claim, or the first. Refuses: EPSILON_OUT_OF_RANGE."""
        claims = self.file.statement.epsilon
        if epsilon is not None and epsilon not in claims:
            remedy = f"--epsilon {epsilon} is no level of this table: give {' or '.join(claims)}"
            raise Refused(Refusal.EPSILON_OUT_OF_RANGE, remedy)
        return 1 if epsilon is None else claims.index(epsilon) + 1

    @cached_property
    def part_of(self) -> Ids:
        """Return the part of each entry [entries]."""
        parts = np.empty(len(self.file.entries), dtype=np.int64)
        parts[self.file.members] = np.repeat(np.arange(len(self.file.sizes)), self.file.sizes)
        return parts

    @cached_property
    def _place(self) -> Ids:
        """Return where each entry stands in its part [entries]."""
        sizes = self.file.sizes.astype(np.int64)
        places = np.empty(len(self.file.entries), dtype=np.int64)
        places[self.file.members] = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return places

    @cached_property
    def _first(self) -> Ids:
        """Return where each part's members start [parts]."""
        sizes = self.file.sizes.astype(np.int64)
        found: Ids = np.cumsum(sizes) - sizes
        return found

    @cached_property
    def size_of(self) -> Ids:
        """Return the number of candidates of each entry [entries]."""
        sizes: Ids = self.file.sizes.astype(np.int64)[self.part_of]
        return sizes

    @cached_property
    def row_of(self) -> Ids:
        """Return where each entry's row of cells starts [entries]."""
        squares = self.file.sizes.astype(np.int64) ** 2
        rows: Ids = (np.cumsum(squares) - squares)[self.part_of] + self._place * self.size_of
        return rows

    @cached_property
    def usual_size(self) -> int:
        """Return the most usual number of candidates above one: larger parts take a longer way."""
        sizes = self.file.sizes[self.file.sizes > 1]
        return int(np.bincount(sizes).argmax()) if sizes.size else 1

    @cached_property
    def replaced_part_bits(self) -> str:
        """Return the largest log2(V / part size) over parts of two and more, rounded up to three decimals."""
        sizes = self.file.sizes[self.file.sizes > 1]
        return part_bits(len(self.file.entries), int(sizes.min())) if sizes.size else "none"

    def _level(self, number: int) -> _Level:
        if number not in self._levels:
            self._levels[number] = _Level(self, number)
        return self._levels[number]

    def draw(self, ids: Ids, tape: Tape, document: int = 0, level: int = 1, start: int = 0) -> Ids:
        """Return what replaces tokens start, start + 1, ... of a document [ids], one tape word for each.

        Implements: NMX-R13, NMX-R17.
        Refuses: STREAM_OUT_OF_RANGE.
        """
        check_places(start, len(ids), document)
        words = np.empty(len(ids), dtype=np.uint64)
        fill(words, tape, Domain.DRAW, document, start)
        if level == 0:
            return self._outputs(ids, self._uniform(ids, words))
        fast = draws.chosen()
        known = len(ids) and ids.min() >= 0 and ids.max() < len(self.part_of)
        if fast is not None and known and self._none_is_larger:
            starts, members = self._places
            return fast(ids, words, self._level(level).limits, starts, members)
        return self._outputs(ids, self._drawn(ids, words, self._level(level)))

    @cached_property
    def _none_is_larger(self) -> bool:
        """Return whether no part has more than the usual number of candidates."""
        return bool((self.size_of <= self.usual_size).all())

    @cached_property
    def _places(self) -> tuple[Ids, Ids]:
        """Return where the members of each entry's part start [entries], and all members [entries]."""
        return self._first[self.part_of], self.file.members.astype(np.int64)

    def _outputs(self, ids: Ids, indices: Ids) -> Ids:
        outputs: Ids = self.file.members[self._first[self.part_of[ids]] + indices].astype(np.int64)
        return outputs

    def _uniform(self, ids: Ids, words: Words) -> Ids:
        """Return floor(size * word / 2**64), in halves: sizes are at most 2**10."""
        sizes, half = self.size_of[ids].astype(np.uint64), np.uint64(32)
        low = (words & np.uint64(2**32 - 1)) * sizes >> half
        return (((words >> half) * sizes + low) >> half).astype(np.int64)

    def _drawn(self, ids: Ids, words: Words, level: _Level) -> Ids:
        reached = level.limits.take(ids, axis=0) < words[:, None]
        lanes: Words = reduce(np.add, reached.view(np.uint64).T)
        indices = _byte_sums(lanes).astype(np.int64)
        for lane in np.flatnonzero(self.size_of[ids] > self.usual_size):
            first, size = self.row_of[ids[lane]], self.size_of[ids[lane]]
            sums = np.cumsum(level.weights[first : first + size - 1])
            indices[lane] = np.searchsorted(sums, words[lane], side="right")
        return indices

    def select(self, ids: Ids, tape: Tape, document: int = 0, level: int = 1, start: int = 0) -> Ids:
        """Return what replaces tokens start, start + 1, ... of a document by noisy max [ids].

        Implements: NMX-R3, NMX-R4.
        Refuses: STREAM_OUT_OF_RANGE.
        """
        check_places(start, len(ids), document)
        sizes, parts = self.size_of[ids], self.part_of[ids]
        alphas, inverses = self._level(level).alphas[parts], self._level(level).inverse_logs[parts]
        best, indices = np.full(len(ids), -(2**62)), np.zeros(len(ids), dtype=np.int64)
        two_sided = self.file.statement.noise == "two-sided"
        for candidate in range(int(sizes.max(initial=0))):
            noise = samples(alphas, two_sided, tape, candidate, start, document, inverses)
            noise += self.file.scores[self.row_of[ids] + np.minimum(candidate, sizes - 1)]
            better = (noise > best) & (candidate < sizes)
            np.copyto(best, noise, where=better)
            indices[better] = candidate
        return self._outputs(ids, indices)

    def certificate(self, level: int = 1) -> Certificate:
        """Return the guarantee of one level's weights. Refuses: CLAIM_NOT_MET."""
        return tabulated_certificate(self.file.table(level - 1))

    def noisy_max_certificate(self, level: int = 1) -> Certificate:
        """Return the guarantee of noisy max at one level; its exact figure is that of the laws themselves.

        Weights that are the scores' own enclose laws, which is checked for every part first: then only parts
        whose enclosure reaches the largest ratio have their laws computed.
        Bayes recovery is that of the weights, which differs by less than one part in 2**50.

        Refuses: CLAIM_NOT_MET, TABLE_MALFORMED.
        """
        table, limit = self.file.table(level - 1), claim_limit(self.file.statement.epsilon[level - 1])
        noises = [self._noise(level, part) for part in range(len(table.parts))]
        for part, noise in zip(table.parts, noises, strict=True):
            if any(tabulate(row, noise) != list(w) for row, w in zip(part.scores, part.weights, strict=True)):
                raise Refused(Refusal.TABLE_MALFORMED, "the weights are not the scores' law: use tabulated")
        lows, highs = zip(*(_enclosure(part.weights) for part in table.parts), strict=True)
        reached, found = max(lows), []
        for part, noise, high in zip(table.parts, noises, highs, strict=True):
            if high >= reached:
                alone = Table(table.name, (Part(part.tokens, part.scores),))
                found.append(noisy_max_certificate(alone, noise))
        worst = max(found, key=lambda stated: stated.exact)
        if worst.exact > limit:
            raise Refused(Refusal.CLAIM_NOT_MET, f"exact epsilon {worst.epsilon_exact}")
        bound = _largest_bound(table, noises)
        return replace(
            self.certificate(level),
            bound=bound,
            epsilon_bound=logarithm(bound),
            exact=worst.exact,
            epsilon_exact=worst.epsilon_exact,
            worst=worst.worst,
        )

    def _noise(self, level: int, part: int) -> Noise:
        two_sided = self.file.statement.noise == "two-sided"
        alpha = Fraction(int(self.file.alphas[level - 1][part]), SCALE)
        return TwoSidedGeometric(alpha) if two_sided else Geometric(alpha)

    def weighted_recovery(self, counts: Sequence[int], level: int = 1) -> Fraction:
        """Return Bayes recovery for public counts of all entries. Refuses: TABLE_MALFORMED."""
        ordered = [counts[member] for member in self.file.members]
        return weighted_recovery(self.file.table(level - 1), ordered)

    def noisy_max_costs(self, level: int) -> Ids:
        """Return D_R ln(1 / alpha) of each part at a level, in millionths rounded up [parts]; 0 at level 0.

        Noisy max is charged by the theorem: it draws from scores and alphas, not from the weights.
        """
        costs = np.zeros(len(self.file.sizes), dtype=np.int64)
        if level:
            for n, part in enumerate(self.file.table(level - 1).parts):
                distance = range_distance(Table("", (Part(part.tokens, part.scores),)))
                costs[n] = cost_of(self._noise(level, n).alpha ** -distance)
        return costs

    def part_costs(self, level: int) -> Ids:
        """Return ln(exact) of each part at a level, in millionths rounded up [parts]; 0 at level 0."""
        costs = np.zeros(len(self.file.sizes), dtype=np.int64)
        if level:
            for n, part in enumerate(self.file.table(level - 1).parts):
                ratios = (Fraction(max(column), min(column)) for column in zip(*part.weights, strict=True))
                costs[n] = cost_of(max(ratios))
        return costs
