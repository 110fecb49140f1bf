"""The optimized code as a subject of the conformance suite: lists of integers in and out, tensors between."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import SupportsInt

import numpy as np
import numpy.typing as npt
import torch

from veil_optimized import (
    accounting,
    budget,
    decoder,
    encoder,
    field,
    fixed_point,
    integrity,
    kernels,
    lwe,
    model,
    noise,
    noisy_max,
    quantise,
    remo,
    sampling,
    table_file,
    tables,
    tabulated,
    tape,
    wire,
)
from veil_optimized import partition as building
from veil_optimized.enclave import Enclave
from veil_optimized.profiles import Masking
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_spec import __version__, constants
from veil_spec.architecture import Precision, Rotation
from veil_spec.constants import LWE_MODULUS
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Address,
    Domain,
    Geometric,
    Noise,
    Quantised,
    Row,
    Rows,
    Sampling,
    TwoSidedGeometric,
    WeightRow,
)


def _row(values: Row) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _word(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int64)


def _matrix(rows: Rows) -> torch.Tensor:
    """Return rows as one tensor; a word beyond 64 bits becomes the nearest of 64, as far outside every range.

    Refuses: SHAPE_MISMATCH.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise Refused(Refusal.SHAPE_MISMATCH)
    least, most = -(2**63), 2**63 - 1
    return torch.tensor([[max(least, min(most, word)) for word in row] for row in rows], dtype=torch.int64)


def _elements(rows: Rows, modulus: int) -> torch.Tensor:
    """Return elements as one tensor; those of q by their bits, with q for whatever lies outside.

    Refuses: SHAPE_MISMATCH.
    """
    if modulus != LWE_MODULUS:
        return _matrix(rows)
    words = [[word if 0 <= word < modulus else modulus for word in row] for row in rows]
    return _matrix([[word - 2**64 if word >= 2**63 else word for word in row] for row in words])


def _integers_of(elements: torch.Tensor) -> list[list[int]]:
    """Return field elements as integers; those of q are kept by their bits."""
    return [[word % 2**64 for word in row] for row in _lists(elements)]


def _lists(matrix: torch.Tensor) -> list[list[int]]:
    return [[int(value) for value in row] for row in matrix.tolist()]


def _directions(rows: Rows) -> npt.NDArray[np.float32]:
    width = len(rows[0]) if rows else 0
    return np.array(rows, dtype=np.float32).reshape(-1, width)


def _integers(values: Iterable[SupportsInt]) -> list[int]:
    return [int(value) for value in values]


def _quantised(rows: fixed_point.Rows) -> Quantised:
    return Quantised(tuple(map(int, rows.values.tolist())), int(rows.exponent))


def _one_row(row: Quantised) -> fixed_point.Rows:
    return fixed_point.Rows(_row(row.values).unsqueeze(0), torch.tensor([row.exponent]))


@contextmanager
def _enclave(loaded: model.Model, masking: Masking) -> Iterator[Enclave]:
    """Yield an enclave whose worker is in this process."""
    worker = Worker(place(loaded, "cpu"), loaded.digest)
    with Channel(LocalTransport(worker.handle), bytes(constants.EPOCH_BYTES)) as channel:
        enclave = Enclave(loaded, channel, masking)
        enclave.open()
        yield enclave


class Optimized:
    """`veil_spec.interface.Implementation` on the optimized code."""

    name = "veil_optimized"
    spec_version: str = __version__
    sample = staticmethod(noise.sample)
    select = staticmethod(noisy_max.select)
    exact_pmf = staticmethod(accounting.exact_pmf)
    certificate = staticmethod(accounting.certificate)
    calibrate = staticmethod(accounting.calibrate)
    tabulate = staticmethod(tabulated.tabulate)
    draw = staticmethod(tabulated.draw)
    draw_uniformly = staticmethod(tabulated.draw_uniformly)
    calibrate_part = staticmethod(tabulated.calibrate_part)
    tabulated_certificate = staticmethod(tabulated.tabulated_certificate)
    weighted_recovery = staticmethod(tabulated.weighted_recovery)
    load_tabulated = staticmethod(table_file.load_tabulated)
    paper_certificate = staticmethod(building.paper_certificate)
    document_cost = staticmethod(budget.document_cost)
    divide = staticmethod(budget.divide)
    repetitions = staticmethod(integrity.repetitions)
    encode = staticmethod(wire.encode)
    decode = staticmethod(wire.decode)
    pack = staticmethod(wire.pack)
    split = staticmethod(wire.split)
    join = staticmethod(wire.join)

    @property
    def operations(self) -> frozenset[str]:
        """Return the names of all public methods."""
        return frozenset(
            name for name, member in vars(type(self)).items() if name[0] != "_" and not _is_fact(member)
        )

    def seeded_tape(self, seed: bytes) -> Tape:
        """Return the tape of a seed."""
        return tape.SeededTape(seed)

    def listed_tape(self, words: Mapping[Address, int]) -> Tape:
        """Return the tape that holds these words."""
        return tape.ListedTape(words)

    def direction(self, vector: Sequence[float]) -> Sequence[int]:
        """Return the direction of one vector."""
        return _integers(building.directions(np.array([vector], dtype=np.float64))[0])

    def partition(self, directions: Rows, part_size: int) -> Sequence[Sequence[int]]:
        """Return the parts."""
        return [_integers(part) for part in building.partition(_directions(directions), part_size)]

    def part_scores(self, directions: Rows) -> Rows:
        """Return the score matrix of a part."""
        return [_integers(row) for row in building.part_scores(_directions(directions))]

    def paper_candidates(
        self, directions: Rows, entry: int, count: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return the nearest other entries, and their scores."""
        nearest, scores = building.paper_candidates(_directions(directions), entry, count)
        return _integers(nearest), _integers(scores)

    def field_elements(
        self, tape_: Tape, domain: Domain, stream: int, start: int, count: int, modulus: int
    ) -> Sequence[int]:
        """Return elements start to start + count - 1."""
        return [int(x) % 2**64 for x in tape.field_elements(tape_, domain, stream, start, count, modulus)]

    def noise(self, alpha: Fraction, two_sided: bool) -> Noise:
        """Return a noise."""
        return TwoSidedGeometric(alpha) if two_sided else Geometric(alpha)

    def round_shift(self, value: int, shift: int) -> int:
        """Return value / 2**shift, rounded."""
        return int(fixed_point.round_shift(_word(value), shift))

    def rescale(self, value: int, shift: int, limit: int) -> int:
        """Return value / 2**shift, rounded and saturated."""
        return int(fixed_point.rescale(_word(value), shift, limit))

    def quantise(self, row: Row, fraction: int) -> Quantised:
        """Return the row as 16-bit integers."""
        return _quantised(fixed_point.quantise(_row(row), fraction))

    def exp2_digits(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the two exp2 tables."""
        coarse, fine = tables.exp2_digits()
        return _lists(coarse.unsqueeze(0))[0], _lists(fine.unsqueeze(0))[0]

    def normal_tail(self) -> Sequence[int]:
        """Return the table of the normal distribution."""
        return _integers(tables.normal_tail())

    def rope(self, position: int, pair: int, head_width: int, rotation: Rotation) -> tuple[int, int]:
        """Return one RoPE entry."""
        cos, sin = tables.rope(1, head_width, rotation, position)
        return int(cos[0, pair]), int(sin[0, pair])

    def exp2(self, exponent: int) -> int:
        """Return 2**(exponent / 2**16)."""
        return int(fixed_point.exp2(_word(exponent)))

    def silu(self, value: int) -> int:
        """Return SiLU."""
        return int(fixed_point.silu(_word(value)))

    def gelu(self, value: int) -> int:
        """Return GELU."""
        return int(fixed_point.gelu(_word(value)))

    def tanh(self, value: int) -> int:
        """Return the hyperbolic tangent."""
        return int(fixed_point.tanh(_word(value)))

    def rms_norm(self, row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Quantised:
        """Return the normalised row."""
        return _quantised(fixed_point.rms_norm(_row(row), _row(gains), gain_exponent, epsilon))

    def layer_norm(
        self, row: Row, gains: Row, gain_exponent: int, biases: Row, bias_exponent: int, epsilon: Fraction
    ) -> Sequence[int]:
        """Return the words of the row less its mean, normalised."""
        scaled, shifted = (_row(gains), gain_exponent), (_row(biases), bias_exponent)
        return _integers(fixed_point.layer_norm(_row(row), *scaled, *shifted, epsilon))

    def head_norm(self, row: Row, gains: Row, gain_exponent: int, epsilon: Fraction) -> Sequence[int]:
        """Return the words of the normalised head."""
        return _integers(fixed_point.head_norm(_row(row), _row(gains), gain_exponent, epsilon))

    def attention_score(self, query: Quantised, key: Quantised) -> int:
        """Return one score."""
        return int(fixed_point.attention_score(_one_row(query), _one_row(key)))

    def softmax_average(self, scores: Row, values: Rows) -> Sequence[int]:
        """Return the weighted average of the value rows."""
        return _lists(fixed_point.softmax_average(_row(scores).unsqueeze(0), _matrix(values)))[0]

    def rotate(self, row: Row, position: int, rotation: Rotation) -> Sequence[int]:
        """Return the rotated row."""
        cos, sin = tables.rope(1, len(row), rotation, position)
        return _integers(fixed_point.rotate(_row(row), cos[0], sin[0]))

    def quantise_weights(
        self, weights: Sequence[float], precision: Precision = Precision.W16A16
    ) -> WeightRow:
        """Return one output channel."""
        rows = quantise.quantise_weights(torch.tensor([list(weights)], dtype=torch.float32), precision)
        return WeightRow(tuple(map(int, rows.values[0].tolist())), int(rows.mantissa), int(rows.exponent))

    def quantise_gains(self, gains: Sequence[float]) -> tuple[Sequence[int], int]:
        """Return a norm's gains."""
        values, exponent = quantise.quantise_gains(torch.tensor(list(gains), dtype=torch.float32))
        return _lists(values.unsqueeze(0))[0], exponent

    def greedy(self, row: Row) -> int:
        """Return the greedy token."""
        return sampling.greedy(_row(row))

    def sampling(self, temperature: Fraction, count: int | None, share: Fraction) -> Sampling:
        """Return how a token is drawn."""
        return sampling.make_sampling(temperature, count, share)

    def sampling_weights(self, row: Row, given: Sampling) -> Sequence[int]:
        """Return the weight of each token."""
        return _lists(sampling.sampling_weights(_row(row), given).unsqueeze(0))[0]

    def sample_token(self, weights: Sequence[int], tape_: Tape, sample: int, token: int) -> int:
        """Return the token that a word of the tape draws."""
        return sampling.sample_token(_row(weights), tape_, sample, token)

    def logits(self, path: Path, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
        """Return the logits after each token, all tokens in one step."""
        return _lists(decoder.logits(model.load(path), tokens))

    def masked_logits(self, path: Path, tokens: Sequence[int], seed: bytes, rank: Fraction | None) -> Rows:
        """Return the logits after each token, token by token, by an enclave and a worker in one process."""
        loaded = model.load(path)
        with _enclave(loaded, Masking("pad" if rank is None else "rank", rank, seed=seed)) as enclave:
            running = decoder.Decoder(loaded, enclave.products)
            return [_lists(running.step([token]))[0] for token in tokens]

    def stream(self, path: Path, tokens: Sequence[int], types: Sequence[int] | None = None) -> Rows:
        """Return an encoder's last stream."""
        return _lists(encoder.stream(model.load(path), tokens, types))

    def masked_stream(self, path: Path, tokens: Sequence[int], seed: bytes) -> Rows:
        """Return an encoder's last stream, by an enclave and a worker in one process."""
        loaded = model.load(path)
        with _enclave(loaded, Masking(seed=seed)) as enclave:
            return _lists(encoder.stream(loaded, tokens, products=enclave.products))

    def labels(self, path: Path, tokens: Sequence[int], types: Sequence[int] | None = None) -> Sequence[int]:
        """Return the labels' logits."""
        return _lists(encoder.labels(model.load(path), tokens, types).unsqueeze(0))[0]

    def sentence(self, stream: Rows) -> Sequence[int]:
        """Return the mean of a stream."""
        return _lists(encoder.sentence(_matrix(stream)).unsqueeze(0))[0]

    def choose_modulus(self, weights: Rows) -> int:
        """Return the group's field."""
        return remo.choose_modulus(_matrix(weights))

    def pad(self, tape_: Tape, group: int, step: int, rows: int, columns: int, modulus: int) -> Rows:
        """Return pads."""
        return _lists(remo.pad(tape_, group, step, rows, columns, modulus))

    def burn(self, addresses: Sequence[tuple[int, int]]) -> None:
        """Use up pad addresses in this order."""
        used = remo.Addresses()
        for group, step in addresses:
            used.burn(group, step)

    def rank_basis(self, tape_: Tape, group: int, rank: int, columns: int, modulus: int) -> Rows:
        """Return a public basis."""
        return _lists(remo.rank_basis(tape_, group, rank, columns, modulus))

    def rank_pad(self, tape_: Tape, basis: Rows, group: int, step: int, rows: int, modulus: int) -> Rows:
        """Return the paper's pads."""
        return _lists(remo.rank_pad(tape_, _matrix(basis), group, step, rows, modulus))

    def mask(self, activations: Rows, pads: Rows, modulus: int) -> Rows:
        """Return masked rows."""
        return _lists(remo.mask(_matrix(activations), _matrix(pads), modulus))

    def ratchet(self, seed: bytes) -> bytes:
        """Return the seed of the next step."""
        return remo.ratchet(seed)

    def lwe_dimension(self, inner: int) -> int:
        """Return how many secrets hide a row."""
        return lwe.lwe_dimension(inner)

    def lwe_levels(self, inner: int) -> tuple[int, int]:
        """Return (noise bits, scale)."""
        return lwe.lwe_levels(inner)

    def halves(self, weights: Rows) -> Rows:
        """Return high bytes, then low bytes."""
        return _lists(lwe.halves(_matrix(weights)))

    def lwe_basis(self, tape_: Tape, group: int, dimension: int, inner: int) -> Rows:
        """Return a public matrix."""
        return _integers_of(lwe.lwe_basis(tape_, group, dimension, inner))

    def lwe_mask(self, tape_: Tape, basis: Rows, group: int, step: int, activations: Rows) -> Rows:
        """Return masked rows."""
        public = _elements(basis, LWE_MODULUS)
        return _integers_of(lwe.lwe_mask(tape_, public, group, step, _matrix(activations)))

    def lwe_unmask(self, tape_: Tape, product: Rows, hint: Rows, group: int, step: int, inner: int) -> Rows:
        """Return the plain product."""
        answer, image = _elements(product, LWE_MODULUS), _elements(hint, LWE_MODULUS)
        return _lists(lwe.lwe_unmask(tape_, answer, image, group, step, inner))

    def multiply(self, masked: Rows, weights: Rows, modulus: int) -> Rows:
        """Return the worker's product; on the wire, `unpack` is what refuses elements outside the field."""
        elements = _elements(masked, modulus)
        field.check_elements(elements, modulus)
        return _integers_of(kernels.multiply(elements, _matrix(weights).to(torch.int16), modulus))

    def unmask(self, product: Rows, correction: Rows, modulus: int) -> Rows:
        """Return the plain product."""
        return _lists(remo.unmask(_matrix(product), _matrix(correction), modulus))

    def challenge(self, tape_: Tape, group: int, outputs: int, modulus: int) -> Rows:
        """Return the secret vectors."""
        return _integers_of(integrity.challenge(tape_, group, outputs, modulus))

    def check_key(self, weights: Rows, challenge: Rows, modulus: int) -> Rows:
        """Return the secret vectors times the weights."""
        return _integers_of(integrity.check_key(_matrix(weights), _elements(challenge, modulus), modulus))

    def verify(self, masked: Rows, product: Rows, challenge: Rows, key: Rows, modulus: int) -> None:
        """Check a product."""
        check = integrity.check_of(_elements(challenge, modulus), _elements(key, modulus), modulus)
        check.verify(_elements(masked, modulus), _elements(product, modulus))

    def weight_leaf(self, group: int, weights: Rows) -> bytes:
        """Return the bytes of a group that the commitment covers."""
        return integrity.weight_leaf(group, _matrix(weights))

    def merkle_root(self, leaves: Sequence[bytes]) -> bytes:
        """Return the Merkle tree hash."""
        return integrity.merkle_root(leaves)

    def unpack(self, data: bytes, count: int, modulus: int) -> Sequence[int]:
        """Return the elements."""
        return [int(element) % 2**64 for element in wire.unpack(data, count, modulus)]


def _is_fact(member: object) -> bool:
    return isinstance(member, str | property)
