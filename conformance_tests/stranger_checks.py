"""A stranger's path: the commands of README.md, from a clone to a verdict, in a fresh folder and in time.

`make examples` runs this. It needs node and what pip downloads from; where one is missing it fails.
"""

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

SECTION: Final = re.compile(
    r"^## Judge an implementation in another language\n.*?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
EXAMPLE: Final = "examples/javascript/veil.mjs"
MOST_COMMANDS: Final = 4
MOST_SECONDS: Final = 300


@pytest.fixture(scope="module")
def commands(root: Path) -> list[str]:
    """Return the commands of the section, this repository being the address that is cloned."""
    found = SECTION.search((root / "README.md").read_text("utf-8"))
    assert found is not None
    lines = found[1].splitlines()
    assert lines[0].startswith("git clone ADDRESS ")
    return [line.replace("ADDRESS", shlex.quote(str(root))) for line in lines]


def run(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Return how these commands ended in a folder, the first that fails being the last."""
    script = "\n".join(("set -e", *commands))
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)


def test_a_stranger_gets_a_verdict_in_time(commands: list[str], tmp_path: Path) -> None:
    """Green on the example as it is, red on one with another operator, each in the stated time."""
    assert len(commands) <= MOST_COMMANDS
    start = time.monotonic()
    green = run(tmp_path, *commands)
    seconds = time.monotonic() - start
    assert green.returncode == 0, green.stdout + green.stderr
    assert "NMX-R4 PASS" in green.stdout
    print(f"{seconds:.0f} seconds from git clone to the verdict")
    assert seconds < MOST_SECONDS

    example = tmp_path / "veil" / EXAMPLE
    right = example.read_text("utf-8")
    wrong = right.replace("value > noisy[best]", "value >= noisy[best]")
    assert wrong != right
    example.write_text(wrong, "utf-8")
    red = run(tmp_path / "veil", commands[-1])
    assert red.returncode == 1, red.stdout + red.stderr
    assert "NMX-R4 FAIL" in red.stdout
