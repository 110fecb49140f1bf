"""Exact-ring annihilator look-up: tokens from the null space of a public basis over a field.

Definition: C = X + S A mod p with A public; for N with A N = 0, C N = X N, whatever S is. Rows of the
vocabulary are indexed by their images under a few such columns, and C N is looked up.
Source: spec/remo.md RMO-G5; arXiv 2603.00196 appendix B.2 names the projection for real-valued masks.
Cost: elimination of m x (m + 4) elements, once a basis; then vocabulary x width.
Breaks: profile `rank` in every field, for every m up to width - 1.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from veil_conformance.attacks import base, modular, nearest, view
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, Sighting, View, Vocabulary
from veil_conformance.attacks.modular import Elements
from veil_optimized.model import load
from veil_spec.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True)
class Guess:
    """A token for one masked row; `exact` if the look-up named it, else it is the nearest one."""

    token: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker saw of group 0: masked rows [n, width] over F_p and, under `rank`, a basis [m, width]."""

    modulus: int
    masked: Elements
    basis: Elements | None

    @property
    def sighting(self) -> Sighting:
        """Return the same as a sighting."""
        positions = np.arange(len(self.masked))
        return Sighting(GROUP, self.masked, positions, self.modulus, self.basis)


def seen(path: Path) -> Seen:
    """Return what a transcript shows of group 0. Refuses: FRAME_MALFORMED.

    Only this group is read into memory: a transcript of profile `rank` is large.
    """
    found = next(view.recorded(path, (GROUP,)).of())
    assert found.modulus is not None
    return Seen(found.modulus, found.masked, found.basis)


def looked_up(words: Vocabulary, found: Sighting) -> Guesses:
    """Return for each masked row the token whose row has the same image under the null space, if any."""
    if found.basis is None or found.modulus is None:
        return [None] * len(found.positions)
    vectors = modular.null_vectors(found.basis, found.modulus)
    known = base.images(words.rows, vectors, found)
    return base.keyed(known, modular.product(found.masked, vectors, found.modulus))


def guess(public: Public, worker: View) -> Guesses:
    """Return the token that the look-up names for each row, or else the nearest one."""
    guesses: Guesses = [None] * worker.tokens
    for found in worker.of():
        guesses = base.placed(worker, found, looked_up(public.words, found), guesses)
    return nearest.filled(public, worker, guesses)


def guesses(worker: Seen, words: Vocabulary, basis: Elements | None = None) -> list[Guess]:
    """Return the attack's best guess for each masked row; `basis` stands in where the transcript has none."""
    used = worker.sighting if basis is None else replace(worker.sighting, basis=basis)
    second = nearest.nearest(used.lifted, words.rows)
    return [
        Guess(other, False) if token is None else Guess(token, True)
        for token, other in zip(looked_up(words, used), second, strict=True)
    ]


def recover(path: Path, model_file: Path, basis: Elements | None = None) -> list[Guess]:
    """Return a token for each row of group 0 in a transcript, in the order of sending.

    Refuses: FRAME_MALFORMED, MODEL_MISMATCH, what `model.load` refuses.
    """
    model = load(model_file)
    if view.header(path).model_hash != model.digest:
        raise Refused(Refusal.MODEL_MISMATCH, f"{path} was recorded with another model file")
    return guesses(seen(path), base.vocabulary(model), basis)


ATTACK = Attack(
    name="annihilator look-up",
    source="RMO-G5; arXiv 2603.00196, appendix B.2",
    cost="m^3 once a basis, then vocabulary width",
    breaks=("rank",),
    guess=guess,
)
