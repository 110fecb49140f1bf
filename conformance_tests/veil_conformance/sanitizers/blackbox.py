"""Mode black-box: a claim against counts of outputs, with the chance of a false rejection bounded.

A first sample proposes events; they are judged on a second, fresh one, so that looking for the worst costs
nothing. Every bound holds at any sample size.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import permutations
from math import isfinite
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from veil_conformance.program import Value
from veil_conformance.sanitizers import chances, independence
from veil_conformance.sanitizers.laws import symbol
from veil_conformance.sanitizers.settings import Plan, Settings, coverage, looked_at, plan
from veil_conformance.sanitizers.subject import Description, Subject
from veil_conformance.sanitizers.verdicts import Finding, Verdict, concluded

MODE: Final = "black-box"
SEARCH: Final = 0.3
"""Share of the outputs that proposes events."""
JUDGE: Final = 0.6
"""Share of the outputs that judges them; the rest goes to the checks of independence."""
BINS: Final = 16
"""Intervals into which a number that comes with the symbol is cut."""

KINDS: Final = (
    "own word",
    "own word left out",
    "support",
    "one output",
    "outputs above the claim",
    "suspected pair",
)
"""How an event is found; of equal events the first kind is kept."""

Counts = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Opener(Protocol):
    """Whatever starts a sanitizer in a fresh process."""

    def __call__(self) -> AbstractContextManager[Subject]:
        """Return a context that holds a fresh sanitizer."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """A set of outputs that `token` seems to give too often beside `other`; `check` says how it was found."""

    check: str
    token: str
    other: str
    outputs: frozenset[str]

    def __str__(self) -> str:
        names = sorted(self.outputs)
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return f"{self.token!r} against {self.other!r}, output {shown}"


class Reader:
    """Names for outputs: the symbol, and the interval of every number that comes with it."""

    def __init__(self, outputs: Sequence[Value]) -> None:
        columns: dict[int, list[float]] = {}
        for output in outputs:
            for place, number in _numbers(output):
                columns.setdefault(place, []).append(number)
        steps = np.linspace(0, 1, BINS + 1)[1:-1]
        self._edges = {place: np.unique(np.quantile(column, steps)) for place, column in columns.items()}

    def counts(self, outputs: Sequence[Value]) -> Counter[str]:
        """Return how often each name comes up."""
        if not self._edges and all(isinstance(output, str | int) for output in outputs):
            return Counter({symbol(output): seen for output, seen in Counter(outputs).items()})
        return Counter(map(self._name, outputs))

    def _name(self, output: Value) -> str:
        bins = ((place, self._bin(place, number)) for place, number in _numbers(output))
        return symbol([_symbol(output), *(f"number {place} in interval {bin_}" for place, bin_ in bins)])

    def _bin(self, place: int, number: float) -> int:
        return int(np.searchsorted(self._edges[place], number, side="right")) if place in self._edges else -1


def _symbol(output: Value) -> Value:
    """Return what is left of an output without the numbers that come with it."""
    if isinstance(output, Sequence) and not isinstance(output, str):
        return [item for place, item in enumerate(output) if place == 0 or not _number(item)]
    return "" if isinstance(output, float) else output


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _numbers(output: Value) -> list[tuple[int, float]]:
    if isinstance(output, float):
        return [(0, output)] if isfinite(output) else []
    if isinstance(output, str) or not isinstance(output, Sequence):
        return []
    return [(place, float(item)) for place, item in enumerate(output) if place and _number(item)]  # type: ignore[arg-type]


def audit(subject: Subject, settings: Settings, opener: Opener) -> Verdict:
    """Return what counts of outputs say about the claim. Raises: Crashed."""
    parts = looked_at(subject, settings)
    drawing, level = plan(subject, settings), settings.false_rejection / 2
    tokens = [token for part in parts for token in part]
    first = _draw(subject, tokens, int(drawing.draws * SEARCH), drawing)
    reader = Reader([output for outputs in first.values() for output in outputs[:1000]])
    seen = {token: reader.counts(outputs) for token, outputs in first.items()}
    events = propose(subject, parts, seen)
    findings = [_scalar(first), *_judged(subject, events, reader, drawing, level)]
    liveliest = min(tokens, key=lambda token: _collisions(seen[token]))
    rest = int(drawing.draws * (1 - SEARCH - JUDGE))
    with opener() as one, opener() as two:
        findings += independence.findings(subject, one, two, liveliest, rest, level)
    drawn = subject.drawn + one.drawn + two.drawn
    looked = Finding("search", False, "", "", {"looked at": coverage(subject, parts), "events": len(events)})
    return concluded(MODE, [*findings, looked], drawn, settings.false_rejection)


def _draw(subject: Subject, tokens: Sequence[str], draws: int, drawing: Plan) -> dict[str, list[Value]]:
    each = max(1, draws // len(tokens))
    return {token: subject.sample(token, each, drawing.chunk) for token in tokens}


def _collisions(counts: Counter[str]) -> float:
    """Return about the probability that two outputs are equal."""
    return sum(seen * seen for seen in counts.values()) / counts.total() ** 2


def _scalar(first: Mapping[str, Sequence[Value]]) -> Finding:
    """Return whether every output is one symbol."""
    for token, outputs in first.items():
        for output in outputs:
            if not isinstance(output, str | int):
                reason = f"outputs are not one symbol each, such as {symbol(output)[:60]}: a claim for the"
                reason += " index does not cover what comes with it"
                return Finding("one symbol", True, reason, f"token {token!r}")
    return Finding("one symbol", False, "")


def propose(
    subject: Subject, parts: Sequence[Sequence[str]], seen: Mapping[str, Counter[str]]
) -> list[Event]:
    """Return the events to judge: the worst of each kind, and the worst of the suspected pair."""
    best: dict[str, tuple[float, Event]] = {}
    for event, rank in _candidates(parts, seen, float(subject.description.claim)):
        suspected = {event.token, event.other} == set(subject.description.worst or ())
        for kind in [event.check, "suspected pair"] if suspected else [event.check]:
            if kind not in best or rank > best[kind][0]:
                best[kind] = rank, event
    unique: dict[tuple[str, str, frozenset[str]], Event] = {}
    for kind in sorted(best, key=KINDS.index):
        event = best[kind][1]
        unique.setdefault((event.token, event.other, event.outputs), event)
    return list(unique.values())


def _candidates(
    parts: Sequence[Sequence[str]], seen: Mapping[str, Counter[str]], claim: float
) -> Iterator[tuple[Event, float]]:
    """Yield the events of every ordered pair, each with its rank."""
    for part in parts:
        names = np.array(sorted({name for token in part for name in seen[token]}), dtype=object)
        counts = np.array([[seen[token][str(name)] for name in names] for token in part], dtype=np.float64)
        for x, y in permutations(range(len(part)), 2):
            own = dict(zip(KINDS, (names == symbol(part[x]), names == symbol(part[y])), strict=False))
            for check, mask in (own | _masks(counts[x], counts[y], claim)).items():
                if mask.any():
                    rank = float(_rank(counts[x][mask].sum(), counts[y][mask].sum()))
                    yield Event(check, part[x], part[y], frozenset(map(str, names[mask]))), rank


def _masks(mine: Counts, theirs: Counts, claim: float) -> dict[str, Mask]:
    """Return sets of outputs that may show too large a ratio, by kind."""
    with np.errstate(divide="ignore"):
        above = np.log(mine) > claim + np.log(theirs)
    single = np.arange(mine.size) == int(np.argmax(_rank(mine, theirs)))
    return {"support": (mine > 0) & (theirs == 0), "one output": single, "outputs above the claim": above}


def _rank(mine: Counts, theirs: Counts) -> Counts:
    """Return about the log ratio less 2.5 standard errors; it orders events and proves nothing."""
    mine, theirs = np.asarray(mine) + 0.5, np.asarray(theirs) + 0.5
    return np.asarray(np.log(mine / theirs) - 2.5 * np.sqrt(1 / mine + 1 / theirs))


def _judged(
    subject: Subject, events: Sequence[Event], reader: Reader, drawing: Plan, level: float
) -> list[Finding]:
    """Return a finding for each event, from fresh outputs."""
    tokens = list(dict.fromkeys(token for event in events for token in (event.token, event.other)))
    drawn = _draw(subject, tokens, int(drawing.draws * JUDGE), drawing)
    counts = {token: reader.counts(outputs) for token, outputs in drawn.items()}
    return [judge(event, counts, subject.description, level / len(events) / 2) for event in events]


def judge(event: Event, counts: Mapping[str, Counter[str]], claims: Description, level: float) -> Finding:
    """Return whether counts refute the claim on an event; wrongly with probability at most 2 * level."""
    claim, trials = float(claims.claim), counts[event.token].total()
    hits, others = (
        sum(counts[token][name] for name in event.outputs) for token in (event.token, event.other)
    )
    bound = chances.log_ratio_bound(hits, trials, others, counts[event.other].total(), level)
    excess = chances.detectable_excess(hits / trials, trials, claim, level)
    seen = f"{hits} of {trials} outputs against {others}"
    figures: dict[str, str | int | float] = {"seen": seen, "log ratio at least": f"{bound:.4f}"}
    rejects = bound > claim
    if excess is not None:
        figures["detectable excess"] = excess
    reason = (
        f"{event.check}: {event}: {seen}, a loss of at least {bound:.4f} where {claims.epsilon} is claimed"
    )
    power = f"no excess over {claims.epsilon} can show on {event} in {trials} outputs"
    if excess is not None:
        power = f"an excess of {excess:.4f} over {claims.epsilon} would show on {event}"
    return Finding(event.check, rejects, reason if rejects else "", str(event), figures, power)
