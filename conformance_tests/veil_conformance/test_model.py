"""The model: quantisation, the integer file, the decoder."""

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
from veil_conformance.tiny_model import SMALL, Tensor, Tensors
from veil_spec.interface import Implementation
from veil_spec.refusals import Refusal
from veil_spec.types import ModelShape, WeightRow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path at which tests put their model file."""
    return tmp_path_factory.mktemp("model") / "integer.safetensors"


def run(
    impl: Implementation, place: Path, shape: ModelShape, made: Tensors, tokens: Sequence[int]
) -> list[list[int]]:
    """Return the implementation's logits on a model of this shape and these tensors."""
    place.write_bytes(tiny_model.file_bytes(tiny_model.metadata(shape), made))
    return [list(row) for row in impl.logits(place, tokens)]


def half_even(value: Fraction) -> int:
    """Return the nearest integer, halves to even."""
    low = value.__floor__()
    rest = value - low
    return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1))


def scale_of(peak: Fraction) -> tuple[int, int]:
    """Return (mantissa, exponent) of MDL-R1 by search."""
    exponent = -200
    while -((-peak * Fraction(2) ** (exponent + 1)) // 32639) < 2**15:
        exponent += 1
    return -((-peak * Fraction(2) ** exponent) // 32639).__floor__(), exponent


@pytest.mark.requirement("MDL-R1")
@given(weights=st.lists(strategies.float32s, min_size=1, max_size=6))
@example(weights=[0.0, -0.0])
@example(weights=[2.0**-149, 0.0])
@example(weights=[3.4028234663852886e38, 1.0])
@example(weights=[1.0, 0.5])
@example(weights=[-32639.0, 1.0, 0.5, 1.5])
def test_weight_rows_are_the_nearest_integers(impl: Implementation, weights: list[float]) -> None:
    exact = [Fraction(weight) for weight in weights]
    mantissa, exponent = scale_of(max(map(abs, exact))) if any(exact) else (2**14, 0)
    values = tuple(half_even(weight * Fraction(2) ** exponent / mantissa) for weight in exact)
    assert impl.quantise_weights(weights) == WeightRow(values, mantissa, exponent)


@pytest.mark.requirement("MDL-R12")
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_weight_that_is_not_finite_is_refused(impl: Implementation, bad: float) -> None:
    assert refusal(impl.quantise_weights, [1.0, bad]) == Refusal.WEIGHT_NOT_FINITE


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


@pytest.mark.requirement("MDL-R3")
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_holds_the_stacked_maps_by_name(impl: Implementation, place: Path, tied: bool) -> None:
    shape = replace(SMALL, tied=tied)
    made = tiny_model.tensors(shape, b"names")
    assert run(impl, place, shape, made, [1, 2]) == Composed(impl, shape, made).logits([1, 2])


def without(made: Tensors, name: str) -> Tensors:
    """Return all tensors but one."""
    return {key: tensor for key, tensor in made.items() if key != name}


def retyped(tensor: Tensor) -> Tensor:
    """Return a tensor of the other type with as many values."""
    return replace(tensor, kind="I32" if tensor.kind == "I16" else "I16", values=(1,) * len(tensor.values))


GOOD = tiny_model.tensors(SMALL, b"good")
SPARE = Tensor("I16", (1, 1), (1,))


@pytest.mark.requirement("MDL-R4")
@pytest.mark.parametrize(
    "broken",
    [
        without(GOOD, "layers.1.o.exponent"),
        without(GOOD, "final_norm.gains"),
        GOOD | {"head.weights": GOOD["embedding.weights"]},
        GOOD | {"layers.2.o.weights": SPARE},
        GOOD | {"layers.0.o.weights": retyped(GOOD["layers.0.o.weights"])},
        GOOD | {"layers.0.o.mantissa": retyped(GOOD["layers.0.o.mantissa"])},
        GOOD | {"embedding.weights": replace(GOOD["embedding.weights"], size=(6, 9))},
        GOOD | {"final_norm.gains": replace(GOOD["final_norm.gains"], size=(1, 6))},
    ],
    ids=["scale", "norm", "head", "layer", "weights-i32", "mantissa-i16", "transposed", "two-dimensional"],
)
def test_a_file_with_other_tensors_is_refused(impl: Implementation, place: Path, broken: Tensors) -> None:
    place.write_bytes(tiny_model.file_bytes(tiny_model.metadata(SMALL), broken))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


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
    ],
    ids=["empty", "length", "header", "data", "huge", "metadata", "field", "rational"],
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
        {"context": 2**14 + 1},
        {"head_width": 258},
        {"head_width": 3},
        {"vocabulary": 2**18 + 1},
        {"layers": 0},
        {"heads": 3},
        {"heads": 2**13, "kv_heads": 1},
        {"rope_theta": "1"},
        {"norm_epsilon": "1/2"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_shape_beyond_the_limits_is_refused(
    impl: Implementation, place: Path, changes: dict[str, int | str]
) -> None:
    described = tiny_model.metadata(SMALL)
    stated = described["shape"]
    assert isinstance(stated, dict)
    place.write_bytes(tiny_model.file_bytes(described | {"shape": stated | changes}, GOOD))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_UNSUPPORTED


def with_entry(name: str, value: int) -> Tensors:
    """Return tensors of which one has this last entry."""
    tensor = GOOD[name]
    return GOOD | {name: replace(tensor, values=(*tensor.values[:-1], value))}


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
    ],
)
def test_an_entry_out_of_range_is_refused(impl: Implementation, place: Path, name: str, value: int) -> None:
    place.write_bytes(tiny_model.file_bytes(tiny_model.metadata(SMALL), with_entry(name, value)))
    assert refusal(impl.logits, place, [1]) == Refusal.MODEL_MALFORMED


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
    ],
)
def test_an_entry_at_its_limit_is_used(impl: Implementation, place: Path, name: str, value: int) -> None:
    made = with_entry(name, value)
    assert run(impl, place, SMALL, made, [1, 8]) == Composed(impl, SMALL, made).logits([1, 8])


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
@examples(15)
def test_attention_looks_back_with_shared_heads(
    impl: Implementation, place: Path, shape: ModelShape, seed: bytes, tokens: list[int]
) -> None:
    made = tiny_model.zeroed(tiny_model.tensors(shape, seed), "down")
    assert run(impl, place, shape, made, tokens) == Composed(impl, shape, made).logits(tokens)


@pytest.mark.requirement("MDL-R8")
@given(shape=strategies.shapes(), seed=st.binary(max_size=4), token=st.integers(0, 1))
@examples(20)
def test_the_mlp_gates_its_words(
    impl: Implementation, place: Path, shape: ModelShape, seed: bytes, token: int
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
    impl: Implementation, place: Path, shape: ModelShape, seed: bytes, tokens: list[int]
) -> None:
    made = tiny_model.tensors(shape, seed)
    assert run(impl, place, shape, made, tokens) == Composed(impl, shape, made).logits(tokens)


@pytest.mark.requirement("MDL-R9")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", [b"a", b"b", b"c"])
def test_the_logits_are_close_to_those_of_real_arithmetic(
    impl: Implementation, place: Path, seed: bytes, tied: bool
) -> None:
    shape, tokens = replace(SMALL, tied=tied), [3, 1, 4, 1, 5, 8, 2, 6]
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
