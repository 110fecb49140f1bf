"""The enclave's side of the stream: everything that a worker sends is checked here before it is used."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import torch

from veil_optimized import steps, wire
from veil_optimized.transport import StreamLost, Transport
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

Description = tuple[FrameKind, bytes, int, int, int, int, int]
"""What is known of a message beforehand: kind, epoch, group, step, columns, element_bytes, total_rows."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Kept:
    """A sequence whose keys and values the worker keeps: its number, and the rows that it was sent.

    The number is free again when nobody holds this.
    """

    number: int
    position: int = 0


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
        with self._ending_on_failure():
            if self._model_hash is None:
                raise Refused(Refusal.FRAME_UNEXPECTED, "the worker has not welcomed this epoch")
            rows, columns = elements.shape
            width = wire.element_bytes(modulus)
            wire.check_size(rows * columns_out * width, columns_out * width)
            data = steps.chosen().pack(elements, modulus)
            frames = wire.split(FrameKind.MULTIPLY, self.epoch, group, step, columns, width, data)
            expected = (FrameKind.PRODUCT, self.epoch, group, step, columns_out, width, rows)
            message = self._answer(self._model_hash, frames, expected)
            self.round_trips += 1
            return steps.chosen().unpack(message.data, rows, columns_out, modulus)

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
            frames = wire.split(FrameKind.EMBEDDED, *about, step, words.shape[1], width, data)
            expected = (FrameKind.ANSWER, *about, step, columns, width, rows)
            message = self._answer(self._model_hash, frames, expected, again=alone)
            with blaming_the_worker():
                answer = wire.unpack_words(message.data, rows * columns, limit)
            self.round_trips += 1
            sequence.position += len(words)
            return torch.from_numpy(answer).reshape(shape)

    def _answer(
        self, model_hash: bytes, frames: Sequence[Frame], expected: Description, again: bool = True
    ) -> wire.Reassembly:
        """Return the whole message that answers these frames, on as many streams as that takes, or on one.

        Implements: WIR-P8.
        Refuses: WORKER_LOST, FRAME_UNEXPECTED, what `decode` refuses.
        """
        while True:
            try:
                if not self._welcome:
                    self._greet(model_hash)
                with blaming_the_worker():
                    return self._exchange(frames, expected)
            except StreamLost:
                if not again or self.resumed == constants.RESUME_LIMIT:
                    raise
                self.resumed += 1
                self._welcome = False
                self._transport.reopen()

    def _exchange(self, frames: Sequence[Frame], expected: Description) -> wire.Reassembly:
        """Return the whole message that answers these frames on one stream."""
        for frame in frames:
            self._send(frame)
        message = wire.Reassembly(*expected)
        while not message.complete:
            message.add(self._receive())
        return message

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
