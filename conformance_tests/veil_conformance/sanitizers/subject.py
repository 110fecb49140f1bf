"""What a sanitizer under audit offers, in plain values, and the checked form in which the auditor sees it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

from veil_conformance.program import Fields, Value, short

EPSILON_LIMIT: Final = 1000
"""Largest claim that is compared exactly: the series of e**E stays short."""
CHUNK: Final = 50_000
"""Most outputs asked for in one request."""
OFFERS: Final = frozenset({"law", "compose"})
"""Operations that a sanitizer may leave out."""
NEEDED: Final = frozenset({"name", "epsilon", "adjacency", "parts"})
OPTIONAL: Final = frozenset({"offers", "monotone", "worst"})
ADJACENCIES: Final = ("part", "vocabulary")


class Unusable(Exception):
    """Raised with one line that says why there is nothing to audit, and the remedy."""


class Crashed(Exception):
    """Raised with one line that says how a sanitizer failed to answer."""


class Sanitizer(Protocol):
    """A token sanitizer under audit; there is nothing to inherit, and `law` and `compose` may be missing."""

    def describe(self) -> Fields:
        """Return name, epsilon (decimal string, for one replaced token), adjacency and parts.

        `parts` lists input tokens; those of one part are claimed adjacent. Under the adjacency `vocabulary`
        all tokens are. `offers` lists which of `law` and `compose` exist. Optional are `monotone` (the claim
        rests on scores that all move one way) and `worst` (two tokens that the author suspects most).
        """
        ...

    def sample(self, token: str, count: int) -> Sequence[Value]:
        """Return the outputs of `count` independent calls; a symbol is a string or an integer.

        A mechanism that lets out more than the symbol returns a list that begins with the symbol.
        """
        ...

    def sanitize(self, document: Sequence[str]) -> Sequence[Value]:
        """Return one output for each token, each drawn as `sample` would draw it."""
        ...


class ExposesLaw(Protocol):
    """A sanitizer whose law can be read."""

    def law(self, token: str) -> Fields:
        """Return `scores` and `noise`, or integer `weights` and their `total`, and optionally `outputs`."""
        ...


class Composes(Protocol):
    """A sanitizer with an accountant of its own."""

    def compose(self, epsilon: str, count: int, delta: str) -> str:
        """Return the epsilon claimed for `count` selections of `epsilon` each, at this delta."""
        ...


class Caller(Protocol):
    """Whatever carries an operation to a sanitizer and its answer back."""

    def ask(self, operation: str, given: Fields) -> Value:
        """Return the answer. Raises: Crashed."""
        ...

    def close(self) -> None:
        """Return nothing; the sanitizer is gone afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Description:
    """What a sanitizer claims; tokens of one part are claimed adjacent at `epsilon`."""

    name: str
    epsilon: str
    adjacency: str
    parts: tuple[tuple[str, ...], ...]
    offers: frozenset[str]
    monotone: bool
    worst: tuple[str, str] | None

    @property
    def claim(self) -> Fraction:
        """Return the claimed epsilon as a rational."""
        return Fraction(self.epsilon)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return every input token, part after part."""
        return tuple(token for part in self.parts for token in part)


def decimal(value: Value, field: str) -> Fraction:
    """Return a decimal string as a rational, 0 <= epsilon <= EPSILON_LIMIT. Raises: Unusable."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", value):
        number = Fraction(value)
        if number <= EPSILON_LIMIT:
            return number
    raise Unusable(f"{field} must be a decimal string from 0 to {EPSILON_LIMIT}, not {short(value)}")


def _strings(value: Value, field: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise Unusable(f"{field} must be a list of strings, not {short(value)}")
    if not value or not all(isinstance(item, str) for item in value):
        raise Unusable(f"{field} must be a list of strings, not {short(value)}")
    return tuple(map(str, value))


def _parts(value: Value, adjacency: str) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise Unusable(f"parts must be a list of lists of tokens, not {short(value)}")
    parts = tuple(_strings(part, "each of the parts") for part in value)
    tokens = [token for part in parts for token in part]
    if len(set(tokens)) != len(tokens):
        raise Unusable("parts must name each token once")
    whole = (tuple(tokens),) if adjacency == "vocabulary" else parts
    if all(len(part) < 2 for part in whole):
        raise Unusable("parts must hold two adjacent tokens somewhere: there is no pair to audit")
    return whole


def _worst(value: Value, parts: Sequence[Sequence[str]]) -> tuple[str, str] | None:
    if value is None:
        return None
    pair = _strings(value, "worst")
    if len(set(pair)) != 2 or len(pair) != 2 or not any(set(pair) <= set(part) for part in parts):
        raise Unusable(f"worst must be two tokens of one part, not {short(value)}")
    return pair[0], pair[1]


def description(value: Value) -> Description:
    """Return what `describe` answered, checked. Raises: Unusable."""
    if not isinstance(value, Mapping) or not set(value) >= NEEDED or set(value) - NEEDED - OPTIONAL:
        wanted = f"{', '.join(sorted(NEEDED))} and optionally {', '.join(sorted(OPTIONAL))}"
        raise Unusable(f"describe must give {wanted}, not {short(value)}")
    adjacency, name, monotone = value["adjacency"], value["name"], value.get("monotone", False)
    if adjacency not in ADJACENCIES:
        raise Unusable(f"adjacency must be one of {', '.join(ADJACENCIES)}, not {short(adjacency)}")
    if not isinstance(name, str) or not name or not isinstance(monotone, bool):
        raise Unusable("name must be a string that is not empty, and monotone true or false")
    offers = frozenset(_strings(value["offers"], "offers")) if value.get("offers") else frozenset()
    if offers - OFFERS:
        raise Unusable(f"offers may list {', '.join(sorted(OFFERS))}, not {short(sorted(offers - OFFERS))}")
    decimal(value["epsilon"], "epsilon")
    parts = _parts(value["parts"], str(adjacency))
    worst = _worst(value.get("worst"), parts)
    return Description(name, str(value["epsilon"]), str(adjacency), parts, offers, monotone, worst)


class Subject:
    """A sanitizer under audit behind its caller: every answer is checked for its form."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.description = description(caller.ask("describe", {}))
        self.drawn = 0
        """Outputs received so far."""

    def close(self) -> None:
        """Return nothing; the sanitizer is gone afterwards."""
        self._caller.close()

    def sample(self, token: str, count: int, chunk: int = CHUNK) -> list[Value]:
        """Return the outputs of `count` calls, asked for in runs of at most `chunk`. Raises: Crashed."""
        outputs: list[Value] = []
        while len(outputs) < count:
            wanted = min(chunk, count - len(outputs))
            outputs += self._outputs("sample", {"token": token, "count": wanted}, wanted)
        return outputs

    def sanitize(self, document: Sequence[str]) -> list[Value]:
        """Return one output for each token of a document. Raises: Crashed."""
        return self._outputs("sanitize", {"document": list(document)}, len(document))

    def law(self, token: str) -> Value:
        """Return what the sanitizer says about its law for a token. Raises: Crashed."""
        return self._caller.ask("law", {"token": token})

    def compose(self, epsilon: str, count: int, delta: str) -> Fraction:
        """Return the total epsilon that the sanitizer's accountant claims. Raises: Crashed."""
        answer = self._caller.ask("compose", {"epsilon": epsilon, "count": count, "delta": delta})
        if isinstance(answer, str) and re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", answer):
            return Fraction(answer)
        raise Crashed(f"compose gave {short(answer)}, not a decimal string")

    def _outputs(self, operation: str, given: Fields, count: int) -> list[Value]:
        answer = self._caller.ask(operation, given)
        if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) != count:
            raise Crashed(f"{operation} gave {short(answer)}, not a list of {count} outputs")
        self.drawn += count
        return list(answer)
