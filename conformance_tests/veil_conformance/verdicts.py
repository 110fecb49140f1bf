"""What a run says in the end: verdicts on requirements and classes, and which failures were known."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from veil_conformance.classes import CLASSES, Class
from veil_conformance.program import Trouble
from veil_conformance.suite import suite_digest
from veil_spec import __version__

UNMARKED: Final = "SUITE"
"""Blamed for failures of tests that check the suite itself, and of its collection."""
REQUIREMENTS: Final = frozenset(name for each in CLASSES.values() for name in each.requirements)
"""Every requirement that the suite tests."""
ENDS: Final = (0, 1)
"""pytest's exit status where every test ran: none failed, or some did."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test of a requirement, and the operations that it had asked for by then."""

    requirement: str
    operations: frozenset[str]
    outcome: str
    """passed, failed, error, skipped (an operation is not claimed) or left out (a value has no form)."""
    vector: bool = False
    """Whether the test compares the whole output of a stored case."""


class Unreadable(Exception):
    """Raised with one line that says what is wrong with a file of known failures, and the remedy."""


def verdict(outcomes: set[str]) -> str:
    """Return PASS only if every test passed that was not left out, and at least one."""
    if outcomes & {"failed", "error"}:
        return "FAIL"
    return "PASS" if "passed" in outcomes and "skipped" not in outcomes else "NOT CLAIMED"


def verdicts(results: Sequence[Result]) -> dict[str, str]:
    """Return PASS, FAIL or NOT CLAIMED for each requirement, in order."""
    outcomes: dict[str, set[str]] = {}
    for result in results:
        outcomes.setdefault(result.requirement, set()).add(result.outcome)
    return {name: verdict(outcomes[name]) for name in sorted(outcomes, key=_order)}


def _order(name: str) -> tuple[str, int]:
    area, _, number = name.partition("-R")
    return area, int(number or 0)


AREAS: Final = ("TAP", "NMX", "ACC", "FXP", "MDL", "RMO", "INT", "WIR")
"""Each area rests on those before it."""
AFTER: Final = {
    "NMX-R2": "NMX-R4",
    "NMX-R3": "NMX-R4",
    "NMX-R6": "ACC-R1",
    "NMX-R8": "ACC-R2",
    "NMX-R12": "ACC-R1",
    "NMX-R14": "ACC-R13",
    "MDL-R3": "MDL-R16",
    "MDL-R4": "MDL-R7",
    "MDL-R5": "MDL-R8",
    "RMO-R17": "RMO-R18",
}
"""Requirements whose tests rest on one that a page states later: the tests of NMX-R2 and NMX-R3 on how ties
are broken, those of NMX-R6 to NMX-R14 on exact laws and certificates, those of MDL-R3 to MDL-R5 on whole
layers, those of RMO-R17 on the noise of masks."""


def _look_order(name: str) -> tuple[int, int, bool, int]:
    rests_on = AFTER.get(name, name)
    return AREAS.index(rests_on[:3]), _order(rests_on)[1], name in AFTER, _order(name)[1]


def first_look(results: Sequence[Result], known: Collection[str] = ()) -> str:
    """Return the failing requirement at which to look first, empty where none fails that is not known.

    It is the first in the order of AREAS and numbers, but for AFTER: a page defines later requirements by
    earlier ones. A vector compares a whole output, and so fails with any fault of its operation: where other
    tests fail, vectors do not count.
    """
    failed = [
        r for r in results if r.outcome in {"failed", "error"} and r.requirement not in {UNMARKED, *known}
    ]
    telling = [each for each in failed if not each.vector] or failed
    return min((each.requirement for each in telling), key=_look_order, default="")


def class_verdict(each: Class, claimed: frozenset[str], results: Sequence[Result]) -> str:
    """Return PASS, FAIL or NOT CLAIMED for a class: what its own operations show of its requirements."""
    if not each.operations <= claimed:
        return "NOT CLAIMED"
    own = [
        r
        for r in results
        if r.requirement in (*each.requirements, UNMARKED) and r.operations <= each.operations
    ]
    found = verdicts(own)
    passed = {name for name, said in found.items() if said == "PASS"}
    return "PASS" if passed >= set(each.requirements) and "FAIL" not in found.values() else "FAIL"


def badge(name: str, said: str) -> str:
    """Return the line of a class."""
    return f"Veil {__version__} · {name} {said} · suite {suite_digest()[:8]}"


def read_known(path: Path) -> dict[str, str]:
    """Return the known failures of a file: requirement to reason. Raises: Unreadable."""
    known: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: it cannot be read as text: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.partition(" ")
        if not reason.strip() or not re.fullmatch("[A-Z]{3}-R[0-9]+", name):
            raise Unreadable(
                f"{path}:{number}: write a requirement, a space and a reason, as in NMX-R2 slow sampler"
            )
        if name not in REQUIREMENTS or name in known:
            fault = "listed twice" if name in known else "no requirement of this suite"
            raise Unreadable(f"{path}:{number}: {name} is {fault}: remove the line")
        known[name] = reason.strip()
    return known


def why(troubles: Sequence[Trouble]) -> str:
    """Return in one line what went wrong with a program, empty if nothing did."""
    if not troubles:
        return ""
    counts = Counter(trouble.name for trouble in troubles)
    often = ", ".join(f"{count} {name}" for name, count in counts.items())
    first = f"{troubles[0].name}: {troubles[0]}"
    return f" ({first})" if len(troubles) == 1 else f" ({often}; first {first})"


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run found, and whether it is what it should be."""

    name: str
    status: int
    results: Sequence[Result]
    troubles: Mapping[str, Sequence[Trouble]]
    classes: Sequence[Class]
    claimed: frozenset[str]
    known: Mapping[str, str]

    @property
    def found(self) -> dict[str, str]:
        """Return the verdict on each requirement; a failure that is known is KNOWN."""
        found = verdicts(self.results)
        return {n: "KNOWN" if said == "FAIL" and n in self.known else said for n, said in found.items()}

    @property
    def stale(self) -> list[str]:
        """Return the requirements that are listed as known failures and were tested without failing."""
        return [name for name in self.known if self.found.get(name, "KNOWN") != "KNOWN"]

    @property
    def holds(self) -> bool:
        """Return whether something passed, all that failed was known, and no known failure is stale."""
        said = set(self.found.values())
        complete = self.status in ENDS and (self.status == 0 or "KNOWN" in said)
        return complete and "PASS" in said and "FAIL" not in said and not self.stale

    def lines(self) -> Iterator[str]:
        """Yield a line for each requirement, class and stale known failure, where to look, the verdict."""
        for name, said in self.found.items():
            if name != UNMARKED or said != "PASS":
                reason = f" ({self.known[name]})" if said == "KNOWN" else why(self.troubles.get(name, []))
                yield f"{name} {said}{reason}"
        for name in self.stale:
            yield f"{name} is listed as a known failure and is {self.found[name]}: remove it from the list"
        left = [result.requirement for result in self.results if result.outcome == "left out"]
        if left:
            named = ", ".join(sorted(set(left), key=_order))
            why_left = "the plug-in protocol has no form for their values"
            yield f"{len(left)} tests were left out, of {named}: {why_left}"
        for each in self.classes:
            said = class_verdict(each, self.claimed, self.results) if self.status in ENDS else "FAIL"
            yield badge(each.name, said)
        if first := first_look(self.results, self.known):
            yield f"first look at: {first}"
        yield self._verdict()

    def _verdict(self) -> str:
        counts = Counter(said for name, said in self.found.items() if name != UNMARKED)
        counted = ", ".join(f"{counts[said]} {said}" for said in ("PASS", "FAIL", "NOT CLAIMED"))
        known = f", {counts['KNOWN']} KNOWN" if counts["KNOWN"] else ""
        said = "conforms to" if self.holds else "DOES NOT CONFORM to"
        but = " but for known failures" if self.holds and known else ""
        return f"{self.name} {said} Veil {__version__}{but}: {counted}{known}"
