"""Masked outsourcing: fields, pads, mask, multiply, unmask, and profile `lwe`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import strategies, tiny_model
from veil_conformance.checking import SEED, examples, nearest, refusal
from veil_conformance.tiny_model import ENCODER, SMALL, SWITCHED
from veil_spec import __version__, constants
from veil_spec.architecture import DecoderShape, Precision
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import Address, Domain, ListedTape, Rows

P32, P40, P48 = constants.PRIMES
Q = constants.LWE_MODULUS
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


def times(rows: Rows, weights: Rows, modulus: int) -> list[list[int]]:
    """Return rows times the transpose of weights in the field."""
    return [[sum(x * w for x, w in zip(row, c, strict=True)) % modulus for c in weights] for row in rows]


@pytest.mark.requirement("RMO-R4")
@given(data=st.data(), modulus=strategies.fields, rows=widths, inner=widths, outputs=widths)
def test_multiply_is_the_product_in_the_field(
    impl: Implementation, data: st.DataObject, modulus: int, rows: int, inner: int, outputs: int
) -> None:
    elements = st.integers(0, modulus - 1) | st.sampled_from([0, modulus - 1])
    cells = strategies.half_weights if modulus == Q else strategies.weights
    masked = data.draw(strategies.matrices(elements, rows, inner))
    weights = data.draw(strategies.matrices(cells, outputs, inner))
    assert lists(impl.multiply(masked, weights, modulus)) == times(masked, weights, modulus)


@pytest.mark.requirement("RMO-R4")
@pytest.mark.parametrize(
    ("modulus", "inner", "top"),
    [*((p, 4096, constants.WEIGHT_LIMIT) for p in (P32, P40, P48)), (Q, 2**14, 128)],
)
def test_multiply_is_exact_on_the_widest_sums(
    impl: Implementation, modulus: int, inner: int, top: int
) -> None:
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


NO_STREAM = [(2**32, 0), (0, 2**32), (-1, 0), (0, -1)]
"""(group, step) of no pad."""


@pytest.mark.requirement("RMO-R6")
@pytest.mark.parametrize(("group", "step"), NO_STREAM)
def test_pads_without_a_stream_are_refused(impl: Implementation, group: int, step: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.pad, tape, group, step, 1, 1, SMALLEST) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("RMO-R6")
@pytest.mark.parametrize(("group", "step"), NO_STREAM)
def test_addresses_without_a_stream_are_refused(impl: Implementation, group: int, step: int) -> None:
    assert refusal(impl.burn, [(2**32 - 1, 2**32 - 1), (group, step)]) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("RMO-R6")
@pytest.mark.parametrize(("group", "step"), NO_STREAM)
def test_the_papers_pads_without_a_stream_are_refused(impl: Implementation, group: int, step: int) -> None:
    tape = impl.seeded_tape(SEED)
    assert refusal(impl.rank_pad, tape, [[1, 2]], group, step, 1, SMALLEST) == Refusal.STREAM_OUT_OF_RANGE


@pytest.mark.requirement("RMO-R6")
@pytest.mark.parametrize(("group", "step"), NO_STREAM)
def test_noise_without_a_stream_is_refused(impl: Implementation, group: int, step: int) -> None:
    tape, basis = impl.seeded_tape(SEED), [[1, 2]]
    assert refusal(impl.lwe_mask, tape, basis, group, step, [[0, 0]]) == Refusal.STREAM_OUT_OF_RANGE
    assert refusal(impl.lwe_unmask, tape, basis, basis, group, step, 2) == Refusal.STREAM_OUT_OF_RANGE


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
    shape: DecoderShape,
    seed: bytes,
    tokens: list[int],
) -> None:
    path = tiny_model.write(tmp_path_factory.getbasetemp() / "masked.safetensors", shape, seed)
    assert lists(impl.masked_logits(path, tokens, seed, None)) == lists(impl.logits(path, tokens))


@pytest.mark.requirement("RMO-R8")
@pytest.mark.parametrize("precision", Precision)
def test_masked_logits_with_every_switch_are_the_plain_ones(
    impl: Implementation, tmp_path: Path, precision: Precision
) -> None:
    path = tiny_model.write(tmp_path / "switched.safetensors", SWITCHED, SEED, precision)
    assert lists(impl.masked_logits(path, [1, 2, 3], SEED, None)) == lists(impl.logits(path, [1, 2, 3]))


@pytest.mark.requirement("RMO-R8")
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("tokens", [[5], [1, 8, 3, 3]], ids=len)
def test_a_masked_stream_is_the_plain_one(
    impl: Implementation, tmp_path: Path, tokens: list[int], precision: Precision
) -> None:
    path = tiny_model.write(tmp_path / "encoder.safetensors", ENCODER, SEED, precision)
    assert lists(impl.masked_stream(path, tokens, SEED)) == lists(impl.stream(path, tokens))


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


def listed_elements(
    domain: Domain, stream: int, rows: Rows, rejected: Sequence[int] = ()
) -> dict[Address, int]:
    """Return the words of these field elements, each drawn after the same rejected candidates."""
    listed: dict[Address, int] = {}
    for index, element in enumerate(element for row in rows for element in row):
        first, *retries = [*rejected, element]
        listed[domain, stream, index] = first
        retry = stream + (index + 1) * 2**64
        listed |= {(domain, retry, n): word for n, word in enumerate(retries)}
    return listed


def listed_words(stream: int, rows: Rows) -> dict[Address, int]:
    """Return words of noise, row after row."""
    flat = [word for row in rows for word in row]
    return {(Domain.LWE_NOISE, stream, index): word for index, word in enumerate(flat)}


def noise_reach(inner: int) -> int:
    """Return 2^b of spec/remo.md: noise is at least its negative and below it."""
    return 1 << (33 - 2 * min(k for k in range(15) if inner <= 2**k))


def scale(inner: int) -> int:
    """Return D of spec/remo.md."""
    return Q // (2 * 32767 * 128 * inner + 1)


def hidden(secret: Rows, basis: Rows) -> list[list[int]]:
    """Return S A mod q."""
    return times(secret, list(zip(*basis, strict=True)), Q)


def identity(size: int) -> list[list[int]]:
    """Return the matrix that changes nothing."""
    return [[int(i == j) for j in range(size)] for i in range(size)]


lwe_elements = st.integers(0, Q - 1) | st.sampled_from([0, 1, Q - 1])
lwe_rejected = st.lists(st.integers(Q, 2**64 - 1), max_size=2)
INNERS = (1, 2, 3, 4, 5, 8, 9, 2048, 2049, 4096, 4097, 8192, 8193, 14336, 16384)
EDGES = {2048: 1920, 2113: 2112, 4096: 2112, 4097: 2256, 8192: 2256, 8193: 2432, 14336: 2432, 16384: 2432}


@pytest.mark.requirement("RMO-R13")
@pytest.mark.parametrize("inner", [*EDGES, -1, 0, 1, 1920, 1921, 2047, 2049, 2112, 16385, 2**15, 2**64])
def test_a_row_has_as_many_secrets_as_its_length_asks_for_or_is_refused(
    impl: Implementation, inner: int
) -> None:
    if inner in EDGES:
        assert impl.lwe_dimension(inner) == EDGES[inner]
    else:
        assert refusal(impl.lwe_dimension, inner) == Refusal.LWE_UNSUITABLE


@pytest.mark.requirement("RMO-R13")
@given(inner=st.integers(2048, 2**14))
def test_secrets_are_fewer_than_the_row_has_elements(impl: Implementation, inner: int) -> None:
    ends = zip((2**11, 2**12, 2**13, 2**14), (1920, 2112, 2256, 2432), strict=True)
    dimension = next(m for end, m in ends if inner <= end)
    if inner > dimension:
        assert impl.lwe_dimension(inner) == dimension
    else:
        assert refusal(impl.lwe_dimension, inner) == Refusal.LWE_UNSUITABLE


@pytest.mark.requirement("RMO-R14")
@pytest.mark.parametrize("inner", INNERS)
def test_levels_follow_the_inner_dimension(impl: Implementation, inner: int) -> None:
    assert tuple(impl.lwe_levels(inner)) == (noise_reach(inner).bit_length() - 1, scale(inner))


@pytest.mark.requirement("RMO-R14")
@given(inner=st.integers(1, 2**14))
def test_noise_under_any_weights_stays_below_half_a_step_and_products_below_half_of_the_field(
    impl: Implementation, inner: int
) -> None:
    bits, step = impl.lwe_levels(inner)
    assert 2 * inner * 128 * 2**bits < step
    assert step * (2 * 32767 * 128 * inner + 1) <= Q
    assert tuple(impl.lwe_levels(inner)) == (noise_reach(inner).bit_length() - 1, scale(inner))


SPLIT = {
    0: (0, 0),
    1: (0, 1),
    -1: (0, -1),
    127: (0, 127),
    128: (1, -128),
    -128: (0, -128),
    -129: (-1, 127),
    255: (1, -1),
    -384: (-1, -128),
    32383: (126, 127),
    32384: (127, -128),
    32639: (127, 127),
    -32639: (-127, -127),
    -32638: (-127, -126),
}


@pytest.mark.requirement("RMO-R15")
@pytest.mark.parametrize("weight", SPLIT)
def test_a_weight_is_two_signed_bytes(impl: Implementation, weight: int) -> None:
    high, low = SPLIT[weight]
    assert lists(impl.halves([[weight]])) == [[high], [low]]


@pytest.mark.requirement("RMO-R15")
@given(data=st.data(), outputs=widths, inner=widths)
def test_all_high_bytes_come_before_all_low_bytes(
    impl: Implementation, data: st.DataObject, outputs: int, inner: int
) -> None:
    weights = data.draw(strategies.matrices(strategies.weights, outputs, inner))
    made = lists(impl.halves(weights))
    high, low = made[:outputs], made[outputs:]
    assert len(low) == outputs and all(-128 <= byte <= 127 for row in low for byte in row)
    both = zip(high, low, strict=True)
    assert [[256 * x + y for x, y in zip(*rows, strict=True)] for rows in both] == weights


@pytest.mark.requirement("RMO-R16")
@given(data=st.data(), group=steps, dimension=widths, inner=widths, rejected=lwe_rejected)
@examples(30)
def test_the_public_matrix_is_drawn_row_after_row_from_the_stream_of_its_group(
    impl: Implementation,
    data: st.DataObject,
    group: int,
    dimension: int,
    inner: int,
    rejected: list[int],
) -> None:
    rows = data.draw(strategies.matrices(lwe_elements, dimension, inner))
    tape = ListedTape(listed_elements(Domain.LWE_BASIS, group, rows, rejected))
    assert lists(impl.lwe_basis(tape, group, dimension, inner)) == rows


@pytest.mark.requirement("RMO-R16")
def test_the_public_matrix_of_a_seeded_tape(impl: Implementation) -> None:
    tape = impl.seeded_tape(SEED)
    words = [[tape.word(Domain.LWE_BASIS, 9, 3 * row + column) for column in range(3)] for row in range(2)]
    assert lists(impl.lwe_basis(tape, 9, 2, 3)) == words


@pytest.mark.requirement("RMO-R17")
@given(data=st.data(), group=steps, step=steps, rows=widths, inner=widths, rejected=lwe_rejected)
@examples(30)
def test_every_row_has_secrets_of_its_own_from_the_stream_of_group_and_step(
    impl: Implementation,
    data: st.DataObject,
    group: int,
    step: int,
    rows: int,
    inner: int,
    rejected: list[int],
) -> None:
    secret, stream = data.draw(strategies.matrices(lwe_elements, rows, inner)), group * 2**32 + step
    silent = listed_words(stream, [[noise_reach(inner)] * inner] * rows)
    tape = ListedTape(listed_elements(Domain.LWE_SECRET, stream, secret, rejected) | silent)
    assert lists(impl.lwe_mask(tape, identity(inner), group, step, [[0] * inner] * rows)) == secret


@pytest.mark.requirement("RMO-R17")
@given(data=st.data(), group=steps, step=steps, rows=widths, dimension=widths, outputs=widths)
@examples(30)
def test_unmasking_takes_the_same_secrets(
    impl: Implementation,
    data: st.DataObject,
    group: int,
    step: int,
    rows: int,
    dimension: int,
    outputs: int,
) -> None:
    secret = data.draw(strategies.matrices(lwe_elements, rows, dimension))
    hint = data.draw(strategies.matrices(lwe_elements, dimension, 2 * outputs))
    tape = ListedTape(listed_elements(Domain.LWE_SECRET, group * 2**32 + step, secret))
    made = impl.lwe_unmask(tape, hidden(secret, hint), hint, group, step, 7)
    assert lists(made) == [[0] * outputs] * rows


def without_secret(group: int, step: int, rows: int, dimension: int) -> dict[Address, int]:
    """Return the words of secrets that are all zero."""
    return listed_elements(Domain.LWE_SECRET, group * 2**32 + step, [[0] * dimension] * rows)


@pytest.mark.requirement("RMO-R18")
@given(data=st.data(), group=steps, step=steps, rows=widths, inner=st.sampled_from([1, 2, 3, 4, 5, 9, 17]))
@examples(30)
def test_noise_is_the_low_bits_of_a_word_around_zero(
    impl: Implementation, data: st.DataObject, group: int, step: int, rows: int, inner: int
) -> None:
    reach = noise_reach(inner)
    ends = st.sampled_from([0, reach - 1, reach, 2 * reach - 1, 2 * reach, 2**64 - 1])
    words = data.draw(strategies.matrices(strategies.words | ends, rows, inner))
    tape = ListedTape(without_secret(group, step, rows, 2) | listed_words(group * 2**32 + step, words))
    expected = [[(word % (2 * reach) - reach) % Q for word in row] for row in words]
    basis = [[Q - 1] * inner, [1] * inner]
    assert lists(impl.lwe_mask(tape, basis, group, step, [[0] * inner] * rows)) == expected


@pytest.mark.requirement("RMO-R18")
@pytest.mark.parametrize("inner", [8, 9, 2048, 4096, 4097, 8193])
def test_noise_has_fewer_bits_in_longer_rows(impl: Implementation, inner: int) -> None:
    reach = noise_reach(inner)
    words = [[(index * 0x9E3779B97F4A7C15) % 2**64 for index in range(inner)]]
    tape = ListedTape(without_secret(3, 4, 1, 1) | listed_words(3 * 2**32 + 4, words))
    made = lists(impl.lwe_mask(tape, [[5] * inner], 3, 4, [[0] * inner]))
    assert made == [[(word % (2 * reach) - reach) % Q for word in words[0]]]


@pytest.mark.requirement("RMO-R19")
@given(data=st.data(), rows=widths, dimension=widths, inner=widths)
@examples(30)
def test_a_masked_row_is_the_scaled_row_plus_secrets_times_the_matrix_plus_noise(
    impl: Implementation, data: st.DataObject, rows: int, dimension: int, inner: int
) -> None:
    activations = data.draw(strategies.matrices(strategies.activations, rows, inner))
    secret = data.draw(strategies.matrices(lwe_elements, rows, dimension))
    basis = data.draw(strategies.matrices(lwe_elements, dimension, inner))
    reach, stream = noise_reach(inner), 6 * 2**32 + 8
    noise = data.draw(strategies.matrices(st.integers(-reach, reach - 1), rows, inner))
    words = listed_words(stream, [[e + reach for e in row] for row in noise])
    tape = ListedTape(listed_elements(Domain.LWE_SECRET, stream, secret) | words)
    three = zip(activations, hidden(secret, basis), noise, strict=True)
    expected = [[(scale(inner) * x + s + e) % Q for x, s, e in zip(*each, strict=True)] for each in three]
    assert lists(impl.lwe_mask(tape, basis, 6, 8, activations)) == expected


def unmasked(impl: Implementation, lifted: Sequence[int], inner: int) -> list[list[int]]:
    """Return what unmasking makes of one row of U, with secrets of zero."""
    product, hint = [[u % Q for u in lifted]], [[Q - 1] * len(lifted)]
    return lists(impl.lwe_unmask(ListedTape(without_secret(0, 0, 1, 1)), product, hint, 0, 0, inner))


@pytest.mark.requirement("RMO-R20")
@pytest.mark.parametrize("inner", INNERS)
def test_unmasking_rounds_to_the_nearest_multiple_of_the_scale(impl: Implementation, inner: int) -> None:
    step = scale(inner)
    down, up = (step - 1) // 2, (step + 1) // 2
    rounded = {0: 0, down: 0, -(step // 2): 0, up: 1, -(step // 2) - 1: -1, step - 1: 1, -step: -1}
    rounded |= {5 * step + down: 5, 5 * step + up: 6, -5 * step - step // 2: -5, -5 * step + up: -4}
    rounded |= {5 * step - step // 2: 5, step // 2: 1 - step % 2}
    ends = list(rounded)
    expected = [256 * rounded[high] + rounded[low] for high, low in zip(ends, ends[::-1], strict=True)]
    assert unmasked(impl, [*ends, *ends[::-1]], inner) == [expected]


@pytest.mark.requirement("RMO-R20")
@given(data=st.data(), rows=widths, dimension=widths, outputs=widths, inner=st.sampled_from(INNERS))
@examples(30)
def test_unmasking_lifts_rounds_and_joins_any_product(
    impl: Implementation, data: st.DataObject, rows: int, dimension: int, outputs: int, inner: int
) -> None:
    middle = st.integers((Q - 1) // 2 - 1, (Q - 1) // 2 + 2)
    product = data.draw(strategies.matrices(lwe_elements | middle, rows, 2 * outputs))
    hint = data.draw(strategies.matrices(lwe_elements, dimension, 2 * outputs))
    secret = data.draw(strategies.matrices(lwe_elements | st.just(0), rows, dimension))
    tape = ListedTape(listed_elements(Domain.LWE_SECRET, 2**32, secret))
    expected = []
    for row, cover in zip(product, hidden(secret, hint), strict=True):
        lifted = [(y - s + (Q - 1) // 2) % Q - (Q - 1) // 2 for y, s in zip(row, cover, strict=True)]
        whole = [nearest(Fraction(u, scale(inner))) for u in lifted]
        expected.append([256 * x + y for x, y in zip(whole[:outputs], whole[outputs:], strict=True)])
    assert lists(impl.lwe_unmask(tape, product, hint, 1, 0, inner)) == expected


@pytest.mark.requirement("RMO-R20")
@given(
    data=st.data(),
    seed=strategies.seeds,
    rows=widths,
    dimension=widths,
    inner=st.integers(1, 6),
    outputs=widths,
)
@examples(30)
def test_the_product_of_rows_that_noise_hides_is_the_plain_product(
    impl: Implementation,
    data: st.DataObject,
    seed: bytes,
    rows: int,
    dimension: int,
    inner: int,
    outputs: int,
) -> None:
    activations = data.draw(strategies.matrices(strategies.activations, rows, inner))
    weights = data.draw(strategies.matrices(strategies.weights, outputs, inner))
    tape = impl.seeded_tape(seed)
    basis = impl.lwe_basis(tape, 3, dimension, inner)
    masked = impl.lwe_mask(tape, basis, 3, 4, activations)
    sent = impl.halves(weights)
    product, hint = impl.multiply(masked, sent, Q), impl.multiply(basis, sent, Q)
    plain = [[sum(x * w for x, w in zip(row, c, strict=True)) for c in weights] for row in activations]
    assert lists(impl.lwe_unmask(tape, product, hint, 3, 4, inner)) == plain


@pytest.mark.requirement("RMO-R20")
@pytest.mark.parametrize("inner", [1, 2048, 4096, 14336, 16384])
def test_the_largest_products_survive_the_largest_noise(impl: Implementation, inner: int) -> None:
    reach, stream = noise_reach(inner), 2**32 + 1
    noise, activations = [[-reach] * inner, [reach - 1] * inner], [[-32767] * inner, [32767] * inner]
    weights = [[32384] * inner, [(32384, -32639)[i % 2] for i in range(inner)]]
    secret, basis = [[Q - 1], [Q // 3]], [[Q - 2] * inner]
    words = listed_words(stream, [[e + reach for e in row] for row in noise])
    tape = ListedTape(listed_elements(Domain.LWE_SECRET, stream, secret) | words)
    masked = impl.lwe_mask(tape, basis, 1, 1, activations)
    sent = impl.halves(weights)
    product, hint = impl.multiply(masked, sent, Q), impl.multiply(basis, sent, Q)
    plain = [[sum(x * w for x, w in zip(row, c, strict=True)) for c in weights] for row in activations]
    assert lists(impl.lwe_unmask(tape, product, hint, 1, 1, inner)) == plain


def masks(basis: Rows, activations: Rows) -> Broken:
    """Return the masking of these under the seed of the tests."""
    return lambda impl: impl.lwe_mask(impl.seeded_tape(SEED), basis, 0, 0, activations)


def unmasks(product: Rows, hint: Rows) -> Broken:
    """Return the unmasking of these under the seed of the tests."""
    return lambda impl: impl.lwe_unmask(impl.seeded_tape(SEED), product, hint, 0, 0, 2)


def splits(weights: Rows) -> Broken:
    """Return the splitting of these."""
    return lambda impl: impl.halves(weights)


LWE_BROKEN: dict[str, tuple[Refusal, Broken]] = {
    "no-matrix": (Refusal.SHAPE_MISMATCH, masks([], [[1, 2]])),
    "matrix-empty-row": (Refusal.SHAPE_MISMATCH, masks([[]], [[]])),
    "matrix-ragged": (Refusal.SHAPE_MISMATCH, masks([[1, 2], [3]], [[1, 2]])),
    "no-rows": (Refusal.SHAPE_MISMATCH, masks([[1, 2]], [])),
    "empty-row": (Refusal.SHAPE_MISMATCH, masks([[1, 2]], [[]])),
    "rows-ragged": (Refusal.SHAPE_MISMATCH, masks([[1, 2]], [[1, 2], [3]])),
    "rows-short": (Refusal.SHAPE_MISMATCH, masks([[1, 2]], [[1]])),
    "rows-long": (Refusal.SHAPE_MISMATCH, masks([[1, 2]], [[1, 2, 3]])),
    "matrix-q": (Refusal.NOT_IN_FIELD, masks([[1, Q]], [[1, 2]])),
    "matrix-huge": (Refusal.NOT_IN_FIELD, masks([[1, 2**64]], [[1, 2]])),
    "matrix-top-word": (Refusal.NOT_IN_FIELD, masks([[2**64 - 1, 0]], [[1, 2]])),
    "matrix-negative": (Refusal.NOT_IN_FIELD, masks([[1, 2], [0, -1]], [[1, 2]])),
    "activation": (Refusal.ACTIVATION_OUT_OF_RANGE, masks([[1, 2]], [[1, 32768]])),
    "activation-low": (Refusal.ACTIVATION_OUT_OF_RANGE, masks([[1, 2]], [[0, 0], [-32768, 0]])),
    "activation-huge": (Refusal.ACTIVATION_OUT_OF_RANGE, masks([[1, 2]], [[2**63, 0]])),
    "activation-most-negative": (Refusal.ACTIVATION_OUT_OF_RANGE, masks([[1, 2]], [[-(2**63), 0]])),
    "no-product": (Refusal.SHAPE_MISMATCH, unmasks([], [[1, 2]])),
    "product-empty-row": (Refusal.SHAPE_MISMATCH, unmasks([[]], [[]])),
    "product-ragged": (Refusal.SHAPE_MISMATCH, unmasks([[1, 2], [3]], [[1, 2]])),
    "product-short": (Refusal.SHAPE_MISMATCH, unmasks([[1, 2]], [[1, 2, 3, 4]])),
    "product-odd": (Refusal.SHAPE_MISMATCH, unmasks([[1, 2, 3]], [[1, 2, 3]])),
    "no-hint": (Refusal.SHAPE_MISMATCH, unmasks([[1, 2]], [])),
    "hint-ragged": (Refusal.SHAPE_MISMATCH, unmasks([[1, 2]], [[1, 2], [3]])),
    "product-q": (Refusal.NOT_IN_FIELD, unmasks([[1, Q]], [[1, 2]])),
    "product-negative": (Refusal.NOT_IN_FIELD, unmasks([[-1, 2]], [[1, 2]])),
    "product-huge": (Refusal.NOT_IN_FIELD, unmasks([[2**64, 2]], [[1, 2]])),
    "hint-q": (Refusal.NOT_IN_FIELD, unmasks([[1, 2]], [[Q, 2]])),
    "hint-huge": (Refusal.NOT_IN_FIELD, unmasks([[1, 2]], [[2, 2**64 + 1]])),
    "no-weights": (Refusal.SHAPE_MISMATCH, splits([])),
    "weights-empty-row": (Refusal.SHAPE_MISMATCH, splits([[]])),
    "weights-ragged": (Refusal.SHAPE_MISMATCH, splits([[1, 2], [3]])),
    "weight": (Refusal.WEIGHT_OUT_OF_RANGE, splits([[0, 32640]])),
    "weight-low": (Refusal.WEIGHT_OUT_OF_RANGE, splits([[0], [-32640]])),
    "weight-huge": (Refusal.WEIGHT_OUT_OF_RANGE, splits([[2**63]])),
    "weight-most-negative": (Refusal.WEIGHT_OUT_OF_RANGE, splits([[-(2**63)]])),
}


@pytest.mark.requirement("RMO-R21")
@pytest.mark.parametrize("name", LWE_BROKEN)
def test_what_noise_cannot_hide_is_refused(impl: Implementation, name: str) -> None:
    reason, call = LWE_BROKEN[name]
    assert refusal(call, impl) == reason


@pytest.mark.requirement("RMO-R21")
def test_the_ends_of_the_ranges_are_accepted(impl: Implementation) -> None:
    assert refusal(masks([[0, Q - 1]], [[-32767, 32767]]), impl) is None
    assert refusal(unmasks([[0, Q - 1]], [[Q - 1, 0]]), impl) is None
    assert refusal(splits([[-32639, 32639]]), impl) is None


@pytest.mark.requirement("RMO-R22")
@given(seed=strategies.seeds)
@example(seed=SEED)
def test_the_next_seed_is_a_key_under_the_seed(impl: Implementation, seed: bytes) -> None:
    tag = f"veil {__version__} rmo.ratchet".encode("ascii")
    expected = hashlib.sha256(bytes([len(tag)]) + tag + seed).digest()
    assert bytes(impl.ratchet(seed)) == expected
    assert bytes(impl.ratchet(expected)) == hashlib.sha256(bytes([len(tag)]) + tag + expected).digest()
