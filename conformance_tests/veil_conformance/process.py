"""An implementation in a program of its own, asked by the plug-in protocol of spec/wire.md.

To the tests it is an implementation like any other, so hypothesis draws and shrinks what a program in any
language is asked. A value without a form in the protocol is not put to it: its test is left out, and counted.
"""

import inspect
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

import pytest

from veil_conformance.codec import (
    READERS,
    SIGNATURES,
    Context,
    Fields,
    Json,
    Malformed,
    Unwritable,
    fields,
    read_texts,
    text,
    written,
)
from veil_conformance.program import TIMEOUT, NotStarted, Program, Trouble, short
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain

START: Final = 10.0
"""Seconds from the start to the answer to `describe`."""
RESTARTS: Final = 100
"""Most times that a program is started anew in one run."""
NO_FORM: Final = "not put to the program, which has no form for it: "
"""Begins the reason of a test that is left out."""
SHOWN: Final = 2000
"""Most characters of a request that are shown where it went wrong."""
EXCHANGES: Final = 3
"""Most requests that are shown with a test that failed."""


def _word(tape: object, domain: Domain, stream: int, index: int) -> None:
    """Stand for the method of a tape."""


def _parameters(operation: str) -> inspect.Signature:
    if operation == "word":
        return inspect.signature(_word)
    whole = inspect.signature(getattr(Implementation, operation))
    return whole.replace(parameters=list(whole.parameters.values())[1:])


PARAMETERS: Final = {operation: _parameters(operation) for operation in SIGNATURES}
"""How each operation is called from Python; the order is that of `SIGNATURES`, the names may differ."""


TAPES: Final = {"seeded_tape": ("seed", "seed"), "listed_tape": ("words", "listed")}
"""Operations that make a tape: the argument that makes it, and the field under which it is written."""


class Unanswered(BaseException):
    """Raised where a program failed and is started anew: it ends a test at once, and nothing is shrunk."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for one answer and for the start, and how often a program is started anew."""

    answer: float = TIMEOUT
    start: float = START
    restarts: int = RESTARTS


@dataclass(frozen=True, slots=True)
class About:
    """What a program says of itself."""

    name: str
    version: str
    spec_version: str
    operations: tuple[str, ...]


def described(value: Json) -> About:
    """Return what `describe` gave, checked. Raises: Malformed."""
    stated = fields(value, "name", "version", "spec_version", "operations")
    operations = read_texts(stated["operations"])
    if len(set(operations)) != len(operations):
        raise Malformed("an operation is claimed twice")
    return About(text(stated["name"]), text(stated["version"]), text(stated["spec_version"]), operations)


@dataclass(frozen=True, slots=True)
class ProgramTape:
    """A tape that is known by how it is written; its words are the program's."""

    written: Json
    call: Callable[..., object]

    def word(self, domain: Domain, stream: int, index: int) -> int:
        """Return the program's word at an address."""
        return cast(int, self.call(self, domain, stream, index))


class Plugin:
    """`veil_spec.interface.Implementation` over a program; close it in the end."""

    def __init__(self, command: Sequence[str], limits: Limits | None = None) -> None:
        sys.set_int_max_str_digits(0)
        self._command, self._limits = command, limits or Limits()
        self._program: Program | None = None
        self._starts = 0
        self.troubles: list[Trouble] = []
        """What went wrong since somebody last looked and cleared it."""
        self.exchanges: deque[tuple[object, object]] = deque(maxlen=EXCHANGES)
        """The last requests with their answers, since somebody last cleared it."""
        try:
            self.about = self._start()
        except BaseException:
            self._end()
            raise

    @property
    def name(self) -> str:
        """Return the implementation's name."""
        return self.about.name

    @property
    def spec_version(self) -> str:
        """Return the version that it implements."""
        return self.about.spec_version

    @property
    def operations(self) -> frozenset[str]:
        """Return the operations that it claims; the method of its tapes is none of them."""
        return frozenset(self.about.operations) - {"word"}

    def __getattr__(self, name: str) -> Callable[..., object]:
        """Return an operation as a function."""
        if name not in SIGNATURES:
            raise AttributeError(name)
        return partial(self._call, name)

    def close(self) -> None:
        """Return nothing; the program is gone afterwards."""
        if self._program:
            self._program.close()
        self._program = None

    def _end(self) -> None:
        if self._program:
            self._program.kill()
        self._program = None

    def _start(self) -> About:
        """Return what a fresh program says of itself. Raises: Trouble, NotStarted."""
        self._starts += 1
        self._program = Program(self._command)
        try:
            return described(self._ask("describe", {}, self._limits.start))
        except (Malformed, Refused) as error:
            raise Trouble("GARBAGE", "describe", str(error)) from None
        except Trouble as trouble:
            if trouble.name == "TIMEOUT":
                raise Trouble("SLOW START", "describe", trouble.detail) from None
            raise

    def _call(self, operation: str, *values: object, **named: object) -> object:
        """Return what an operation gives. Raises: Refused, Trouble, Unanswered."""
        bound = PARAMETERS[operation].bind(*values, **named)
        bound.apply_defaults()
        arguments, result = SIGNATURES[operation]
        modulus = cast(int, bound.arguments.get("modulus", 2))
        stated = zip(arguments.items(), bound.arguments.values(), strict=True)
        try:
            given = {name: written(kind, value, modulus) for (name, kind), value in stated}
        except Unwritable as error:
            pytest.skip(f"{NO_FORM}{error}")
        try:
            made = self._read(result, self._answer(operation, given), modulus)
        except Malformed as error:
            trouble = Trouble("GARBAGE", operation, str(error))
            raise AssertionError(self._noted(trouble, given)) from None
        form = TAPES.get(operation)
        return ProgramTape({form[1]: given[form[0]]}, partial(self._call, "word")) if form else made

    def _read(self, kind: str, output: Json, modulus: int) -> object:
        """Return an output as a Python value. Raises: Malformed, also where its type refuses the value."""
        try:
            return READERS[kind](output, Context(cast(Implementation, self), modulus, Path()))
        except Refused as refused:
            raise Malformed(f"{short(output)} is out of range: {refused}") from None

    def shown(self) -> str:
        """Return the last requests, as lines that can be sent again, with their answers, cut where long."""
        lines = [line for pair in self.exchanges for line in zip("><", pair, strict=True)]
        return "\n".join(f"{sign} {json.dumps(line)[:SHOWN]}" for sign, line in lines)

    def _noted(self, trouble: Trouble, given: Fields) -> str:
        """Return what went wrong with the request, and keep it for the report."""
        self.troubles.append(trouble)
        return f"{trouble.name}: {trouble}\nThe input was {json.dumps(given)[:SHOWN]}"

    def _answer(self, operation: str, given: Fields) -> Json:
        """Return what a program that runs answers; if it does not, it is ended."""
        try:
            if self._program is None:
                self._restart(operation)
            return self._ask(operation, given, self._limits.answer)
        except Trouble as trouble:
            self._end()
            raise Unanswered(self._noted(trouble, given)) from None

    def _restart(self, operation: str) -> None:
        if self._starts > self._limits.restarts:
            detail = f"not asked: the program was started anew {self._limits.restarts} times before"
            raise Trouble("CRASHED", operation, detail)
        try:
            about = self._start()
        except NotStarted as error:
            raise Trouble("CRASHED", operation, str(error)) from None
        if about != self.about:
            raise Trouble("GARBAGE", "describe", "the program describes itself otherwise than before")

    def _ask(self, operation: str, given: Mapping[str, Json], seconds: float) -> Json:
        """Return an output. Raises: Refused, Malformed, and Trouble after which the program has to end."""
        reply = cast(Program, self._program).ask(operation, given, seconds)
        self.exchanges.append(({"id": 1, "operation": operation, "input": given}, reply | {"id": 1}))
        if "output" in reply:
            return cast(Json, reply["output"])
        if reply["refusal"] not in tuple(Refusal):
            raise Malformed(f"no refusal has the name {short(reply['refusal'])}")
        raise Refused(Refusal(reply["refusal"]))
