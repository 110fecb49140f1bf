"""Stacked bases: one plaintext under several independent public bases is solved for, at any layer.

Definition: for C_i = H + S_i A_i and A_i N_i = 0, [C_1 N_1 | .. | C_t N_t] = H [N_1 | .. | N_t]. With
t (width - m) >= width the right factor has full rank with overwhelming probability: H follows exactly over a
field and to rounding over the reals, with no vocabulary and no knowledge of earlier layers.
Source: arXiv 2603.00196, appendix B.4 (3), which demands independent bases for q, k and v.
Cost: elimination of t (width - m) x (width + n) elements.
Breaks: independent bases at m <= 2/3 width for q, k, v and at m <= 1/2 width for gate and up.
"""

import numpy as np

from veil_conformance.attacks import annihilator, base, modular, nearest, null_space
from veil_conformance.attacks.base import GROUP, Attack, Guesses, Public, Sighting, View
from veil_conformance.attacks.modular import Elements, Floats


def recovered(alike: list[Sighting]) -> Floats | None:
    """Return the plaintext rows [n, width] of sightings of the same tokens; None if they do not give it.

    Exact integers where the masks are over a field.
    """
    based = [seen for seen in alike if seen.basis is not None]
    if not based:
        return None
    return _over_reals(based) if based[0].modulus is None else _over_field(based)


def _over_field(alike: list[Sighting]) -> Floats | None:
    modulus, width = alike[0].modulus, alike[0].masked.shape[1]
    assert modulus is not None
    spaces: list[Elements] = []
    for seen in alike:
        assert seen.basis is not None
        spaces.append(modular.null_vectors(seen.basis, modulus, width))
    images = [modular.product(seen.masked, space, modulus) for seen, space in zip(alike, spaces, strict=True)]
    found = modular.solved(np.concatenate(spaces, axis=1), np.concatenate(images, axis=1), modulus)
    if found is None:
        return None
    return np.asarray(modular.centred(found, modulus).astype(np.float64) / alike[0].scale)


def _over_reals(alike: list[Sighting]) -> Floats | None:
    spaces = [null_space.complement(seen.basis) for seen in alike if seen.basis is not None]
    joined = np.concatenate(spaces, axis=1)
    if np.linalg.matrix_rank(joined) < len(joined):
        return None
    images = [seen.lifted @ space for seen, space in zip(alike, spaces, strict=True)]
    return np.asarray(np.concatenate(images, axis=1) @ np.linalg.pinv(joined))


def guess(public: Public, view: View) -> Guesses:
    """Return the tokens of the recovered rows; where there are too few bases, what each basis alone gives."""
    guesses: Guesses = [None] * view.tokens
    for alike in view.alike(GROUP):
        rows = recovered(alike)
        if rows is not None:
            named: Guesses = list(nearest.nearest(rows, public.words.rows))
            guesses = base.placed(view, alike[0], named, guesses)
        else:
            one = alike[0]
            guesses = base.placed(view, one, annihilator.looked_up(public.words, one), guesses)
            guesses = base.placed(view, one, null_space.matched(public.words, one), guesses)
    return nearest.filled(public, view, guesses)


ATTACK = Attack(
    name="stacked bases",
    source="arXiv 2603.00196, appendix B.4 (3)",
    cost="t (width - m) width (width + n)",
    breaks=("independent bases", "real independent bases"),
    guess=guess,
)
