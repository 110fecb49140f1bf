"""Proofs and conformance, run in processes of their own, and where the tree states what they answer for."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

IMPLEMENTATIONS: Final = ("veil_reference", "veil_optimized")
GUARANTEE: Final = re.compile(r"^\*\*([A-Z]{3}-G[0-9]+)\*\* (.+)$", re.MULTILINE)
CITATION: Final = re.compile(r"\b(Proves|Controls): ((?:[A-Z]{3}-G[0-9]+(?:, )?)+)\.")
MARKER: Final = "pytest.mark.requirement"
VERDICT: Final = re.compile(r"^([A-Z]{3}-[RPG][0-9]+) (PASS|FAIL|NOT CLAIMED)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One -G line of the specification, and the page that states it."""

    id: str
    text: str
    page: str


@dataclass
class Proof:
    """What became of the tests that prove a guarantee, and of the controls that refute a false one."""

    proofs: int = 0
    controls: int = 0
    failed: int = 0
    files: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        """Return whether there is a proof and a control, and all of them passed."""
        return self.proofs > 0 and self.controls > 0 and self.failed == 0


@dataclass(frozen=True, slots=True)
class Conformance:
    """The suite's verdict on one implementation: counts of requirements."""

    implementation: str
    passed: int
    failed: int
    not_claimed: int
    status: int
    said: str

    @property
    def holds(self) -> bool:
        """Return whether the suite ran, passed, and found nothing unclaimed."""
        return self.status == 0 and self.passed > 0 and self.failed == 0 and self.not_claimed == 0


def tree() -> Path | None:
    """Return the source tree that this file lies in, or None in an installed copy."""
    root = Path(__file__).resolve().parents[3]
    here = [root / "spec" / "remo.md", root / "proofs", root / "conformance_tests"]
    return root if all(path.exists() for path in here) else None


def guarantees(root: Path) -> list[Guarantee]:
    """Return every guarantee of the specification, in the order of pages."""
    pages = sorted((root / "spec").glob("*.md"))
    return [
        Guarantee(name, text, page.relative_to(root).as_posix())
        for page in pages
        if page.name != "TRACEABILITY.md"
        for name, text in GUARANTEE.findall(page.read_text("utf-8"))
    ]


def tests_of(root: Path) -> dict[str, list[str]]:
    """Return for each requirement the test files under conformance_tests/ that are marked with it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "conformance_tests").rglob("test_*.py")):
        for name in sorted(set(_marked(path))):
            found[name].append(path.relative_to(root).as_posix())
    return found


def _marked(path: Path) -> Iterator[str]:
    """Yield the requirement of every test of a file that is marked with one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for call in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == MARKER:
                yield from (
                    str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)
                )


def _cited(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (test, "Proves" or "Controls", ID) of a proof file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for keyword, names in CITATION.findall(ast.get_docstring(node) or ""):
                for name in names.split(", "):
                    yield node.name, keyword, name


def _outcomes(report: Path) -> dict[tuple[str, str], list[bool]]:
    """Return, for each (module, test) of a JUnit report, whether each of its cases passed."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2]
        passed = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        found[module, case.get("name", "").partition("[")[0]].append(passed)
    return found


def judged(root: Path, report: Path) -> dict[str, Proof]:
    """Return each guarantee's proof, judged by a JUnit report of the proofs; what did not run has failed."""
    outcomes = _outcomes(report) if report.exists() else {}
    proofs: dict[str, Proof] = defaultdict(Proof)
    for path in sorted((root / "proofs").glob("prove_*.py")):
        for test, keyword, name in _cited(path):
            cases = outcomes.get((path.stem, test), [False])
            proof = proofs[name]
            proof.files.add(path.relative_to(root).as_posix())
            proof.failed += cases.count(False)
            proof.proofs += cases.count(True) * (keyword == "Proves")
            proof.controls += cases.count(True) * (keyword == "Controls")
    return proofs


def _environment() -> dict[str, str]:
    """Return this process's environment: its import path made absolute, one thread a process."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Proved:
    """One guarantee with its proof, and the test files that are marked with it."""

    guarantee: Guarantee
    proof: Proof
    tests: list[str]


class Evidence:
    """The runs behind "proved" and "checked": they start at once; `proofs` and `conformance` wait."""

    def __init__(self, root: Path | None, scratch: Path) -> None:
        self._root, self._scratch = root, scratch.resolve()
        self._proofs = self._prove() if root is not None else None
        self._suites = {name: self._conform(name) for name in IMPLEMENTATIONS}

    def _start(self, arguments: Sequence[str], folder: Path, said: Path) -> subprocess.Popen[bytes]:
        with said.open("w") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )

    def _prove(self) -> subprocess.Popen[bytes]:
        report = f"--junitxml={self._scratch / 'proofs.xml'}"
        arguments = ["-m", "pytest", "-q", "proofs", "-p", "no:cacheprovider", report]
        return self._start(arguments, self._root or self._scratch, self._scratch / "proofs.log")

    def _conform(self, name: str) -> subprocess.Popen[bytes]:
        arguments = ["-P", "-m", "veil_conformance", "--impl", name]
        return self._start(arguments, self._scratch, self._scratch / f"{name}.log")

    def proofs(self) -> list[Proved] | None:
        """Return what became of each guarantee's proof, or None without a source tree."""
        if self._root is None or self._proofs is None:
            return None
        self._proofs.wait()
        proofs, tests = judged(self._root, self._scratch / "proofs.xml"), tests_of(self._root)
        return [
            Proved(each, proofs.get(each.id, Proof(failed=1)), tests.get(each.id, []))
            for each in guarantees(self._root)
        ]

    def conformance(self) -> list[Conformance]:
        """Return the suite's verdict on both implementations."""
        return [self._conformed(name, process) for name, process in self._suites.items()]

    def _conformed(self, name: str, process: subprocess.Popen[bytes]) -> Conformance:
        status = process.wait()
        said = (self._scratch / f"{name}.log").read_text("utf-8", "replace")
        verdicts = [verdict for _, verdict in VERDICT.findall(said)]
        passed, failed, not_claimed = map(verdicts.count, ("PASS", "FAIL", "NOT CLAIMED"))
        last = said.strip().rpartition("\n")[2]
        return Conformance(name, passed, failed, not_claimed, status, last)

    def stop(self) -> None:
        """End what is still running."""
        for process in (self._proofs, *self._suites.values()):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
