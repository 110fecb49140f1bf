"""`python -m veil_conformance.sanitizers [--impl NAME]`: verdicts on one sanitizer, or on all shipped."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from veil_conformance.sanitizers import run
from veil_spec.refusals import Refused


def main() -> int:
    """Return 0 if nothing was rejected that claims to be right, 1 if something was, 2 for a bad name."""
    options = argparse.ArgumentParser("python -m veil_conformance.sanitizers", description=__doc__)
    options.add_argument("--impl", help="module[:factory] or 'exec:PROGRAM ARGUMENTS'")
    options.add_argument(
        "--out", type=Path, default=Path("build/audit-sanitizer"), help="folder for the report"
    )
    chosen, console = options.parse_args(), Console(stderr=True)
    try:
        if chosen.impl is not None:
            return 0 if run.audit_sanitizer(chosen.impl, chosen.out, console) else 1
        return 0 if run.audit_cases(chosen.out, console) else 1
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
