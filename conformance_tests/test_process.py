"""The stream between enclave and worker: lying, silent, killed and honest workers, and what gets recorded."""

import itertools
import os
import signal
import socket
import stat
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import grpc
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from veil_optimized import launching, sockets, transcript, wire, worker
from veil_optimized.serving import Answer, Server
from veil_optimized.session import Channel, Exchange
from veil_optimized.transport import (
    MESSAGE_LIMIT,
    METHOD,
    LocalTransport,
    RecordingTransport,
    RemoteTransport,
    StreamLost,
)
from veil_optimized.worker import Placed, Worker
from veil_reference import wire as reference
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

DIGEST = bytes(range(32))
EPOCH = bytes(range(16))
OTHER_EPOCH = bytes(range(1, 17))
ZEROS = (0, 0, 0, 0, 0, 0, 0)
MODULI = constants.PRIMES
REFUSAL_BYTES = wire.encode(wire.REFUSAL)


@dataclass(frozen=True)
class RandomModel:
    """Groups of random weights, one for each field."""

    groups: Sequence[Placed]
    digest: bytes


def random_weights(outputs: int, inner: int, seed: int) -> torch.Tensor:
    """Return integers, int16 [outputs, inner]."""
    generator = torch.Generator().manual_seed(seed)
    limit = constants.WEIGHT_LIMIT
    return torch.randint(-limit, limit + 1, (outputs, inner), generator=generator).to(torch.int16)


def random_model() -> RandomModel:
    """Return a model of three groups, [5, 7], [6, 9] and [7, 11]."""
    shapes = ((5, 7), (6, 9), (7, 11))
    groups = [Placed(random_weights(*shape, seed), MODULI[seed]) for seed, shape in enumerate(shapes)]
    return RandomModel(groups, DIGEST)


def random_elements(rows: int, columns: int, modulus: int, seed: int = 0) -> torch.Tensor:
    """Return field elements, int64 [rows, columns], the largest one among them."""
    generator = torch.Generator().manual_seed(seed)
    elements = torch.randint(0, modulus, (rows, columns), generator=generator)
    elements[-1, -1] = modulus - 1
    return elements


def exact_product(elements: torch.Tensor, weights: torch.Tensor, modulus: int) -> list[list[int]]:
    """Return the product mod p in Python integers."""
    integers = [[int(w) for w in row] for row in weights.tolist()]
    return [
        [sum(x * w for x, w in zip(row, channel, strict=True)) % modulus for channel in integers]
        for row in elements.tolist()
    ]


def refusal_of(action: Callable[[], object]) -> Refusal:
    """Return the name under which an action is refused."""
    with pytest.raises(Refused) as caught:
        action()
    return caught.value.reason


class Tap:
    """A transport in this process that keeps what passes and may rewrite the worker's frames.

    `fragile` ones may be opened again, with a worker that knows nothing of the stream before.
    """

    def __init__(
        self, rewrite: Callable[[list[bytes]], list[bytes]] = lambda frames: frames, fragile: bool = False
    ) -> None:
        self._weights = worker.place(random_model(), "cpu")
        self.fragile = fragile
        self.streams = 1
        self.worker = Worker(self._weights, DIGEST)
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.closed = 0
        self._rewrite = rewrite
        self._inner = LocalTransport(self._handle)

    def _handle(self, data: bytes) -> list[bytes]:
        replies = list(self.worker.handle(data))
        return self._rewrite(replies) if replies else replies

    def send(self, data: bytes) -> None:
        """Keep and pass on."""
        self.sent.append(data)
        self._inner.send(data)

    def receive(self) -> bytes:
        """Pass on and keep."""
        self.received.append(self._inner.receive())
        return self.received[-1]

    def reopen(self) -> None:
        """Start again with a fresh worker, where this is allowed."""
        if not self.fragile:
            self._inner.reopen()
        self.streams += 1
        self.worker = Worker(self._weights, DIGEST)
        self._inner = LocalTransport(self._handle)

    def close(self) -> None:
        """Count and pass on."""
        self.closed += 1
        self._inner.close()


def welcomed(tap: Tap) -> Channel:
    """Return a channel after its WELCOME."""
    channel = Channel(tap, EPOCH)
    channel.hello(DIGEST)
    return channel


# Two implementations, one format


numbers = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 2**16, 2**32 - 1, 2**32, -1])
frames = st.builds(
    Frame,
    kind=st.sampled_from(FrameKind),
    epoch=st.sampled_from([EPOCH, bytes(16), b"short"]),
    group=numbers,
    step=numbers,
    first_row=numbers,
    rows=numbers,
    total_rows=numbers,
    columns=numbers,
    element_bytes=st.sampled_from([0, 3, 4, 5, 6, 7, 8, -4]),
    payload=st.binary(max_size=40),
)


@st.composite
def pieces(draw: st.DrawFn) -> Frame:
    """Return a piece of a message that is in order."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    width, first, after = draw(st.sampled_from([4, 5, 6])), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    payload = draw(st.binary(min_size=rows * columns * width, max_size=rows * columns * width))
    kind = draw(st.sampled_from([FrameKind.MULTIPLY, FrameKind.PRODUCT]))
    group, step = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1))
    total = first + rows + after
    return Frame(kind, EPOCH, group, step, first, rows, total, columns, width, payload)


def outcome(action: Callable[[], object]) -> object:
    """Return the result or the name of the refusal; anything else is an error."""
    try:
        return action()
    except Refused as refused:
        return refused.reason


@given(pieces())
def test_a_piece_survives_the_wire_in_both_implementations(frame: Frame) -> None:
    data = wire.encode(frame)
    assert data == reference.encode(frame)
    assert wire.decode(data) == frame == reference.decode(data)


@given(frames)
@example(wire.REFUSAL)
@example(replace(wire.REFUSAL, payload=b"why"))
@example(replace(wire.REFUSAL, epoch=EPOCH))
@example(replace(wire.REFUSAL, step=1))
@example(replace(wire.REFUSAL, payload=bytes(constants.FRAME_LIMIT + 1), rows=1))
@example(Frame(FrameKind.PRODUCT, EPOCH, 0, 0, 0, 1, 2**28 + 1, 1, 4, bytes(4)))
@example(Frame(FrameKind.PRODUCT, EPOCH, 0, 0, 0, 1, 2**28, 1, 4, bytes(4)))
def test_both_implementations_encode_or_refuse_alike(frame: Frame) -> None:
    assert outcome(lambda: wire.encode(frame)) == outcome(lambda: reference.encode(frame))


@given(pieces(), st.data())
def test_both_implementations_decode_damaged_frames_alike_and_raise_nothing_but_refused(
    frame: Frame, data: st.DataObject
) -> None:
    damaged = bytearray(wire.encode(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, min(60, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for attempt in (bytes(damaged), cut, bytes(damaged) + b"\0"):
        assert outcome(partial(wire.decode, attempt)) == outcome(partial(reference.decode, attempt))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.lists(st.integers(0, 20), max_size=4))
def test_rows_are_those_of_the_message_whatever_its_frames_and_wherever_it_is_cut(
    frames: list[int], cuts: list[int]
) -> None:
    total, first = sum(frames), 0
    data = bytes(range(8 * total))
    about = (FrameKind.PRODUCT, EPOCH, 0, 0, 2, 4, total)
    message = wire.Reassembly(*about)
    for rows in frames:
        for frame in wire.pieces(about, first, data[8 * first : 8 * (first + rows)]):
            message.add(frame)
        first += rows
    edges = [0, *sorted(min(cut, total) for cut in cuts), total]
    for start, end in itertools.pairwise(edges):
        assert message.between(start, end) == data[8 * start : 8 * end]
    assert message.take() == data


@given(st.binary(max_size=200), st.booleans())
def test_decoding_any_bytes_raises_nothing_but_refused(data: bytes, with_start: bool) -> None:
    attempt = (constants.FRAME_MAGIC + wire.VERSION if with_start else b"") + data
    assert outcome(lambda: wire.decode(attempt)) == outcome(lambda: reference.decode(attempt))


@given(st.sampled_from(MODULI), st.lists(st.integers(-1, 2**48) | st.sampled_from([*MODULI, 2**63, 2**70])))
def test_both_implementations_pack_and_unpack_alike(modulus: int, elements: list[int]) -> None:
    packed = outcome(lambda: wire.pack(elements, modulus))
    assert packed == outcome(lambda: reference.pack(elements, modulus))
    if isinstance(packed, bytes):
        assert wire.unpack(packed, len(elements), modulus).tolist() == elements


@given(st.sampled_from(MODULI), st.binary(max_size=36), st.integers(0, 7))
@example(MODULI[2], (MODULI[2] - 1).to_bytes(6, "little"), 1)
@example(MODULI[2], MODULI[2].to_bytes(6, "little"), 1)
def test_both_implementations_unpack_any_bytes_alike(modulus: int, data: bytes, count: int) -> None:
    ours = outcome(lambda: wire.unpack(data, count, modulus).tolist())
    assert ours == outcome(lambda: reference.unpack(data, count, modulus))


@given(st.integers(1, 3), st.integers(200_000, 262_145), st.sampled_from([4, 5, 6]), st.integers(-1, 1))
def test_both_implementations_split_and_join_alike(rows: int, columns: int, width: int, excess: int) -> None:
    data = bytes(rows * columns * width + excess)
    arguments = (FrameKind.PRODUCT, EPOCH, 3, 4, columns, width)
    cut = outcome(lambda: wire.split(*arguments, data))
    assert cut == outcome(lambda: reference.split(*arguments, data))
    if isinstance(cut, list):
        assert wire.join(cut, *arguments, rows) == data == reference.join(cut, *arguments, rows)


@given(st.permutations(range(4)), st.sampled_from([4, 3, 5]), st.booleans())
def test_both_implementations_join_only_the_right_order(
    order: list[int], total: int, other_step: bool
) -> None:
    about = (FrameKind.PRODUCT, EPOCH, 3, 4)
    cut = [Frame(*about, row, 1, 4, 2, 5, bytes([row] * 10)) for row in order]
    if other_step:
        cut[2] = replace(cut[2], step=5)
    joined = outcome(lambda: wire.join(cut, *about, 2, 5, total))
    assert joined == outcome(lambda: reference.join(cut, *about, 2, 5, total))
    in_order = order == [0, 1, 2, 3] and total == 4 and not other_step
    assert (joined == b"".join(frame.payload for frame in cut)) == in_order


# A worker that lies


def altered(data: bytes, **changes: object) -> bytes:
    """Return the frame with other fields."""
    frame = wire.decode(data)
    return wire.encode(replace(frame, **changes))  # type: ignore[arg-type]


def with_byte(data: bytes, index: int, value: int) -> bytes:
    """Return the data with one byte replaced."""
    return data[:index] + bytes([value]) + data[index + 1 :]


def row_frames(reply: list[bytes]) -> list[bytes]:
    """Return the frames of a PRODUCT cut into single rows."""
    whole = wire.decode(reply[0])
    size = whole.columns * whole.element_bytes
    return [
        wire.encode(replace(whole, first_row=n, rows=1, payload=whole.payload[n * size : (n + 1) * size]))
        for n in range(whole.rows)
    ]


def outside_field(data: bytes) -> bytes:
    """Return the frame with its first element replaced by p."""
    frame = wire.decode(data)
    modulus = MODULI[frame.group]
    return altered(
        data, payload=modulus.to_bytes(frame.element_bytes, "little") + frame.payload[frame.element_bytes :]
    )


LIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], Refusal]] = {
    "truncates": (lambda reply: [reply[0][:-1]], Refusal.FRAME_TRUNCATED),
    "sends a header alone": (lambda reply: [reply[0][:53]], Refusal.FRAME_TRUNCATED),
    "sends a byte too many": (lambda reply: [reply[0] + b"\0"], Refusal.FRAME_TRUNCATED),
    "sends nothing": (lambda reply: [], Refusal.WORKER_LOST),
    "sends rubbish": (lambda reply: [b"\xff" * 80], Refusal.FRAME_MALFORMED),
    "leaves rows out": (lambda reply: row_frames(reply)[:-1], Refusal.WORKER_LOST),
    "repeats a row": (lambda reply: row_frames(reply)[:1] * 2, Refusal.FRAME_UNEXPECTED),
    "reorders rows": (lambda reply: row_frames(reply)[::-1], Refusal.FRAME_UNEXPECTED),
    "speaks another version": (lambda reply: [with_byte(reply[0], 6, 99)], Refusal.VERSION_MISMATCH),
    "answers another epoch": (lambda reply: [altered(reply[0], epoch=OTHER_EPOCH)], Refusal.FRAME_UNEXPECTED),
    "answers another step": (lambda reply: [altered(reply[0], step=9)], Refusal.FRAME_UNEXPECTED),
    "answers another group": (lambda reply: [altered(reply[0], group=0)], Refusal.FRAME_UNEXPECTED),
    "answers with other kind": (
        lambda reply: [altered(reply[0], kind=FrameKind.MULTIPLY)],
        Refusal.FRAME_UNEXPECTED,
    ),
    "promises more rows": (lambda reply: [altered(reply[0], total_rows=2**20)], Refusal.FRAME_UNEXPECTED),
    "swaps rows for columns": (
        lambda reply: [altered(reply[0], rows=7, total_rows=7, columns=3)],
        Refusal.FRAME_UNEXPECTED,
    ),
    "leaves the field": (lambda reply: [outside_field(reply[0])], Refusal.NOT_IN_FIELD),
    "announces a huge frame": (lambda reply: [with_byte(reply[0], 52, 0x80)], Refusal.FRAME_TOO_LARGE),
    "announces a huge message": (lambda reply: [with_byte(reply[0], 43, 0x7F)], Refusal.FRAME_TOO_LARGE),
    "refuses": (lambda reply: [REFUSAL_BYTES], Refusal.WORKER_LOST),
}


def caught(lie: Callable[[list[bytes]], list[bytes]]) -> tuple[Refusal, Tap]:
    """Return the name under which a lying product is refused, and what passed."""
    tap = Tap(lambda reply: lie(reply) if wire.decode(reply[0]).kind is FrameKind.PRODUCT else reply)
    channel = welcomed(tap)
    elements = random_elements(3, 11, MODULI[2])
    reason = refusal_of(lambda: channel.multiply(2, 8, elements, MODULI[2], 7))
    assert refusal_of(lambda: channel.multiply(2, 9, elements, MODULI[2], 7)) is Refusal.WORKER_LOST
    channel.close()
    return reason, tap


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_worker_is_refused_by_name(lie: str) -> None:
    rewrite, expected = LIES[lie]
    assert caught(rewrite)[0] is expected


@pytest.mark.requirement("WIR-P3")
def test_the_worker_sees_the_same_bytes_and_one_close_whatever_the_enclave_found() -> None:
    views = {(tuple(tap.sent), tap.closed) for _, tap in (caught(rewrite) for rewrite, _ in LIES.values())}
    honest = Tap()
    channel = welcomed(honest)
    channel.multiply(2, 8, random_elements(3, 11, MODULI[2]), MODULI[2], 7)
    channel.close()
    assert views == {(tuple(honest.sent), 1)}


@pytest.mark.requirement("WIR-P3")
def test_a_failure_of_the_caller_also_ends_the_epoch() -> None:
    tap = Tap()
    channel = welcomed(tap)
    bad = torch.full((1, 11), MODULI[2])
    assert refusal_of(lambda: channel.multiply(2, 0, bad, MODULI[2], 7)) is Refusal.NOT_IN_FIELD
    assert (len(tap.sent), tap.closed, channel.ended) == (1, 1, True)


# An honest exchange


@pytest.mark.requirement("WIR-P7")
@given(st.integers(0, 2), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_worker_answers_with_the_product_in_every_field(group: int, rows: int, step: int) -> None:
    model, modulus = random_model(), MODULI[group]
    outputs, inner = model.groups[group].weights.shape
    elements = random_elements(rows, inner, modulus, seed=rows)
    channel = welcomed(Tap())
    product = channel.multiply(group, step, elements, modulus, outputs)
    assert product.tolist() == exact_product(elements, model.groups[group].weights, modulus)


def test_a_message_of_many_frames_is_counted_and_comes_back_whole() -> None:
    tap = Tap()
    channel = welcomed(tap)
    elements = random_elements(40_000, 11, MODULI[2])
    product = channel.multiply(2, 0, elements, MODULI[2], 7)
    assert product[-1].tolist() == exact_product(elements[-1:], random_weights(7, 11, 2), MODULI[2])[0]
    assert (len(tap.sent), len(tap.received)) == (1 + 3, 1 + 3)
    assert max(map(len, tap.sent + tap.received)) <= constants.FRAME_LIMIT + wire.HEADER_BYTES
    assert channel.bytes_sent == sum(map(len, tap.sent))
    assert channel.bytes_received == sum(map(len, tap.received))
    assert channel.round_trips == 1


def test_an_answer_too_large_to_arrive_is_refused_before_anything_is_sent() -> None:
    tap = Tap()
    channel = welcomed(tap)
    elements = random_elements(1, 11, MODULI[2])
    too_wide = constants.FRAME_LIMIT // 6 + 1
    assert (
        refusal_of(lambda: channel.multiply(2, 0, elements, MODULI[2], too_wide)) is Refusal.FRAME_TOO_LARGE
    )
    assert len(tap.sent) == 1


# The handshake


def greeted(welcome: Frame) -> Refusal:
    """Return why an enclave refuses this answer to its HELLO; it must have sent nothing else."""
    tap = Tap(lambda reply: [wire.encode(welcome)])
    reason = refusal_of(lambda: Channel(tap, EPOCH).hello(DIGEST))
    assert (len(tap.sent), tap.closed) == (1, 1)
    return reason


@pytest.mark.requirement("WIR-P6")
def test_a_worker_with_another_model_is_refused() -> None:
    assert greeted(Frame(FrameKind.WELCOME, EPOCH, *ZEROS, bytes(32))) is Refusal.MODEL_MISMATCH


@pytest.mark.requirement("WIR-P6")
@pytest.mark.parametrize(("kind", "epoch"), [(FrameKind.HELLO, EPOCH), (FrameKind.WELCOME, OTHER_EPOCH)])
def test_another_frame_than_our_welcome_is_refused(kind: FrameKind, epoch: bytes) -> None:
    assert greeted(Frame(kind, epoch, *ZEROS, DIGEST)) is Refusal.FRAME_UNEXPECTED


@pytest.mark.requirement("WIR-P6")
def test_nothing_is_multiplied_before_a_welcome() -> None:
    tap = Tap()
    channel = Channel(tap, EPOCH)
    elements = random_elements(1, 11, MODULI[2])
    assert refusal_of(lambda: channel.multiply(2, 0, elements, MODULI[2], 7)) is Refusal.FRAME_UNEXPECTED
    assert tap.sent == []


# A worker that is sent nonsense

HELLO = wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, DIGEST))
ONE_ROW = Frame(FrameKind.MULTIPLY, EPOCH, 2, 0, 0, 1, 2, 11, 6, bytes(66))
NONSENSE = {
    "rubbish": [HELLO, b"rubbish"],
    "no HELLO": [wire.encode(replace(ONE_ROW, total_rows=1))],
    "two HELLOs": [HELLO, HELLO],
    "another epoch": [HELLO, wire.encode(replace(ONE_ROW, epoch=OTHER_EPOCH))],
    "an unknown group": [HELLO, wire.encode(replace(ONE_ROW, group=3))],
    "another inner dimension": [HELLO, wire.encode(replace(ONE_ROW, columns=10, payload=bytes(60)))],
    "another field's width": [HELLO, wire.encode(replace(ONE_ROW, element_bytes=5, payload=bytes(55)))],
    "an element outside the field": [
        HELLO,
        wire.encode(replace(ONE_ROW, total_rows=1, payload=b"\xff" * 66)),
    ],
    "a product": [HELLO, wire.encode(replace(ONE_ROW, kind=FrameKind.PRODUCT))],
    "a refusal": [HELLO, REFUSAL_BYTES],
    "a row twice": [HELLO, wire.encode(ONE_ROW), wire.encode(ONE_ROW)],
    "a second message inside the first": [HELLO, wire.encode(ONE_ROW), wire.encode(replace(ONE_ROW, step=1))],
}


@pytest.mark.requirement("WIR-P4")
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_worker_answers_nonsense_with_the_one_refusal_and_then_nothing(nonsense: str) -> None:
    peer = Worker(worker.place(random_model(), "cpu"), DIGEST)
    *before, last = NONSENSE[nonsense]
    for data in before:
        assert REFUSAL_BYTES not in list(peer.handle(data))
    assert list(peer.handle(last)) == [REFUSAL_BYTES]
    assert peer.ended
    assert list(peer.handle(HELLO)) == []


@pytest.mark.requirement("WIR-P4")
def test_a_worker_refuses_a_message_whose_answer_would_be_too_large() -> None:
    wide = {0: Placed(torch.ones(1000, 1, dtype=torch.int16), MODULI[2])}
    rows = constants.REPLY_LIMIT // 6000 + 1
    first = Frame(FrameKind.MULTIPLY, EPOCH, 0, 0, 0, 1, rows, 1, 6, bytes(6))
    peer = Worker(wide, DIGEST)
    assert len(list(peer.handle(HELLO))) == 1
    assert list(peer.handle(wire.encode(first))) == [REFUSAL_BYTES]
    allowed = Worker(wide, DIGEST)
    assert len(list(allowed.handle(HELLO))) == 1
    (answer,) = allowed.handle(wire.encode(replace(first, total_rows=rows - 1)))
    assert wire.decode(answer).kind is FrameKind.PRODUCT


def test_a_worker_with_another_model_says_so_and_ends() -> None:
    peer = Worker({}, bytes(32))
    assert [wire.decode(data).payload for data in peer.handle(HELLO)] == [bytes(32)]
    assert peer.ended


# Transcripts


def header() -> transcript.Header:
    """Return a header as an enclave writes it."""
    return transcript.Header(__version__, DIGEST, "rank", Fraction(9, 10), EPOCH, MODULI)


@pytest.mark.requirement("WIR-P1")
def test_a_transcript_is_exactly_what_passed(tmp_path: Path) -> None:
    tap, path = Tap(), tmp_path / "transcript"
    with Channel(RecordingTransport(tap, path, header()), EPOCH) as channel:
        channel.hello(DIGEST)
        inputs = random_elements(40_000, 9, MODULI[1])
        product = channel.multiply(1, 7, inputs, MODULI[1], 6)
    kept = transcript.read(path)
    assert kept.header == header()
    assert [(r.direction.name, r.data) for r in kept.records] == [
        ("TO_WORKER", tap.sent[0]),
        ("FROM_WORKER", tap.received[0]),
        *(("TO_WORKER", data) for data in tap.sent[1:]),
        *(("FROM_WORKER", data) for data in tap.received[1:]),
    ]
    message, answer = transcript.messages(kept)
    assert (message.kind, message.group, message.step) == (FrameKind.MULTIPLY, 1, 7)
    assert (message.elements == inputs.numpy()).all()
    assert (answer.elements == product.numpy()).all()


@pytest.mark.requirement("WIR-P1")
def test_a_transcript_has_the_documented_bytes(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    with transcript.Writer(path, replace(header(), m_over_d=None)) as writer:
        writer.record(transcript.Direction.FROM_WORKER, b"frame")
    data = path.read_bytes()
    length = int.from_bytes(data[8:12], "little")
    assert data[:8] == b"VEILTAPE"
    assert b'"m_over_d": null' in data[12 : 12 + length]
    assert data[12 + length :] == b"\x01\x05\0\0\0frame"


@pytest.mark.requirement("WIR-P1")
def test_a_frame_that_the_enclave_refuses_is_in_the_transcript(tmp_path: Path) -> None:
    tap, path = Tap(lambda reply: [b"rubbish"]), tmp_path / "transcript"
    channel = Channel(RecordingTransport(tap, path, header()), EPOCH)
    assert refusal_of(lambda: channel.hello(DIGEST)) is Refusal.FRAME_TRUNCATED
    assert [record.data for record in transcript.read(path).records] == [HELLO, b"rubbish"]


def short_transcript() -> tuple[bytes, set[int]]:
    """Return the bytes of a transcript of one frame, and the lengths at which a cut leaves a whole one."""
    encoded = transcript.encode_header(header())
    start = constants.TRANSCRIPT_MAGIC + len(encoded).to_bytes(4, "little") + encoded
    return start + b"\0" + len(HELLO).to_bytes(4, "little") + HELLO, {len(start)}


@given(st.integers(0, 399))
def test_a_transcript_cut_inside_a_record_is_refused(index: int) -> None:
    whole, ends = short_transcript()
    length = index % len(whole)
    assert (outcome(lambda: transcript.parse(whole[:length])) is Refusal.FRAME_MALFORMED) == (
        length not in ends
    )


@given(st.integers(0, 399), st.integers(0, 255))
def test_a_damaged_transcript_raises_nothing_but_refused(index: int, value: int) -> None:
    whole, _ = short_transcript()
    damaged = with_byte(whole, index % len(whole), value)
    outcome(lambda: list(transcript.messages(transcript.parse(damaged))))


# Real streams

DEADLINE_S = 0.5


@pytest.fixture(params=[launching.LOOPBACK, "unix:"], ids=["grpc", "unix"])
def place(request: pytest.FixtureRequest) -> str:
    """Return where to listen: at any free port of this machine, or at a Unix socket of its own."""
    return str(request.param)


@contextmanager
def served(answer: Answer, place: str) -> Iterator[str]:
    """Yield the address of a server in this process."""
    server = Server(answer, place)
    try:
        yield server.address
    finally:
        server.stop(0)


@contextmanager
def served_without_limits(answer: Answer) -> Iterator[str]:
    """Yield the address of a gRPC server that sends messages of any length."""
    _, service, method = METHOD.split("/")
    handler = grpc.stream_stream_rpc_method_handler(lambda requests, context: answer(requests))
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(launching.LOOPBACK)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def honest(requests: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what an honest worker answers."""
    peer = Worker(worker.place(random_model(), "cpu"), DIGEST)
    for data in requests:
        yield from peer.handle(data)


def slow(requests: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a WELCOME, then a right product row by row, a quarter of the deadline apart."""
    for reply in honest(requests):
        for piece in row_frames([reply]) if wire.decode(reply).rows else [reply]:
            time.sleep(DEADLINE_S / 4 if wire.decode(reply).rows else 0)
            yield piece


def silent(requests: Iterator[bytes]) -> Iterator[bytes]:
    """Yield nothing while the peer is there."""
    for _ in requests:
        yield from ()


@contextmanager
def connected(address: str, deadline_s: float = DEADLINE_S) -> Iterator[Channel]:
    """Yield a channel to an address."""
    with Channel(RemoteTransport(address, deadline_s), EPOCH) as channel:
        yield channel


def waited(action: Callable[[], object]) -> float:
    """Return the seconds until an action is refused with WORKER_LOST."""
    start = time.monotonic()
    assert refusal_of(action) is Refusal.WORKER_LOST
    return time.monotonic() - start


@pytest.mark.requirement("WIR-P2")
def test_a_silent_worker_is_given_up_at_the_deadline(place: str) -> None:
    with served(silent, place) as address, connected(address) as channel:
        assert DEADLINE_S * 0.9 < waited(lambda: channel.hello(DIGEST)) < DEADLINE_S + 3


@pytest.mark.requirement("WIR-P2")
def test_a_worker_that_sends_row_after_row_is_given_up_at_the_deadline(place: str) -> None:
    elements = random_elements(100, 11, MODULI[2])
    with served(slow, place) as address, connected(address) as channel:
        channel.hello(DIGEST)
        channel.resumed = constants.RESUME_LIMIT - 1
        elapsed = waited(lambda: channel.multiply(2, 0, elements, MODULI[2], 7))
        assert 2 * DEADLINE_S * 0.9 < elapsed < 2 * DEADLINE_S + 3
        assert channel.bytes_received > 2 * wire.HEADER_BYTES


@pytest.mark.requirement("WIR-P2")
def test_the_clock_runs_from_the_first_frame_sent_even_if_the_answer_is_there(place: str) -> None:
    with served(honest, place) as address:
        stream = RemoteTransport(address, DEADLINE_S)
        for _ in range(2):
            stream.send(HELLO)
            time.sleep(0.6 * DEADLINE_S)
        assert refusal_of(stream.receive) is Refusal.WORKER_LOST
        stream.close()


@pytest.mark.requirement("WIR-P2")
def test_time_between_exchanges_does_not_count(place: str) -> None:
    elements = random_elements(1, 11, MODULI[2])
    with served(honest, place) as address, connected(address) as channel:
        channel.hello(DIGEST)
        for step in range(2):
            time.sleep(1.5 * DEADLINE_S)
            assert channel.multiply(2, step, elements, MODULI[2], 7).shape == (1, 7)


def test_an_address_where_nobody_listens_is_a_lost_worker(place: str) -> None:
    with served(honest, place) as address:
        gone = address
    with connected(gone, 5.0) as channel:
        assert refusal_of(lambda: channel.hello(DIGEST)) is Refusal.WORKER_LOST


def test_a_stream_too_many_is_turned_away_at_once(place: str) -> None:
    with served(honest, place) as address, ExitStack() as stack:
        for _ in range(constants.STREAM_LIMIT):
            stack.enter_context(connected(address, 20.0)).hello(DIGEST)
        extra = stack.enter_context(connected(address, 20.0))
        assert waited(lambda: extra.hello(DIGEST)) < 10


def test_a_taken_address_is_refused(place: str) -> None:
    with served(honest, place) as address:
        assert refusal_of(lambda: Server(honest, address)) is Refusal.WORKER_LOST


# The file of a Unix socket


def test_a_socket_s_file_is_its_owner_s_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with served(honest, f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_a_path_has_a_folder_that_is_its_owner_s_alone() -> None:
    with served(honest, "unix:") as address:
        folder = Path(address.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_file_that_a_killed_worker_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with served(honest, f"unix:{path}") as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    path.write_text("mine")
    assert refusal_of(lambda: Server(honest, f"unix:{path}")) is Refusal.WORKER_LOST
    assert path.read_text() == "mine"


def framed(data: bytes) -> list[bytes]:
    """Return what is read of a socket on which these bytes arrive before it ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs:
        with ours:
            ours.sendall(data)
        return list(sockets.frames(theirs))


WHOLE = [HELLO, wire.encode(ONE_ROW), wire.encode(wire.REFUSAL)]


@pytest.mark.requirement("WIR-P9")
@given(st.lists(st.sampled_from(WHOLE), max_size=4), st.binary(max_size=120))
def test_whole_frames_are_read_as_they_were_sent_and_half_ones_never(sent: list[bytes], rest: bytes) -> None:
    found = framed(b"".join(sent) + rest)
    assert found[: len(sent)] == sent
    for frame in found[len(sent) :]:
        assert rest.startswith(frame)
        rest = rest[len(frame) :]


@pytest.mark.requirement("WIR-P9")
@given(st.integers(0, wire.HEADER_BYTES - 1), st.integers(0, 255))
def test_a_damaged_header_is_read_with_the_payload_that_it_states_or_alone(place: int, value: int) -> None:
    damaged = with_byte(WHOLE[1], place, value)
    found = framed(damaged)
    stated = int.from_bytes(damaged[wire.HEADER_BYTES - 4 : wire.HEADER_BYTES], "little")
    if damaged[:4] != constants.FRAME_MAGIC or stated > constants.FRAME_LIMIT:
        assert found[0] == damaged[: wire.HEADER_BYTES]
    elif wire.HEADER_BYTES + stated <= len(damaged):
        assert found[0] == damaged[: wire.HEADER_BYTES + stated]
    else:
        assert found == []


# A stream that breaks


class Breaking(Tap):
    """A tap whose every stream may break: `lasts` says after how many frames either way, stream by stream."""

    def __init__(self, lasts: Sequence[int | None]) -> None:
        super().__init__(fragile=True)
        self.opened: list[list[bytes]] = [[]]
        self._lasts = iter([*lasts, *[None] * 9])
        self._left = next(self._lasts)

    def _wear(self) -> None:
        if self._left == 0:
            raise StreamLost("broken")
        self._left = None if self._left is None else self._left - 1

    def send(self, data: bytes) -> None:
        """Send, or break."""
        self._wear()
        self.opened[-1].append(data)
        super().send(data)

    def receive(self) -> bytes:
        """Receive, or break."""
        self._wear()
        return super().receive()

    def reopen(self) -> None:
        """Start the next stream."""
        super().reopen()
        self.opened.append([])
        self._left = next(self._lasts)


WIDE = random_elements(40_000, 11, MODULI[2])
"""A message of 3 frames, and of 3 answers."""
STREAM_FRAMES = 2 + 3 + 3
"""HELLO, WELCOME, MULTIPLY and PRODUCT of `WIDE`."""


def sent_once() -> list[bytes]:
    """Return what an unbroken stream sends for one exchange."""
    tap = Tap()
    welcomed(tap).multiply(2, 8, WIDE, MODULI[2], 7)
    return tap.sent


@pytest.mark.requirement("WIR-P8")
def test_a_stream_that_breaks_anywhere_is_opened_again_and_the_same_frames_are_sent() -> None:
    whole = sent_once()
    expected = welcomed(Tap()).multiply(2, 8, WIDE, MODULI[2], 7)
    for lasts in range(2, STREAM_FRAMES):
        tap = Breaking([lasts])
        channel = welcomed(tap)
        assert torch.equal(channel.multiply(2, 8, WIDE, MODULI[2], 7), expected)
        first, second = tap.opened
        assert (first, second) == (whole[: max(1, min(lasts - 1, 4))], whole)
        assert (channel.resumed, channel.round_trips) == (1, 1)


@pytest.mark.requirement("WIR-P8")
@given(st.lists(st.integers(0, 3), max_size=5))
@settings(max_examples=30)
@example([0, 1, 2])
def test_every_stream_of_an_epoch_begins_what_the_first_one_sent(lasts: list[int]) -> None:
    row, whole = random_elements(1, 11, MODULI[2]), Tap()
    welcomed(whole).multiply(2, 8, row, MODULI[2], 7)
    tap = Breaking([2, *lasts])
    channel = welcomed(tap)
    answer = outcome(lambda: channel.multiply(2, 8, row, MODULI[2], 7))
    assert (answer is Refusal.WORKER_LOST) == (len(lasts) >= constants.RESUME_LIMIT)
    assert channel.resumed == min(1 + len(lasts), constants.RESUME_LIMIT) == len(tap.opened) - 1
    assert all(sent == whole.sent[: len(sent)] for sent in tap.opened)


# Exchanges that overlap


ROWS_OF_PARTS = random_elements(8, 11, MODULI[2])


def overlapping(channel: Channel) -> list[torch.Tensor]:
    """Return the products of two exchanges of two parts each: the second begins before the first has ended.

    Two sequences that take turns send like this.
    """
    products = list[torch.Tensor]()
    last: tuple[Exchange, int] | None = None
    for step in range(2):
        exchange = channel.begin(2, step, 4, 11, 7, MODULI[2])
        for rows in torch.split(ROWS_OF_PARTS[4 * step : 4 * step + 4], [1, 3]):
            channel.send(exchange, wire.pack(rows.numpy(), MODULI[2]))
            if last is not None:
                products.append(channel.receive(*last, MODULI[2]))
            last = exchange, len(rows)
    assert last is not None
    return [*products, channel.receive(*last, MODULI[2])]


@pytest.mark.requirement("WIR-P7")
def test_overlapping_exchanges_give_the_products_of_those_that_follow_one_another(place: str) -> None:
    expected = exact_product(ROWS_OF_PARTS, random_weights(7, 11, 2), MODULI[2])
    with served(honest, place) as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)
        assert torch.cat(overlapping(channel)).tolist() == expected
        assert channel.round_trips == 2


@pytest.mark.requirement("WIR-P7")
def test_a_worker_that_answers_whole_messages_alone_serves_overlapping_exchanges() -> None:
    kept = list[bytes]()

    def late(replies: list[bytes]) -> list[bytes]:
        kept.extend(replies)
        if not wire.ends_a_message(kept[-1]):
            return []
        whole, kept[:] = list(kept), []
        return whole

    expected = exact_product(ROWS_OF_PARTS, random_weights(7, 11, 2), MODULI[2])
    assert torch.cat(overlapping(welcomed(Tap(late)))).tolist() == expected


@pytest.mark.requirement("WIR-P8")
def test_overlapping_exchanges_survive_a_break_anywhere_and_send_the_same_frames_again() -> None:
    whole = Tap()
    expected = overlapping(welcomed(whole))
    for lasts in range(2, 10):
        tap = Breaking([lasts])
        channel = welcomed(tap)
        assert all(map(torch.equal, overlapping(channel), expected))
        first, second = tap.opened
        begun = whole.sent[: len(first)]
        assert first == begun and second[0] == HELLO
        assert second[1:] == whole.sent[len(whole.sent) - len(second) + 1 :]
        assert (channel.resumed, channel.round_trips) == (1, 2)


@pytest.mark.requirement("WIR-P2")
def test_the_next_exchange_gives_the_one_before_no_more_time(place: str) -> None:
    def stuck(requests: Iterator[bytes]) -> Iterator[bytes]:
        for data in requests:
            if wire.decode(data).step == 0:
                yield from list(honest(iter([HELLO, data])))[-1:] if wire.decode(data).rows == 1 else ()
            if wire.decode(data).kind is FrameKind.HELLO:
                yield from honest(iter([data]))

    with served(stuck, place) as address, connected(address) as channel:
        channel.hello(DIGEST)
        channel.resumed = constants.RESUME_LIMIT
        exchange = channel.begin(2, 0, 4, 11, 7, MODULI[2])
        channel.send(exchange, wire.pack(ROWS_OF_PARTS[:1].numpy(), MODULI[2]))
        channel.send(exchange, wire.pack(ROWS_OF_PARTS[1:4].numpy(), MODULI[2]))
        channel.receive(exchange, 1, MODULI[2])
        time.sleep(0.7 * DEADLINE_S)
        following = channel.begin(2, 1, 4, 11, 7, MODULI[2])
        channel.send(following, wire.pack(ROWS_OF_PARTS[4:5].numpy(), MODULI[2]))
        assert waited(lambda: channel.receive(exchange, 3, MODULI[2])) < 0.9 * DEADLINE_S


@pytest.mark.requirement("WIR-P1")
def test_a_transcript_of_overlapping_exchanges_is_read_message_by_message(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    with Channel(RecordingTransport(Tap(), path, header()), EPOCH) as channel:
        channel.hello(DIGEST)
        products = overlapping(channel)
    found = list(transcript.messages(transcript.read(path)))
    assert [(message.kind.name, message.step) for message in found] == [
        ("MULTIPLY", 0),
        ("PRODUCT", 0),
        ("MULTIPLY", 1),
        ("PRODUCT", 1),
    ]
    assert found[1].elements.tolist() == torch.cat(products[:2]).tolist()


@pytest.mark.requirement("WIR-P8")
def test_the_limit_counts_all_exchanges_of_an_epoch() -> None:
    one_row = random_elements(1, 11, MODULI[2])
    tap = Breaking([4] * 9)
    channel = welcomed(tap)
    for step in range(1 + constants.RESUME_LIMIT):
        channel.multiply(2, step, one_row, MODULI[2], 7)
    assert refusal_of(lambda: channel.multiply(2, 9, one_row, MODULI[2], 7)) is Refusal.WORKER_LOST
    assert (channel.resumed, len(tap.opened), channel.ended) == (3, 4, True)


@pytest.mark.requirement("WIR-P8")
@pytest.mark.parametrize("lie", LIES)
def test_a_refused_answer_is_never_asked_for_again(lie: str) -> None:
    rewrite, expected = LIES[lie]
    tap = Tap(
        lambda reply: rewrite(reply) if wire.decode(reply[0]).kind is FrameKind.PRODUCT else reply, True
    )
    channel = welcomed(tap)
    elements = random_elements(3, 11, MODULI[2])
    assert refusal_of(lambda: channel.multiply(2, 8, elements, MODULI[2], 7)) is expected
    silent = lie in ("sends nothing", "leaves rows out")
    assert (tap.streams, channel.resumed) == ((4, 3) if silent else (1, 0))
    assert len(tap.sent) == 2 * tap.streams


@pytest.mark.requirement("WIR-P8")
@pytest.mark.parametrize("excess", [0, 1, 2**20])
def test_a_message_longer_than_a_frame_is_refused_and_no_reason_to_send_again(excess: int) -> None:
    streams = []

    def long_winded(requests: Iterator[bytes]) -> Iterator[bytes]:
        streams.append(1)
        for reply in honest(requests):
            yield reply if wire.decode(reply).kind is FrameKind.WELCOME else bytes(MESSAGE_LIMIT + excess)

    with (
        served_without_limits(long_winded) as address,
        Channel(RemoteTransport(address, deadline_s=20), EPOCH) as channel,
    ):
        channel.hello(DIGEST)
        answer = outcome(lambda: channel.multiply(2, 8, random_elements(1, 11, MODULI[2]), MODULI[2], 7))
        expected = Refusal.FRAME_TOO_LARGE if excess else Refusal.FRAME_MALFORMED
        assert (answer, len(streams), channel.resumed, channel.ended) == (expected, 1, 0, True)


@pytest.mark.requirement("WIR-P8")
@pytest.mark.parametrize("length", [constants.FRAME_LIMIT + 1, 2**32 - 1])
def test_a_header_that_promises_more_than_a_frame_is_refused_before_more_is_read(length: int) -> None:
    def promising(requests: Iterator[bytes]) -> Iterator[bytes]:
        for reply in honest(requests):
            greeting = wire.decode(reply).kind is FrameKind.WELCOME
            yield reply if greeting else reply[: wire.HEADER_BYTES - 4] + length.to_bytes(4, "little")

    with served(promising, "unix:") as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)
        answer = outcome(lambda: channel.multiply(2, 8, random_elements(1, 11, MODULI[2]), MODULI[2], 7))
        assert (answer, channel.resumed, channel.ended) == (Refusal.FRAME_TOO_LARGE, 0, True)


@pytest.mark.requirement("WIR-P8")
def test_a_refusal_before_the_whole_message_was_sent_is_no_broken_stream(place: str) -> None:
    def hasty(requests: Iterator[bytes]) -> Iterator[bytes]:
        for data in requests:
            if wire.decode(data).kind is FrameKind.HELLO:
                yield from honest(iter([data]))
            else:
                yield wire.encode(wire.REFUSAL)
                return

    with served(hasty, place) as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)
        assert waited(lambda: channel.multiply(2, 8, WIDE, MODULI[2], 7)) < 10
        assert (channel.resumed, channel.ended) == (0, True)


@pytest.mark.requirement("WIR-P7")
def test_messages_of_several_frames_cross_whole(place: str) -> None:
    with served(honest, place) as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)
        for step in range(3):
            product = channel.multiply(2, step, WIDE, MODULI[2], 7)
            assert torch.equal(product, welcomed(Tap()).multiply(2, step, WIDE, MODULI[2], 7))


@pytest.mark.requirement("WIR-P8")
def test_a_greeting_that_fails_is_not_tried_again() -> None:
    tap = Tap(lambda reply: [], fragile=True)
    assert refusal_of(lambda: Channel(tap, EPOCH).hello(DIGEST)) is Refusal.WORKER_LOST
    assert (tap.streams, len(tap.sent), tap.closed) == (1, 1, 1)


@pytest.mark.requirement("WIR-P6")
def test_a_worker_that_comes_back_with_another_model_gets_no_activation() -> None:
    tap = Breaking([2])
    channel = welcomed(tap)
    replies = iter([wire.encode(Frame(FrameKind.WELCOME, EPOCH, *ZEROS, bytes(32)))])
    tap._rewrite = lambda reply: list(replies)
    assert refusal_of(lambda: channel.multiply(2, 8, WIDE, MODULI[2], 7)) is Refusal.MODEL_MISMATCH
    assert (tap.opened, channel.ended) == ([[HELLO], [HELLO]], True)


@pytest.mark.requirement("WIR-P1")
def test_a_transcript_holds_the_streams_of_an_epoch_one_after_the_other(tmp_path: Path) -> None:
    tap, path = Breaking([3, 3]), tmp_path / "transcript"
    with Channel(RecordingTransport(tap, path, header()), EPOCH) as channel:
        channel.hello(DIGEST)
        channel.multiply(2, 8, WIDE, MODULI[2], 7)
    kept = transcript.read(path)
    sent = [r.data for r in kept.records if r.direction is transcript.Direction.TO_WORKER]
    whole = sent_once()
    assert sent == [*whole[:3], *whole[:3], *whole]
    assert [message.kind.name for message in transcript.messages(kept)] == ["MULTIPLY", "PRODUCT"]


# What a peer can hold


@contextmanager
def impatient(answer: Answer, place: str, idle_s: float) -> Iterator[str]:
    """Yield the address of a server that ends silent streams soon."""
    server = Server(answer, place, idle_s=idle_s)
    try:
        yield server.address
    finally:
        server.stop(0)


@pytest.mark.requirement("WIR-P9")
def test_silent_peers_lose_their_streams_to_others(place: str) -> None:
    with impatient(honest, place, 0.6) as address, ExitStack() as stack:
        silent = [stack.enter_context(connected(address, 20.0)) for _ in range(constants.STREAM_LIMIT)]
        for channel in silent:
            channel.hello(DIGEST)
        with connected(address, 20.0) as extra:
            assert waited(lambda: extra.hello(DIGEST)) < 0.5
        time.sleep(1.0)
        with connected(address, 20.0) as extra:
            extra.hello(DIGEST)
            elements = random_elements(1, 11, MODULI[2])
            silent[0].multiply(2, 0, elements, MODULI[2], 7)
            assert (silent[0].resumed, silent[0].round_trips) == (1, 1)


@pytest.mark.requirement("WIR-P9")
def test_a_peer_that_takes_no_answer_loses_its_stream(place: str) -> None:
    ended = threading.Event()

    def generous(requests: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for _ in requests:
                while True:
                    yield bytes(constants.FRAME_LIMIT)
        finally:
            ended.set()

    with impatient(generous, place, 0.6) as address:
        stream = RemoteTransport(address, 30.0)
        stream.send(HELLO)
        assert ended.wait(10)
        stream.close()


@pytest.mark.requirement("WIR-P9")
def test_the_time_that_a_worker_takes_is_not_the_silence_of_its_peer(place: str) -> None:
    def busy(requests: Iterator[bytes]) -> Iterator[bytes]:
        for reply in honest(requests):
            time.sleep(1.2)
            yield reply

    with impatient(busy, place, 0.6) as address, connected(address, 20.0) as channel:
        channel.hello(DIGEST)
        channel.multiply(2, 0, random_elements(1, 11, MODULI[2]), MODULI[2], 7)
        assert channel.resumed == 0


@pytest.mark.requirement("WIR-P9")
def test_a_promise_of_many_rows_takes_no_memory_before_they_are_sent() -> None:
    peer = Worker(worker.place(random_model(), "cpu"), DIGEST)
    assert len(list(peer.handle(HELLO))) == 1
    rows = constants.REPLY_LIMIT // 66
    sent = [wire.encode(replace(ONE_ROW, first_row=row, total_rows=rows)) for row in range(1000)]
    tracemalloc.start()
    try:
        assert sum(len(list(peer.handle(data))) for data in sent) == len(sent)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * sum(map(len, sent))


# The end of a server


@pytest.mark.requirement("WIR-P10")
def test_a_server_that_stops_ends_streams_between_exchanges_at_once(place: str) -> None:
    server = Server(honest, place)
    with connected(server.address, 20.0) as channel:
        channel.hello(DIGEST)
        channel.multiply(2, 0, random_elements(1, 11, MODULI[2]), MODULI[2], 7)
        start = time.monotonic()
        server.stop(20.0)
        assert time.monotonic() - start < 5


@pytest.mark.requirement("WIR-P10")
def test_an_exchange_that_does_not_end_is_ended_after_the_grace(place: str) -> None:
    server = Server(honest, place)
    stream = RemoteTransport(server.address, 20.0)
    for data in (HELLO, wire.encode(ONE_ROW)):
        stream.send(data)
    kinds = [wire.decode(stream.receive()).kind for _ in range(2)]
    assert kinds == [FrameKind.WELCOME, FrameKind.PRODUCT]
    time.sleep(0.2)
    start = time.monotonic()
    server.stop(1.0)
    assert 0.9 < time.monotonic() - start < 5
    assert refusal_of(stream.receive) is Refusal.WORKER_LOST
    stream.close()


# Real processes

SCRIPT = """
import sys, types, torch
from veil_optimized import worker
from veil_spec.constants import PRIMES
groups = [worker.Placed(*pair) for pair in zip(torch.load(sys.argv[1]), PRIMES)]
model = types.SimpleNamespace(groups=groups, digest=bytes(range(32)))
worker.serve_until_told(model, sys.argv[2], worker.announce, "cpu", True)
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Return what starts a worker process that holds the random groups; an address may follow."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    torch.save([group.weights for group in random_model().groups], tmp_path / "groups")
    return [sys.executable, "-P", "-c", SCRIPT, str(tmp_path / "groups")]


@pytest.fixture
def process(command: Sequence[str], place: str) -> Iterator[launching.Running]:
    """Yield a worker process that holds the random groups."""
    running = launching.launch([*command, place])
    yield running
    running.stop()


@pytest.mark.requirement("WIR-P7")
def test_a_worker_process_multiplies_in_every_field_and_ends_cleanly_when_told(
    process: launching.Running,
) -> None:
    model = random_model()
    with connected(process.address, 30.0) as channel:
        channel.hello(DIGEST)
        for number, group in enumerate(model.groups):
            outputs, inner = group.weights.shape
            elements = random_elements(3, inner, group.modulus)
            product = channel.multiply(number, 0, elements, group.modulus, outputs)
            assert product.tolist() == exact_product(elements, group.weights, group.modulus)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(20) == 0


@pytest.mark.requirement("WIR-P2")
def test_a_killed_worker_process_is_a_lost_worker(process: launching.Running) -> None:
    elements = random_elements(1, 11, MODULI[2])
    with connected(process.address, 3.0) as channel:
        channel.hello(DIGEST)
        process.process.kill()
        process.process.wait()
        assert 2.7 < waited(lambda: channel.multiply(2, 0, elements, MODULI[2], 7)) < 10
        assert (channel.ended, channel.resumed) == (True, 1)


@pytest.mark.requirement("WIR-P8")
def test_a_killed_worker_process_that_comes_back_is_asked_again(
    process: launching.Running, command: Sequence[str], tmp_path: Path
) -> None:
    elements, path = random_elements(3, 11, MODULI[2]), tmp_path / "transcript"
    transport = RecordingTransport(RemoteTransport(process.address, 30.0), path, header())
    with Channel(transport, EPOCH) as channel:
        channel.hello(DIGEST)
        first = channel.multiply(2, 0, elements, MODULI[2], 7)
        process.process.kill()
        process.process.wait()
        following = launching.launch([*command, process.address])
        try:
            assert torch.equal(channel.multiply(2, 0, elements, MODULI[2], 7), first)
        finally:
            following.stop()
        assert channel.resumed == 1
    records = transcript.read(path).records
    sent = [record.data for record in records if record.direction is transcript.Direction.TO_WORKER]
    assert sent in ([HELLO, sent[1], HELLO, sent[1]], [HELLO, sent[1], sent[1], HELLO, sent[1]])


@pytest.mark.requirement("WIR-P10")
def test_a_worker_process_that_is_told_to_end_answers_what_was_begun_and_takes_no_new_stream(
    process: launching.Running,
) -> None:
    stream = RemoteTransport(process.address, 30.0)
    for data in (HELLO, wire.encode(ONE_ROW)):
        stream.send(data)
    kinds = [wire.decode(stream.receive()).kind for _ in range(2)]
    assert kinds == [FrameKind.WELCOME, FrameKind.PRODUCT]
    time.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.process.poll() is None
    with connected(process.address, 5.0) as late:
        assert refusal_of(lambda: late.hello(DIGEST)) is Refusal.WORKER_LOST
    stream.send(wire.encode(replace(ONE_ROW, first_row=1)))
    assert wire.decode(stream.receive()).kind is FrameKind.PRODUCT
    assert refusal_of(stream.receive) is Refusal.WORKER_LOST
    assert process.process.wait(20) == 0
    stream.close()


def test_a_worker_process_ends_with_its_parent(process: launching.Running) -> None:
    process.stop()
    assert process.process.returncode == 0


def test_a_worker_process_without_a_model_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with (
        pytest.raises(Refused, match="MODEL_MALFORMED") as caught,
        launching.start_worker(tmp_path / "missing"),
    ):
        pass
    assert caught.value.reason is Refusal.WORKER_LOST
    assert "\n" not in caught.value.detail
