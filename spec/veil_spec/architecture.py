"""What a model is made of: shapes, and the linear maps and norms that each shape implies."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fractions import Fraction
from typing import Final, Literal, cast

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

INTEGER_FILE: Final = "integer.safetensors"
"""The name of an integer file in a model's directory."""


class Precision(StrEnum):
    """Bits of weights and activations."""

    W16A16 = "w16a16"
    W8A16 = "w8a16"

    @property
    def weight_limit(self) -> int:
        """Return the largest absolute weight."""
        return constants.WEIGHT_LIMIT if self is Precision.W16A16 else constants.SHORT_WEIGHT_LIMIT


def _unsupported(detail: str) -> Refused:
    return Refused(Refusal.MODEL_UNSUPPORTED, detail)


def _check(shape: object, limits: Mapping[str, int]) -> None:
    for name, limit in limits.items():
        if not 1 <= _whole(shape, name) <= limit:
            raise _unsupported(f"{name} must be between 1 and {limit}")


def _whole(shape: object, name: str) -> int:
    value = getattr(shape, name)
    if type(value) is not int:
        raise TypeError(f"{name} is no integer")
    return value


def _check_epsilon(epsilon: Fraction) -> None:
    if not Fraction(1, 2**40) <= epsilon <= Fraction(1, 2**16):
        raise _unsupported("norm_epsilon must be between 2**-40 and 2**-16")


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotary position embedding; with `low`, `high` and `context`, `factor` slows long waves only.

    Refuses: MODEL_UNSUPPORTED.
    """

    theta: Fraction
    factor: Fraction = Fraction(1)
    low: Fraction | None = None
    high: Fraction | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        if not 1 < self.theta < 2**40:
            raise _unsupported("rotation: theta must be between 1 and 2**40")
        if not 1 <= self.factor <= 2**10:
            raise _unsupported("rotation: factor must be between 1 and 1024")
        if (self.low, self.high, self.context) == (None, None, None):
            return
        if self.low is None or self.high is None or self.context is None:
            raise _unsupported("rotation: low, high and context belong together")
        if not 0 < self.low < self.high <= 2**10:
            raise _unsupported("rotation: 0 < low < high <= 1024 must hold")
        _check(self, {"context": constants.CONTEXT_LIMIT})


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What fixes a decoder's structure: sizes, and which switches are on; no window is 0.

    Refuses: MODEL_UNSUPPORTED.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    context: int
    rotation: Rotation
    norm_epsilon: Fraction
    tied: bool
    qkv_biased: bool = False
    o_biased: bool = False
    mlp_biased: bool = False
    head_norms: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        limits = {
            "vocabulary": constants.VOCABULARY_LIMIT,
            "width": constants.WIDTH_LIMIT,
            "inner": constants.INNER_LIMIT,
            "layers": 2**10,
            "heads": constants.WIDTH_LIMIT,
            "kv_heads": constants.WIDTH_LIMIT,
            "head_width": constants.HEAD_WIDTH_LIMIT,
            "context": constants.CONTEXT_LIMIT,
        }
        _check(self, limits)
        if self.heads % self.kv_heads:
            raise _unsupported("heads must be a multiple of kv_heads")
        if self.head_width % 2:
            raise _unsupported("head_width must be even")
        if self.heads * self.head_width > constants.INNER_LIMIT:
            raise _unsupported(f"heads * head_width must be at most {constants.INNER_LIMIT}")
        if not 0 <= _whole(self, "window") <= constants.CONTEXT_LIMIT:
            raise _unsupported(f"window must be between 0 and {constants.CONTEXT_LIMIT}")
        _check_epsilon(self.norm_epsilon)


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """What fixes an encoder's structure; without a classifier, `labels` is 0.

    Refuses: MODEL_UNSUPPORTED.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    context: int
    types: int
    norm_epsilon: Fraction
    pooled: bool = False
    labels: int = 0

    def __post_init__(self) -> None:
        limits = {
            "vocabulary": constants.VOCABULARY_LIMIT,
            "width": constants.WIDTH_LIMIT,
            "inner": constants.INNER_LIMIT,
            "layers": 2**10,
            "heads": constants.WIDTH_LIMIT,
            "context": constants.CONTEXT_LIMIT,
            "types": constants.CONTEXT_LIMIT,
        }
        _check(self, limits)
        if self.width % self.heads or self.width // self.heads > constants.HEAD_WIDTH_LIMIT:
            raise _unsupported(f"width over heads must be whole, at most {constants.HEAD_WIDTH_LIMIT}")
        if not 0 <= _whole(self, "labels") <= constants.VOCABULARY_LIMIT:
            raise _unsupported(f"labels must be between 0 and {constants.VOCABULARY_LIMIT}")
        if self.labels and not self.pooled:
            raise _unsupported("a classifier needs a pooler")
        _check_epsilon(self.norm_epsilon)


ModelShape = DecoderShape | EncoderShape
STRUCTURES: Final[Mapping[str, type[ModelShape]]] = {"decoder": DecoderShape, "encoder": EncoderShape}
"""What metadata call a shape."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map: weights [outputs, inner], and where biased a bias for each output."""

    name: str
    outputs: int
    inner: int
    biased: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm's gains [width]; one that is biased centres its row and adds a bias: LayerNorm."""

    name: str
    width: int
    biased: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """A model as the maps that are looked up, the linear groups in the order of their numbers, and norms."""

    tables: tuple[Linear, ...]
    groups: tuple[Linear, ...]
    norms: tuple[Norm, ...]

    def tensors(self, precision: Precision) -> Iterator[tuple[str, Literal["I8", "I16", "I32"], list[int]]]:
        """Yield the name, type and shape of every tensor of a model file."""
        words: Literal["I8", "I16"] = "I16" if precision is Precision.W16A16 else "I8"
        for linear in dict.fromkeys(self.tables + self.groups):
            yield f"{linear.name}.weights", words, [linear.outputs, linear.inner]
            yield f"{linear.name}.mantissa", "I32", [linear.outputs]
            yield f"{linear.name}.exponent", "I32", [linear.outputs]
            if linear.biased:
                yield f"{linear.name}.bias", "I32", [linear.outputs]
                yield f"{linear.name}.bias_exponent", "I32", [1]
        for norm in self.norms:
            yield f"{norm.name}.gains", "I32", [norm.width]
            yield f"{norm.name}.exponent", "I32", [1]
            if norm.biased:
                yield f"{norm.name}.bias", "I32", [norm.width]
                yield f"{norm.name}.bias_exponent", "I32", [1]


def _decoder(shape: DecoderShape) -> Description:
    width, attention = shape.width, shape.heads * shape.head_width
    embedding = Linear("embedding", shape.vocabulary, width)
    groups, norms = [], []
    for layer in (f"layers.{n}" for n in range(shape.layers)):
        heads = attention + 2 * shape.kv_heads * shape.head_width
        groups += [
            Linear(f"{layer}.qkv", heads, width, shape.qkv_biased),
            Linear(f"{layer}.o", width, attention, shape.o_biased),
            Linear(f"{layer}.gate_up", 2 * shape.inner, width, shape.mlp_biased),
            Linear(f"{layer}.down", width, shape.inner, shape.mlp_biased),
        ]
        norms += [Norm(f"{layer}.attention_norm", width), Norm(f"{layer}.mlp_norm", width)]
        if shape.head_norms:
            norms += [Norm(f"{layer}.{name}", shape.head_width) for name in ("q_norm", "k_norm")]
    groups.append(embedding if shape.tied else Linear("head", shape.vocabulary, width))
    return Description((embedding,), tuple(groups), (*norms, Norm("final_norm", width)))


def _encoder(shape: EncoderShape) -> Description:
    width = shape.width
    rows = {"embedding": shape.vocabulary, "positions": shape.context, "types": shape.types}
    groups, norms = [], [Norm("embedding_norm", width, True)]
    for layer in (f"layers.{n}" for n in range(shape.layers)):
        groups += [
            Linear(f"{layer}.qkv", 3 * width, width, True),
            Linear(f"{layer}.o", width, width, True),
            Linear(f"{layer}.up", shape.inner, width, True),
            Linear(f"{layer}.down", width, shape.inner, True),
        ]
        norms += [Norm(f"{layer}.{name}", width, True) for name in ("attention_norm", "mlp_norm")]
    groups += [Linear("pooler", width, width, True)] * shape.pooled
    groups += [Linear("classifier", shape.labels, width, True)] * bool(shape.labels)
    tables = tuple(Linear(name, count, width) for name, count in rows.items())
    return Description(tables, tuple(groups), tuple(norms))


def describe(shape: ModelShape) -> Description:
    """Return the linear maps and norms of a shape, as spec/model.md lists them."""
    return _decoder(shape) if isinstance(shape, DecoderShape) else _encoder(shape)


def metadata(name: str, shape: ModelShape, precision: Precision, version: str) -> dict[str, object]:
    """Return what a model file states under `veil`, ready for JSON: rationals are text."""
    structure = next(name for name, kind in STRUCTURES.items() if isinstance(shape, kind))
    stated = _stated(asdict(shape))
    return {
        "spec_version": version,
        "name": name,
        "precision": str(precision),
        "structure": structure,
        "shape": stated,
    }


def _stated(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _stated(member) for name, member in value.items()}
    return str(value) if isinstance(value, Fraction) else value


def shape_of(stated: Mapping[str, object]) -> tuple[ModelShape, Precision]:
    """Return the shape and precision of such metadata.

    Refuses: MODEL_UNSUPPORTED; a KeyError, TypeError or ValueError where the metadata are malformed.
    """
    kind, given = STRUCTURES[str(stated["structure"])], dict(cast(Mapping[str, object], stated["shape"]))
    given["norm_epsilon"] = _rational(given["norm_epsilon"])
    if kind is DecoderShape:
        given["rotation"] = _rotation(cast(Mapping[str, object], given["rotation"]))
    _check_switches(kind, given)
    return kind(**given), Precision(str(stated["precision"]))  # type: ignore[arg-type]


def _rotation(stated: Mapping[str, object]) -> Rotation:
    rational = {
        name: None if stated[name] is None and name in ("low", "high") else _rational(stated[name])
        for name in ("theta", "factor", "low", "high")
    }
    return Rotation(**(dict(stated) | rational))  # type: ignore[arg-type]


def _rational(text: object) -> Fraction:
    if not isinstance(text, str):
        raise TypeError("a rational is text")
    return Fraction(text)


def _check_switches(kind: type[ModelShape], given: Mapping[str, object]) -> None:
    if set(given) != {each.name for each in fields(kind)}:
        raise ValueError("fields")
    if any(each.type is bool and type(given[each.name]) is not bool for each in fields(kind)):
        raise TypeError("a switch is true or false")
