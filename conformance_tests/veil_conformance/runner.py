"""One run of the suite: pytest with its own settings, and a verdict for each requirement."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import hypothesis
import pytest

from veil_conformance import fixtures
from veil_conformance.loading import Claimed
from veil_conformance.process import NO_FORM, Plugin
from veil_conformance.program import Trouble
from veil_conformance.suite import ROOT
from veil_conformance.verdicts import UNMARKED, Result
from veil_spec.interface import Implementation

FOREIGN: Final = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "CI", "BUILD_NUMBER")
"""Settings of the caller's own tests, which must not change this run.

By the last two, pytest knows a CI job, and compares whole sequences: hours for two rows of 16,384 numbers.
"""

hypothesis.settings.register_profile("audit", hypothesis.settings.get_profile("ci"), max_examples=10_000)
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("ci"),
    max_examples=40,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    report_multiple_bugs=False,
)


@dataclass
class Suite:
    """The plug-in that gives tests their implementation and collects what became of each."""

    implementation: Implementation
    only: frozenset[str] = frozenset()
    """Where not empty, the requirements to test."""
    operations: frozenset[str] | None = None
    """Where not None, the operations to test; others count as not claimed."""
    results: list[Result] = field(default_factory=list)
    troubles: dict[str, list[Trouble]] = field(default_factory=lambda: defaultdict(list))
    """Requirement to what went wrong with the program, if the implementation is one."""
    _requirement: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        claimed = self.implementation.operations
        self._claimed = Claimed(self.implementation, claimed & (self.operations or claimed))

    @property
    def outcomes(self) -> dict[str, set[str]]:
        """Return requirement to outcomes of its tests."""
        found: dict[str, set[str]] = defaultdict(set)
        for result in self.results:
            found[result.requirement].add(result.outcome)
        return found

    def pytest_configure(self, config: pytest.Config) -> None:
        """Leave the implementation where the fixture `impl` finds it."""
        config.stash[fixtures.SUBJECT] = cast(Implementation, self._claimed)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Note each test's requirement, and keep those that are asked for."""
        for item in items:
            marker = item.get_closest_marker("requirement")
            self._requirement[item.nodeid] = marker.args[0] if marker else UNMARKED
        if self.only:
            others = [item for item in items if self._requirement[item.nodeid] not in self.only]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if self._requirement[item.nodeid] in self.only]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a test file that cannot be read."""
        if report.failed:
            self.results.append(Result(UNMARKED, frozenset(), "error"))

    def pytest_runtest_logstart(self) -> None:
        """Forget what the last test asked for."""
        self._claimed.touched.clear()
        if isinstance(self.implementation, Plugin):
            self.implementation.exchanges.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what a program was asked last, and what it answered, to the report of a test that failed."""
        report = yield
        if report.failed and isinstance(self.implementation, Plugin):
            report.sections.append(("last requests and answers of the program", self.implementation.shown()))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of one test."""
        requirement = self._requirement[report.nodeid]
        if isinstance(self.implementation, Plugin):
            self.troubles[requirement] += self.implementation.troubles
            self.implementation.troubles.clear()
        if report.when == "call" or report.outcome != "passed":
            vector = report.nodeid.startswith("test_vectors.py")
            self.results.append(
                Result(requirement, frozenset(self._claimed.touched), _outcome(report), vector)
            )


def _outcome(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and NO_FORM in str(report.longrepr):
        return "left out"
    return "error" if report.when != "call" and report.outcome == "failed" else str(report.outcome)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Yield with the caller's pytest settings out of the way and hypothesis writing nowhere that stays."""
    kept = dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        for name in FOREIGN:
            os.environ.pop(name, None)
        os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPOTHESIS_STORAGE_DIRECTORY": scratch}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= kept


def run(suite: Suite, profile: str = "ci", arguments: Sequence[str] = (), files: Sequence[str] = ()) -> int:
    """Return pytest's exit status after one run, over the named files or all; outcomes are in `suite`."""
    paths = [str(ROOT / name) for name in files] or [str(path) for path in sorted(ROOT.glob("test_*.py"))]
    fixed = [
        "-c",
        str(ROOT / "suite.ini"),
        f"--rootdir={ROOT}",
        f"--confcutdir={ROOT}",
        "--import-mode=importlib",
    ]
    quiet = ["-p", "no:cacheprovider", "-q", "--no-header", "--strict-markers", "--strict-config"]
    before = hypothesis.settings.get_current_profile_name()
    with _own_settings():
        hypothesis.settings.load_profile(profile)
        try:
            return int(pytest.main([*fixed, *quiet, *arguments, *paths], plugins=[suite, fixtures]))
        finally:
            hypothesis.settings.load_profile(before)
