"""What is audited with, by hash: the suite, and the audit with its attacks."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
"""The suite's own folder."""


def _digest(root: Path, paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the names, lengths and contents of files, in the order of their paths."""
    state = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        state.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return state.hexdigest()


def suite_digest(root: Path = ROOT) -> str:
    """Return the SHA-256 over the suite's files and vectors, by name."""
    return _digest(root, [*root.glob("*.py"), root / "suite.ini", *root.glob("vectors/*.json")])


def audit_digest(root: Path = ROOT) -> str:
    """Return the SHA-256 over the files of the audit and its attacks, by name."""
    files = [path for folder in ("attacks", "audit") for path in (root / folder).glob("*.*")]
    return _digest(root, [path for path in files if path.suffix in (".py", ".json", ".j2")])
