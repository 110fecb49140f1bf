"""Integer model files of any small shape, made from a seed with the standard library alone."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from veil_spec import __version__, constants
from veil_spec.types import ModelShape

SMALL: Final = ModelShape(
    vocabulary=9,
    width=6,
    inner=5,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=4,
    context=8,
    rope_theta=Fraction(10_000),
    norm_epsilon=Fraction(1, 100_000),
    tied=True,
)
"""Grouped heads, tied head, odd sizes."""
CODES: Final = {"U8": "B", "I16": "h", "I32": "i", "U64": "Q"}
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


def linear_sizes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Return (outputs, inner) of each linear map."""
    heads, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    sizes = {"embedding": (shape.vocabulary, shape.width)}
    if not shape.tied:
        sizes["head"] = (shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        sizes[f"layers.{layer}.qkv"] = (heads + 2 * kv, shape.width)
        sizes[f"layers.{layer}.o"] = (shape.width, heads)
        sizes[f"layers.{layer}.gate_up"] = (2 * shape.inner, shape.width)
        sizes[f"layers.{layer}.down"] = (shape.width, shape.inner)
    return sizes


def norm_names(shape: ModelShape) -> list[str]:
    """Return the norms' names."""
    layers = [f"layers.{n}.{name}" for n in range(shape.layers) for name in ("attention_norm", "mlp_norm")]
    return ["final_norm", *layers]


def _draw(seed: bytes, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
    stream = hashlib.shake_128(seed + name.encode()).digest(4 * count)
    span = high - low + 1
    return tuple(low + int.from_bytes(stream[i : i + 4], "little") % span for i in range(0, 4 * count, 4))


def tensors(shape: ModelShape, seed: bytes) -> Tensors:
    """Return every tensor that a file of this shape holds: weights of about 1, gains of about 1."""
    made = {}
    for name, (outputs, inner) in linear_sizes(shape).items():
        limit = constants.WEIGHT_LIMIT
        drawn = _draw(seed, f"{name}.weights", outputs * inner, -limit, limit)
        made[f"{name}.weights"] = Tensor("I16", (outputs, inner), drawn)
        mantissas = _draw(seed, f"{name}.mantissa", outputs, 2**14, 2**15 - 1)
        made[f"{name}.mantissa"] = Tensor("I32", (outputs,), mantissas)
        made[f"{name}.exponent"] = Tensor("I32", (outputs,), _draw(seed, f"{name}.exponent", outputs, 28, 31))
    for name in norm_names(shape):
        gains = _draw(seed, f"{name}.gains", shape.width, -(2**23), 2**24 - 1)
        made[f"{name}.gains"] = Tensor("I32", (shape.width,), gains)
        made[f"{name}.exponent"] = Tensor("I32", (1,), _draw(seed, f"{name}.exponent", 1, 22, 24))
    return made


def zeroed(made: Tensors, *endings: str) -> Tensors:
    """Return the tensors with the weights of every linear map of these names set to 0."""
    zero = {f"{ending}.weights" for ending in endings}
    return {
        name: Tensor(t.kind, t.size, (0,) * len(t.values)) if name.split(".", 2)[-1] in zero else t
        for name, t in made.items()
    }


def metadata(shape: ModelShape, version: str = __version__) -> dict[str, object]:
    """Return the object under the metadata key `veil`."""
    fields = asdict(shape) | {"rope_theta": str(shape.rope_theta), "norm_epsilon": str(shape.norm_epsilon)}
    return {"spec_version": version, "name": "tiny", "shape": fields}


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


def write(path: Path, shape: ModelShape, seed: bytes) -> Path:
    """Return the path, at which there is now the model of this shape and seed."""
    path.write_bytes(file_bytes(metadata(shape), tensors(shape, seed)))
    return path
