"""The plug-in protocol as spec/wire.md states it, and the classes: pages are made, and examples are run."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

import made_pages
import traceability
from veil_conformance import codec, protocol
from veil_conformance.classes import CLASSES
from veil_conformance.loading import OPERATIONS
from veil_reference import implementation
from veil_spec import __version__
from veil_spec.architecture import DecoderShape, EncoderShape, Rotation

LINE = re.compile(r'^\{"id".*\}$', re.MULTILINE)


def test_made_pages_are_current(root: Path) -> None:
    assert made_pages.problems(root) == []


def test_a_page_that_is_not_current_is_noticed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "spec", tmp_path / "spec")
    for name, text in made_pages.made(root).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("candidate", "candydate"), "utf-8")
    (tmp_path / "conformance_tests" / "classes" / "NMX-Old.md").write_text("# NMX-Old\n", "utf-8")
    found = made_pages.problems(tmp_path)
    assert "spec/wire.md is not current: run make spec" in found
    assert "conformance_tests/classes/NMX-Paper.md is not current: run make spec" in found
    assert "conformance_tests/classes/NMX-Old.md belongs to no class: remove it" in found
    assert len(found) < 2 + len(CLASSES)


@pytest.mark.parametrize("page", ["# A page\n", made_pages.MARK.format("values"), made_pages.END])
def test_a_page_without_a_place_for_a_table_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="not one place for values"):
        made_pages.filled(page, {"values": "| a |"})


def test_every_requirement_belongs_to_a_class_and_each_class_to_the_spec(root: Path) -> None:
    specified = {each.id for each in traceability.requirements(traceability.read(root)) if each.kind == "R"}
    assert {name for each in CLASSES.values() for name in each.requirements} == specified
    assert {name for each in CLASSES.values() for name in each.operations} <= OPERATIONS
    assert OPERATIONS | {"word"} == set(codec.SIGNATURES)


def test_every_operation_and_every_kind_is_described() -> None:
    used = {kind for arguments, result in codec.SIGNATURES.values() for kind in (*arguments.values(), result)}
    nested = {name for kind in protocol.KINDS.values() for name in re.findall(r"#/\$defs/(\w+)", str(kind))}
    assert set(protocol.OPERATIONS) == set(codec.SIGNATURES)
    assert set(protocol.KINDS) == used | nested


def exchanges(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each request of the page's examples with its response."""
    lines = LINE.findall((root / "spec/wire.md").read_text("utf-8"))
    yield from zip(lines[::2], lines[1::2], strict=True)


def test_the_examples_of_the_page_are_what_the_reference_answers(root: Path) -> None:
    impl, asked = implementation(), []
    schema = json.loads(protocol.schema())
    for line, answer in exchanges(root):
        request, response = json.loads(line), json.loads(answer)
        asked.append(request["operation"])
        for name, value in (("request", request), ("response", response)):
            jsonschema.Draft202012Validator(schema | {"anyOf": [protocol.refer(name)]}).validate(value)
        if request["operation"] == "describe":
            assert response["output"]["spec_version"] == __version__
        else:
            made = codec.run(impl, request["operation"], request["input"])
            assert response == {"id": request["id"]} | made
    assert asked == ["describe", "word", "select", "select", "mask", "exact_pmf"]


GREEDY = {"id": 1, "operation": "greedy", "input": {"row": [1]}}
NO_LINES: dict[str, object] = {
    "unknown field": GREEDY | {"more": 1},
    "unknown argument": GREEDY | {"input": {"row": [1], "more": 1}},
    "missing argument": GREEDY | {"input": {}},
    "missing field": {"id": 1, "operation": "greedy"},
    "float": GREEDY | {"input": {"row": [0.5]}},
    "large": GREEDY | {"input": {"row": [2**53]}},
    "unknown operation": GREEDY | {"operation": "fly"},
    "text for an id": GREEDY | {"id": "1"},
    "no id": {"output": 1},
    "both": {"id": 1, "output": 1, "refusal": "WOULD_WRAP"},
    "neither": {"id": 1},
    "unknown refusal": {"id": 1, "refusal": "NO_SUCH_NAME"},
    "odd digits": {"id": 1, "output": "abc"},
    "list": [GREEDY],
}


@pytest.mark.parametrize("name", NO_LINES)
def test_the_schema_refuses_what_is_no_line(name: str) -> None:
    schema = json.loads(protocol.schema())
    request = jsonschema.Draft202012Validator(schema | {"anyOf": [protocol.refer("greedy.request")]})
    output = jsonschema.Draft202012Validator(schema | {"anyOf": [protocol.refer("greedy.output")]})
    assert request.is_valid(GREEDY) and output.is_valid({"id": 1, "output": 0})
    assert not request.is_valid(NO_LINES[name]) and not output.is_valid(NO_LINES[name])


@pytest.mark.parametrize("shape", [DecoderShape, EncoderShape, Rotation])
def test_the_page_names_every_field_of_a_shape(root: Path, shape: type) -> None:
    page = (root / "spec/model.md").read_text("utf-8")
    paragraph = next(line for line in page.splitlines() if line.startswith("A decoder's shape has"))
    assert {field.name for field in fields(shape)} <= set(re.findall(r"`(\w+)`", paragraph))
