"""The encoder: its stream, its labels and the mean of a sentence."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import float_model, strategies, tiny_model
from veil_conformance.checking import examples, refusal
from veil_conformance.composed import ComposedEncoder
from veil_conformance.tiny_model import ENCODER, Tensor, Tensors
from veil_spec.architecture import EncoderShape, Precision
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal

TOKENS, TYPES = [3, 1, 4, 1, 5, 8], [0, 0, 1, 0, 1, 1]
ONE_LAYER = replace(ENCODER, layers=1)
places = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=4)
"""Tokens and types of a sequence."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path at which tests put their model file."""
    return tmp_path_factory.mktemp("encoder") / "integer.safetensors"


def run(
    impl: Implementation,
    place: Path,
    shape: EncoderShape,
    made: Tensors,
    tokens: Sequence[int],
    types: Sequence[int] | None,
    precision: Precision = Precision.W16A16,
) -> list[list[int]]:
    """Return the implementation's last stream on an encoder of this shape and these tensors."""
    place.write_bytes(tiny_model.model_bytes(shape, made, precision))
    return [list(row) for row in impl.stream(place, tokens, types)]


def fitted(shape: EncoderShape, drawn: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return tokens and types that the shape has."""
    return [token for token, _ in drawn], [kind % shape.types for _, kind in drawn]


@pytest.mark.requirement("MDL-R14")
@given(shape=strategies.encoder_shapes(), seed=st.binary(max_size=4), drawn=places)
@examples(20)
def test_a_stream_starts_from_the_sum_of_three_rows(
    impl: Implementation, place: Path, shape: EncoderShape, seed: bytes, drawn: list[tuple[int, int]]
) -> None:
    shape = replace(shape, layers=1)
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "o", "down")
    tokens, types = fitted(shape, drawn)
    assert run(impl, place, shape, made, tokens, types) == ComposedEncoder(impl, shape, made).stream(
        tokens, types
    )


@pytest.mark.requirement("MDL-R14")
@pytest.mark.parametrize("exponents", [(-20, -20, -20), (-20, 30, 20), (30, -20, 90), (24, 15, 40)])
def test_the_sum_of_three_rows_is_saturated_once(
    impl: Implementation, place: Path, exponents: tuple[int, int, int]
) -> None:
    made = tiny_model.zeroed(tiny_model.tensors(ONE_LAYER, b"sum"), "o", "down")
    for name, exponent in zip(("embedding", "positions", "types"), exponents, strict=True):
        values = made[f"{name}.exponent"].values
        made[f"{name}.exponent"] = Tensor("I32", (len(values),), (exponent,) * len(values))
    expected = ComposedEncoder(impl, ONE_LAYER, made).stream(TOKENS, TYPES)
    assert run(impl, place, ONE_LAYER, made, TOKENS, TYPES) == expected


@pytest.mark.requirement("MDL-R14")
def test_a_type_is_0_where_none_is_given(impl: Implementation, place: Path) -> None:
    made = tiny_model.tensors(ENCODER, b"segments")
    plain, first, second = (run(impl, place, ENCODER, made, TOKENS, t) for t in (None, [0] * 6, [1] * 6))
    assert plain == first != second
    labels = [list(impl.labels(place, TOKENS, types)) for types in (None, [0] * 6, [1] * 6)]
    assert labels[0] == labels[1] != labels[2]


@pytest.mark.requirement("MDL-R14")
def test_order_is_known_from_the_positions_alone(impl: Implementation, place: Path) -> None:
    """Without rows of positions the order of tokens changes nothing but the order of the stream."""
    made = tiny_model.tensors(ENCODER, b"order")
    blind = tiny_model.zeroed(made, "positions")
    order = [4, 0, 5, 3, 1, 2]
    tokens, types = [TOKENS[i] for i in order], [TYPES[i] for i in order]
    for tensors, alike in ((blind, True), (made, False)):
        straight = run(impl, place, ENCODER, tensors, TOKENS, TYPES)
        moved = run(impl, place, ENCODER, tensors, tokens, types)
        assert (moved == [straight[i] for i in order]) == alike


@pytest.mark.requirement("MDL-R15")
@given(shape=strategies.encoder_shapes(), seed=st.binary(max_size=4), drawn=places)
@example(shape=ENCODER, seed=b"", drawn=[(0, 1), (1, 0), (2, 0), (3, 1), (4, 1)])
@examples(20)
def test_attention_averages_over_all_positions(
    impl: Implementation, place: Path, shape: EncoderShape, seed: bytes, drawn: list[tuple[int, int]]
) -> None:
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "down")
    tokens, types = fitted(shape, drawn)
    assert run(impl, place, shape, made, tokens, types) == ComposedEncoder(impl, shape, made).stream(
        tokens, types
    )


@pytest.mark.requirement("MDL-R15")
@pytest.mark.parametrize("changed", range(6))
def test_every_position_sees_every_other(impl: Implementation, place: Path, changed: int) -> None:
    made = tiny_model.tensors(ONE_LAYER, b"all")
    other = [7 if n == changed else token for n, token in enumerate(TOKENS)]
    before, after = (run(impl, place, ONE_LAYER, made, tokens, TYPES) for tokens in (TOKENS, other))
    assert all(row != new for row, new in zip(before, after, strict=True))


@pytest.mark.requirement("MDL-R16")
@given(
    shape=strategies.encoder_shapes(),
    seed=st.binary(max_size=4),
    drawn=places,
    precision=strategies.precisions,
)
@example(shape=ENCODER, seed=b"", drawn=[(0, 1), (1, 0), (2, 0), (3, 1)], precision=Precision.W8A16)
@examples(20)
def test_a_layer_is_the_composition_of_its_parts(
    impl: Implementation,
    place: Path,
    shape: EncoderShape,
    seed: bytes,
    drawn: list[tuple[int, int]],
    precision: Precision,
) -> None:
    made = tiny_model.tensors(shape, seed, precision)
    tokens, types = fitted(shape, drawn)
    expected = ComposedEncoder(impl, shape, made).stream(tokens, types)
    assert run(impl, place, shape, made, tokens, types, precision) == expected


@pytest.mark.requirement("MDL-R16")
@pytest.mark.parametrize("name", ["o", "down"])
def test_a_sum_of_a_layer_is_saturated(impl: Implementation, place: Path, name: str) -> None:
    made = tiny_model.tensors(ONE_LAYER, b"wide")
    made[f"layers.0.{name}.exponent"] = Tensor("I32", (6,), (-20,) * 6)
    made["embedding_norm.exponent"] = made["layers.0.attention_norm.exponent"] = Tensor("I32", (1,), (2,))
    expected = ComposedEncoder(impl, ONE_LAYER, made).stream(TOKENS, TYPES)
    assert run(impl, place, ONE_LAYER, made, TOKENS, TYPES) == expected


@pytest.mark.requirement("MDL-R16")
@pytest.mark.parametrize("seed", [b"a", b"b", b"c"])
def test_the_stream_is_close_to_that_of_real_arithmetic(
    impl: Implementation, place: Path, seed: bytes
) -> None:
    made = tiny_model.tensors(ENCODER, seed)
    exact = float_model.stream(ENCODER, made, TOKENS, TYPES)
    size = max(abs(x) for row in exact for x in row)
    for row, real in zip(run(impl, place, ENCODER, made, TOKENS, TYPES), exact, strict=True):
        assert all(abs(word / 2**24 - x) < 0.002 * size for word, x in zip(row, real, strict=True))


@pytest.mark.requirement("MDL-R17")
@given(shape=strategies.encoder_shapes(), seed=st.binary(max_size=4), drawn=places)
@example(shape=ENCODER, seed=b"", drawn=[(0, 1), (1, 0)])
@examples(20)
def test_labels_are_read_from_the_first_position(
    impl: Implementation, place: Path, shape: EncoderShape, seed: bytes, drawn: list[tuple[int, int]]
) -> None:
    made = tiny_model.tensors(shape, seed)
    tokens, types = fitted(shape, drawn)
    expected = ComposedEncoder(impl, shape, made).labels(run(impl, place, shape, made, tokens, types))
    assert list(impl.labels(place, tokens, types)) == expected


@pytest.mark.requirement("MDL-R17")
@pytest.mark.parametrize("seed", [b"a", b"b"])
def test_labels_are_close_to_those_of_real_arithmetic(impl: Implementation, place: Path, seed: bytes) -> None:
    made = tiny_model.tensors(ENCODER, seed)
    tiny_model.write(place, ENCODER, seed)
    exact = float_model.labels(ENCODER, made, float_model.stream(ENCODER, made, TOKENS, TYPES))
    size = max(map(abs, exact))
    for word, real in zip(impl.labels(place, TOKENS, TYPES), exact, strict=True):
        assert abs(word / 2**18 - real) < 0.002 * size


@pytest.mark.requirement("MDL-R18")
@given(data=st.data(), count=st.integers(1, 9), width=st.integers(1, 4))
def test_a_sentence_is_the_mean_of_its_positions(
    impl: Implementation, data: st.DataObject, count: int, width: int
) -> None:
    cells = strategies.signed(2**46 - 1) | st.integers(-4, 4)
    stream = data.draw(strategies.matrices(cells, count, width))
    sums = [sum(column) for column in zip(*stream, strict=True)]
    assert list(impl.sentence(stream)) == [(2 * s + count - count % 2) // (2 * count) for s in sums]


@pytest.mark.requirement("MDL-R18")
def test_known_means(impl: Implementation) -> None:
    assert list(impl.sentence([[7, -7, 0]])) == [7, -7, 0]
    assert list(impl.sentence([[1, -1, -3], [0, 0, 0]])) == [1, 0, -1]
    assert list(impl.sentence([[2, -2, -1], [0, 0, 0], [0, 0, 0]])) == [1, -1, 0]
    assert list(impl.sentence([[-5, 5], [-5, 5], [0, 0], [0, 0]])) == [-2, 3]
    assert list(impl.sentence([[2**46 - 1, 1 - 2**46]] * 4096)) == [2**46 - 1, 1 - 2**46]
    almost_half = [[2**46 - 5, 5 - 2**46]] * 501 + [[2**46 - 4, 4 - 2**46]] * 500
    assert list(impl.sentence(almost_half)) == [2**46 - 5, 5 - 2**46]


@pytest.mark.requirement("MDL-R19")
@pytest.mark.parametrize(
    ("tokens", "types", "reason"),
    [
        ([], None, Refusal.PROMPT_EMPTY),
        ([], [], Refusal.PROMPT_EMPTY),
        ([1] * 9, None, Refusal.CONTEXT_EXCEEDED),
        ([1, 9], None, Refusal.TOKEN_OUT_OF_RANGE),
        ([1, -1], None, Refusal.TOKEN_OUT_OF_RANGE),
        ([1, 2**31], [0, 0], Refusal.TOKEN_OUT_OF_RANGE),
        ([1, 2], [0, 2], Refusal.TOKEN_OUT_OF_RANGE),
        ([1, 2], [-1, 0], Refusal.TOKEN_OUT_OF_RANGE),
        ([1, 9], [0], Refusal.SHAPE_MISMATCH),
        ([1, 2], [], Refusal.SHAPE_MISMATCH),
        ([1] * 9, [0], Refusal.CONTEXT_EXCEEDED),
    ],
    ids=str,
)
def test_a_sequence_that_an_encoder_does_not_take_is_refused(
    impl: Implementation, place: Path, tokens: list[int], types: list[int] | None, reason: Refusal
) -> None:
    tiny_model.write(place, ENCODER, b"good")
    assert (refusal(impl.stream, place, tokens, types), refusal(impl.labels, place, tokens, types)) == (
        reason,
    ) * 2


@pytest.mark.requirement("MDL-R19")
def test_a_sequence_as_long_as_the_context_is_taken(impl: Implementation, place: Path) -> None:
    tiny_model.write(place, ENCODER, b"good")
    assert len(impl.stream(place, [0, 8] * 4, [0, 1] * 4)) == 8
    assert len(impl.labels(place, [0, 8] * 4, [0, 1] * 4)) == 3


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "changes",
    [
        {"width": 2**13 + 2},
        {"heads": 4},
        {"heads": 1, "width": 258},
        {"inner": 2**14 + 1},
        {"context": 2**17 + 1},
        {"types": 0},
        {"labels": -1},
        {"pooled": False},
        {"layers": 0},
        {"norm_epsilon": "1/2"},
    ],
    ids=str,
)
def test_an_encoder_beyond_the_limits_is_refused(
    impl: Implementation, place: Path, changes: dict[str, object]
) -> None:
    described = tiny_model.metadata(ENCODER)
    fields = described["shape"]
    assert isinstance(fields, dict)
    tensors = tiny_model.tensors(ENCODER, b"good")
    place.write_bytes(tiny_model.file_bytes(described | {"shape": fields | changes}, tensors))
    assert refusal(impl.stream, place, [1]) == Refusal.MODEL_UNSUPPORTED


@pytest.mark.requirement("MDL-R11")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedding_norm.bias", 2**24 + 1),
        ("layers.1.mlp_norm.bias_exponent", 2**10 + 1),
        ("layers.0.up.bias", -(2**24) - 1),
        ("pooler.bias_exponent", -(2**10) - 1),
        ("types.mantissa", 2**14 - 1),
        ("positions.weights", -32640),
    ],
)
def test_an_entry_of_an_encoder_out_of_range_is_refused(
    impl: Implementation, place: Path, name: str, value: int
) -> None:
    made = tiny_model.tensors(ENCODER, b"good")
    made[name] = replace(made[name], values=(value, *made[name].values[1:]))
    place.write_bytes(tiny_model.model_bytes(ENCODER, made))
    assert refusal(impl.stream, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R3")
@pytest.mark.parametrize(("pooled", "labels"), [(False, 0), (True, 0), (True, 1)])
def test_an_encoder_has_what_its_shape_says(
    impl: Implementation, place: Path, pooled: bool, labels: int
) -> None:
    shape = replace(ONE_LAYER, pooled=pooled, labels=labels)
    made = tiny_model.tensors(shape, b"heads")
    assert [f"{name}.bias" in made for name in ("pooler", "classifier")] == [pooled, bool(labels)]
    expected = ComposedEncoder(impl, shape, made).stream(TOKENS, TYPES)
    assert run(impl, place, shape, made, TOKENS, TYPES) == expected
