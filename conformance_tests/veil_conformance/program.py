"""A program that answers JSON lines: started without a shell, asked one line at a time, with time limits.

The suite asks an implementation this way, and `sanitizers/` a sanitizer: {"id", "operation", "input"} is
answered by {"id", "output"} or {"id", "refusal"}.
"""

import json
import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final, Literal, cast

from veil_spec.constants import LINE_LIMIT

Value = bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"] | None
"""What JSON can say."""
Fields = Mapping[str, Value]
Name = Literal["TIMEOUT", "CRASHED", "GARBAGE", "SLOW START"]
"""What can go wrong, as spec/wire.md calls it."""

PREFIX: Final = "exec:"
"""Begins the name of a program where a Python module could be named too."""
TIMEOUT: Final = 60.0
"""Seconds for one answer."""
READ: Final = 2**16
"""Bytes read at a time, and looked at for what a program last said."""
GRACE: Final = 2.0
"""Seconds that a program has to end once its standard output has, or once its standard input is closed."""


class NotStarted(Exception):
    """Raised with one line that says why a program cannot be started, and the remedy."""


class Trouble(Exception):
    """Raised with one line that says how a program failed to answer."""

    def __init__(self, name: Name, operation: str, detail: str) -> None:
        super().__init__(f"{operation}: {detail}")
        self.name: Name = name
        self.detail = detail


def short(value: object, limit: int = 60) -> str:
    """Return a value in one line of at most about `limit` characters."""
    line = " ".join(repr(value).split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def words(line: str) -> list[str]:
    """Return the words of a command line. Raises: NotStarted."""
    try:
        found = shlex.split(line)
    except ValueError:
        raise NotStarted("its quotation marks do not match: close them") from None
    if not found:
        raise NotStarted("it names no program: write 'exec:./program'")
    return found


def _unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    """Return an object's fields; ValueError where one is repeated."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is repeated")
    return made


class Program:
    """A started program; whatever goes wrong is one line in a Trouble."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        self._buffer, self._number = bytearray(), 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._child = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | dict(variables or {}),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            detail = f"cannot start {command[0]!r}: {error.strerror}; give a path to a program"
            raise NotStarted(detail) from None
        self._to, self._from = (
            cast(IO[bytes], pipe).fileno() for pipe in (self._child.stdin, self._child.stdout)
        )
        os.set_blocking(self._to, False)

    def ask(self, operation: str, given: Fields, timeout: float) -> dict[str, Value]:
        """Return the response: the right id, and an output or a refusal. Raises: Trouble."""
        self._number += 1
        request = {"id": self._number, "operation": operation, "input": given}
        deadline = time.monotonic() + timeout
        try:
            self._send(json.dumps(request).encode() + b"\n", deadline)
        except TimeoutError:
            raise Trouble(
                "TIMEOUT", operation, f"the request is not read within {timeout:g} seconds"
            ) from None
        except OSError:
            raise Trouble("CRASHED", operation, self._ended()) from None
        try:
            line = self._line(deadline)
        except TimeoutError:
            raise Trouble("TIMEOUT", operation, f"no answer within {timeout:g} seconds") from None
        except EOFError:
            raise Trouble("CRASHED", operation, self._ended()) from None
        if line is None:
            detail = f"an answer of more than {LINE_LIMIT} bytes without a line end"
            raise Trouble("GARBAGE", operation, detail)
        return self._response(line, operation)

    def close(self) -> None:
        """Return nothing; the program has seen its input end, and it and its session are gone afterwards."""
        with suppress(OSError):
            cast(IO[bytes], self._child.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE)
        self.kill()

    def kill(self) -> None:
        """Return nothing; the program and its session are gone afterwards."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            with suppress(OSError):
                cast(IO[bytes], stream).close()

    def _send(self, data: bytes, deadline: float) -> None:
        while data:
            if not select.select([], [self._to], [], max(0.0, deadline - time.monotonic()))[1]:
                raise TimeoutError
            with suppress(BlockingIOError):
                data = data[os.write(self._to, data) :]

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line, or None if it is too long."""
        looked_at = 0
        while (end := self._buffer.find(b"\n", looked_at)) < 0:
            looked_at = len(self._buffer)
            if looked_at >= LINE_LIMIT:
                return None
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(self._from, READ)
            if not piece:
                raise EOFError
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _response(self, line: bytes, operation: str) -> dict[str, Value]:
        try:
            reply = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            said = short(line.decode("utf-8", "replace"))
            raise Trouble("GARBAGE", operation, f"standard output holds {said}, which is not JSON") from None
        right = isinstance(reply, dict) and set(reply) in ({"id", "output"}, {"id", "refusal"})
        if right and type(reply["id"]) is int and reply["id"] == self._number:
            return cast(dict[str, Value], reply)
        raise Trouble("GARBAGE", operation, f"{short(reply)} does not answer request {self._number}")

    def _ended(self) -> str:
        """Return how the program ended, with the last line of its standard error."""
        try:
            status = f"ended with status {self._child.wait(GRACE)}"
        except subprocess.TimeoutExpired:
            status = "closed its standard input or output"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - READ))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        said = f": {' '.join(lines[-1].split())[:200]}" if lines else ""
        return f"the program {status}{said}"
