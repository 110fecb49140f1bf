"""Process requirements: change one line of the code in a copy of the tree, and the tests notice."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOTS = ("spec", "reference", "optimized", "app", "conformance_tests")
MUTANTS = {
    "MDL-P1": (
        "app/veil/importer.py",
        'raise unsupported(f"the tensor {left} does not belong to the family {family.model_type}")',
        "pass",
    ),
    "MDL-P2": (
        "app/veil/loading.py",
        "all(digest(entry / name, progress) == noted[name] for name in noted)",
        "True",
    ),
    "MDL-P3": (
        "optimized/veil_optimized/decoder.py",
        "last = torch.tensor(counts).cumsum(0) - 1",
        "last = torch.tensor(counts) - 1",
    ),
    "MDL-P4": (
        "optimized/veil_optimized/split.py",
        'look_up("embedding", tokens), PIECE)',
        'look_up("embedding", [*tokens, 0]), PIECE)',
    ),
    "MDL-P5": (
        "optimized/veil_optimized/sequences.py",
        "cache = self._caches[number]",
        "cache = self._decoder.new_cache()",
    ),
    "ACC-P1": (
        "optimized/veil_optimized/ledger.py",
        "        _write(self._file, slot, self._end)\n        self._sync()\n",
        "        self._sync()\n        _write(self._file, slot, self._end)\n",
    ),
    "ACC-P2": ("optimized/veil_optimized/ledger.py", "if cost > left:", "if spent > limit:"),
    "ACC-P3": ("optimized/veil_optimized/ledger.py", "            _lock(self._file, deadline)\n", ""),
    "ACC-P4": (
        "optimized/veil_optimized/ledger.py",
        "self._end, self._seal = self._end + RECORD_BYTES, slot[-SEAL_BYTES:]",
        "self._end += RECORD_BYTES",
    ),
    "ACC-P5": (
        "optimized/veil_optimized/ledger.py",
        "return Ticket(invocation, resumed=True, memoised=False)",
        "return Ticket(self._books.following, resumed=True, memoised=False)",
    ),
    "ACC-P6": (
        "optimized/veil_optimized/ledger.py",
        'text = _tag(key, b"document", owner, document)',
        'text = _tag(key, b"document", owner, document.strip())',
    ),
    "ACC-P7": ("optimized/veil_optimized/ledger.py", "if policy not in (None, self.policy):", "if False:"),
    "NMX-P1": (
        "optimized/veil_optimized/sanitizer.py",
        "self.weights = sanitizer.file.weights[number - 1]",
        "self.weights = sanitizer.file.weights[0]",
    ),
    "NMX-P2": ("app/veil/sanitizing.py", "WORD.findall(text.lower())", "text.lower().split()"),
    "NMX-P3": ("app/veil/sanitizer_commands.py", "if len(document) > DOCUMENT_BYTES:", "if False:"),
    "NMX-P4": (
        "app/veil/sanitizing.py",
        "use(ids, tape, document, level, first)",
        "use(ids, tape, document, level, 0)",
    ),
    "RMO-P1": (
        "optimized/veil_optimized/enclave.py",
        "        return reveal(",
        "        self._multiplied(self._sent[group.number], step, masked)\n        return reveal(",
    ),
    "RMO-P2": (
        "optimized/veil_optimized/enclave.py",
        "self.masking.seed or os.urandom(constants.SEED_BYTES)",
        "self.masking.seed or bytes(constants.SEED_BYTES)",
    ),
    "RMO-P3": ("optimized/veil_optimized/remo.py", "self._open.pop(step).erase()", "self._open.pop(step)"),
    "RMO-P4": (
        "optimized/veil_optimized/dealer.py",
        "return bytearray(os.urandom(constants.SEED_BYTES))",
        "return bytearray(constants.SEED_BYTES)",
    ),
    "RMO-P5": (
        "optimized/veil_optimized/dealer.py",
        "            check.verify(pads, correction)\n",
        "            pass\n",
    ),
    "RMO-P6": ("optimized/veil_optimized/dealer.py", "if epoch in self._names:", "if False:"),
    "WIR-P11": ("optimized/veil_optimized/dealer.py", "if first < self._next:", "if False:"),
    "INT-P1": ("optimized/veil_optimized/enclave.py", "check.verify(masked, product)", "pass"),
    "WIR-P1": (
        "optimized/veil_optimized/transport.py",
        "        self._writer.record(Direction.FROM_WORKER, data)\n",
        "",
    ),
    "WIR-P2": (
        "optimized/veil_optimized/transport.py",
        "raise StreamLost(self._reason()) from error",
        "raise Refused(Refusal.FRAME_UNEXPECTED, self._reason()) from error",
    ),
    "WIR-P3": ("optimized/veil_optimized/session.py", "            self._transport.close()\n", ""),
    "WIR-P4": (
        "optimized/veil_optimized/worker.py",
        "self.ended, self._message = True, None",
        "self._message = None",
    ),
    "WIR-P5": ("app/veil/commands.py", "    sys.exit(2)\n", "    sys.exit(1)\n"),
    "WIR-P6": ("optimized/veil_optimized/session.py", "if answer.payload != model_hash:", "if False:"),
    "WIR-P7": (
        "optimized/veil_optimized/worker.py",
        "(FrameKind.PRODUCT, message.epoch, message.group, message.step)",
        "(FrameKind.PRODUCT, message.epoch, message.group, 0)",
    ),
    "WIR-P8": ("optimized/veil_optimized/session.py", "except StreamLost:", "except Refused:"),
    "WIR-P9": (
        "optimized/veil_optimized/serving.py",
        "if stream.silent_s() > self._idle_s]",
        "if False]",
    ),
    "WIR-P12": (
        "optimized/veil_optimized/worker.py",
        "(FrameKind.ANSWER, message.epoch, message.group, message.step)",
        "(FrameKind.ANSWER, message.epoch, message.group, 0)",
    ),
    "WIR-P13": (
        "optimized/veil_optimized/sequences.py",
        "if step and (number not in self._caches or self._caches[number].position != step):",
        "if step and number not in self._caches:",
    ),
    "WIR-P14": (
        "optimized/veil_optimized/sharding.py",
        "torch.cat(banded, dim=2)",
        "torch.cat(banded[::-1], dim=2)",
    ),
    "WIR-P10": ("optimized/veil_optimized/serving.py", "if stream.between:", "if True:"),
}
"""Requirement to (file, code, wrong code)."""


def marked(root: Path, requirement: str) -> Iterator[str]:
    """Yield the tests of the house that are marked with a requirement."""
    mark = f"pytest.mark.requirement('{requirement}')"
    for path in sorted((root / "conformance_tests").glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and mark in map(ast.unparse, node.decorator_list):
                yield f"{path.relative_to(root)}::{node.name}"


def run(tree: Path, requirement: str) -> subprocess.CompletedProcess[str]:
    """Return what pytest says of a requirement's tests in a tree, up to the first failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *marked(tree, requirement),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(tree / root) for root in ROOTS)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copied(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree."""
    tree = tmp_path_factory.mktemp("mutated") / "tree"
    for name in ROOTS:
        shutil.copytree(root / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(root / "pyproject.toml", tree)
    return tree


def test_every_process_requirement_has_a_mutant(root: Path) -> None:
    pages = "".join(path.read_text("utf-8") for path in (root / "spec").glob("*.md"))
    assert set(re.findall(r"^\*\*([A-Z]{3}-P[0-9]+)\*\*", pages, re.MULTILINE)) == set(MUTANTS)


def test_the_copy_passes_as_it_is(copied: Path) -> None:
    assert run(copied, "WIR-P6").returncode == 0


@pytest.mark.parametrize("requirement", MUTANTS)
def test_a_changed_line_is_noticed_by_the_tests_of_its_requirement(copied: Path, requirement: str) -> None:
    name, code, wrong = MUTANTS[requirement]
    path = copied / name
    right = path.read_text("utf-8")
    assert right.count(code) >= 1
    path.write_text(right.replace(code, wrong), "utf-8")
    try:
        done = run(copied, requirement)
    finally:
        path.write_text(right, "utf-8")
    assert done.returncode == 1, done.stdout[-2000:]
    assert "1 failed" in done.stdout
    assert " error" not in done.stdout.splitlines()[-1]
