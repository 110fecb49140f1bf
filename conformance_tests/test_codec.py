"""Every kind of value: written and read back unchanged, and refused where it has another form or none."""

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from math import inf, nan
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veil_conformance import codec, protocol
from veil_conformance.codec import READERS, SIGNATURES, WRITERS, Context, Fields, Json, Malformed, Unwritable
from veil_conformance.suite import ROOT
from veil_reference import implementation
from veil_spec.constants import LWE_MODULUS, PRIMES
from veil_spec.refusals import Refused
from veil_spec.types import Geometric, Part, Table

REFERENCE = implementation()
OUTPUTS = {"exp2_digits", "normal_tail", "split"}
"""Operations without a vector: their values have other tests here."""


def cases() -> Iterator[Fields]:
    """Yield every case of the vectors."""
    for path in sorted((ROOT / "vectors").glob("*.json")):
        yield from json.loads(path.read_text("utf-8")).get("cases", [])


def values() -> Iterator[tuple[str, Json, int]]:
    """Yield (kind, value, modulus) of every argument and output of the vectors."""
    for case in cases():
        arguments, result = SIGNATURES[codec.text(case["operation"])]
        given = codec.fields(case["input"], *arguments)
        modulus = codec.read_modulus(given.get("modulus", 2))
        yield from ((kind, given[name], modulus) for name, kind in arguments.items())
        if "output" in case:
            yield result, case["output"], modulus


def again(kind: str, value: Json, modulus: int, folder: Path) -> Json:
    """Return a value read and written."""
    read = READERS[kind](value, Context(REFERENCE, modulus, folder))
    if kind == "tape" and isinstance(value, dict) and "seed" in value:
        return value
    return codec.written(kind, read, modulus)


def test_every_value_of_the_vectors_is_written_as_it_was_read_and_follows_its_schema(tmp_path: Path) -> None:
    seen, schema = set(), json.loads(protocol.schema())
    for kind, value, modulus in values():
        try:
            assert again(kind, value, modulus, tmp_path) == value, kind
        except Refused:
            assert kind in ("sampling", "noise", "rotation")
        if kind not in seen:
            definition = schema | {"anyOf": [protocol.refer(kind)]}
            jsonschema.Draft202012Validator(definition).validate(value)
        seen.add(kind)
    assert set(READERS) == set(WRITERS) == set(protocol.KINDS)
    assert set(protocol.KINDS) == seen
    assert {codec.text(case["operation"]) for case in cases()} == set(SIGNATURES) - OUTPUTS


def replaced(value: Json, by: Json, place: int) -> Json:
    """Return a value of which one part, found by going down `place` turns, is another."""
    if place and isinstance(value, dict) and value:
        name = sorted(value)[place % len(value)]
        return value | {name: replaced(value[name], by, place - 1)}
    if place and isinstance(value, list) and value:
        at = place % len(value)
        return [*value[:at], replaced(value[at], by, place - 1), *value[at + 1 :]]
    return by


EXAMPLES: dict[str, list[Json]] = defaultdict(list)
"""Some short values of each kind, from the vectors."""
for _kind, _value, _ in values():
    if len(EXAMPLES[_kind]) < 8 and len(str(_value)) < 2000:
        EXAMPLES[_kind].append(_value)
NAMES = sorted({name for kind in EXAMPLES.values() for one in kind if isinstance(one, dict) for name in one})
P = PRIMES[0]
OTHER: dict[str, list[Json]] = {
    "nothing": [0, False, ""],
    "boolean": [0, 1, None, "true"],
    "integer": [True, "1", None, 2**53, -(2**53)],
    "optional": [False, "1"],
    "row": [[1, "2"], {"0": 1}, 1],
    "pair": [[1], [1, 2, 3]],
    "rows": [[1], [[1], 2]],
    "word": ["00" * 7, "00" * 9, "0" * 15, "FF" * 8, "0x" * 8, 0],
    "tape_word": ["00" * 7, 0],
    "stream": ["00" * 12, 0],
    "bytes": ["0", "0g", "AB", " 00", "00 ", None],
    "texts": [["a", 1], "ab"],
    "domain": ["pad", "TEST", 1],
    "kind": ["hello", 1, "DOMAIN"],
    "precision": ["w16", 16],
    "fraction": ["1", "2/4", "1/0", "0/2", "-0/1", "1/-2", "+1/2", "01/2", "1/2 ", "\u0661/2", "1.0/2", 1],
    "ratio": ["1", 0],
    "masses": [["00" * 8], ["00" * 10], [1]],
    "floats": [["00" * 3], ["00" * 5], [1]],
    "modulus": ["0", True, None],
    "elements": [
        {"shape": [1, 1], "words": "00" * 3},
        {"shape": [1, 2], "words": "00" * 4},
        {"shape": [1], "words": "00" * 4},
        {"shape": [-1, -1], "words": "00" * 4},
        {"shape": [2**52, 0], "words": ""},
        {"shape": [1, 1], "words": "00" * 4, "modulus": P},
        {"shape": [1, 1]},
        [[0]],
    ],
    "element_row": [{"shape": [2, 1], "words": "00" * 8}, {"shape": [0, 0], "words": ""}],
    "lwe_elements": [{"shape": [1, 1], "words": "00" * 4}],
    "tape": [{"seed": "0"}, {"seed": "00", "listed": []}, {}, {"listed": [{"domain": "test"}]}],
    "noise": [{"kind": "gaussian", "alpha": "1/2"}, {"kind": "geometric"}, {"kind": [], "alpha": "1/2"}],
    "epsilon": [{"rational": "1"}, {"ratio": "1/1"}, None, True, 2**53],
    "selection": [0, {"index": "0"}, {"index": 0, "gap": 1}],
    "table": [{"name": "a", "parts": [{"tokens": [1], "scores": [[0]]}]}, {"name": "a"}],
    "certificate": [{}],
    "frame": [{}],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in OTHER for value in OTHER[kind]])
def test_a_value_of_another_form_is_refused(tmp_path: Path, kind: str, value: Json) -> None:
    with pytest.raises(Malformed):
        READERS[kind](value, Context(REFERENCE, P, tmp_path))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["", "0", "00", "1/2", "test", "noise", "geometric"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)


@given(kind=st.sampled_from(sorted(READERS)), value=json_values)
@settings(max_examples=2000)
def test_whatever_is_read_is_read_or_refused(kind: str, value: Json) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Malformed, Refused):
        READERS[kind](value, Context(REFERENCE, P, Path(folder)))


@given(data=st.data(), kind=st.sampled_from(sorted(OTHER)))
@settings(max_examples=500)
def test_a_value_with_one_part_changed_is_read_or_refused(data: st.DataObject, kind: str) -> None:
    value = data.draw(st.sampled_from(EXAMPLES[kind]))
    changed = replaced(value, data.draw(json_values), data.draw(st.integers(0, 8)))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Malformed, Refused):
        READERS[kind](changed, Context(REFERENCE, P, Path(folder)))


NO_FORM: list[tuple[str, object]] = [
    ("integer", 2**53),
    ("integer", True),
    ("integer", 1.0),
    ("word", 2**63),
    ("word", 1.0),
    ("stream", 2**111),
    ("tape_word", -1),
    ("masses", [2.0]),
    ("elements", [[1], [1, 2]]),
    ("elements", [[2**32]]),
    ("elements", [[-1]]),
    ("elements", [[1.0]]),
    ("fraction", 0.5),
    ("fraction", "1/2"),
    ("epsilon", 0.5),
    ("epsilon", None),
    ("texts", [1]),
    ("table", Table("a", (Part(("a",), ((0.5,),)),))),  # type: ignore[arg-type]
    ("tape", object()),
    ("kind", 99),
    ("domain", "nowhere"),
    ("noise", 1),
    ("file", Path("/nowhere/file")),
]


@pytest.mark.parametrize(("kind", "value"), NO_FORM)
def test_a_value_without_a_form_is_not_written(kind: str, value: object) -> None:
    with pytest.raises(Unwritable):
        codec.written(kind, value, P)


@pytest.mark.parametrize(
    ("value", "width"), [(0.5, 8), (-0.0, 8), (inf, 8), (nan, 8), (0.1, 16), (1e300, 16), (5e-324, 16)]
)
def test_a_float_has_the_shortest_form_that_holds_it(value: float, width: int) -> None:
    made = codec.write_float(value)
    assert len(made) == width
    assert str(codec.read_float(made)) == str(value)


def test_rows_without_elements_have_a_form() -> None:
    matrices: list[list[list[int]]] = [[], [[]], [[], []]]
    for rows in matrices:
        assert codec.read_elements(codec.write_elements(rows, P), P) == rows


def test_elements_of_8_bytes_have_one_form_whatever_the_modulus() -> None:
    matrix = [[LWE_MODULUS - 1, 0]]
    assert codec.written("lwe_elements", matrix, P) == codec.written("elements", matrix, LWE_MODULUS)


def test_values_that_no_vector_has_are_read_as_they_are_written(tmp_path: Path) -> None:
    listed: Json = [{"domain": "test", "stream": "ff" * 14, "index": 3, "word": "01" + "00" * 7}]
    assert again("listed", listed, 2, tmp_path) == listed
    assert codec.written("noise", Geometric(Fraction(1, 2)), 2) == {"kind": "geometric", "alpha": "1/2"}
