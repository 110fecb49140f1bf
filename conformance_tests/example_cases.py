"""Cases that tell a wrong program from a right one and are too long for a vector file, and broken lines.

They have the form of the cases there. Each follows from one sentence of the specification; none is what a
program happened to answer.
"""

from typing import Any, Final

from veil_spec import constants

Case = dict[str, Any]

LARGE: Final = constants.PRIMES[-1]
FULL, REST = divmod((LARGE - 1) // 2 // 2**15, constants.WEIGHT_LIMIT)
"""Weights of the largest size, and one of the rest, with the largest sum that RMO-R1 has a field for."""
NOWHERE: Final[dict[str, Any]] = {"listed": []}
"""A tape without words."""


def _case(operation: str, outcome: Any, **fields: Any) -> Case:
    """Return a case; an outcome in capitals is a refusal."""
    is_refusal = isinstance(outcome, str) and outcome.isupper()
    return {"operation": operation, "input": fields, "refusal" if is_refusal else "output": outcome}


def _select(outcome: Any, count: int) -> Case:
    noise = {"kind": "geometric", "alpha": "1/2"}
    return _case("select", outcome, scores=[0] * count, noise=noise, tape=NOWHERE, token=0, document=0)


LONG_CASES: Final = (
    # NMX-R6: the most candidates are drawn for, and one more is refused before the tape is read
    _select("TAPE_EXHAUSTED", constants.CANDIDATE_LIMIT),
    _select("SCORE_OUT_OF_RANGE", constants.CANDIDATE_LIMIT + 1),
    # RMO-R2: the first row that no field has room for, and the last that one has
    _case("choose_modulus", LARGE, weights=[[32639] * FULL + [REST]]),
    _case("choose_modulus", "WOULD_WRAP", weights=[[32639] * FULL + [REST + 1]]),
)
"""A line of each is too long for a vector file."""

MALFORMED: Final = (
    "",
    "{",
    "[]",
    "null",
    "{}",
    '{"id": 1, "operation": "describe"}',
    '{"id": 1, "operation": "describe", "input": {}, "more": 1}',
    '{"id": 1, "operation": "describe", "input": {}} {}',
    '{"id": 1, "operation": "describe", "input": {"more": 1}}',
    '{"id": "1", "operation": "describe", "input": {}}',
    '{"id": 1.5, "operation": "describe", "input": {}}',
    '{"id": 1, "operation": "no such operation", "input": {}}',
    '{"id": 1, "operation": "burn", "input": {}}',
    '{"id": 1, "operation": "burn", "input": {"addresses": 5}}',
    '{"id": 1, "operation": "burn", "input": {"addresses": [[1, 2],]}}',
    '{"id": 1, "operation": "burn", "input": {"addresses": [["1", 2]]}}',
    '{"id": 1, "operation": "burn", "input": {"addresses": [[1, 2, 3]]}}',
    '{"id": 1, "operation": "burn", "input": {"addresses": [[1, 9007199254740992]]}}',
    '{"id": 1, "operation": "ratchet", "input": {"seed": "0"}}',
    '{"id": 1, "operation": "ratchet", "input": {"seed": "0G"}}',
    '{"id": 1, "operation": "noise", "input": {"alpha": "0.5", "two_sided": true}}',
    '{"id": 1, "operation": "noise", "input": {"alpha": "1/2", "two_sided": 1}}',
    '{"id": 1, "operation": "unmask", "input": {"product": {"shape": [1, 1], "words": "00"}, '
    '"correction": {"shape": [1, 1], "words": "00000000"}, "modulus": 4294967291}}',
    '{"id": 1, "operation": "unmask", "input": {"product": {"shape": [-1, 1], "words": ""}, '
    '"correction": {"shape": [1, 1], "words": "00000000"}, "modulus": 4294967291}}',
)
"""Lines that are no request; a program says so in one line and ends with status 2."""
