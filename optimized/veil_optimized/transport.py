"""Ways to carry frames to a worker and back: gRPC, in process, and recorded."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol

import grpc

from veil_optimized import transcript, wire
from veil_optimized.transcript import Direction
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

METHOD: Final = "/veil.Worker/Exchange"
"""One bidirectional stream is one epoch; each gRPC message is the raw bytes of one frame."""
MESSAGE_LIMIT: Final = constants.FRAME_LIMIT + wire.HEADER_BYTES
OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
"""Nothing is sent twice, and nothing goes through a proxy that the environment names."""
DEADLINE_S: Final = 60.0
"""Seconds for one exchange, unless the caller says otherwise."""


class Transport(Protocol):
    """An ordered, reliable stream of frames to one worker; a send after a receive begins an exchange."""

    def send(self, data: bytes) -> None:
        """Send one frame. Refuses: WORKER_LOST."""
        ...

    def receive(self) -> bytes:
        """Return the next frame of the worker. Refuses: WORKER_LOST."""
        ...

    def close(self) -> None:
        """End the stream without a message; the worker cannot tell why."""
        ...


class GrpcTransport:
    """A stream to a worker process at an address, with a time limit on every exchange."""

    def __init__(self, address: str, deadline_s: float = DEADLINE_S) -> None:
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        exchange = self._channel.stream_stream(METHOD, request_serializer=bytes, response_deserializer=bytes)
        call = exchange(iter(self._outgoing.get, None))
        self._replies: Iterator[bytes] = iter(call)
        self._cancel: Callable[[], object] = call.cancel
        self._deadline_s = deadline_s
        self._exchange_ends = 0.0
        self._sending = False
        self._waiting = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def send(self, data: bytes) -> None:
        """Send one frame; the first one of an exchange starts its clock. Refuses: WORKER_LOST."""
        if not self._sending:
            self._exchange_ends = time.monotonic() + self._deadline_s
        self._sending = True
        self._check_open()
        self._outgoing.put(data)

    def receive(self) -> bytes:
        """Return the next frame, or refuse when the exchange is out of time.

        Implements: WIR-P2.
        Refuses: WORKER_LOST.
        """
        self._check_open()
        self._sending, self._waiting = False, True
        try:
            return next(self._replies)
        except StopIteration as error:
            raise Refused(Refusal.WORKER_LOST, "the worker ended the stream") from error
        except grpc.RpcError as error:
            raise Refused(Refusal.WORKER_LOST, self._reason()) from error
        finally:
            self._waiting = False

    def close(self) -> None:
        """Cancel the stream; every end, wanted or not, looks like this to the worker."""
        self._closed.set()
        self._cancel()
        self._outgoing.put(None)
        self._channel.close()

    def _overdue(self) -> bool:
        return time.monotonic() > self._exchange_ends

    def _check_open(self) -> None:
        """Refuses: WORKER_LOST."""
        if self._closed.is_set():
            raise Refused(Refusal.WORKER_LOST, "the stream is closed")
        if self._overdue():
            raise Refused(Refusal.WORKER_LOST, self._reason())

    def _reason(self) -> str:
        if self._overdue():
            return f"no whole answer within {self._deadline_s:g} s"
        return "the connection to the worker failed"

    def _watch(self) -> None:
        """Cancel a call that is still waited for when its exchange is out of time. Implements: WIR-P2."""
        while not self._closed.wait(min(1.0, self._deadline_s / 10)):
            if self._waiting and self._overdue():
                self._cancel()


class LocalTransport:
    """A worker in this process: `handler` returns the frames that answer one frame."""

    def __init__(self, handler: Callable[[bytes], Iterable[bytes]]) -> None:
        self._handler = handler
        self._replies: deque[bytes] = deque()
        self._closed = False

    def send(self, data: bytes) -> None:
        """Hand one frame to the handler. Refuses: WORKER_LOST."""
        if self._closed:
            raise Refused(Refusal.WORKER_LOST, "the stream is closed")
        self._replies.extend(self._handler(data))

    def receive(self) -> bytes:
        """Return the next frame of the handler. Refuses: WORKER_LOST."""
        if self._closed or not self._replies:
            raise Refused(Refusal.WORKER_LOST, "the worker has no answer")
        return self._replies.popleft()

    def close(self) -> None:
        """End the stream."""
        self._closed = True


class RecordingTransport:
    """Another transport, with every frame written to a transcript file."""

    def __init__(self, inner: Transport, path: Path, header: transcript.Header) -> None:
        self._inner = inner
        self._writer = transcript.Writer(path, header)

    def send(self, data: bytes) -> None:
        """Record one frame and send it. Implements: WIR-P1. Refuses: WORKER_LOST."""
        self._writer.record(Direction.TO_WORKER, data)
        self._inner.send(data)

    def receive(self) -> bytes:
        """Return the next frame and record it. Implements: WIR-P1. Refuses: WORKER_LOST."""
        data = self._inner.receive()
        self._writer.record(Direction.FROM_WORKER, data)
        return data

    def close(self) -> None:
        """End the stream and finish the file."""
        self._inner.close()
        self._writer.close()
