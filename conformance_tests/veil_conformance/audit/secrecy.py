"""What the enclave's material says about the weights, computed on a real layer: who holds it holds W.

Every row (r, r W) is one equation for each output. As many independent ones as W has columns give W by
elimination, exactly. Fewer do not hide it: a weight has 16 bits and an element 32 to 64, so that one row less
is made up for by guessing one weight, and more rows less by reducing a lattice.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from veil_conformance.attacks import modular
from veil_conformance.attacks.modular import Elements
from veil_optimized import lwe
from veil_optimized.decoder import Decoder
from veil_optimized.model import Model
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

Integers = NDArray[np.int64]
GROUP: Final = 0
"""The first linear group: its rows are the normalised embeddings."""
HALF_LIMIT: Final = 128
"""Largest absolute half of a weight in profile `lwe`."""
WITNESSES: Final = 4
"""Weights that a guess of another one has to bring into range before all are looked at."""
TRUSTED: Final = {
    "pad, local": "the enclave: it holds W",
    "pad, dealer": "the dealer, which reads W, and the enclave, which can solve for it",
    "rank": "the enclave: it can solve for W",
    "lwe": "the enclave: it can solve for W",
    "any": "the enclave: it can solve for W after one long prompt",
}
"""Who could take the weights away, by profile."""


@dataclass(frozen=True, slots=True)
class Material:
    """What one kind of material gives away about a layer's weights.

    `given` rows come at setup, `rows` more are needed for elimination. `recovered` says whether they gave
    every weight exactly; `wrong` is the share of weights, in [0, 1], that elimination gets wrong with one row
    less; `guessed` says whether one row less and a guess of one weight for each output gave all of them.
    """

    profile: str
    material: str
    given: int
    rows: int
    recovered: bool
    wrong: float | None
    guessed: bool | None
    trusted: str


@dataclass(frozen=True, slots=True)
class Solution:
    """All W that fit some rows: `weights` [inner, outputs] plus any multiples of `directions` [inner, free].

    `weights` has 0 in the free rows, `directions` the identity.
    """

    weights: Elements
    directions: Elements
    free: tuple[int, ...]


def solutions(rows: Elements, images: Elements, modulus: int) -> Solution:
    """Return every W with rows W = images, mod p or q; rows [n, inner], images [n, outputs]."""
    inner, joint = rows.shape[1], np.concatenate((rows, images), axis=1)
    pivots = modular.reduce(joint, modulus, inner)
    at, columns = ([pivot[axis] for pivot in pivots] for axis in (0, 1))
    free = np.setdiff1d(np.arange(inner), columns)
    weights = np.zeros((inner, images.shape[1]), dtype=np.int64)
    directions = np.zeros((inner, len(free)), dtype=np.int64)
    weights[columns] = joint[at, inner:]
    directions[columns] = modular.subtracted(np.zeros(1, dtype=np.int64), joint[at][:, free], modulus)
    directions[free, range(len(free))] = 1
    return Solution(weights, directions, tuple(free.tolist()))


def completed(solution: Solution, row: Elements, image: Elements, modulus: int) -> Elements:
    """Return the one W [inner, outputs] that also fits a further row [inner] with its image [outputs].

    Refuses: SHAPE_MISMATCH unless one weight was free and the row settles it.
    """
    slope = modular.product(row[None], solution.directions, modulus)
    if slope.shape[1] != 1 or not slope[0, 0]:
        raise Refused(Refusal.SHAPE_MISMATCH, "the rows are not independent")
    rest = modular.subtracted(image[None], modular.product(row[None], solution.weights, modulus), modulus)
    factor = modular.multiplied(rest, modular.inverse(slope[0, 0], modulus), modulus)
    return modular.added(solution.weights, modular.multiplied(solution.directions, factor, modulus), modulus)


def guessed(solution: Solution, modulus: int, limit: int) -> Integers | None:
    """Return W [inner, outputs] where, for each output, one value of the free weight keeps all in range.

    Tries every value from -limit to limit. None where not exactly one weight is free, or where for some
    output none or several values fit.
    """
    if len(solution.free) != 1:
        return None
    values = modular.residues(np.arange(-limit, limit + 1), modulus)
    direction, found = solution.directions[:, 0], np.empty(solution.weights.shape, dtype=np.int64)
    near = [row for row in np.flatnonzero(direction).tolist() if row != solution.free[0]][:WITNESSES]
    moves = modular.multiplied(direction[near][:, None], values[None], modulus)
    for output, known in enumerate(solution.weights.T):
        tried = modular.centred(modular.added(moves, known[near][:, None], modulus), modulus)
        fitting = values[(np.abs(tried) <= limit).all(axis=0)]
        moved = modular.multiplied(direction[:, None], fitting[None], modulus)
        whole = modular.centred(modular.added(moved, known[:, None], modulus), modulus)
        kept = whole[:, (np.abs(whole) <= limit).all(axis=0)]
        if kept.shape[1] != 1:
            return None
        found[:, output] = kept[:, 0]
    return found


def judged(
    profile: str, material: str, given: int, rows: Elements, weights: Integers, modulus: int, limit: int
) -> Material:
    """Return what independent rows [inner, inner] with their images say of weights [outputs, inner].

    The first `given` rows come at setup; `limit` bounds the weights.
    """
    inner = weights.shape[1]
    images = modular.product(rows, modular.residues(weights.T, modulus), modulus)
    less = solutions(rows[:-1], images[:-1], modulus)
    whole = modular.centred(completed(less, rows[-1], images[-1], modulus), modulus)
    found = guessed(less, modulus, limit)
    return Material(
        profile,
        material,
        given,
        inner - min(given, inner),
        bool(np.array_equal(whole, weights.T)),
        float((modular.centred(less.weights, modulus) != weights.T).mean()),
        found is not None and bool(np.array_equal(found, weights.T)),
        TRUSTED[profile],
    )


def distinct_inputs(model: Model, count: int) -> Elements:
    """Return the first `count` different rows that tokens make of group 0, over its field [count, width].

    Refuses: SHAPE_MISMATCH where the vocabulary has fewer.
    """
    tokens = list(range(min(model.shape.vocabulary, 4 * count)))
    rows = model.rms_norm("layers.0.attention_norm", Decoder(model).embed(tokens)).values.numpy()
    _, first = np.unique(rows, axis=0, return_index=True)
    if len(first) < count:
        raise Refused(Refusal.SHAPE_MISMATCH, f"the tokens make {len(first)} different rows of {count}")
    return modular.residues(rows[np.sort(first)[:count]], model.groups[GROUP].modulus)


def uniform(count: int, width: int, modulus: int, draw: np.random.Generator | None = None) -> Elements:
    """Return uniform elements below p or q [count, width]; they stand for public or published values."""
    source = np.random.default_rng() if draw is None else draw
    return source.integers(0, modulus, (count, width), dtype=np.uint64).view(np.int64)


def table(model: Model) -> list[Material]:
    """Return what each profile's material says of the weights of group 0, every row of it computed.

    Profile `rank` is taken at m = d / 2. Profile `lwe` is taken at the least m of the specification, whether
    or not it admits a layer of this size.

    Refuses: SHAPE_MISMATCH for a model with fewer different rows than columns.
    """
    group = model.groups[GROUP]
    weights, modulus = group.weights.numpy().astype(np.int64), group.modulus
    split = lwe.halves(group.weights).numpy().astype(np.int64)
    inner, limit, q = weights.shape[1], constants.WEIGHT_LIMIT, constants.LWE_MODULUS
    inputs, pads = distinct_inputs(model, inner), uniform(inner, inner, modulus)
    rank, secrets = inner // 2, constants.LWE_DIMENSIONS[0]
    ranked = np.concatenate((uniform(rank, inner, modulus), inputs[: inner - rank]))
    hint = np.concatenate((uniform(min(secrets, inner), inner, q), inputs[: max(0, inner - secrets)]))
    return [
        Material("pad, local", "W", 0, 0, True, None, None, TRUSTED["pad, local"]),
        judged("pad, dealer", "pads (R, R W)", 0, pads, weights, modulus, limit),
        judged("rank", "(A, A W), then (H, H W)", rank, ranked, weights, modulus, limit),
        judged("lwe", "(A, A W), then (H, H W)", secrets, hint, split, q, HALF_LIMIT),
        judged("any", "(H, H W)", 0, inputs, weights, modulus, limit),
    ]


@dataclass(frozen=True, slots=True)
class Hint:
    """What the hint of profile `lwe` alone leaves of one output's weights: LWE with `unknown` secrets.

    The secrets and errors are halves of weights, so that a lattice of block size `block` finds them; `bits`
    is its cost as 0.292 block, and None where the smallest blocks do.
    """

    inner: int
    rows: int
    unknown: int
    block: int
    bits: float | None


LEAST_BLOCK: Final = 50
"""Below this block size the formula for the root Hermite factor does not hold, and reduction is cheap."""
HALF_WIDTH_BITS: Final = math.log2(256 / math.sqrt(12))
"""log2 of the standard deviation of a uniform half; real high halves are smaller."""


def _root_hermite_bits(block: int) -> float:
    return math.log2((math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)) / (2 * (block - 1))


def hint_block(unknown: int, rows: int) -> int:
    """Return the least block size where sqrt(beta) sigma <= delta^(2 beta - n - 1) q^(samples / n).

    Source: Alkim et al. 2016, the primal attack in normal form; n = unknown + samples + 1.
    """
    modulus_bits = math.log2(constants.LWE_MODULUS)
    for block in range(LEAST_BLOCK, unknown + rows):
        least, delta = math.log2(block) / 2 + HALF_WIDTH_BITS, _root_hermite_bits(block)
        for samples in range(1, rows + 1, 8):
            dimension = unknown + samples + 1
            if least <= (2 * block - dimension - 1) * delta + modulus_bits * samples / dimension:
                return block
    return unknown + rows


def hint(inner: int) -> Hint:
    """Return what the hint leaves open at an inner dimension of profile `lwe`. Refuses: LWE_UNSUITABLE."""
    rows = lwe.lwe_dimension(inner)
    block = hint_block(inner - rows, rows)
    return Hint(inner, rows, inner - rows, block, None if block == LEAST_BLOCK else 0.292 * block)
