"""The check of a masked product."""

from collections.abc import Callable

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
Matrix = list[list[int]]


def times(rows: Matrix, weights: Matrix, modulus: int) -> Matrix:
    """Return rows times the transpose of weights in the field."""
    return [[sum(x * w for x, w in zip(row, c, strict=True)) % modulus for c in weights] for row in rows]


@pytest.mark.requirement("INT-R1")
@pytest.mark.parametrize(("modulus", "count"), list(zip(constants.PRIMES, (3, 2, 2), strict=True)))
def test_repetitions_reach_sixty_four_bits(impl: Implementation, modulus: int, count: int) -> None:
    assert impl.repetitions(modulus) == count
    assert modulus ** (count - 1) < 2**64 <= modulus**count


@pytest.mark.requirement("INT-R2")
@given(
    group=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 5),
    modulus=strategies.moduli,
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
    modulus, rows, inner, outputs = (draw(strategies.moduli), *(draw(st.integers(1, 4)) for _ in range(3)))
    elements = st.integers(0, modulus - 1)
    nonzero = st.integers(1, modulus - 1)
    return (
        modulus,
        draw(strategies.matrices(elements, rows, inner)),
        draw(strategies.matrices(strategies.weights, outputs, inner)),
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
def test_a_real_check_accepts_and_refuses(impl: Implementation) -> None:
    weights, masked = [[3, -4], [32639, 1], [0, -32639]], [[1, P - 1], [P - 2, 12345]]
    tape = impl.seeded_tape(SEED)
    challenge = impl.challenge(tape, 4, 3, P)
    key = impl.check_key(weights, challenge, P)
    product = times(masked, weights, P)
    assert refusal(impl.verify, masked, product, challenge, key, P) is None
    assert refusal(impl.verify, masked, product[::-1], challenge, key, P) == Refusal.CHECK_FAILED
