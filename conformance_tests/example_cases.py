"""Cases that tell a wrong program from a right one and are in no vector file, or too long for one.

They have the form of the cases there. Each follows from one sentence of the specification; none is what a
program happened to answer.
"""

from collections.abc import Sequence
from typing import Any, Final

from veil_spec import constants

Case = dict[str, Any]

SEED: Final = {"seed": "00" * constants.SEED_BYTES}
SMALL, MIDDLE, LARGE = constants.PRIMES
FULL, REST = divmod((LARGE - 1) // 2 // 2**15, constants.WEIGHT_LIMIT)
"""Weights of the largest size, and one of the rest, with the largest sum that RMO-R1 has a field for."""
NOWHERE: Final[dict[str, Any]] = {"listed": []}
"""A tape without words."""


def _digits(value: int, count: int) -> str:
    return value.to_bytes(count, "little").hex()


def _elements(rows: Sequence[Sequence[int]], modulus: int = SMALL) -> dict[str, Any]:
    width = (modulus.bit_length() + 7) // 8
    words = "".join(_digits(value, width) for row in rows for value in row)
    return {"shape": [len(rows), len(rows[0]) if rows else 0], "words": words}


def _case(operation: str, outcome: Any, **fields: Any) -> Case:
    """Return a case; an outcome in capitals is a refusal."""
    if fields.get("modulus", 0) >= 2**53:
        fields["modulus"] = _digits(fields["modulus"], (fields["modulus"].bit_length() + 7) // 8)
    is_refusal = isinstance(outcome, str) and outcome.isupper()
    return {"operation": operation, "input": fields, "refusal" if is_refusal else "output": outcome}


def _listed(domain: str, index: int, words: Sequence[int]) -> dict[str, Any]:
    """Return a tape whose word `index` of stream 0 is the first; the others are those of its retry stream."""
    places = [(0, index), *(((index + 1) << constants.RETRY_SHIFT, i) for i in range(len(words) - 1))]
    return {
        "listed": [
            {"domain": domain, "stream": _digits(stream, 14), "index": i, "word": _digits(word, 8)}
            for (stream, i), word in zip(places, words, strict=True)
        ]
    }


def _draw(outcome: Any, alpha: str, *words: int) -> Case:
    noise, tape = {"kind": "geometric", "alpha": alpha}, _listed("nmx.noise", 0, words)
    return _case("sample", outcome, noise=noise, tape=tape, token=0, candidate=0, document=0)


def _field_elements(outcome: Any, start: int, count: int, stream: int = 0, modulus: int = SMALL) -> Case:
    place = {"domain": "rmo.pad", "stream": _digits(stream, 14), "start": start, "count": count}
    return _case("field_elements", outcome, tape=NOWHERE, **place, modulus=modulus)


def _burn(outcome: str | None, *addresses: tuple[int, int]) -> Case:
    return _case("burn", outcome, addresses=[list(address) for address in addresses])


def _mask(outcome: Any, activations: Any, pads: Any, modulus: int = SMALL) -> Case:
    return _case("mask", outcome, activations=activations, pads=_elements(pads, modulus), modulus=modulus)


def _multiply(outcome: Any, masked: Any, weights: Any, modulus: int = SMALL) -> Case:
    return _case("multiply", outcome, masked=_elements(masked, modulus), weights=weights, modulus=modulus)


def _unmask(outcome: Any, product: Any, correction: Any, modulus: int = SMALL) -> Case:
    fields = {"product": _elements(product, modulus), "correction": _elements(correction, modulus)}
    return _case("unmask", outcome, **fields, modulus=modulus)


def _select(outcome: Any, count: int) -> Case:
    noise = {"kind": "geometric", "alpha": "1/2"}
    return _case("select", outcome, scores=[0] * count, noise=noise, tape=NOWHERE, token=0, document=0)


CASES: Final = (
    # TAP-R5: bits 96 to 111 of a stream, each end of the elements, none asked for
    _case("word", "STREAM_OUT_OF_RANGE", tape=SEED, domain="test", stream=_digits(2**104, 14), index=0),
    _field_elements("STREAM_OUT_OF_RANGE", 0, 1, stream=2**64),
    _field_elements("STREAM_OUT_OF_RANGE", 0, 0, stream=2**96),
    _field_elements("COUNTER_OVERFLOW", -1, 1),
    _field_elements("COUNTER_OVERFLOW", 2**32 - 1, 0),
    _field_elements({"shape": [1, 0], "words": ""}, 2**32 - 2, 0),
    _field_elements("COUNTER_OVERFLOW", 2**32 - 2, 2),
    _field_elements("COUNTER_OVERFLOW", 0, 2**32),
    # TAP-R7: a listed tape is made
    _case("listed_tape", None, words=_listed("test", 3, (5, 6))["listed"]),
    _case("listed_tape", None, words=[]),
    _case(
        "word", _digits(5, 8), tape=_listed("test", 3, (5,)), domain="test", stream=_digits(0, 14), index=3
    ),
    # NMX-R3: one candidate
    _case(
        "select",
        {"index": 0},
        scores=[-7],
        noise={"kind": "geometric", "alpha": "1/2"},
        tape=_listed("nmx.noise", 0, (2**63,)),
        token=0,
        document=0,
    ),
    # NMX-R1: a power of alpha just above the interval, where 64 bits rounded down at each step put it inside
    _draw(2, "2/3", 0x71C71C71C71C71C6),
    _draw(3, "9/10", 0xBA9FBE76C8B43957),
    # RMO-R1, R2: one column, the largest of several rows
    _case("choose_modulus", SMALL, weights=[[5]]),
    _case("choose_modulus", MIDDLE, weights=[[1, 2, 3], [4, 5, 6], [32639, 32639, 258]]),
    _case("choose_modulus", MIDDLE, weights=[[32639, 32639, 258], [1, 2, 3], [4, 5, 6]]),
    _case("choose_modulus", "SHAPE_MISMATCH", weights=[]),
    _case("choose_modulus", "SHAPE_MISMATCH", weights=[[]]),
    _case("choose_modulus", "SHAPE_MISMATCH", weights=[[1], [1, 2]]),
    # RMO-R3: the sum is p, p - 1, 0 at the largest activations
    _mask(_elements([[0, SMALL - 1, 0]]), [[5, 5, -32767]], [[SMALL - 5, SMALL - 6, 32767]]),
    _mask(_elements([[32767, SMALL - 32767]]), [[32767, -32767]], [[0, 0]]),
    # RMO-R4: a product that is 0 mod p
    _multiply(_elements([[0, SMALL - 2]]), [[1, SMALL - 1]], [[1, 1], [-1, 1]]),
    # RMO-R11: every earlier step counts, of its own group only
    _burn(None),
    _burn(None, (0, 5), (1, 3), (2, 4), (0, 6), (1, 5)),
    _burn("PAD_REUSED", (2, 0), (1, 4), (1, 3)),
    _burn("PAD_REUSED", (1, 4), (2, 0), (3, 0), (1, 3)),
    _burn("PAD_REUSED", (0, 7), (0, 9), (0, 8)),
    # RMO-R12: the last element, nothing, other shapes, no field
    _mask("NOT_IN_FIELD", [[1, 2], [3, 4]], [[0, 0], [0, SMALL]]),
    _multiply("NOT_IN_FIELD", [[0, 0], [0, SMALL]], [[1, 2]]),
    _unmask("NOT_IN_FIELD", [[0, 0], [0, SMALL]], [[0, 0], [0, 0]]),
    _unmask("NOT_IN_FIELD", [[0, 0], [0, 0]], [[0, 0], [0, SMALL]]),
    _mask("ACTIVATION_OUT_OF_RANGE", [[1, 2], [3, -32768]], [[0, 0], [0, 0]]),
    _mask("SHAPE_MISMATCH", [], []),
    _multiply("SHAPE_MISMATCH", [], []),
    _unmask("SHAPE_MISMATCH", [], []),
    _mask("SHAPE_MISMATCH", [[1], [2]], [[1, 2]]),
    _mask("SHAPE_MISMATCH", [[1, 2], [3]], [[1, 2], [3, 4]]),
    _multiply("SHAPE_MISMATCH", [[1, 2]], [[1, 2], [3]]),
    _unmask("SHAPE_MISMATCH", [[1], [2]], [[1, 2]]),
    _mask("FIELD_UNKNOWN", [[1]], [[1]], 2**61 - 1),
    _unmask("FIELD_UNKNOWN", [[1]], [[1]], 97),
)
"""Each is as short as a vector, and could be one."""

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
