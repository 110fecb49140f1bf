"""Spec, code, proofs, tests, mutants and vectors agree; and each check is shown to fail on a small tree."""

from pathlib import Path

import pytest

import traceability

SPEC = """# Noisy max

**NMX-R1** On equal noisy scores an implementation MUST return the smallest index.

**NMX-P1** The command MUST print one line.

**NMX-G1** The index of neighbours differs in distribution by at most the bound, assuming NMX-A1.

**NMX-A1** The tape is uniform.
"""
REFERENCE = '''def select() -> int:
    """Return an index. Implements: NMX-R1."""
    return 0
'''
OPTIMIZED = '''from veil_spec import types


@types.jit
def select() -> int:
    """Return an index.

    Implements: NMX-R1, NMX-P1.
    """
    return types.ZERO
'''
SUITE = """import pytest


@pytest.mark.requirement("NMX-R1")
def test_ties() -> None:
    assert True


@pytest.mark.requirement("NMX-P1")
def test_line() -> None:
    assert True
"""
PROOF = '''import pytest


@pytest.mark.requirement("NMX-G1")
def test_bound() -> None:
    """Proves: NMX-G1.

    Pins: veil_reference.noisy_max.select {digest}.
    """


def test_negative_control() -> None:
    """Controls: NMX-G1."""
'''
SUITE_FOLDER = "conformance_tests/veil_conformance"
SPEC_PAGE = "spec/noisy_max.md"
REFERENCE_FILE = "reference/veil_reference/noisy_max.py"
OPTIMIZED_FILE = "optimized/veil_optimized/noisy_max.py"
SUITE_FILE = f"{SUITE_FOLDER}/test_noisy_max.py"
MUTANTS_FILE = f"{SUITE_FOLDER}/mutants.py"
PROCESS_MUTANTS_FILE = "conformance_tests/test_process_mutants.py"
PROOF_FILE = "proofs/prove_noisy_max.py"
VECTORS = f"{SUITE_FOLDER}/vectors/noisy_max.json"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the root of a small tree without a problem."""
    digest = traceability.parse(REFERENCE).definitions[0].digest
    files = {
        SPEC_PAGE: SPEC,
        "spec/veil_spec/types.py": "ZERO = 0\n",
        REFERENCE_FILE: REFERENCE,
        OPTIMIZED_FILE: OPTIMIZED,
        SUITE_FILE: SUITE,
        MUTANTS_FILE: 'MUTANTS = {"LastOnTie": "NMX-R1"}\n',
        PROCESS_MUTANTS_FILE: 'MUTANTS = {"NMX-P1": ("app/main.py", "one", "two")}\n',
        VECTORS: '{"cases": [{"requirement": "NMX-R1"}]}',
        PROOF_FILE: PROOF.replace("{digest}", digest),
        "proofs/README.md": "NMX-A1 is assumed.\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    write_table(tmp_path)
    return tmp_path


def write_table(root: Path) -> None:
    """Do what `make spec` does."""
    (root / traceability.TABLE).write_text(traceability.table(traceability.read(root)), "utf-8")


def edit(root: Path, path: str, old: str, new: str) -> None:
    """Replace text that is there in one file of the tree, then regenerate the table."""
    text = (root / path).read_text("utf-8")
    assert old in text
    (root / path).write_text(text.replace(old, new), "utf-8")
    write_table(root)


def test_the_tree_agrees_with_its_specification(root: Path) -> None:
    found = traceability.problems(root)
    assert not found, "\n".join(found)


def test_the_small_tree_has_no_problem(tree: Path) -> None:
    assert traceability.problems(tree) == []


NEW_MUST = "**NMX-R2** An implementation MUST refuse an empty row.\n"
DISGUISED = 'import importlib\nimportlib.import_module("veil_reference.tape")\n'
EDITS = {
    "new MUST": (SPEC_PAGE, "**NMX-P1**", NEW_MUST + "\n**NMX-P1**", "NMX-R2: no mutant"),
    "MUST without ID": (SPEC_PAGE, "# Noisy max\n", "It MUST work.\n", "a MUST without an ID"),
    "two MUSTs": (SPEC_PAGE, "MUST print", "MUST start and MUST print", "NMX-P1: says MUST 2 times"),
    "no MUST": (SPEC_PAGE, "MUST print", "prints", "NMX-P1: says MUST 0 times"),
    "MUST in a guarantee": (SPEC_PAGE, "neighbours differs", "neighbours MUST differ", "NMX-G1: says MUST 1"),
    "two lines": (SPEC_PAGE, "print one line.", "print\none line.", "followed by a blank line"),
    "unknown kind": (SPEC_PAGE, "**NMX-A1**", "**NMX-B1**", "not of the form"),
    "number used twice": (SPEC_PAGE, "**NMX-P1**", "**NMX-R1**", "NMX-R1 is defined twice"),
    "number skipped": (SPEC_PAGE, "**NMX-P1**", "**NMX-P2**", "NMX-P1 is missing"),
    "withdrawn but cited": (SPEC_PAGE, "The command MUST", "Withdrawn in 0.2.0: it", "cites NMX-P1"),
    "mention of nothing": (SPEC_PAGE, "assuming NMX-A1", "assuming NMX-A7", "names NMX-A7"),
    "file that is gone": (SPEC_PAGE, "# Noisy max\n", "See noisy_mux.md.\n", "names the file noisy_mux.md"),
    "source that is gone": (
        OPTIMIZED_FILE,
        "Return an index.",
        "Source: spec/max.md.",
        "the file spec/max.md",
    ),
    "misspelt ID": (OPTIMIZED_FILE, "NMX-R1, NMX-P1", "NMX-R7, NMX-P1", "cites NMX-R7"),
    "misspelt list": (OPTIMIZED_FILE, "NMX-R1, NMX-P1.", "NMX-R1 NMX-P1.", "a citation is not one line"),
    "wrapped list": (OPTIMIZED_FILE, "NMX-R1, NMX-P1.", "NMX-R1,\n    NMX-P1.", "a citation is not one line"),
    "reference forgets": (
        REFERENCE_FILE,
        " Implements: NMX-R1.",
        "",
        "NMX-R1: not implemented in reference/",
    ),
    "optimized forgets": (OPTIMIZED_FILE, "NMX-R1, ", "", "NMX-R1: not implemented in optimized/"),
    "process forgotten": (OPTIMIZED_FILE, ", NMX-P1", "", "NMX-P1: not implemented in optimized/ or app/"),
    "removed marker": (SUITE_FILE, '@pytest.mark.requirement("NMX-R1")', "", "NMX-R1: no test"),
    "removed process marker": (SUITE_FILE, '@pytest.mark.requirement("NMX-P1")', "", "NMX-P1: no test"),
    "skipped test": (SUITE_FILE, "def test_ties", "@pytest.mark.skip\ndef test_ties", "NMX-R1: no test"),
    "marked helper": (SUITE_FILE, "def test_ties", "def ties", "is no test"),
    "two marks": (
        SUITE_FILE,
        "def test_ties",
        '@pytest.mark.requirement("NMX-P1")\ndef test_ties',
        "several",
    ),
    "removed mutant": (MUTANTS_FILE, "NMX-R1", "other", "NMX-R1: no mutant"),
    "removed process mutant": (PROCESS_MUTANTS_FILE, "NMX-P1", "other", "NMX-P1: no mutant"),
    "misspelt process mutant": (PROCESS_MUTANTS_FILE, "NMX-P1", "NMX-P7", "cites NMX-P7"),
    "misspelt vector": (VECTORS, "NMX-R1", "NMX-R9", "cites NMX-R9"),
    "removed proof": (PROOF_FILE, "Proves: NMX-G1.", "", "NMX-G1: no proof"),
    "uncollected proof": (PROOF_FILE, "def test_bound", "def bound", "a place that does not count"),
    "untested guarantee": (PROOF_FILE, '@pytest.mark.requirement("NMX-G1")', "", "NMX-G1: no test"),
    "skipped proof": (PROOF_FILE, "def test_bound", "@pytest.mark.skip\ndef test_bound", "does not count"),
    "implemented in a test": (SUITE_FILE, "assert True", '"""Implements: NMX-R1."""', "does not count"),
    "removed control": (
        PROOF_FILE,
        "Controls: NMX-G1.",
        "",
        "NMX-G1: a proof file without a negative control",
    ),
    "control by name only": (
        PROOF_FILE,
        "test_negative_control",
        "test_other",
        "a place that does not count",
    ),
    "unlisted assumption": ("proofs/README.md", "NMX-A1", "Nothing", "NMX-A1: not listed"),
    "edited pinned function": (REFERENCE_FILE, "return 0", "return 1", "which is now"),
    "removed pinned function": (REFERENCE_FILE, "def select", "def choose", "which is now missing"),
    "misspelt pin": (PROOF_FILE, "Pins: veil", "Pins: veil reference", "a citation is not one line"),
    "forbidden import": (
        OPTIMIZED_FILE,
        "from veil_spec import types",
        "import veil_reference.tape",
        "reaches",
    ),
    "disguised import": (OPTIMIZED_FILE, "from veil_spec import types", DISGUISED, "in disguise"),
    "import of the door": (
        REFERENCE_FILE,
        "def select",
        "import veil.main\ndef select",
        "which only app/ may",
    ),
    "alien in reference": (REFERENCE_FILE, "def select", "import numpy\ndef select", "not in the standard"),
    "broken file": (REFERENCE_FILE, "def select()", "def select(", "does not parse"),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_kind_of_edit_is_caught(tree: Path, name: str) -> None:
    path, old, new, expected = EDITS[name]
    edit(tree, path, old, new)
    found = traceability.problems(tree)
    assert any(expected in problem for problem in found), found


def test_a_table_that_is_not_current_is_caught(tree: Path) -> None:
    page = tree / SPEC_PAGE
    page.write_text(page.read_text("utf-8").replace("one line", "a single line"), "utf-8")
    assert traceability.problems(tree) == [f"{traceability.TABLE} is not current: run make spec"]


def test_an_import_that_passes_through_another_module_is_caught(tree: Path) -> None:
    (tree / "spec/veil_spec/door.py").write_text("from veil_reference import tape\n", "utf-8")
    edit(tree, OPTIMIZED_FILE, "import types", "import door, types")
    assert any(
        problem == "veil_optimized.noisy_max reaches veil_spec.door -> veil_reference"
        for problem in traceability.problems(tree)
    )


def test_a_test_in_a_file_that_pytest_does_not_collect_does_not_count(tree: Path) -> None:
    (tree / SUITE_FILE).rename(tree / SUITE_FOLDER / "noisy_max.py")
    write_table(tree)
    assert "NMX-P1: no test" in traceability.problems(tree)


def test_a_withdrawn_line_needs_nothing(tree: Path) -> None:
    edit(tree, SPEC_PAGE, "**NMX-P1**", "**NMX-R2** Withdrawn in 0.2.0: it said nothing.\n\n**NMX-P1**")
    assert traceability.problems(tree) == []


def test_a_type_of_the_specification_counts_for_both_implementations(tree: Path) -> None:
    edit(tree, OPTIMIZED_FILE, "NMX-R1, ", "")
    shared = 'class Tape:\n    """A tape. Implements: NMX-R1."""\n'
    (tree / "spec/veil_spec/types.py").write_text(shared, "utf-8")
    write_table(tree)
    assert traceability.problems(tree) == []


def test_a_mutant_may_be_named_by_a_decorator(tree: Path) -> None:
    decorated = 'from m import mutant\n\n\n@mutant("NMX-R1", "last on a tie")\ndef last() -> None: ...\n'
    (tree / MUTANTS_FILE).write_text(decorated, "utf-8")
    write_table(tree)
    assert traceability.problems(tree) == []


def test_the_table_names_what_every_id_has(tree: Path) -> None:
    rows = {
        line.split(" | ")[0]: line for line in (tree / traceability.TABLE).read_text("utf-8").splitlines()
    }
    suite, optimized = "veil_conformance.test_noisy_max", "`veil_optimized.noisy_max.select`"
    assert rows["| NMX-R1"].split(" | ")[2:] == [
        "`veil_reference.noisy_max.select`",
        optimized,
        "",
        "",
        f"`{suite}.test_ties`",
        "`veil_conformance.mutants.LastOnTie` |",
    ]
    process = ["", optimized, "", "", f"`{suite}.test_line`", "`test_process_mutants.NMX-P1` |"]
    assert rows["| NMX-P1"].split(" | ")[2:] == process
    proof, control = "`prove_noisy_max.test_bound`", "`prove_noisy_max.test_negative_control`"
    assert rows["| NMX-G1"].split(" | ")[2:] == ["", "", proof, control, proof, " |"]
