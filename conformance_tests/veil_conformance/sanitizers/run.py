"""`veil audit-sanitizer`: one sanitizer in all modes, or all shipped ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from veil_conformance.sanitizers import accounting, blackbox, cases, exact, page
from veil_conformance.sanitizers.process import opened
from veil_conformance.sanitizers.settings import Settings
from veil_conformance.sanitizers.subject import Crashed, Description, Subject, Unusable
from veil_conformance.sanitizers.verdicts import Json, Status, Verdict, overall
from veil_spec.refusals import Refusal, Refused

MODES: Final = (exact.MODE, blackbox.MODE, accounting.MODE)
CASE_SETTINGS: Final = Settings(false_rejection=1e-8, draws=150_000, seconds=5.0)
"""For the shipped sanitizers: their faults are large, and there are many of them."""
PATIENCE: Final = 60.0
"""Seconds for the mode that must reject: a busy machine must not take its outputs away."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What all modes say about one sanitizer; a shipped broken one has a `mode` that must reject it."""

    impl: str
    name: str
    claim: str
    verdicts: Sequence[Verdict]
    status: Status
    origin: str = ""
    mode: str = ""
    as_expected: bool | None = None

    def as_json(self) -> Mapping[str, Json]:
        """Return the audit as verdicts.json has it."""
        return asdict(self)


def described(impl: str, settings: Settings) -> Description:
    """Return what a sanitizer claims. Raises: Unusable."""
    try:
        with opened(impl, settings.timeout) as subject:
            return subject.description
    except Crashed as error:
        raise Unusable(f"it does not describe itself ({error}); see conformance_tests/README.md") from None


def judged(impl: str, mode: str, settings: Settings) -> Verdict:
    """Return what one mode says about a sanitizer that could be described; whatever fails is CRASHED."""
    start = time.perf_counter()
    try:
        with opened(impl, settings.timeout) as subject:
            verdict = _modes(impl, settings)[mode](subject, settings)
    except (Crashed, Unusable) as error:
        verdict = Verdict(mode, "CRASHED", str(error))
    return replace(verdict, seconds=time.perf_counter() - start)


def _modes(impl: str, settings: Settings) -> dict[str, Callable[[Subject, Settings], Verdict]]:
    again = partial(opened, impl, settings.timeout)
    return {
        exact.MODE: exact.audit,
        blackbox.MODE: partial(blackbox.audit, opener=again),
        accounting.MODE: accounting.audit,
    }


def audit(
    impl: str, settings: Settings, tell: Callable[[str], None] = lambda _: None, patient: str = ""
) -> Audit:
    """Return what every mode says about a sanitizer; the mode `patient` has more time. Raises: Unusable."""
    claims = described(impl, settings)
    verdicts = []
    for mode in MODES:
        tell(f"{claims.name}: {mode}")
        verdicts.append(
            judged(impl, mode, replace(settings, seconds=PATIENCE) if mode == patient else settings)
        )
    claim = f"epsilon {claims.epsilon}, adjacency {claims.adjacency}"
    return Audit(impl, claims.name, claim, verdicts, overall(verdicts))


def audit_case(case: cases.Case, settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Audit:
    """Return the audit of a shipped sanitizer, and whether it went as it must."""
    try:
        made = audit(case.impl, settings, tell, case.mode)
    except Unusable as error:
        missing = [Verdict("none", "NOT RUN", str(error))]
        return Audit(case.impl, case.key, "", missing, "NOT RUN", case.origin, case.mode, False)
    return replace(made, origin=case.origin, mode=case.mode, as_expected=expected(case, made.verdicts))


def expected(case: cases.Case, verdicts: Sequence[Verdict]) -> bool:
    """Return whether a broken sanitizer was rejected in its mode for its fault, or a correct one in none."""
    if not case.mode:
        return overall(verdicts) == "NOT REJECTED"
    against = (f for verdict in verdicts if verdict.mode == case.mode for f in verdict.findings if f.rejects)
    return any(finding.check in case.checks for finding in against)


def audit_sanitizer(impl: str, output: Path, console: Console, settings: Settings | None = None) -> bool:
    """Return whether no mode rejected a sanitizer; print the verdicts and write verdicts.json and .html.

    Refuses: MODE_UNAVAILABLE, for an `impl` that names nothing that can be audited.
    """
    settings = settings or Settings()
    try:
        with console.status("starting the sanitizer") as status:
            made = audit(impl, settings, status.update)
    except Unusable as error:
        raise Refused(Refusal.MODE_UNAVAILABLE, f"--impl {impl}: {error}") from None
    page.publish([made.as_json()], settings, output)
    return made.status == "NOT REJECTED"


def audit_cases(output: Path, console: Console, settings: Settings = CASE_SETTINGS) -> bool:
    """Return whether every shipped broken sanitizer was rejected in its mode, and no correct one in any."""
    with console.status("starting") as status:
        made = [audit_case(case, settings, status.update) for case in (*cases.BROKEN, *cases.CORRECT)]
    page.publish([each.as_json() for each in made], settings, output)
    return all(each.as_expected for each in made)
