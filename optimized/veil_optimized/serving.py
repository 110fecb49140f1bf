"""A server of frame streams that bounds what its peers can hold of it: streams, buffers and time."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Protocol

import grpc

from veil_optimized import sockets, wire
from veil_optimized.transport import METHOD, OPTIONS
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

IDLE_S: Final = 600.0
"""Seconds that a stream may be silent: ten times the default deadline of an exchange."""
GRACE_S: Final = 8.0
"""Seconds for exchanges in progress to end: less than the 10 that a container runtime waits by default."""
SERVER_OPTIONS: Final = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", constants.STREAM_LIMIT),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
"""An address has one server, and a connection that never says HTTP/2 is closed."""

Answer = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Returns the frames that one stream sends for the frames that it receives."""


class Listener(Protocol):
    """Where streams arrive, each answered by an `Exchange`."""

    address: str

    def start(self) -> None:
        """Begin to take streams."""
        ...

    def stop(self, grace_s: float) -> Callable[[], object]:
        """Take no new stream; return what waits for the others, and ends them after so many seconds."""
        ...


class Stream:
    """One peer's stream: whether it is the peer's turn, and since when."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end
        self._since: float | None = None
        self._reading = False
        self._answered = True

    @property
    def between(self) -> bool:
        """Return whether the last exchange is answered, and no frame of the next one is here."""
        return self._reading and self._answered

    def silent_s(self) -> float:
        """Return for how long the peer alone could have gone on and did not."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def await_peer(self, reading: bool) -> None:
        """Note that only the peer can go on: by sending a frame, or by taking one."""
        self._reading, self._since = reading, time.monotonic()

    def go_on(self, answered: bool) -> None:
        """Note that the peer has sent or taken a frame, and whether it was the last one of an answer."""
        self._answered = answered
        self._reading, self._since = False, None


class Server:
    """A running server. `address` is where it listens.

    Implements: WIR-P9, WIR-P10.
    """

    def __init__(
        self,
        answer: Answer,
        address: str,
        method: str = METHOD,
        credentials: grpc.ServerCredentials | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        """Start to listen. Refuses: WORKER_LOST for an address that is taken or is none."""
        self._answer = answer
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._stopping = threading.Event()
        self._listener: Listener = (
            sockets.Listener(address, self._exchange)
            if address.startswith(sockets.SCHEME)
            else GrpcListener(address, self._exchange, method, credentials)
        )
        self.address = self._listener.address
        self._listener.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Take no new stream, end those between exchanges, and return when the others have ended.

        Those that have not in `grace_s` seconds are ended then.

        Implements: WIR-P10.
        """
        wait = self._listener.stop(grace_s)
        with self._lock:
            self._stopping.set()
            for stream in self._streams:
                if stream.between:
                    stream.end()
        wait()

    def _exchange(self, requests: Iterator[bytes], end: Callable[[], object]) -> Generator[bytes, None, None]:
        stream = Stream(end)
        with self._lock:
            self._streams.add(stream)
        try:
            for reply in self._answer(self._received(requests, stream)):
                stream.await_peer(reading=False)
                yield reply
                stream.go_on(answered=wire.ends_a_message(reply))
        finally:
            with self._lock:
                self._streams.discard(stream)

    def _received(self, requests: Iterator[bytes], stream: Stream) -> Iterator[bytes]:
        """Yield the peer's frames; when the server stops, to the end of the exchange. Implements: WIR-P10."""
        while True:
            with self._lock:
                stream.await_peer(reading=True)
                if self._stopping.is_set() and stream.between:
                    return
            data = next(requests, None)
            if data is None:
                return
            stream.go_on(answered=False)
            yield data

    def _watch(self) -> None:
        """End streams whose peer is silent. Implements: WIR-P9."""
        while not self._stopping.wait(min(1.0, self._idle_s / 10)):
            with self._lock:
                silent = [stream for stream in self._streams if stream.silent_s() > self._idle_s]
            for stream in silent:
                stream.end()


class GrpcListener:
    """A port where streams of one gRPC method arrive; those above the limit are turned away.

    Implements: WIR-P9, WIR-P10.
    """

    def __init__(
        self,
        address: str,
        exchange: sockets.Exchange,
        method: str,
        credentials: grpc.ServerCredentials | None,
    ) -> None:
        """Take a port. Refuses: WORKER_LOST."""

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with suppress(grpc.RpcError):
                yield from exchange(requests, context.cancel)

        _, service, name = method.split("/")
        self._server = grpc.server(
            ThreadPoolExecutor(constants.STREAM_LIMIT),
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=constants.STREAM_LIMIT,
        )
        handlers = {name: grpc.stream_stream_rpc_method_handler(answer)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.address = f"{address.rpartition(':')[0]}:{self._port(address, credentials)}"

    def _port(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Refused(
                Refusal.WORKER_LOST, f"cannot listen on {address}: give another --address"
            ) from error

    def start(self) -> None:
        """Begin to take streams."""
        self._server.start()

    def stop(self, grace_s: float) -> Callable[[], object]:
        """Take no new stream; return what waits for the others, and ends them after so many seconds."""
        return self._server.stop(grace_s).wait
