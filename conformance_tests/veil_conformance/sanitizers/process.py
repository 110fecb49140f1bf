"""A sanitizer as a process of its own: JSON lines on its standard input and output, with time limits."""

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final, cast

from veil_conformance.sanitizers.subject import Crashed, Fields, Subject, Unusable, Value, short

PREFIX: Final = "exec:"
TIMEOUT: Final = 60.0
"""Seconds for one answer."""
LINE_LIMIT: Final = 2**26
"""Most bytes of one answer."""
READ: Final = 2**16
"""Bytes read at a time, and looked at for what a program last said."""
GRACE: Final = 2.0
"""Seconds that a program has to end once its standard output has."""


def command(impl: str) -> list[str]:
    """Return the command line of a sanitizer: `exec:PROGRAM ARGUMENTS` or `module[:factory]`.

    Raises: Unusable.
    """
    if impl.startswith(PREFIX):
        return _words(impl.removeprefix(PREFIX))
    if not all(piece.isidentifier() for piece in impl.replace(":", ".", 1).split(".")):
        raise Unusable("it is no module name: write module, module:factory or 'exec:./program'")
    return [sys.executable, "-m", "veil_conformance.sanitizers.serve", impl]


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:
        raise Unusable("its quotation marks do not match: close them") from None
    if not words:
        raise Unusable("it names no program: write 'exec:./program'")
    return words


class Process:
    """A caller for a program; whatever goes wrong is one line in a Crashed."""

    def __init__(
        self, words: Sequence[str], timeout: float = TIMEOUT, variables: Mapping[str, str] | None = None
    ) -> None:
        self._timeout, self._buffer, self._number = timeout, bytearray(), 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._child = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | dict(variables or {}),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise Unusable(f"cannot start {words[0]!r}: {error.strerror}; give a path to a program") from None

    def ask(self, operation: str, given: Fields) -> Value:
        """Return the program's answer. Raises: Crashed."""
        self._number += 1
        request = {"id": self._number, "operation": operation, "input": given}
        deadline = time.monotonic() + self._timeout
        self._send(json.dumps(request).encode() + b"\n", operation, deadline)
        return self._answer(self._line(operation, deadline), operation)

    def close(self) -> None:
        """Return nothing; the program and its children are gone afterwards."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            with suppress(OSError):
                cast(IO[bytes], stream).close()

    def _send(self, data: bytes, operation: str, deadline: float) -> None:
        pipe = cast(IO[bytes], self._child.stdin).fileno()
        os.set_blocking(pipe, False)
        while data:
            if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                raise Crashed(f"{operation}: the request is not read within {self._timeout:g} seconds")
            try:
                data = data[os.write(pipe, data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Crashed(self._ended(operation)) from None

    def _line(self, operation: str, deadline: float) -> bytes:
        pipe, looked_at = cast(IO[bytes], self._child.stdout).fileno(), 0
        while (end := self._buffer.find(b"\n", looked_at)) < 0:
            looked_at = len(self._buffer)
            if looked_at > LINE_LIMIT:
                raise Crashed(f"{operation}: an answer of more than {LINE_LIMIT} bytes without a line end")
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Crashed(f"{operation}: no answer within {self._timeout:g} seconds")
            piece = os.read(pipe, READ)
            if not piece:
                raise Crashed(self._ended(operation))
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _answer(self, line: bytes, operation: str) -> Value:
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            said = short(line.decode("utf-8", "replace"))
            raise Crashed(f"{operation}: standard output holds {said}, which is not JSON") from None
        if isinstance(reply, dict) and reply.get("id") == self._number:
            if set(reply) == {"id", "output"}:
                return cast(Value, reply["output"])
            if set(reply) == {"id", "refusal"}:
                raise Crashed(f"{operation} was refused: {short(reply['refusal'], 240)}")
        raise Crashed(f"{operation}: {short(reply)} does not answer request {self._number}")

    def _ended(self, operation: str) -> str:
        """Return how the program ended, with the last line of its standard error."""
        try:
            status = f"ended with status {self._child.wait(GRACE)}"
        except subprocess.TimeoutExpired:
            status = "closed its standard input or output"
        self._errors.seek(0)
        lines = self._errors.read()[-READ:].decode("utf-8", "replace").strip().splitlines()
        said = f": {' '.join(lines[-1].split())[:200]}" if lines else ""
        return f"{operation}: the program {status}{said}"


@contextmanager
def opened(impl: str, timeout: float = TIMEOUT) -> Iterator[Subject]:
    """Yield a sanitizer in a fresh process. Raises: Unusable, and Crashed if it cannot describe itself."""
    # A Python sanitizer is found where this process finds its modules; other programs have their own paths.
    path = {} if impl.startswith(PREFIX) else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = Process(command(impl), timeout, path)
    try:
        yield Subject(process)
    finally:
        process.close()
