"""Masked outsourcing: fields, pads, mask, multiply, unmask."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veil_conformance import strategies, tiny_model
from veil_conformance.checking import SEED, examples, refusal
from veil_conformance.tiny_model import SMALL
from veil_spec import constants
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Domain, ModelShape, Rows

P32, P40, P48 = constants.PRIMES
SMALLEST = P32
widths = st.integers(1, 4)


def row_of_norm(norm: int) -> list[int]:
    """Return weights whose absolute values add up to norm, with both signs."""
    full, rest = divmod(norm, constants.WEIGHT_LIMIT)
    return [(-1) ** i * constants.WEIGHT_LIMIT for i in range(full)] + [rest]


def lists(rows: Rows) -> list[list[int]]:
    """Return rows as lists."""
    return [list(row) for row in rows]


@pytest.mark.requirement("RMO-R1")
@pytest.mark.parametrize(
    ("norm", "modulus"),
    [
        (0, P32),
        (1, P32),
        ((P32 - 1) // 2 // 2**15, P32),
        ((P32 - 1) // 2 // 2**15 + 1, P40),
        ((P40 - 1) // 2 // 2**15, P40),
        ((P40 - 1) // 2 // 2**15 + 1, P48),
    ],
)
def test_the_smallest_field_without_wrap_is_chosen(impl: Implementation, norm: int, modulus: int) -> None:
    row = row_of_norm(norm)
    assert impl.choose_modulus([[0] * len(row), row]) == modulus


@pytest.mark.requirement("RMO-R1")
@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 8))
def test_no_product_can_reach_half_of_the_field(
    impl: Implementation, data: st.DataObject, rows: int, columns: int
) -> None:
    weights = data.draw(strategies.matrices(strategies.weights, rows, columns))
    largest = 2**15 * max(sum(map(abs, row)) for row in weights)
    assert impl.choose_modulus(weights) == min(p for p in constants.PRIMES if largest <= (p - 1) // 2)


@pytest.mark.requirement("RMO-R2")
def test_weights_that_no_field_holds_are_refused(impl: Implementation) -> None:
    norm = (P48 - 1) // 2 // 2**15
    assert impl.choose_modulus([row_of_norm(norm)]) == P48
    assert refusal(impl.choose_modulus, [row_of_norm(norm + 1)]) == Refusal.WOULD_WRAP


@pytest.mark.requirement("RMO-R2")
@pytest.mark.parametrize(
    ("weight", "reason"),
    [(32640, True), (-32640, True), (2**63, True), (-(2**63), True), (32639, False), (-32639, False)],
)
def test_weights_beyond_sixteen_bits_are_refused(impl: Implementation, weight: int, reason: bool) -> None:
    expected = Refusal.WEIGHT_OUT_OF_RANGE if reason else None
    assert refusal(impl.choose_modulus, [[1, 0], [0, weight]]) == expected


@pytest.mark.requirement("RMO-R2")
@pytest.mark.parametrize("weights", [[], [[]], [[], []], [[1, 2], [3]], [[1], [2, 3]]])
def test_weights_that_are_no_matrix_are_refused(impl: Implementation, weights: Rows) -> None:
    assert refusal(impl.choose_modulus, weights) == Refusal.SHAPE_MISMATCH


@st.composite
def masked_product(draw: st.DrawFn) -> tuple[int, list[list[int]], list[list[int]], list[list[int]]]:
    """Return (modulus, activations [n, inner], pads [n, inner], weights [outputs, inner])."""
    modulus, rows, inner, outputs = draw(strategies.moduli), draw(widths), draw(widths), draw(widths)
    elements = st.integers(0, modulus - 1) | st.sampled_from([0, modulus - 1])
    return (
        modulus,
        draw(strategies.matrices(strategies.activations, rows, inner)),
        draw(strategies.matrices(elements, rows, inner)),
        draw(strategies.matrices(strategies.weights, outputs, inner)),
    )


Drawn = tuple[int, list[list[int]], list[list[int]], list[list[int]]]


@pytest.mark.requirement("RMO-R3")
@given(drawn=masked_product())
def test_mask_adds_in_the_field(impl: Implementation, drawn: Drawn) -> None:
    modulus, activations, pads, _ = drawn
    both = zip(activations, pads, strict=True)
    expected = [[(x + r) % modulus for x, r in zip(*rows, strict=True)] for rows in both]
    assert lists(impl.mask(activations, pads, modulus)) == expected


@pytest.mark.requirement("RMO-R4")
@given(drawn=masked_product())
def test_multiply_is_the_product_in_the_field(impl: Implementation, drawn: Drawn) -> None:
    modulus, _, masked, weights = drawn
    expected = [
        [sum(x * w for x, w in zip(row, c, strict=True)) % modulus for c in weights] for row in masked
    ]
    assert lists(impl.multiply(masked, weights, modulus)) == expected


@pytest.mark.requirement("RMO-R4")
@pytest.mark.parametrize("modulus", constants.PRIMES)
def test_multiply_is_exact_on_the_widest_sums(impl: Implementation, modulus: int) -> None:
    inner, top = 4096, constants.WEIGHT_LIMIT
    made = impl.multiply([[modulus - 1] * inner], [[top] * inner, [-top] * inner], modulus)
    assert lists(made) == [[-inner * top % modulus, inner * top % modulus]]


@pytest.mark.requirement("RMO-R5")
@given(data=st.data(), modulus=strategies.moduli, rows=widths, columns=widths)
def test_unmask_lifts_to_the_integer_nearest_to_zero(
    impl: Implementation, data: st.DataObject, modulus: int, rows: int, columns: int
) -> None:
    half = (modulus - 1) // 2
    plain = data.draw(
        strategies.matrices(st.integers(-half, half) | st.sampled_from([-half, half]), rows, columns)
    )
    correction = data.draw(strategies.matrices(st.integers(0, modulus - 1), rows, columns))
    both = zip(plain, correction, strict=True)
    product = [[(y + c) % modulus for y, c in zip(*pair, strict=True)] for pair in both]
    assert lists(impl.unmask(product, correction, modulus)) == plain


@pytest.mark.requirement("RMO-R5")
@given(drawn=masked_product())
def test_masking_multiplying_and_unmasking_gives_the_plain_product(
    impl: Implementation, drawn: Drawn
) -> None:
    _, activations, pads, weights = drawn
    modulus = P48
    plain = [[sum(x * w for x, w in zip(row, c, strict=True)) for c in weights] for row in activations]
    product = impl.multiply(impl.mask(activations, pads, modulus), weights, modulus)
    assert lists(impl.unmask(product, impl.multiply(pads, weights, modulus), modulus)) == plain


steps = st.integers(0, 2**32 - 1)


@pytest.mark.requirement("RMO-R6")
@given(group=steps, step=steps, modulus=strategies.moduli)
@examples(30)
def test_pads_come_from_the_stream_of_group_and_step(
    impl: Implementation, group: int, step: int, modulus: int
) -> None:
    tape = impl.seeded_tape(SEED)
    elements = impl.field_elements(tape, Domain.PAD, group * 2**32 + step, 0, 3, modulus)
    assert lists(impl.pad(tape, group, step, 1, 3, modulus)) == [list(elements)]


@pytest.mark.requirement("RMO-R6")
@pytest.mark.parametrize(("group", "step"), [(2**32, 0), (0, 2**32), (-1, 0), (0, -1)])
def test_pads_without_a_stream_are_refused(impl: Implementation, group: int, step: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.pad, tape, group, step, 1, 1, SMALLEST) == Refusal.STREAM_OUT_OF_RANGE
    basis = [[1, 2]]
    assert refusal(impl.rank_pad, tape, basis, group, step, 1, SMALLEST) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("RMO-R7")
@given(rows=widths, columns=widths, modulus=strategies.moduli)
@examples(30)
def test_pads_fill_their_rows_in_order(impl: Implementation, rows: int, columns: int, modulus: int) -> None:
    tape = impl.seeded_tape(SEED)
    made = lists(impl.pad(tape, 5, 7, rows, columns, modulus))
    for r in range(rows):
        alone = impl.field_elements(tape, Domain.PAD, 5 * 2**32 + 7, r * columns, columns, modulus)
        assert made[r] == list(alone)
    assert len(made) == rows


@pytest.mark.requirement("RMO-R8")
@given(
    shape=strategies.shapes(),
    seed=strategies.seeds,
    tokens=st.lists(st.integers(0, 1), min_size=1, max_size=3),
)
@examples(8)
def test_masked_logits_are_the_plain_ones(
    impl: Implementation,
    tmp_path_factory: pytest.TempPathFactory,
    shape: ModelShape,
    seed: bytes,
    tokens: list[int],
) -> None:
    path = tiny_model.write(tmp_path_factory.getbasetemp() / "masked.safetensors", shape, seed)
    assert lists(impl.masked_logits(path, tokens, seed, None)) == lists(impl.logits(path, tokens))


@pytest.mark.requirement("RMO-R8")
@pytest.mark.parametrize("ratio", [Fraction(1, 2), Fraction(9, 10)])
def test_logits_under_the_papers_masks_are_the_plain_ones(
    impl: Implementation, tmp_path: Path, ratio: Fraction
) -> None:
    path = tiny_model.write(tmp_path / "ranked.safetensors", replace(SMALL, layers=1), SEED)
    assert lists(impl.masked_logits(path, [1, 2], SEED, ratio)) == lists(impl.logits(path, [1, 2]))


@pytest.mark.requirement("RMO-R9")
@given(
    data=st.data(), modulus=strategies.moduli, rows=widths, rank=st.integers(1, 3), group=steps, step=steps
)
@examples(30)
def test_the_papers_pads_are_a_secret_times_the_basis(
    impl: Implementation, data: st.DataObject, modulus: int, rows: int, rank: int, group: int, step: int
) -> None:
    basis = data.draw(strategies.matrices(st.integers(0, modulus - 1), rank, 4))
    tape, stream = impl.seeded_tape(SEED), group * 2**32 + step
    secret = [
        impl.field_elements(tape, Domain.RANK_MASK, stream, r * rank, rank, modulus) for r in range(rows)
    ]
    columns = list(zip(*basis, strict=True))
    expected = [
        [sum(s * a for s, a in zip(row, c, strict=True)) % modulus for c in columns] for row in secret
    ]
    assert lists(impl.rank_pad(tape, basis, group, step, rows, modulus)) == expected


@pytest.mark.requirement("RMO-R10")
@given(group=steps, rank=st.integers(1, 3), modulus=strategies.moduli)
@examples(30)
def test_the_basis_comes_from_the_stream_of_its_group(
    impl: Implementation, group: int, rank: int, modulus: int
) -> None:
    tape = impl.seeded_tape(SEED)
    rows = [impl.field_elements(tape, Domain.RANK_BASIS, group, r * 4, 4, modulus) for r in range(rank)]
    assert lists(impl.rank_basis(tape, group, rank, 4, modulus)) == lists(rows)


@pytest.mark.requirement("RMO-R10")
@pytest.mark.parametrize("rank", [0, 4, 5, -1])
def test_a_rank_that_is_none_is_refused(impl: Implementation, rank: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.rank_basis, tape, 0, rank, 4, SMALLEST) == Refusal.RANK_OUT_OF_RANGE


@pytest.mark.requirement("RMO-R11")
@given(used=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=6))
def test_the_steps_of_a_group_only_ever_increase(impl: Implementation, used: list[tuple[int, int]]) -> None:
    by_group = [[step for group, step in used if group == g] for g in range(3)]
    fresh = all(a < b for steps in by_group for a, b in pairwise(steps))
    assert refusal(impl.burn, used) == (None if fresh else Refusal.PAD_REUSED)


@pytest.mark.requirement("RMO-R11")
@pytest.mark.parametrize("used", [[(1, 1), (1, 1)], [(1, 1), (1, 0)], [(1, 4), (2, 0), (1, 3)]])
def test_a_pad_is_never_used_again(impl: Implementation, used: list[tuple[int, int]]) -> None:
    assert refusal(impl.burn, used) == Refusal.PAD_REUSED


Broken = Callable[[Implementation], object]
BAD_SHAPES: dict[str, Broken] = {
    "mask-empty": lambda impl: impl.mask([], [], SMALLEST),
    "mask-empty-rows": lambda impl: impl.mask([[]], [[]], SMALLEST),
    "mask-ragged": lambda impl: impl.mask([[1, 2], [3]], [[1, 2], [3]], SMALLEST),
    "mask-ragged-activations": lambda impl: impl.mask([[1, 2], [3]], [[1, 2], [3, 4]], SMALLEST),
    "mask-mismatch": lambda impl: impl.mask([[1, 2]], [[1]], SMALLEST),
    "mask-rows": lambda impl: impl.mask([[1], [2]], [[1]], SMALLEST),
    "multiply-empty": lambda impl: impl.multiply([], [[1]], SMALLEST),
    "multiply-empty-weights": lambda impl: impl.multiply([[1]], [], SMALLEST),
    "multiply-ragged": lambda impl: impl.multiply([[1, 2], [3]], [[1, 2]], SMALLEST),
    "multiply-ragged-weights": lambda impl: impl.multiply([[1, 2]], [[1, 2], [3]], SMALLEST),
    "multiply-mismatch": lambda impl: impl.multiply([[1, 2]], [[1, 2, 3]], SMALLEST),
    "unmask-empty": lambda impl: impl.unmask([], [], SMALLEST),
    "unmask-ragged": lambda impl: impl.unmask([[1, 2], [3]], [[1, 2], [3]], SMALLEST),
    "unmask-mismatch": lambda impl: impl.unmask([[1, 2]], [[1], [2]], SMALLEST),
}
OUTSIDE: dict[str, Broken] = {
    "mask-p": lambda impl: impl.mask([[1, 1]], [[0, SMALLEST]], SMALLEST),
    "mask-negative": lambda impl: impl.mask([[1]], [[-1]], SMALLEST),
    "multiply-p": lambda impl: impl.multiply([[SMALLEST]], [[1]], SMALLEST),
    "multiply-negative": lambda impl: impl.multiply([[-1]], [[1]], SMALLEST),
    "mask-huge": lambda impl: impl.mask([[1]], [[2**63]], SMALLEST),
    "multiply-huge": lambda impl: impl.multiply([[2**64]], [[1]], SMALLEST),
    "unmask-huge": lambda impl: impl.unmask([[2**63]], [[0]], SMALLEST),
    "unmask-huge-correction": lambda impl: impl.unmask([[0]], [[-(2**63) - 1]], SMALLEST),
    "unmask-p": lambda impl: impl.unmask([[SMALLEST]], [[0]], SMALLEST),
    "unmask-correction": lambda impl: impl.unmask([[0]], [[SMALLEST]], SMALLEST),
}
UNKNOWN: dict[str, Broken] = {
    "mask": lambda impl: impl.mask([[1]], [[1]], 97),
    "multiply": lambda impl: impl.multiply([[1]], [[1]], 2**32),
    "unmask": lambda impl: impl.unmask([[1]], [[1]], 2**61 - 1),
}


@pytest.mark.requirement("RMO-R12")
@pytest.mark.parametrize("name", BAD_SHAPES)
def test_matrices_that_do_not_fit_are_refused(impl: Implementation, name: str) -> None:
    assert refusal(BAD_SHAPES[name], impl) == Refusal.SHAPE_MISMATCH


@pytest.mark.requirement("RMO-R12")
@pytest.mark.parametrize("name", OUTSIDE)
def test_elements_outside_the_field_are_refused(impl: Implementation, name: str) -> None:
    assert refusal(OUTSIDE[name], impl) == Refusal.NOT_IN_FIELD


@pytest.mark.requirement("RMO-R12")
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_field_is_refused(impl: Implementation, name: str) -> None:
    assert refusal(UNKNOWN[name], impl) == Refusal.FIELD_UNKNOWN


@pytest.mark.requirement("RMO-R12")
@pytest.mark.parametrize(
    ("value", "refused"),
    [(32768, True), (-32768, True), (2**63, True), (-(2**63), True), (32767, False), (-32767, False)],
)
def test_activations_beyond_sixteen_bits_are_refused(impl: Implementation, value: int, refused: bool) -> None:
    expected = Refusal.ACTIVATION_OUT_OF_RANGE if refused else None
    assert refusal(impl.mask, [[0, value]], [[0, 0]], SMALLEST) == expected
