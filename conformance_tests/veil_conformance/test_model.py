"""The model: quantisation, the integer file, the decoder, greedy choice."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from veil_conformance import float_model, strategies, tiny_model
from veil_conformance.checking import examples, refusal
from veil_conformance.composed import Composed
from veil_conformance.tiny_model import ENCODER, SMALL, SWITCHED, Tensor, Tensors
from veil_spec.architecture import DecoderShape, ModelShape, Precision
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import WeightRow

BIASED = replace(SMALL, tied=False, layers=1, qkv_biased=True, o_biased=True, mlp_biased=True)
"""Biases, and no other switch."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path at which tests put their model file."""
    return tmp_path_factory.mktemp("model") / "integer.safetensors"


def run(
    impl: Implementation,
    place: Path,
    shape: DecoderShape,
    made: Tensors,
    tokens: Sequence[int],
    precision: Precision = Precision.W16A16,
) -> list[list[int]]:
    """Return the implementation's logits on a model of this shape and these tensors."""
    place.write_bytes(tiny_model.model_bytes(shape, made, precision))
    return [list(row) for row in impl.logits(place, tokens)]


def half_even(value: Fraction) -> int:
    """Return the nearest integer, halves to even."""
    low = value.__floor__()
    rest = value - low
    return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1))


def scale_of(peak: Fraction, limit: int) -> tuple[int, int]:
    """Return (mantissa, exponent) of MDL-R1 by search."""
    exponent = -200
    while -((-peak * Fraction(2) ** (exponent + 1)) // limit) < 2**15:
        exponent += 1
    return -((-peak * Fraction(2) ** exponent) // limit).__floor__(), exponent


@pytest.mark.requirement("MDL-R1")
@given(weights=st.lists(strategies.float32s, min_size=1, max_size=6), precision=strategies.precisions)
@example(weights=[0.0, -0.0], precision=Precision.W16A16)
@example(weights=[0.0], precision=Precision.W8A16)
@example(weights=[2.0**-149, 0.0], precision=Precision.W16A16)
@example(weights=[3.4028234663852886e38, 1.0], precision=Precision.W8A16)
@example(weights=[1.0, 0.5], precision=Precision.W8A16)
@example(weights=[-32639.0, 1.0, 0.5, 1.5], precision=Precision.W16A16)
@example(weights=[-127.0, 1.0, 0.5, 1.5, 2.5], precision=Precision.W8A16)
def test_weight_rows_are_the_nearest_integers(
    impl: Implementation, weights: list[float], precision: Precision
) -> None:
    exact, limit = [Fraction(weight) for weight in weights], 127 if precision == "w8a16" else 32639
    mantissa, exponent = scale_of(max(map(abs, exact)), limit) if any(exact) else (2**14, 0)
    values = tuple(half_even(weight * Fraction(2) ** exponent / mantissa) for weight in exact)
    assert impl.quantise_weights(weights, precision) == WeightRow(values, mantissa, exponent)


@pytest.mark.requirement("MDL-R1")
@pytest.mark.parametrize(("precision", "limit"), [(Precision.W16A16, 32639), (Precision.W8A16, 127)])
def test_the_largest_weight_of_a_row_fills_the_precision(
    impl: Implementation, precision: Precision, limit: int
) -> None:
    made = impl.quantise_weights([float(-limit), float(limit), 1.0], precision)
    assert made == WeightRow((-limit, limit, 1), 2**14, 14)
    assert max(map(abs, impl.quantise_weights([0.3, -1.7, 0.9], precision).values)) == limit


@pytest.mark.requirement("MDL-R12")
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_weight_that_is_not_finite_is_refused(impl: Implementation, bad: float) -> None:
    for precision in Precision:
        assert refusal(impl.quantise_weights, [1.0, bad], precision) == Refusal.WEIGHT_NOT_FINITE


@pytest.mark.requirement("MDL-R2")
@given(gains=st.lists(strategies.float32s, min_size=1, max_size=6))
@example(gains=[0.0])
@example(gains=[1.0, -(2.0**-24), 3 * 2.0**-24])
@example(gains=[2.0**-149])
@example(gains=[3.4028234663852886e38])
def test_gains_are_the_nearest_integers(impl: Implementation, gains: list[float]) -> None:
    exact = [Fraction(gain) for gain in gains]
    largest = max(map(abs, exact))
    exponent = next(f for f in range(200, -200, -1) if largest * Fraction(2) ** f < 2**24) if largest else 0
    values, made = impl.quantise_gains(gains)
    assert (list(values), made) == ([half_even(gain * Fraction(2) ** exponent) for gain in exact], exponent)


@pytest.mark.requirement("MDL-R12")
def test_a_gain_that_is_not_finite_is_refused(impl: Implementation) -> None:
    assert refusal(impl.quantise_gains, [1.0, float("nan")]) == Refusal.WEIGHT_NOT_FINITE


def without(made: Tensors, name: str) -> Tensors:
    """Return all tensors but one."""
    return {key: tensor for key, tensor in made.items() if key != name}


def retyped(tensor: Tensor) -> Tensor:
    """Return a tensor of the other type with as many values."""
    return replace(tensor, kind="I32" if tensor.kind == "I16" else "I16", values=(1,) * len(tensor.values))


@pytest.mark.requirement("MDL-R3")
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("shape", [SMALL, replace(SMALL, tied=False), BIASED, SWITCHED], ids=range(4))
def test_a_file_holds_the_stacked_maps_by_name(
    impl: Implementation, place: Path, shape: DecoderShape, precision: Precision
) -> None:
    made = tiny_model.tensors(shape, b"names", precision)
    assert run(impl, place, shape, made, [1, 2], precision) == Composed(impl, shape, made).logits([1, 2])


DECODER_TENSORS = """
embedding.weights 9,7 embedding.mantissa 9 embedding.exponent 9
head.weights 9,7 head.mantissa 9 head.exponent 9 final_norm.gains 7 final_norm.exponent 1
layers.0.attention_norm.gains 7 layers.0.attention_norm.exponent 1
layers.0.q_norm.gains 6 layers.0.q_norm.exponent 1 layers.0.k_norm.gains 6 layers.0.k_norm.exponent 1
layers.0.qkv.weights 30,7 layers.0.qkv.mantissa 30 layers.0.qkv.exponent 30
layers.0.qkv.bias 30 layers.0.qkv.bias_exponent 1
layers.0.o.weights 7,18 layers.0.o.mantissa 7 layers.0.o.exponent 7
layers.0.o.bias 7 layers.0.o.bias_exponent 1
layers.0.mlp_norm.gains 7 layers.0.mlp_norm.exponent 1
layers.0.gate_up.weights 10,7 layers.0.gate_up.mantissa 10 layers.0.gate_up.exponent 10
layers.0.gate_up.bias 10 layers.0.gate_up.bias_exponent 1
layers.0.down.weights 7,5 layers.0.down.mantissa 7 layers.0.down.exponent 7
layers.0.down.bias 7 layers.0.down.bias_exponent 1
"""
"""A decoder of one layer with every switch on, written out by hand."""
ENCODER_TENSORS = """
embedding.weights 9,6 embedding.mantissa 9 embedding.exponent 9
positions.weights 8,6 positions.mantissa 8 positions.exponent 8
types.weights 2,6 types.mantissa 2 types.exponent 2
embedding_norm.gains 6 embedding_norm.exponent 1 embedding_norm.bias 6 embedding_norm.bias_exponent 1
layers.0.qkv.weights 18,6 layers.0.qkv.mantissa 18 layers.0.qkv.exponent 18
layers.0.qkv.bias 18 layers.0.qkv.bias_exponent 1
layers.0.o.weights 6,6 layers.0.o.mantissa 6 layers.0.o.exponent 6
layers.0.o.bias 6 layers.0.o.bias_exponent 1
layers.0.attention_norm.gains 6 layers.0.attention_norm.exponent 1
layers.0.attention_norm.bias 6 layers.0.attention_norm.bias_exponent 1
layers.0.up.weights 7,6 layers.0.up.mantissa 7 layers.0.up.exponent 7
layers.0.up.bias 7 layers.0.up.bias_exponent 1
layers.0.down.weights 6,7 layers.0.down.mantissa 6 layers.0.down.exponent 6
layers.0.down.bias 6 layers.0.down.bias_exponent 1
layers.0.mlp_norm.gains 6 layers.0.mlp_norm.exponent 1
layers.0.mlp_norm.bias 6 layers.0.mlp_norm.bias_exponent 1
pooler.weights 6,6 pooler.mantissa 6 pooler.exponent 6 pooler.bias 6 pooler.bias_exponent 1
classifier.weights 3,6 classifier.mantissa 3 classifier.exponent 3
classifier.bias 3 classifier.bias_exponent 1
"""
"""An encoder of one layer with a classifier, written out by hand."""


@pytest.mark.requirement("MDL-R3")
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(
    ("shape", "listed"),
    [(replace(SWITCHED, layers=1), DECODER_TENSORS), (replace(ENCODER, layers=1), ENCODER_TENSORS)],
    ids=["decoder", "encoder"],
)
def test_a_file_with_exactly_the_listed_tensors_is_read(
    impl: Implementation, place: Path, shape: ModelShape, listed: str, precision: Precision
) -> None:
    names = listed.split()
    sizes = {
        name: tuple(map(int, size.split(","))) for name, size in zip(names[::2], names[1::2], strict=True)
    }
    made = tiny_model.tensors(shape, b"by hand", precision)
    assert {name: tensor.size for name, tensor in made.items()} == sizes
    place.write_bytes(tiny_model.model_bytes(shape, made, precision))
    read = impl.logits if isinstance(shape, DecoderShape) else impl.stream
    assert refusal(read, place, [1]) is None
    for name in made:
        place.write_bytes(tiny_model.model_bytes(shape, without(made, name), precision))
        assert refusal(read, place, [1]) == Refusal.MODEL_MALFORMED


GOOD = tiny_model.tensors(SMALL, b"good")
SHORT = tiny_model.tensors(SMALL, b"good", Precision.W8A16)
SPARE = Tensor("I16", (1, 1), (1,))
BIAS = Tensor("I32", (6,), (1,) * 6)


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "broken",
    [
        without(GOOD, "layers.1.o.exponent"),
        without(GOOD, "final_norm.gains"),
        GOOD | {"head.weights": GOOD["embedding.weights"]},
        GOOD | {"layers.2.o.weights": SPARE},
        GOOD | {"layers.0.o.weights": retyped(GOOD["layers.0.o.weights"])},
        GOOD | {"layers.0.o.weights": SHORT["layers.0.o.weights"]},
        GOOD | {"layers.0.o.mantissa": retyped(GOOD["layers.0.o.mantissa"])},
        GOOD | {"embedding.weights": replace(GOOD["embedding.weights"], size=(6, 9))},
        GOOD | {"final_norm.gains": replace(GOOD["final_norm.gains"], size=(1, 6))},
        GOOD | {"layers.0.o.bias": BIAS, "layers.0.o.bias_exponent": Tensor("I32", (1,), (24,))},
        GOOD | {"layers.1.q_norm.gains": replace(BIAS, size=(4,), values=(1,) * 4)},
        GOOD | {"final_norm.bias": BIAS},
    ],
    ids=[
        *("scale", "norm", "head", "layer", "weights-i32", "weights-i8", "mantissa-i16"),
        *("transposed", "two-dimensional", "bias", "head-norm", "norm-bias"),
    ],
)
def test_a_file_with_other_tensors_is_refused(impl: Implementation, place: Path, broken: Tensors) -> None:
    place.write_bytes(tiny_model.model_bytes(SMALL, broken))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "changes", [{"precision": "w8a16"}, {"precision": "w4a16"}, {"structure": "mamba"}], ids=str
)
def test_metadata_that_the_tensors_do_not_follow_are_refused(
    impl: Implementation, place: Path, changes: dict[str, str]
) -> None:
    place.write_bytes(tiny_model.file_bytes(tiny_model.metadata(SMALL) | changes, GOOD))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize("key", ["spec_version", "precision", "structure", "shape"])
def test_metadata_without_a_key_are_refused(impl: Implementation, place: Path, key: str) -> None:
    described = tiny_model.metadata(SMALL)
    del described[key]
    place.write_bytes(tiny_model.file_bytes(described, GOOD))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "changes",
    [
        {"tied": 1},
        {"tied": "true"},
        {"head_norms": None},
        {"norm_epsilon": 1},
        {"rotation": "10000"},
        {"rotation": {"theta": "10000"}},
        {
            "rotation": tiny_model.stated(
                {"theta": "x", "factor": "1", "low": None, "high": None, "context": None}
            )
        },
        {"experts": 4},
        {"types": 2},
        {"width": "6"},
        {"layers": True},
        {"window": None},
    ],
    ids=str,
)
def test_a_shape_that_is_not_of_its_fields_is_refused(
    impl: Implementation, place: Path, changes: dict[str, object]
) -> None:
    assert refused_with(impl, place, changes) == Refusal.MODEL_MALFORMED


def refused_with(impl: Implementation, place: Path, changes: dict[str, object]) -> Refusal | None:
    """Return what becomes of the small model under a shape with these fields."""
    described = tiny_model.metadata(SMALL)
    fields = described["shape"]
    assert isinstance(fields, dict)
    place.write_bytes(tiny_model.file_bytes(described | {"shape": fields | changes}, GOOD))
    return refusal(impl.logits, place, [1])


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "cut",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: struct.pack("<Q", 2**62) + data[8:],
        lambda data: data.replace(b"__metadata__", b"__metodata__"),
        lambda data: data.replace(b'\\"norm_epsilon\\"', b'\\"norm_epsilom\\"'),
        lambda data: data.replace(b'\\"1/100000\\"', b'\\"1/10000x\\"'),
        lambda data: data.replace(b"w16a16", b"w16b16"),
    ],
    ids=["empty", "length", "header", "data", "huge", "metadata", "field", "rational", "precision"],
)
def test_a_damaged_file_is_refused(impl: Implementation, place: Path, cut: Callable[[bytes], bytes]) -> None:
    place.write_bytes(cut(tiny_model.file_bytes(tiny_model.metadata(SMALL), GOOD)))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R4")
def test_a_missing_file_is_refused(impl: Implementation, place: Path) -> None:
    assert refusal(impl.logits, place.with_name("missing"), [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize("version", ["0.0.9", "9.1.0", ""])
def test_a_file_of_another_version_is_refused(impl: Implementation, place: Path, version: str) -> None:
    place.write_bytes(tiny_model.file_bytes(tiny_model.metadata(SMALL, version), GOOD))
    assert refusal(impl.logits, place, [1]) == Refusal.VERSION_MISMATCH


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "changes",
    [
        {"width": 2**13 + 1},
        {"inner": 2**14 + 1},
        {"context": 2**17 + 1},
        {"head_width": 258},
        {"head_width": 3},
        {"vocabulary": 2**18 + 1},
        {"layers": 0},
        {"heads": 3},
        {"heads": 2**13, "kv_heads": 1},
        {"window": 2**17 + 1},
        {"window": -1},
        {"norm_epsilon": "1/2"},
        {"rotation": {"theta": "1"}},
        {"rotation": {"factor": "1/2"}},
        {"rotation": {"factor": "1025"}},
        {"rotation": {"low": "1"}},
        {"rotation": {"low": "2", "high": "1", "context": 9}},
        {"rotation": {"low": "1", "high": "1", "context": 9}},
        {"rotation": {"low": "0", "high": "1", "context": 9}},
        {"rotation": {"low": "1", "high": "2", "context": 0}},
    ],
    ids=str,
)
def test_a_shape_beyond_the_limits_is_refused(
    impl: Implementation, place: Path, changes: dict[str, object]
) -> None:
    plain = {"theta": "10000", "factor": "1", "low": None, "high": None, "context": None}
    whole = {name: plain | value if isinstance(value, dict) else value for name, value in changes.items()}
    assert refused_with(impl, place, whole) == Refusal.MODEL_UNSUPPORTED


@pytest.mark.requirement("MDL-R4")
def test_the_longest_context_is_read(impl: Implementation, place: Path) -> None:
    shape = replace(SMALL, context=2**17, window=2**17)
    tiny_model.write(place, shape, b"good")
    tiny = replace(SMALL, context=8)
    assert impl.logits(place, [1, 2]) == impl.logits(tiny_model.write(place, tiny, b"good"), [1, 2])


FULL = tiny_model.tensors(SWITCHED, b"good")
FULL_SHORT = tiny_model.tensors(SWITCHED, b"good", Precision.W8A16)


def with_entry(made: Tensors, name: str, value: int) -> Tensors:
    """Return tensors of which one has this last entry."""
    return made | {name: replace(made[name], values=(*made[name].values[:-1], value))}


@pytest.mark.requirement("MDL-R11")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.1.o.weights", 32640),
        ("embedding.weights", -32640),
        ("layers.0.qkv.mantissa", 2**15),
        ("layers.0.down.mantissa", 2**14 - 1),
        ("layers.0.down.mantissa", -(2**14)),
        ("layers.1.gate_up.exponent", 2**10 + 1),
        ("embedding.exponent", -(2**10) - 1),
        ("final_norm.exponent", 2**10 + 1),
        ("final_norm.gains", 2**24 + 1),
        ("layers.0.mlp_norm.gains", -(2**24) - 1),
        ("layers.1.q_norm.gains", 2**24 + 1),
        ("layers.0.k_norm.exponent", -(2**10) - 1),
        ("layers.1.qkv.bias", 2**24 + 1),
        ("layers.0.o.bias", -(2**24) - 1),
        ("layers.0.gate_up.bias_exponent", 2**10 + 1),
        ("layers.1.down.bias_exponent", -(2**10) - 1),
    ],
)
def test_an_entry_out_of_range_is_refused(impl: Implementation, place: Path, name: str, value: int) -> None:
    place.write_bytes(tiny_model.model_bytes(SWITCHED, with_entry(FULL, name, value)))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


@pytest.mark.requirement("MDL-R11")
@pytest.mark.parametrize("name", ["layers.1.o.weights", "embedding.weights"])
def test_a_short_weight_of_minus_128_is_refused(impl: Implementation, place: Path, name: str) -> None:
    place.write_bytes(tiny_model.model_bytes(SWITCHED, with_entry(FULL_SHORT, name, -128), Precision.W8A16))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED
    made = with_entry(FULL_SHORT, name, -127)
    expected = Composed(impl, SWITCHED, made).logits([1, 8])
    assert run(impl, place, SWITCHED, made, [1, 8], Precision.W8A16) == expected


@pytest.mark.requirement("MDL-R11")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.1.o.weights", 32639),
        ("embedding.weights", -32639),
        ("layers.0.qkv.mantissa", 2**15 - 1),
        ("layers.0.down.mantissa", 2**14),
        ("layers.1.gate_up.exponent", 2**10),
        ("embedding.exponent", -(2**10)),
        ("final_norm.exponent", -(2**10)),
        ("layers.0.mlp_norm.exponent", 2**10),
        ("layers.0.mlp_norm.gains", 2**24),
        ("final_norm.gains", -(2**24)),
        ("layers.1.k_norm.gains", 2**24),
        ("layers.0.q_norm.exponent", 2**10),
        ("layers.1.qkv.bias", 2**24),
        ("layers.0.o.bias", -(2**24)),
        ("layers.0.gate_up.bias_exponent", 2**10),
        ("layers.1.down.bias_exponent", -(2**10)),
    ],
)
def test_an_entry_at_its_limit_is_used(impl: Implementation, place: Path, name: str, value: int) -> None:
    made = with_entry(FULL, name, value)
    assert run(impl, place, SWITCHED, made, [1, 8]) == Composed(impl, SWITCHED, made).logits([1, 8])


@pytest.mark.requirement("MDL-R5")
@given(seed=st.binary(max_size=4), exponents=st.lists(st.integers(-20, 90), min_size=9, max_size=9))
@example(seed=b"", exponents=[0, 15, 20, 28, 29, 30, 31, 40, 70])
@examples(30)
def test_a_linear_group_is_an_exact_sum_rescaled(
    impl: Implementation, place: Path, seed: bytes, exponents: list[int]
) -> None:
    shape = replace(SMALL, tied=False, layers=1)
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "o", "down")
    made["head.exponent"] = Tensor("I32", (9,), tuple(exponents))
    composed = Composed(impl, shape, made)
    row = composed.norm("final_norm", composed.embed(3))
    assert run(impl, place, shape, made, [3]) == [composed.linear("head", row)]


@pytest.mark.requirement("MDL-R5")
@given(seed=st.binary(max_size=4), o=st.integers(-30, 40), down=st.integers(-30, 40))
@examples(20)
def test_groups_into_the_residual_stream_keep_its_fraction_and_limit(
    impl: Implementation, place: Path, seed: bytes, o: int, down: int
) -> None:
    shape = replace(SMALL, layers=1)
    made = tiny_model.tensors(shape, seed)
    made["layers.0.o.exponent"] = Tensor("I32", (6,), (o,) * 6)
    made["layers.0.down.exponent"] = Tensor("I32", (6,), (down,) * 6)
    assert run(impl, place, shape, made, [3]) == Composed(impl, shape, made).logits([3])


@pytest.mark.requirement("MDL-R5")
@given(
    seed=st.binary(max_size=4),
    exponents=st.lists(st.integers(-24, 60), min_size=4, max_size=4),
    precision=strategies.precisions,
)
@example(seed=b"", exponents=[-20, -60, -20, -60], precision=Precision.W16A16)
@example(seed=b"", exponents=[40, 40, 40, 40], precision=Precision.W8A16)
@examples(30)
def test_a_bias_is_rescaled_and_added(
    impl: Implementation, place: Path, seed: bytes, exponents: list[int], precision: Precision
) -> None:
    made = tiny_model.tensors(BIASED, seed, precision)
    for name, exponent in zip(("qkv", "o", "gate_up", "down"), exponents, strict=True):
        made[f"layers.0.{name}.bias_exponent"] = Tensor("I32", (1,), (exponent,))
    expected = Composed(impl, BIASED, made).logits([3, 1])
    assert run(impl, place, BIASED, made, [3, 1], precision) == expected


@pytest.mark.requirement("MDL-R5")
@pytest.mark.parametrize(("bias", "kept"), [(-(2**24), 2**29), (2**24, 2**30 - 1), (-(2**23), 2**29 + 2**28)])
def test_a_bias_is_added_to_a_word_that_is_saturated(
    impl: Implementation, place: Path, bias: int, kept: int
) -> None:
    """A v word far beyond its limit is brought to it, and then a bias of half of the limit is added."""
    shape = replace(
        BIASED, heads=1, kv_heads=1, head_width=2, width=1, inner=1, o_biased=False, mlp_biased=False
    )
    made = tiny_model.zeroed(tiny_model.tensors(shape, b"saturated"), "down", "qkv")
    one, gains = Tensor("I32", (1,), (2**14,)), Tensor("I32", (1,), (2**23,))
    made |= {"layers.0.qkv.weights": Tensor("I16", (6, 1), (0, 0, 0, 0, 1, 1))}
    made |= {"layers.0.qkv.exponent": Tensor("I32", (6,), (-20,) * 6)}
    made |= {"layers.0.qkv.bias": Tensor("I32", (6,), (0, 0, 0, 0, bias, bias))}
    made |= {"layers.0.qkv.bias_exponent": Tensor("I32", (1,), (13,))}
    made |= {"embedding.weights": Tensor("I16", (9, 1), (1,) * 9), "layers.0.attention_norm.gains": gains}
    made |= {"layers.0.o.weights": Tensor("I16", (1, 2), (1, 0)), "layers.0.o.mantissa": one}
    made |= {"layers.0.o.exponent": Tensor("I32", (1,), (14,)), "final_norm.gains": gains}
    composed = Composed(impl, shape, made)
    attended = composed.attention(0, composed.norm("layers.0.attention_norm", composed.embed(0)), 0)
    assert abs(attended.values[0] * Fraction(2) ** (18 - attended.exponent) - kept) <= 2**15
    assert run(impl, place, shape, made, [0]) == Composed(impl, shape, made).logits([0])


@pytest.mark.requirement("MDL-R6")
@given(exponent=st.integers(-30, 90), token=st.integers(0, 8), seed=st.binary(max_size=4))
@example(exponent=-30, token=0, seed=b"")
@examples(40)
def test_an_embedding_is_its_row_rescaled(
    impl: Implementation, place: Path, exponent: int, token: int, seed: bytes
) -> None:
    shape = replace(SMALL, tied=False, layers=1)
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "o", "down")
    made["embedding.exponent"] = Tensor("I32", (9,), (exponent,) * 9)
    composed = Composed(impl, shape, made)
    row = composed.norm("final_norm", composed.embed(token))
    assert run(impl, place, shape, made, [token]) == [composed.linear("head", row)]


@pytest.mark.requirement("MDL-R6")
@pytest.mark.parametrize("token", [-1, 9, 2**31])
def test_a_token_outside_the_vocabulary_is_refused(impl: Implementation, place: Path, token: int) -> None:
    tiny_model.write(place, SMALL, b"good")
    assert refusal(impl.logits, place, [1, token]) == Refusal.TOKEN_OUT_OF_RANGE


@pytest.mark.requirement("MDL-R7")
@given(
    shape=strategies.shapes(),
    seed=st.binary(max_size=4),
    tokens=st.lists(st.integers(0, 1), min_size=1, max_size=4),
)
@example(shape=SMALL, seed=b"", tokens=[0, 1, 2, 3, 4, 5, 6, 7])
@example(shape=SWITCHED, seed=b"", tokens=[0, 1, 2, 3, 4, 5, 6, 7])
@example(shape=replace(SMALL, head_norms=True), seed=b"", tokens=[0, 1, 2])
@example(shape=replace(SMALL, window=1), seed=b"", tokens=[0, 1, 2])
@example(shape=replace(SMALL, window=2), seed=b"", tokens=[0, 1, 2, 3])
@examples(15)
def test_attention_looks_back_with_shared_heads(
    impl: Implementation, place: Path, shape: DecoderShape, seed: bytes, tokens: list[int]
) -> None:
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "down")
    assert run(impl, place, shape, made, tokens) == Composed(impl, shape, made).logits(tokens)


@pytest.mark.requirement("MDL-R7")
@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_a_window_ends_what_one_layer_sees(impl: Implementation, place: Path, window: int) -> None:
    """With one layer the last logits depend on the last `window` tokens and on no earlier one."""
    shape = replace(SMALL, layers=1, window=window)
    made = tiny_model.tensors(shape, b"window")
    last = [run(impl, place, shape, made, [*first, 3, 5, 7])[-1] for first in ([1, 2], [4, 2], [1, 6])]
    assert (last[0] == last[1], last[0] == last[2]) == (window < 5, window < 4)
    other = run(impl, place, shape, made, [1, 2, 8, 5, 7])[-1]
    assert (last[0] == other) == (window < 3)


@pytest.mark.requirement("MDL-R7")
def test_a_window_as_long_as_the_context_hides_nothing(impl: Implementation, place: Path) -> None:
    made, tokens = tiny_model.tensors(SMALL, b"open"), [1, 2, 3, 4, 5, 6, 7, 8]
    assert run(impl, place, SMALL, made, tokens) == run(impl, place, replace(SMALL, window=8), made, tokens)


@pytest.mark.requirement("MDL-R8")
@given(shape=strategies.shapes(), seed=st.binary(max_size=4), token=st.integers(0, 1))
@examples(20)
def test_the_mlp_gates_its_words(
    impl: Implementation, place: Path, shape: DecoderShape, seed: bytes, token: int
) -> None:
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "o")
    assert run(impl, place, shape, made, [token]) == Composed(impl, shape, made).logits([token])


@pytest.mark.requirement("MDL-R9")
@given(
    shape=strategies.shapes(),
    seed=st.binary(max_size=4),
    tokens=st.lists(st.integers(0, 1), min_size=1, max_size=4),
)
@examples(15)
def test_a_step_is_the_composition_of_its_parts(
    impl: Implementation, place: Path, shape: DecoderShape, seed: bytes, tokens: list[int]
) -> None:
    made = tiny_model.tensors(shape, seed)
    assert run(impl, place, shape, made, tokens) == Composed(impl, shape, made).logits(tokens)


@pytest.mark.requirement("MDL-R9")
@pytest.mark.parametrize(
    "shape", [SMALL, replace(SMALL, tied=False), SWITCHED], ids=["tied", "head", "switched"]
)
@pytest.mark.parametrize("seed", [b"a", b"b", b"c"])
def test_the_logits_are_close_to_those_of_real_arithmetic(
    impl: Implementation, place: Path, seed: bytes, shape: DecoderShape
) -> None:
    tokens = [3, 1, 4, 1, 5, 8, 2, 6]
    made = tiny_model.tensors(shape, seed)
    exact = float_model.logits(shape, made, tokens)
    for row, real in zip(run(impl, place, shape, made, tokens), exact, strict=True):
        size = max(map(abs, real))
        assert all(abs(word / 2**18 - x) < 0.002 * size for word, x in zip(row, real, strict=True))


@pytest.mark.requirement("MDL-R13")
def test_a_step_beyond_the_context_is_refused(impl: Implementation, place: Path) -> None:
    tiny_model.write(place, SMALL, b"good")
    assert len(impl.logits(place, [1] * 8)) == 8
    assert refusal(impl.logits, place, [1] * 9) == Refusal.CONTEXT_EXCEEDED


@pytest.mark.requirement("MDL-R10")
@given(row=st.lists(st.integers(-3, 3) | strategies.signed(2**30 - 1), min_size=1, max_size=8))
@example(row=[1, 2, 2])
@example(row=[2, 2, 1])
def test_greedy_takes_the_lowest_of_the_largest(impl: Implementation, row: list[int]) -> None:
    assert impl.greedy(row) == row.index(max(row))
