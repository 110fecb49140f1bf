"""Integer model files of any small shape, made from a seed with the standard library alone."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from veil_spec import __version__
from veil_spec.architecture import DecoderShape, EncoderShape, ModelShape, Precision, Rotation

PLAIN: Final = Rotation(Fraction(10_000))
"""A rotation without a factor."""
SMALL: Final = DecoderShape(
    vocabulary=9,
    width=6,
    inner=5,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=4,
    context=8,
    rotation=PLAIN,
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Grouped heads, tied head, odd sizes, and every switch off."""
LLAMA3: Final = Rotation(Fraction(500), Fraction(8), Fraction(1, 100), Fraction(1, 2), 7)
"""Of a head of 6: one pair that turns often, one between the two ends and one that turns slowly."""
SWITCHED: Final = DecoderShape(
    vocabulary=9,
    width=7,
    inner=5,
    layers=2,
    heads=3,
    kv_heads=1,
    head_width=6,
    context=8,
    rotation=LLAMA3,
    norm_epsilon=Fraction(1, 1_000_000),
    tied=False,
    qkv_biased=True,
    o_biased=True,
    mlp_biased=True,
    head_norms=True,
    window=3,
)
"""Every switch on."""
ENCODER: Final = EncoderShape(
    vocabulary=9,
    width=6,
    inner=7,
    layers=2,
    heads=2,
    context=8,
    types=2,
    norm_epsilon=Fraction(1, 10**12),
    pooled=True,
    labels=3,
)
"""With a classifier, and the epsilon of BERT."""
CODES: Final = {"U8": "B", "I8": "b", "I16": "h", "I32": "i", "U64": "Q"}
"""struct's letter of a tensor type."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of an integer file: type, shape and values in row order."""

    kind: str
    size: tuple[int, ...]
    values: tuple[int, ...]

    @property
    def data(self) -> bytes:
        """Return the tensor's bytes."""
        return struct.pack(f"<{len(self.values)}{CODES[self.kind]}", *self.values)

    def rows(self) -> list[tuple[int, ...]]:
        """Return the values cut into rows."""
        width = self.size[-1]
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]


Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Map:
    """A linear map of a file, as spec/model.md lists it: [outputs, inner], and whether it is biased."""

    outputs: int
    inner: int
    biased: bool = False


def linear_maps(shape: ModelShape) -> dict[str, Map]:
    """Return every linear map by its name, listed from the page and not from `veil_spec.architecture`."""
    return _encoder_maps(shape) if isinstance(shape, EncoderShape) else _decoder_maps(shape)


def _decoder_maps(shape: DecoderShape) -> dict[str, Map]:
    heads, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    maps = {"embedding": Map(shape.vocabulary, shape.width)}
    if not shape.tied:
        maps["head"] = Map(shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        maps[f"layers.{layer}.qkv"] = Map(heads + 2 * kv, shape.width, shape.qkv_biased)
        maps[f"layers.{layer}.o"] = Map(shape.width, heads, shape.o_biased)
        maps[f"layers.{layer}.gate_up"] = Map(2 * shape.inner, shape.width, shape.mlp_biased)
        maps[f"layers.{layer}.down"] = Map(shape.width, shape.inner, shape.mlp_biased)
    return maps


def _encoder_maps(shape: EncoderShape) -> dict[str, Map]:
    width = shape.width
    maps = {"embedding": Map(shape.vocabulary, width), "positions": Map(shape.context, width)}
    maps["types"] = Map(shape.types, width)
    for layer in range(shape.layers):
        maps[f"layers.{layer}.qkv"] = Map(3 * width, width, True)
        maps[f"layers.{layer}.o"] = Map(width, width, True)
        maps[f"layers.{layer}.up"] = Map(shape.inner, width, True)
        maps[f"layers.{layer}.down"] = Map(width, shape.inner, True)
    if shape.pooled:
        maps["pooler"] = Map(width, width, True)
    if shape.labels:
        maps["classifier"] = Map(shape.labels, width, True)
    return maps


def norm_widths(shape: ModelShape) -> dict[str, int]:
    """Return every norm's width by its name, listed like the maps."""
    layers = range(shape.layers)
    names = [f"layers.{n}.{name}" for n in layers for name in ("attention_norm", "mlp_norm")]
    first = "embedding_norm" if isinstance(shape, EncoderShape) else "final_norm"
    widths = dict.fromkeys([first, *names], shape.width)
    if isinstance(shape, DecoderShape) and shape.head_norms:
        heads = [f"layers.{n}.{name}" for n in layers for name in ("q_norm", "k_norm")]
        widths |= dict.fromkeys(heads, shape.head_width)
    return widths


def _draw(seed: bytes, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
    stream = hashlib.shake_128(seed + name.encode()).digest(4 * count)
    span = high - low + 1
    return tuple(low + int.from_bytes(stream[i : i + 4], "little") % span for i in range(0, 4 * count, 4))


def tensors(shape: ModelShape, seed: bytes, precision: Precision = Precision.W16A16) -> Tensors:
    """Return every tensor that a file of this shape holds: weights, gains and biases of about 1."""
    made: Tensors = {}
    for name, linear in linear_maps(shape).items():
        made |= _linear(seed, name, linear, precision)
    for name, width in norm_widths(shape).items():
        made |= _integers(seed, f"{name}.gains", f"{name}.exponent", width)
        if isinstance(shape, EncoderShape):
            made |= _integers(seed, f"{name}.bias", f"{name}.bias_exponent", width)
    return made


def _linear(seed: bytes, name: str, linear: Map, precision: Precision) -> Tensors:
    kind, limit, least = ("I16", 32639, 28) if precision is Precision.W16A16 else ("I8", 127, 20)
    outputs, inner = linear.outputs, linear.inner
    drawn = _draw(seed, f"{name}.weights", outputs * inner, -limit, limit)
    mantissas = _draw(seed, f"{name}.mantissa", outputs, 2**14, 2**15 - 1)
    exponents = _draw(seed, f"{name}.exponent", outputs, least, least + 3)
    made = {
        f"{name}.weights": Tensor(kind, (outputs, inner), drawn),
        f"{name}.mantissa": Tensor("I32", (outputs,), mantissas),
        f"{name}.exponent": Tensor("I32", (outputs,), exponents),
    }
    return made | (_integers(seed, f"{name}.bias", f"{name}.bias_exponent", outputs) if linear.biased else {})


def _integers(seed: bytes, name: str, exponent: str, count: int) -> Tensors:
    """Return integers of 24 bits and their one exponent."""
    drawn = _draw(seed, name, count, -(2**23), 2**24 - 1)
    return {
        name: Tensor("I32", (count,), drawn),
        exponent: Tensor("I32", (1,), _draw(seed, exponent, 1, 22, 24)),
    }


def zeroed(made: Tensors, *names: str) -> Tensors:
    """Return the tensors with the weights and biases of every linear map of these names set to 0."""
    zero = tuple(f".{name}.{part}" for name in names for part in ("weights", "bias"))
    return {
        name: Tensor(t.kind, t.size, (0,) * len(t.values)) if f".{name}".endswith(zero) else t
        for name, t in made.items()
    }


def stated(value: object) -> object:
    """Return a field of a shape as metadata state it: a rational as text, a rotation as an object."""
    if isinstance(value, dict):
        return {name: stated(member) for name, member in value.items()}
    return str(value) if isinstance(value, Fraction) else value


def metadata(
    shape: ModelShape, version: str = __version__, precision: Precision = Precision.W16A16
) -> dict[str, object]:
    """Return the object under the metadata key `veil`."""
    structure = "encoder" if isinstance(shape, EncoderShape) else "decoder"
    about: dict[str, object] = {"spec_version": version, "name": "tiny", "precision": precision.value}
    return about | {"structure": structure, "shape": stated(asdict(shape))}


def file_bytes(described: Mapping[str, object], made: Tensors) -> bytes:
    """Return a safetensors file: header length (8 bytes, little-endian) || JSON header || data."""
    header: dict[str, object] = {"__metadata__": {"veil": json.dumps(described)}}
    data = b""
    for name, tensor in sorted(
        made.items(), key=lambda item: (-struct.calcsize(CODES[item[1].kind]), item[0])
    ):
        end = len(data) + len(tensor.data)
        header[name] = {"dtype": tensor.kind, "shape": list(tensor.size), "data_offsets": [len(data), end]}
        data += tensor.data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def model_bytes(shape: ModelShape, made: Tensors, precision: Precision = Precision.W16A16) -> bytes:
    """Return the file of a shape with these tensors."""
    return file_bytes(metadata(shape, precision=precision), made)


def write(path: Path, shape: ModelShape, seed: bytes, precision: Precision = Precision.W16A16) -> Path:
    """Return the path, at which there is now the model of this shape and seed."""
    path.write_bytes(model_bytes(shape, tensors(shape, seed, precision), precision))
    return path
