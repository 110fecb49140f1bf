"""Every mutant against the whole suite: which requirements fail, and where the report says to look first.

`python -m veil_conformance.blame --page FILE` writes a table. Left out are tests that do not ask the
reference for the mutant's operation: until a test asks for it, it runs as it does with the reference, so it
never does.
"""

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from veil_conformance import runner
from veil_conformance.mutants import REGISTERED, UNEXPLAINED, Mutant
from veil_conformance.verdicts import AREAS, ENDS, UNMARKED, Result, first_look, verdicts
from veil_reference import implementation
from veil_spec import __version__

LIMIT_S: Final = 20
"""Seconds of processor time for one test, which needs at most five; a test that takes longer fails."""
WANTED: Final = 0.95
"""The least share of mutants that have to be blamed on the requirement that they break."""
Asked = dict[str, frozenset[str]]
"""Test to the operations that it asks the reference for."""


class Recording(runner.Suite):
    """A run that also keeps what each test asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: Asked = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of one test, and what it asked for."""
        super().pytest_runtest_logreport(report)
        if report.when == "call":
            self.asked[report.nodeid] = frozenset(self._claimed.touched)


@dataclass
class Narrow(runner.Suite):
    """A run of some tests only, each of which ends."""

    tests: frozenset[str] = frozenset()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests that are asked for."""
        super().pytest_collection_modifyitems(config, items)
        items[:] = [item for item in items if item.nodeid in self.tests]

    def pytest_runtest_setup(self) -> None:
        """Start the clock."""
        signal.signal(signal.SIGVTALRM, _ends)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S, 1)

    def pytest_runtest_teardown(self) -> None:
        """Stop the clock."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _ends(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no end after {LIMIT_S} s")


def quietly(suite: runner.Suite) -> int:
    """Return pytest's exit status after a run over everything, which prints nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        return runner.run(suite, "mutants", UNEXPLAINED)


def asked() -> Asked:
    """Return what every test asks the reference for. Raises: RuntimeError if the reference fails one."""
    suite = Recording(implementation())
    if status := quietly(suite):
        raise RuntimeError(f"the reference does not pass: pytest ended with {status}")
    return suite.asked


@dataclass(frozen=True, slots=True)
class Finding:
    """What the whole suite made of one mutant."""

    name: str
    requirement: str
    status: int
    results: tuple[Result, ...]

    @property
    def failing(self) -> list[str]:
        """Return the requirements that fail, in order."""
        return [name for name, said in verdicts(self.results).items() if said == "FAIL" and name != UNMARKED]

    @property
    def blamed(self) -> str:
        """Return the requirement at which the report says to look first, empty if there is none."""
        return first_look(self.results) if self.status in ENDS else ""

    def row(self) -> str:
        """Return the mutant's line of the table."""
        also = ", ".join(name for name in self.failing if name != self.blamed)
        mark = "" if self.blamed == self.requirement else " (wrong)"
        return f"| `{self.name}` | {self.requirement} | {self.blamed or 'none'}{mark} | {also} |"


def examined(tests: Asked, place: int) -> Finding:
    """Return what the whole suite makes of the mutant at a place of `REGISTERED`."""
    mutant = REGISTERED[place]
    asking = frozenset(test for test, operations in tests.items() if mutant.operation in operations)
    suite = Narrow(mutant.build(), tests=asking)
    status = quietly(suite)
    return Finding(mutant.name, mutant.requirement, status, tuple(suite.results))


def findings(mutants: Sequence[Mutant], jobs: int = 2) -> Iterator[Finding]:
    """Yield what the whole suite makes of each mutant, in order."""
    tests, places = asked(), [REGISTERED.index(mutant) for mutant in mutants]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(partial(examined, tests), places)


def page(found: Sequence[Finding]) -> str:
    """Return the table, with the counts."""
    right = sum(each.blamed == each.requirement for each in found)
    among = sum(each.requirement in each.failing for each in found)
    alone = sum(each.failing == [each.requirement] for each in found)
    lines = [
        "# Mutants",
        "",
        f"Written by `make mutants`, Veil {__version__}. Each wrong implementation that the suite has to "
        "reject, run against the whole suite with 40 examples a property. `breaks` is the requirement that "
        "it was made to break; `first look at` is what the report says: of the requirements that fail, the "
        f"first in the order of the areas {', '.join(AREAS)} and of numbers, but for those that rest on one "
        "that is stated later (`AFTER` in `verdicts`), vectors counting only where no other test fails; "
        "`also fail` are the others. That list was made with this table at hand: the share says how well "
        "the order fits these mutants, and not how well it fits others.",
        "",
        "| mutants | the broken requirement fails | it is the one to look at first | no other fails |",
        "| --- | --- | --- | --- |",
        f"| {len(found)} | {among} | {right} ({100 * right / len(found):.1f} %) | {alone} |",
        "",
        "| mutant | breaks | first look at | also fail |",
        "| --- | --- | --- | --- |",
        *(each.row() for each in found),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the suite rejects every mutant and blames the right requirement for enough of them."""
    parser = argparse.ArgumentParser("python -m veil_conformance.blame", description=__doc__)
    parser.add_argument("--page", type=Path, required=True, metavar="FILE", help="where to write the table")
    parser.add_argument("--jobs", type=int, default=2, help="processes, 2 where it is not given")
    chosen = parser.parse_args(arguments)
    found = []
    for each in findings(REGISTERED, chosen.jobs):
        print(f"{each.requirement} {each.name}: first look at {each.blamed or 'nothing'}", flush=True)
        found.append(each)
    chosen.page.write_text(page(found), "utf-8")
    right = sum(each.blamed == each.requirement for each in found)
    print(f"{right} of {len(found)} mutants are blamed on the requirement that they break")
    return 0 if all(each.failing for each in found) and right >= WANTED * len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
