"""The table of README.md names, for every guarantee of the specification, the files that prove it."""

import re
from pathlib import Path

import traceability

PROOFS = Path(__file__).resolve().parent


def listed(text: str) -> dict[str, set[str]]:
    """Return the files that the table of guarantees names for each ID."""
    rows = re.findall(r"^\| ([A-Z]{3}-G\d+) \| ([^|]*) \|", text, re.MULTILINE)
    return {guarantee: set(re.findall(r"`(prove_\w+\.py)`", files)) for guarantee, files in rows}


def proving() -> dict[str, set[str]]:
    """Return the files whose docstrings prove each guarantee of the specification."""
    files = traceability.read(PROOFS.parent)
    found: dict[str, set[str]] = {r.id: set() for r in traceability.requirements(files) if r.kind == "G"}
    for cited in traceability.citations(files):
        if cited.role == "proof" and cited.id in found:
            found[cited.id].add(Path(cited.path).name)
    return found


def test_the_readme_names_every_guarantee_with_the_files_that_prove_it() -> None:
    text = (PROOFS / "README.md").read_text("utf-8")
    assert listed(text) == proving()
    assert listed(text.replace("`prove_tape.py`", "`prove_masking.py`")) != proving()
