"""`python -m veil_conformance.generate` writes vectors/*.json from the reference."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from veil_conformance import accumulate, codec
from veil_conformance.cases import FLAGS, OUTPUT_OF, SUITES, Case
from veil_reference import implementation
from veil_spec import __version__
from veil_spec.interface import Implementation

VECTORS: Final = Path(__file__).resolve().parent / "vectors"
"""Where the suite keeps its vectors."""


def filled(value: codec.Json, outputs: Mapping[str, codec.Json]) -> codec.Json:
    """Return a value with the outputs of earlier cases, by their comments, where it asks for them."""
    if isinstance(value, dict):
        return {name: filled(inner, outputs) for name, inner in value.items()}
    if isinstance(value, str) and value.startswith(OUTPUT_OF):
        return outputs[value.removeprefix(OUTPUT_OF)]
    return value


def case_json(
    identifier: str, case: Case, impl: Implementation, outputs: Mapping[str, codec.Json]
) -> codec.Fields:
    """Return one case with what the reference makes of it."""
    given = {name: filled(value, outputs) for name, value in case.given.items()}
    described: codec.Fields = {"id": identifier, "requirement": case.requirement, "comment": case.comment}
    described |= {"flags": [case.flag], "operation": case.operation, "input": given}
    made = codec.run(impl, case.operation, given)
    if ("refusal" in made) != (case.flag == "Refusal"):
        raise ValueError(f"{identifier} ({case.comment}) is flagged {case.flag} but gives {made}")
    return described | made


def accumulated(impl: Implementation) -> codec.Fields:
    """Return the digest of many selections."""
    made: codec.Fields = {"requirement": "NMX-R3", "operation": "select", "recipe": accumulate.RECIPE}
    return made | {"cases": accumulate.CASES, "digest": accumulate.digest(impl)}


def suite_json(name: str, impl: Implementation) -> codec.Fields:
    """Return one vector file."""
    prefix, cases = SUITES[name]
    written: list[codec.Json] = []
    outputs: dict[str, codec.Json] = {}
    for number, case in enumerate(cases(), 1):
        made = case_json(f"{prefix}-{number:04d}", case, impl, outputs)
        outputs[case.comment] = made.get("output")
        written.append(made)
    document: codec.Fields = {"schema": "schema.json", "spec_version": __version__, "suite": name}
    document |= {"flags": FLAGS, "cases": written}
    return document | {"accumulated": accumulated(impl)} if name == "noisy_max" else document


def text(document: codec.Fields) -> str:
    """Return a vector file's text: one line for each case."""
    lines = []
    for key, value in document.items():
        shown = json.dumps(value)
        if key == "cases" and isinstance(value, list):
            shown = "[\n    " + ",\n    ".join(map(json.dumps, value)) + "\n  ]"
        lines.append(f"  {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(folder: Path) -> None:
    """Write every vector file into a folder."""
    impl = implementation()
    for name in SUITES:
        (folder / f"{name}.json").write_text(text(suite_json(name, impl)), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 once the vectors are written."""
    parser = argparse.ArgumentParser("python -m veil_conformance.generate", description=__doc__)
    parser.add_argument("--out", type=Path, default=VECTORS, help="another folder")
    write(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
