"""Ways to carry frames to a worker and back: gRPC, a Unix socket, in process, and recorded."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol

import grpc

from veil_optimized import identity, sockets, transcript, wire
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
TOO_LONG: Final = "message larger than max"
"""What gRPC says of a message above MESSAGE_LIMIT: the peer's fault, and no broken stream."""
DEADLINE_S: Final = 60.0
"""Seconds for one exchange on one stream, unless the caller says otherwise."""
PAUSE_S: Final = 0.2
"""Seconds between the end of a stream and the next one: a worker needs some to note the end."""
CONNECTION_OPTIONS: Final = (
    *OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""A worker that starts again is found within a second."""
PEER_NAME: Final = ("grpc.ssl_target_name_override", identity.NAME)
"""A certificate names no place: it is pinned."""


class StreamLost(Refused):
    """WORKER_LOST because the stream broke: the one refusal after which it may be opened again."""

    def __init__(self, detail: str) -> None:
        super().__init__(Refusal.WORKER_LOST, detail)


class Transport(Protocol):
    """An ordered, reliable stream of frames to one worker."""

    def send(self, data: bytes) -> None:
        """Send one frame. Refuses: WORKER_LOST, as StreamLost when the stream broke."""
        ...

    def receive(self) -> bytes:
        """Return the next frame of the worker. Refuses: WORKER_LOST, as StreamLost when the stream broke."""
        ...

    def reopen(self) -> None:
        """Return with a new stream in the place of the old one. Refuses: WORKER_LOST."""
        ...

    def close(self) -> None:
        """End the stream without a message; the worker cannot tell why."""
        ...


class Stream(Protocol):
    """One connection: `replies` raises grpc.RpcError, or ends, where it breaks."""

    replies: Iterator[bytes]

    def send(self, data: bytes) -> None:
        """Send a frame, without waiting for the peer to take it."""
        ...

    def cancel(self) -> None:
        """End the stream for the thread that waits for a reply."""
        ...

    def close(self) -> None:
        """End the stream and leave the connection."""
        ...


class GrpcStream:
    """One gRPC connection with one call on it."""

    def __init__(
        self,
        address: str,
        wait_s: float = 0.0,
        method: str = METHOD,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Start a call; with `wait_s`, wait so long for somebody to listen first. Refuses: WORKER_LOST."""
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = _connection(address, credentials)
        if wait_s:
            self._wait(address, wait_s)
        exchange = self._channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)
        call = exchange(iter(self._outgoing.get, None))
        self.replies: Iterator[bytes] = iter(call)
        self._cancel: Callable[[], object] = call.cancel

    def _wait(self, address: str, wait_s: float) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(timeout=wait_s)
        except grpc.FutureTimeoutError as error:
            self._channel.close()
            raise Refused(Refusal.WORKER_LOST, f"nobody listened at {address} for {wait_s:g} s") from error

    def send(self, data: bytes) -> None:
        """Hand a frame to the call."""
        self._outgoing.put(data)

    def cancel(self) -> None:
        """Cancel the call."""
        self._cancel()

    def close(self) -> None:
        """Cancel the call and leave the connection."""
        self.cancel()
        self._outgoing.put(None)
        self._channel.close()


def _connection(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options=CONNECTION_OPTIONS)
    return grpc.secure_channel(address, credentials, options=(*CONNECTION_OPTIONS, PEER_NAME))


class RemoteTransport:
    """A stream to a worker process, with a time limit on every exchange.

    The address is that of a gRPC server or of a Unix socket. A dealer's stream is one too, with another
    method and credentials.
    """

    def __init__(
        self,
        address: str,
        deadline_s: float = DEADLINE_S,
        method: str = METHOD,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._connect: Callable[..., Stream] = (
            partial(sockets.Stream, address)
            if address.startswith(sockets.SCHEME)
            else partial(GrpcStream, address, method=method, credentials=credentials)
        )
        self._stream: Stream = self._connect()
        self._deadline_s = deadline_s
        self._ends: deque[float] = deque()
        self._waiting = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def send(self, data: bytes) -> None:
        """Send one frame; the first one of an exchange starts its clock. Refuses: WORKER_LOST."""
        if wire.begins_a_message(data):
            self._ends.append(time.monotonic() + self._deadline_s)
        self._check_open()
        self._stream.send(data)

    def start_clock(self) -> None:
        """Give what is waited for next, and nothing else, the whole deadline."""
        self._ends = deque([time.monotonic() + self._deadline_s])

    def receive(self) -> bytes:
        """Return the next frame, or refuse when the exchange is out of time.

        Implements: WIR-P2.
        Refuses: WORKER_LOST.
        """
        if not self._ends:
            self.start_clock()
        self._check_open()
        self._waiting = True
        try:
            data = next(self._stream.replies)
        except StopIteration as error:
            raise StreamLost("the worker ended the stream") from error
        except grpc.RpcError as error:
            if TOO_LONG in str(error):
                raise Refused(Refusal.FRAME_TOO_LARGE, "a message longer than a frame") from error
            raise StreamLost(self._reason()) from error
        finally:
            self._waiting = False
        if wire.ends_a_message(data) and self._ends:
            self._ends.popleft()
        return data

    def reopen(self) -> None:
        """Cancel the stream and start another, with a fresh clock, once somebody listens.

        Implements: WIR-P8.
        Refuses: WORKER_LOST when nobody does within the deadline.
        """
        self._stream.close()
        time.sleep(min(PAUSE_S, self._deadline_s))
        self._stream = self._connect(wait_s=self._deadline_s)
        self._ends.clear()

    def close(self) -> None:
        """Cancel the stream; every end, wanted or not, looks like this to the worker."""
        self._closed.set()
        self._stream.close()

    def _overdue(self) -> bool:
        ends = tuple(self._ends)
        return bool(ends) and time.monotonic() > ends[0]

    def _check_open(self) -> None:
        """Refuses: WORKER_LOST."""
        if self._closed.is_set():
            raise Refused(Refusal.WORKER_LOST, "the stream is closed")
        if self._overdue():
            raise StreamLost(self._reason())

    def _reason(self) -> str:
        if self._overdue():
            return f"no whole answer within {self._deadline_s:g} s"
        return "the connection to the worker failed"

    def _watch(self) -> None:
        """Cancel a call that is still waited for when its exchange is out of time. Implements: WIR-P2."""
        while not self._closed.wait(min(1.0, self._deadline_s / 10)):
            stream = self._stream
            if self._waiting and self._overdue():
                stream.cancel()


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
        if self._closed:
            raise Refused(Refusal.WORKER_LOST, "the stream is closed")
        if not self._replies:
            raise StreamLost("the worker has no answer")
        return self._replies.popleft()

    def reopen(self) -> None:
        """Refuse: a handler that has gone does not come back. Refuses: WORKER_LOST."""
        raise Refused(Refusal.WORKER_LOST, "the worker is gone")

    def close(self) -> None:
        """End the stream."""
        self._closed = True


class RecordingTransport:
    """Another transport, with every frame of all its streams written to one transcript file."""

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

    def reopen(self) -> None:
        """Go on in the same file with a new stream. Refuses: WORKER_LOST."""
        self._inner.reopen()

    def close(self) -> None:
        """End the stream and finish the file."""
        self._inner.close()
        self._writer.close()
