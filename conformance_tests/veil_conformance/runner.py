"""One run of the suite: pytest with its own settings, and a verdict for each requirement."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import hypothesis
import pytest

from veil_conformance import fixtures
from veil_conformance.loading import Claimed
from veil_conformance.process import NO_FORM, Plugin
from veil_conformance.program import Trouble
from veil_spec.interface import Implementation

ROOT: Final = Path(__file__).resolve().parent
"""The suite's own folder: root, configuration and tests."""
UNMARKED: Final = "SUITE"
"""Blamed for failures of tests that check the suite itself, and of its collection."""
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
    """The plug-in that gives tests their implementation and collects what became of each requirement."""

    implementation: Implementation
    only: str = ""
    """Where set, the one requirement to test."""
    outcomes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Requirement to outcomes: passed, failed, skipped, error."""
    troubles: dict[str, list[Trouble]] = field(default_factory=lambda: defaultdict(list))
    """Requirement to what went wrong with the program, if the implementation is one."""
    left_out: int = 0
    """Tests that ask for a value that the plug-in protocol has no form for."""
    _requirement: dict[str, str] = field(default_factory=dict)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Leave the implementation where the fixture `impl` finds it."""
        config.stash[fixtures.SUBJECT] = cast(Implementation, Claimed(self.implementation))

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Note each test's requirement, and keep those that are asked for."""
        for item in items:
            marker = item.get_closest_marker("requirement")
            self._requirement[item.nodeid] = marker.args[0] if marker else UNMARKED
        if self.only:
            others = [item for item in items if self._requirement[item.nodeid] != self.only]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item not in others]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a test file that cannot be read."""
        if report.failed:
            self.outcomes[UNMARKED].add("error")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of one test."""
        outcome, requirement = str(report.outcome), self._requirement[report.nodeid]
        if isinstance(self.implementation, Plugin):
            self.troubles[requirement] += self.implementation.troubles
            self.implementation.troubles.clear()
        if outcome == "skipped" and NO_FORM in str(report.longrepr):
            self.left_out += 1
            self.outcomes[requirement].add("left out")
        elif report.when == "call" or outcome != "passed":
            broken = report.when != "call" and outcome == "failed"
            self.outcomes[requirement].add("error" if broken else outcome)

    def verdicts(self) -> dict[str, str]:
        """Return PASS, FAIL or NOT CLAIMED for each requirement, in order."""
        return {name: verdict(self.outcomes[name]) for name in sorted(self.outcomes, key=_order)}


def verdict(outcomes: set[str]) -> str:
    """Return PASS only if every test passed that was not left out, and at least one."""
    if outcomes & {"failed", "error"}:
        return "FAIL"
    return "PASS" if "passed" in outcomes and "skipped" not in outcomes else "NOT CLAIMED"


def _order(name: str) -> tuple[str, int]:
    area, _, number = name.partition("-R")
    return area, int(number or 0)


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
