"""A sanitizer as a process of its own: JSON lines on its standard input and output, with time limits."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from veil_conformance.program import (
    PREFIX,
    TIMEOUT,
    Fields,
    NotStarted,
    Program,
    Trouble,
    Value,
    short,
    words,
)
from veil_conformance.sanitizers.subject import Crashed, Subject, Unusable


def command(impl: str) -> list[str]:
    """Return the command line of a sanitizer: `exec:PROGRAM ARGUMENTS` or `module[:factory]`.

    Raises: Unusable, NotStarted.
    """
    if impl.startswith(PREFIX):
        return words(impl.removeprefix(PREFIX))
    if not all(piece.isidentifier() for piece in impl.replace(":", ".", 1).split(".")):
        raise Unusable("it is no module name: write module, module:factory or 'exec:./program'")
    return [sys.executable, "-m", "veil_conformance.sanitizers.serve", impl]


class Process:
    """A caller for a program; whatever goes wrong is one line in a Crashed."""

    def __init__(self, line: Sequence[str], timeout: float, variables: Mapping[str, str]) -> None:
        self._program, self._timeout = Program(line, variables), timeout

    def ask(self, operation: str, given: Fields) -> Value:
        """Return the program's answer. Raises: Crashed."""
        try:
            reply = self._program.ask(operation, given, self._timeout)
        except Trouble as trouble:
            raise Crashed(str(trouble)) from None
        if "refusal" in reply:
            raise Crashed(f"{operation} was refused: {short(reply['refusal'], 240)}")
        return reply["output"]

    def close(self) -> None:
        """Return nothing; the program and its children are gone afterwards."""
        self._program.kill()


@contextmanager
def opened(impl: str, timeout: float = TIMEOUT) -> Iterator[Subject]:
    """Yield a sanitizer in a fresh process. Raises: Unusable, and Crashed if it cannot describe itself."""
    # A Python sanitizer is found where this process finds its modules; other programs have their own paths.
    path = {} if impl.startswith(PREFIX) else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = Process(command(impl), timeout, path)
    except NotStarted as error:
        raise Unusable(str(error)) from None
    try:
        yield Subject(process)
    finally:
        process.close()
