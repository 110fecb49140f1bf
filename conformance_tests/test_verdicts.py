"""Verdicts on requirements and classes, known failures, the suite's hash, and the command line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from veil_conformance.classes import CLASSES
from veil_conformance.program import Trouble
from veil_conformance.suite import ROOT, suite_digest
from veil_conformance.verdicts import (
    Report,
    Result,
    Unreadable,
    badge,
    class_verdict,
    first_look,
    read_known,
    verdict,
    why,
)
from veil_spec import __version__

BUDGET = CLASSES["ACC-Budget"]
PASSED = [
    Result("ACC-R16", frozenset({"document_cost"}), "passed"),
    Result("ACC-R17", frozenset({"divide"}), "passed"),
    Result("ACC-R18", frozenset({"divide"}), "passed"),
]


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ({"passed"}, "PASS"),
        ({"passed", "left out"}, "PASS"),
        ({"passed", "skipped"}, "NOT CLAIMED"),
        ({"left out"}, "NOT CLAIMED"),
        ({"skipped"}, "NOT CLAIMED"),
        ({"passed", "failed"}, "FAIL"),
        ({"skipped", "failed"}, "FAIL"),
        ({"passed", "error"}, "FAIL"),
    ],
    ids=lambda given: given if isinstance(given, str) else " and ".join(sorted(given)),
)
def test_a_requirement_passes_only_if_a_test_passed_and_none_was_skipped(
    outcomes: set[str], said: str
) -> None:
    assert verdict(outcomes) == said


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (PASSED, "PASS"),
        (PASSED[:2], "FAIL"),
        ([], "FAIL"),
        ([*PASSED, Result("ACC-R18", frozenset({"divide"}), "failed")], "FAIL"),
        ([*PASSED, Result("ACC-R18", frozenset({"divide", "tabulate"}), "failed")], "PASS"),
        ([*PASSED, Result("ACC-R18", frozenset({"tabulate"}), "skipped")], "PASS"),
        ([*PASSED, Result("ACC-R18", frozenset({"divide"}), "left out")], "PASS"),
        ([*PASSED[:2], Result("ACC-R18", frozenset({"divide"}), "left out")], "FAIL"),
        ([*PASSED, Result("NMX-R1", frozenset({"divide"}), "failed")], "PASS"),
        ([*PASSED, Result("SUITE", frozenset(), "failed")], "FAIL"),
    ],
)
def test_a_class_passes_by_what_its_own_operations_show(results: Sequence[Result], said: str) -> None:
    assert class_verdict(BUDGET, BUDGET.operations, results) == said


def test_a_class_is_claimed_with_all_its_operations() -> None:
    assert class_verdict(BUDGET, frozenset({"divide"}), PASSED) == "NOT CLAIMED"


def report(results: Sequence[Result], known: dict[str, str] | None = None, status: int = 0) -> Report:
    """Return a report on ACC-Budget."""
    troubles = {"ACC-R17": [Trouble("CRASHED", "divide", "the program ended with status 139")]}
    return Report("x", status, results, troubles, [BUDGET], BUDGET.operations, known or {})


FAILED = [PASSED[0], Result("ACC-R17", frozenset({"divide"}), "failed"), PASSED[2]]


def test_what_went_wrong_stands_beside_the_requirement() -> None:
    made = report(FAILED, status=1)
    assert not made.holds
    assert list(made.lines()) == [
        "ACC-R16 PASS",
        "ACC-R17 FAIL (CRASHED: divide: the program ended with status 139)",
        "ACC-R18 PASS",
        f"Veil {__version__} · ACC-Budget FAIL · suite {suite_digest()[:8]}",
        "first look at: ACC-R17",
        f"x DOES NOT CONFORM to Veil {__version__}: 2 PASS, 1 FAIL, 0 NOT CLAIMED",
    ]


def test_a_known_failure_is_known_and_the_class_fails_all_the_same() -> None:
    made = report(FAILED, {"ACC-R17": "slow machine"}, status=1)
    assert made.holds
    assert list(made.lines()) == [
        "ACC-R16 PASS",
        "ACC-R17 KNOWN (slow machine)",
        "ACC-R18 PASS",
        badge("ACC-Budget", "FAIL"),
        f"x conforms to Veil {__version__} but for known failures: 2 PASS, 0 FAIL, 0 NOT CLAIMED, 1 KNOWN",
    ]


@pytest.mark.parametrize(
    ("failed", "first"),
    [
        ([], ""),
        (["SUITE"], ""),
        (["FXP-R10 exp2", "FXP-R9 exp2"], "FXP-R9"),
        (["RMO-R1 mask", "TAP-R7 mask", "WIR-R1 mask"], "TAP-R7"),
        (["NMX-R14 a", "ACC-R14 a"], "NMX-R14"),
        (["NMX-R14 a", "ACC-R13 a"], "ACC-R13"),
        (["NMX-R9 a", "NMX-R14 a"], "NMX-R9"),
        (["ACC-R17 divide"], ""),
        (["ACC-R17 divide", "RMO-R8 mask sample"], "RMO-R8"),
    ],
)
def test_the_first_look_is_at_what_the_others_rest_on(failed: Sequence[str], first: str) -> None:
    results = [Result(r.split()[0], frozenset(r.split()[1:]), "failed") for r in failed]
    assert first_look([*PASSED, *results], {"ACC-R17": "known"}) == first
    assert first_look([replace(each, outcome="error") for each in results], {"ACC-R17"}) == first
    assert first_look([replace(each, vector=True) for each in results], {"ACC-R17"}) == first
    assert first_look([Result("TAP-R1", frozenset(), "failed", vector=True), *results], {"ACC-R17"}) == (
        first or "TAP-R1"
    )


@pytest.mark.parametrize(
    ("results", "said"),
    [(PASSED, "PASS"), ([*PASSED, Result("ACC-R17", frozenset(), "skipped")], "NOT CLAIMED")],
)
def test_a_known_failure_that_does_not_fail_is_stale(results: Sequence[Result], said: str) -> None:
    made = report(results, {"ACC-R17": "slow machine"})
    line = f"ACC-R17 is listed as a known failure and is {said}: remove it from the list"
    assert not made.holds and line in list(made.lines())


def test_a_known_failure_that_is_not_tested_is_not_judged() -> None:
    assert report(PASSED, {"NMX-R1": "later"}).holds


@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_a_run_that_did_not_end_holds_nothing(status: int) -> None:
    made = report(PASSED, status=status)
    assert not made.holds and badge("ACC-Budget", "FAIL") in list(made.lines())


def test_a_failure_that_no_requirement_shows_is_one() -> None:
    assert report(PASSED).holds and not report(PASSED, status=1).holds


def test_tests_without_a_form_are_counted() -> None:
    made = report([*PASSED, *[Result("ACC-R18", frozenset({"divide"}), "left out")] * 3])
    said = "3 tests were left out, of ACC-R18: the plug-in protocol has no form for their values"
    assert said in list(made.lines())


def test_several_troubles_are_counted_and_the_first_is_told() -> None:
    slow, lost = Trouble("TIMEOUT", "word", "no answer"), Trouble("CRASHED", "word", "ended")
    assert why([]) == ""
    assert why([slow, lost, slow]) == " (2 TIMEOUT, 1 CRASHED; first TIMEOUT: word: no answer)"


def test_the_suites_hash_is_that_of_its_files(tmp_path: Path) -> None:
    copied = tmp_path / "suite"
    shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns("__pycache__"))
    assert suite_digest(copied) == suite_digest() and len(suite_digest()) == 64
    for name in ("test_tape.py", "strategies.py", "suite.ini", "vectors/tape.json"):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content + b"\n")
        assert suite_digest(copied) != suite_digest(), name
        (copied / name).write_bytes(content)
    (copied / "test_tape.py").unlink()
    assert suite_digest(copied) != suite_digest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NMX-R2\n", "file:1: write a requirement, a space and a reason"),
        ("NMX-R2 \n", "file:1: write a requirement, a space and a reason"),
        ("# fine\n\nlater NMX-R2\n", "file:3: write a requirement, a space and a reason"),
        ("NMX-G1 no requirement\n", "file:1: write a requirement, a space and a reason"),
        ("NMX-R99 of another version\n", "file:1: NMX-R99 is no requirement of this suite: remove the line"),
        ("NMX-R2 one\nNMX-R2 two\n", "file:2: NMX-R2 is listed twice: remove the line"),
        ("\udcff", "file: it cannot be read as text"),
    ],
)
def test_a_file_of_known_failures_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(Unreadable) as raised:
        read_known(tmp_path / "file")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_known_failures_are_read_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("# of today\nNMX-R2 slow sampler\n\nWIR-R7  not split yet \n", "utf-8")
    assert read_known(tmp_path / "file") == {"NMX-R2": "slow sampler", "WIR-R7": "not split yet"}
    with pytest.raises(Unreadable, match="cannot be read"):
        read_known(tmp_path / "none")


THEIRS = """
from veil_reference.implementation import Reference

class Partial(Reference):
    name = "partial"
    operations = frozenset({"document_cost", "divide", "sampling"})

class Wrong(Partial):
    name = "wrong"
    document_cost = staticmethod(lambda exacts: (0, 0))

def implementation():
    return Partial()

def wrong():
    return Wrong()
"""
KNOWN = "ACC-R16 costs are not counted yet\n"
BUDGETS = "--class ACC-Budget"
LISTED = f"{BUDGETS} --known-failures known"
RUNS = {
    "right": ("", BUDGETS, 0, badge("ACC-Budget", "PASS")),
    "wrong": (":wrong", BUDGETS, 1, "ACC-R16 FAIL"),
    "known": (":wrong", LISTED, 0, "ACC-R16 KNOWN (costs are not counted yet)"),
    "stale": ("", LISTED, 1, "ACC-R16 is listed as a known failure and is PASS"),
    "unknown class": ("", "--class ACC-Credit", 2, "--class: there is no class ACC-Credit: choose one of "),
    "not claimed": ("", "--class FXP", 2, "--class: partial does not claim FXP: it lacks attention_score, "),
    "no file": ("", "--known-failures none", 2, "--known-failures: none: it cannot be read as text"),
    "no form": ("", "--known-failures theirs.py", 2, "--known-failures: theirs.py:2: write a requirement"),
    "no time": ("", "--timeout 0", 2, "argument --timeout: give seconds, above 0"),
    "no start": ("", "--start-timeout nan", 2, "argument --start-timeout: give seconds, above 0"),
}


@pytest.mark.parametrize("served", [False, True], ids=["python", "exec"])
@pytest.mark.parametrize("name", RUNS)
def test_the_command_line_ends_with_the_right_status(
    root: Path, tmp_path: Path, name: str, served: bool
) -> None:
    factory, options, status, said = RUNS[name]
    (tmp_path / "theirs.py").write_text(THEIRS, "utf-8")
    (tmp_path / "known").write_text(KNOWN, "utf-8")
    roots = [*(str(root / folder) for folder in ("spec", "reference", "conformance_tests")), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(roots)}
    impl = f"theirs{factory}"
    impl = f"exec:{sys.executable} -m veil_conformance.serve {impl}" if served else impl
    command = [sys.executable, "-m", "veil_conformance", "--impl", impl, *options.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    lines = (done.stderr if status == 2 else done.stdout).splitlines()
    assert done.returncode == status, done.stdout + done.stderr
    assert any(line.startswith(said) or f"error: {said}" in line for line in lines), done.stdout + done.stderr
    assert status != 2 or done.stdout == ""
