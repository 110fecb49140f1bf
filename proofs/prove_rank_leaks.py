"""Profile `rank` tells the worker X' N = X N for the null space N of its basis, and nothing more.

Several bases for one row tell that much each, up to the whole row.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
import sympy

from veil_reference import remo, tape
from veil_reference.field import columns
from veil_reference.field import product as times
from veil_spec import constants
from veil_spec.types import Row, Rows

SMALL = 3
"""The field of the complete enumerations."""
WIDTH = 3
"""The width of a row in the complete enumerations."""


def null_space(basis: Rows, modulus: int) -> list[list[int]]:
    """Return independent rows n with A n = 0 mod p, by Gauss and Jordan [width - rank, width]."""
    rows, width, pivots = [list(row) for row in basis], len(basis[0]), list[int]()
    for column in range(width):
        place = len(pivots)
        found = next((i for i in range(place, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[place], rows[found] = rows[found], rows[place]
        inverse = pow(rows[place][column], -1, modulus)
        rows[place] = [inverse * x % modulus for x in rows[place]]
        for i in range(len(rows)):
            if i != place:
                factor = rows[i][column]
                rows[i] = [(x - factor * y) % modulus for x, y in zip(rows[i], rows[place], strict=True)]
        pivots.append(column)
    free = [column for column in range(width) if column not in pivots]
    return [null_vector(rows, pivots, column, width, modulus) for column in free]


def null_vector(reduced: Rows, pivots: Sequence[int], column: int, width: int, modulus: int) -> list[int]:
    """Return the null vector with 1 at one free column and 0 at the others."""
    vector = [0] * width
    vector[column] = 1
    for row, pivot in zip(reduced, pivots, strict=False):
        vector[pivot] = -row[column] % modulus
    return vector


@pytest.mark.requirement("RMO-G5")
def test_the_mask_vanishes_on_the_null_space_of_its_basis() -> None:
    """(X + S A) N = X N where A N = 0.

    Given: matrices of any shape over any ring (by machine: sympy, non-commuting symbols).
    Then: the worker, who knows A, computes X N, whatever S is.
    Assuming: nothing.
    Proves: RMO-G5.
    """
    assert leak(dies=True) == 0


def leak(dies: bool) -> sympy.Expr:
    """Return (X + S A) N - X N, expanded, with A N = 0 where the product dies."""
    x, s, a, n = sympy.symbols("X S A N", commutative=False)
    return (sympy.expand((x + s * a) * n) - x * n).subs(a * n, 0 if dies else a * n)


def bases(rank: int) -> Iterator[Rows]:
    """Yield every basis of that rank over the small field."""
    for flat in product(range(SMALL), repeat=rank * WIDTH):
        basis = [flat[i : i + WIDTH] for i in range(0, len(flat), WIDTH)]
        if len(null_space(basis, SMALL)) == WIDTH - rank:
            yield basis


def views(x: Row, basis: Rows) -> Counter[tuple[int, ...]]:
    """Return how many secrets S give each masked row X + S A."""
    secrets = product(range(SMALL), repeat=len(basis))
    pads = (times([secret], columns(basis), SMALL) for secret in secrets)
    return Counter(tuple(remo.mask([x], pad, SMALL)[0]) for pad in pads)


def tells_exactly(basis: Rows, functions: Rows) -> bool:
    """Return whether the distribution of the masked row is decided by X times the functions, and decides it.

    True where equal function values give equal distributions, and different values disjoint ones.
    """
    seen: dict[tuple[int, ...], Counter[tuple[int, ...]]] = {}
    for x in product((-1, 0, 1), repeat=WIDTH):
        leaked = tuple(times([x], functions, SMALL)[0]) if functions else ()
        counts = views(x, basis)
        if seen.setdefault(leaked, counts) != counts:
            return False
    return sum(len(counts) for counts in seen.values()) == len(set().union(*seen.values()))


@pytest.mark.requirement("RMO-G5")
def test_the_worker_learns_the_null_space_functions_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked row is uniform on the coset X + rowspace(A), which X N names and which names X N.

    Given: p = 3, width 3, every basis of rank 1 and 2, all 27 rows X, every S (by machine: complete).
    Then: of equal X N the views are equal, of different X N disjoint: width - m functions, exactly. In
    general S -> S A is injective for A of rank m, so that each point of the coset has one S (argued).
    Assuming: nothing.
    Proves: RMO-G5.
    Pins: veil_reference.remo.rank_pad db3e8e90.
    """
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    for rank in (1, 2):
        for basis in bases(rank):
            functions = null_space(basis, SMALL)
            assert len(functions) == WIDTH - rank
            assert tells_exactly(basis, functions)


@pytest.mark.requirement("RMO-G5")
def test_pads_of_the_reference_leak_their_null_space_in_every_field() -> None:
    """X' N = X N for pads drawn by the reference, in each of the three fields.

    Given: width 6, m = 1 to 5, a seeded tape (by machine: one example for each m and field).
    Then: width - m functions of each row are read off exactly.
    Assuming: nothing.
    Proves: RMO-G5.
    Pins: veil_reference.remo.rank_basis a3ce5184.
    """
    rows = [[1, -2, 3, -32767, 32767, 0], [5, 5, 5, 5, 5, 5]]
    for modulus, rank in product(constants.PRIMES, range(1, 6)):
        words = tape.SeededTape(bytes(constants.SEED_BYTES))
        basis = remo.rank_basis(words, 7, rank, 6, modulus)
        masked = remo.mask(rows, remo.rank_pad(words, basis, 7, 1, 2, modulus), modulus)
        functions = null_space(basis, modulus)
        assert len(functions) == 6 - rank
        assert masked != rows
        assert times(masked, functions, modulus) == times(rows, functions, modulus)


def test_negative_control_a_full_pad_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same checks find no leak at full rank or under profile `pad`, and more than one function at rank 1.

    Controls: RMO-G5.
    """
    assert leak(dies=False) != 0
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    full = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert null_space(full, SMALL) == []
    assert tells_exactly(full, []) and not tells_exactly(full, [[1, 0, 0]])
    assert not tells_exactly([[1, 1, 1]], null_space([[1, 1, 1]], SMALL)[:1])
    monkeypatch.undo()
    modulus = constants.PRIMES[0]
    words = tape.SeededTape(bytes(constants.SEED_BYTES))
    basis = remo.rank_basis(words, 7, 2, 4, modulus)
    functions = null_space(basis, modulus)
    rows = [[1, -2, 3, 4]]
    masked = remo.mask(rows, remo.pad(words, 7, 1, 1, 4, modulus), modulus)
    assert times(masked, functions, modulus) != times(rows, functions, modulus)


# Stacked bases: one row, masked with several


def side_by_side(bases: Sequence[Rows], modulus: int) -> list[list[int]]:
    """Return [N_1 | ... | N_t] as its columns: the null vectors of each basis in turn."""
    return [vector for basis in bases for vector in null_space(basis, modulus)]


def rank_of(rows: Rows, modulus: int) -> int:
    """Return the rank over F_p."""
    return len(rows[0]) - len(null_space(rows, modulus))


def row_spaces(rank: int) -> list[Rows]:
    """Return one basis of each subspace of that rank of the small field's rows of width 3."""
    spaces: dict[tuple[tuple[int, ...], ...], Rows] = {}
    for basis in bases(rank):
        spaces.setdefault(tuple(map(tuple, null_space(basis, SMALL))), basis)
    return list(spaces.values())


@pytest.mark.requirement("RMO-G5")
def test_independent_bases_leak_as_many_functions_as_they_have_null_vectors_and_no_more() -> None:
    """[N_1 | ... | N_t] has rank at most min(d, t (d - m)), and generic bases reach it.

    Given: p = 3, d = 3, every choice of 1 to 3 subspaces of rank 2 and of rank 1 (by machine: complete). The
    bound counts columns and rows. A minor of that size is a polynomial in the entries of the bases that is 0
    for no generic choice, so that uniform bases miss it with probability of the order of 1 / p (argued).
    Then: the same row under t bases tells min(d, t (d - m)) functions of itself.
    Assuming: nothing.
    Proves: RMO-G5.
    """
    for rank, count in ((2, 13), (1, 13)):
        spaces = row_spaces(rank)
        assert len(spaces) == count
        for t in (1, 2, 3):
            most = min(WIDTH, t * (WIDTH - rank))
            ranks = Counter(rank_of(side_by_side(stack, SMALL), SMALL) for stack in product(spaces, repeat=t))
            assert max(ranks) == most and ranks[most] * 2 > ranks.total()


def stacked_leak(
    groups: Sequence[int], width: int, rank: int, modulus: int
) -> tuple[list[list[int]], list[int], list[int]]:
    """Return ([N_1 | ... | N_t] as columns, what the worker computes of one row with it, the row)."""
    words, row = tape.SeededTape(bytes(constants.SEED_BYTES)), [32767, -32767, 5, 0, -1, 12345][:width]
    stacked, seen = list[list[int]](), list[int]()
    for group in groups:
        basis = remo.rank_basis(words, group, rank, width, modulus)
        masked = remo.mask([row], remo.rank_pad(words, basis, group, 0, 1, modulus), modulus)
        functions = null_space(basis, modulus)
        stacked += functions
        seen += times(masked, functions, modulus)[0]
    return stacked, seen, row


def solved(functions: Rows, values: Row, modulus: int) -> list[list[int]]:
    """Return a basis of the vectors (x, 1) with functions . x = values, scaled, and of those with 0 for 1."""
    equations = [[*function, -value % modulus] for function, value in zip(functions, values, strict=True)]
    return null_space(equations, modulus)


@pytest.mark.requirement("RMO-G5")
def test_with_enough_independent_bases_the_worker_solves_for_the_row() -> None:
    """t (d - m) >= d gives the row itself, at any layer and without a vocabulary.

    Given: d = 6, the reference's pads under bases of t groups, three fields, m = 1 to 5, t = 1 to 7 (by
    machine: one example each, exact rank over F_p).
    Then: rank min(d, t (d - m)); at d the linear system has one solution, and it is the row.
    Assuming: nothing.
    Proves: RMO-G5.
    Pins: veil_reference.remo.rank_pad db3e8e90.
    """
    for modulus, rank, t in product(constants.PRIMES, range(1, 6), range(1, 8)):
        stacked, seen, row = stacked_leak(range(t), 6, rank, modulus)
        assert rank_of(stacked, modulus) == min(6, t * (6 - rank))
        solutions = solved(stacked, seen, modulus)
        assert len(solutions) == 7 - min(6, t * (6 - rank))
        if t * (6 - rank) >= 6:
            assert solutions == [[*(x % modulus for x in row), 1]]


def test_negative_control_the_same_basis_again_tells_nothing_new() -> None:
    """t times one basis has rank d - m, and the row stays one of p**m.

    Controls: RMO-G5.
    """
    for modulus, rank in product(constants.PRIMES, (1, 3, 5)):
        stacked, seen, _ = stacked_leak([0] * 7, 6, rank, modulus)
        assert rank_of(stacked, modulus) == 6 - rank
        assert len(solved(stacked, seen, modulus)) == 1 + rank
