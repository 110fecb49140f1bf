"""Freivalds' check over F_p accepts a wrong product with probability at most p**-k."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import pytest
import sympy
import z3

from veil_reference import integrity, remo
from veil_reference.field import dot
from veil_spec import constants
from veil_spec.refusals import Refused
from veil_spec.types import Row, Rows


def zeros(form: Row, modulus: int) -> int:
    """Return the number of vectors z with form . z = 0 mod modulus."""
    return sum(dot(form, z) % modulus == 0 for z in product(range(modulus), repeat=len(form)))


def every_form_has_few_zeros(modulus: int, size: int) -> bool:
    """Return whether each form that is not 0 vanishes on exactly modulus**(size - 1) vectors."""
    forms = (form for form in product(range(modulus), repeat=size) if any(form))
    return all(zeros(form, modulus) == modulus ** (size - 1) for form in forms)


@pytest.mark.requirement("INT-G1")
def test_a_linear_form_over_a_prime_field_vanishes_on_one_vector_in_p() -> None:
    """A form e that is not 0 has exactly p**(n-1) zeros in F_p**n.

    Given: p = 2, 3, 5 and 7 with n = 1 to 3 (by machine: every form and every vector).
    Then: uniform z misses a wrong row with probability 1 / p.
    Assuming: nothing.
    Proves: INT-G1.
    """
    assert all(every_form_has_few_zeros(modulus, size) for modulus in (2, 3, 5, 7) for size in (1, 2, 3))


@pytest.mark.requirement("INT-G1")
def test_all_coordinates_of_a_zero_but_one_are_free() -> None:
    """For e prime to p and any value t of the other terms, exactly one z in [0, p) solves e z + t = 0 mod p.

    Given: u e + v p = 1, which Bezout's identity grants for a prime p and 0 < e < p.
    Then: z = -u t solves it, and two solutions differ by (u m + v d) p where e d = m p (by machine: sympy),
    and by less than p, so by 0 (by machine: z3). Hence p**(n-1) zeros for every n: one for each choice of the
    others.
    Assuming: nothing.
    Proves: INT-G1.
    """
    u, v, e, p, t, d, m = sympy.symbols("u v e p t d m")
    assert sympy.expand((e * (-u * t) + t - t * v * p).subs(u * e, 1 - v * p)) == 0
    assert sympy.expand(((u * e + v * p) * d).expand().subs(e * d, m * p) - (u * m + v * d) * p) == 0
    assert only_multiple_below_is_zero()
    assert all(sympy.isprime(modulus) for modulus in constants.PRIMES)


def only_multiple_below_is_zero() -> bool:
    """Return whether z3 finds that a multiple of p below p in absolute value is 0, for every p > 0."""
    d, p, k = z3.Ints("d p k")
    solver = z3.Solver()
    solver.set("timeout", 20000)
    solver.add(p > 0, d == k * p, -p < d, d < p, d != 0)
    return bool(solver.check() == z3.unsat)


def acceptances(masked: Rows, answer: Rows, weights: Rows, modulus: int) -> int:
    """Return how many secret vectors make the reference's verify accept an answer."""
    return sum(
        accepts(masked, answer, weights, z, modulus) for z in product(range(modulus), repeat=len(weights))
    )


def accepts(masked: Rows, answer: Rows, weights: Rows, secret: Row, modulus: int) -> bool:
    """Return whether verify accepts with one secret vector."""
    key = integrity.check_key(weights, [secret], modulus)
    try:
        integrity.verify(masked, answer, [secret], key, modulus)
    except Refused:
        return False
    return True


WEIGHTS = [[1, -1], [2, 1]]
MASKED = [[1, 2], [0, 2]]


@pytest.mark.requirement("INT-G1")
def test_the_reference_accepts_each_wrong_product_for_one_secret_in_p(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """verify accepts the right product always, and each of the other 80 for at most p**(n-1) of p**n secrets.

    Given: p = 3, two rows, two outputs, every answer and every secret (by machine: complete).
    Then: an error of rank r passes for exactly p**(n-r) secrets, so one row is the worst case.
    Assuming: INT-A1.
    Proves: INT-G1.
    Pins: veil_reference.integrity.verify 94df2697.
    Pins: veil_reference.integrity.check_key e273903b.
    """
    monkeypatch.setattr(constants, "PRIMES", (3,))
    right = remo.multiply(MASKED, WEIGHTS, 3)
    for flat in product(range(3), repeat=4):
        answer = [list(flat[:2]), list(flat[2:])]
        passed = acceptances(MASKED, answer, WEIGHTS, 3)
        assert passed == 9 if answer == right else passed in (1, 3)


@pytest.mark.requirement("INT-G1")
def test_repetitions_reach_the_stated_soundness_and_no_more_are_made() -> None:
    """p**-k <= 2**-64 < p**-(k-1) for each field.

    Given: the three fields; k independent vectors pass together with probability p**-k (argued:
    independence).
    Then: 3, 2 and 2 repetitions, errors 2**-95.9, 2**-79.9 and 2**-95.9.
    Assuming: TAP-A1.
    Proves: INT-G1.
    Pins: veil_reference.integrity.repetitions 58ea3dfd.
    """
    counts = [integrity.repetitions(modulus) for modulus in constants.PRIMES]
    assert counts == [3, 2, 2]
    for modulus, k in zip(constants.PRIMES, counts, strict=True):
        assert (
            Fraction(1, modulus**k)
            <= Fraction(1, 2**constants.SOUNDNESS_BITS)
            < Fraction(1, modulus ** (k - 1))
        )


def fooled(errors: Sequence[Row], secret: Row, modulus: int) -> bool:
    """Return whether one epoch accepts any of a worker's errors: the first refusal ends it."""
    for error in errors:
        if dot(error, secret) % modulus:
            return False
        if any(error):
            return True
    return False


def chance_to_be_fooled(errors: Sequence[Row], modulus: int) -> Fraction:
    """Return the probability of it over one secret vector."""
    secrets = list(product(range(modulus), repeat=len(errors[0])))
    return Fraction(sum(fooled(errors, secret, modulus) for secret in secrets), len(secrets))


@pytest.mark.requirement("INT-G1")
def test_an_adaptive_worker_fools_no_more_than_its_share_of_epochs() -> None:
    """Over E epochs of n checks the chance that any wrong product is accepted is at most E n p**-k.

    Given: p = 3, two outputs, every sequence of three errors, right answers included (by machine: complete).
    Until its first wrong answer a worker sees acceptances that do not depend on z, so adapting to them is one
    fixed sequence; the sum over epochs, groups and checks is the union bound (argued).
    Then: within one epoch a group is fooled with probability at most p**-k, whatever n is; so the bound
    holds.
    Assuming: TAP-A1.
    Proves: INT-G1.
    """
    errors = list(product(range(3), repeat=2))
    chances = {chance_to_be_fooled(sequence, 3) for sequence in product(errors, repeat=3)}
    assert chances == {Fraction(0), Fraction(1, 3)}


def test_negative_control_a_power_of_two_is_no_field() -> None:
    """The same count rejects Z_8, where the error 4 passes for half of all secrets.

    Controls: INT-G1.
    """
    assert not every_form_has_few_zeros(8, 1)
    assert zeros((4,), 8) == 4
    assert zeros((4, 0), 8) * 2 == 8**2
    assert [chance_to_be_fooled([(4,)], 8), chance_to_be_fooled([(1,)], 8)] == [
        Fraction(1, 2),
        Fraction(1, 8),
    ]
