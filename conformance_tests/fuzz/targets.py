"""What must hold for any bytes. Each target takes bytes and raises when something does not hold.

Nothing but `Refused` may leave the code under test: any other exception is a finding as it is.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from fuzz.scripts import Script, session
from veil_conformance import tiny_model
from veil_optimized import model as optimized_model
from veil_optimized import transcript, wire
from veil_optimized.session import Channel
from veil_optimized.transport import StreamLost
from veil_optimized.worker import Placed, Worker, inference, place
from veil_reference import model as reference_model
from veil_reference import wire as reference
from veil_reference.decoder import Decoder
from veil_reference.encoder import Encoder
from veil_reference.lwe import halves
from veil_spec import constants
from veil_spec.architecture import EncoderShape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind, Rows

EPOCH: Final = bytes(range(16))
DIGEST: Final = bytes(range(32))
PREFIX: Final = constants.FRAME_MAGIC + reference.VERSION
"""How every frame begins: targets write it themselves, so that a kept input outlives a version."""
ZEROS: Final = (0, 0, 0, 0, 0, 0, 0)
MODULI: Final = (*constants.PRIMES, constants.LWE_MODULUS)
REFUSAL: Final = reference.encode(Frame(FrameKind.REFUSAL, bytes(16), *ZEROS, b""))
HELLO: Final = Frame(FrameKind.HELLO, EPOCH, *ZEROS, DIGEST)
WELCOME: Final = replace(HELLO, kind=FrameKind.WELCOME)
WEIGHTS: Final = (((3, -1), (32639, -32639), (0, 7)), ((1, 2, -5), (-7, 9, 11)), ((5,), (-32639,)))
"""One small group for each field of PRIMES, [outputs][inner]."""
ROWS: Final = 3
Outcome = tuple[bool, Any]


def outcome(action: Callable[..., object], *arguments: object) -> Outcome:
    """Return whether an action gave a result, and the result or the name of the refusal."""
    try:
        return True, action(*arguments)
    except Refused as refused:
        return False, refused.reason


def check(holds: bool, what: str, *about: object) -> None:
    """Raise with a description if something does not hold."""
    if not holds:
        raise AssertionError(f"{what}: {about}")


def decode(data: bytes) -> None:
    """Check that both decoders say the same, and accept nothing but what encodes to the same bytes."""
    frame_bytes = data[1:] if data[:1] == b"\1" else PREFIX + data[1:]
    ours, theirs = outcome(wire.decode, frame_bytes), outcome(reference.decode, frame_bytes)
    check(ours == theirs, "the decoders differ", ours, theirs)
    if ours[0]:
        frame = ours[1]
        check(in_range(frame), "accepted out of range", frame)
        check(wire.encode(frame) == frame_bytes == reference.encode(frame), "not what was decoded", frame)


def in_range(frame: Frame) -> bool:
    """Return whether a frame is one of the table of spec/wire.md."""
    numbers = (frame.group, frame.step, frame.first_row, frame.rows, frame.total_rows, frame.columns)
    if len(frame.epoch) != 16 or not all(0 <= number < 2**32 for number in numbers):
        return False
    split = frame.kind in (FrameKind.EMBEDDED, FrameKind.ANSWER)
    if split or frame.kind in (FrameKind.MULTIPLY, FrameKind.PRODUCT):
        widths = (6,) if split else (4, 5, 6, 8)
        size = frame.rows * frame.columns * frame.element_bytes
        whole = frame.total_rows * frame.columns * frame.element_bytes
        fits = 0 < size == len(frame.payload) <= constants.FRAME_LIMIT and whole <= constants.REPLY_LIMIT
        return fits and frame.element_bytes in widths and frame.first_row + frame.rows <= frame.total_rows
    size = {FrameKind.REFUSAL: 0, FrameKind.ASK: 8}.get(frame.kind, 32)
    with_step = frame.kind in (FrameKind.ASK, FrameKind.SEED)
    others = (*numbers[:1], *numbers[2:], frame.element_bytes, 0 if with_step else frame.step)
    named = frame.kind is not FrameKind.REFUSAL or not any(frame.epoch)
    return len(frame.payload) == size and not any(others) and named


def elements(data: bytes) -> None:
    """Check that both read the same elements, all of them in the field, and write them back."""
    script = Script(data)
    modulus, count = MODULI[script.number(1) % len(MODULI)], script.number(1)
    packed = data[2:]
    ours = outcome(lambda: [int(word) % 2**64 for word in wire.unpack(packed, count, modulus)])
    theirs = outcome(lambda: list(reference.unpack(packed, count, modulus)))
    check(ours == theirs, "the readers differ", ours, theirs)
    values = [script.number(9) - 8 for _ in range(count % 8)]
    written = outcome(lambda: wire.pack(values, modulus))
    check(written == outcome(lambda: reference.pack(values, modulus)), "the writers differ", written)
    if ours[0]:
        read = ours[1]
        check(all(0 <= value < modulus for value in read), "accepted outside the field", modulus)
        check(
            wire.pack(read, modulus) == packed == wire.pack(wire.unpack(packed, count, modulus), modulus),
            "lost",
        )


def join(data: bytes) -> None:
    """Check that both put pieces together alike, and only whole messages."""
    script = Script(data)
    kind = FrameKind.PRODUCT
    rows = [replace(WELCOME, kind=kind, group=3, step=4, first_row=n, rows=1, total_rows=ROWS, columns=2,
                    element_bytes=4, payload=bytes([n]) * 8) for n in range(ROWS)]  # fmt: skip
    sent = session([reference.encode(row) for row in rows], script)
    pieces = [found for done, found in (outcome(wire.decode, piece) for piece in sent) if done]
    about = (kind, EPOCH, 3, 4, 2, 4, ROWS)
    ours = outcome(lambda: wire.join(pieces, *about))
    check(ours == outcome(lambda: reference.join(pieces, *about)), "the joins differ", ours)
    if ours[0]:
        whole = ours[1]
        check(len(whole) == ROWS * 8 == sum(len(piece.payload) for piece in pieces), "not whole", len(whole))


def transcripts(data: bytes) -> None:
    """Check that a transcript file is read or refused, and read as it was written."""
    magic = constants.TRANSCRIPT_MAGIC
    written = data[1:] if data[:1] == b"\1" else magic + data[1:]
    with suppress(Refused):
        found = transcript.parse(written)
        kept = b"".join(transcript.RECORD.pack(r.direction, len(r.data)) + r.data for r in found.records)
        check(written.endswith(kept), "records that were not written")
        start = len(magic) + transcript.LENGTH.size
        header = written[start : len(written) - len(kept)]
        check(len(header) == int.from_bytes(written[len(magic) : start], "little"), "another header")
        check(transcript.decode_header(transcript.encode_header(found.header)) == found.header, "header lost")
        for message in transcript.messages(found):
            check(message.elements.ndim == 2, "no matrix")


def group_frames(kind: FrameKind, group: int, columns: int, modulus: int) -> Frame:
    """Return a whole message of small elements for one group."""
    payload = reference.pack([(7 * n + 1) % 251 for n in range(ROWS * columns)], modulus)
    shape = replace(HELLO, kind=kind, group=group, step=9, rows=ROWS, total_rows=ROWS, columns=columns)
    return replace(shape, element_bytes=reference.width_of(modulus), payload=payload)


def honest_requests() -> Sequence[bytes]:
    """Return what an honest enclave sends: a greeting, a message for each group, and one over q."""
    asked = [*enumerate(constants.PRIMES), (1, constants.LWE_MODULUS)]
    frames = [group_frames(FrameKind.MULTIPLY, group, len(WEIGHTS[group][0]), p) for group, p in asked]
    return [reference.encode(frame) for frame in (HELLO, *frames)]


REQUESTS: Final = honest_requests()
PLACED: Final[Mapping[int, Placed]] = {
    group: Placed(torch.tensor(rows, dtype=torch.int16), MODULI[group]) for group, rows in enumerate(WEIGHTS)
}


@dataclass
class Expected:
    """A worker as spec/wire.md describes it, in a few lines on the reference's decoder."""

    pieces: list[Frame]
    greeted: bool = False
    epoch: bytes = b""
    ended: bool = False

    def answer(self, data: bytes) -> list[bytes]:
        """Return the frames that answer one frame."""
        if self.ended:
            return []
        try:
            return self._answer(reference.decode(data))
        except Refused:
            self.ended = True
            return [REFUSAL]

    def _answer(self, frame: Frame) -> list[bytes]:
        if frame.kind is FrameKind.HELLO and not self.greeted:
            self.greeted, self.epoch, self.ended = True, frame.epoch, frame.payload != DIGEST
            return [reference.encode(replace(WELCOME, epoch=frame.epoch))]
        if frame.kind is not FrameKind.MULTIPLY or not self.greeted or frame.epoch != self.epoch:
            raise Refused(Refusal.FRAME_UNEXPECTED)
        weights, modulus = matrix(frame)
        too_large = frame.total_rows * len(weights) * frame.element_bytes > constants.REPLY_LIMIT
        if (frame.columns, frame.element_bytes) != (
            len(weights[0]),
            reference.width_of(modulus),
        ) or too_large:
            raise Refused(Refusal.FRAME_UNEXPECTED)
        if not self._follows(frame):
            raise Refused(Refusal.FRAME_UNEXPECTED)
        product = self._product(frame)
        whole = frame.first_row + frame.rows == frame.total_rows
        self.pieces = [] if whole else [*self.pieces, frame]
        return product

    def _follows(self, frame: Frame) -> bool:
        if not self.pieces:
            return frame.first_row == 0
        last = self.pieces[-1]
        same = replace(frame, first_row=0, rows=0, payload=b"") == replace(
            last, first_row=0, rows=0, payload=b""
        )
        return same and frame.first_row == last.first_row + last.rows

    def _product(self, frame: Frame) -> list[bytes]:
        """Return the frames of the product of one piece of a message."""
        weights, modulus = matrix(frame)
        row = reference.unpack(frame.payload, frame.rows * frame.columns, modulus)
        lines = [row[n : n + frame.columns] for n in range(0, len(row), frame.columns)]
        product = [
            sum(x * w for x, w in zip(line, channel, strict=True)) % modulus
            for line in lines
            for channel in weights
        ]
        about = (FrameKind.PRODUCT, frame.epoch, frame.group, frame.step, len(weights), frame.element_bytes)
        pieces = reference.split(*about, reference.pack(product, modulus))
        first, total = frame.first_row, frame.total_rows
        return [
            reference.encode(replace(piece, first_row=first + piece.first_row, total_rows=total))
            for piece in pieces
        ]


def matrix(frame: Frame) -> tuple[Rows, int]:
    """Return the weights that a message asks for, and the field. Refuses: FRAME_UNEXPECTED."""
    if frame.group >= len(WEIGHTS):
        raise Refused(Refusal.FRAME_UNEXPECTED)
    if frame.element_bytes == reference.width_of(constants.LWE_MODULUS):
        return halves(WEIGHTS[frame.group]), constants.LWE_MODULUS
    return WEIGHTS[frame.group], MODULI[frame.group]


def worker(data: bytes) -> None:
    """Check that a worker answers right or with the one refusal, and holds no more than it was sent."""
    peer, expected, sent = Worker(PLACED, DIGEST), Expected([]), 0
    for frame in session(REQUESTS, Script(data)):
        sent += len(frame)
        replies = list(peer.handle(frame))
        check(replies == expected.answer(frame), "the worker answers otherwise", frame.hex())
        check(peer.ended == expected.ended, "the end differs", frame.hex())
        held = 0 if peer._message is None else sum(map(len, peer._message.pieces))
        check(held <= sent, "more than was sent", held, sent)


def honest_replies() -> Sequence[bytes]:
    """Return what an honest worker answers to a greeting and to one message."""
    peer = Expected([])
    return [reply for request in REQUESTS[:2] for reply in peer.answer(request)]


REPLIES: Final = honest_replies()


class Scripted:
    """A transport to a peer that makes a script of an honest worker's replies."""

    def __init__(self, script: Script, honest: Sequence[bytes] = REPLIES) -> None:
        self._script = script
        self._honest = honest
        self.streams: list[list[bytes]] = []
        self.closed = 0
        self.received: list[bytes] = []
        self._replies: Iterator[bytes] = iter(())
        self._broken = True
        self.reopen()

    def reopen(self) -> None:
        """Begin another stream: the same honest replies, the script goes on."""
        check(self._broken, "opened again without a break")
        self._replies = session(self._honest, self._script)
        self.streams.append([])
        self.received = []
        self._broken = False

    def send(self, data: bytes) -> None:
        """Keep."""
        check(not self.closed, "sent after the end")
        self.streams[-1].append(data)

    def receive(self) -> bytes:
        """Return the next reply, or break."""
        for data in self._replies:
            self.received.append(data)
            return data
        self._broken = True
        raise StreamLost("no more")

    def close(self) -> None:
        """Count."""
        self.closed += 1


def enclave(data: bytes) -> None:
    """Check that an enclave accepts only whole answers in the field, and is silent after a refusal."""
    peer = Scripted(Script(data))
    channel = Channel(peer, EPOCH)
    rows = torch.tensor([(7 * n + 1) % 251 for n in range(ROWS * 2)]).reshape(ROWS, 2)

    def exchange() -> list[int]:
        channel.hello(DIGEST)
        product = channel.multiply(0, 9, rows, MODULI[0], len(WEIGHTS[0]))
        check(product.shape == (ROWS, len(WEIGHTS[0])), "another shape", product.shape)
        return [int(value) for value in product.flatten()]

    done, found = outcome(exchange)
    whole = list(REQUESTS[:2])
    check(all(sent == whole[: len(sent)] for sent in peer.streams), "other frames", peer.streams)
    check(len(peer.streams) <= 1 + constants.RESUME_LIMIT, "too many streams", len(peer.streams))
    check(peer.closed == channel.ended == (not done), "not ended once", peer.closed)
    if done:
        check(found == accepted(peer.received), "not what was received", found)
    before = sum(map(len, peer.streams))
    if channel.ended:
        check(outcome(exchange) == (False, Refusal.WORKER_LOST), "an epoch after its end")
        check(sum(map(len, peer.streams)) == before, "sent after the end")


def accepted(received: Sequence[bytes]) -> list[int]:
    """Return the elements of the answer on the last stream, by the reference. Refuses: as it does."""
    welcome, *pieces = (reference.decode(data) for data in received)
    check(welcome == WELCOME, "no welcome", welcome)
    about = (FrameKind.PRODUCT, EPOCH, 0, 9, len(WEIGHTS[0]), 4, ROWS)
    return list(reference.unpack(reference.join(pieces, *about), ROWS * len(WEIGHTS[0]), MODULI[0]))


# Mode split

DECODER: Final = replace(
    tiny_model.SWITCHED,
    vocabulary=3,
    width=2,
    inner=1,
    layers=1,
    heads=1,
    head_width=2,
    context=6,
    rotation=tiny_model.PLAIN,
)
ENCODER: Final = EncoderShape(3, 2, 1, 1, 1, 6, 1, tiny_model.SMALL.norm_epsilon)
"""The least decoder and the least encoder, both of width 2 and of context 6."""
EMBEDDED: Final = ((0, 0, 3), (0, 3, 1), (5, 0, 2), (0, 4, 1))
"""Sequence, step and rows of what an honest enclave sends to a decoder."""
Words = tuple[tuple[int, ...], ...]


class Given(reference_model.Model):
    """A model of the reference whose tokens are embedded already."""

    def look_up(self, table: str, index: object) -> list[int]:
        """Return what was given as a token."""
        return list(index)  # type: ignore[call-overload, no-any-return]


@cache
def models(structure: int) -> tuple[optimized_model.Model, Given]:
    """Return the decoder (0) or the encoder (1), for the code under test and for the reference."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model.write(Path(folder) / "model", (DECODER, ENCODER)[structure], b"fuzz")
        read = reference_model.load(path)
        return optimized_model.load(path), Given(read.shape, read.digest, read.tensors)


def small_words(number: int, step: int, rows: int) -> Words:
    """Return the words that an honest enclave sends."""
    return tuple((2**30 * (number + 1) + step + n, -(2**28) * n - 7) for n in range(rows))


def word_frames(kind: FrameKind, number: int, step: int, words: Sequence[Sequence[int]]) -> Frame:
    """Return a whole message of words."""
    elements = [word % MODULI[2] for row in words for word in row]
    size = len(words)
    shape = replace(HELLO, kind=kind, group=number, step=step, rows=size, total_rows=size)
    return replace(shape, columns=len(words[0]), element_bytes=6, payload=reference.pack(elements, MODULI[2]))


def split_requests(structure: int) -> list[bytes]:
    """Return what an honest enclave sends in mode split."""
    steps = EMBEDDED if structure == 0 else tuple((0, 0, rows) for _, _, rows in EMBEDDED)
    frames = [word_frames(FrameKind.EMBEDDED, *about[:2], small_words(*about)) for about in steps]
    hello = replace(HELLO, payload=models(structure)[0].digest)
    return [reference.encode(frame) for frame in (hello, *frames)]


@cache
def plain_answer(structure: int, words: Words) -> Words:
    """Return what plain inference of the reference makes of all rows of a sequence."""
    read = models(structure)[1]
    if structure == 0:
        decoder = Decoder(read)
        return (tuple([decoder.step(row) for row in words][-1]),)  # type: ignore[arg-type]
    encoder, stream = Encoder.of(read), list[Sequence[int]](words)
    for number in range(encoder.shape.layers):
        stream = encoder.layer(number, stream)
    return tuple(tuple(row) for row in stream)


@dataclass
class ExpectedSplit:
    """A worker of mode split as spec/wire.md describes it, in a few lines on the reference."""

    structure: int
    rows: dict[int, Words] = field(default_factory=dict)
    pieces: list[Frame] = field(default_factory=list)
    epoch: bytes | None = None
    ended: bool = False

    def answer(self, data: bytes) -> list[bytes]:
        """Return the frames that answer one frame."""
        if self.ended:
            return []
        try:
            return self._answer(reference.decode(data))
        except Refused:
            self.ended = True
            return [REFUSAL]

    def _answer(self, frame: Frame) -> list[bytes]:
        digest = models(self.structure)[0].digest
        if frame.kind is FrameKind.HELLO and self.epoch is None:
            self.epoch, self.ended = frame.epoch, frame.payload != digest
            return [reference.encode(replace(frame, kind=FrameKind.WELCOME, payload=digest))]
        if frame.kind is not FrameKind.EMBEDDED or frame.epoch != self.epoch:
            raise Refused(Refusal.FRAME_UNEXPECTED)
        if not self.pieces and not self._in_turn(frame):
            raise Refused(Refusal.FRAME_UNEXPECTED)
        self.pieces.append(frame)
        first, row = self.pieces[0], 0
        for piece in self.pieces:
            bare = replace(piece, first_row=0, rows=0, payload=b"")
            if bare != replace(first, first_row=0, rows=0, payload=b"") or piece.first_row != row:
                raise Refused(Refusal.FRAME_UNEXPECTED)
            row += piece.rows
        return self._inferred(first) if row == first.total_rows else []

    def _in_turn(self, frame: Frame) -> bool:
        had = len(self.rows.get(frame.group, ())) if self.structure == 0 else 0
        fits = frame.group < 16 and frame.columns == 2 and frame.step + frame.total_rows <= 6
        return fits and frame.step in (0, had)

    def _inferred(self, first: Frame) -> list[bytes]:
        data = b"".join(piece.payload for piece in self.pieces)
        self.pieces = []
        elements = reference.unpack(data, 2 * first.total_rows, MODULI[2])
        words = [e if 2 * e < MODULI[2] else e - MODULI[2] for e in elements]
        if max(map(abs, words)) > 2**46 - 1:
            raise Refused(Refusal.FRAME_MALFORMED)
        rows = tuple(zip(words[::2], words[1::2], strict=True))
        before = self.rows.get(first.group, ()) if first.step else ()
        self.rows[first.group] = (*before, *rows)
        made = plain_answer(self.structure, self.rows[first.group])
        frame = word_frames(FrameKind.ANSWER, first.group, first.step, made)
        return [reference.encode(replace(frame, epoch=first.epoch))]


def inferring(data: bytes) -> None:
    """Check that a worker of mode split answers right or with the one refusal, and holds what it was sent."""
    script = Script(data)
    structure = script.number(1) % 2
    loaded, _ = models(structure)
    weights = place(loaded, "cpu")
    peer = Worker(weights, loaded.digest, "cpu", inference(loaded, weights))
    expected, sent = ExpectedSplit(structure), 0
    for frame in session(split_requests(structure), script):
        sent += len(frame)
        check(list(peer.handle(frame)) == expected.answer(frame), "the worker answers otherwise", frame.hex())
        check(peer.ended == expected.ended, "the end differs", frame.hex())
        held = 0 if peer._message is None else sum(map(len, peer._message.pieces))
        check(held <= sent, "more than was sent", held, sent)


ANSWERED: Final = ((3 - 2**30, 2**30 - 1, -5), (7, 0, 1))
"""Words that a worker answers with, within HIDDEN_LIMIT."""


def answers(data: bytes) -> None:
    """Check that an enclave of mode split takes only whole answers in range, then is silent if it refused."""
    for alone in (False, True):
        asked = torch.tensor(small_words(0, 0, 2))
        replies = [
            reference.encode(each) for each in (WELCOME, word_frames(FrameKind.ANSWER, 0, 0, ANSWERED))
        ]
        peer = Scripted(Script(data), replies)
        channel = Channel(peer, EPOCH)

        def exchange(channel: Channel, asked: torch.Tensor, alone: bool) -> list[list[int]]:
            channel.hello(DIGEST)
            words = channel.infer(channel.sequence(), asked, (2, 3), constants.HIDDEN_LIMIT, alone)
            return [[int(word) for word in row] for row in words]

        done, found = outcome(exchange, channel, asked, alone)
        request = word_frames(FrameKind.EMBEDDED, 0, 0, small_words(0, 0, 2))
        whole = [reference.encode(HELLO), reference.encode(request)]
        check(all(sent == whole[: len(sent)] for sent in peer.streams), "other frames", peer.streams)
        most = 1 + constants.RESUME_LIMIT * alone
        check(len(peer.streams) <= most, "too many streams", len(peer.streams))
        check(peer.closed == channel.ended == (not done), "not ended once", peer.closed)
        if done:
            check(found == accepted_words(peer.received), "not what was received", found)
        else:
            before = sum(map(len, peer.streams))
            again = outcome(exchange, channel, asked, alone)
            check(again == (False, Refusal.WORKER_LOST), "an epoch after its end")
            check(sum(map(len, peer.streams)) == before, "sent after the end")


def accepted_words(received: Sequence[bytes]) -> list[list[int]]:
    """Return the words of the answer on the last stream, by the reference. Refuses: as it does."""
    welcome, *pieces = (reference.decode(data) for data in received)
    check(welcome == WELCOME, "no welcome", welcome)
    whole = reference.join(pieces, FrameKind.ANSWER, EPOCH, 0, 0, 3, 6, 2)
    elements = reference.unpack(whole, 6, MODULI[2])
    words = [e if 2 * e < MODULI[2] else e - MODULI[2] for e in elements]
    check(max(map(abs, words)) < 2**30, "beyond the range", words)
    return [words[:3], words[3:]]


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "decode": decode,
    "elements": elements,
    "join": join,
    "transcripts": transcripts,
    "worker": worker,
    "enclave": enclave,
    "inferring": inferring,
    "answers": answers,
}
"""Every target by its name."""
