"""`python -m veil_conformance` from anywhere: its own settings, one verdict, one line for bad input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from veil_spec import __version__

FOREIGN_SETTINGS = """
[pytest]
addopts = --no-such-option -p no_such_plugin
testpaths = nowhere
python_functions = never_*
"""
PARTIAL = """
from veil_reference.implementation import Reference
from veil_spec.types import Geometric

class Partial(Reference):
    name = "partial"
    operations = frozenset({"exact_pmf", "calibrate", "greedy"})

class Wrong(Partial):
    name = "wrong"
    greedy = staticmethod(lambda row: len(row) - 1)

class Strange(Partial):
    operations = frozenset({"fly"})

class Old(Partial):
    spec_version = "0.0.1"

def implementation():
    return Partial()

def wrong():
    return Wrong()

def strange():
    return Strange()

def old():
    return Old()

def broken():
    raise RuntimeError("no device")

def nothing():
    return 7
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a stranger's folder: a `reference`, pytest settings and an implementation of its own."""
    for folder in ("reference", "spec", "conformance_tests", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "pytest.ini").write_text(FOREIGN_SETTINGS)
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not mine to load')\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--neither-this'\n")
    (tmp_path / "theirs.py").write_text(PARTIAL)
    return tmp_path


def run(root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return a finished run of the suite in a folder, with hostile settings in the environment."""
    roots = ("spec", "reference", "optimized", "conformance_tests")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in roots),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "--no-such-option",
        "PYTEST_PLUGINS": "no_such_plugin",
    }
    command = [sys.executable, "-m", "veil_conformance", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["veil_reference", "veil_optimized"])
def test_both_packages_pass_from_a_folder_with_other_settings(root: Path, elsewhere: Path, name: str) -> None:
    before = contents(elsewhere)
    finished = run(root, elsewhere, "--impl", name)
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "NMX-R2 PASS" in lines and lines[-1].startswith(f"{name} conforms to Veil {__version__}: ")
    assert lines[-1].endswith(" PASS, 0 FAIL, 0 NOT CLAIMED")
    assert contents(elsewhere) == before


def test_what_is_not_claimed_is_not_passed(root: Path, elsewhere: Path) -> None:
    finished = run(root, elsewhere, "--impl", "theirs")
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {"ACC-R1 PASS", "ACC-R7 PASS", "ACC-R8 PASS", "MDL-R10 PASS"} <= set(lines)
    assert {"ACC-R2 NOT CLAIMED", "NMX-R5 NOT CLAIMED", "WIR-R1 NOT CLAIMED"} <= set(lines)
    assert lines[-1].startswith(f"partial conforms to Veil {__version__}: 4 PASS, 0 FAIL, ")


def test_a_wrong_implementation_is_blamed_for_its_requirement(root: Path, elsewhere: Path) -> None:
    junit = elsewhere / "report.xml"
    finished = run(root, elsewhere, "--impl", "theirs:wrong", "--junit", str(junit))
    lines = finished.stdout.splitlines()
    assert finished.returncode == 1
    assert [line for line in lines if line.endswith(" FAIL")] == ["MDL-R10 FAIL"]
    assert lines[-1].startswith(f"wrong DOES NOT CONFORM to Veil {__version__}: 3 PASS, 1 FAIL, ")
    assert 'failures="' in junit.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module", "cannot import"),
        ("theirs:no_such_factory", "has no factory"),
        ("theirs:broken", "no device"),
        ("theirs:nothing", "has no name"),
        ("theirs:strange", "unknown operations: fly"),
        ("theirs:old", "implements version 0.0.1"),
        ("", "cannot import"),
    ],
)
def test_a_bad_name_gives_one_line_and_status_2(root: Path, elsewhere: Path, name: str, said: str) -> None:
    finished = run(root, elsewhere, "--impl", name)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("--impl: ") and said in finished.stderr
    assert finished.stderr.count("\n") == 1
