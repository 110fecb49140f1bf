"""The stream between enclave and worker: lying, silent, killed and honest workers, and what gets recorded."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from veil_optimized import transcript, wire, worker
from veil_optimized.session import Channel
from veil_optimized.transport import GrpcTransport, LocalTransport, RecordingTransport
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
    """Return integers of 16 bits, float64 [outputs, inner]."""
    generator = torch.Generator().manual_seed(seed)
    limit = constants.WEIGHT_LIMIT
    return torch.randint(-limit, limit + 1, (outputs, inner), generator=generator).to(torch.float64)


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
    """A transport in this process that keeps what passes and may rewrite the worker's frames."""

    def __init__(self, rewrite: Callable[[list[bytes]], list[bytes]] = lambda frames: frames) -> None:
        model = random_model()
        self.worker = Worker(worker.place(model, "cpu"), DIGEST)
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
    assert (len(tap.sent), len(tap.received)) == (1 + 3, 1 + 2)
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
    wide = {0: Placed(torch.ones(1000, 1, dtype=torch.float64), MODULI[2])}
    rows = constants.REPLY_LIMIT // 6000 + 1
    first = Frame(FrameKind.MULTIPLY, EPOCH, 0, 0, 0, 1, rows, 1, 6, bytes(6))
    peer = Worker(wide, DIGEST)
    assert len(list(peer.handle(HELLO))) == 1
    assert list(peer.handle(wire.encode(first))) == [REFUSAL_BYTES]
    allowed = Worker(wide, DIGEST)
    assert len(list(allowed.handle(HELLO))) == 1
    assert list(allowed.handle(wire.encode(replace(first, total_rows=rows - 1)))) == []


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


@contextmanager
def served(answer: worker.Answer) -> Iterator[str]:
    """Yield the address of a gRPC server in this process."""
    server, address = worker.start_server(answer, worker.LOOPBACK)
    try:
        yield address
    finally:
        server.stop(None).wait()


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
    with Channel(GrpcTransport(address, deadline_s), EPOCH) as channel:
        yield channel


def waited(action: Callable[[], object]) -> float:
    """Return the seconds until an action is refused with WORKER_LOST."""
    start = time.monotonic()
    assert refusal_of(action) is Refusal.WORKER_LOST
    return time.monotonic() - start


@pytest.mark.requirement("WIR-P2")
def test_a_silent_worker_is_given_up_at_the_deadline() -> None:
    with served(silent) as address, connected(address) as channel:
        assert DEADLINE_S * 0.9 < waited(lambda: channel.hello(DIGEST)) < DEADLINE_S + 3


@pytest.mark.requirement("WIR-P2")
def test_a_worker_that_sends_row_after_row_is_given_up_at_the_deadline() -> None:
    elements = random_elements(100, 11, MODULI[2])
    with served(slow) as address, connected(address) as channel:
        channel.hello(DIGEST)
        elapsed = waited(lambda: channel.multiply(2, 0, elements, MODULI[2], 7))
        assert DEADLINE_S * 0.9 < elapsed < DEADLINE_S + 3
        assert channel.bytes_received > 2 * wire.HEADER_BYTES


@pytest.mark.requirement("WIR-P2")
def test_the_clock_runs_from_the_first_frame_sent_even_if_the_answer_is_there() -> None:
    with served(honest) as address:
        stream = GrpcTransport(address, DEADLINE_S)
        for _ in range(2):
            stream.send(HELLO)
            time.sleep(0.6 * DEADLINE_S)
        assert refusal_of(stream.receive) is Refusal.WORKER_LOST
        stream.close()


@pytest.mark.requirement("WIR-P2")
def test_time_between_exchanges_does_not_count() -> None:
    elements = random_elements(1, 11, MODULI[2])
    with served(honest) as address, connected(address) as channel:
        channel.hello(DIGEST)
        for step in range(2):
            time.sleep(1.5 * DEADLINE_S)
            assert channel.multiply(2, step, elements, MODULI[2], 7).shape == (1, 7)


def test_an_address_where_nobody_listens_is_a_lost_worker() -> None:
    with served(honest) as address:
        gone = address
    with connected(gone, 5.0) as channel:
        assert refusal_of(lambda: channel.hello(DIGEST)) is Refusal.WORKER_LOST


def test_a_stream_too_many_is_turned_away_at_once() -> None:
    with served(honest) as address, ExitStack() as stack:
        for _ in range(worker.STREAMS):
            stack.enter_context(connected(address, 20.0)).hello(DIGEST)
        extra = stack.enter_context(connected(address, 20.0))
        assert waited(lambda: extra.hello(DIGEST)) < 10


def test_a_taken_address_is_refused() -> None:
    with served(honest) as address:
        assert refusal_of(lambda: worker.start_server(honest, address)) is Refusal.WORKER_LOST


# Real processes

SCRIPT = """
import sys, types, torch
from veil_optimized import worker
from veil_spec.constants import PRIMES
groups = [worker.Placed(*pair) for pair in zip(torch.load(sys.argv[1]), PRIMES)]
model = types.SimpleNamespace(groups=groups, digest=bytes(range(32)))
worker.serve_until_told(model, worker.LOOPBACK, worker.announce, "cpu", True)
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[worker.Running]:
    """Yield a worker process that holds the random groups."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    torch.save([group.weights for group in random_model().groups], tmp_path / "groups")
    running = worker.launch([sys.executable, "-P", "-c", SCRIPT, str(tmp_path / "groups")])
    yield running
    running.stop()


@pytest.mark.requirement("WIR-P7")
def test_a_worker_process_multiplies_in_every_field_and_ends_cleanly_when_told(
    process: worker.Running,
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
def test_a_killed_worker_process_is_a_lost_worker(process: worker.Running) -> None:
    elements = random_elements(1, 11, MODULI[2])
    with connected(process.address, 30.0) as channel:
        channel.hello(DIGEST)
        process.process.kill()
        process.process.wait()
        assert waited(lambda: channel.multiply(2, 0, elements, MODULI[2], 7)) < 20
        assert channel.ended


def test_a_worker_process_ends_with_its_parent(process: worker.Running) -> None:
    process.stop()
    assert process.process.returncode == 0


def test_a_worker_process_without_a_model_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(Refused, match="MODEL_MALFORMED") as caught, worker.start_worker(tmp_path / "missing"):
        pass
    assert caught.value.reason is Refusal.WORKER_LOST
    assert "\n" not in caught.value.detail
