"""`python -m veil_conformance.sanitizers.serve module[:factory]`: a Python sanitizer on JSON lines.

The auditor starts this process for every Python sanitizer, so a crash or an endless loop stays in here, and
two processes really are two. What the sanitizer prints goes to standard error.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final, TextIO, cast

from veil_conformance.program import Fields, Value
from veil_conformance.sanitizers.subject import Sanitizer

FACTORY: Final = "sanitizer"
"""The factory where a name gives none."""


def brief(error: BaseException) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def load(name: str) -> Sanitizer:
    """Return the sanitizer that `module` or `module:factory` names; any exception says why there is none."""
    module_name, _, factory_name = name.partition(":")
    module = importlib.import_module(module_name)
    factory = getattr(module, factory_name or FACTORY, None)
    if not callable(factory):
        raise LookupError(f"{module_name} has no factory {factory_name or FACTORY!r}")
    return cast(Sanitizer, factory())


class InProcess:
    """A caller for a sanitizer of this very process."""

    def __init__(self, sanitizer: Sanitizer) -> None:
        self._sanitizer = sanitizer

    def ask(self, operation: str, given: Fields) -> Value:
        """Return what the sanitizer answers, or raise what it raises."""
        called = cast(Callable[..., Value], getattr(self._sanitizer, operation))
        return called(**given)

    def close(self) -> None:
        """Return nothing."""


def _plain(value: object) -> Value:
    """Return numpy's arrays and scalars as JSON can say them."""
    if hasattr(value, "tolist"):
        return cast(Value, value.tolist())
    raise TypeError(f"{type(value).__name__} is not a plain value")


def answer(caller: InProcess, request: Mapping[str, Value]) -> str:
    """Return the line that answers a request."""
    given = cast(Fields, request.get("input", {}))
    try:
        output = caller.ask(str(request["operation"]), given)
        return json.dumps({"id": request["id"], "output": output}, default=_plain)
    except Exception as error:
        return json.dumps({"id": request["id"], "refusal": brief(error)})


def _serve(name: str, lines: TextIO, replies: TextIO) -> None:
    failure, caller = "", None
    try:
        caller = InProcess(load(name))
    except Exception as error:
        failure = f"cannot load {name!r}: {brief(error)}"
    for line in lines:
        request = json.loads(line)
        refused = json.dumps({"id": request["id"], "refusal": failure})
        print(answer(caller, request) if caller else refused, file=replies, flush=True)


def main() -> None:
    """Return nothing; serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _serve(sys.argv[1], sys.stdin, replies)


if __name__ == "__main__":
    main()
