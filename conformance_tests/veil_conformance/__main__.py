"""`python -m veil_conformance --impl module[:factory]`: every requirement, on any implementation."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from veil_conformance import loading, runner
from veil_spec import __version__


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    options = argparse.ArgumentParser("python -m veil_conformance", description=__doc__)
    options.add_argument("--impl", required=True, metavar="MODULE[:FACTORY]", help="what to test")
    options.add_argument(
        "--hypothesis-profile", choices=("ci", "audit"), default="ci", help="100 or 10,000 examples"
    )
    options.add_argument("--junit", metavar="FILE", help="also write a JUnit report")
    return options


def report(suite: runner.Suite, status: int) -> bool:
    """Return whether the implementation conforms; print a line for each requirement, and the verdict."""
    verdicts = suite.verdicts()
    for name, verdict in verdicts.items():
        if name != runner.UNMARKED or verdict != "PASS":
            print(f"{name} {verdict}")
    counts = Counter(verdict for name, verdict in verdicts.items() if name != runner.UNMARKED)
    conforms = status == 0 and counts["PASS"] > 0 and "FAIL" not in verdicts.values()
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "NOT CLAIMED"))
    said = "conforms to" if conforms else "DOES NOT CONFORM to"
    print(f"{suite.implementation.name} {said} Veil {__version__}: {counted}")
    return conforms


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the implementation conforms in what it claims, 1 if not, 2 if there is nothing to test."""
    chosen = parser().parse_args(arguments)
    try:
        implementation = loading.load(chosen.impl)
    except loading.Unusable as error:
        print(f"--impl: {error}", file=sys.stderr)
        return 2
    suite = runner.Suite(implementation)
    extra = ["--tb=short"] + ([f"--junitxml={chosen.junit}"] if chosen.junit else [])
    return 0 if report(suite, runner.run(suite, chosen.hypothesis_profile, extra)) else 1


if __name__ == "__main__":
    sys.exit(main())
