"""The committed table of mutants and blamed requirements, and a sample of it made anew."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from veil_conformance.blame import WANTED, Finding, findings, page
from veil_conformance.mutants import REGISTERED
from veil_conformance.verdicts import Result

ROW = re.compile(r"\| `(\w+)` \| ([A-Z]{3}-R[0-9]+) \| ([A-Z]{3}-R[0-9]+|none)( \(wrong\))? \| (.*) \|")
SAMPLE = ("TAP-R6", "NMX-R9", "ACC-R17", "FXP-R6", "MDL-R1", "RMO-R13", "INT-R6", "WIR-R7")
"""Requirements whose first mutants are run again: one of each area."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    requirement: str
    blamed: str
    wrong: str
    also: str


@pytest.fixture(scope="module")
def committed(root: Path) -> str:
    """Return the committed page."""
    return (root / "conformance_tests/MUTANTS.md").read_text("utf-8")


def rows(text: str) -> list[Row]:
    """Return the mutants of a page."""
    return [Row(*found.groups("")) for found in map(ROW.fullmatch, text.splitlines()) if found]


def test_the_table_has_every_mutant_once_and_in_order(committed: str) -> None:
    assert [(r.name, r.requirement) for r in rows(committed)] == [(m.name, m.requirement) for m in REGISTERED]


def test_every_broken_requirement_fails_and_nearly_all_are_blamed(committed: str) -> None:
    listed = rows(committed)
    assert all(r.requirement in (r.blamed, *r.also.split(", ")) for r in listed)
    right = sum(r.blamed == r.requirement for r in listed)
    assert right >= WANTED * len(listed) and f"| {right} ({100 * right / len(listed):.1f} %) |" in committed
    assert all(bool(r.wrong) == (r.blamed != r.requirement) for r in listed)


def test_a_sample_made_anew_is_the_committed_one(committed: str) -> None:
    sample = [next(m for m in REGISTERED if m.requirement == name) for name in SAMPLE]
    lines = committed.splitlines()
    assert [each.row() for each in findings(sample) if each.row() not in lines] == []


def finding(status: int, *failed: str) -> Finding:
    """Return what a mutant of ACC-R2 leads to."""
    results = [Result(name, frozenset({"divide"}), "failed") for name in failed]
    return Finding("wrong_one", "ACC-R2", status, (Result("TAP-R1", frozenset({"word"}), "passed"), *results))


def test_a_page_says_what_is_wrong() -> None:
    right, wrong = finding(1, "ACC-R2", "FXP-R1"), finding(1, "ACC-R2", "ACC-R1")
    unnoticed, stopped = finding(0), finding(2, "ACC-R2")
    assert right.row() == "| `wrong_one` | ACC-R2 | ACC-R2 | FXP-R1 |"
    assert wrong.row() == "| `wrong_one` | ACC-R2 | ACC-R1 (wrong) | ACC-R2 |"
    assert unnoticed.row() == "| `wrong_one` | ACC-R2 | none (wrong) |  |"
    assert stopped.row() == "| `wrong_one` | ACC-R2 | none (wrong) | ACC-R2 |"
    assert "| 4 | 3 | 1 (25.0 %) | 1 |" in page([right, wrong, unnoticed, stopped])
