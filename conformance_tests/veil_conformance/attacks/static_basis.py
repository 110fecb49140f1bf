"""Secret but static basis: learnt from the first tokens of many sessions, then used like a public one.

Definition: every session starts with the same known token, so differences of first rows are differences of
masks: m + 8 of them span the row space of A, whatever A is. Its null space opens every row of every session.
Source: arXiv 2602.11088 (static secrets are learnt from their uses).
Cost: one elimination (or singular value decomposition) of (sessions - 1) x width.
Breaks: a basis of rank m < width that is secret and not renewed.
"""

from dataclasses import replace

import numpy as np

from veil_conformance.attacks import annihilator, base, modular, nearest, null_space
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, Sighting, View
from veil_conformance.attacks.modular import Floats

GAP = 1e-5
"""A singular value below this part of the largest is rounding."""


def first_rows(view: View, like: Sighting) -> list[np.ndarray]:
    """Return the masked first row of every session in the same field."""
    return [
        seen.masked[0]
        for seen in view.sightings
        if (seen.tap, seen.modulus) == (GROUP, like.modulus) and seen.positions[0] == 0
    ]


def learnt(view: View, like: Sighting) -> np.ndarray | None:
    """Return rows that span the row space of the mask [r, width]; None if nothing was learnt."""
    first = np.array(first_rows(view, like))
    if len(first) < 2:
        return None
    if like.modulus is not None:
        return modular.subtracted(first[1:], first[:1], like.modulus)
    differences: Floats = first[1:] - first[:1]
    _, values, rows = np.linalg.svd(differences, full_matrices=False)
    return np.asarray(rows[values > GAP * values[0]])


def guess(public: Public, view: View) -> Guesses:
    """Return what the learnt basis names; the known first token of all sessions is not used."""
    guesses: Guesses = [None] * view.tokens
    for seen in view.of():
        known = replace(seen, basis=learnt(view, seen))
        guesses = base.placed(view, seen, annihilator.looked_up(public.words, known), guesses)
        guesses = base.placed(view, seen, null_space.matched(public.words, known), guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="static basis",
    source="arXiv 2602.11088",
    cost="(sessions - 1) width m, then vocabulary width",
    breaks=("static basis", "real static basis"),
    guess=guess,
)
