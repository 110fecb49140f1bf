"""The null-space look-up: prompt tokens from what a worker saw, and the public model file.

The rows of group 0 are C = X + S A mod p, X the normalised and quantised embeddings. A is public, so any N
with A N = 0 gives C N = X N: a few such columns name the token. Where no row of the vocabulary fits, the
guess is the nearest one to the centred ciphertext.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from veil_conformance.attacks import view
from veil_conformance.attacks.view import Elements
from veil_optimized import field, transcript, wire
from veil_optimized.model import Decoder, Model, load
from veil_optimized.tape import field_elements
from veil_optimized.transcript import Direction
from veil_spec.interface import Tape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Domain

GROUP: Final = 0
"""The first linear group: its input depends on one token alone."""
NULL_VECTORS: Final = 4
"""Two tokens agree on all of them by chance with probability p^-4."""
BATCH: Final = 4096
"""Vocabulary rows handled at a time."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A token for one masked row; `exact` if the look-up named it, else it is the nearest one."""

    token: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The layer-0 inputs of all tokens, int16 [vocabulary, width], and which of them another token shares."""

    rows: NDArray[np.int16]
    duplicate: NDArray[np.bool_]

    @property
    def distinct(self) -> int:
        """Return the number of different rows."""
        return len({row.tobytes() for row in self.rows})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker saw of group 0: masked rows [n, width] over F_p and, under `rank`, a basis [m, width]."""

    modulus: int
    masked: Elements
    basis: Elements | None


def vocabulary(model: Model) -> Vocabulary:
    """Return the quantised input of group 0 for every token."""
    decoder, size = Decoder(model), model.shape.vocabulary
    pieces = []
    for start in range(0, size, BATCH):
        stream = decoder.embed(list(range(start, min(start + BATCH, size))))
        pieces.append(model.norm("layers.0.attention_norm", stream).values.to(torch.int16))
    rows = torch.cat(pieces).numpy()
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
    return Vocabulary(rows, np.array([counts[row.tobytes()] > 1 for row in rows]))


def seen(path: Path) -> Seen:
    """Return what a transcript shows of group 0. Refuses: FRAME_MALFORMED.

    Only this group is read into memory: a transcript of profile `rank` is large.
    """
    header = view.header(path)
    parts = list(view.messages(path, GROUP))
    basis = parts.pop(0) if header.profile == "rank" and parts else None
    if not parts:
        raise Refused(Refusal.FRAME_MALFORMED, f"{path} holds no masked row of group {GROUP}")
    return Seen(header.fields[GROUP], np.concatenate(parts), basis)


def multiplied(left: Elements, right: Elements, modulus: int) -> Elements:
    """Return left * right mod p, element by element, p < 2^49.

    The float64 quotient is off by at most one, and the difference of two wrapped words is exact.
    """
    quotient = np.floor(left.astype(np.float64) * right.astype(np.float64) / modulus).astype(np.int64)
    rest = left * right - quotient * modulus
    rest += modulus * (rest < 0)
    return rest - modulus * (rest >= modulus)


def null_vectors(basis: Elements, modulus: int, count: int = NULL_VECTORS) -> Elements:
    """Return columns N [width, at most count] with basis N = 0 mod p, by elimination on the first columns."""
    rank, width = basis.shape
    reduced = basis[:, : min(width, rank + count)].copy()
    pivots = _reduce(reduced, modulus)
    free = [column for column in range(reduced.shape[1]) if column not in set(pivots)][:count]
    vectors = np.zeros((width, len(free)), dtype=np.int64)
    vectors[pivots] = -reduced[: len(pivots), free] % modulus
    vectors[free, range(len(free))] = 1
    return vectors


def _reduce(rows: Elements, modulus: int) -> list[int]:
    """Return the pivot columns, the rows brought to reduced echelon form in place."""
    pivots: list[int] = []
    for column in range(rows.shape[1]):
        top = len(pivots)
        candidates = np.flatnonzero(rows[top:, column])
        if not candidates.size:
            continue
        rows[[top, top + candidates[0]]] = rows[[top + candidates[0], top]]
        inverse = np.int64(pow(int(rows[top, column]), -1, modulus))
        rows[top, column:] = multiplied(rows[top, column:], np.full(1, inverse), modulus)
        factors = rows[:, column].copy()
        factors[top] = 0
        change = multiplied(factors[:, None], rows[top, None, column:], modulus)
        rows[:, column:] = (rows[:, column:] - change) % modulus
        pivots.append(column)
    return pivots


def images(rows: Elements | NDArray[np.int16], vectors: Elements, modulus: int) -> Elements:
    """Return rows times null vectors, mod p [n, vectors]."""
    right = field.field_operand(torch.from_numpy(np.ascontiguousarray(vectors.T)))
    pieces = []
    for start in range(0, len(rows), BATCH):
        piece = torch.from_numpy(rows[start : start + BATCH].astype(np.int64)).remainder(modulus)
        pieces.append(field.product(piece, right, modulus).numpy())
    return np.concatenate(pieces)


def looked_up(worker: Seen, basis: Elements, words: Vocabulary) -> list[int | None]:
    """Return for each masked row the token whose row has the same image under the null space, if any."""
    vectors = null_vectors(basis, worker.modulus)
    known = images(words.rows, vectors, worker.modulus)
    index = {known[token].tobytes(): token for token in reversed(range(len(known)))}
    return [index.get(row.tobytes()) for row in images(worker.masked, vectors, worker.modulus)]


def centred(elements: Elements, modulus: int) -> Elements:
    """Return for each element the integer nearest to 0 that is congruent to it."""
    return np.where(2 * elements > modulus, elements - modulus, elements)


def nearest(worker: Seen, words: Vocabulary) -> list[int]:
    """Return for each masked row the token whose row is nearest to the centred ciphertext."""
    lifted = centred(worker.masked, worker.modulus).astype(np.float64)
    scores = []
    for start in range(0, len(words.rows), BATCH):
        piece = words.rows[start : start + BATCH].astype(np.float64)
        scores.append(2 * lifted @ piece.T - np.square(piece).sum(-1))
    return [int(token) for token in np.concatenate(scores, axis=1).argmax(-1)]


def guesses(worker: Seen, words: Vocabulary, basis: Elements | None = None) -> list[Guess]:
    """Return the attack's best guess for each masked row; `basis` stands in where the transcript has none."""
    used = worker.basis if basis is None else basis
    found = looked_up(worker, used, words) if used is not None else [None] * len(worker.masked)
    second = nearest(worker, words)
    return [
        Guess(other, False) if token is None else Guess(token, True)
        for token, other in zip(found, second, strict=True)
    ]


def recover(path: Path, model_file: Path, basis: Elements | None = None) -> list[Guess]:
    """Return a token for each row of group 0 in a transcript, in the order of sending.

    Refuses: FRAME_MALFORMED, MODEL_MISMATCH, what `model.load` refuses.
    """
    model = load(model_file)
    if view.header(path).model_hash != model.digest:
        raise Refused(Refusal.MODEL_MISMATCH, f"{path} was recorded with another model file")
    return guesses(seen(path), vocabulary(model), basis)


def simulate(source: Path, target: Path, tape: Tape) -> None:
    """Write a transcript like another one, its masked rows of group 0 replaced by uniform field elements.

    This is what a simulator that knows nothing but the leakage can write.
    """
    header = view.header(source)
    modulus = header.fields[GROUP]
    with transcript.Writer(target, header) as writer:
        for stream, frame in enumerate(view.frames(source, GROUP)):
            size = frame.rows * frame.columns
            uniform = field_elements(tape, Domain.TEST, stream, 0, size, modulus)
            simulated = replace(frame, payload=wire.pack(uniform, modulus))
            writer.record(Direction.TO_WORKER, wire.encode(simulated))
