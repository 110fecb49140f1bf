"""Mutation testing of the reference's core by mutmut: `--run` changes one thing at a time, then counts.

mutmut 3 wants one source folder, whose modules have the names that they are imported by, and works on a copy.
So the packages are copied side by side into build/mutmut/src, and the suite runs there, vectors first, up to
the first test that fails. The page conformance_tests/MUTMUT.md has the counts and every survivor with its
change; SURVIVORS says why each is no gap. A survivor without a reason fails, as does a reason without one.
"""

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from veil_spec import __version__

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build/mutmut"
PAGE: Final = ROOT / "conformance_tests/MUTMUT.md"
MODULES: Final = ("tape", "noise", "noisy_max", "field", "remo", "fixed_point")
"""What is mutated: functions only, since mutmut 3 leaves constants of modules alone."""
FILES: Final = ("tape", "noisy_max", "accounting", "fixed_point", "remo", "vectors")
"""The files of the suite that look at these modules."""
SLOW: Final = "src/veil_conformance/test_vectors.py::test_ten_thousand_selections"
"""Left out: seconds for each mutant, and what it repeats is in the other vectors."""
KILLED: Final = frozenset({"killed", "timeout"})
"""What counts for the score: a test failed, or did not end."""
WANTED: Final = 0.95
"""The least share of killed mutants among those that are not equivalent to the reference."""
EQUIVALENT: Final = "Equivalent: "
"""How the reason of a survivor begins that differs from the reference in nothing that is specified."""
LENGTHS: Final = EQUIVALENT + "the rows are of one length here, by an earlier check or by the specification."
DETAIL: Final = EQUIVALENT + "the name of a refusal is specified, and not the text beside it."
ZERO: Final = EQUIVALENT + "at 0 both branches give 0."
SAME_FIELDS: Final = EQUIVALENT + "(p - 1) / 2 is no multiple of 2**15 for any prime of the specification."
BISECTION: Final = EQUIVALENT + "it changes where the search starts, and not what it finds."
CLAMP: Final = EQUIVALENT + "the shift is such that no word reaches the limit."
DEFAULT: Final = EQUIVALENT + "every caller whose result depends on it gives a value."
REASONS: Final = {
    LENGTHS: (
        "field.x_columns 2 4 5; fixed_point.x__gained 33 36 37; fixed_point.x_layer_norm 65 69 70; "
        "fixed_point.x_softmax_average 22 24 25; fixed_point.x_rotate 8 11 12; "
        "remo.x_mask 10 12 13 16 19 20; remo.x_unmask 17 19 20 23 26 27; tape.x_chacha20_block 50 53 54"
    ),
    DETAIL: (
        "remo.x_choose_modulus 19 21 22 23; tape.xǁSeededTapeǁ__init__ 3 5; noise.x_check_scores 5 7 15 17; "
        "noise.x_check_place 16 18"
    ),
    ZERO: "fixed_point.x_silu 21 22; fixed_point.x_tanh 24 25",
    SAME_FIELDS: "remo.x_choose_modulus 13 14 15 16",
    BISECTION: "noise.x__level 2 3 15 20",
    CLAMP: "fixed_point.x__gained 17; fixed_point.x_layer_norm 27",
    DEFAULT: "noise.x_check_place 1; noise.x_geometric 1",
    EQUIVALENT + "a modulus is odd, so twice an element is never equal to it.": "field.x_centred 6",
    EQUIVALENT + "a shift by 0 changes nothing.": "fixed_point.x_rescale 1; fixed_point.x__shifted 4 5",
    EQUIVALENT + "beyond the table one unit of the share rounds to 0.": "fixed_point.x_gelu 3",
    EQUIVALENT + "steps start at 0, above -1 and -2.": "remo.xǁAddressesǁburn 11",
    EQUIVALENT + "a word is read from the first 64 bytes of a block.": "tape.x_chacha20_block 26",
    EQUIVALENT + "both forms agree at 0, and at 1.": "noise.x_at_least 7 8",
    EQUIVALENT + "names of encodings are not case-sensitive.": "tape.x_domain_key 4",
    EQUIVALENT + "the nonce's thirteenth byte is 0, and is cut off.": "tape.xǁSeededTapeǁword 21",
    "Not tested: a selection from exactly 2**20 candidates takes minutes.": "noise.x_check_scores 3",
    "Not tested: rows of 256 or more elements whose words are all small.": "fixed_point.x_layer_norm 18",
}
"""Reason to survivors, by function and number."""


def _listed(reasons: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for reason, functions in reasons.items():
        for each in filter(None, functions.split("; ")):
            name, *numbers = each.split()
            yield from ((f"veil_reference.{name}__mutmut_{number}", reason) for number in numbers)


SURVIVORS: Final = dict(_listed(REASONS))
"""Survivor to the reason why no test of the suite notices it."""


def settings() -> str:
    """Return the pyproject.toml of the copy."""
    stated: dict[str, object] = {
        "source_paths": ["src"],
        "only_mutate": [f"src/veil_reference/{name}.py" for name in MODULES],
        "pytest_add_cli_args": [
            *("-c", "src/veil_conformance/suite.ini", "--import-mode=importlib", "-p", "mutation_plugin"),
            *("--hypothesis-profile=mutants", "-p", "no:cacheprovider", f"--deselect={SLOW}"),
        ],
        "pytest_add_cli_args_test_selection": [f"src/veil_conformance/test_{name}.py" for name in FILES],
        "track_dependencies": False,
        "use_git_change_detection": False,
        "timeout_multiplier": 15.0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in stated.items()]
    return "\n".join(["[tool.mutmut]", *lines, ""])


def prepare() -> None:
    """Copy the packages, side by side, and the settings; forget what an earlier run found."""
    shutil.rmtree(WORK, ignore_errors=True)
    for source in ("reference/veil_reference", "spec/veil_spec", "conformance_tests/veil_conformance"):
        target = WORK / "src" / Path(source).name
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "conformance_tests/mutation_plugin.py", WORK / "src")
    (WORK / "pyproject.toml").write_text(settings(), "utf-8")


def mutmut(*arguments: str) -> str:
    """Return what a command of mutmut prints. Raises: CalledProcessError."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=WORK, check=True, stdout=subprocess.PIPE, text=True).stdout


def verdicts() -> dict[str, str]:
    """Return mutant to what became of it, of the last run."""
    found = {}
    for line in mutmut("results", "--all", "true").splitlines():
        name, _, said = line.strip().rpartition(": ")
        if name:
            found[name] = said
    return found


def change(name: str) -> list[str]:
    """Return the lines that a mutant takes away and puts in, of the last run."""
    lines = mutmut("show", name).splitlines()
    return [line for line in lines if line[:1] in {"-", "+"} and line[:3] not in {"---", "+++"}]


def faults(found: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """Return what is wrong with a run: survivors and reasons that do not fit, and too low a score."""
    alive = {name for name, said in found.items() if said not in KILLED}
    listed = [f"{name} survives without a reason" for name in sorted(alive - set(reasons))]
    listed += [f"{name} has a reason and does not survive" for name in sorted(set(reasons) - alive)]
    wrong = [said for name, said in found.items() if not equivalent(name, said, reasons)]
    killed = sum(said in KILLED for said in wrong)
    if not wrong or killed < WANTED * len(wrong):
        listed.append(f"{killed} of {len(wrong)} wrong references are killed: too few")
    return listed


def equivalent(name: str, said: str, reasons: Mapping[str, str]) -> bool:
    """Return whether a mutant survives because it is not wrong."""
    return said not in KILLED and reasons.get(name, "").startswith(EQUIVALENT)


def counted(label: str, found: Mapping[str, str], reasons: Mapping[str, str]) -> str:
    """Return a line of the table of counts; the score leaves out what is equivalent."""
    counts, same = Counter(found.values()), sum(equivalent(name, found[name], reasons) for name in found)
    killed = sum(counts[said] for said in KILLED)
    wrong, total = len(found) - same, len(found)
    shares = [f"{100 * killed / number:.1f} %" if number else "none" for number in (wrong, total)]
    cells = [total, counts["killed"], counts["timeout"], same, wrong - killed, *shares]
    return f"| {label} | {' | '.join(map(str, cells))} |"


def table(found: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """Return the lines of a table with the counts of each module and of all."""
    own = {m: {name: said for name, said in found.items() if name.split(".")[1] == m} for m in MODULES}
    return [
        "| module | mutants | killed | not ending | equivalent | other survivors | score | of all mutants |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(counted(module, each, reasons) for module, each in own.items()),
        counted("all", found, reasons),
    ]


def page(
    found: Mapping[str, str], changes: Mapping[str, Sequence[str]], reasons: Mapping[str, str], day: str
) -> str:
    """Return the page: date, versions, counts, and each survivor with its change and the reason."""
    lines = [
        "# Mutation testing of the reference",
        "",
        f"Written by `make mutmut` on {day}: mutmut {version('mutmut')}, Veil {__version__}. One change at a "
        "time to a function of the reference's core, against the suite's tests of "
        f"{', '.join(f'`test_{name}.py`' for name in FILES)}, with 40 examples a property. mutmut changes no "
        "constants of modules. The ten thousand selections in one digest are left out, for time.",
        "",
        "The score is the share of killed mutants among those that are not equivalent to the reference.",
        "",
        *table(found, reasons),
        "",
        "## Survivors",
    ]
    for name, lines_changed in changes.items():
        said = f"`{name}` ({found[name]}): {reasons.get(name, 'not explained.')}"
        lines += ["", said, "", "```diff", *lines_changed, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Return 0 where enough mutants are killed and every survivor is explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", action="store_true", help="mutate anew, not only count")
    if parser.parse_args().run:
        prepare()
        subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "2"], cwd=WORK, check=True)
    found = verdicts()
    changes = {name: change(name) for name, said in sorted(found.items()) if said not in KILLED}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    PAGE.write_text(page(found, changes, SURVIVORS, today), "utf-8")
    wrong = faults(found, SURVIVORS)
    print("\n".join([*table(found, SURVIVORS), *wrong]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
