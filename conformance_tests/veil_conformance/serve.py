"""`python -m veil_conformance.serve module[:factory]`: a Python implementation behind the plug-in protocol.

An example of a program that `--impl 'exec:...'` tests: one request a line on standard input, one response a
line on standard output. What the implementation itself prints goes to standard error.
"""

import json
import os
import sys
from typing import Final, TextIO, cast

from veil_conformance import codec, loading
from veil_spec import __version__
from veil_spec.interface import Implementation

TAPES: Final = frozenset({"seeded_tape", "listed_tape"})


def describe(impl: Implementation) -> codec.Fields:
    """Return what an implementation says of itself; its tapes have words."""
    operations = set(impl.operations) | ({"word"} if impl.operations & TAPES else set())
    about: codec.Fields = {"name": impl.name, "version": __version__, "spec_version": impl.spec_version}
    return about | {"operations": cast(list[codec.Json], sorted(operations))}


def answer(impl: Implementation, line: str) -> codec.Fields:
    """Return the response to a request."""
    request = codec.fields(json.loads(line), "id", "operation", "input")
    operation = codec.text(request["operation"])
    if operation == "describe":
        return {"id": request["id"], "output": describe(impl)}
    return {"id": request["id"]} | codec.run(impl, operation, request["input"])


def serve(impl: Implementation, requests: TextIO, responses: TextIO) -> None:
    """Return nothing; answer every line until there is none."""
    for line in requests:
        print(json.dumps(answer(impl, line)), file=responses, flush=True)


def main() -> int:
    """Return 0 once standard input has ended."""
    sys.set_int_max_str_digits(0)
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(loading.load(sys.argv[1]), sys.stdin, responses)
    return 0


if __name__ == "__main__":
    sys.exit(main())
