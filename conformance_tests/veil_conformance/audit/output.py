"""The files of a report: report.json, and what is made of nothing but report.json."""

import json
import os
from pathlib import Path
from typing import Final

from veil_conformance.audit import attest
from veil_conformance.audit.report import Json, render, validate

REPORT: Final = "report.json"
PAGE: Final = "report.html"
JUNIT: Final = "junit.xml"
STATEMENT: Final = "statement.json"
ENVELOPE: Final = "statement.dsse.json"
"""The statement, signed."""


def replace(path: Path, text: str) -> None:
    """Return nothing: a file has this text, whole, or is what it was."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(text, "utf-8")
    scratch.replace(path)


def write(report: Json, folder: Path, root: Path | None) -> None:
    """Write a report as JSON, JUnit XML, in-toto statement and page, each whole or not at all.

    An envelope from another run is removed: it signs another report.
    """
    validate(report)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = None if root is None else Path(os.path.relpath(root, folder.resolve())).as_posix() + "/"
    stated = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    texts = {
        REPORT: stated,
        JUNIT: attest.junit(report),
        STATEMENT: attest.text(attest.statement(report, stated.encode())),
        PAGE: render(report, prefix),
    }
    (folder / ENVELOPE).unlink(missing_ok=True)
    for name, text in texts.items():
        replace(folder / name, text)
