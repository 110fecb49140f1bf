"""The enclave's side of the stream: everything that a worker sends is checked here before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch

from veil_optimized import wire
from veil_optimized.transport import Transport
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind


class Channel:
    """One epoch with one worker. The first refusal ends it, and `close` ends it in the same way.

    `bytes_sent` and `bytes_received` count whole frames; `round_trips` counts products.
    """

    def __init__(self, transport: Transport, epoch: bytes) -> None:
        self._transport = transport
        self._welcome = False
        self.epoch = epoch
        self.ended = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self.round_trips = 0

    def hello(self, model_hash: bytes) -> None:
        """Return nothing once the worker has named the same model.

        Implements: WIR-P6.
        Refuses: MODEL_MISMATCH, WORKER_LOST, what `decode` refuses.
        """
        with self._ending_on_failure():
            zeros = (0, 0, 0, 0, 0, 0, 0)
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
            if not self._welcome:
                raise Refused(Refusal.FRAME_UNEXPECTED, "the worker has not welcomed this epoch")
            rows, columns = elements.shape
            width = wire.element_bytes(modulus)
            wire.check_size(rows * columns_out * width, columns_out * width)
            data = wire.pack(elements.numpy(force=True), modulus)
            for frame in wire.split(FrameKind.MULTIPLY, self.epoch, group, step, columns, width, data):
                self._send(frame)
            expected = (FrameKind.PRODUCT, self.epoch, group, step, columns_out, width, rows)
            message = wire.Reassembly(*expected)
            while not message.complete:
                message.add(self._receive())
            self.round_trips += 1
            product = wire.unpack(message.data, rows * columns_out, modulus)
            return torch.from_numpy(product).reshape(rows, columns_out)

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
