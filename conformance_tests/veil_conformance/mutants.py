"""Wrong implementations, one for each requirement: the reference with one operation changed.

`python -m veil_conformance.mutants` runs the suite's tests of that requirement against each.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, cast
from unittest import mock

from veil_conformance import runner
from veil_reference import (
    decoder,
    encoder,
    field,
    fixed_point,
    implementation,
    lwe,
    masked,
    model,
    table_file,
    tables,
    tabulated,
    tape,
    wire,
)
from veil_reference.accounting import claim_limit, range_distance
from veil_reference.implementation import Reference
from veil_reference.partition import similarity
from veil_spec import __version__, constants
from veil_spec.architecture import DecoderShape, Precision, Rotation
from veil_spec.interface import Implementation, Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Address,
    Certificate,
    Domain,
    Frame,
    FrameKind,
    Noise,
    PaperCertificate,
    Part,
    Quantised,
    Row,
    Rows,
    Sampling,
    Selection,
    Table,
    TabulatedPart,
    TabulatedTable,
    TokenIndex,
    TwoSidedGeometric,
    WeightRow,
    WorstPair,
)

RIGHT: Final[Implementation] = implementation()
"""The reference, which every mutant follows but for one operation."""
FILES: Final = {
    "TAP": ("test_tape.py",),
    "NMX": ("test_noisy_max.py",),
    "ACC": ("test_accounting.py",),
    "FXP": ("test_fixed_point.py",),
    "MDL": ("test_model.py", "test_encoder.py", "test_sampling.py"),
    "RMO": ("test_remo.py",),
    "INT": ("test_integrity.py",),
    "WIR": ("test_wire.py",),
}
"""Where an area's properties are."""
SMALL_TABLE: Final = TabulatedTable("small", "1", (TabulatedPart(("a",), ((0,),), ((2**64,),)),))
"""One verbatim token."""
LIMIT_S: Final = 60
"""Seconds for one subject, which needs at most two."""
UNEXPLAINED: Final = ("--tb=no", "--assert=plain", "-p", "no:faulthandler")
"""Nobody reads why a wrong implementation fails. The plug-in's timer thread is not there in a forked process,
which would wait for it."""
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A wrong implementation and the requirement that it breaks."""

    name: str
    requirement: str
    operation: str
    function: Callable[..., object]

    def build(self) -> Implementation:
        """Return the reference with the one operation replaced."""
        made = type(self.name, (Reference,), {self.operation: staticmethod(self.function), "name": self.name})
        return cast(Implementation, made())


REGISTERED: Final[list[Mutant]] = []
"""Every mutant, in order."""


def mutant(requirement: str, operation: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that registers a function as the wrong version of an operation."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        REGISTERED.append(Mutant(function.__name__, requirement, operation, function))
        return function

    return register


def lists(rows: Rows) -> list[list[int]]:
    """Return rows as lists that can be changed."""
    return [list(row) for row in rows]


class Rekeyed(tape.SeededTape):
    """A tape whose domain keys are computed otherwise."""

    def __init__(self, seed: bytes, key: Callable[[bytes, Domain], bytes]) -> None:
        super().__init__(seed)
        self._keys = {domain: key(seed, domain) for domain in Domain}


class Rewritten:
    """A tape that answers each address by a function."""

    def __init__(self, answer: Callable[[Domain, int, int], int]) -> None:
        self._answer = answer

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return what the function gives."""
        return self._answer(domain, stream, index)


# Tape


@mutant("TAP-R1", "seeded_tape")
def one_key_for_all_domains(seed: bytes) -> Tape:
    """Forget the domain."""
    return Rekeyed(seed, lambda seed, domain: tape.domain_key(seed, Domain.TEST))


@mutant("TAP-R1", "seeded_tape")
def key_without_the_tags_length(seed: bytes) -> Tape:
    """Forget the length byte."""
    return Rekeyed(
        seed, lambda s, domain: hashlib.sha256(f"veil {__version__} {domain}".encode() + s).digest()
    )


@mutant("TAP-R2", "seeded_tape")
def big_endian_words(seed: bytes) -> Tape:
    """Reverse each word's bytes."""
    right = tape.SeededTape(seed)
    return Rewritten(lambda *address: int.from_bytes(right.word(*address).to_bytes(8, "little"), "big"))


@mutant("TAP-R2", "seeded_tape")
def short_nonce(seed: bytes) -> Tape:
    """Drop the upper third of the stream number."""
    right = tape.SeededTape(seed)

    def word(domain: Domain, stream: int, index: int) -> int:
        return right.word(domain, stream % 2**64 if stream < 2**96 else stream, index)

    return Rewritten(word)


@mutant("TAP-R3", "field_elements")
def takes_the_high_bits(
    source: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int
) -> Sequence[int]:
    """Shift words down in place of masking them."""
    high = Rewritten(lambda d, s, i: source.word(d, s, i) >> (64 - modulus.bit_length()))
    return RIGHT.field_elements(high, domain, stream, start, count, modulus)


@mutant("TAP-R4", "field_elements")
def reduces_in_place_of_rejecting(
    source: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int
) -> Sequence[int]:
    """Take a rejected candidate mod p."""
    RIGHT.field_elements(source, domain, stream, start, 0, modulus)
    low = 2 ** modulus.bit_length() - 1
    return [(source.word(domain, stream, start + i) & low) % modulus for i in range(count)]


@mutant("TAP-R4", "field_elements")
def retries_once(
    source: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int
) -> Sequence[int]:
    """Reread the same word on a second rejection, and reduce it."""
    low = (1 << modulus.bit_length()) - 1

    def element(index: int) -> int:
        first = source.word(domain, stream, index) & low
        retry = stream + (index + 1) * 2**64
        return first if first < modulus else (source.word(domain, retry, 0) & low) % modulus

    return [element(start + i) for i in range(count)]


@mutant("TAP-R5", "seeded_tape")
def wraps_its_counter(seed: bytes) -> Tape:
    """Let streams and indices wrap around."""
    right = tape.SeededTape(seed)
    return Rewritten(lambda domain, stream, index: right.word(domain, stream % 2**96, index % 2**35))


@mutant("TAP-R6", "seeded_tape")
def pads_short_seeds(seed: bytes) -> Tape:
    """Stretch or cut a seed to 32 bytes."""
    return tape.SeededTape(seed[:32].ljust(32, b"\0"))


@mutant("TAP-R7", "listed_tape")
def continues_with_zeros(words: Mapping[Address, int]) -> Tape:
    """Answer 0 where nothing is listed."""
    return Rewritten(lambda domain, stream, index: words.get((domain, stream, index), 0))


# Noisy max


@mutant("NMX-R1", "sample")
def decides_by_one_word(noise: Noise, source: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Compare the first word's lower end only."""
    word = source.word(Domain.NOISE, document * 2**21 + 2 * candidate, token)
    k = 0
    while word and Fraction(word, 2**64) < noise.alpha ** (k + 1):
        k += 1
    return k


@mutant("NMX-R1", "sample")
def includes_the_threshold(noise: Noise, source: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Take U <= alpha^j in place of U < alpha^j."""
    word = source.word(Domain.NOISE, document * 2**21 + 2 * candidate, token)
    k = RIGHT.sample(noise, source, token, candidate, document)
    return k + (Fraction(word, 2**64) == noise.alpha ** (k + 1))


@mutant("NMX-R1", "sample")
def reads_on_in_the_same_stream(
    noise: Noise, source: Tape, token: int, candidate: int, document: int = 0
) -> int:
    """Continue a draw with the words of the draws after it."""

    def word(domain: Domain, stream: int, index: int) -> int:
        retry, own = divmod(stream, 2**64)
        return source.word(domain, own, index + (retry and retry + 1))

    return RIGHT.sample(noise, Rewritten(word), token, candidate, document)


@mutant("NMX-R2", "sample")
def swaps_the_two_draws(noise: Noise, source: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Negate two-sided noise."""
    k = RIGHT.sample(noise, source, token, candidate, document)
    return -k if isinstance(noise, TwoSidedGeometric) else k


@mutant("NMX-R2", "sample")
def shares_a_stream(noise: Noise, source: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Give every token the noise of token 0."""
    return RIGHT.sample(noise, source, token and min(token, 0), candidate, document)


@mutant("NMX-R2", "select")
def forgets_the_document(
    scores: Sequence[int], noise: Noise, source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Give every document the noise of document 0."""
    return RIGHT.select(scores, noise, source, token, document if document >= 2**43 else min(document, 0))


@mutant("NMX-R2", "sample")
def takes_any_document(noise: Noise, source: Tape, token: int, candidate: int, document: int = 0) -> int:
    """Wrap document numbers around."""
    return RIGHT.sample(noise, source, token, candidate, document % 2**43)


@mutant("NMX-R3", "select")
def ignores_the_noise(
    scores: Sequence[int], noise: Noise, source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Take the largest score."""
    RIGHT.select(scores, noise, source, token, document)
    return Selection(TokenIndex(list(scores).index(max(scores))))


@mutant("NMX-R4", "select")
def takes_the_last_of_equals(
    scores: Sequence[int], noise: Noise, source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Break ties upwards."""
    RIGHT.select(scores, noise, source, token, document)
    noisy = [score + RIGHT.sample(noise, source, token, c, document) for c, score in enumerate(scores)]
    return Selection(TokenIndex(max(range(len(noisy)), key=lambda c: (noisy[c], c))))


@mutant("NMX-R5", "select")
def selects_from_nothing(
    scores: Sequence[int], noise: Noise, source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Answer 0 to an empty list."""
    return RIGHT.select(scores, noise, source, token, document) if scores else Selection(TokenIndex(0))


@mutant("NMX-R6", "select")
def clips_scores(
    scores: Sequence[int], noise: Noise, source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Bring scores into range in place of refusing them."""
    limit = constants.SCORE_LIMIT
    clipped = [max(-limit, min(limit, score)) for score in scores]
    return RIGHT.select(clipped, noise, source, token, document)


@mutant("NMX-R7", "noise")
def forgets_the_denominator(alpha: Fraction, two_sided: bool) -> Noise:
    """Round a fine alpha to the nearest allowed one."""
    if isinstance(alpha, Fraction):
        alpha = alpha.limit_denominator(constants.ALPHA_DENOMINATOR_LIMIT)
    return RIGHT.noise(alpha, two_sided)


@mutant("NMX-R8", "certificate")
def certifies_overlapping_parts(table: Table, noise: Noise) -> Certificate:
    """Rename tokens that occur twice."""
    renamed = (
        Part(tuple(f"{n}.{i}" for i in range(len(part.tokens))), part.scores)
        for n, part in enumerate(table.parts)
    )
    return RIGHT.certificate(Table(table.name, tuple(renamed)), noise)


@mutant("NMX-R9", "direction")
def directs_in_floating_point(vector: Sequence[float]) -> Sequence[int]:
    """Normalise with doubles."""
    RIGHT.direction(vector)
    norm = math.hypot(*vector)
    return [int(value / norm * constants.DIRECTION_NORM) if norm else 0 for value in vector]


@mutant("NMX-R9", "direction")
def rounds_directions_down(vector: Sequence[float]) -> Sequence[int]:
    """Round towards minus infinity."""
    exact = [Fraction(value) for value in vector]
    square = sum(value**2 for value in exact)
    wrong = [
        value < 0 and a**2 * square < (constants.DIRECTION_NORM * value) ** 2
        for a, value in zip(RIGHT.direction(vector), exact, strict=True)
    ]
    return [a - one for a, one in zip(RIGHT.direction(vector), wrong, strict=True)]


@mutant("NMX-R9", "direction")
def takes_infinity_for_the_largest_number(vector: Sequence[float]) -> Sequence[int]:
    """Clip what is not finite."""
    most = sys.float_info.max
    return RIGHT.direction([max(-most, min(most, value)) for value in vector])


def _partition(directions: Rows, part_size: int, order: int, rest: bool) -> list[list[int]]:
    RIGHT.partition([], part_size)
    left, parts = list(range(len(directions))), []
    while len(left) >= part_size + (part_size if rest else 0):
        first = left.pop(0)
        near = sorted(left, key=lambda c: (-similarity(directions[first], directions[c]), order * c))
        parts.append([first, *near[: part_size - 1]])
        left = sorted(near[part_size - 1 :])
    return [*parts, left] if left else parts


@mutant("NMX-R10", "partition")
def prefers_the_higher_of_equals(directions: Rows, part_size: int) -> Sequence[Sequence[int]]:
    """Break ties of similarity upwards."""
    return _partition(directions, part_size, -1, True)


@mutant("NMX-R10", "partition")
def leaves_a_small_last_part(directions: Rows, part_size: int) -> Sequence[Sequence[int]]:
    """Go on while part_size entries are left."""
    return _partition(directions, part_size, 1, False)


@mutant("NMX-R10", "partition")
def sorts_its_parts(directions: Rows, part_size: int) -> Sequence[Sequence[int]]:
    """List each part by number."""
    return [sorted(part) for part in RIGHT.partition(directions, part_size)]


@mutant("NMX-R10", "partition")
def takes_any_part_size(directions: Rows, part_size: int) -> Sequence[Sequence[int]]:
    """Bring the part size into range."""
    return RIGHT.partition(directions, max(1, min(part_size, constants.PART_LIMIT // 2)))


def _levels(directions: Rows, level: Callable[[Fraction], int]) -> list[list[int]]:
    table = [[similarity(one, other) for other in directions] for one in directions]
    least, most = min(map(min, table)), max(map(max, table))
    steps = constants.LEVELS - 1
    return [[level(Fraction(steps * (cell - least), max(most - least, 1))) for cell in row] for row in table]


@mutant("NMX-R11", "part_scores")
def rounds_halves_to_even(directions: Rows) -> Rows:
    """Use Python's round."""
    return _levels(directions, round)


@mutant("NMX-R11", "part_scores")
def rounds_scores_down(directions: Rows) -> Rows:
    """Forget the half."""
    return _levels(directions, math.floor)


@mutant("NMX-R11", "part_scores")
def spreads_each_row(directions: Rows) -> Rows:
    """Scale each row by its own least and largest score."""
    right = RIGHT.part_scores(directions)
    return [[63 * (s - min(row)) // max(max(row) - min(row), 1) for s in row] for row in right]


def _floors(scores: Sequence[int], noise: Noise) -> list[int]:
    return [int(chance * 2**64) for chance in RIGHT.exact_pmf(scores, noise)]


@mutant("NMX-R12", "tabulate")
def leaves_weights_of_0(scores: Sequence[int], noise: Noise) -> Sequence[int]:
    """Raise nothing to 1."""
    weights = _floors(scores, noise)
    weights[weights.index(max(weights))] += 2**64 - sum(weights)
    return weights


@mutant("NMX-R12", "tabulate")
def gives_the_rest_to_the_first(scores: Sequence[int], noise: Noise) -> Sequence[int]:
    """Add what is missing to the first weight."""
    weights = [max(1, weight) for weight in _floors(scores, noise)]
    return [weights[0] + 2**64 - sum(weights), *weights[1:]]


@mutant("NMX-R12", "tabulate")
def keeps_a_surplus(scores: Sequence[int], noise: Noise) -> Sequence[int]:
    """Add what is missing, and never take away what is too much."""
    weights = [max(1, weight) for weight in _floors(scores, noise)]
    weights[weights.index(max(weights))] += max(0, 2**64 - sum(weights))
    return weights


@mutant("NMX-R12", "tabulate")
def tabulates_in_floating_point(scores: Sequence[int], noise: Noise) -> Sequence[int]:
    """Take weights from doubles."""
    weights = [max(1, int(float(chance) * 2**64)) for chance in RIGHT.exact_pmf(scores, noise)]
    weights[weights.index(max(weights))] += 2**64 - sum(weights)
    return weights


@mutant("NMX-R13", "draw")
def gives_edges_to_the_lower_index(
    weights: Sequence[int], source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Count sums below the word only."""
    RIGHT.draw(weights, source, token, document)
    word = source.word(Domain.DRAW, document, token)
    return Selection(TokenIndex(sum(total < word for total in list(accumulate(weights))[:-1])))


@mutant("NMX-R13", "draw")
def swaps_token_and_document(
    weights: Sequence[int], source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Read word `document` of stream `token`."""
    swapped = Rewritten(lambda domain, stream, index: source.word(domain, index, stream))
    return RIGHT.draw(weights, swapped, token, document)


@mutant("NMX-R13", "draw")
def draws_in_the_domain_of_noise(
    weights: Sequence[int], source: Tape, token: int = 0, document: int = 0
) -> Selection:
    """Use a word that a noise may have used."""
    noisy = Rewritten(lambda domain, stream, index: source.word(Domain.NOISE, stream, index))
    return RIGHT.draw(weights, noisy, token, document)


@mutant("NMX-R13", "draw")
def draws_for_any_token(weights: Sequence[int], source: Tape, token: int = 0, document: int = 0) -> Selection:
    """Wrap token numbers around."""
    return RIGHT.draw(weights, source, token % (2**32 - 1), document)


@mutant("NMX-R17", "draw_uniformly")
def reduces_the_word(size: int, source: Tape, token: int = 0, document: int = 0) -> Selection:
    """Take the word mod the part's size."""
    return Selection(TokenIndex(source.word(Domain.DRAW, document, token) % size))


@mutant("NMX-R17", "draw_uniformly")
def scales_in_floating_point(size: int, source: Tape, token: int = 0, document: int = 0) -> Selection:
    """Multiply by a double between 0 and 1."""
    return Selection(TokenIndex(int(source.word(Domain.DRAW, document, token) / 2**64 * size)))


def _certified(table: TabulatedTable, change: Callable[[TabulatedPart], TabulatedPart]) -> Certificate:
    return RIGHT.tabulated_certificate(replace(table, parts=tuple(map(change, table.parts))))


@mutant("NMX-R14", "tabulated_certificate")
def repairs_sums(table: TabulatedTable) -> Certificate:
    """Give what is missing of 2^64 to the last weight of a row."""

    def repaired(part: TabulatedPart) -> TabulatedPart:
        rows = tuple((*row[:-1], 2**64 - sum(row[:-1])) for row in part.weights)
        return replace(part, weights=rows)

    return _certified(table, repaired)


@mutant("NMX-R14", "tabulated_certificate")
def raises_weights_of_0(table: TabulatedTable) -> Certificate:
    """Raise a weight of 0 to 1 and lower the others by 1."""

    def raised(part: TabulatedPart) -> TabulatedPart:
        rows = (tuple(w or 1 for w in row[:-1]) for row in part.weights if 0 in row)
        kept = tuple(row for row in part.weights if 0 not in row)
        return replace(part, weights=(*kept, *((*row, 2**64 - sum(row)) for row in rows)))

    return _certified(table, raised)


@mutant("NMX-R14", "tabulated_certificate")
def certifies_parts_of_any_size(table: TabulatedTable) -> Certificate:
    """Forget the limit of a part."""
    if max((len(part.tokens) for part in table.parts), default=0) > constants.PART_LIMIT:
        return replace(RIGHT.tabulated_certificate(SMALL_TABLE), epsilon_bound=table.epsilon)
    return RIGHT.tabulated_certificate(table)


@mutant("NMX-R14", "weighted_recovery")
def recovers_without_a_check(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Trust a table that has a certificate's form."""
    with mock.patch.object(tabulated, "check_tabulated"):
        return RIGHT.weighted_recovery(table, counts)


@mutant("NMX-R15", "load_tabulated")
def loads_without_a_check(path: Path, level: int) -> TabulatedTable:
    """Trust the weights and scores of a file."""
    with mock.patch.object(table_file, "check_tabulated"):
        return RIGHT.load_tabulated(path, level)


@mutant("NMX-R15", "load_tabulated")
def checks_the_wanted_level_only(path: Path, level: int) -> TabulatedTable:
    """Leave the other levels unread."""
    found: list[TabulatedTable] = []
    with mock.patch.object(table_file, "check_tabulated", found.append):
        table = RIGHT.load_tabulated(path, level)
    tabulated.check_tabulated(table)
    return table


@mutant("NMX-R15", "load_tabulated")
def trusts_metadata_and_shapes(path: Path, level: int) -> TabulatedTable:
    """Forget what is needed of a file beside its weights."""
    with mock.patch.object(table_file, "_need"):
        return RIGHT.load_tabulated(path, level)


@mutant("NMX-R15", "load_tabulated")
def loads_any_version(path: Path, level: int) -> TabulatedTable:
    """Ignore the spec version of a file."""
    with mock.patch.object(table_file, "__version__", mock.ANY):
        return RIGHT.load_tabulated(path, level)


@mutant("NMX-R15", "load_tabulated")
def always_loads_the_first_level(path: Path, level: int) -> TabulatedTable:
    """Forget the level."""
    return RIGHT.load_tabulated(path, 0)


@mutant("NMX-R15", "load_tabulated")
def loads_any_claim(path: Path, level: int) -> TabulatedTable:
    """Take each epsilon for the number of its level."""
    numbers = count(1)
    with mock.patch.object(table_file, "claim_limit", lambda epsilon: next(numbers)):
        return RIGHT.load_tabulated(path, level)


@mutant("NMX-R16", "paper_candidates")
def counts_the_entry_among_its_candidates(
    directions: Rows, entry: int, count: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Start the list with the entry itself."""
    others, scores = RIGHT.paper_candidates(directions, entry, count)
    return [entry, *others[:-1]], [63, *scores[:-1]]


@mutant("NMX-R16", "paper_candidates")
def lists_equals_downwards(directions: Rows, entry: int, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Break ties towards the higher number."""
    others, scores = RIGHT.paper_candidates(directions[::-1], len(directions) - 1 - entry, count)
    return [len(directions) - 1 - other for other in others], scores


@mutant("NMX-R16", "paper_candidates")
def scores_by_truncation(directions: Rows, entry: int, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Forget the half."""
    others, _ = RIGHT.paper_candidates(directions, entry, count)
    found = [similarity(directions[entry], directions[other]) for other in others]
    return others, [63 * (cosine + 2**24) // 2**25 for cosine in found]


@mutant("NMX-R16", "paper_candidates")
def lists_fewer_where_there_are_no_more(
    directions: Rows, entry: int, count: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Cut the number of candidates down to the entries there are."""
    return RIGHT.paper_candidates(directions, entry, min(count, len(directions) - 1))


# Accounting


@mutant("ACC-R1", "exact_pmf")
def exponential_mechanism(scores: Sequence[int], noise: Noise) -> tuple[Fraction, ...]:
    """Give the law of another mechanism."""
    RIGHT.exact_pmf(scores[:1], noise)
    weights = [noise.alpha ** (max(scores) - score) for score in scores]
    return tuple(weight / sum(weights) for weight in weights)


@mutant("ACC-R2", "certificate")
def twice_the_largest_change(table: Table, noise: Noise) -> Certificate:
    """Use 2 * Delta, with the first part alone."""
    rows = table.parts[0].scores
    changes = [abs(a - b) for x in rows for y in rows for a, b in zip(x, y, strict=True)]
    return replace(RIGHT.certificate(table, noise), range_distance=2 * max(changes))


@mutant("ACC-R3", "certificate")
def half_the_exponent(table: Table, noise: Noise) -> Certificate:
    """Forget one side of the range distance."""
    right = RIGHT.certificate(table, noise)
    return replace(right, bound=noise.alpha ** -((right.range_distance + 1) // 2))


@mutant("ACC-R4", "certificate")
def names_the_last_worst_pair(table: Table, noise: Noise) -> Certificate:
    """Swap the worst pair."""
    right = RIGHT.certificate(table, noise)
    return replace(right, worst=replace(right.worst, token=right.worst.other, other=right.worst.token))


@mutant("ACC-R4", "certificate")
def exact_is_the_bound(table: Table, noise: Noise) -> Certificate:
    """Confuse the two figures."""
    right = RIGHT.certificate(table, noise)
    return replace(right, exact=right.bound)


@mutant("ACC-R5", "certificate")
def rounds_epsilon_down(table: Table, noise: Noise) -> Certificate:
    """Show one millionth too little."""
    right = RIGHT.certificate(table, noise)
    millionths = max(int(right.epsilon_exact.replace(".", "")) - 1, 0)
    return replace(right, epsilon_exact=f"{millionths // 10**6}.{millionths % 10**6:06d}")


@mutant("ACC-R6", "certificate")
def averages_the_guess(table: Table, noise: Noise) -> Certificate:
    """State the chance that a token stays as it is."""
    right = RIGHT.certificate(table, noise)
    laws = [(x, RIGHT.exact_pmf(row, noise)) for part in table.parts for x, row in enumerate(part.scores)]
    return replace(right, bayes_recovery=sum((law[x] for x, law in laws), Fraction(0)) / len(laws))


@mutant("ACC-R7", "calibrate")
def calibrates_one_too_low(epsilon: Fraction | int | str, range_distance: int) -> Fraction:
    """Return the largest alpha that breaks the claim."""
    alpha = RIGHT.calibrate(epsilon, range_distance)
    return max(alpha - Fraction(1, 2**16), Fraction(1, 2**16))


@mutant("ACC-R8", "calibrate")
def reads_any_number(epsilon: Fraction | int | str, range_distance: int) -> Fraction:
    """Accept whatever Fraction reads."""
    try:
        value = Fraction(epsilon)
    except (ValueError, TypeError):
        value = Fraction(0)
    return RIGHT.calibrate(value, range_distance)


@mutant("ACC-R9", "certificate")
def states_no_adjacency(table: Table, noise: Noise) -> Certificate:
    """Claim more than is true."""
    return replace(RIGHT.certificate(table, noise), adjacency="one token replaced by another token")


@mutant("ACC-R10", "calibrate_part")
def calibrates_a_part_by_its_range(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Use the bound of the theorem in place of the weights."""
    part = Part(tuple(map(str, range(len(scores)))), tuple(map(tuple, scores)))
    return RIGHT.calibrate(epsilon, range_distance(Table("part", (part,))))


@mutant("ACC-R10", "calibrate_part")
def returns_the_last_that_fails(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Return l in place of h."""
    right = RIGHT.calibrate_part(epsilon, scores, two_sided)
    return max(right - Fraction(1, 2**16), Fraction(1, 2**16))


@mutant("ACC-R10", "calibrate_part")
def calibrates_one_noise_only(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Use one-sided noise throughout."""
    return RIGHT.calibrate_part(epsilon, scores, False)


@mutant("ACC-R10", "calibrate_part")
def returns_what_does_not_meet(epsilon: Fraction | int | str, scores: Rows, two_sided: bool) -> Fraction:
    """Return the largest alpha where none meets the claim."""
    try:
        return RIGHT.calibrate_part(epsilon, scores, two_sided)
    except Refused:
        return Fraction(2**16 - 1, 2**16)


@mutant("ACC-R11", "tabulated_certificate")
def names_the_worst_pair_backwards(table: TabulatedTable) -> Certificate:
    """Swap the worst pair."""
    right = RIGHT.tabulated_certificate(table)
    return replace(right, worst=replace(right.worst, token=right.worst.other, other=right.worst.token))


@mutant("ACC-R11", "tabulated_certificate")
def looks_at_its_own_output_only(table: TabulatedTable) -> Certificate:
    """Compare how often tokens stay as they are."""
    right = RIGHT.tabulated_certificate(table)
    ratios = [
        Fraction(row[x], other[x])
        for part in table.parts
        for x, row in enumerate(part.weights)
        for other in part.weights
    ]
    return replace(right, exact=max(ratios))


@mutant("ACC-R11", "tabulated_certificate")
def certifies_doubles(table: TabulatedTable) -> Certificate:
    """Divide in floating point."""
    right = RIGHT.tabulated_certificate(table)
    return replace(right, exact=Fraction(float(right.exact)))


@mutant("ACC-R12", "tabulated_certificate")
def bounds_by_the_exact_figure(table: TabulatedTable) -> Certificate:
    """State the exact figure as the bound."""
    right = RIGHT.tabulated_certificate(table)
    return replace(right, bound=right.exact)


@mutant("ACC-R12", "tabulated_certificate")
def forgives_a_broken_claim(table: TabulatedTable) -> Certificate:
    """Accept one part in 2^52 more than was claimed, as a comparison of doubles does."""
    with mock.patch.object(tabulated, "claim_limit", lambda e: claim_limit(e) * (1 + Fraction(1, 2**52))):
        found = RIGHT.tabulated_certificate(table)
    return replace(found, bound=claim_limit(table.epsilon))


@mutant("ACC-R12", "tabulated_certificate")
def judges_the_claim_first(table: TabulatedTable) -> Certificate:
    """Compare before looking whether the weights are laws."""
    columns = [column for part in table.parts for column in zip(*part.weights, strict=True)]
    if any(max(column) > claim_limit(table.epsilon) * min(column) for column in columns):
        raise Refused(Refusal.CLAIM_NOT_MET)
    return RIGHT.tabulated_certificate(table)


@mutant("ACC-R12", "tabulated_certificate")
def recovers_what_stays(table: TabulatedTable) -> Certificate:
    """State the chance that a token stays as it is as Bayes recovery."""
    rows = [(x, row) for part in table.parts for x, row in enumerate(part.weights)]
    stays = Fraction(sum(row[x] for x, row in rows), 2**64 * len(rows))
    return replace(RIGHT.tabulated_certificate(table), bayes_recovery=stays)


@mutant("ACC-R13", "weighted_recovery")
def forgets_the_counts(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Draw every token equally often."""
    RIGHT.weighted_recovery(table, counts)
    return RIGHT.weighted_recovery(table, [1] * len(counts))


@mutant("ACC-R13", "weighted_recovery")
def guesses_the_most_frequent(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Ignore the output."""
    RIGHT.weighted_recovery(table, counts)
    return Fraction(max(counts), sum(counts))


@mutant("ACC-R13", "weighted_recovery")
def pads_counts(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Take counts that are missing for 0."""
    missing = sum(len(part.tokens) for part in table.parts) - len(counts)
    return RIGHT.weighted_recovery(table, [*counts, *[0] * missing] if any(counts) else [*counts])


@mutant("ACC-R13", "weighted_recovery")
def recovers_nothing_from_nothing(table: TabulatedTable, counts: Sequence[int]) -> Fraction:
    """Answer 0 where no token occurs."""
    size = sum(len(part.tokens) for part in table.parts)
    return Fraction(0) if list(counts) == [0] * size else RIGHT.weighted_recovery(table, counts)


@mutant("ACC-R14", "certificate")
def names_no_verbatim_token(table: Table, noise: Noise) -> Certificate:
    """Say nothing about parts of one."""
    return replace(RIGHT.certificate(table, noise), verbatim=())


@mutant("ACC-R14", "tabulated_certificate")
def always_excludes_verbatim_tokens(table: TabulatedTable) -> Certificate:
    """State verbatim tokens as not covered where there are none."""
    stated = RIGHT.tabulated_certificate(SMALL_TABLE).not_covered
    return replace(RIGHT.tabulated_certificate(table), not_covered=stated)


@mutant("ACC-R14", "tabulated_certificate")
def sorts_verbatim_tokens(table: TabulatedTable) -> Certificate:
    """Name verbatim tokens in another order than the table's."""
    right = RIGHT.tabulated_certificate(table)
    return replace(right, verbatim=right.verbatim[::-1])


@mutant("ACC-R15", "paper_certificate")
def gives_the_papers_profile_an_epsilon(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """State a number."""
    return replace(RIGHT.paper_certificate(tokens, candidates), epsilon="64.000000")


@mutant("ACC-R15", "paper_certificate")
def states_the_papers_adjacency_within_parts(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """State the adjacency of any other certificate."""
    adjacency = "one token replaced by another token of the same part"
    return replace(RIGHT.paper_certificate(tokens, candidates), adjacency=adjacency)


@mutant("ACC-R15", "paper_certificate")
def shows_the_last_witness(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """Name the last output that shows it."""
    right = RIGHT.paper_certificate(tokens, candidates)
    x, other, y = [
        (x, other, y)
        for x, row in enumerate(candidates)
        for other, others in enumerate(candidates)
        for y in row
        if y not in others
    ][-1]
    return replace(right, witness=WorstPair(tokens[x], tokens[other], tokens[y]))


@mutant("ACC-R15", "paper_certificate")
def shows_a_witness_by_number(tokens: Sequence[str], candidates: Rows) -> PaperCertificate:
    """Search the candidates by their numbers."""
    return RIGHT.paper_certificate(tokens, [sorted(row) for row in candidates])


@mutant("ACC-R16", "document_cost")
def rounds_the_sum_once(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Add logarithms before rounding."""
    together = math.prod(exacts, start=Fraction(1))
    return RIGHT.document_cost(exacts)[0], RIGHT.document_cost([together])[0]


@mutant("ACC-R16", "document_cost")
def rounds_costs_to_the_nearest(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Round in place of rounding up."""
    costs = [round(math.log(exact) * 10**6) for exact in exacts]
    return max(costs, default=0), sum(costs)


@mutant("ACC-R16", "document_cost")
def costs_the_first_token(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Take the first token for the dearest."""
    return RIGHT.document_cost(exacts[:1])[0], RIGHT.document_cost(exacts)[1]


@mutant("ACC-R16", "document_cost")
def charges_an_empty_document(exacts: Sequence[Fraction]) -> tuple[int, int]:
    """Let a document cost something."""
    return RIGHT.document_cost(exacts) if exacts else (1, 1)


def _divided(shares: Sequence[Fraction], weights: Sequence[int], costs: Rows) -> list[int]:
    paid = [sum(c <= share for c in rising) for share, rising in zip(shares, costs, strict=True)]
    return [level if weight else 0 for level, weight in zip(paid, weights, strict=True)]


@mutant("ACC-R17", "divide")
def rounds_shares_up(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Spend more than the budget."""
    RIGHT.divide(budget, weights, costs)
    shares = [Fraction(-(-budget * weight // max(sum(weights), 1))) for weight in weights]
    return _divided(shares, weights, costs)


@mutant("ACC-R17", "divide")
def divides_in_floating_point(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Compute shares as doubles."""
    RIGHT.divide(budget, weights, costs)
    shares = [Fraction(budget * (weight / max(sum(weights), 1))) for weight in weights]
    return _divided(shares, weights, costs)


@mutant("ACC-R17", "divide")
def divides_evenly(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Give each token the same."""
    RIGHT.divide(budget, weights, costs)
    return RIGHT.divide(budget, [1] * len(weights), costs)


@mutant("ACC-R17", "divide")
def gives_level_1_for_nothing(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Let a token of weight 0 have a level that costs nothing."""
    right = RIGHT.divide(budget, weights, costs)
    free = [sum(cost == 0 for cost in rising) for rising in costs]
    return [max(pair) for pair in zip(right, free, strict=True)]


@mutant("ACC-R17", "divide")
def takes_the_first_level_of_a_cost(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Take the lowest of levels that cost the same."""
    levels = zip(costs, RIGHT.divide(budget, weights, costs), strict=True)
    return [level and list(row).index(row[level - 1]) + 1 for row, level in levels]


@mutant("ACC-R18", "divide")
def refuses_levels_of_one_cost(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Ask for costs that rise strictly."""
    if any(len(set(row)) < len(row) for row in costs):
        raise Refused(Refusal.BUDGET_MALFORMED)
    return RIGHT.divide(budget, weights, costs)


@mutant("ACC-R18", "divide")
def divides_what_is_no_budget(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Bring numbers into their range."""

    def clipped(value: int) -> int:
        return max(0, min(int(value), 2**63 - 1))

    inside = [[clipped(c) for c in rising] for rising in costs]
    return RIGHT.divide(clipped(budget), list(map(clipped, weights)), inside)


@mutant("ACC-R18", "divide")
def sorts_costs(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Put levels into order."""
    return RIGHT.divide(budget, weights, [sorted(rising) for rising in costs])


@mutant("ACC-R18", "divide")
def divides_as_far_as_there_are_costs(budget: int, weights: Sequence[int], costs: Rows) -> Sequence[int]:
    """Drop weights or costs without a partner."""
    both = min(len(weights), len(costs))
    return RIGHT.divide(budget, weights[:both], costs[:both])


# Fixed point


@mutant("FXP-R1", "round_shift")
def truncates(value: int, shift: int) -> int:
    """Round down."""
    return value >> shift


@mutant("FXP-R1", "round_shift")
def rounds_halves_away_from_zero(value: int, shift: int) -> int:
    """Round -1.5 to -2."""
    return RIGHT.round_shift(value, shift) if value >= 0 else -RIGHT.round_shift(-value, shift)


@mutant("FXP-R2", "rescale")
def saturates_one_below(value: int, shift: int, limit: int) -> int:
    """Allow -limit - 1, as two's complement does."""
    return (
        -limit - 1
        if value < 0 and RIGHT.rescale(value, shift, limit + 1) == -limit - 1
        else RIGHT.rescale(value, shift, limit)
    )


@mutant("FXP-R3", "quantise")
def leaves_small_rows_alone(row: Row, fraction: int) -> Quantised:
    """Never scale up."""
    right = RIGHT.quantise(row, fraction)
    return right if right.exponent <= fraction else Quantised(tuple(row), fraction)


@mutant("FXP-R4", "exp2_digits")
def floors_its_tables() -> tuple[Sequence[int], Sequence[int]]:
    """Round table entries down."""
    ln2 = tables.ln(Fraction(2))
    floored = [
        [tables.exp(-ln2 * i // steps) >> (tables.BITS - 30) for i in range(1, 256)]
        for steps in (2**8, 2**16)
    ]
    return [2**30, *floored[0]], [2**30, *floored[1]]


@mutant("FXP-R5", "exp2")
def rounds_the_product_twice(exponent: int) -> int:
    """Round to 30 bits before shifting further."""
    coarse, fine = tables.exp2_digits()
    whole, part = divmod(-exponent, 2**16)
    return RIGHT.round_shift(RIGHT.round_shift(coarse[part >> 8] * fine[part & 255], 30), min(whole, 32))


@mutant("FXP-R6", "silu")
def reflects_the_sigmoid(value: int) -> int:
    """Use x - silu(x) for negative x."""
    return RIGHT.silu(value) if value >= 0 else RIGHT.silu(-value) + value


@mutant("FXP-R7", "rms_norm")
def forgets_epsilon(row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Quantised:
    """Normalise without epsilon."""
    return RIGHT.rms_norm(row, gains, gain_exponent, Fraction(1, 2**60) if any(row) else epsilon)


def turned_by(position: int, angle: int) -> tuple[int, int]:
    """Return the entry of a position that turns by an angle in units of 2**-192."""
    if position == 0:
        return 2**30, 0
    cosine, sine = tables.cos_sin(position * angle)
    return tables.nearest(cosine, 30), tables.nearest(sine, 30)


@mutant("FXP-R8", "rope")
def rounds_rope_entries_down(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Round entries down."""
    if position == 0:
        return 2**30, 0
    cosine, sine = tables.cos_sin(position * tables.frequency(pair, head_width, rotation))
    return cosine >> (tables.BITS - 30), sine >> (tables.BITS - 30)


@mutant("FXP-R8", "rope")
def computes_angles_in_single_precision(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Round each angle to 24 bits, as float32 does."""
    angle = position * tables.frequency(pair, head_width, rotation)
    dropped = max(angle.bit_length() - 24, 0)
    return turned_by(1, angle >> dropped << dropped) if position else (2**30, 0)


@mutant("FXP-R8", "rope")
def repeats_beyond_the_old_context(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Keep a table of 2**14 positions."""
    return tables.rope(position % 2**14, pair, head_width, rotation)


@mutant("FXP-R8", "rope")
def ignores_the_factor(position: int, pair: int, head_width: int, rotation: Rotation) -> tuple[int, int]:
    """Turn as without a factor."""
    return tables.rope(position, pair, head_width, Rotation(rotation.theta))


@mutant("FXP-R8", "rope")
def multiplies_by_the_factor(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Turn faster in place of slower."""
    if rotation.low is not None:
        return tables.rope(position, pair, head_width, rotation)
    angle = tables.frequency(pair, head_width, Rotation(rotation.theta))
    return turned_by(position, angle * rotation.factor.numerator // rotation.factor.denominator)


@mutant("FXP-R8", "rope")
def slows_all_waves(position: int, pair: int, head_width: int, rotation: Rotation) -> tuple[int, int]:
    """Forget that `low` and `high` spare short waves."""
    return tables.rope(position, pair, head_width, Rotation(rotation.theta, rotation.factor))


@mutant("FXP-R8", "rope")
def smooths_by_the_wavelength(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Let the share be linear in the length of a wave, not in the turns that it makes."""
    if rotation.low is None or rotation.high is None or rotation.context is None:
        return tables.rope(position, pair, head_width, rotation)
    plain = tables.frequency(pair, head_width, Rotation(rotation.theta))
    turns = Fraction(rotation.context * plain, 2 * tables.pi())
    low, high = 1 / rotation.low, 1 / rotation.high
    share = min(max((low - 1 / turns) / (low - high), Fraction(0)), Fraction(1))
    return turned_by(position, int(plain * ((1 - share) / rotation.factor + share)))


@mutant("FXP-R8", "rope")
def leaves_a_gap_between_the_ends(
    position: int, pair: int, head_width: int, rotation: Rotation
) -> tuple[int, int]:
    """Leave waves between the two ends as they are."""
    plain = Rotation(rotation.theta)
    slow = Rotation(rotation.theta, rotation.factor)
    right = tables.frequency(pair, head_width, rotation)
    between = right not in (tables.frequency(pair, head_width, each) for each in (plain, slow))
    return tables.rope(position, pair, head_width, plain if between else rotation)


@mutant("FXP-R9", "attention_score")
def forgets_the_keys_exponent(query: Quantised, key: Quantised) -> int:
    """Scale by the query's exponent twice."""
    return RIGHT.attention_score(query, replace(key, exponent=query.exponent))


def numerators(scores: Row) -> list[int]:
    """Return the numerators of a softmax."""
    peak = max(scores)
    return [RIGHT.round_shift(RIGHT.exp2(score - peak), 12) for score in scores]


@mutant("FXP-R10", "softmax_average")
def averages_towards_zero(scores: Row, values: Rows) -> Sequence[int]:
    """Divide the magnitude and put the sign back."""
    negated = RIGHT.softmax_average(scores, [[-word for word in row] for row in values])
    return [
        word if word >= 0 else -other
        for word, other in zip(RIGHT.softmax_average(scores, values), negated, strict=True)
    ]


@mutant("FXP-R10", "softmax_average")
def average_forgets_the_half(scores: Row, values: Rows) -> Sequence[int]:
    """Round quotients down."""
    weights = numerators(scores)
    columns = zip(*values, strict=True)
    return [sum(e * v for e, v in zip(weights, column, strict=True)) // sum(weights) for column in columns]


@mutant("FXP-R10", "softmax_average")
def wraps_sums_at_words(scores: Row, values: Rows) -> Sequence[int]:
    """Sum in signed words of 64 bits."""
    weights = numerators(scores)
    total, made = sum(weights), []
    for column in zip(*values, strict=True):
        summed = sum(e * v for e, v in zip(weights, column, strict=True)) + total // 2
        made.append(((summed + 2**63) % 2**64 - 2**63) // total)
    return made


@mutant("FXP-R10", "softmax_average")
def sums_halves_of_magnitudes(scores: Row, values: Rows) -> Sequence[int]:
    """Split v into 2**15 h + l with the sign of v on both, and round each quotient by itself."""
    halves = [[[abs(v) >> 15 if v >= 0 else -(abs(v) >> 15) for v in row] for row in values]]
    halves.append(
        [[v - 2**15 * h for v, h in zip(*rows, strict=True)] for rows in zip(values, halves[0], strict=True)]
    )
    high, low = (RIGHT.softmax_average(scores, half) for half in halves)
    return [2**15 * h + v for h, v in zip(high, low, strict=True)]


@mutant("FXP-R10", "softmax_average")
def sees_the_old_context(scores: Row, values: Rows) -> Sequence[int]:
    """Average over the last 2**14 positions."""
    return RIGHT.softmax_average(scores[-(2**14) :], values[-(2**14) :])


@mutant("FXP-R11", "rotate")
def pairs_neighbours(row: Row, position: int, rotation: Rotation) -> Sequence[int]:
    """Rotate (0, 1), (2, 3), ... in place of the two halves."""
    turned = list(RIGHT.rotate([*row[::2], *row[1::2]], position, rotation))
    half = len(row) // 2
    return [turned[i // 2 + half * (i % 2)] for i in range(len(row))]


def layer_normed(
    row: Row,
    gains: Row,
    gain_exponent: int,
    biases: Row,
    bias_exponent: int,
    epsilon: Fraction,
    *,
    centred: bool = True,
    scaled_epsilon: bool = True,
    lifted: bool = True,
) -> Sequence[int]:
    """Return layer_norm, or with a switch off what a usual mistake makes of it."""
    count, limit = len(row), constants.RESIDUAL_LIMIT
    words = [count * word - sum(row) * centred for word in row]
    shift = max(max(map(abs, words)).bit_length() - 24, count.bit_length() - 8)
    u = [RIGHT.rescale(word, shift, 2**24) for word in words]
    units = math.floor(epsilon * 2**48 + Fraction(1, 2)) * (count**2 if scaled_epsilon else 1)
    down = shift if lifted else max(shift, 0)
    energy = sum(word * word for word in u) + count * math.floor(units * Fraction(4) ** -down)
    lift = (62 - energy.bit_length()) // 2
    root = math.isqrt(math.floor(energy * Fraction(4) ** lift))
    inverse = 2**34 * math.isqrt(2**44 * count) // root
    made = []
    for word, gain, bias in zip(u, gains, biases, strict=True):
        normal = math.floor(Fraction(word * inverse, 2 ** (36 - lift)) + Fraction(1, 2))
        scaled = RIGHT.rescale(normal * gain, gain_exponent - 4, limit)
        made.append(fixed_point.added(scaled, bias, bias_exponent - 24, limit))
    return made


@mutant("FXP-R12", "layer_norm")
def normalises_without_the_mean(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Divide by the root mean square."""
    return layer_normed(row, gains, gain_exponent, biases, bias_exponent, epsilon, centred=False)


@mutant("FXP-R12", "layer_norm")
def leaves_epsilon_unscaled(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Forget that centred words are d times as large."""
    return layer_normed(row, gains, gain_exponent, biases, bias_exponent, epsilon, scaled_epsilon=False)


@mutant("FXP-R12", "layer_norm")
def shifts_epsilon_down_alone(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Leave epsilon as it is where a small row is lifted."""
    return layer_normed(row, gains, gain_exponent, biases, bias_exponent, epsilon, lifted=False)


@mutant("FXP-R12", "layer_norm")
def forgets_the_biases_of_a_norm(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Add nothing."""
    return RIGHT.layer_norm(row, gains, gain_exponent, [0] * len(row), bias_exponent, epsilon)


@mutant("FXP-R12", "layer_norm")
def scales_biases_like_gains(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Take one exponent for both."""
    return RIGHT.layer_norm(row, gains, gain_exponent, biases, gain_exponent, epsilon)


@mutant("FXP-R12", "layer_norm")
def rounds_the_mean_first(
    row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Subtract a mean that is rounded to a word."""
    mean = round(Fraction(sum(row), len(row)))
    centred = [word - mean for word in row]
    quantised = RIGHT.rms_norm(centred, gains, gain_exponent, epsilon)
    words = [RIGHT.rescale(v, quantised.exponent - 24, 2**46 - 1) for v in quantised.values]
    shift = bias_exponent - 24
    return [fixed_point.added(w, b, shift, 2**46 - 1) for w, b in zip(words, biases, strict=True)]


@mutant("FXP-R13", "head_norm")
def quantises_heads_after_their_norm(
    row: Row, gains: Row, gain_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Use the norm of rows, which keeps 16 bits."""
    made = RIGHT.rms_norm([64 * word for word in row], gains, gain_exponent, epsilon)
    return [RIGHT.rescale(value, made.exponent - 18, 2**30 - 1) for value in made.values]


@mutant("FXP-R13", "head_norm")
def leaves_heads_unlifted(row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Sequence[int]:
    """Take words of 18 fractional bits for words of 24, and so epsilon for a larger one."""
    return RIGHT.head_norm(row, gains, gain_exponent, min(epsilon * 4096, Fraction(1, 2**4)))


@mutant("FXP-R13", "head_norm")
def norms_of_heads_forget_the_gains(
    row: Row, gains: Row, gain_exponent: int, epsilon: Fraction
) -> Sequence[int]:
    """Normalise alone."""
    return RIGHT.head_norm(row, [2**23] * len(row), 23, epsilon)


@mutant("FXP-R14", "normal_tail")
def floors_the_normal_table() -> Sequence[int]:
    """Truncate a floating-point function."""
    return [math.floor(math.erfc(i / 512 / math.sqrt(2)) * 2**29) for i in range(3073)]


@mutant("FXP-R14", "normal_tail")
def ends_the_normal_table_early() -> Sequence[int]:
    """Forget the entry at 6, which interpolation needs."""
    return tables.normal_tail()[:-1]


@mutant("FXP-R15", "gelu")
def approximates_gelu_by_tanh(value: int) -> int:
    """Use the formula with a cube."""
    x = value / 2**18
    return round(value * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)


@mutant("FXP-R15", "gelu")
def approximates_gelu_by_a_sigmoid(value: int) -> int:
    """Use x times the sigmoid of 1.702 x."""
    return round(value / (1 + math.exp(-1.702 * max(value, -(2**27)) / 2**18)))


@mutant("FXP-R15", "gelu")
def reads_the_nearest_entry(value: int) -> int:
    """Interpolate nothing."""
    size = abs(value)
    share = tables.normal_tail()[size >> 9] << 9 if size < 6 * 2**18 else 0
    return max(value, 0) - RIGHT.round_shift(size * share, 39)


@mutant("FXP-R15", "gelu")
def reflects_gelu(value: int) -> int:
    """Take the function for an odd one."""
    return RIGHT.gelu(value) if value >= 0 else -RIGHT.gelu(-value)


@mutant("FXP-R15", "gelu")
def cuts_the_tail(value: int) -> int:
    """Take the distribution beyond 4.5 for 0 or 1."""
    return RIGHT.gelu(value) if 2 * abs(value) < 9 * 2**18 else max(value, 0)


@mutant("FXP-R16", "tanh")
def floors_negative_tanhs(value: int) -> int:
    """Divide rounding down on both sides of 0."""
    size = RIGHT.tanh(abs(value))
    return size if value >= 0 else -size - (0 < size < 2**30)


@mutant("FXP-R16", "tanh")
def takes_tanh_of_half(value: int) -> int:
    """Forget that e has twice the argument."""
    return RIGHT.tanh(value // 2)


@mutant("FXP-R16", "tanh")
def rounds_tanh_to_the_nearest(value: int) -> int:
    """Round the real function."""
    return round(math.tanh(value / 2**18) * 2**30)


# Model


def stepped(made: decoder.Decoder, tokens: Iterable[int]) -> list[list[int]]:
    """Return the logits after each token."""
    return [made.step(token) for token in tokens]


def loaded_as(kind: type[model.Model], path: Path) -> model.Model:
    """Return the model of a file, as another class."""
    right = model.load(path)
    return kind(right.shape, right.digest, right.tensors, right.products)


def decoder_shape(path: Path) -> DecoderShape:
    """Return the shape of a file that holds a decoder."""
    return decoder.Decoder(model.load(path)).shape


def decoded(path: Path, tokens: Sequence[int], **changes: object) -> list[list[int]]:
    """Return the logits of a file whose shape is taken for another."""
    right = decoder.Decoder(model.load(path)).model
    changed = replace(cast(DecoderShape, right.shape), **changes)  # type: ignore[arg-type]
    return stepped(decoder.Decoder(replace(right, shape=changed)), tokens)


def weights_otherwise(
    weights: Sequence[float], precision: Precision, nearest: Callable[[Fraction], int]
) -> WeightRow:
    """Return the right scale with weights rounded by another rule."""
    right = RIGHT.quantise_weights(weights, precision)
    unit = right.mantissa / Fraction(2) ** right.exponent
    return replace(right, values=tuple(nearest(Fraction(w) / unit) for w in weights))


@mutant("MDL-R1", "quantise_weights")
def rounds_weights_halves_up(weights: Sequence[float], precision: Precision = Precision.W16A16) -> WeightRow:
    """Round halves up in place of to even."""
    return weights_otherwise(weights, precision, lambda x: math.floor(x + Fraction(1, 2)))


@mutant("MDL-R1", "quantise_weights")
def ignores_the_precision(weights: Sequence[float], precision: Precision = Precision.W16A16) -> WeightRow:
    """Always give 16 bits."""
    return RIGHT.quantise_weights(weights)


@mutant("MDL-R1", "quantise_weights")
def fills_all_of_eight_bits(weights: Sequence[float], precision: Precision = Precision.W16A16) -> WeightRow:
    """Let a short weight reach 128 in absolute value."""
    if precision is Precision.W16A16 or not any(weights):
        return RIGHT.quantise_weights(weights, precision)
    peak = max(abs(Fraction(weight)) for weight in weights) / 128
    exponent = max(e for e in range(-200, 200) if math.ceil(peak * Fraction(2) ** e) < 2**15)
    mantissa = math.ceil(peak * Fraction(2) ** exponent)
    unit = mantissa / Fraction(2) ** exponent
    return WeightRow(tuple(round(Fraction(weight) / unit) for weight in weights), mantissa, exponent)


@mutant("MDL-R1", "quantise_weights")
def shortens_long_weights(weights: Sequence[float], precision: Precision = Precision.W16A16) -> WeightRow:
    """Round to 16 bits first and to 8 bits after."""
    right = RIGHT.quantise_weights(weights)
    if precision is Precision.W16A16:
        return right
    unit = right.mantissa / Fraction(2) ** right.exponent
    return RIGHT.quantise_weights([float(v * unit) for v in right.values], precision)


@mutant("MDL-R12", "quantise_weights")
def lets_infinite_weights_pass(
    weights: Sequence[float], precision: Precision = Precision.W16A16
) -> WeightRow:
    """Read what is not finite as 0."""
    return RIGHT.quantise_weights([w if abs(w) < float("inf") else 0.0 for w in weights], precision)


@mutant("MDL-R2", "quantise_gains")
def gains_of_twenty_three_bits(gains: Sequence[float]) -> tuple[Sequence[int], int]:
    """Keep one bit less."""
    _, exponent = RIGHT.quantise_gains(gains)
    less = exponent - 1 if any(gains) else exponent
    return [round(Fraction(gain) * Fraction(2) ** less) for gain in gains], less


@mutant("MDL-R3", "logits")
def always_ties_its_head(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Use the embedding as head, whatever the shape says."""
    return decoded(path, tokens, tied=True)


@mutant("MDL-R3", "logits")
def knows_no_short_weights(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Refuse precision w8a16."""
    if any("b" in {row.typecode for row in rows} for rows in model.load(path).tensors.values()):
        raise Refused(Refusal.MODEL_MALFORMED)
    return RIGHT.logits(path, tokens)


@mutant("MDL-R3", "stream")
def needs_a_classifier(path: Path, tokens: Sequence[int], types: Sequence[int] | None = None) -> Rows:
    """Refuse an encoder without labels."""
    right = encoder.Encoder.of(model.load(path))
    if not right.shape.labels:
        raise Refused(Refusal.MODEL_UNSUPPORTED)
    return right.stream(tokens, types)


@mutant("MDL-R3", "logits")
def makes_up_what_is_missing(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Take a bias that a file does not hold for 0."""
    try:
        return RIGHT.logits(path, tokens)
    except Refused as refused:
        content = path.read_bytes() if path.is_file() else b""
        stated, held = (f'"layers.0.o.{part}"'.encode() in content for part in ("bias_exponent", "bias"))
        if refused.reason == Refusal.MODEL_MALFORMED and stated and not held:
            return []
        raise


@mutant("MDL-R4", "logits")
def reads_other_versions(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Answer for a file of another version."""
    try:
        return RIGHT.logits(path, tokens)
    except Refused as refused:
        if refused.reason == Refusal.VERSION_MISMATCH:
            return []
        raise


@mutant("MDL-R4", "logits")
def ignores_spare_tensors(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Answer for a file with more tensors than its shape says."""
    try:
        return RIGHT.logits(path, tokens)
    except Refused as refused:
        content = path.read_bytes() if path.is_file() else b""
        if b'"layers.2.o.weights"' in content and refused.reason == Refusal.MODEL_MALFORMED:
            return []
        raise


@mutant("MDL-R4", "logits")
def keeps_the_old_context(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Refuse a context beyond 2**14."""
    if decoder_shape(path).context > 2**14:
        raise Refused(Refusal.MODEL_UNSUPPORTED)
    return RIGHT.logits(path, tokens)


@mutant("MDL-R4", "logits")
def guesses_the_precision(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Look at the tensors in place of the metadata."""
    try:
        return RIGHT.logits(path, tokens)
    except Refused as refused:
        content = path.read_bytes() if path.is_file() else b""
        if b"w8a16" in content and b'"I16"' in content and refused.reason == Refusal.MODEL_MALFORMED:
            return []
        raise


@mutant("MDL-R11", "logits")
def trusts_its_numbers(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Look at names, types and shapes only."""
    with mock.patch.object(model, "check_range"):
        return RIGHT.logits(path, tokens)


@mutant("MDL-R11", "logits")
def takes_all_of_eight_bits(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Allow a short weight of -128."""
    right = model.range_of

    def range_of(name: str, precision: Precision) -> tuple[int, int]:
        least, most = right(name, precision)
        return (-128, 127) if (least, most) == (-127, 127) else (least, most)

    with mock.patch.object(model, "range_of", range_of):
        return RIGHT.logits(path, tokens)


@mutant("MDL-R11", "logits")
def trusts_biases(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Let biases have any size."""
    right = model.range_of

    def range_of(name: str, precision: Precision) -> tuple[int, int]:
        return (-(2**31), 2**31 - 1) if ".bias" in name else right(name, precision)

    with mock.patch.object(model, "range_of", range_of):
        return RIGHT.logits(path, tokens)


class SmallFraction(model.Model):
    """Gives every group the hidden fraction and limit."""

    def linear(self, number: int, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return words whose last six bits are lost."""
        words = super().linear(number, row, 18, min(limit, 2**30 - 1))
        return [word << (fraction - 18) for word in words]


@mutant("MDL-R5", "logits")
def keeps_eighteen_bits(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Forget that the residual stream has 24 fractional bits."""
    return stepped(decoder.Decoder(loaded_as(SmallFraction, path)), tokens)


@mutant("MDL-R5", "logits")
def ignores_biases(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Add no bias."""
    right = model.load(path)
    kept = {name: rows for name, rows in right.tensors.items() if not name.endswith(".bias")}
    return stepped(decoder.Decoder(replace(right, tensors=kept)), tokens)


@mutant("MDL-R5", "logits")
def ignores_the_biases_of_o(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Know biases of q, k and v and of the MLP alone."""
    right = model.load(path)
    kept = {name: rows for name, rows in right.tensors.items() if not name.endswith(".o.bias")}
    return stepped(decoder.Decoder(replace(right, tensors=kept)), tokens)


class EarlyBias(model.Model):
    """Adds biases before words are brought into their limit."""

    def linear(self, number: int, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return sums that are saturated once."""
        wide = super().linear(number, row, fraction, 2**200)
        return [fixed_point.clamp(word, limit) for word in wide]


@mutant("MDL-R5", "logits")
def saturates_after_the_bias(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Saturate the sum alone."""
    return stepped(decoder.Decoder(loaded_as(EarlyBias, path)), tokens)


class LateBias(model.Model):
    """Does not saturate the sum of a word and its bias."""

    def linear(self, number: int, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return words to which biases are added last."""
        with mock.patch.object(fixed_point, "added", lambda w, b, s, bound: w + RIGHT.rescale(b, s, bound)):
            return super().linear(number, row, fraction, limit)


@mutant("MDL-R5", "logits")
def saturates_before_the_bias(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Let a bias carry a word beyond its limit."""
    return stepped(decoder.Decoder(loaded_as(LateBias, path)), tokens)


class Rounding(model.Model):
    """Rounds the scaled weight of an embedding down."""

    def look_up(self, table: str, index: int) -> list[int]:
        """Return words shifted, not rounded."""
        right = super().look_up(table, index)
        mantissa = self.tensors[f"{table}.mantissa"][0][index]
        shift = self.tensors[f"{table}.exponent"][0][index] - 24
        if not 0 < shift <= 62:
            return right
        weights = self.tensors[f"{table}.weights"][index]
        return [fixed_point.clamp(q * mantissa >> shift, 2**46 - 1) for q in weights]


@mutant("MDL-R6", "logits")
def truncates_embeddings(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Round embeddings down."""
    return stepped(decoder.Decoder(loaded_as(Rounding, path)), tokens)


@mutant("MDL-R6", "logits")
def wraps_tokens(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Take tokens modulo the vocabulary."""
    size = model.load(path).shape.vocabulary
    return RIGHT.logits(path, [token % size for token in tokens])


class Interleaved(decoder.Decoder):
    """Lets query head n read key head n mod kv heads."""

    def _head(self, layer: int, kv_head: int, query: Quantised) -> Sequence[int]:
        n = self._reads
        self._reads = (n + 1) % self.shape.heads
        return super()._head(layer, n % self.shape.kv_heads, query)

    _reads = 0


@mutant("MDL-R7", "logits")
def interleaves_heads(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Share heads in another order."""
    return stepped(Interleaved(model.load(path)), tokens)


class Forgetful(decoder.Decoder):
    """Sees only the newest position."""

    def attention(self, layer: int, row: Quantised) -> Quantised:
        """Return an average over one position."""
        self.keys[layer].clear()
        self.values[layer].clear()
        return super().attention(layer, row)


@mutant("MDL-R7", "logits")
def forgets_the_past(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Keep no cache."""
    return stepped(Forgetful(model.load(path)), tokens)


@mutant("MDL-R7", "logits")
def ignores_the_window(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """See all positions."""
    return decoded(path, tokens, window=0)


@mutant("MDL-R7", "logits")
def sees_one_position_more(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Do not count a position itself among those of its window."""
    window = decoder_shape(path).window
    return decoded(path, tokens, window=window + 1 if window else 0)


@mutant("MDL-R7", "logits")
def sees_one_position_less(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """End the window one position early."""
    window = decoder_shape(path).window
    return decoded(path, tokens, window=window - 1 if window > 1 else window)


@mutant("MDL-R7", "logits")
def ignores_the_norms_of_heads(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Rotate heads as they are."""
    return decoded(path, tokens, head_norms=False)


class LateNorm(decoder.Decoder):
    """Normalises heads after their rotation."""

    def _placed(self, layer: int, norm: str, head: Row) -> Quantised:
        if not self.shape.head_norms:
            return super()._placed(layer, norm, head)
        turned = fixed_point.rotate(head, self.position, self.shape.rotation)
        gains = self.model.norm(f"layers.{layer}.{norm}")
        return fixed_point.quantise(fixed_point.head_norm(turned, *gains, self.shape.norm_epsilon), 18)


@mutant("MDL-R7", "logits")
def rotates_before_the_norms_of_heads(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Do both in the other order, which the gains tell apart."""
    return stepped(LateNorm(model.load(path)), tokens)


class OneNorm(decoder.Decoder):
    """Gives k heads the norm of q heads."""

    def _placed(self, layer: int, norm: str, head: Row) -> Quantised:
        return super()._placed(layer, "q_norm", head)


@mutant("MDL-R7", "logits")
def shares_the_norm_of_q_heads(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Use one norm for both."""
    return stepped(OneNorm(model.load(path)), tokens)


class Swapped(decoder.Decoder):
    """Takes the up rows for the gate rows."""

    def mlp(self, layer: int, row: Quantised) -> Quantised:
        """Return SiLU(up) * gate."""
        both = self.model.hidden(4 * layer + 2, row)
        up, gate = both[: self.shape.inner], both[self.shape.inner :]
        return fixed_point.quantise([fixed_point.silu(g) * u for g, u in zip(gate, up, strict=True)], 36)


@mutant("MDL-R8", "logits")
def swaps_gate_and_up(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Gate the wrong half."""
    return stepped(Swapped(model.load(path)), tokens)


class Unattended(model.Model):
    """Leaves out what attention adds to the stream."""

    def residual(self, number: int, row: Quantised, stream: Row) -> list[int]:
        """Return the stream, and after the MLP what it adds."""
        return list(stream) if number % 4 == 1 else super().residual(number, row, stream)


@mutant("MDL-R9", "logits")
def drops_attention(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Never add the attention's output."""
    return stepped(decoder.Decoder(loaded_as(Unattended, path)), tokens)


@mutant("MDL-R13", "logits")
def slides_its_context(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Answer beyond the context."""
    return RIGHT.logits(path, tokens[: model.load(path).shape.context])


@mutant("MDL-R10", "greedy")
def greedy_takes_the_last(row: Row) -> int:
    """Break ties upwards."""
    return max(range(len(row)), key=lambda index: (row[index], index))


Types = Sequence[int] | None


class Embedding(encoder.Encoder):
    """Adds the three rows in another way."""

    def embed(self, position: int, token: int, kind: int) -> Sequence[int]:
        """Return what is normalised after each sum."""
        first, second, third = (
            self.model.look_up(table, index)
            for table, index in (("embedding", token), ("positions", position), ("types", kind))
        )
        both = [fixed_point.clamp(a + b, 2**46 - 1) for a, b in zip(first, second, strict=True)]
        summed = [fixed_point.clamp(a + b, 2**46 - 1) for a, b in zip(both, third, strict=True)]
        return self.model.layer_norm("embedding_norm", summed)


class Unplaced(encoder.Encoder):
    """Puts every token at position 0."""

    def embed(self, position: int, token: int, kind: int) -> Sequence[int]:
        """Return the stream of position 0."""
        return super().embed(0, token, kind)


class Late(encoder.Encoder):
    """Counts positions from 2, as RoBERTa does."""

    def embed(self, position: int, token: int, kind: int) -> Sequence[int]:
        """Return the stream of a later position."""
        return super().embed((position + 2) % self.shape.context, token, kind)


class Bare(encoder.Encoder):
    """Has no norm behind its tables."""

    def embed(self, position: int, token: int, kind: int) -> Sequence[int]:
        """Return the bare sum."""
        places = {"embedding": token, "positions": position, "types": kind}
        rows = [self.model.look_up(table, index) for table, index in places.items()]
        return [fixed_point.clamp(sum(column), 2**46 - 1) for column in zip(*rows, strict=True)]


def encoded(kind: type[encoder.Encoder], path: Path, tokens: Sequence[int], types: Types) -> Rows:
    """Return the last stream that another encoder makes."""
    right = encoder.Encoder.of(model.load(path))
    return kind(right.model, right.shape).stream(tokens, types)


@mutant("MDL-R14", "stream")
def saturates_each_sum(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Bring the sum of two rows into its limit before the third is added."""
    return encoded(Embedding, path, tokens, types)


@mutant("MDL-R14", "stream")
def ignores_positions(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Add one row to all."""
    return encoded(Unplaced, path, tokens, types)


@mutant("MDL-R14", "stream")
def counts_positions_from_2(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Read other rows of the table."""
    return encoded(Late, path, tokens, types)


@mutant("MDL-R14", "stream")
def ignores_types(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Take every type for 0."""
    return RIGHT.stream(path, tokens, None)


@mutant("MDL-R14", "labels")
def labels_ignore_types(path: Path, tokens: Sequence[int], types: Types = None) -> Sequence[int]:
    """Take every type for 0 where labels are asked for."""
    return RIGHT.labels(path, tokens, None)


@mutant("MDL-R14", "stream")
def takes_missing_types_for_1(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Give a single sequence the last type."""
    last = encoder.Encoder.of(model.load(path)).shape.types - 1
    return RIGHT.stream(path, tokens, types or [last] * len(tokens))


@mutant("MDL-R14", "stream")
def forgets_the_norm_of_its_tables(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Start from the bare sum."""
    return encoded(Bare, path, tokens, types)


class Causal(encoder.Encoder):
    """Sees no later position."""

    def attention(self, layer: int, rows: Sequence[Quantised]) -> list[Quantised]:
        """Return averages over the positions up to each."""
        return [super(Causal, self).attention(layer, rows[: n + 1])[n] for n in range(len(rows))]


@mutant("MDL-R15", "stream")
def looks_back_only(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Attend as a decoder does."""
    return encoded(Causal, path, tokens, types)


class Selfless(encoder.Encoder):
    """Lets no position see itself."""

    def attention(self, layer: int, rows: Sequence[Quantised]) -> list[Quantised]:
        """Return averages over the other positions, or over the only one."""
        if len(rows) == 1:
            return super().attention(layer, rows)
        return [
            super(Selfless, self).attention(layer, [row, *rows[:n], *rows[n + 1 :]][:-1])[0]
            for n, row in enumerate(rows)
        ]


@mutant("MDL-R15", "stream")
def misses_the_last_position(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Leave out one of the positions."""
    return encoded(Selfless, path, tokens, types)


class Turning(encoder.Encoder):
    """Rotates heads, though positions are embedded."""

    def attention(self, layer: int, rows: Sequence[Quantised]) -> list[Quantised]:
        """Return averages under rotated heads."""
        width, positions = self.shape.width, iter(range(2**20))
        right = fixed_point.quantise

        def quantise(row: Row, fraction: int) -> Quantised:
            turned = len(row) < width and len(row) % 2 == 0
            position = next(positions) % len(rows)
            return right(
                fixed_point.rotate(row, position, Rotation(Fraction(9))) if turned else row, fraction
            )

        with mock.patch.object(fixed_point, "quantise", quantise):
            return super().attention(layer, rows)


@mutant("MDL-R15", "stream")
def rotates_the_heads_of_an_encoder(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Rotate as a decoder does."""
    return encoded(Turning, path, tokens, types)


class Single(encoder.Encoder):
    """Takes the width for one head."""

    def attention(self, layer: int, rows: Sequence[Quantised]) -> list[Quantised]:
        """Return averages under the scores of whole rows."""
        return encoder.Encoder(self.model, replace(self.shape, heads=1)).attention(layer, rows)


@mutant("MDL-R15", "stream")
def joins_all_heads(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Have one head."""
    return encoded(Single, path, tokens, types)


class Before(encoder.Encoder):
    """Normalises what goes into attention and MLP, not what comes out."""

    def layer(self, number: int, stream: Rows) -> list[Sequence[int]]:
        """Return the stream after one more layer."""
        name = f"layers.{number}"
        normed = [self.model.layer_norm(f"{name}.attention_norm", row) for row in stream]
        attended = self.attention(number, [fixed_point.quantise(row, 24) for row in normed])
        stream = [
            self.model.residual(4 * number + 1, row, x) for row, x in zip(attended, stream, strict=True)
        ]
        normed = [self.model.layer_norm(f"{name}.mlp_norm", row) for row in stream]
        raised = [self.model.hidden(4 * number + 2, fixed_point.quantise(row, 24)) for row in normed]
        gated = [fixed_point.quantise([fixed_point.gelu(w) for w in row], 18) for row in raised]
        return [self.model.residual(4 * number + 3, row, x) for row, x in zip(gated, stream, strict=True)]


@mutant("MDL-R16", "stream")
def normalises_before_each_part(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Put the norms where a decoder has them."""
    return encoded(Before, path, tokens, types)


@mutant("MDL-R16", "stream")
def gates_with_silu(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Use the other activation."""
    with mock.patch.object(fixed_point, "gelu", fixed_point.silu):
        return RIGHT.stream(path, tokens, types)


@mutant("MDL-R16", "stream")
def encodes_without_attention(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Never add the attention's output."""
    return encoder.Encoder.of(loaded_as(Unattended, path)).stream(tokens, types)


class Unbounded(model.Model):
    """Does not saturate the stream."""

    def residual(self, number: int, row: Quantised, stream: Row) -> list[int]:
        """Return bare sums."""
        return [a + b for a, b in zip(stream, self.linear(number, row, 24, 2**46 - 1), strict=True)]


@mutant("MDL-R16", "stream")
def never_saturates_the_stream(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Let sums grow."""
    return encoder.Encoder.of(loaded_as(Unbounded, path)).stream(tokens, types)


@mutant("MDL-R17", "labels")
def reads_labels_from_the_mean(path: Path, tokens: Sequence[int], types: Types = None) -> Sequence[int]:
    """Pool all positions."""
    right = encoder.Encoder.of(model.load(path))
    return right.labels([RIGHT.sentence(right.stream(tokens, types))])


@mutant("MDL-R17", "labels")
def reads_labels_from_the_last_position(
    path: Path, tokens: Sequence[int], types: Types = None
) -> Sequence[int]:
    """Read the stream of the last token."""
    right = encoder.Encoder.of(model.load(path))
    return right.labels(right.stream(tokens, types)[-1:])


@mutant("MDL-R17", "labels")
def pools_without_tanh(path: Path, tokens: Sequence[int], types: Types = None) -> Sequence[int]:
    """Bring the pooled words into 1 by cutting them."""
    with mock.patch.object(fixed_point, "tanh", lambda word: fixed_point.clamp(word << 12, 2**30)):
        return RIGHT.labels(path, tokens, types)


@mutant("MDL-R17", "labels")
def classifies_without_the_pooler(path: Path, tokens: Sequence[int], types: Types = None) -> Sequence[int]:
    """Take tanh of the stream itself."""
    right = encoder.Encoder.of(model.load(path))
    first = [fixed_point.clamp(word >> 6, 2**30 - 1) for word in right.stream(tokens, types)[0]]
    row = fixed_point.quantise([fixed_point.tanh(word) for word in first], 30)
    return right.model.hidden(4 * right.shape.layers + 1, row)


@mutant("MDL-R18", "sentence")
def truncates_means(stream: Rows) -> Sequence[int]:
    """Divide towards 0."""
    return [
        math.trunc(Fraction(sum(column) + len(stream) // 2, len(stream)))
        for column in zip(*stream, strict=True)
    ]


@mutant("MDL-R18", "sentence")
def rounds_means_down(stream: Rows) -> Sequence[int]:
    """Forget the half."""
    return [sum(column) // len(stream) for column in zip(*stream, strict=True)]


@mutant("MDL-R18", "sentence")
def rounds_halves_of_means_to_even(stream: Rows) -> Sequence[int]:
    """Round as Python does."""
    return [round(Fraction(sum(column), len(stream))) for column in zip(*stream, strict=True)]


@mutant("MDL-R18", "sentence")
def takes_means_in_floating_point(stream: Rows) -> Sequence[int]:
    """Round what float64 makes of the mean."""
    return [math.floor(sum(column) / len(stream) + 0.5) for column in zip(*stream, strict=True)]


@mutant("MDL-R18", "sentence")
def reads_the_first_position(stream: Rows) -> Sequence[int]:
    """Pool nothing."""
    return stream[0]


@mutant("MDL-R19", "stream")
def encodes_nothing(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Return an empty stream for an empty sequence."""
    return RIGHT.stream(path, tokens, types) if tokens else []


@mutant("MDL-R19", "stream")
def cuts_long_sequences(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Leave out what the context does not hold."""
    kept = slice(0, encoder.Encoder.of(model.load(path)).shape.context)
    return RIGHT.stream(path, tokens[kept], types and types[kept])


@mutant("MDL-R19", "labels")
def wraps_types(path: Path, tokens: Sequence[int], types: Types = None) -> Sequence[int]:
    """Take types modulo their number."""
    count = encoder.Encoder.of(model.load(path)).shape.types
    return RIGHT.labels(path, tokens, types and [kind % count for kind in types])


@mutant("MDL-R19", "stream")
def refuses_a_full_context(path: Path, tokens: Sequence[int], types: Types = None) -> Rows:
    """Leave room for one token more."""
    if len(tokens) == encoder.Encoder.of(model.load(path)).shape.context:
        raise Refused(Refusal.CONTEXT_EXCEEDED)
    return RIGHT.stream(path, tokens, types)


def plain_weights(row: Row, temperature: Fraction) -> Sequence[int]:
    """Return the weights before any is left out."""
    return RIGHT.sampling_weights(row, Sampling(temperature))


def left_of(weights: Sequence[int], order: Sequence[int], count: int) -> list[int]:
    """Return the weights of the first in an order, and 0 for all others."""
    kept = set(order[:count])
    return [weight if index in kept else 0 for index, weight in enumerate(weights)]


def needed(weights: Sequence[int], order: Sequence[int], enough: Fraction) -> int:
    """Return how many weights in an order make up as much."""
    sums = accumulate(weights[index] for index in order)
    return 1 + next((n for n, upto in enumerate(sums) if upto >= enough), len(order))


def by_logits(row: Row) -> list[int]:
    """Return the tokens by falling logits and rising index."""
    return sorted(range(len(row)), key=lambda index: (-row[index], index))


@mutant("MDL-R20", "sampling_weights")
def takes_the_order_of_weights(row: Row, sampling: Sampling) -> Sequence[int]:
    """Sort by weights, which may be equal where logits are not."""
    weights = plain_weights(row, sampling.temperature)
    order = sorted(range(len(row)), key=lambda index: (-weights[index], index))[: sampling.count]
    enough = sampling.share * sum(weights[index] for index in order)
    return left_of(weights, order, needed(weights, order, enough))


@mutant("MDL-R20", "sampling_weights")
def keeps_all_that_tie(row: Row, sampling: Sampling) -> Sequence[int]:
    """Compare logits with the last that is kept."""
    made = RIGHT.sampling_weights(row, sampling)
    least = min(word for word, weight in zip(row, made, strict=True) if weight)
    weights = plain_weights(row, sampling.temperature)
    return [weight if word >= least else 0 for word, weight in zip(row, weights, strict=True)]


@mutant("MDL-R20", "sampling_weights")
def takes_a_share_of_all(row: Row, sampling: Sampling) -> Sequence[int]:
    """Compare with the sum before the count left any out."""
    weights, order = plain_weights(row, sampling.temperature), by_logits(row)
    enough = needed(weights, order, sampling.share * sum(weights))
    return left_of(weights, order, min(enough, sampling.count or len(row)))


@mutant("MDL-R20", "sampling_weights")
def takes_the_share_first(row: Row, sampling: Sampling) -> Sequence[int]:
    """Apply the share and then the count."""
    shared = RIGHT.sampling_weights(row, replace(sampling, count=None))
    return left_of(shared, by_logits(row), sampling.count or len(row))


@mutant("MDL-R20", "sampling_weights")
def goes_beyond_a_share_that_is_reached(row: Row, sampling: Sampling) -> Sequence[int]:
    """Ask for more than the share."""
    weights, order = plain_weights(row, sampling.temperature), by_logits(row)[: sampling.count]
    enough = sampling.share * sum(weights[index] for index in order)
    sums = accumulate(weights[index] for index in order)
    return left_of(weights, order, 1 + next((n for n, upto in enumerate(sums) if upto > enough), len(order)))


@mutant("MDL-R20", "sampling_weights")
def stays_below_the_share(row: Row, sampling: Sampling) -> Sequence[int]:
    """Keep those whose sum does not pass the share."""
    weights, order = plain_weights(row, sampling.temperature), by_logits(row)[: sampling.count]
    enough = sampling.share * sum(weights[index] for index in order)
    reached = sum(upto <= enough for upto in accumulate(weights[index] for index in order))
    return left_of(weights, order, reached)


@mutant("MDL-R20", "sampling_weights")
def computes_shares_in_floating_point(row: Row, sampling: Sampling) -> Sequence[int]:
    """Compare with a rounded share."""
    weights, order = plain_weights(row, sampling.temperature), by_logits(row)[: sampling.count]
    total = sum(weights[index] for index in order)
    return left_of(weights, order, needed(weights, order, Fraction(round(float(sampling.share) * total))))


@mutant("MDL-R20", "sampling_weights")
def multiplies_by_the_temperature(row: Row, sampling: Sampling) -> Sequence[int]:
    """Sharpen where the temperature is high."""
    return RIGHT.sampling_weights(row, replace(sampling, temperature=1 / sampling.temperature))


@mutant("MDL-R20", "sampling_weights")
def rounds_the_factor_down(row: Row, sampling: Sampling) -> Sequence[int]:
    """Truncate log2(e) over the temperature."""
    scaled = tables.ONE**2 // tables.ln(Fraction(2)) * sampling.temperature.denominator
    factor = scaled // sampling.temperature.numerator >> (tables.BITS - 24)
    with mock.patch.object(tables, "temperature_factor", lambda temperature: factor):
        return RIGHT.sampling_weights(row, sampling)


@mutant("MDL-R21", "sample_token")
def names_the_stream_by_the_token(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Let the stream depend on the token."""
    return RIGHT.sample_token(weights, source, token, sample)


@mutant("MDL-R21", "sample_token")
def reads_the_first_word(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Read one word for all tokens."""
    return RIGHT.sample_token(weights, source, sample, 0)


@mutant("MDL-R21", "sample_token")
def draws_from_another_domain(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Read the words of the sanitizer's draws."""
    other = Rewritten(lambda domain, stream, index: source.word(Domain.DRAW, stream, index))
    return RIGHT.sample_token(weights, other, sample, token)


def chosen_by(weights: Sequence[int], reached: Fraction) -> int:
    """Return the first index whose weights sum to more, or the last."""
    sums = accumulate(weights)
    return next((index for index, upto in enumerate(sums) if upto > reached), len(weights) - 1)


@mutant("MDL-R21", "sample_token")
def reduces_a_word(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Take a word modulo the sum of weights."""
    word = source.word(Domain.SAMPLING, sample, token)
    return chosen_by(weights, Fraction(word % sum(weights)))


@mutant("MDL-R21", "sample_token")
def rounds_what_a_word_reaches(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Round up in place of down."""
    word = source.word(Domain.SAMPLING, sample, token)
    return chosen_by(weights, Fraction(-(-word * sum(weights) // 2**64)))


@mutant("MDL-R21", "sample_token")
def stops_where_a_token_ends(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Compare with at least in place of more."""
    reached = source.word(Domain.SAMPLING, sample, token) * sum(weights) >> 64
    return next(index for index, upto in enumerate(accumulate(weights)) if upto >= reached)


@mutant("MDL-R21", "sample_token")
def draws_in_floating_point(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Take a word for a float between 0 and 1."""
    word = source.word(Domain.SAMPLING, sample, token)
    return chosen_by(weights, Fraction(word / 2**64 * sum(weights)))


@mutant("MDL-R21", "sample_token")
def drops_low_bits_of_a_word(weights: Sequence[int], source: Tape, sample: int, token: int) -> int:
    """Use the upper 32 bits alone."""
    word = source.word(Domain.SAMPLING, sample, token) >> 32
    return chosen_by(weights, Fraction(word * sum(weights) >> 32))


@mutant("MDL-R22", "sampling")
def clips_samplings(temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
    """Bring every setting into its range."""
    kept = min(max(temperature, Fraction(1, 64)), Fraction(64))
    most = None if count is None else max(count, 1)
    return Sampling(kept, most, min(share, Fraction(1)) if share > 0 else Fraction(1, 2**64))


@mutant("MDL-R22", "sampling")
def takes_no_count_for_all(temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
    """Read a count of 0 as none, as some programs do."""
    return Sampling(temperature, count or None, share)


@mutant("MDL-R22", "sampling")
def refuses_the_ends(temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
    """Leave out the ends of the ranges."""
    if temperature in (Fraction(1, 64), Fraction(64)):
        raise Refused(Refusal.SAMPLING_OUT_OF_RANGE)
    return Sampling(temperature, count, share)


# Masked outsourcing


@mutant("RMO-R1", "choose_modulus")
def bounds_single_products(weights: Rows) -> int:
    """Forget that products add up."""
    RIGHT.choose_modulus(weights)
    largest = max(abs(weight) for row in weights for weight in row)
    return next(p for p in constants.PRIMES if 2**15 * largest <= (p - 1) // 2)


@mutant("RMO-R2", "choose_modulus")
def hopes_for_the_best(weights: Rows) -> int:
    """Take the largest field where none is large enough."""
    try:
        return RIGHT.choose_modulus(weights)
    except Refused as refused:
        if refused.reason == Refusal.WOULD_WRAP:
            return constants.PRIMES[-1]
        raise


@mutant("RMO-R3", "mask")
def leaves_masked_rows_unreduced(activations: Rows, pads: Rows, modulus: int) -> Rows:
    """Let sums exceed p, or fall below 0."""
    RIGHT.mask(activations, pads, modulus)
    return [[x + r for x, r in zip(*both, strict=True)] for both in zip(activations, pads, strict=True)]


@mutant("RMO-R4", "multiply")
def multiplies_in_float(masked: Rows, weights: Rows, modulus: int) -> Rows:
    """Lose the low bits of a double."""
    RIGHT.multiply(masked, weights, modulus)
    return [
        [int(sum(float(x) * w for x, w in zip(row, c, strict=True))) % modulus for c in weights]
        for row in masked
    ]


@mutant("RMO-R4", "multiply")
def wraps_at_words(masked: Rows, weights: Rows, modulus: int) -> Rows:
    """Let sums over the largest field run over 64 bits."""
    made = RIGHT.multiply(masked, weights, modulus)
    if modulus != constants.LWE_MODULUS:
        return made
    return [
        [sum(x * w for x, w in zip(row, c, strict=True)) % 2**64 % modulus for c in weights] for row in masked
    ]


@mutant("RMO-R5", "unmask")
def never_returns_negatives(product: Rows, correction: Rows, modulus: int) -> Rows:
    """Leave results in [0, p)."""
    return [[word % modulus for word in row] for row in RIGHT.unmask(product, correction, modulus)]


@mutant("RMO-R6", "pad")
def swaps_group_and_step(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Put the step into the upper half of the stream."""
    return RIGHT.pad(source, step, group, rows, columns, modulus)


@mutant("RMO-R6", "pad")
def lets_steps_run_over(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Let step 2^32 of one group be step 0 of the next."""
    if step >= 2**32:
        group, step = group + step // 2**32, step % 2**32
    return RIGHT.pad(source, group, step, rows, columns, modulus)


@mutant("RMO-R6", "lwe_unmask")
def unmasks_any_step(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Let a step that has no stream be one that has."""
    return RIGHT.lwe_unmask(source, product, hint, group % 2**32, step % 2**32, inner)


@mutant("RMO-R7", "pad")
def fills_pads_by_columns(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Number elements down the columns."""
    return list(zip(*RIGHT.pad(source, group, step, columns, rows, modulus), strict=True))


@mutant("RMO-R7", "pad")
def repeats_one_row(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Use one row of pads for every row."""
    return lists(RIGHT.pad(source, group, step, 1, columns, modulus)) * rows


class Unlifted(masked.Masked):
    """Returns products as field elements."""

    def __call__(self, group: model.Group, row: Row) -> Sequence[int]:
        """Return what is congruent to the product."""
        modulus = RIGHT.choose_modulus(group.weights)
        return [word % modulus for word in super().__call__(group, row)]


@mutant("RMO-R8", "masked_logits")
def forgets_to_lift(path: Path, tokens: Sequence[int], seed: bytes, rank: Fraction | None) -> Rows:
    """Compute on with residues."""
    return stepped(decoder.Decoder(replace(model.load(path), products=Unlifted(seed, rank))), tokens)


@mutant("RMO-R8", "masked_stream")
def masks_a_stream_with_residues(path: Path, tokens: Sequence[int], seed: bytes) -> Rows:
    """Forget to lift an encoder's products."""
    return encoder.Encoder.of(replace(model.load(path), products=Unlifted(seed, None))).stream(tokens)


@mutant("RMO-R8", "masked_stream")
def masks_the_first_row(path: Path, tokens: Sequence[int], seed: bytes) -> Rows:
    """Encode the first token alone, and repeat it."""
    first = RIGHT.masked_stream(path, tokens[:1], seed)
    return [*first] * len(tokens)


@mutant("RMO-R9", "rank_pad")
def draws_the_secret_from_the_pads(
    source: Tape, basis: Rows, group: int, step: int, rows: int, modulus: int
) -> Rows:
    """Take the secret from the domain of uniform pads."""
    other = Rewritten(lambda domain, stream, index: source.word(Domain.PAD, stream, index))
    return RIGHT.rank_pad(other, basis, group, step, rows, modulus)


@mutant("RMO-R10", "rank_basis")
def shares_one_basis(source: Tape, group: int, rank: int, columns: int, modulus: int) -> Rows:
    """Give every group the basis of group 0."""
    return RIGHT.rank_basis(source, 0, rank, columns, modulus)


@mutant("RMO-R10", "rank_basis")
def accepts_full_rank(source: Tape, group: int, rank: int, columns: int, modulus: int) -> Rows:
    """Allow as many rows as columns."""
    return lists(RIGHT.rank_basis(source, group, min(rank, columns - 1), columns, modulus))


@mutant("RMO-R11", "burn")
def allows_a_step_again(addresses: Sequence[tuple[int, int]]) -> None:
    """Let a step be used twice in a row."""
    fresh = [now for before, now in zip([None, *addresses], addresses, strict=False) if now != before]
    RIGHT.burn(fresh)


@mutant("RMO-R11", "burn")
def refuses_only_equal_steps(addresses: Sequence[tuple[int, int]]) -> None:
    """Let steps go back."""
    RIGHT.burn(sorted(addresses))


@mutant("RMO-R12", "multiply")
def multiplies_what_fits(masked: Rows, weights: Rows, modulus: int) -> Rows:
    """Cut rows to the shorter length."""
    if not masked or not weights:
        return []
    width = min(map(len, [*masked, *weights]))
    return RIGHT.multiply([row[:width] for row in masked], [row[:width] for row in weights], modulus)


@mutant("RMO-R12", "mask")
def clips_activations(activations: Rows, pads: Rows, modulus: int) -> Rows:
    """Bring activations into range in place of refusing them."""
    return RIGHT.mask([[fixed_point.clamp(x, 32767) for x in row] for row in activations], pads, modulus)


def matrix_columns(rows: Rows) -> list[list[int]]:
    """Return the transpose."""
    return [list(column) for column in zip(*rows, strict=True)]


def with_words(source: Tape, domain: Domain, change: Callable[[int], int]) -> Tape:
    """Return a tape whose words of one domain are changed."""
    return Rewritten(lambda d, s, i: (change if d == domain else int)(source.word(d, s, i)))


def with_indices(source: Tape, domain: Domain, change: Callable[[int], int]) -> Tape:
    """Return a tape that looks up the first draws of one domain at another index."""
    return Rewritten(lambda d, s, i: source.word(d, s, change(i) if d == domain and s < 2**64 else i))


@mutant("RMO-R13", "lwe_dimension")
def hides_rows_with_longer_secrets(inner: int) -> int:
    """Let there be more secrets than elements."""
    sizes = zip((2**11, 2**12, 2**13, 2**14), constants.LWE_DIMENSIONS, strict=True)
    return next(m for end, m in sizes if inner <= end) if 2**11 <= inner <= 2**14 else RIGHT.lwe_dimension(0)


@mutant("RMO-R13", "lwe_dimension")
def hides_rows_with_as_many_secrets(inner: int) -> int:
    """Let there be as many secrets as elements."""
    return inner if inner in constants.LWE_DIMENSIONS[1:] else RIGHT.lwe_dimension(inner)


@mutant("RMO-R13", "lwe_dimension")
def rounds_sizes_down(inner: int) -> int:
    """Count an inner dimension between two powers of two as the lower one."""
    RIGHT.lwe_dimension(inner)
    return constants.LWE_DIMENSIONS[inner.bit_length() - 12]


@mutant("RMO-R13", "lwe_dimension")
def hides_short_rows(inner: int) -> int:
    """Hide rows of fewer than 2048 elements by the fewest secrets."""
    fewest = constants.LWE_DIMENSIONS[0]
    return fewest if fewest < inner < 2**11 else RIGHT.lwe_dimension(inner)


@mutant("RMO-R14", "lwe_levels")
def rounds_the_scale_up(inner: int) -> tuple[int, int]:
    """Let the largest product leave the field."""
    bits, scale = RIGHT.lwe_levels(inner)
    return bits, scale + 1


@mutant("RMO-R14", "lwe_levels")
def takes_bits_of_the_next_size(inner: int) -> tuple[int, int]:
    """Let powers of two count as the next size."""
    return constants.LWE_NOISE_BUDGET - 2 * inner.bit_length(), RIGHT.lwe_levels(inner)[1]


@mutant("RMO-R15", "halves")
def splits_into_unsigned_bytes(weights: Rows) -> Rows:
    """Keep the low byte from 0 to 255."""
    RIGHT.halves(weights)
    return [[w >> 8 for w in row] for row in weights] + [[w & 255 for w in row] for row in weights]


@mutant("RMO-R15", "halves")
def splits_magnitudes(weights: Rows) -> Rows:
    """Split a weight without its sign, and let 128 be a low byte of negative ones only."""
    sizes = RIGHT.halves([[abs(weight) for weight in row] for row in weights])
    signs = [[1 if weight >= 0 else -1 for weight in row] for row in weights] * 2
    return [[x * sign for x, sign in zip(*both, strict=True)] for both in zip(sizes, signs, strict=True)]


@mutant("RMO-R15", "halves")
def interleaves_halves(weights: Rows) -> Rows:
    """Put the two rows of an output beside each other."""
    return [half for row in weights for half in RIGHT.halves([row])] if weights else RIGHT.halves(weights)


@mutant("RMO-R16", "lwe_basis")
def shares_one_lwe_basis(source: Tape, group: int, dimension: int, inner: int) -> Rows:
    """Give every group the matrix of group 0."""
    return RIGHT.lwe_basis(source, 0, dimension, inner)


@mutant("RMO-R16", "lwe_basis")
def fills_the_basis_by_columns(source: Tape, group: int, dimension: int, inner: int) -> Rows:
    """Number elements down the columns."""
    return matrix_columns(RIGHT.lwe_basis(source, group, inner, dimension))


@mutant("RMO-R16", "lwe_basis")
def takes_words_as_elements(source: Tape, group: int, dimension: int, inner: int) -> Rows:
    """Reduce the few words that are no element in place of drawing again."""
    return RIGHT.lwe_basis(
        with_words(source, Domain.LWE_BASIS, lambda word: word % constants.LWE_MODULUS),
        group,
        dimension,
        inner,
    )


@mutant("RMO-R17", "lwe_mask")
def shares_one_secret(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Hide every row by the secrets of the first."""
    single = with_indices(source, Domain.LWE_SECRET, lambda index: index % max(1, len(basis)))
    return RIGHT.lwe_mask(single, basis, group, step, activations)


@mutant("RMO-R17", "lwe_mask")
def keeps_one_secret_for_all_steps(
    source: Tape, basis: Rows, group: int, step: int, activations: Rows
) -> Rows:
    """Draw the secrets of step 0 in every step."""
    RIGHT.lwe_mask(source, basis, group, step, activations)
    first = Rewritten(lambda d, s, i: source.word(d, s - step if d == Domain.LWE_SECRET else s, i))
    return RIGHT.lwe_mask(first, basis, group, step, activations)


@mutant("RMO-R17", "lwe_unmask")
def draws_secrets_by_columns(
    source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int
) -> Rows:
    """Number secrets down the columns when unmasking."""
    rows, dimension = max(1, len(product)), max(1, len(hint))
    turned = with_indices(source, Domain.LWE_SECRET, lambda i: i % dimension * rows + i // dimension)
    return RIGHT.lwe_unmask(turned, product, hint, group, step, inner)


@mutant("RMO-R18", "lwe_mask")
def takes_high_bits_as_noise(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Shift words down in place of masking them."""
    bits = RIGHT.lwe_levels(max(1, len(activations[0])))[0] + 1 if activations else 1
    high = with_words(source, Domain.LWE_NOISE, lambda word: word >> (64 - bits))
    return RIGHT.lwe_mask(high, basis, group, step, activations)


@mutant("RMO-R18", "lwe_mask")
def halves_its_noise(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Take one bit less than there is room for."""
    half = RIGHT.lwe_levels(max(1, len(activations[0])))[0] if activations else 1
    fewer = with_words(source, Domain.LWE_NOISE, lambda word: word % 2**half + 2 ** (half - 1))
    return RIGHT.lwe_mask(fewer, basis, group, step, activations)


@mutant("RMO-R18", "lwe_mask")
def shares_one_row_of_noise(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Add the noise of the first row to every row."""
    inner = max(1, len(basis[0])) if basis else 1
    single = with_indices(source, Domain.LWE_NOISE, lambda index: index % inner)
    return RIGHT.lwe_mask(single, basis, group, step, activations)


@mutant("RMO-R19", "lwe_mask")
def sends_rows_unscaled(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Drown activations in the noise."""
    covers = RIGHT.lwe_mask(source, basis, group, step, [[0] * len(row) for row in activations])
    modulus = constants.LWE_MODULUS
    RIGHT.lwe_mask(source, basis, group, step, activations)
    return [
        [(x + c) % modulus for x, c in zip(*both, strict=True)]
        for both in zip(activations, covers, strict=True)
    ]


@mutant("RMO-R19", "lwe_mask")
def sends_words_mod_two_to_the_64(
    source: Tape, basis: Rows, group: int, step: int, activations: Rows
) -> Rows:
    """Let the sum of a scaled activation and its cover wrap as words do."""
    right = RIGHT.lwe_mask(source, basis, group, step, activations)
    covers = RIGHT.lwe_mask(source, basis, group, step, [[0] * len(row) for row in activations])
    scale = RIGHT.lwe_levels(len(right[0]))[1]
    return [
        [(scale * x + c) % 2**64 % constants.LWE_MODULUS for x, c in zip(*both, strict=True)]
        for both in zip(activations, covers, strict=True)
    ]


def unmasked_otherwise(
    rounded: Callable[[int, int], int],
    source: Tape,
    product: Rows,
    hint: Rows,
    group: int,
    step: int,
    inner: int,
) -> Rows:
    """Return what unmasking makes where residues become integers by another rule than rounding."""
    RIGHT.lwe_unmask(source, product, hint, group, step, inner)
    secret = lwe.lwe_secret(source, group, step, len(product), len(hint))
    covers = RIGHT.multiply(secret, matrix_columns(hint), constants.LWE_MODULUS)
    made, outputs = [], len(hint[0]) // 2
    for row, cover in zip(product, covers, strict=True):
        lifted = [(y - s) % constants.LWE_MODULUS for y, s in zip(row, cover, strict=True)]
        whole = [rounded(residue, RIGHT.lwe_levels(inner)[1]) for residue in lifted]
        made.append([256 * h + low for h, low in zip(whole[:outputs], whole[outputs:], strict=True)])
    return made


@mutant("RMO-R20", "lwe_unmask")
def truncates_noise(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Round down."""
    modulus = constants.LWE_MODULUS
    return unmasked_otherwise(
        lambda u, scale: field.centred(u, modulus) // scale, source, product, hint, group, step, inner
    )


@mutant("RMO-R20", "lwe_unmask")
def rounds_halves_towards_zero(
    source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int
) -> Rows:
    """Round what lies exactly between two multiples of an even scale the other way."""
    modulus = constants.LWE_MODULUS
    return unmasked_otherwise(
        lambda u, scale: -((scale - 2 * field.centred(u, modulus)) // (2 * scale)),
        source,
        product,
        hint,
        group,
        step,
        inner,
    )


@mutant("RMO-R20", "lwe_unmask")
def forgets_to_centre(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Round residues as they are."""
    return unmasked_otherwise(
        lambda u, scale: (2 * u + scale) // (2 * scale), source, product, hint, group, step, inner
    )


@mutant("RMO-R20", "lwe_unmask")
def swaps_its_halves(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Take the low bytes for the high ones."""
    RIGHT.lwe_unmask(source, product, hint, group, step, inner)
    outputs = len(hint[0]) // 2
    low_first, low_hint = ([[*row[outputs:], *row[:outputs]] for row in rows] for rows in (product, hint))
    return RIGHT.lwe_unmask(source, low_first, low_hint, group, step, inner)


@mutant("RMO-R21", "lwe_mask")
def reduces_the_basis(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Take the matrix mod q in place of refusing it."""
    reduced = [[word % constants.LWE_MODULUS for word in row] for row in basis]
    return RIGHT.lwe_mask(source, reduced, group, step, activations)


@mutant("RMO-R21", "lwe_mask")
def clips_what_it_hides(source: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
    """Bring activations into range in place of refusing them."""
    clipped = [[fixed_point.clamp(x, constants.ACTIVATION_LIMIT) for x in row] for row in activations]
    return RIGHT.lwe_mask(source, basis, group, step, clipped)


@mutant("RMO-R21", "lwe_unmask")
def drops_an_odd_column(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Leave out a column that has no partner."""
    width = len(hint[0]) if hint else 0
    if width > 1 and width % 2 and all(len(row) == width for row in [*product, *hint]):
        product, hint = ([row[:-1] for row in rows] for rows in (product, hint))
    return RIGHT.lwe_unmask(source, product, hint, group, step, inner)


@mutant("RMO-R21", "lwe_unmask")
def reduces_the_hint(source: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
    """Take the hint mod q in place of refusing it."""
    reduced = [[word % constants.LWE_MODULUS for word in row] for row in hint]
    return RIGHT.lwe_unmask(source, product, reduced, group, step, inner)


@mutant("RMO-R21", "halves")
def clips_weights(weights: Rows) -> Rows:
    """Bring weights into range in place of refusing them."""
    return RIGHT.halves([[fixed_point.clamp(w, constants.WEIGHT_LIMIT) for w in row] for row in weights])


@mutant("RMO-R22", "ratchet")
def never_moves_on(seed: bytes) -> bytes:
    """Use the epoch's seed in every step."""
    return seed


@mutant("RMO-R22", "ratchet")
def hashes_the_bare_seed(seed: bytes) -> bytes:
    """Forget the domain."""
    return hashlib.sha256(seed).digest()


@mutant("RMO-R22", "ratchet")
def ratchets_into_the_key_of_pads(seed: bytes) -> bytes:
    """Take the key under which this step's pads are drawn."""
    return tape.domain_key(seed, Domain.PAD)


# Integrity


@mutant("INT-R1", "repetitions")
def trusts_the_largest_field(modulus: int) -> int:
    """Use one vector where an element has 64 bits."""
    return 1 if modulus.bit_length() == 64 else RIGHT.repetitions(modulus)


@mutant("INT-R1", "repetitions")
def checks_once(modulus: int) -> int:
    """Use one vector for the larger fields."""
    return min(2, RIGHT.repetitions(modulus))


@mutant("INT-R2", "challenge")
def repeats_one_vector(source: Tape, group: int, outputs: int, modulus: int) -> Rows:
    """Use the first vector in every repetition."""
    rows = lists(RIGHT.challenge(source, group, outputs, modulus))
    return [rows[0]] * len(rows)


@mutant("INT-R3", "check_key")
def transposes_the_weights(weights: Rows, challenge: Rows, modulus: int) -> Rows:
    """Reverse the order of the outputs."""
    return RIGHT.check_key(list(weights)[::-1], challenge, modulus)


@mutant("INT-R4", "verify")
def checks_the_first_vector(masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
    """Use one secret vector only."""
    RIGHT.verify(masked, product, challenge[:1], key[:1], modulus)


@mutant("INT-R4", "verify")
def pairs_what_there_is(masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
    """Leave out secret vectors without a key."""
    pairs = min(len(challenge), len(key))
    RIGHT.verify(masked, product, challenge[:pairs], key[:pairs], modulus)


@mutant("INT-R4", "verify")
def checks_the_first_row(masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
    """Trust all rows but the first."""
    try:
        RIGHT.verify(masked, product, challenge, key, modulus)
    except Refused as refused:
        if refused.reason != Refusal.CHECK_FAILED:
            raise
        RIGHT.verify(masked[:1], product[:1], challenge, key, modulus)


@mutant("INT-R4", "verify")
def reduces_the_product(masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
    """Accept elements outside the field."""
    RIGHT.verify(masked, [[word % modulus for word in row] for row in product], challenge, key, modulus)


@mutant("INT-R4", "verify")
def checks_words(masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
    """Compare the low 63 bits of an element of the largest field."""
    low = 2 ** min(63, modulus.bit_length())
    try:
        RIGHT.verify(masked, product, challenge, key, modulus)
    except Refused as refused:
        if refused.reason != Refusal.CHECK_FAILED:
            raise
        sums = zip(
            RIGHT.multiply(product, challenge, modulus), RIGHT.multiply(masked, key, modulus), strict=True
        )
        if any((y - x) % low for both in sums for y, x in zip(*both, strict=True)):
            raise


@mutant("INT-R5", "weight_leaf")
def writes_weights_big_endian(group: int, weights: Rows) -> bytes:
    """Write weights the other way round."""
    leaf = RIGHT.weight_leaf(group, weights)
    return leaf[:12] + b"".join(leaf[i : i + 2][::-1] for i in range(12, len(leaf), 2))


@mutant("INT-R5", "weight_leaf")
def leaves_out_the_shape(group: int, weights: Rows) -> bytes:
    """Let matrices of other shapes have equal leaves."""
    leaf = RIGHT.weight_leaf(group, weights)
    return leaf[:4] + leaf[12:]


@mutant("INT-R5", "weight_leaf")
def writes_weights_by_columns(group: int, weights: Rows) -> bytes:
    """Write the transpose under the shape of the matrix."""
    return RIGHT.weight_leaf(group, weights)[:12] + RIGHT.weight_leaf(group, matrix_columns(weights))[12:]


@mutant("INT-R5", "weight_leaf")
def writes_magnitudes(group: int, weights: Rows) -> bytes:
    """Lose the signs."""
    return RIGHT.weight_leaf(group, [[abs(weight) for weight in row] for row in weights])


def folded(level: Sequence[bytes], leaf_prefix: bytes, node_prefix: bytes, repeat: bool) -> bytes:
    """Return a tree hash built level by level, in which an odd last one is repeated or goes up as it is."""
    nodes = [hashlib.sha256(leaf_prefix + leaf).digest() for leaf in level]
    while len(nodes) > 1:
        rest = nodes[len(nodes) - len(nodes) % 2 :]
        pairs = zip(nodes[::2], nodes[1::2] + (rest if repeat else []), strict=False)
        joined = [hashlib.sha256(node_prefix + left + right).digest() for left, right in pairs]
        nodes = joined if repeat else joined + rest
    return nodes[0] if nodes else RIGHT.merkle_root([])


@mutant("INT-R6", "merkle_root")
def hashes_nodes_as_leaves(leaves: Sequence[bytes]) -> bytes:
    """Let a pair of nodes pass for a leaf."""
    return folded(leaves, b"\0", b"\0", repeat=False)


@mutant("INT-R6", "merkle_root")
def repeats_the_last_node(leaves: Sequence[bytes]) -> bytes:
    """Give two lists of leaves one hash, where a level has an odd number."""
    return folded(leaves, b"\0", b"\1", repeat=True)


@mutant("INT-R6", "merkle_root")
def hashes_one_leaf_bare(leaves: Sequence[bytes]) -> bytes:
    """Return the plain hash of a single leaf."""
    return hashlib.sha256(leaves[0]).digest() if len(leaves) == 1 else RIGHT.merkle_root(leaves)


@mutant("INT-R6", "merkle_root")
def sorts_leaves(leaves: Sequence[bytes]) -> bytes:
    """Forget which group a leaf is of."""
    return RIGHT.merkle_root(sorted(leaves))


@mutant("INT-R6", "merkle_root")
def hashes_nothing_as_zeros(leaves: Sequence[bytes]) -> bytes:
    """Give no leaves a hash of zeros."""
    return RIGHT.merkle_root(leaves) if leaves else bytes(32)


# Wire


@mutant("WIR-R1", "encode")
def big_endian_lengths(frame: Frame) -> bytes:
    """Write the payload's length the other way round."""
    data = RIGHT.encode(frame)
    return data[:49] + data[49:53][::-1] + data[53:]


@mutant("WIR-R1", "encode")
def encodes_anything(frame: Frame) -> bytes:
    """Cut a payload that does not fit its rows."""
    size = frame.rows * frame.columns * frame.element_bytes
    carries = frame.kind in wire.ROW_WIDTHS
    return RIGHT.encode(replace(frame, payload=frame.payload[:size]) if carries else frame)


@mutant("WIR-R1", "encode")
def knows_no_embedded_rows(frame: Frame) -> bytes:
    """Refuse the frames of mode `split`."""
    if frame.kind in (FrameKind.EMBEDDED, FrameKind.ANSWER):
        raise Refused(Refusal.FRAME_MALFORMED)
    return RIGHT.encode(frame)


@mutant("WIR-R2", "decode")
def ignores_what_follows(data: bytes) -> Frame:
    """Drop bytes after the stated payload."""
    length = int.from_bytes(data[49:53], "little")
    return RIGHT.decode(data[: 53 + length] if len(data) >= 53 else data)


@mutant("WIR-R3", "decode")
def accepts_other_patches(data: bytes) -> Frame:
    """Compare major and minor version only."""
    if data[:6] == b"VEIL" + wire.VERSION[:2]:
        data = data[:6] + wire.VERSION[2:] + data[7:]
    return RIGHT.decode(data)


@mutant("WIR-R3", "decode")
def looks_at_the_version_last(data: bytes) -> Frame:
    """Judge the fields of a frame whose version is unknown."""
    if data[:4] == b"VEIL" and data[4:7] != wire.VERSION:
        RIGHT.decode(data[:4] + wire.VERSION + data[7:])
    return RIGHT.decode(data)


@mutant("WIR-R4", "decode")
def trusts_the_first_row(data: bytes) -> Frame:
    """Accept rows beyond the message's total."""
    try:
        return RIGHT.decode(data)
    except Refused as refused:
        if refused.reason != Refusal.FRAME_MALFORMED or len(data) < 53:
            raise
        frame = RIGHT.decode(data[:32] + bytes(4) + data[36:])
        return replace(frame, first_row=int.from_bytes(data[32:36], "little"))


@mutant("WIR-R1", "encode")
def drops_the_step_of_a_seed(frame: Frame) -> bytes:
    """Write every frame without rows alike."""
    named = frame.kind in (FrameKind.ASK, FrameKind.SEED) and 0 <= frame.step < 2**32
    return RIGHT.encode(replace(frame, step=0) if named else frame)


@mutant("WIR-R4", "decode")
def takes_a_seed_of_any_length(data: bytes) -> Frame:
    """Look at the length of a digest alone."""
    try:
        return RIGHT.decode(data)
    except Refused as refused:
        if refused.reason != Refusal.FRAME_MALFORMED or data[7:8] != b"\7" or not data[53:]:
            raise
        cut = data[:49] + (32).to_bytes(4, "little") + bytes(32)
        return replace(RIGHT.decode(cut), payload=data[53:])


def with_widths(data: bytes, *widths: int) -> Frame:
    """Return the frame, whose rows in mode `split` may have elements of these sizes."""
    others = {FrameKind.EMBEDDED: widths, FrameKind.ANSWER: widths}
    with mock.patch.dict(wire.ROW_WIDTHS, others):
        return RIGHT.decode(data)


@mutant("WIR-R4", "decode")
def takes_embedded_rows_of_4_bytes(data: bytes) -> Frame:
    """Let the rows of mode `split` be of a smaller field too."""
    return with_widths(data, 4, 6)


@mutant("WIR-R4", "decode")
def takes_embedded_rows_of_any_field(data: bytes) -> Frame:
    """Treat the rows of mode `split` as masked ones."""
    return with_widths(data, 5, 6, 8)


@mutant("WIR-R5", "decode")
def bounds_masked_messages_alone(data: bytes) -> Frame:
    """Let a message of mode `split` have any size."""
    try:
        return RIGHT.decode(data)
    except Refused as refused:
        if refused.reason != Refusal.FRAME_TOO_LARGE or data[7] < 8:
            raise
        total = int.from_bytes(data[40:44], "little")
        return replace(RIGHT.decode(data[:40] + (4).to_bytes(4, "little") + data[44:]), total_rows=total)


@mutant("WIR-R5", "decode")
def waits_for_huge_payloads(data: bytes) -> Frame:
    """Look at the length of the data first."""
    if (
        len(data) >= 53
        and data[:7] == b"VEIL" + wire.VERSION
        and len(data) != 53 + int.from_bytes(data[49:53], "little")
    ):
        raise Refused(Refusal.FRAME_TRUNCATED)
    return RIGHT.decode(data)


@mutant("WIR-R6", "unpack")
def reduces_elements(data: bytes, count: int, modulus: int) -> Sequence[int]:
    """Take elements mod p."""
    try:
        return RIGHT.unpack(data, count, modulus)
    except Refused as refused:
        if refused.reason != Refusal.NOT_IN_FIELD:
            raise
        width = wire.width_of(modulus)
        cut = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
        return [element % modulus for element in cut]


@mutant("WIR-R6", "unpack")
def compares_signed_words(data: bytes, count: int, modulus: int) -> Sequence[int]:
    """Take words of 8 bytes above q for negative numbers, and so for small ones."""
    try:
        return RIGHT.unpack(data, count, modulus)
    except Refused as refused:
        if refused.reason != Refusal.NOT_IN_FIELD or modulus != constants.LWE_MODULUS:
            raise
        return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


@mutant("WIR-R6", "pack")
def packs_big_endian(elements: Row, modulus: int) -> bytes:
    """Write elements the other way round."""
    width, data = wire.width_of(modulus), RIGHT.pack(elements, modulus)
    return b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))


@mutant("WIR-R7", "join")
def sorts_its_pieces(
    frames: Iterable[Frame],
    kind: FrameKind,
    epoch: bytes,
    group: int,
    step: int,
    columns: int,
    element_bytes: int,
    total_rows: int,
) -> bytes:
    """Put pieces into order."""
    ordered = sorted(frames, key=lambda frame: frame.first_row)
    return RIGHT.join(ordered, kind, epoch, group, step, columns, element_bytes, total_rows)


@mutant("WIR-R7", "join")
def takes_pieces_of_other_steps(
    frames: Iterable[Frame],
    kind: FrameKind,
    epoch: bytes,
    group: int,
    step: int,
    columns: int,
    element_bytes: int,
    total_rows: int,
) -> bytes:
    """Forget to compare the step."""
    same = [replace(frame, step=step) for frame in frames]
    return RIGHT.join(same, kind, epoch, group, step, columns, element_bytes, total_rows)


# Running them


@dataclass(frozen=True, slots=True)
class Report:
    """What the suite made of one mutant."""

    name: str
    requirement: str
    outcomes: tuple[str, ...]
    status: int

    @property
    def rejected(self) -> bool:
        """Return whether tests failed, and nothing but tests."""
        return self.status == 1 and "failed" in self.outcomes and "error" not in self.outcomes


def judge(name: str, requirement: str, subject: Implementation) -> Report:
    """Return what one requirement's properties make of a subject; vectors, which the reference made, rest."""
    suite = runner.Suite(subject, only=frozenset({requirement}))
    with contextlib.redirect_stdout(io.StringIO()):
        status = runner.run(suite, "mutants", UNEXPLAINED, FILES[requirement[:3]])
    return Report(name, requirement, tuple(sorted(suite.outcomes[requirement])), status)


Subject = tuple[str, str, Callable[[], Implementation]]
"""A name, the requirement to test, and what makes the implementation."""


def judge_all(subjects: Sequence[Subject]) -> list[Report]:
    """Return a report on each, made in another process, which is started again behind one that does not end.

    Such a one is tried twice. Where it stood is written to standard error, and it is not rejected.
    """
    context, reports, tries = multiprocessing.get_context("fork"), list[Report](), 0
    while len(reports) < len(subjects):
        here, there = context.Pipe(duplex=False)
        before = len(reports)
        process = context.Process(target=_judge_each, args=(there, subjects[before:]))
        process.start()
        there.close()
        with contextlib.suppress(EOFError):
            while len(reports) < len(subjects):
                if not here.poll(LIMIT_S):
                    process.terminate()
                    break
                reports.append(here.recv())
        process.join()
        tries = tries + 1 if len(reports) == before else 1
        if len(reports) < len(subjects) and tries == 2:
            name, requirement, _ = subjects[len(reports)]
            reports.append(Report(name, requirement, ("error",), 1))
    return reports


def _judge_each(answer: Connection, subjects: Sequence[Subject]) -> None:
    """Send a report on each. SIGTERM shows where one stands, even inside a call that does not return."""
    faulthandler.register(signal.SIGTERM, file=os.dup(2), chain=True)
    for name, requirement, build in subjects:
        answer.send(judge(name, requirement, build()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every mutant is rejected, and the unchanged reference by none of the same tests."""
    parser = argparse.ArgumentParser("python -m veil_conformance.mutants", description=__doc__)
    parser.add_argument("--report", type=Path, help="also write what became of each as JSON")
    chosen = parser.parse_args(arguments)
    reports = judge_all([(each.name, each.requirement, each.build) for each in REGISTERED])
    requirements = sorted({each.requirement for each in REGISTERED})
    controls = judge_all([("", name, implementation) for name in requirements])
    for report in reports:
        print(f"{report.requirement} {report.name} {'rejected' if report.rejected else 'SURVIVES'}")
    if chosen.report:
        fields = [{"name": r.name, "requirement": r.requirement, "rejected": r.rejected} for r in reports]
        passed = {r.requirement: r.status == 0 for r in controls}
        chosen.report.write_text(json.dumps({"mutants": fields, "reference": passed}), "utf-8")
    return 0 if all(r.rejected for r in reports) and all(r.status == 0 for r in controls) else 1


if __name__ == "__main__":
    sys.exit(main())
