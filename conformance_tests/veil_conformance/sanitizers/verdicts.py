"""What an audit says: findings, one verdict a mode, one verdict a sanitizer. No verdict says correct."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

Status = Literal["REJECTED", "NOT REJECTED", "NOT EXPOSED", "CRASHED", "NOT RUN"]
Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
ORDER: Final[Sequence[Status]] = ("REJECTED", "CRASHED", "NOT RUN", "NOT REJECTED", "NOT EXPOSED")
"""The verdict on a sanitizer is the first of these that some mode gave."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it rejects, why, its witness, its figures and what it would have noticed."""

    check: str
    rejects: bool
    reason: str
    witness: str = ""
    figures: Mapping[str, str | int | float] = field(default_factory=dict)
    power: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one mode says; `false_rejection` bounds the chance that it rejects a correct sanitizer."""

    mode: str
    status: Status
    reason: str
    findings: Sequence[Finding] = ()
    outputs: int = 0
    false_rejection: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> Mapping[str, Json]:
        """Return the verdict as verdicts.json has it."""
        return asdict(self)


def concluded(mode: str, findings: Sequence[Finding], outputs: int, false_rejection: float) -> Verdict:
    """Return the verdict that follows from findings: without one there is none."""
    if not findings:
        raise ValueError("a verdict needs a finding")
    against = [finding for finding in findings if finding.rejects]
    if against:
        reason = "; ".join(finding.reason for finding in against)
        return Verdict(mode, "REJECTED", reason, findings, outputs, false_rejection)
    power = "; ".join(finding.power for finding in findings if finding.power)
    return Verdict(mode, "NOT REJECTED", power, findings, outputs, false_rejection)


def overall(verdicts: Sequence[Verdict]) -> Status:
    """Return the verdict on a sanitizer."""
    said = {verdict.status for verdict in verdicts}
    return next(status for status in ORDER if status in said)
