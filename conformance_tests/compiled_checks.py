"""The optional kernel, compiled in other ways: it stays right, and touches no memory that is not its own.

`make kernel` runs this; it needs a C compiler.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from veil_optimized.native import build

X86 = platform.machine() == "x86_64"
BUILDS = {
    "for this processor": [],
    "undefined behaviour traps": ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"],
    "memory is watched": ["-fsanitize=address", "-g"],
    **({"with AVX2": ["-march=x86-64-v3"], "with SSE2": ["-march=x86-64"]} if X86 else {}),
}
JUDGE = """
import ctypes, sys
from veil_optimized.compiled_steps import CompiledSteps, agree
from veil_optimized.kernels import probes
from veil_optimized.kernels.compiled import Compiled
from veil_optimized.native import draws
from veil_optimized.steps import TORCH
code = ctypes.CDLL(sys.argv[1])
products, steps = probes.is_right(Compiled(code), "cpu"), agree(CompiledSteps(code), TORCH)
print(products, steps, draws.is_right(draws.compiled(code)))
"""


def compiled(folder: Path, flags: list[str], changed: tuple[str, str] = ("", "")) -> Path:
    """Return a library of the sources, one line of them changed."""
    for name in (*build.HEADERS, *build.SOURCES):
        text = (build.FOLDER / name).read_text("utf-8")
        (folder / name).write_text(text.replace(*changed) if changed[0] else text, "utf-8")
    made = folder / "kernel.so"
    command = [os.environ.get("CC", "cc"), *build.FLAGS, *flags, "-o", str(made), *build.SOURCES, "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    return made


def judged(root: Path, library: Path, preload: str = "") -> tuple[int, str]:
    """Return the exit status of a process that tries a library, and what it says of its three parts."""
    roots = os.pathsep.join(str(root / name) for name in ("spec", "optimized"))
    environment = os.environ | {"PYTHONPATH": roots, "ASAN_OPTIONS": "detect_leaks=0"}
    if preload:
        environment |= {"LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-c", JUDGE, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("name", BUILDS)
def test_it_is_right_however_it_is_compiled(root: Path, tmp_path: Path, name: str) -> None:
    """Both sets of trials pass."""
    preload = ""
    if "-fsanitize=address" in BUILDS[name]:
        asked = [os.environ.get("CC", "cc"), "-print-file-name=libasan.so"]
        preload = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert judged(root, compiled(tmp_path, BUILDS[name]), preload) == (0, "True True True")


@pytest.mark.parametrize(
    "changed",
    [
        ("(Plan){5, 10, 128}", "(Plan){5, 10, 256}"),
        ("pairs = (count + 1) / 2", "pairs = count / 2"),
        ("return most < modulus / 2 ? (uint64_t)most : modulus / 2;", "return modulus / 2;"),
        ("value >= (int64_t)modulus ? (int64_t)modulus : 0", "0"),
        ("sum >= modulus ? modulus : 0", "sum > modulus ? modulus : 0"),
        ("bytes + start * width", "bytes"),
        ("size * log2e, 32)", "size * log2e, 31)"),
        ("- (small % total < 0)", ""),
        ("row[c] < words[i]", "row[c] <= words[i]"),
    ],
)
def test_a_changed_line_is_noticed_before_the_library_is_used(
    root: Path, tmp_path: Path, changed: tuple[str, str]
) -> None:
    """One set of trials fails at least."""
    assert any(changed[0] in (build.FOLDER / name).read_text("utf-8") for name in build.SOURCES)
    status, said = judged(root, compiled(tmp_path, [], changed))
    assert status != 0 or "False" in said
