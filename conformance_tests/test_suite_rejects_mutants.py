"""Every wrong implementation is rejected, by failing tests of the requirement that it breaks."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from veil_conformance import mutants
from veil_conformance.loading import OPERATIONS
from veil_conformance.mutants import REGISTERED, Mutant
from veil_spec import __version__
from veil_spec.interface import Implementation

Rejected = dict[tuple[str, str], bool]
R_LINE = re.compile(r"^\*\*([A-Z]{3}-R[0-9]+)\*\* (?!Withdrawn)", re.MULTILINE)


@pytest.fixture(scope="session")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rejected, dict[str, bool]]:
    """Return (mutant to rejected, requirement to whether the unchanged reference passes the same tests).

    The run is one of a CI job, which must not make it longer.
    """
    folder = tmp_path_factory.mktemp("mutants")
    roots = ("spec", "reference", "conformance_tests")
    environment = os.environ | {
        "CI": "true",
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in roots),
    }
    command = [sys.executable, "-m", "veil_conformance.mutants", "--report", "report.json"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    print(run.stderr, file=sys.stderr)
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


def test_a_subject_that_does_not_end_is_named_and_not_rejected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Hangs:
        """Fails the first test that asks anything of it, and does not answer the next."""

        name, spec_version, operations, failed = "hangs", __version__, OPERATIONS, ""

        def __getattr__(self, name: str) -> object:
            test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
            self.failed = self.failed or test
            if self.failed != test:
                hang()
            raise AssertionError(name)

    def hang() -> None:
        time.sleep(60)

    monkeypatch.setattr(mutants, "LIMIT_S", 5)
    several = next(each for each in REGISTERED if each.requirement == "NMX-R2")
    ends = (several.name, several.requirement, several.build)
    hangs = ("hangs", several.requirement, lambda: cast(Implementation, Hangs()))
    before, stuck, after = mutants.judge_all([ends, hangs, ends])
    assert (before.rejected, stuck.rejected, after.rejected) == (True, False, True)
    assert "in hang" in capfd.readouterr().err
