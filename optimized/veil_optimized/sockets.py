"""Streams of frames over a Unix socket, between two processes of one machine: frame after frame, no more."""

import io
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from veil_optimized import wire
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

SCHEME: Final = "unix:"
"""Begins the address of a Unix socket; the path follows."""
BUFFER: Final = 2**16
"""Bytes that are read at a time where no long frame is awaited."""
ON_THE_WAY: Final = 2**21
"""Bytes that the system is asked to hold for each end: two frames, so that a sender goes on to the next."""
AWAKE_S: Final = 300e-6 if (os.cpu_count() or 1) > 1 else 0.0
"""Seconds for which a process looks out for the next frame before it sleeps, where there is a core for it."""
AGAIN_S: Final = 0.05
"""Seconds between two attempts to reach somebody who may yet listen."""
STOP_S: Final = 1.0
"""Seconds for a stream's thread to end once its stream has."""
ONLY_THE_OWNER: Final = 0o177
"""What is masked out of the rights of a socket's file."""

Exchange = Callable[[Iterator[bytes], Callable[[], object]], Generator[bytes, None, None]]
"""Returns the frames that answer a stream's frames; what it is given second ends the stream."""


def frames(stream: socket.socket) -> Iterator[bytes]:
    """Yield frames as they come, to the end of the stream or the first one that is not whole.

    A header that states no payload within the limits is yielded by itself, for `wire.decode` to refuse.
    """
    with suppress(OSError), io.BufferedReader(_Awake(stream), BUFFER) as reader:
        while len(header := reader.read(wire.HEADER_BYTES)) == wire.HEADER_BYTES:
            length = wire.payload_length(header)
            payload = reader.read(length)
            if len(payload) < length:
                return
            yield header + payload


class _Awake(io.RawIOBase):
    """Reads a stream. Asks again for a while before it sleeps: waking up costs as much as a short product."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Return how many bytes were read, 0 at the end of the stream."""
        until = time.perf_counter() + AWAKE_S
        while time.perf_counter() < until:
            try:
                return self._stream.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
        return self._stream.recv_into(buffer)


def end(stream: socket.socket) -> None:
    """End a stream both ways, for every thread that waits for it."""
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


class Stream:
    """The enclave's end of a stream."""

    def __init__(self, address: str, wait_s: float = 0.0) -> None:
        """Connect; with `wait_s`, wait so long for somebody to listen. Refuses: WORKER_LOST.

        Without, a stream that nobody takes is a broken one.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY)
        if not self._reached(address.removeprefix(SCHEME), wait_s) and wait_s:
            self._socket.close()
            raise Refused(Refusal.WORKER_LOST, f"nobody listened at {address} for {wait_s:g} s")
        self.replies = frames(self._socket)
        self._late: SimpleQueue[bytes | None] = SimpleQueue()
        self._behind = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._write, daemon=True).start()

    def _reached(self, path: str, wait_s: float) -> bool:
        ends = time.monotonic() + wait_s
        while True:
            try:
                self._socket.connect(path)
                return True
            except OSError:
                if time.monotonic() >= ends:
                    return False
            time.sleep(AGAIN_S)

    def send(self, data: bytes) -> None:
        """Send a frame: at once as far as the peer takes it, the rest while this thread goes on.

        Whether the stream is broken shows where the answer is read, which may be there already.
        """
        with self._lock:
            sent = 0 if self._behind else self._sent_at_once(data)
            if sent < len(data):
                self._behind += 1
                self._late.put(data[sent:])

    def _sent_at_once(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except OSError:
            return 0

    def _write(self) -> None:
        with suppress(OSError):
            while (data := self._late.get()) is not None:
                self._socket.sendall(data)
                with self._lock:
                    self._behind -= 1

    def cancel(self) -> None:
        """End the stream, for the threads that wait as well."""
        end(self._socket)

    def close(self) -> None:
        """End the stream."""
        self.cancel()
        self._late.put(None)
        self._socket.close()


class Listener:
    """A socket's file where streams arrive, each served by a thread of its own.

    Implements: WIR-P9, WIR-P10.
    """

    def __init__(self, address: str, exchange: Exchange) -> None:
        """Take the path of an address, or without one a path of its own. Refuses: WORKER_LOST."""
        self._exchange = exchange
        self._streams: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        given = address.removeprefix(SCHEME)
        self._folder = None if given else tempfile.mkdtemp(prefix="veil-")
        self._path = given or f"{self._folder}/worker"
        self._socket = _bound(self._path)
        self.address = SCHEME + self._path

    def start(self) -> None:
        """Begin to take streams."""
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                stream, _ = self._socket.accept()
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY)
                with self._lock:
                    if len(self._streams) >= constants.STREAM_LIMIT:
                        stream.close()
                        continue
                    thread = threading.Thread(target=self._serve, args=(stream,), daemon=True)
                    self._streams[stream] = thread
                    thread.start()

    def _serve(self, stream: socket.socket) -> None:
        replies = self._exchange(frames(stream), lambda: end(stream))
        with suppress(OSError), closing(replies):
            for reply in replies:
                stream.sendall(reply)
        with self._lock:
            del self._streams[stream]
        stream.close()

    def stop(self, grace_s: float) -> Callable[[], object]:
        """Take no new stream; return what waits for the others, and ends them after so many seconds."""
        end(self._socket)
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        ends = time.monotonic() + grace_s

        def wait() -> None:
            with self._lock:
                left = dict(self._streams)
            for stream, thread in left.items():
                thread.join(max(0.0, ends - time.monotonic()))
                end(stream)
            for thread in left.values():
                thread.join(STOP_S)

        return wait


def _bound(path: str) -> socket.socket:
    """Return a socket with a file of its owner's alone, in the place of one that nobody listens at.

    Refuses: WORKER_LOST.
    """
    bound, rights = socket.socket(socket.AF_UNIX), os.umask(ONLY_THE_OWNER)
    try:
        if _abandoned(path):
            os.unlink(path)
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise Refused(Refusal.WORKER_LOST, f"cannot listen on {path}: give another --address") from error
    finally:
        os.umask(rights)
    return bound


def _abandoned(path: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if not Path(path).is_socket():
            return False
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
