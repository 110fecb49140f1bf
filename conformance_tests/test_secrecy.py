"""What the enclave's material says about weights: as many rows as columns give them, and fewer do too."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from sympy import ZZ
from sympy.polys.matrices import DomainMatrix

from veil_conformance import tiny_model
from veil_conformance.attacks import modular
from veil_conformance.audit import secrecy
from veil_conformance.audit.secrecy import Integers, Solution
from veil_optimized.model import load
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

SHAPE: Final = replace(tiny_model.SMALL, vocabulary=200, width=16)
FIELDS: Final = (*constants.PRIMES, constants.LWE_MODULUS)
LIMITS: Final = dict(zip(FIELDS, [constants.WEIGHT_LIMIT] * 3 + [secrecy.HALF_LIMIT], strict=True))
INNER: Final = 12


def some_weights(modulus: int, inner: int = INNER) -> Integers:
    """Return random weights [5, inner] in the range of a field."""
    return np.random.default_rng(3).integers(1 - LIMITS[modulus], LIMITS[modulus], (5, inner))


def system(modulus: int, rows: int) -> tuple[Integers, modular.Elements, modular.Elements]:
    """Return weights, uniform rows and their images."""
    weights, uniform = some_weights(modulus), secrecy.uniform(rows, INNER, modulus)
    return weights, uniform, modular.product(uniform, modular.residues(weights.T, modulus), modulus)


def test_every_profiles_material_gives_the_weights_of_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "integer.safetensors"
    found = secrecy.table(load(tiny_model.write(path, SHAPE, b"weights")))
    assert {material.profile for material in found} == set(secrecy.TRUSTED)
    assert all(material.recovered for material in found)
    computed = [material for material in found if material.wrong is not None]
    assert len(computed) == 4 and all(material.guessed for material in computed)
    assert all(material.wrong is not None and material.wrong > 0.5 for material in computed)
    assert [material.rows for material in computed] == [16, 8, 0, 16]


def test_a_model_with_too_few_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "integer.safetensors"
    model = load(tiny_model.write(path, replace(SHAPE, vocabulary=9), b"weights"))
    with pytest.raises(Refused) as refused:
        secrecy.table(model)
    assert refused.value.reason is Refusal.SHAPE_MISMATCH


@pytest.mark.parametrize("modulus", FIELDS)
def test_negative_control_one_row_less_does_not_settle_the_weights(modulus: int) -> None:
    """Elimination leaves one weight of each output free; a guess of it settles them, as the last row does."""
    weights, rows, images = system(modulus, INNER)
    assert secrecy.solutions(rows, images, modulus).free == ()
    less = secrecy.solutions(rows[:-1], images[:-1], modulus)
    assert less.free == (INNER - 1,)
    assert (modular.centred(less.weights, modulus) != weights.T).mean() > 0.5
    whole = secrecy.completed(less, rows[-1], images[-1], modulus)
    assert np.array_equal(modular.centred(whole, modulus), weights.T)
    guess = secrecy.guessed(less, modulus, LIMITS[modulus])
    assert guess is not None and np.array_equal(guess, weights.T)


@pytest.mark.parametrize("modulus", FIELDS)
def test_negative_control_a_wrong_image_a_wrong_range_and_two_rows_less_are_noticed(modulus: int) -> None:
    weights, rows, images = system(modulus, INNER)
    less = secrecy.solutions(rows[:-1], images[:-1], modulus)
    wrong = secrecy.completed(less, rows[-1], (images[-1] + 1) % constants.PRIMES[0], modulus)
    assert not np.array_equal(modular.centred(wrong, modulus), weights.T)
    assert secrecy.guessed(less, modulus, int(np.abs(weights).max()) // 2) is None
    fewer = secrecy.solutions(rows[:-2], images[:-2], modulus)
    assert len(fewer.free) == 2 and secrecy.guessed(fewer, modulus, LIMITS[modulus]) is None
    with pytest.raises(Refused) as refused:
        secrecy.completed(less, rows[0], images[0], modulus)
    assert refused.value.reason is Refusal.SHAPE_MISMATCH


def by_lattice(solution: Solution, modulus: int, limit: int) -> Integers:
    """Return the short W [inner, outputs] among the solutions, by LLL on each output's lattice."""
    bound = [row for row in range(len(solution.weights)) if row not in solution.free]
    directions = modular.centred(solution.directions[bound], modulus)
    count = len(solution.free)
    scaled = [[modulus * (i == j) for j in range(len(bound))] + [0] * (count + 1) for i in range(len(bound))]
    scaled += [[*directions[:, k].tolist(), *(int(k == i) for i in range(count)), 0] for k in range(count)]
    found = np.empty(solution.weights.shape, dtype=np.int64)
    for output, known in enumerate(modular.centred(solution.weights[bound], modulus).T):
        basis = [*scaled, [*known.tolist(), *[0] * count, limit]]
        reduced = DomainMatrix(basis, (len(basis), len(basis)), ZZ).lll().to_list()
        short = next([int(x) for x in row] for row in reduced if abs(int(row[-1])) == limit)
        found[[*bound, *solution.free], output] = [x if short[-1] > 0 else -x for x in short[:-1]]
    return found


def short_weights(modulus: int, rows: int) -> tuple[Integers, Integers]:
    """Return the halves of two outputs of six columns, and what a lattice makes of so many rows of theirs."""
    limit = secrecy.HALF_LIMIT
    weights = some_weights(constants.LWE_MODULUS, 6)[:2]
    uniform = secrecy.uniform(rows, 6, modulus)
    images = modular.product(uniform, modular.residues(weights.T, modulus), modulus)
    return weights.T, by_lattice(secrecy.solutions(uniform, images, modulus), modulus, limit)


def test_fewer_rows_than_columns_of_a_hint_give_short_weights_by_lattice_reduction() -> None:
    """Two of six rows are enough: an element has 64 bits, a half of a weight 8."""
    true, found = short_weights(constants.LWE_MODULUS, 2)
    assert np.array_equal(found, true)


def test_negative_control_a_row_with_fewer_bits_than_the_weights_does_not_give_them() -> None:
    """One row of 32 bits leaves many short solutions for six halves of 8 bits."""
    true, found = short_weights(constants.PRIMES[0], 1)
    assert not np.array_equal(found, true)


def test_the_hint_hides_weights_only_where_it_has_far_fewer_rows_than_columns() -> None:
    found = {inner: secrecy.hint(inner) for inner in (2048, 3072, 4096, 8192)}
    assert {inner: cost.unknown for inner, cost in found.items()} == {
        2048: 128,
        3072: 960,
        4096: 1984,
        8192: 5936,
    }
    assert found[2048].bits is None
    bits = [found[inner].bits or 0.0 for inner in (3072, 4096, 8192)]
    assert bits[0] < 60 and 80 < bits[1] < 128 < bits[2]
    with pytest.raises(Refused) as refused:
        secrecy.hint(576)
    assert refused.value.reason is Refusal.LWE_UNSUITABLE
