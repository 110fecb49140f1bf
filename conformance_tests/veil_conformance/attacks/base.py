"""What every attack is given and what it returns: public knowledge, a worker's view, one guess a token."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_conformance.attacks import modular
from veil_conformance.attacks.modular import Elements, Floats
from veil_optimized.decoder import Decoder
from veil_optimized.model import Model

GROUP: Final = 0
"""The first linear group: its input depends on one token alone."""
BATCH: Final = 4096
"""Vocabulary rows handled at a time."""

Guesses = list[int | None]
"""For each token of a view the one that the attack names, or none."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The layer-0 inputs of all tokens, int16 [vocabulary, width], and which of them another token shares."""

    rows: NDArray[np.int16]
    duplicate: NDArray[np.bool_]

    @property
    def distinct(self) -> int:
        """Return the number of different rows."""
        return len({row.tobytes() for row in self.rows})


def marked(rows: NDArray[np.int16]) -> Vocabulary:
    """Return a vocabulary of these rows [vocabulary, width]."""
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
    return Vocabulary(rows, np.array([counts[row.tobytes()] > 1 for row in rows]))


def vocabulary(model: Model) -> Vocabulary:
    """Return the quantised input of group 0 for every token."""
    decoder, size = Decoder(model), model.shape.vocabulary
    pieces = []
    for start in range(0, size, BATCH):
        stream = decoder.embed(list(range(start, min(start + BATCH, size))))
        pieces.append(model.rms_norm("layers.0.attention_norm", stream).values.to(torch.int16))
    return marked(torch.cat(pieces).numpy())


@dataclass(frozen=True, slots=True)
class Public:
    """What an attacker knows beforehand: the vocabulary's rows, and for sequential matching the model.

    `candidates` is the list of tokens that sequential matching tries at each position; None means all.
    """

    words: Vocabulary
    model: Model | None = None
    candidates: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Masked rows of one plaintext matrix: row i is of token positions[i].

    Over a field `masked` is int64 [n, width] and `modulus` its prime; real-valued masks are float64 and have
    no modulus. A plaintext 1 counts `scale` in it. `basis` is the public basis [m, width], if there is one,
    and `spread` the standard deviation of a real-valued secret. Session 0 is the one to read. Under row
    mixing the rows are no token's own, and there may be more of them than positions.
    """

    tap: int
    masked: NDArray[Any]
    positions: NDArray[np.int64]
    modulus: int | None
    basis: NDArray[Any] | None = None
    scale: float = 1
    spread: float = 0
    session: int = 0

    @property
    def lifted(self) -> Floats:
        """Return the masked rows as plaintext would read if there were no mask, float64 [n, width]."""
        values = self.masked if self.modulus is None else modular.centred(self.masked, self.modulus)
        return np.asarray(values[: len(self.positions)].astype(np.float64) / self.scale)

    def encoded(self, rows: NDArray[np.integer]) -> Elements:
        """Return plaintext rows as field elements, times `scale`. Only over a field."""
        if self.modulus is None:
            raise ValueError("a real-valued sighting has no field")
        factor = np.array([int(self.scale)], dtype=np.uint64).view(np.int64)
        return modular.multiplied(modular.residues(rows, self.modulus), factor, self.modulus)


@dataclass(frozen=True, slots=True)
class View:
    """What a worker saw of a prompt of this many tokens, and of earlier sessions."""

    tokens: int
    sightings: tuple[Sighting, ...]

    def of(self, tap: int = GROUP) -> Iterator[Sighting]:
        """Yield the sightings of one linear group in the session to read."""
        return (seen for seen in self.sightings if seen.tap == tap and not seen.session)

    def alike(self, tap: int = GROUP) -> list[list[Sighting]]:
        """Return the sightings of one group, those of the same tokens together."""
        found: dict[bytes, list[Sighting]] = {}
        for seen in self.of(tap):
            found.setdefault(seen.positions.tobytes(), []).append(seen)
        return list(found.values())

    def armed(self, other: "View") -> "View":
        """Return this view with the public bases of another one, sighting by sighting."""
        pairs = zip(self.sightings, other.sightings, strict=True)
        return replace(self, sightings=tuple(replace(seen, basis=source.basis) for seen, source in pairs))


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `breaks` names the targets that it must break, `guess` names a token for each row.

    An attack with `needs_model` uses Public.model. One that is `unordered` learns which tokens a message has
    and not where they are.
    """

    name: str
    source: str
    cost: str
    breaks: tuple[str, ...]
    guess: Callable[[Public, View], Guesses]
    needs_model: bool = False
    unordered: bool = False

    def right(self, view: View, guesses: Guesses, truth: Sequence[int]) -> NDArray[np.bool_]:
        """Return for each token whether the attack has it; unordered: whether its message's guesses do."""
        if not self.unordered:
            return np.array([guess == token for guess, token in zip(guesses, truth, strict=True)], dtype=bool)
        right = np.zeros(len(truth), dtype=bool)
        for seen in view.of():
            named = {guesses[position] for position in seen.positions}
            right[seen.positions] = [truth[position] in named for position in seen.positions]
        return right


def images(rows: NDArray[np.integer], vectors: Elements, seen: Sighting) -> Elements:
    """Return plaintext rows, encoded as the sighting's, times null vectors [n, vectors]."""
    assert seen.modulus is not None
    pieces = [
        modular.product(seen.encoded(rows[start : start + BATCH]), vectors, seen.modulus)
        for start in range(0, len(rows), BATCH)
    ]
    return np.concatenate(pieces)


def keyed(known: Elements, wanted: Elements) -> Guesses:
    """Return for each wanted row the first known row that equals it, if one does. No columns: none does."""
    if not wanted.shape[1]:
        return [None] * len(wanted)
    index = {known[token].tobytes(): token for token in reversed(range(len(known)))}
    return [index.get(row.tobytes()) for row in wanted]


def placed(view: View, seen: Sighting, found: Guesses, guesses: Guesses | None = None) -> Guesses:
    """Return the guesses with those of one sighting put where there is none yet."""
    guesses = [None] * view.tokens if guesses is None else guesses
    for position, token in zip(seen.positions.tolist(), found, strict=False):
        if guesses[position] is None:
            guesses[position] = token
    return guesses
