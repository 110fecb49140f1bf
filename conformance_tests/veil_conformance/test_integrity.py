"""The check of a masked product, and the commitment to the weights that it is for."""

import hashlib
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veil_conformance import strategies
from veil_conformance.checking import SEED, examples, refusal
from veil_spec import constants
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Domain

P = constants.PRIMES[0]
Q = constants.LWE_MODULUS
Matrix = list[list[int]]


def times(rows: Matrix, weights: Matrix, modulus: int) -> Matrix:
    """Return rows times the transpose of weights in the field."""
    return [[sum(x * w for x, w in zip(row, c, strict=True)) % modulus for c in weights] for row in rows]


@pytest.mark.requirement("INT-R1")
@pytest.mark.parametrize(("modulus", "count"), list(zip((*constants.PRIMES, Q), (3, 2, 2, 2), strict=True)))
def test_repetitions_reach_sixty_four_bits(impl: Implementation, modulus: int, count: int) -> None:
    assert impl.repetitions(modulus) == count
    assert modulus ** (count - 1) < 2**64 <= modulus**count


@pytest.mark.requirement("INT-R2")
@given(
    group=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 5),
    modulus=strategies.fields,
    seed=strategies.seeds,
)
@examples(30)
def test_the_secret_vectors_come_from_the_stream_of_their_group(
    impl: Implementation, group: int, outputs: int, modulus: int, seed: bytes
) -> None:
    tape, count = impl.seeded_tape(seed), 3 if modulus == P else 2
    expected = [
        list(impl.field_elements(tape, Domain.CHALLENGE, group, t * outputs, outputs, modulus))
        for t in range(count)
    ]
    assert [list(row) for row in impl.challenge(tape, group, outputs, modulus)] == expected


@st.composite
def checked(draw: st.DrawFn) -> tuple[int, Matrix, Matrix, Matrix]:
    """Return (modulus, masked [n, inner], weights [outputs, inner], challenge [k, outputs])."""
    modulus, rows, inner, outputs = (draw(strategies.fields), *(draw(st.integers(1, 4)) for _ in range(3)))
    weights = strategies.half_weights if modulus == Q else strategies.weights
    elements = st.integers(0, modulus - 1)
    nonzero = st.integers(1, modulus - 1)
    return (
        modulus,
        draw(strategies.matrices(elements, rows, inner)),
        draw(strategies.matrices(weights, outputs, inner)),
        draw(strategies.matrices(nonzero, 3 if modulus == P else 2, outputs)),
    )


Drawn = tuple[int, Matrix, Matrix, Matrix]


@pytest.mark.requirement("INT-R3")
@given(drawn=checked())
def test_the_key_is_the_secret_times_the_weights(impl: Implementation, drawn: Drawn) -> None:
    modulus, _, weights, challenge = drawn
    columns = [list(column) for column in zip(*weights, strict=True)]
    key = impl.check_key(weights, challenge, modulus)
    assert [list(row) for row in key] == times(challenge, columns, modulus)


def key_of(drawn: Drawn) -> Matrix:
    """Return z W by its definition."""
    modulus, _, weights, challenge = drawn
    return times(challenge, [list(column) for column in zip(*weights, strict=True)], modulus)


@pytest.mark.requirement("INT-R4")
@given(drawn=checked())
def test_the_right_product_is_accepted(impl: Implementation, drawn: Drawn) -> None:
    modulus, masked, weights, challenge = drawn
    product = times(masked, weights, modulus)
    assert refusal(impl.verify, masked, product, challenge, key_of(drawn), modulus) is None


@pytest.mark.requirement("INT-R4")
@given(drawn=checked(), data=st.data())
def test_one_wrong_element_is_refused(impl: Implementation, drawn: Drawn, data: st.DataObject) -> None:
    modulus, masked, weights, challenge = drawn
    product = times(masked, weights, modulus)
    row, column = (data.draw(st.integers(0, size - 1)) for size in (len(product), len(weights)))
    error = data.draw(st.integers(1, modulus - 1) | st.sampled_from([1, modulus - 1]))
    product[row][column] = (product[row][column] + error) % modulus
    assert refusal(impl.verify, masked, product, challenge, key_of(drawn), modulus) == Refusal.CHECK_FAILED


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize("vector", [0, 1, 2])
def test_every_secret_vector_counts(impl: Implementation, vector: int) -> None:
    challenge, key = [[0], [0], [0]], [[0], [0], [0]]
    challenge[vector] = key[vector] = [1]
    assert refusal(impl.verify, [[5], [7]], [[5], [8]], challenge, key, P) == Refusal.CHECK_FAILED
    assert refusal(impl.verify, [[5], [7]], [[5], [7]], challenge, key, P) is None


BROKEN: dict[str, tuple[Refusal, Callable[[Implementation], object]]] = {
    "rows": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1], [1]], [[1]], [[1]] * 3, [[1]] * 3, P)),
    "columns": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1]], [[1, 1]], [[1]] * 3, [[1]] * 3, P)),
    "inner": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1, 1]], [[1]], [[1]] * 3, [[1]] * 3, P)),
    "empty": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([], [], [[1]] * 3, [[1]] * 3, P)),
    "ragged": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1], [1]], [[1], []], [[1]] * 3, [[1]] * 3, P)),
    "keys": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1]], [[1]], [[1]] * 3, [[1]] * 2, P)),
    "vectors": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1]], [[1]], [[1]] * 2, [[1]] * 3, P)),
    "none": (Refusal.SHAPE_MISMATCH, lambda i: i.verify([[1]], [[1]], [], [], P)),
    "p": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[0]], [[P]], [[1]] * 3, [[1]] * 3, P)),
    "q": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[0]], [[Q]], [[1]] * 2, [[1]] * 2, Q)),
    "q-masked": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[Q]], [[0]], [[1]] * 2, [[1]] * 2, Q)),
    "q-top": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[0]], [[2**64 - 1]], [[1]] * 2, [[1]] * 2, Q)),
    "q-huge": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[2**64]], [[0]], [[1]] * 2, [[1]] * 2, Q)),
    "huge": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[0]], [[2**64]], [[1]] * 3, [[1]] * 3, P)),
    "huge-masked": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[2**64]], [[0]], [[1]] * 3, [[1]] * 3, P)),
    "negative": (Refusal.NOT_IN_FIELD, lambda i: i.verify([[0]], [[-1]], [[1]] * 3, [[1]] * 3, P)),
}


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize("name", BROKEN)
def test_products_that_are_none_are_refused(impl: Implementation, name: str) -> None:
    reason, call = BROKEN[name]
    assert refusal(call, impl) == reason


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize(("modulus", "top"), [*((p, 32639) for p in constants.PRIMES), (Q, 128)])
def test_a_real_check_accepts_and_refuses(impl: Implementation, modulus: int, top: int) -> None:
    weights, masked = [[3, -4], [top - 1, 1], [0, -top]], [[1, modulus - 1], [modulus - 2, 12345]]
    tape = impl.seeded_tape(SEED)
    challenge = impl.challenge(tape, 4, 3, modulus)
    key = impl.check_key(weights, challenge, modulus)
    product = times(masked, weights, modulus)
    assert refusal(impl.verify, masked, product, challenge, key, modulus) is None
    assert refusal(impl.verify, masked, product[::-1], challenge, key, modulus) == Refusal.CHECK_FAILED


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize(("modulus", "top"), [*((p, 32639) for p in constants.PRIMES), (Q, 128)])
def test_the_widest_sums_are_checked_exactly(impl: Implementation, modulus: int, top: int) -> None:
    inner, outputs, count = 4096, 512, 3 if modulus == P else 2
    masked, product = [[modulus - 1] * inner], [[inner * top] * outputs]
    challenge = [[modulus - 1 - t] * outputs for t in range(count)]
    key = [[outputs * (1 + t) * top] * inner for t in range(count)]
    assert refusal(impl.verify, masked, product, challenge, key, modulus) is None
    assert refusal(impl.verify, masked, [[*product[0][1:], 0]], challenge, key, modulus) == (
        Refusal.CHECK_FAILED
    )


@pytest.mark.requirement("INT-R4")
@pytest.mark.parametrize("error", [1, 2**32, 2**63, Q - 1, Q // 2])
def test_no_error_over_the_largest_field_is_too_small_or_too_large(impl: Implementation, error: int) -> None:
    challenge = key = [[1], [Q - 1]]
    assert refusal(impl.verify, [[5]], [[5]], challenge, key, Q) is None
    assert refusal(impl.verify, [[5]], [[(5 + error) % Q]], challenge, key, Q) == Refusal.CHECK_FAILED


@pytest.mark.requirement("INT-R5")
@given(
    group=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 4),
    inner=st.integers(1, 4),
    data=st.data(),
)
@examples(30)
def test_a_leaf_is_the_groups_number_its_shape_and_its_weights(
    impl: Implementation, group: int, outputs: int, inner: int, data: st.DataObject
) -> None:
    cells = strategies.weights | st.sampled_from([-(2**15), 2**15 - 1, -1, 0, 255, 256])
    weights = data.draw(strategies.matrices(cells, outputs, inner))
    leaf = bytes(impl.weight_leaf(group, weights))
    assert leaf[:12] == struct.pack("<3I", group, outputs, inner)
    flat = [weight for row in weights for weight in row]
    assert leaf[12:] == struct.pack(f"<{outputs * inner}h", *flat)


@pytest.mark.requirement("INT-R5")
def test_a_known_leaf(impl: Implementation) -> None:
    leaf = bytes(impl.weight_leaf(258, [[1, -1, 256], [-32639, 32639, 0]]))
    assert leaf.hex() == "02010000" + "02000000" + "03000000" + "0100ffff0001" + "8180" + "7f7f" + "0000"


CT_LEAVES = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
CT_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""Leaves and tree hashes published with the reference implementation of Certificate Transparency."""


@pytest.mark.requirement("INT-R6")
@pytest.mark.parametrize("count", CT_ROOTS)
def test_tree_hashes_of_certificate_transparency(impl: Implementation, count: int) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES[:count]]
    assert bytes(impl.merkle_root(leaves)).hex() == CT_ROOTS[count]


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the tree hash, level by level: pairs join, and what is left over goes up as it is."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        joined = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs]
        level = joined + level[len(level) - len(level) % 2 :]
    return level[0]


@pytest.mark.requirement("INT-R6")
@given(leaves=st.lists(st.binary(max_size=70), min_size=1, max_size=20))
@examples(40)
def test_the_commitment_joins_leaves_in_their_order(impl: Implementation, leaves: list[bytes]) -> None:
    assert bytes(impl.merkle_root(leaves)) == tree_hash(leaves)


@pytest.mark.requirement("INT-R6")
@pytest.mark.parametrize("count", [*range(1, 18), 31, 32, 33, 65])
def test_every_number_of_leaves_has_its_tree(impl: Implementation, count: int) -> None:
    leaves = [bytes([index]) * (index % 3) for index in range(count)]
    assert bytes(impl.merkle_root(leaves)) == tree_hash(leaves)
