"""Wrong implementations, one for each requirement: the reference with one operation changed.

`python -m veil_conformance.mutants` runs the suite's tests of that requirement against each.
"""

import argparse
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, cast
from unittest import mock

from veil_conformance import runner
from veil_reference import fixed_point, implementation, model, tables, tape, wire
from veil_reference.implementation import Reference
from veil_spec import __version__, constants
from veil_spec.interface import Implementation, Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Address,
    Certificate,
    Domain,
    Frame,
    FrameKind,
    Noise,
    Part,
    Quantised,
    Row,
    Rows,
    Selection,
    Table,
    TokenIndex,
    TwoSidedGeometric,
    WeightRow,
)

RIGHT: Final[Implementation] = implementation()
"""The reference, which every mutant follows but for one operation."""
FILES: Final = {
    "TAP": "test_tape.py",
    "NMX": "test_noisy_max.py",
    "ACC": "test_accounting.py",
    "FXP": "test_fixed_point.py",
    "MDL": "test_model.py",
    "RMO": "test_remo.py",
    "INT": "test_integrity.py",
    "WIR": "test_wire.py",
}
"""Where an area's properties are."""
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
def decides_by_one_word(noise: Noise, source: Tape, token: int, candidate: int) -> int:
    """Compare the first word's lower end only."""
    word = source.word(Domain.NOISE, token * 2**32 + 2 * candidate, 0)
    k = 0
    while word and Fraction(word, 2**64) < noise.alpha ** (k + 1):
        k += 1
    return k


@mutant("NMX-R1", "sample")
def includes_the_threshold(noise: Noise, source: Tape, token: int, candidate: int) -> int:
    """Take U <= alpha^j in place of U < alpha^j."""
    word = source.word(Domain.NOISE, token * 2**32 + 2 * candidate, 0)
    k = RIGHT.sample(noise, source, token, candidate)
    return k + (Fraction(word, 2**64) == noise.alpha ** (k + 1))


@mutant("NMX-R2", "sample")
def swaps_the_two_draws(noise: Noise, source: Tape, token: int, candidate: int) -> int:
    """Negate two-sided noise."""
    k = RIGHT.sample(noise, source, token, candidate)
    return -k if isinstance(noise, TwoSidedGeometric) else k


@mutant("NMX-R2", "sample")
def shares_a_stream(noise: Noise, source: Tape, token: int, candidate: int) -> int:
    """Give every token the noise of token 0."""
    return RIGHT.sample(noise, source, 0 if 0 <= token < 2**32 else token, candidate)


@mutant("NMX-R3", "select")
def ignores_the_noise(scores: Sequence[int], noise: Noise, source: Tape, token: int = 0) -> Selection:
    """Take the largest score."""
    RIGHT.select(scores, noise, source, token)
    return Selection(TokenIndex(list(scores).index(max(scores))))


@mutant("NMX-R4", "select")
def takes_the_last_of_equals(scores: Sequence[int], noise: Noise, source: Tape, token: int = 0) -> Selection:
    """Break ties upwards."""
    RIGHT.select(scores, noise, source, token)
    noisy = [score + RIGHT.sample(noise, source, token, c) for c, score in enumerate(scores)]
    return Selection(TokenIndex(max(range(len(noisy)), key=lambda c: (noisy[c], c))))


@mutant("NMX-R5", "select")
def selects_from_nothing(scores: Sequence[int], noise: Noise, source: Tape, token: int = 0) -> Selection:
    """Answer 0 to an empty list."""
    return RIGHT.select(scores, noise, source, token) if scores else Selection(TokenIndex(0))


@mutant("NMX-R6", "select")
def clips_scores(scores: Sequence[int], noise: Noise, source: Tape, token: int = 0) -> Selection:
    """Bring scores into range in place of refusing them."""
    limit = constants.SCORE_LIMIT
    return RIGHT.select([max(-limit, min(limit, score)) for score in scores], noise, source, token)


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


@mutant("FXP-R8", "rope")
def float_rope(position: int, pair: int, head_width: int, theta: Fraction) -> tuple[int, int]:
    """Round entries down."""
    if position == 0:
        return 2**30, 0
    angle = position * tables.exp(-tables.ln(theta) * 2 * pair // head_width)
    cosine, sine = tables.cos_sin(angle)
    return cosine >> (tables.BITS - 30), sine >> (tables.BITS - 30)


@mutant("FXP-R9", "attention_score")
def forgets_the_keys_exponent(query: Quantised, key: Quantised) -> int:
    """Scale by the query's exponent twice."""
    return RIGHT.attention_score(query, replace(key, exponent=query.exponent))


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
    weights = [RIGHT.round_shift(RIGHT.exp2(score - max(scores)), 12) for score in scores]
    columns = zip(*values, strict=True)
    return [sum(e * v for e, v in zip(weights, column, strict=True)) // sum(weights) for column in columns]


@mutant("FXP-R11", "rotate")
def pairs_neighbours(row: Row, position: int, theta: Fraction) -> Sequence[int]:
    """Rotate (0, 1), (2, 3), ... in place of the two halves."""
    turned = list(RIGHT.rotate([*row[::2], *row[1::2]], position, theta))
    half = len(row) // 2
    return [turned[i // 2 + half * (i % 2)] for i in range(len(row))]


# Model


def stepped(decoder: model.Decoder, tokens: Iterable[int]) -> list[list[int]]:
    """Return the logits after each token."""
    return [decoder.step(token) for token in tokens]


@mutant("MDL-R1", "quantise_weights")
def rounds_weights_halves_up(weights: Sequence[float]) -> WeightRow:
    """Round halves up in place of to even."""
    right = RIGHT.quantise_weights(weights)
    unit = right.mantissa / Fraction(2) ** right.exponent
    return replace(right, values=tuple((Fraction(w) / unit + Fraction(1, 2)).__floor__() for w in weights))


@mutant("MDL-R12", "quantise_weights")
def lets_infinite_weights_pass(weights: Sequence[float]) -> WeightRow:
    """Read what is not finite as 0."""
    return RIGHT.quantise_weights([w if abs(w) < float("inf") else 0.0 for w in weights])


@mutant("MDL-R2", "quantise_gains")
def gains_of_twenty_three_bits(gains: Sequence[float]) -> tuple[Sequence[int], int]:
    """Keep one bit less."""
    _, exponent = RIGHT.quantise_gains(gains)
    less = exponent - 1 if any(gains) else exponent
    return [round(Fraction(gain) * Fraction(2) ** less) for gain in gains], less


@mutant("MDL-R3", "logits")
def always_ties_its_head(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Use the embedding as head, whatever the shape says."""
    loaded = model.load(path)
    return stepped(model.Decoder(replace(loaded, shape=replace(loaded.shape, tied=True))), tokens)


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


@mutant("MDL-R11", "logits")
def trusts_its_numbers(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Look at names, types and shapes only."""
    with mock.patch.object(model, "check_range"):
        return RIGHT.logits(path, tokens)


class SmallFraction(model.Decoder):
    """Gives every group the hidden fraction and limit."""

    def linear(self, number: int, name: str, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return words whose last six bits are lost."""
        words = super().linear(number, name, row, 18, min(limit, 2**30 - 1))
        return [word << (fraction - 18) for word in words]


@mutant("MDL-R5", "logits")
def keeps_eighteen_bits(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Forget that the residual stream has 24 fractional bits."""
    return stepped(SmallFraction(model.load(path)), tokens)


class Rounding(model.Decoder):
    """Rounds the scaled weight of an embedding down."""

    def embed(self, token: int) -> list[int]:
        """Return words shifted, not rounded."""
        right = super().embed(token)
        table = self.model.group(0, "embedding")
        shift = table.exponent[token] - 24
        if not 0 < shift <= 62:
            return right
        return [
            fixed_point.clamp(q * table.mantissa[token] >> shift, 2**46 - 1) for q in table.weights[token]
        ]


@mutant("MDL-R6", "logits")
def truncates_embeddings(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Round embeddings down."""
    return stepped(Rounding(model.load(path)), tokens)


@mutant("MDL-R6", "logits")
def wraps_tokens(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Take tokens modulo the vocabulary."""
    size = model.load(path).shape.vocabulary
    return RIGHT.logits(path, [token % size for token in tokens])


class Interleaved(model.Decoder):
    """Lets query head n read key head n mod kv heads."""

    def attention(self, layer: int, row: Quantised) -> Quantised:
        """Return heads that share in another order."""
        shape = self.model.shape
        mixed = self.hidden(4 * layer, f"layers.{layer}.qkv", row)
        heads = [mixed[i : i + shape.head_width] for i in range(0, len(mixed), shape.head_width)]
        queries, rest = heads[: shape.heads], heads[shape.heads :]
        self.keys[layer].append([self._placed(head) for head in rest[: shape.kv_heads]])
        self.values[layer].append(rest[shape.kv_heads :])
        averages = [
            self._head(layer, n % shape.kv_heads, self._placed(query)) for n, query in enumerate(queries)
        ]
        return fixed_point.quantise([word for head in averages for word in head], 18)


@mutant("MDL-R7", "logits")
def interleaves_heads(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Share heads in another order."""
    return stepped(Interleaved(model.load(path)), tokens)


class Forgetful(model.Decoder):
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


class Swapped(model.Decoder):
    """Takes the up rows for the gate rows."""

    def mlp(self, layer: int, row: Quantised) -> Quantised:
        """Return SiLU(up) * gate."""
        both = self.hidden(4 * layer + 2, f"layers.{layer}.gate_up", row)
        up, gate = both[: self.model.shape.inner], both[self.model.shape.inner :]
        return fixed_point.quantise([fixed_point.silu(g) * u for g, u in zip(gate, up, strict=True)], 36)


@mutant("MDL-R8", "logits")
def swaps_gate_and_up(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Gate the wrong half."""
    return stepped(Swapped(model.load(path)), tokens)


class Parallel(model.Decoder):
    """Feeds the MLP the stream from before attention."""

    def residual(self, number: int, name: str, row: Quantised, stream: Row) -> list[int]:
        """Return the stream without the attention's part, and let `down` add both."""
        return list(stream) if name.endswith(".o") else super().residual(number, name, row, stream)


@mutant("MDL-R9", "logits")
def drops_attention(path: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Never add the attention's output."""
    return stepped(Parallel(model.load(path)), tokens)


@mutant("MDL-R13", "logits")
def slides_its_context(path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
    """Answer beyond the context."""
    return RIGHT.logits(path, tokens[: model.load(path).shape.context])


@mutant("MDL-R10", "greedy")
def greedy_takes_the_last(row: Row) -> int:
    """Break ties upwards."""
    return max(range(len(row)), key=lambda index: (row[index], index))


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


@mutant("RMO-R7", "pad")
def fills_pads_by_columns(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Number elements down the columns."""
    return list(zip(*RIGHT.pad(source, group, step, columns, rows, modulus), strict=True))


@mutant("RMO-R7", "pad")
def repeats_one_row(source: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
    """Use one row of pads for every row."""
    return lists(RIGHT.pad(source, group, step, 1, columns, modulus)) * rows


class Unlifted(model.Masked):
    """Returns products as field elements."""

    def __call__(self, group: model.Group, row: Row) -> Sequence[int]:
        """Return what is congruent to the product."""
        modulus = RIGHT.choose_modulus(group.weights)
        return [word % modulus for word in super().__call__(group, row)]


@mutant("RMO-R8", "masked_logits")
def forgets_to_lift(path: Path, tokens: Sequence[int], seed: bytes, rank: Fraction | None) -> Rows:
    """Compute on with residues."""
    return stepped(model.Decoder(model.load(path), Unlifted(seed, rank)), tokens)


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


# Integrity


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
    carries = frame.kind in (FrameKind.MULTIPLY, FrameKind.PRODUCT)
    return RIGHT.encode(replace(frame, payload=frame.payload[:size]) if carries else frame)


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
    suite = runner.Suite(subject, only=requirement)
    with contextlib.redirect_stdout(io.StringIO()):
        status = runner.run(suite, "mutants", ["--tb=no"], [FILES[requirement[:3]]])
    return Report(name, requirement, tuple(sorted(suite.outcomes[requirement])), status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every mutant is rejected, and the unchanged reference by none of the same tests."""
    parser = argparse.ArgumentParser("python -m veil_conformance.mutants", description=__doc__)
    parser.add_argument("--report", type=Path, help="also write what became of each as JSON")
    chosen = parser.parse_args(arguments)
    reports = [judge(each.name, each.requirement, each.build()) for each in REGISTERED]
    controls = [
        judge("", name, implementation()) for name in sorted({each.requirement for each in REGISTERED})
    ]
    for report in reports:
        print(f"{report.requirement} {report.name} {'rejected' if report.rejected else 'SURVIVES'}")
    if chosen.report:
        fields = [{"name": r.name, "requirement": r.requirement, "rejected": r.rejected} for r in reports]
        passed = {r.requirement: r.status == 0 for r in controls}
        chosen.report.write_text(json.dumps({"mutants": fields, "reference": passed}), "utf-8")
    return 0 if all(r.rejected for r in reports) and all(r.status == 0 for r in controls) else 1


if __name__ == "__main__":
    sys.exit(main())
