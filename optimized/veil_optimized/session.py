"""The enclave's side of the stream: everything that a worker sends is checked here before it is used."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import torch

from veil_optimized import steps, wire
from veil_optimized.transport import StreamLost, Transport
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind


@dataclass(eq=False, slots=True, weakref_slot=True)
class Kept:
    """A sequence whose keys and values the worker keeps: its number, and the rows that it was sent.

    The number is free again when nobody holds this.
    """

    number: int
    position: int = 0


@dataclass(eq=False, slots=True)
class Exchange:
    """A message to the worker, as far as it was sent, and its answer, as far as it has come."""

    asked: wire.Description
    answered: wire.Description
    answer: wire.Reassembly = field(init=False)
    frames: list[Frame] = field(default_factory=list)
    sent: int = 0
    taken: int = 0

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the answer: the whole message is sent again."""
        self.answer = wire.Reassembly(*self.answered)

    def add(self, data: bytes | bytearray) -> list[Frame]:
        """Return the frames of the next whole rows."""
        frames = wire.pieces(self.asked, self.sent, data)
        self.frames += frames
        self.sent += sum(frame.rows for frame in frames)
        return frames

    def take(self, rows: int) -> bytes:
        """Return the bytes of the next rows of the answer, which have come."""
        first, self.taken = self.taken, self.taken + rows
        return self.answer.between(first, self.taken)


@contextmanager
def blaming_the_worker() -> Iterator[None]:
    """Say of a frame that is refused inside whose it was, and what to do."""
    try:
        yield
    except Refused as refused:
        if not refused.reason.startswith("FRAME_"):
            raise
        said = f"the worker's answer was refused: {refused.detail or refused.reason}; use another worker"
        raise Refused(refused.reason, said) from refused


class Channel:
    """One epoch with one worker. The first refusal ends it, and `close` ends it in the same way.

    `bytes_sent` and `bytes_received` count whole frames, `round_trips` exchanges, `resumed` the streams
    that were opened in the place of a broken one.
    """

    def __init__(self, transport: Transport, epoch: bytes) -> None:
        self._transport = transport
        self._model_hash: bytes | None = None
        self._welcome = False
        self._kept: WeakValueDictionary[int, Kept] = WeakValueDictionary()
        self._open: deque[Exchange] = deque()
        self._outbox: deque[Frame] = deque()
        self._lock = threading.RLock()
        self.resumed = 0
        self.epoch = epoch
        self.ended = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self.round_trips = 0

    def hello(self, model_hash: bytes) -> None:
        """Return nothing once the worker has named the same model; nothing is tried twice yet.

        Refuses: MODEL_MISMATCH, WORKER_LOST, what `decode` refuses.
        """
        with self._ending_on_failure():
            self._greet(model_hash)
            self._model_hash = model_hash

    def _greet(self, model_hash: bytes) -> None:
        """Implements: WIR-P6. Refuses: MODEL_MISMATCH, WORKER_LOST, what `decode` refuses."""
        zeros = (0, 0, 0, 0, 0, 0, 0)
        with blaming_the_worker():
            self._send(Frame(FrameKind.HELLO, self.epoch, *zeros, model_hash))
            answer = self._receive()
            if answer.kind is not FrameKind.WELCOME or answer.epoch != self.epoch:
                raise Refused(Refusal.FRAME_UNEXPECTED, "not a WELCOME of this epoch")
        if answer.payload != model_hash:
            raise Refused(Refusal.MODEL_MISMATCH, "start the worker with the same integer model file")
        self._welcome = True

    def multiply(
        self, group: int, step: int, elements: torch.Tensor, modulus: int, columns_out: int
    ) -> torch.Tensor:
        """Return the worker's rows, int64 [n, columns_out] in 0 .. p - 1, for masked rows int64 [n, inner].

        Whether they are the right product is for the integrity check to tell.

        Implements: WIR-P6.
        Refuses: WORKER_LOST, NOT_IN_FIELD, FRAME_UNEXPECTED, FRAME_TOO_LARGE, what `decode` refuses.
        """
        exchange = self.begin(group, step, elements.shape[0], elements.shape[1], columns_out, modulus)
        with self._ending_on_failure():
            data = steps.chosen().pack(elements, modulus)
        self.send(exchange, data)
        return self.receive(exchange, len(elements), modulus)

    def begin(
        self, group: int, step: int, rows: int, columns: int, columns_out: int, modulus: int
    ) -> Exchange:
        """Return an exchange of so many rows, of which nothing is sent yet.

        Its rows may be sent in several parts, and the next exchange may begin before the last answers are
        there, but not before all rows are sent.

        Refuses: FRAME_UNEXPECTED, FRAME_TOO_LARGE.
        """
        with self._ending_on_failure():
            width = wire.element_bytes(modulus)
            for size in (columns, columns_out):
                wire.check_size(rows * size * width, size * width)
            asked = (FrameKind.MULTIPLY, self.epoch, group, step, columns, width, rows)
            return Exchange(asked, (FrameKind.PRODUCT, self.epoch, group, step, columns_out, width, rows))

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Send the bytes of an exchange's next masked rows, as `pack` gives them. Refuses as `multiply`."""
        with self._ending_on_failure():
            self._put(exchange, data)
            self._on_some_stream(self._flush)

    def receive(self, exchange: Exchange, rows: int, modulus: int) -> torch.Tensor:
        """Return the worker's next rows, int64 [n, columns_out] in 0 .. p - 1. Refuses as `multiply`."""
        with self._ending_on_failure():
            self._on_some_stream(lambda: self._await(exchange, exchange.taken + rows))
            return steps.chosen().unpack(exchange.take(rows), rows, exchange.answer.columns, modulus)

    def _put(self, exchange: Exchange, data: bytes | bytearray) -> None:
        """Queue the next rows of an exchange. Implements: WIR-P6. Refuses: FRAME_UNEXPECTED."""
        if self._model_hash is None:
            raise Refused(Refusal.FRAME_UNEXPECTED, "the worker has not welcomed this epoch")
        if not exchange.sent:
            self._open.append(exchange)
        self._outbox += exchange.add(data)

    def _flush(self) -> None:
        while self._outbox:
            self._send(self._outbox.popleft())

    def _await(self, exchange: Exchange, row: int) -> None:
        """Return once the answer has come up to this row; the exchange is the oldest that is open."""
        self._flush()
        while exchange.answer.row < row:
            exchange.answer.add(self._receive())
        if exchange.answer.complete:
            self._open.popleft()
            self.round_trips += 1

    def sequence(self) -> Kept:
        """Return a sequence of mode `split` that has not begun, under the lowest number that is free.

        Refuses: MODE_UNAVAILABLE.
        """
        with self._lock:
            for number in range(constants.SEQUENCE_LIMIT):
                if number not in self._kept:
                    kept = self._kept[number] = Kept(number)
                    return kept
        limit = constants.SEQUENCE_LIMIT
        remedy = f"mode split keeps {limit} sequences at a time: give fewer prompts at once"
        raise Refused(Refusal.MODE_UNAVAILABLE, remedy)

    def infer(
        self, sequence: Kept, words: torch.Tensor, shape: tuple[int, int], limit: int, alone: bool
    ) -> torch.Tensor:
        """Return the worker's words, int64 of this shape and within `limit`, for a sequence's next rows.

        The rows, int64 [n, width], are embedded tokens. A sequence that is `alone` in its message needs
        nothing that a worker keeps, so that a broken stream is opened again. Nothing tells whether the words
        are right.

        Refuses: WORKER_LOST, NOT_IN_FIELD, FRAME_UNEXPECTED, FRAME_TOO_LARGE, what `decode` refuses.
        """
        with self._lock, self._ending_on_failure():
            if self._model_hash is None:
                raise Refused(Refusal.FRAME_UNEXPECTED, "the worker has not welcomed this epoch")
            width, about = wire.element_bytes(wire.SPLIT_MODULUS), (self.epoch, sequence.number)
            rows, columns = shape
            wire.check_size(rows * columns * width, columns * width)
            data, step = wire.pack_words(words.numpy(force=True)), sequence.position
            wire.check_size(len(data), words.shape[1] * width)
            exchange = Exchange(
                (FrameKind.EMBEDDED, *about, step, words.shape[1], width, len(words)),
                (FrameKind.ANSWER, *about, step, columns, width, rows),
            )
            self._put(exchange, data)
            self._on_some_stream(lambda: self._await(exchange, rows), again=alone)
            with blaming_the_worker():
                answer = wire.unpack_words(exchange.take(rows), rows * columns, limit)
            sequence.position += len(words)
            return torch.from_numpy(answer).reshape(shape)

    def _on_some_stream(self, action: Callable[[], None], again: bool = True) -> None:
        """Do something on as many streams as that takes, or on one; each sends what is open from its start.

        Implements: WIR-P8.
        Refuses: WORKER_LOST, FRAME_UNEXPECTED, what `decode` refuses.
        """
        while True:
            try:
                if not self._welcome and self._model_hash is not None:
                    self._greet(self._model_hash)
                with blaming_the_worker():
                    action()
                return
            except StreamLost:
                if not again or self.resumed == constants.RESUME_LIMIT:
                    raise
                self.resumed += 1
                self._welcome = False
                self._outbox = deque(frame for exchange in self._open for frame in exchange.frames)
                for exchange in self._open:
                    exchange.begin_anew()
                self._transport.reopen()

    def close(self) -> None:
        """End the epoch: nothing is sent from here on. Implements: WIR-P3."""
        if not self.ended:
            self.ended = True
            self._transport.close()

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Close the stream, silently, on whatever goes wrong inside. Implements: WIR-P3."""
        if self.ended:
            raise Refused(Refusal.WORKER_LOST, "the epoch has ended")
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _send(self, frame: Frame) -> None:
        data = wire.encode(frame)
        self._transport.send(data)
        self.bytes_sent += len(data)

    def _receive(self) -> Frame:
        data = self._transport.receive()
        self.bytes_received += len(data)
        frame = wire.decode(data)
        if frame.kind is FrameKind.REFUSAL:
            raise Refused(Refusal.WORKER_LOST, "the worker refused to go on")
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
