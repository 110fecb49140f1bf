"""Masks of profile `pad` come off exactly and hide everything; the games are written out in README.md."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product

import pytest
import sympy
import z3

from veil_reference import remo
from veil_spec import constants
from veil_spec.refusals import Refused
from veil_spec.types import Rows


def is_theorem(claim: z3.BoolRef) -> bool:
    """Return whether z3 refutes the negation."""
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(z3.Not(claim))
    return bool(solver.check() == z3.unsat)


# RMO-G4: the mask comes off


def unmasked_symbolically(correction: Callable[[sympy.Expr, sympy.Expr], sympy.Expr]) -> sympy.Expr:
    """Return (X + R) W - correction(R, W) with X, R and W that do not commute, expanded."""
    x, r, w = sympy.symbols("X R W", commutative=False)
    return sympy.expand((x + r) * w - correction(r, w)) - x * w


@pytest.mark.requirement("RMO-G4")
def test_masking_is_reversible_for_all_matrices_over_any_ring() -> None:
    """(X + R) W - R W = X W.

    Given: matrices of any shape that fits, over any ring (by machine: sympy, non-commuting symbols and
    MatrixSymbol).
    Then: the mask comes off, whatever R is.
    Assuming: nothing.
    Proves: RMO-G4.
    """
    assert unmasked_symbolically(lambda r, w: r * w) == 0
    n, d, o = sympy.symbols("n d o", integer=True, positive=True)
    x, r = sympy.MatrixSymbol("X", n, d), sympy.MatrixSymbol("R", n, d)
    w = sympy.MatrixSymbol("W", d, o)
    assert sympy.expand((x + r) * w - r * w).doit() == x * w


def lift_is_exact(modulus: int, bound: int) -> bool:
    """Return whether every |y| <= bound survives (y + c mod p) - c mod p and the centred lift."""
    y, c = z3.Ints("y c")
    element = ((y + c) % modulus - c) % modulus
    lifted = z3.If(2 * element > modulus, element - modulus, element)
    given = z3.And(-bound <= y, y <= bound, c >= 0, c < modulus)
    return is_theorem(z3.Implies(given, lifted == y))


@pytest.mark.requirement("RMO-G4")
def test_the_centred_lift_returns_every_product_that_the_bound_admits() -> None:
    """Every |y| <= (p - 1) / 2 comes back as itself, for each field and every correction.

    Given: Y' = (y + c) mod p and a correction c in [0, p) (by machine: z3 over all integers, three fields).
    Then: unmask returns y.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_reference.field.centred f82bfed6.
    Pins: veil_reference.remo.unmask 98773aae.
    """
    for modulus in constants.PRIMES:
        assert lift_is_exact(modulus, (modulus - 1) // 2)


@pytest.mark.requirement("RMO-G4")
def test_choose_modulus_admits_only_products_within_the_bound() -> None:
    """|sum of x_i w_i| <= (p - 1) / 2 for every row that RMO-R2 accepts.

    Given: |x_i| <= 32767 and the chosen p (by machine: z3 for the step; the reference at both sides of each
    border).
    Then: |y| <= 32767 l <= 2**15 l <= (p - 1) / 2 with l the sum of |w_i|, by the triangle inequality
    (argued).
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_reference.remo.choose_modulus 7ce09543.
    """
    largest, half = z3.Ints("largest half")
    given = z3.And(largest >= 0, (constants.ACTIVATION_LIMIT + 1) * largest <= half)
    assert is_theorem(z3.Implies(given, constants.ACTIVATION_LIMIT * largest <= half))
    for modulus in constants.PRIMES:
        fitting = (modulus - 1) // 2 // (constants.ACTIVATION_LIMIT + 1)
        assert remo.choose_modulus([weights_of_sum(fitting)]) == modulus
        assert chosen(fitting + 1) > modulus


def weights_of_sum(total: int) -> list[int]:
    """Return weights in range whose absolute values add up to total."""
    full, rest = divmod(total, constants.WEIGHT_LIMIT)
    return [constants.WEIGHT_LIMIT] * full + [-rest]


def chosen(total: int) -> int:
    """Return the prime chosen for one channel of that sum, or 2**63 where it is refused."""
    try:
        return remo.choose_modulus([weights_of_sum(total)])
    except Refused:
        return 2**63


@pytest.mark.requirement("RMO-G4")
def test_the_reference_unmasks_every_matrix_over_a_small_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """unmask(multiply(mask(X, R), W), multiply(R, W)) = X W.

    Given: p = 7 for the specification's fields, W = [[1, -1]], every X with |y| <= 3, every R (by machine:
    complete).
    Then: the reference functions compose to the exact product.
    Assuming: nothing.
    Proves: RMO-G4.
    Pins: veil_reference.remo.mask df7adc50.
    Pins: veil_reference.remo.multiply 0e8fe1d0.
    """
    monkeypatch.setattr(constants, "PRIMES", (7,))
    assert all(round_trip(x, r, 7) == x[0] - x[1] for x in plaintexts(3) for r in product(range(7), repeat=2))


def plaintexts(bound: int) -> Iterator[tuple[int, ...]]:
    """Yield rows of two whose difference is at most bound in absolute value."""
    yield from (x for x in product(range(-bound, bound + 1), repeat=2) if abs(x[0] - x[1]) <= bound)


def round_trip(x: Sequence[int], r: Sequence[int], modulus: int) -> int:
    """Return the reference's product of x with [1, -1], through the mask r."""
    weights = [[1, -1]]
    masked = remo.mask([x], [r], modulus)
    answer = remo.multiply(masked, weights, modulus)
    return remo.unmask(answer, remo.multiply([r], weights, modulus), modulus)[0][0]


def test_negative_control_a_wrong_correction_or_a_small_field_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same checks reject the correction W R, a bound one too large and a field that is too small.

    Controls: RMO-G4.
    """
    assert unmasked_symbolically(lambda r, w: w * r) != 0
    assert not lift_is_exact(constants.PRIMES[0], (constants.PRIMES[0] + 1) // 2)
    monkeypatch.setattr(constants, "PRIMES", (5,))
    assert not all(round_trip(x, (0, 0), 5) == x[0] - x[1] for x in plaintexts(3))


# RMO-G1: game `uniform`

Mask = Callable[[Rows, Rows, int], Rows]
SMALL = 3
"""The field of the complete enumerations below."""


@pytest.mark.requirement("RMO-G1")
def test_exactly_one_mask_leads_from_a_plaintext_to_a_ciphertext() -> None:
    """For every x and every c in F_p one and only one r in [0, p) gives c.

    Given: |x| <= 32767 (by machine: z3 over all integers, three fields).
    Then: r = (c - x) mod p does, and no other.
    For every p > 0: two such r differ by a multiple k p with |k p| < p, so that k = 0 (by machine: z3,
    symbolic p).
    Assuming: nothing.
    Proves: RMO-G1.
    """
    x, c, r, s, p, k = z3.Ints("x c r s p k")
    for modulus in constants.PRIMES:
        inside = [z3.And(v >= 0, v < modulus) for v in (c, r, s)]
        ranged = z3.And(x >= -constants.ACTIVATION_LIMIT, x <= constants.ACTIVATION_LIMIT, *inside)
        assert is_theorem(z3.Implies(ranged, (x + (c - x) % modulus) % modulus == c))
        both = z3.And(ranged, (x + r) % modulus == c, (x + s) % modulus == c)
        assert is_theorem(z3.Implies(both, r == s))
    assert is_theorem(z3.Implies(z3.And(p > 0, r - s == k * p, -p < r - s, r - s < p), r == s))


def view(masking: Mask, x: Rows, pads: Iterator[Rows]) -> Counter[Rows]:
    """Return how many of the pads give each ciphertext of x."""
    return Counter(tuple(map(tuple, masking(x, pad, SMALL))) for pad in pads)


def every_pad(elements: int = SMALL) -> Iterator[Rows]:
    """Yield all matrices [2, 2] of field elements below `elements`."""
    for flat in product(range(elements), repeat=4):
        yield (flat[:2], flat[2:])


def reused_pads() -> Iterator[Rows]:
    """Yield all matrices [2, 2] with two equal rows: one address for two rows."""
    yield from ((row, row) for row in product(range(SMALL), repeat=2))


def activations() -> Iterator[Rows]:
    """Yield all plaintexts [2, 2] with entries -1, 0 and 1."""
    for flat in product((-1, 0, 1), repeat=4):
        yield (flat[:2], flat[2:])


def best_advantage(masking: Mask, pads: Callable[[], Iterator[Rows]]) -> Fraction:
    """Return the largest |Pr[guess is right] - 1/2| over all adversaries: half the total variation distance.

    Maximising over every pair of plaintexts would compare each with each; the first plaintext is enough,
    since all views are equal exactly when each equals the first.
    """
    views = [view(masking, x, pads()) for x in activations()]
    total = sum(views[0].values())
    return max(distance(views[0], other, total) for other in views) / 2


def distance(left: Counter[Rows], right: Counter[Rows], total: int) -> Fraction:
    """Return the total variation distance of two counted distributions."""
    return Fraction(sum(abs(left[key] - right[key]) for key in left | right), 2 * total)


@pytest.mark.requirement("RMO-G1")
def test_no_adversary_gains_anything_from_ciphertexts_under_uniform_pads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The view of every pair of equal-shaped plaintexts has the same distribution: advantage 0.

    Given: p = 3, all 81 plaintexts [2, 2] and all 81 pads (by machine: complete); for every p and shape the
    previous claim, entry by entry, with independent entries by TAP-G1 (argued).
    Then: each ciphertext matrix occurs for exactly one pad, so an unbounded adversary guesses with
    probability 1/2.
    Assuming: RMO-A1.
    Proves: RMO-G1.
    Pins: veil_reference.remo.mask df7adc50.
    """
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    assert all(
        len(counts) == 81 and set(counts.values()) == {1}
        for counts in (view(remo.mask, x, every_pad()) for x in activations())
    )
    assert best_advantage(remo.mask, every_pad) == 0


@dataclass(frozen=True, slots=True)
class Place:
    """A pad address inside one epoch, with the width of its group."""

    group: z3.ArithRef
    step: z3.ArithRef
    row: z3.ArithRef
    column: z3.ArithRef


def places_apart(group_shift: int) -> bool:
    """Return whether two pad addresses of one epoch with equal tape addresses are equal."""
    width = z3.Int("width")
    a, b = (Place(*z3.Ints(f"group{n} step{n} row{n} column{n}")) for n in "ab")
    inside = [
        z3.And(q.group >= 0, q.group < 2**32, q.step >= 0, q.step < 2**32, q.column >= 0, q.column < width)
        for q in (a, b)
    ]
    streams = z3.Implies(
        z3.And(*inside, a.group * 2**group_shift + a.step == b.group * 2**group_shift + b.step),
        z3.And(a.group == b.group, a.step == b.step),
    )
    rows = a.row - b.row
    same_index = rows * width == b.column - a.column
    elements = z3.Implies(z3.And(*inside, same_index), z3.And(rows == 0, a.column == b.column))
    return is_theorem(streams) and is_theorem(elements)


@pytest.mark.requirement("RMO-G1")
def test_distinct_pad_addresses_are_distinct_tape_addresses() -> None:
    """(group, step, row, column) to (stream, element) is injective inside one epoch.

    Given: group and step below 2**32, column below the group's width (by machine: z3, symbolic width).
    Then: pads at distinct addresses are independent, by TAP-G1.
    Assuming: nothing.
    Proves: RMO-G1.
    Pins: veil_reference.remo.pad_stream 7cecb0e1.
    """
    assert places_apart(32)


def burns_apart(burn_all: Callable[[Sequence[int]], list[int]]) -> bool:
    """Return whether no step is accepted twice, over all sequences of five steps below 4."""
    return all(len(set(kept)) == len(kept) for kept in map(burn_all, product(range(4), repeat=5)))


def accepted(steps: Sequence[int]) -> list[int]:
    """Return the steps of one group that the reference does not refuse."""
    used, kept = remo.Addresses(), []
    for step in steps:
        try:
            used.burn(0, step)
        except Refused:
            continue
        kept.append(step)
    return kept


@pytest.mark.requirement("RMO-G1")
def test_no_sequence_of_calls_burns_an_address_twice() -> None:
    """One enclave never uses a pad address for two plaintexts.

    Given: every sequence of five steps below 4 (by machine: complete); in general accepted steps increase
    (argued).
    Then: RMO-A1 is left to say that no second enclave runs the same epoch.
    Assuming: nothing.
    Proves: RMO-G1.
    Pins: veil_reference.remo.Addresses.burn f8f8b93e.
    """
    assert burns_apart(accepted)
    assert all(a < b for kept in map(accepted, product(range(4), repeat=5)) for a, b in pairwise(kept))


def test_negative_control_poor_pads_give_an_adversary_an_advantage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same checks reject pads below p - 1, a pad used for two rows, and streams that overlap.

    Controls: RMO-G1.
    """
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    assert best_advantage(remo.mask, lambda: every_pad(SMALL - 1)) > 0
    assert best_advantage(remo.mask, reused_pads) == Fraction(1, 2)
    assert not places_apart(31)
    assert not burns_apart(list)


# RMO-G2: game `chacha`

Family = tuple[tuple[int, ...], ...]
"""A small keyed generator: for each equally likely key, the pads of two addresses."""
UNIFORM: Family = tuple(product(range(SMALL), repeat=2))
ADDRESSES = (0, 1)


def right(family: Family, guess: Callable[[int], int], addresses: tuple[int, int]) -> Fraction:
    """Return Pr[guess is right] for the rows (1, 1) and (1, 0), the pads at two addresses."""
    hits = 0
    for pads, secret in product(family, (0, 1)):
        row = ((1, 1), (1, 0))[secret]
        seen = [(x + pads[place]) % SMALL for x, place in zip(row, addresses, strict=True)]
        hits += guess(seen[0] * SMALL + seen[1]) == secret
    return Fraction(hits, 2 * len(family))


def reduction_holds(families: Sequence[Family], addresses: tuple[int, int]) -> bool:
    """Return whether every adversary's advantage is exactly that of the distinguisher built from it.

    The distinguisher picks the secret, masks with its oracle and outputs whether the adversary guessed right.
    """
    for table in product((0, 1), repeat=SMALL**2):
        on_uniform = right(UNIFORM, table.__getitem__, addresses)
        for family in families:
            on_family = right(family, table.__getitem__, addresses)
            if abs(on_family - Fraction(1, 2)) != abs(on_family - on_uniform):
                return False
    return True


FAMILIES: tuple[Family, ...] = (((0, 0),), ((0, 1), (1, 2), (2, 0)), ((0, 0), (1, 1)), UNIFORM[:5])
"""Bad generators, from a constant one to one that misses four of nine outputs."""


@pytest.mark.requirement("RMO-G2")
def test_an_adversary_against_the_mask_is_a_distinguisher_against_the_generator() -> None:
    """|Pr[right] - 1/2| under a seeded tape is the advantage of a distinguisher against its generator.

    Given: p = 3, two addresses, all 512 deterministic adversaries, four generators (by machine: complete). In
    general the distinguisher plays the game on its oracle: Pr[right] is 1/2 on a uniform one by RMO-G1
    (argued, README.md).
    Then: the advantage in game `chacha` is at most the PRF advantage against ChaCha20 at the same number of
    blocks.
    Assuming: TAP-A1, RMO-A1.
    Proves: RMO-G2.
    """
    assert reduction_holds(FAMILIES, ADDRESSES)


def test_negative_control_a_reused_address_breaks_the_reduction() -> None:
    """With one address for two rows the adversary wins even on a uniform tape, and the same check says so.

    Controls: RMO-G2.
    """
    assert not reduction_holds(FAMILIES, (0, 0))


# RMO-G3: game `malicious`

Strategy = tuple[int, ...]
"""The worker's answer to each possible masked word."""
View = tuple[int, ...]
"""Masked word, 1 if the epoch ended early, then, where a further round takes place, its masked word."""


def honest_strategy(weight: int) -> Strategy:
    """Return the answers of an honest worker."""
    return tuple(c * weight % SMALL for c in range(SMALL))


def later_view(answer: int, pad: int, weight: int, fresh: int) -> View:
    """Return what follows an accepted answer: nothing after an output of 0, else one more masked word.

    This is the worst that L allows: whether a round takes place depends on the secret output.
    """
    output = (answer - pad * weight) % SMALL
    return (0, (output + fresh) % SMALL) if output else (0,)


def real_views(x: int, weight: int, strategy: Strategy, challenges: Sequence[View]) -> Counter[View]:
    """Return how often each view occurs, over all pads and challenges; an empty one accepts everything."""
    counts: Counter[View] = Counter()
    for pad, fresh, secret in product(range(SMALL), range(SMALL), challenges):
        masked = (x + pad) % SMALL
        answer = strategy[masked]
        wrong = any((answer - masked * weight) * z % SMALL for z in secret)
        later = (1,) if wrong else later_view(answer, pad, weight, fresh)
        counts[masked, *later] += 1
    return counts


def simulated_views(runs_on: bool, weight: int, strategy: Strategy, challenges: int) -> Counter[View]:
    """Return the simulator's views: from L (does an honest run go on) and the worker's own answers."""
    counts: Counter[View] = Counter()
    for masked, later in product(range(SMALL), repeat=2):
        if strategy[masked] != masked * weight % SMALL:
            counts[masked, 1] += challenges
        elif runs_on:
            counts[masked, 0, later] += challenges
        else:
            counts[masked, 0] += challenges
    return counts


def worst_distance(challenges: Sequence[View]) -> Fraction:
    """Return the largest distance of real and simulated views over all inputs, weights and strategies."""
    worst = Fraction(0)
    for x, weight, strategy in product((-1, 0, 1), (-1, 1), product(range(SMALL), repeat=SMALL)):
        real = real_views(x, weight, strategy, challenges)
        simulated = simulated_views(x != 0, weight, strategy, len(challenges))
        total = SMALL * SMALL * len(challenges)
        worst = max(worst, Fraction(sum(abs(real[v] - simulated[v]) for v in real | simulated), 2 * total))
    return worst


def all_challenges(repetitions: int) -> list[View]:
    """Return every secret of that many field elements."""
    return list(product(range(SMALL), repeat=repetitions))


@pytest.mark.requirement("RMO-G3")
def test_a_malicious_worker_sees_what_a_simulator_makes_up_except_with_freivalds_error() -> None:
    """Real and simulated views differ by at most p**-k in total variation.

    Given: p = 3, one output, every input, weight and worker strategy, k = 1 and 2, two rounds of which the
    second takes place only if the secret output is not 0 (by machine: complete). For any p, shape and number
    of rounds: stop at the first accepted wrong product; before it the view is uniform by RMO-G1 and ends as
    the simulator, which knows W, predicts; its probability is bounded by INT-G1 (argued, README.md).
    Then: nothing beyond L and the end of the epoch reaches the worker, up to INT-G1 and RMO-G2.
    Assuming: TAP-A1, TAP-A2, RMO-A1, INT-A1.
    Proves: RMO-G3.
    """
    for repetitions in (1, 2):
        assert 0 < worst_distance(all_challenges(repetitions)) <= Fraction(1, SMALL**repetitions)


@pytest.mark.requirement("RMO-G3")
def test_an_honest_worker_sees_exactly_what_the_simulator_makes_up() -> None:
    """Without a wrong answer the distance is 0, check or no check.

    Given: p = 3, every input and weight, honest answers (by machine: complete).
    Then: only an accepted wrong product separates the two views.
    Assuming: TAP-A1, RMO-A1.
    Proves: RMO-G3.
    """
    for x, weight in product((-1, 0, 1), (-1, 1)):
        strategy = honest_strategy(weight)
        assert real_views(x, weight, strategy, [()]) == simulated_views(x != 0, weight, strategy, 1)


def test_negative_control_without_the_check_a_worker_learns_from_the_run() -> None:
    """With no challenge the same distance exceeds even the weakest bound: wrong answers decide what follows.

    Controls: RMO-G3.
    """
    assert worst_distance([()]) > Fraction(1, SMALL)
