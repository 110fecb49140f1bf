"""The plug-in protocol as spec/wire.md states it: its tables and schema are made, its examples are run."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

import protocol_page
from veil_conformance import codec, protocol
from veil_reference import implementation
from veil_spec import __version__
from veil_spec.architecture import DecoderShape, EncoderShape, Rotation

LINE = re.compile(r'^\{"id".*\}$', re.MULTILINE)


def test_the_tables_and_the_schema_are_current(root: Path) -> None:
    assert protocol_page.problems(root) == []


def test_a_table_that_is_not_current_is_noticed(root: Path, tmp_path: Path) -> None:
    for name, text in protocol_page.made(root).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("candidate", "candydate"), "utf-8")
    assert len(protocol_page.problems(tmp_path)) == 2


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places for values"):
        protocol_page.filled("# A page\n", {"values": "| a |"})


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


@pytest.mark.parametrize("shape", [DecoderShape, EncoderShape, Rotation])
def test_the_page_names_every_field_of_a_shape(root: Path, shape: type) -> None:
    page = (root / "spec/model.md").read_text("utf-8")
    paragraph = next(line for line in page.splitlines() if line.startswith("A decoder's shape has"))
    assert {field.name for field in fields(shape)} <= set(re.findall(r"`(\w+)`", paragraph))
