"""Coverage-guided fuzzing of every target, by atheris: `python -m fuzz.soak`.

Prints inputs, findings, edges of the code under test and lines of it, and ends with status 1 on any finding.
"""

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
"""The kept inputs. Nothing here imports the code under test: atheris has to see it imported."""
SHARES: Final = {
    "decode": 585,
    "transcripts": 200,
    "elements": 120,
    "join": 60,
    "worker": 15,
    "enclave": 5,
    "inferring": 5,
    "answers": 10,
}
"""Of every 1000 inputs, how many a target gets: the cheap ones more."""
UNDER_TEST: Final = (
    "veil_optimized.wire",
    "veil_optimized.transcript",
    "veil_optimized.worker",
    "veil_optimized.sequences",
    "veil_optimized.session",
    "veil_reference.wire",
)
"""The modules whose branches guide the search."""
KEPT: Final = 6
"""Most inputs of one target that `--keep` adds to the kept ones: the smallest that reach something new."""
STATISTICS: Final = (r"number_of_executed_units: (\d+)", r"cov: (\d+)")
"""Where libFuzzer says how many inputs it ran and how many edges they reached."""
REPLAY: Final = """
import coverage, sys
from pathlib import Path
measured = coverage.Coverage(data_file=None, include=sys.argv[2:])
measured.start()
from fuzz import corpus, targets
for name, target in targets.TARGETS.items():
    for folder in (corpus.FOLDER / name, Path(sys.argv[1]) / name):
        for path in sorted(folder.glob("*")):
            target(path.read_bytes())
measured.stop()
measured.report(show_missing=True)
"""
"""Runs every input in the folders of all targets, and prints which lines of some files they reach."""
FINDING: Final = 77
"""The status with which libFuzzer ends on a finding."""


@dataclass(frozen=True)
class Found:
    """What became of one target."""

    name: str
    inputs: int
    edges: int
    seconds: float
    finding: str


def child(name: str, planted: str, arguments: Sequence[str]) -> None:
    """Fuzz one target in this process, which ends with the last input or the first finding."""
    import atheris

    with atheris.instrument_imports(include=list(UNDER_TEST)):
        from fuzz import planted as bugs
        from fuzz import targets
    if planted:
        bugs.PLANTED[planted][1]().__enter__()
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()


def fuzz(name: str, inputs: int, work: Path, seed: int, planted: str = "") -> Found:
    """Return what so many inputs of a target found; those that reach something new are left in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    options = [f"-runs={inputs}", f"-seed={seed}", "-max_len=400", "-print_final_stats=1", "-timeout=30"]
    folders = [str(work), str(CORPUS / name)]
    artifacts = f"-artifact_prefix={work.parent}/{name}-"
    command = [sys.executable, "-m", "fuzz.soak", "--child", name, "--planted", planted]
    done = subprocess.run(
        [*command, *options, artifacts, *folders], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, FINDING):
        raise RuntimeError(done.stderr[-2000:])
    executed, edges = (int((re.findall(pattern, done.stderr) or ["0"])[-1]) for pattern in STATISTICS)
    finding = done.stderr + done.stdout if done.returncode == FINDING else ""
    return Found(name, executed, edges, time.monotonic() - start, finding)


def lines(work: Path) -> str:
    """Return which lines of the code under test the inputs of all targets reach."""
    files = ["*/" + name.replace(".", "/") + ".py" for name in UNDER_TEST]
    command = [sys.executable, "-c", REPLAY, str(work), *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def keep_new(name: str, work: Path) -> None:
    """Add the smallest of the inputs that reached something new to the kept ones."""
    from fuzz import corpus

    for data in sorted((path.read_bytes() for path in work.iterdir()), key=len)[:KEPT]:
        corpus.keep(name, data)


def main() -> int:
    """Return 0 if nothing was found."""
    parser = argparse.ArgumentParser("python -m fuzz.soak", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, for all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="add the most useful new inputs to the kept ones")
    parser.add_argument(
        "--planted", default="", help="plant a bug of fuzz/planted.py and fuzz its target alone"
    )
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if not find_spec("atheris") or not find_spec("coverage"):
        sys.exit("fuzzing needs atheris and coverage: pip install -c constraints.txt -e '.[fuzz]'")
    if given.child:
        child(given.child, given.planted, rest)
        return 0
    shares = SHARES
    if given.planted:
        from fuzz import planted

        shares = {planted.PLANTED[given.planted][0]: 1000}
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, share in shares.items():
            found.append(
                fuzz(name, given.inputs * share // 1000, Path(folder) / name, given.seed, given.planted)
            )
            print(described(found[-1]), flush=True)
            if given.keep:
                keep_new(name, Path(folder) / name)
        print(
            f"{sum(one.inputs for one in found)} inputs, {sum(bool(one.finding) for one in found)} findings"
        )
        print(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MiB for the largest process")
        if not given.planted:
            print(lines(Path(folder)))
    return int(any(one.finding for one in found))


def described(found: Found) -> str:
    """Return one line about a target, and what was found."""
    state = f"FOUND\n{found.finding}" if found.finding else "nothing found"
    return f"{found.name}: {found.inputs} inputs, {found.edges} edges, {found.seconds:.0f} s, {state}"


if __name__ == "__main__":
    sys.exit(main())
