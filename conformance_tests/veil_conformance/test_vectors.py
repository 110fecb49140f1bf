"""Every vector, against the implementation; and the vectors against their schema."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from veil_conformance import accumulate, cases, codec
from veil_spec import __version__
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal

FOLDER = Path(__file__).resolve().parent / "vectors"
SCHEMA = json.loads((FOLDER / "schema.json").read_text("utf-8"))
FILES = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(FOLDER.glob("*.json"))
    if path.stem not in ("schema", "protocol")
}


def parameters() -> Iterator[object]:
    """Yield every case with its requirement and identifier."""
    for document in FILES.values():
        for case in document["cases"]:
            yield pytest.param(case, id=case["id"], marks=pytest.mark.requirement(case["requirement"]))


def test_there_are_vectors() -> None:
    assert sorted(FILES) == sorted(cases.SUITES)


@pytest.mark.parametrize("name", FILES)
def test_a_vector_file_follows_the_schema(name: str) -> None:
    document = FILES[name]
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert (document["spec_version"], document["suite"]) == (__version__, name)
    assert {flag for case in document["cases"] for flag in case["flags"]} <= set(document["flags"])
    assert {case["refusal"] for case in document["cases"] if "refusal" in case} <= set(Refusal)


def test_identifiers_are_unique() -> None:
    identifiers = [case["id"] for document in FILES.values() for case in document["cases"]]
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize(
    "change", [{"note": 1}, {"output": 1, "refusal": "CHECK_FAILED"}, {"input": {"x": 0.5}}], ids=str
)
def test_the_schema_refuses_what_is_not_a_case(change: dict[str, object]) -> None:
    document = FILES["integrity"]
    cases = [document["cases"][0] | change]
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document | {"cases": cases})


@pytest.mark.parametrize("case", list(parameters()))
def test_a_vector(impl: Implementation, case: codec.Fields) -> None:
    expected = {key: case[key] for key in ("output", "refusal") if key in case}
    assert codec.run(impl, codec.text(case["operation"]), case["input"]) == expected


@pytest.mark.requirement("NMX-R3")
def test_ten_thousand_selections(impl: Implementation) -> None:
    accumulated = FILES["noisy_max"]["accumulated"]
    assert (accumulated["cases"], accumulated["recipe"]) == (accumulate.CASES, accumulate.RECIPE)
    assert accumulate.digest(impl) == accumulated["digest"]
