"""How much an audit may cost, and how often it may reject what is right."""

import time
from dataclasses import dataclass
from typing import Final

from veil_conformance.program import TIMEOUT
from veil_conformance.sanitizers.subject import CHUNK, Subject

PROBE: Final = 64
"""Outputs drawn to learn how fast a sanitizer is; they are judged by nothing."""
PROBES: Final = 3
"""The fastest of so many counts, so that a busy machine is not taken for a slow sanitizer."""
LEAST: Final = 600
"""Outputs that are drawn however slow a sanitizer is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an audit is asked to do; `false_rejection` holds for each mode that draws."""

    false_rejection: float = 1e-7
    draws: int = 400_000
    """Most outputs drawn in one mode."""
    seconds: float = 20.0
    """Longest time for these draws, as far as the sanitizer's speed foretells."""
    tokens: int = 64
    """Most input tokens looked at, the suspected pair first."""
    timeout: float = TIMEOUT


@dataclass(frozen=True, slots=True)
class Plan:
    """Outputs that a mode may draw in all, and in one request."""

    draws: int
    chunk: int


def plan(subject: Subject, settings: Settings) -> Plan:
    """Return what the sanitizer's speed allows; the speed depends on nothing that is judged."""
    token = subject.description.tokens[0]
    first = _seconds(subject, token, 1)
    if first * PROBE > settings.timeout / 4:
        return Plan(LEAST, 1)
    speed = PROBE / min(_seconds(subject, token, PROBE) for _ in range(PROBES))
    draws = max(LEAST, min(settings.draws, int(speed * settings.seconds)))
    return Plan(draws, max(1, min(CHUNK, int(speed * settings.timeout / 8))))


def _seconds(subject: Subject, token: str, count: int) -> float:
    start = time.perf_counter()
    subject.sample(token, count)
    return time.perf_counter() - start


def looked_at(subject: Subject, settings: Settings) -> list[list[str]]:
    """Return the tokens of each part that are looked at, at least two a part; parts of one are left out."""
    described = subject.description
    first = set(described.worst or ())
    room, chosen = settings.tokens, []
    for part in sorted(described.parts, key=lambda part: not first & set(part)):
        tokens = sorted(part, key=lambda token: token not in first)[: max(room, 0)]
        if len(tokens) > 1:
            chosen.append(tokens)
            room -= len(tokens)
    return chosen


def coverage(subject: Subject, parts: list[list[str]]) -> str:
    """Return how many of the tokens were looked at, in words."""
    seen, all_ = sum(map(len, parts)), len(subject.description.tokens)
    return f"all {all_} tokens" if seen == all_ else f"{seen} of {all_} tokens"
