"""`python -m veil_optimized.native.build` compiles the optional kernel for this processor.

The library lies beside its source. Its name holds a hash of all that it depends on: sources, flags and the
processor's features. So a library for another processor, or of another version, is never even opened.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CHOICE: Final = "VEIL_KERNEL"
"""The environment variable that names the one kernel to use."""
FOLDER: Final = Path(__file__).resolve().parent
SOURCES: Final = ("products.c", "steps.c", "draws.c")
HEADERS: Final = ("kernel.h",)
FLAGS: Final = (
    *("-O3", "-march=native", "-mprefer-vector-width=512" if platform.machine() == "x86_64" else "-O3"),
    *("-std=gnu11", "-fwrapv", "-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-shared", "-fPIC"),
)


def _processor() -> str:
    """Return the processor's features, as the kernel of the operating system lists them."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    features = (line for line in lines if line.lower().startswith(("flags", "features")))
    return platform.machine() + next(features, "unknown")


def library() -> Path:
    """Return where the library for this processor lies, if it was built."""
    digest = hashlib.sha256("\0".join((*FLAGS, _processor())).encode())
    for name in (*HEADERS, *SOURCES):
        digest.update((FOLDER / name).read_bytes())
    return FOLDER / f"veil_kernel-{digest.hexdigest()[:16]}.so"


def build() -> Path:
    """Return the library, compiled with CC or cc; RuntimeError, with what the compiler said, if it fails."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise RuntimeError("no C compiler: install one, or name one in CC")
    target = library()
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        made = Path(scratch) / target.name
        command = [compiler, *FLAGS, "-o", str(made), *SOURCES, "-lm"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        made.replace(target)
    for old in FOLDER.glob("veil_kernel-*.so"):
        if old != target:
            old.unlink()
    return target


def main() -> int:
    """Return the exit status: 0, or 1 with one line where nothing could be built."""
    try:
        target = build()
    except (RuntimeError, OSError) as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 1
    print(f"built {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
