"""Freivalds' check over F_p accepts a wrong product with probability at most p**-k.

And a commitment binds the weights that the check is about.
"""

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, product

import pytest
import sympy
import z3

from veil_reference import integrity, lwe, remo
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
    assert all(sympy.isprime(modulus) for modulus in (*constants.PRIMES, constants.LWE_MODULUS))
    assert has_a_certificate(constants.LWE_MODULUS) and not has_a_certificate(constants.LWE_MODULUS - 4)


def has_a_certificate(number: int) -> bool:
    """Return whether Pratt's certificate shows that a number is prime: a generator of order number - 1.

    The factors of number - 1 are found by sympy and certified in turn; nothing else of sympy is trusted.
    """
    if number < 4:
        return number in (2, 3)
    factors = sympy.factorint(number - 1)
    rest = number - 1
    for factor, power in factors.items():
        rest //= factor**power
    orders = [(number - 1) // factor for factor in factors]
    return (
        rest == 1
        and all(has_a_certificate(factor) for factor in factors)
        and any(
            pow(g, number - 1, number) == 1 and all(pow(g, order, number) != 1 for order in orders)
            for g in range(2, 100)
        )
    )


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
    """p**-k <= 2**-64 < p**-(k-1) for each field, q of profile `lwe` among them.

    Given: the four fields; k independent vectors pass together with probability p**-k (argued:
    independence).
    Then: 3, 2, 2 and 2 repetitions, errors 2**-95.9, 2**-79.9, 2**-95.9 and 2**-127.9; one vector over q
    misses 2**-64 by 59 parts in 2**64.
    Assuming: TAP-A1.
    Proves: INT-G1.
    Pins: veil_reference.integrity.repetitions 58ea3dfd.
    """
    fields = (*constants.PRIMES, constants.LWE_MODULUS)
    counts = [integrity.repetitions(modulus) for modulus in fields]
    assert counts == [3, 2, 2, 2]
    for modulus, k in zip(fields, counts, strict=True):
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


# Corrections of a dealer, and keys of somebody else


@pytest.mark.requirement("INT-G1")
def test_a_wrong_correction_is_caught_like_a_wrong_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """R W + e passes (R W) z = R (W z) for at most p**(n-1) of p**n secrets, whatever the dealer picks.

    Given: p = 3, one row of pads, two outputs, every R and every e (by machine: complete, on the reference).
    The lemma asks nothing of the left operand: z alone is random, and no dealer sees it (RMO-P5).
    Then: who may choose the pads gains nothing over who may choose the answer.
    Assuming: TAP-A1, INT-A1.
    Proves: INT-G1.
    """
    monkeypatch.setattr(constants, "PRIMES", (3,))
    for pads in product(range(3), repeat=2):
        right = remo.multiply([pads], WEIGHTS, 3)[0]
        for error in product(range(3), repeat=2):
            correction = [[(y + e) % 3 for y, e in zip(right, error, strict=True)]]
            assert acceptances([pads], correction, WEIGHTS, 3) == (3 if any(error) else 9)


@pytest.mark.requirement("INT-G1")
def test_the_check_covers_profile_lwe_over_q() -> None:
    """One changed element of a product of halves is refused over q; the right product is accepted.

    Given: two rows of three weights at their extremes, errors of 1, 2**63 and q - 1 at each place (checked).
    Then: the lemma above is about the matrix that profile `lwe` sends.
    Assuming: TAP-A1, INT-A1.
    Proves: INT-G1.
    """
    q, parts = constants.LWE_MODULUS, lwe.halves([[32639, -32639, -128], [1, 0, -1]])
    masked = [[q - 1, 2**63, 5], [0, 1, q - 2]]
    secret = [[q - 1, 2**63, 3, 7], [2**40, 1, q - 5, 11]]
    key = integrity.check_key(parts, secret, q)
    right = remo.multiply(masked, parts, q)
    integrity.verify(masked, right, secret, key, q)
    for row, column, error in product(range(2), range(4), (1, 2**63, q - 1)):
        answer = [list(line) for line in right]
        answer[row][column] = (answer[row][column] + error) % q
        with pytest.raises(Refused):
            integrity.verify(masked, answer, secret, key, q)


def test_negative_control_keys_that_the_worker_provides_check_nothing() -> None:
    """With a z that the worker knows a forged product passes, as does any W of its own with its own key.

    Controls: INT-G1.
    """
    modulus, other = constants.PRIMES[0], [[7, 7], [0, -1]]
    masked, secret = [[123, 456]], [[5, 9]]
    right = remo.multiply(masked, WEIGHTS, modulus)[0]
    forged = [[(right[0] + 9) % modulus, (right[1] - 5) % modulus]]
    assert forged != [right]
    integrity.verify(masked, forged, secret, integrity.check_key(WEIGHTS, secret, modulus), modulus)
    swapped = remo.multiply(masked, other, modulus)
    assert swapped != [right]
    integrity.verify(masked, swapped, secret, integrity.check_key(other, secret, modulus), modulus)
    with pytest.raises(Refused):
        integrity.verify(masked, swapped, secret, integrity.check_key(WEIGHTS, secret, modulus), modulus)


# INT-G2: the commitment

Hash = Callable[[bytes], bytes]
Leaves = tuple[bytes, ...]


def hashed_inputs(leaves: Sequence[bytes], of: Hash) -> tuple[bytes, list[bytes]]:
    """Return (root, all that is hashed, the root's input first), built by recursion on the halves."""
    if len(leaves) < 2:
        own = b"".join(b"\0" + leaf for leaf in leaves)
        return of(own), [own]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    (left, below), (right, beside) = hashed_inputs(leaves[:split], of), hashed_inputs(leaves[split:], of)
    own = b"\1" + left + right
    return of(own), [own, *below, *beside]


def collision(first: Leaves, second: Leaves, of: Hash) -> tuple[bytes, bytes] | None:
    """Return two different inputs at one place of two trees of one shape whose hashes are equal."""
    (root, inputs), (other, others) = hashed_inputs(first, of), hashed_inputs(second, of)
    if root != other:
        return None
    return next(((a, b) for a, b in zip(inputs, others, strict=True) if a != b and of(a) == of(b)), None)


def toy_hash(bits: int, salt: bytes) -> Hash:
    """Return SHA-256 cut to a few bits, with collisions in plenty."""
    return lambda data: bytes([hashlib.sha256(salt + data).digest()[0] >> (8 - bits)])


def every_equal_root_yields_a_collision(root: Callable[[Leaves], bytes], of: Hash) -> bool:
    """Return whether all pairs of different lists of 1 to 4 leaves with one root yield a collision."""
    for size in range(1, 5):
        lists: dict[bytes, list[Leaves]] = {}
        for leaves in product((b"", b"a", b"\1a"), repeat=size):
            lists.setdefault(root(leaves), []).append(leaves)
        for equal in lists.values():
            if any(collision(*pair, of) is None for pair in combinations(equal, 2)):
                return False
    return True


class ToyLibrary:
    """Stands for hashlib in the reference, with a hash of a few bits."""

    def __init__(self, of: Hash) -> None:
        self._of = of

    def sha256(self, data: bytes) -> "ToyDigest":
        """Return what has the toy digest of the data."""
        return ToyDigest(self._of(data))


class ToyDigest:
    """A digest that is known already."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def digest(self) -> bytes:
        """Return it."""
        return self._value


@pytest.mark.requirement("INT-G2")
def test_two_lists_of_leaves_with_one_root_hold_two_inputs_with_one_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where lists of one length differ and their roots agree, some place of the two trees is a collision.

    Given: the reference with hashes of 1, 2 and 3 bits, all lists of 1 to 4 of three leaves (by machine:
    complete). In general by induction on the length: equal roots come from equal inputs or a collision;
    equal inputs of a node are equal roots of both halves, those of a leaf are equal leaves (argued).
    Then: the commitment names one list of leaves of each length.
    Assuming: nothing.
    Proves: INT-G2.
    Pins: veil_reference.integrity.merkle_root 08909e5b.
    """
    for bits, salt in product((1, 2, 3), (b"", b"x")):
        of = toy_hash(bits, salt)
        monkeypatch.setattr(integrity, "hashlib", ToyLibrary(of))
        assert every_equal_root_yields_a_collision(integrity.merkle_root, of)


def test_negative_control_a_root_that_forgets_the_order_binds_nothing() -> None:
    """The same check finds equal roots without a collision where leaves are hashed and added up.

    Controls: INT-G2.
    """
    of = toy_hash(8, b"")
    summed: Callable[[Leaves], bytes] = lambda leaves: bytes([sum(of(leaf)[0] for leaf in leaves) % 256])  # noqa: E731
    assert not every_equal_root_yields_a_collision(summed, of)


def read_back(leaf: bytes) -> tuple[int, list[list[int]]]:
    """Return (group, weights) of a leaf."""
    group, outputs, inner = (int.from_bytes(leaf[i : i + 4], "little") for i in (0, 4, 8))
    words = [int.from_bytes(leaf[i : i + 2], "little", signed=True) for i in range(12, len(leaf), 2)]
    assert len(words) == outputs * inner
    return group, [words[i : i + inner] for i in range(0, len(words), inner)]


@pytest.mark.requirement("INT-G2")
def test_a_leaf_tells_its_group_shape_and_weights() -> None:
    """weight_leaf is injective: everything is read back from the bytes.

    Given: the 65,536 weights of 16 bits (by machine: complete); matrices of one number of weights and every
    shape (checked).
    Then: different models have different lists of leaves.
    Assuming: nothing.
    Proves: INT-G2.
    Pins: veil_reference.integrity.weight_leaf dc5cfe75.
    """
    weights = [list(range(-(2**15), 2**15))]
    assert read_back(integrity.weight_leaf(7, weights)) == (7, weights)
    shapes = [(rows, 12 // rows) for rows in (1, 2, 3, 4, 6, 12)]
    matrices = [[[i * inner + j for j in range(inner)] for i in range(rows)] for rows, inner in shapes]
    leaves = [integrity.weight_leaf(group, matrix) for group in (0, 1, 2**32 - 1) for matrix in matrices]
    assert len(set(leaves)) == 18
    assert [read_back(leaf)[1] for leaf in leaves] == matrices * 3


def root_of_a_log(leaves: Sequence[bytes]) -> bytes:
    """Return the root as a log that grows keeps it: a stack of full subtrees, joined from the right."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        stack.append((1, hashlib.sha256(b"\0" + leaf).digest()))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (size, right), (_, left) = stack.pop(), stack.pop()
            stack.append((2 * size, hashlib.sha256(b"\1" + left + right).digest()))
    root = stack.pop()[1] if stack else hashlib.sha256(b"").digest()
    for _, left in reversed(stack):
        root = hashlib.sha256(b"\1" + left + root).digest()
    return root


KNOWN_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Roots of the first 1 to 8 leaves below, as the tests of Certificate Transparency publish them."""
KNOWN_LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243")] + [
    bytes(range(0x50, 0x58)),
    bytes(range(0x60, 0x70)),
]


@pytest.mark.requirement("INT-G2")
def test_the_root_is_that_of_certificate_transparency() -> None:
    """merkle_root agrees with published roots and, at 0 to 70 leaves, with a log that grows leaf by leaf.

    Given: the leaves and roots that Certificate Transparency tests with (checked).
    Then: the tree is the one of RFC 9162.
    Assuming: nothing.
    Proves: INT-G2.
    """
    found = [integrity.merkle_root(KNOWN_LEAVES[:size]).hex() for size in range(1, 9)]
    assert tuple(found) == KNOWN_ROOTS
    leaves = [bytes([size]) * size for size in range(70)]
    for size in range(71):
        assert integrity.merkle_root(leaves[:size]) == root_of_a_log(leaves[:size])


def sha256(data: bytes) -> bytes:
    """Return the digest."""
    return hashlib.sha256(data).digest()


@pytest.mark.requirement("INT-G2")
def test_the_recursion_of_the_proof_is_that_of_the_reference() -> None:
    """The inputs that the proof compares are those that the reference hashes.

    Given: lists of 0 to 20 leaves (checked).
    Then: a collision of the proof is one of the reference.
    Assuming: nothing.
    Proves: INT-G2.
    """
    for size in range(21):
        leaves = tuple(bytes([i]) for i in range(size))
        root, inputs = hashed_inputs(leaves, sha256)
        assert root == sha256(inputs[0]) == integrity.merkle_root(leaves)
