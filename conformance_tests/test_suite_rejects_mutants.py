"""Every wrong implementation is rejected, by failing tests of the requirement that it breaks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from veil_conformance.mutants import REGISTERED, Mutant

Rejected = dict[tuple[str, str], bool]
R_LINE = re.compile(r"^\*\*([A-Z]{3}-R[0-9]+)\*\* (?!Withdrawn)", re.MULTILINE)


@pytest.fixture(scope="session")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rejected, dict[str, bool]]:
    """Return (mutant to rejected, requirement to whether the unchanged reference passes the same tests)."""
    folder = tmp_path_factory.mktemp("mutants")
    roots = ("spec", "reference", "conformance_tests")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(root / name) for name in roots)}
    command = [sys.executable, "-m", "veil_conformance.mutants", "--report", "report.json"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    made = json.loads((folder / "report.json").read_text("utf-8"))
    return {(m["requirement"], m["name"]): m["rejected"] for m in made["mutants"]}, made["reference"]


@pytest.mark.parametrize("mutant", REGISTERED, ids=lambda each: f"{each.requirement}-{each.name}")
def test_a_mutant_is_rejected(report: tuple[Rejected, dict[str, bool]], mutant: Mutant) -> None:
    assert report[0][mutant.requirement, mutant.name]


def test_the_same_tests_accept_the_reference(report: tuple[Rejected, dict[str, bool]]) -> None:
    assert [name for name, passed in report[1].items() if not passed] == []


def test_every_requirement_has_a_mutant(root: Path) -> None:
    defined = {
        name for page in (root / "spec").glob("*.md") for name in R_LINE.findall(page.read_text("utf-8"))
    }
    assert {each.requirement for each in REGISTERED} == defined
