"""Ten thousand tampered replies are all refused by name, and a million honest products are not.

A product is one row of one multiplication, a reply the answer to one message of rows.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
import torch

from veil_conformance.attacks import modular
from veil_conformance.audit import secrecy
from veil_optimized import field, integrity, wire
from veil_optimized.enclave import Enclave
from veil_optimized.integrity import Check
from veil_optimized.profiles import Masking, Matrix
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import FrameKind

FIELDS: Final = (*constants.PRIMES, constants.LWE_MODULUS)
SHARES: Final = dict(zip(FIELDS, (0.3, 0.3, 0.3, 0.1), strict=True))
"""The part of each field in the counts: arithmetic over q takes longer."""
TAMPERED: Final = 10_000
"""Replies changed, over all fields and kinds."""
HONEST: Final = 1_000_000
"""Products left alone, over all fields."""
BATCH: Final = 10_000
"""Honest products checked with one key."""
ROWS: Final = 4
"""Rows of a reply."""
SIZE: Final = (12, 16)
"""Outputs and inner dimension of a layer."""
Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of random weights over one field; `nearly` is the same with one weight off by one."""

    weights: torch.Tensor
    nearly: torch.Tensor
    modulus: int

    def rows(self, draw: Draw, count: int) -> torch.Tensor:
        """Return uniform masked rows, int64 [count, inner]."""
        return torch.from_numpy(secrecy.uniform(count, self.weights.shape[1], self.modulus, draw))

    def honest(self, masked: torch.Tensor) -> torch.Tensor:
        """Return the product of masked rows, int64 [count, outputs]."""
        return field.multiply(masked, self.weights, self.modulus)


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of masked rows [n, inner] with its honest product [n, outputs], and the reply before it."""

    layer: Layer
    masked: torch.Tensor
    product: torch.Tensor
    earlier: torch.Tensor


Tamper = Callable[[Reply, Draw], torch.Tensor]


def layer(modulus: int, draw: Draw, size: tuple[int, int] = SIZE) -> Layer:
    """Return a layer of weights of 16 bits, or of 8 over q."""
    limit = 128 if modulus == constants.LWE_MODULUS else constants.WEIGHT_LIMIT
    weights = torch.from_numpy(draw.integers(1 - limit, limit, size)).to(torch.int16)
    nearly = weights.clone()
    nearly[int(draw.integers(size[0])), int(draw.integers(size[1]))] += 1
    return Layer(weights, nearly, modulus)


def _changed(reply: Reply, draw: Draw, change: Callable[[int], int]) -> torch.Tensor:
    """Return the product with one random element changed, as an unsigned word."""
    product = reply.product.clone()
    place = tuple(int(draw.integers(size)) for size in product.shape)
    word = change(int(product[place]) % 2**64)
    product[place] = word - 2**64 * (word >= 2**63)
    return product


def single_element(reply: Reply, draw: Draw) -> torch.Tensor:
    """Return the product with one element changed by any difference."""
    difference = int(draw.integers(1, reply.layer.modulus, dtype=np.uint64))
    return _changed(reply, draw, lambda word: (word + difference) % reply.layer.modulus)


def top_bit(reply: Reply, draw: Draw) -> torch.Tensor:
    """Return the product with the top bit of one element's last byte flipped."""
    bit = 8 * wire.element_bytes(reply.layer.modulus) - 1
    return _changed(reply, draw, lambda word: word ^ 2**bit)


def row_swap(reply: Reply, draw: Draw) -> torch.Tensor:
    """Return the product with two of its rows in each other's place."""
    first, second = draw.choice(len(reply.product), 2, replace=False).tolist()
    product = reply.product.clone()
    product[[first, second]] = product[[second, first]]
    return product


def replay(reply: Reply, draw: Draw) -> torch.Tensor:
    """Return the product of the message before."""
    return reply.earlier


def wrong_weights(reply: Reply, draw: Draw) -> torch.Tensor:
    """Return the product with weights of which one is off by one."""
    return field.multiply(reply.masked, reply.layer.nearly, reply.layer.modulus)


KINDS: Final[tuple[Tamper, ...]] = (single_element, top_bit, row_swap, replay, wrong_weights)


def replies(layer: Layer, draw: Draw, count: int) -> Iterator[Reply]:
    """Yield messages of fresh rows with their honest products."""
    masked = layer.rows(draw, (count + 1) * ROWS)
    products = torch.split(layer.honest(masked), ROWS)
    parts = list(zip(torch.split(masked, ROWS), products, strict=True))
    for (_, earlier), (rows, product) in pairwise(parts):
        yield Reply(layer, rows, product, earlier)


def outcome(check: Check, masked: torch.Tensor, product: torch.Tensor) -> str:
    """Return the name of the refusal that a reply meets, or `accepted`."""
    try:
        check.verify(masked, product)
    except Refused as refused:
        return str(refused.reason)
    return "accepted"


def outcomes(kind: Tamper, modulus: int, draw: Draw, count: int, vectors: int | None = None) -> Counter[str]:
    """Return how often each outcome was met; `vectors` cuts the check short."""
    made = layer(modulus, draw)
    check, met = fresh_check(made, draw, vectors), Counter[str]()
    for reply in replies(made, draw, count):
        product = kind(reply, draw)
        assert not torch.equal(product, reply.product)
        met[outcome(check, reply.masked, product)] += 1
    return met


def fresh_check(made: Layer, draw: Draw, vectors: int | None = None) -> Check:
    """Return a layer's check with a fresh secret, or with only so many of its secret vectors."""
    check = integrity.prepare(SeededTape(draw.bytes(constants.SEED_BYTES)), 0, made.weights, made.modulus)
    return integrity.check_of(check.vectors[:vectors], check.images[:vectors], made.modulus)


def table(met: dict[str, Counter[str]]) -> str:
    """Return the outcomes of each kind as lines of text."""
    return "\n".join(f"{kind:16}{dict(counts)}" for kind, counts in met.items())


@pytest.mark.requirement("INT-R4")
def test_every_tampered_reply_is_refused_by_name() -> None:
    draw, met = np.random.default_rng(), dict[str, Counter[str]]()
    for kind in KINDS:
        counts = {modulus: round(share * TAMPERED / len(KINDS)) for modulus, share in SHARES.items()}
        parts = (outcomes(kind, modulus, draw, count) for modulus, count in counts.items())
        met[kind.__name__] = sum(parts, Counter[str]())
    print(table(met))
    assert all(sum(counts.values()) == TAMPERED // len(KINDS) >= 1000 for counts in met.values())
    outside = met["top_bit"].pop(str(Refusal.NOT_IN_FIELD), 0)
    assert sum(counts[str(Refusal.CHECK_FAILED)] for counts in met.values()) + outside == TAMPERED


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize("modulus", FIELDS)
def test_no_honest_product_is_refused(modulus: int) -> None:
    draw, met = np.random.default_rng(), Counter[str]()
    for _ in range(round(SHARES[modulus] * HONEST / BATCH)):
        made = layer(modulus, draw)
        masked = made.rows(draw, BATCH)
        masked[:2] = torch.tensor([[0], [modulus - 1 - 2**64 * (modulus > 2**63)]])
        met[outcome(fresh_check(made, draw), masked, made.honest(masked))] += BATCH
    assert met == {"accepted": round(SHARES[modulus] * HONEST)}


def test_the_counts_are_those_that_are_claimed() -> None:
    assert sum(round(share * TAMPERED / len(KINDS)) for share in SHARES.values()) * len(KINDS) == 10**4
    assert sum(round(share * HONEST / BATCH) for share in SHARES.values()) * BATCH == 10**6


def test_no_honest_product_of_a_layer_as_wide_as_a_models_is_refused() -> None:
    draw = np.random.default_rng()
    for modulus in FIELDS:
        made = layer(modulus, draw, (96, 1536))
        masked = made.rows(draw, 100)
        assert outcome(fresh_check(made, draw), masked, made.honest(masked)) == "accepted"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_negative_control_without_secret_vectors_tampered_replies_pass(kind: Tamper) -> None:
    """The same harness counts accepted replies where the check has no vector to check with."""
    met = outcomes(kind, constants.PRIMES[2], np.random.default_rng(), 50, vectors=0)
    assert met["accepted"] + (kind is top_bit) * met[str(Refusal.NOT_IN_FIELD)] == 50
    assert met["accepted"] > 0


@pytest.mark.parametrize("modulus", FIELDS)
def test_negative_control_who_knows_the_secret_vectors_passes_the_check(modulus: int) -> None:
    """An error that every secret vector maps to 0 is accepted, and caught by a fresh secret."""
    draw = np.random.default_rng()
    made, seed = layer(modulus, draw), draw.bytes(constants.SEED_BYTES)
    secret = integrity.challenge(SeededTape(seed), 0, SIZE[0], modulus).numpy()
    error = modular.null_vectors(secret, modulus)[:, 0]
    masked = made.rows(draw, 1)
    wrong = torch.from_numpy(modular.added(made.honest(masked).numpy(), error[None], modulus))
    known = integrity.prepare(SeededTape(seed), 0, made.weights, modulus)
    assert outcome(known, masked, wrong) == "accepted"
    assert outcome(fresh_check(made, draw), masked, wrong) == str(Refusal.CHECK_FAILED)


@dataclass(frozen=True, slots=True)
class Layers:
    """Linear groups without a model around them."""

    groups: Sequence[Matrix]
    digest: bytes = bytes(32)


class Host:
    """A worker in this process that tampers with one reply: the second one."""

    def __init__(self, made: Layer, kind: Tamper | None, draw: Draw) -> None:
        self.layers = Layers([Matrix(0, made.weights, made.modulus)])
        self._worker = Worker(place(self.layers, "cpu"), self.layers.digest)
        self._made, self._kind, self._draw = made, kind, draw
        self._earlier: torch.Tensor | None = None

    def handle(self, data: bytes) -> list[bytes]:
        """Return the answer to one frame."""
        answers = list(self._worker.handle(data))
        asked, answer = wire.decode(data), wire.decode(answers[0])
        if answer.kind is not FrameKind.PRODUCT or self._kind is None:
            return answers
        masked, product = (self._elements(frame.payload, frame.rows) for frame in (asked, answer))
        earlier, self._earlier = self._earlier, product
        if earlier is None:
            return answers
        tampered = self._kind(Reply(self._made, masked, product, earlier), self._draw)
        return [wire.encode(replace(answer, payload=wire.pack(tampered.numpy(), self._made.modulus)))]

    def _elements(self, payload: bytes, rows: int) -> torch.Tensor:
        count = len(payload) // wire.element_bytes(self._made.modulus)
        return torch.from_numpy(wire.unpack(payload, count, self._made.modulus).copy()).reshape(rows, -1)


def asked_twice(made: Layer, kind: Tamper | None, draw: Draw, check: bool = True) -> tuple[str, Enclave]:
    """Return what an enclave met when it asked a worker for two products, and the enclave."""
    host = Host(made, kind, draw)
    channel = Channel(LocalTransport(host.handle), bytes(constants.EPOCH_BYTES))
    enclave = Enclave(host.layers, channel, Masking(check=check))  # type: ignore[arg-type]
    enclave.open()
    try:
        for _ in range(2):
            rows = torch.from_numpy(draw.integers(-32767, 32768, (ROWS, made.weights.shape[1])))
            enclave.products(host.layers.groups[0], rows)  # type: ignore[arg-type]
    except Refused as refused:
        return str(refused.reason), enclave
    return "accepted", enclave


@pytest.mark.requirement("INT-P1")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_enclave_refuses_each_kind_by_name_and_ends_the_epoch(kind: Tamper) -> None:
    draw = np.random.default_rng()
    for modulus in constants.PRIMES:
        for _ in range(20):
            made = layer(modulus, draw)
            met, enclave = asked_twice(made, kind, draw)
            outside = kind is top_bit and met == Refusal.NOT_IN_FIELD
            assert (met == Refusal.CHECK_FAILED or outside) and enclave.channel.ended
            assert enclave.checked == 1


def test_negative_control_an_honest_worker_and_one_that_nobody_checks_are_not_refused() -> None:
    draw = np.random.default_rng()
    for modulus in constants.PRIMES:
        assert asked_twice(layer(modulus, draw), None, draw)[0] == "accepted"
        assert asked_twice(layer(modulus, draw), single_element, draw, check=False)[0] == "accepted"
