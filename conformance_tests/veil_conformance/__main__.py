"""`python -m veil_conformance --impl NAME`: every requirement, on any implementation.

NAME is `module[:factory]`, or `exec:PROGRAM ARGUMENTS` for a program that speaks the plug-in protocol.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from veil_conformance import loading, runner
from veil_conformance.classes import CLASSES, Class
from veil_conformance.process import START, Limits, Plugin
from veil_conformance.program import TIMEOUT
from veil_conformance.verdicts import Report, Unreadable, read_known
from veil_spec.interface import Implementation

EXIT = """exit status: 0 if all that is claimed holds, but for known failures; 1 if not, or if a known failure
is stale; 2 if there is nothing to test, or an option or a file is wrong"""


class Wrong(Exception):
    """Raised with one line that names an option and what is wrong with it."""


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 10**6:
            return float(text)
    raise argparse.ArgumentTypeError(f"give seconds, above 0 and at most a million, not {text!r}")


def parser() -> argparse.ArgumentParser:
    """Return the command line's options."""
    options = argparse.ArgumentParser("python -m veil_conformance", description=__doc__, epilog=EXIT)
    options.add_argument("--impl", required=True, metavar="NAME", help="what to test")
    options.add_argument(
        "--hypothesis-profile", choices=("ci", "audit"), default="ci", help="100 or 10,000 examples"
    )
    options.add_argument("--class", dest="only", metavar="CLASS", help="test one conformance class")
    options.add_argument(
        "--known-failures", type=Path, metavar="FILE", help="lines of a requirement and a reason"
    )
    options.add_argument("--junit", metavar="FILE", help="also write a JUnit report")
    for name, default, what in (("", TIMEOUT, "for one answer"), ("start-", START, "to start")):
        options.add_argument(
            f"--{name}timeout",
            type=_seconds,
            default=default,
            metavar="SECONDS",
            help=f"a program's time {what}, {default:g} where it is not given",
        )
    return options


def chosen_class(name: str | None, implementation: Implementation) -> Class | None:
    """Return the class to test, None for all of them. Raises: Wrong."""
    if name is None:
        return None
    if name not in CLASSES:
        raise Wrong(f"--class: there is no class {name}: choose one of {', '.join(CLASSES)}")
    missing = sorted(CLASSES[name].operations - implementation.operations)
    if missing:
        raise Wrong(f"--class: {implementation.name} does not claim {name}: it lacks {', '.join(missing)}")
    return CLASSES[name]


def tested(options: argparse.Namespace, implementation: Implementation) -> Report:
    """Return what a run finds. Raises: Wrong, Unreadable."""
    known = read_known(options.known_failures) if options.known_failures else {}
    only = chosen_class(options.only, implementation)
    suite = runner.Suite(implementation)
    if only:
        suite = runner.Suite(implementation, frozenset(only.requirements), only.operations)
    extra = ["--tb=short"] + ([f"--junitxml={options.junit}"] if options.junit else [])
    status = runner.run(suite, options.hypothesis_profile, extra)
    classes, claimed = [only] if only else list(CLASSES.values()), implementation.operations
    return Report(implementation.name, status, suite.results, suite.troubles, classes, claimed, known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all that is claimed holds but for known failures, 1 if not, 2 if nothing can be tested."""
    options = parser().parse_args(arguments)
    try:
        implementation = loading.load(options.impl, Limits(options.timeout, options.start_timeout))
    except loading.Unusable as error:
        print(f"--impl: {error}", file=sys.stderr)
        return 2
    try:
        report = tested(options, implementation)
    except (Wrong, Unreadable) as error:
        print(error if isinstance(error, Wrong) else f"--known-failures: {error}", file=sys.stderr)
        return 2
    finally:
        if isinstance(implementation, Plugin):
            implementation.close()
    print("\n".join(report.lines()))
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
