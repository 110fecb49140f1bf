"""Removing the code, the test or the spec line of a requirement fails the check: 30 are drawn in each run."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import traceability
from traceability import Citation, Files, Requirement

DRAWS = 30
SEED_VARIABLE = "VEIL_REMOVAL_SEED"
ROLES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "R": {"reference code": ("reference",), "optimized code": ("optimized",)},
    "P": {"code": ("optimized", "app")},
    "G": {"proof": ("proof",)},
}


def without(files: Files, removed: list[Citation]) -> dict[str, str]:
    """Return the files with each cited function or class replaced by `pass`."""
    copy = dict(files)
    for path in {citation.path for citation in removed}:
        lines: list[str | None] = list(files[path].splitlines())
        for citation in sorted((c for c in removed if c.path == path), key=lambda c: -c.first):
            lines[citation.first - 1 : citation.last] = [None] * (citation.last - citation.first + 1)
            lines[citation.first - 1] = " " * citation.column + "pass"
        copy[path] = "\n".join(line for line in lines if line is not None) + "\n"
    return copy


def without_line(files: Files, requirement: Requirement) -> dict[str, str]:
    """Return the files without the line that defines a requirement."""
    lines = files[requirement.path].splitlines()
    del lines[requirement.line - 1]
    return {**files, requirement.path: "\n".join(lines) + "\n"}


def removals(files: Files, requirement: Requirement) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (what is removed, the files without it)."""
    cited = [citation for citation in traceability.citations(files) if citation.id == requirement.id]
    for what, roles in [*ROLES[requirement.kind].items(), ("test", ("test",))]:
        yield what, without(files, [citation for citation in cited if citation.role in roles])
    yield "spec line", without_line(files, requirement)


def unnoticed(files: Files, requirement: Requirement) -> list[str]:
    """Return the removals that add no problem naming the requirement; a table out of date does not count."""
    before = set(traceability.substance(files))
    return [
        f"{what} of {requirement.id}"
        for what, copy in removals(files, requirement)
        if not any(requirement.id in problem for problem in set(traceability.substance(copy)) - before)
    ]


def drawn(files: Files, seed: str) -> list[Requirement]:
    """Return up to 30 different requirements."""
    live = [r for r in traceability.requirements(files) if r.kind in ROLES and not r.withdrawn]
    return random.Random(seed).sample(live, min(DRAWS, len(live)))


def test_any_removal_is_noticed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get(SEED_VARIABLE) or os.urandom(8).hex()
    files = traceability.read(root)
    chosen = drawn(files, seed)
    with capsys.disabled():
        print(f"\n{SEED_VARIABLE}={seed} draws {' '.join(r.id for r in chosen)}")
    missed = [removal for requirement in chosen for removal in unnoticed(files, requirement)]
    assert len(chosen) == DRAWS and not missed, f"{SEED_VARIABLE}={seed}: not noticed: {missed}"


SMALL = {
    "spec/area.md": "**TST-R1** A function MUST return 1.\n",
    "reference/veil_reference/a.py": 'def one():\n    """Return 1. Implements: TST-R1."""\n    return 1\n',
    "optimized/veil_optimized/a.py": 'class A:\n    @f\n    def one():\n        """Implements: TST-R1."""\n',
    "conformance_tests/veil_conformance/test_a.py": '@mark.requirement("TST-R1")\ndef test_a(): ...\n',
    "conformance_tests/veil_conformance/mutants.py": 'MUTANTS = {"Two": "TST-R1"}\n',
}


def test_each_removal_of_a_small_tree_is_noticed() -> None:
    assert traceability.substance(SMALL) == []
    assert unnoticed(SMALL, traceability.requirements(SMALL)[0]) == []


def test_the_removed_function_is_gone_and_the_file_still_parses() -> None:
    for what in ("reference", "optimized"):
        path = f"{what}/veil_{what}/a.py"
        copy = without(SMALL, [c for c in traceability.citations(SMALL) if c.role == what])
        assert "one" not in copy[path] and traceability.parse(copy[path]).error == ""


def test_a_removal_that_nothing_guards_is_reported() -> None:
    blind = {path: text for path, text in SMALL.items() if not path.startswith("reference")}
    assert unnoticed(blind, traceability.requirements(blind)[0]) == ["reference code of TST-R1"]
