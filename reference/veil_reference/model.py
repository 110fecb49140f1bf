"""The integer file, and the linear groups and norms that a model is made of."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veil_reference import fixed_point
from veil_reference.field import dot
from veil_spec import __version__, constants
from veil_spec.architecture import ModelShape, Precision, describe, shape_of
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Quantised, Row

TYPES: dict[str, Literal["b", "h", "i"]] = {"I8": "b", "I16": "h", "I32": "i"}
Accumulate = Callable[["Group", Row], Sequence[int]]
"""Computes a group's exact integer products of one 16-bit row: plainly or masked."""


@dataclass(frozen=True, slots=True)
class Group:
    """The maps of one input, stacked: weight (j, i) is weights[j][i] * mantissa[j] * 2**-exponent[j]."""

    number: int
    weights: list[array[int]]
    mantissa: array[int]
    exponent: array[int]
    bias: Sequence[int]
    bias_exponent: int


def accumulate(group: Group, row: Row) -> Sequence[int]:
    """Return the exact integer products of a 16-bit row with every output channel."""
    return [dot(row, channel) for channel in group.weights]


@dataclass(frozen=True, slots=True)
class Model:
    """An integer model file in memory; `digest` is the SHA-256 of the file."""

    shape: ModelShape
    digest: bytes
    tensors: dict[str, list[array[int]]]
    products: Accumulate = accumulate

    def _group(self, number: int, name: str) -> Group:
        scales = self.tensors[f"{name}.mantissa"][0], self.tensors[f"{name}.exponent"][0]
        bias = self.tensors.get(f"{name}.bias", [array("i", bytes(4 * len(scales[0])))])[0]
        bias_exponent = self.tensors.get(f"{name}.bias_exponent", [array("i", [0])])[0][0]
        return Group(number, self.tensors[f"{name}.weights"], *scales, bias, bias_exponent)

    def linear(self, number: int, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return a group's outputs in fixed point.

        Implements: MDL-R5.
        """
        group = self._group(number, describe(self.shape).groups[number].name)
        products = self.products(group, row.values)
        words = (
            fixed_point.rescale(product * mantissa, row.exponent + exponent - fraction, limit)
            for product, mantissa, exponent in zip(products, group.mantissa, group.exponent, strict=True)
        )
        shift = group.bias_exponent - fraction
        return [
            fixed_point.added(word, bias, shift, limit) for word, bias in zip(words, group.bias, strict=True)
        ]

    def hidden(self, number: int, row: Quantised) -> list[int]:
        """Return a group's outputs with 18 fractional bits."""
        return self.linear(number, row, constants.HIDDEN_FRACTION, constants.HIDDEN_LIMIT)

    def residual(self, number: int, row: Quantised, stream: Row) -> list[int]:
        """Return the stream plus a group's outputs, saturated [width]."""
        added = self.linear(number, row, constants.RESIDUAL_FRACTION, constants.RESIDUAL_LIMIT)
        return [
            fixed_point.clamp(x + y, constants.RESIDUAL_LIMIT) for x, y in zip(stream, added, strict=True)
        ]

    def look_up(self, table: str, index: int) -> list[int]:
        """Return a row of a table with 24 fractional bits [width].

        Implements: MDL-R6.
        Refuses: TOKEN_OUT_OF_RANGE.
        """
        rows = self._group(0, table)
        if not 0 <= index < len(rows.weights):
            raise Refused(Refusal.TOKEN_OUT_OF_RANGE)
        mantissa, shift = rows.mantissa[index], rows.exponent[index] - constants.RESIDUAL_FRACTION
        return [
            fixed_point.rescale(w * mantissa, shift, constants.RESIDUAL_LIMIT) for w in rows.weights[index]
        ]

    def norm(self, name: str) -> tuple[Row, int]:
        """Return the gains of that name, and their exponent."""
        return self.tensors[f"{name}.gains"][0], self.tensors[f"{name}.exponent"][0][0]

    def rms_norm(self, name: str, row: Row) -> Quantised:
        """Return the row normalised with the gains of that name."""
        return fixed_point.rms_norm(row, *self.norm(name), self.shape.norm_epsilon)

    def layer_norm(self, name: str, row: Row) -> Sequence[int]:
        """Return the row centred and normalised with the gains and biases of that name."""
        bias, exponent = self.tensors[f"{name}.bias"][0], self.tensors[f"{name}.bias_exponent"][0][0]
        return fixed_point.layer_norm(row, *self.norm(name), bias, exponent, self.shape.norm_epsilon)


def tensor_shapes(shape: ModelShape, precision: Precision) -> dict[str, tuple[str, list[int]]]:
    """Return the type and shape of every tensor that a model file holds.

    Implements: MDL-R3.
    """
    return {name: (kind, size) for name, kind, size in describe(shape).tensors(precision)}


def _rows(data: bytes, code: Literal["b", "h", "i"], size: list[int]) -> list[array[int]]:
    cells = memoryview(data).cast(code)
    width = size[-1]
    return [array(code, cells[start : start + width]) for start in range(0, len(cells), width)]


def range_of(name: str, precision: Precision) -> tuple[int, int]:
    """Return the least and the largest entry of a tensor of that name."""
    match name.rpartition(".")[2]:
        case "weights":
            return -precision.weight_limit, precision.weight_limit
        case "mantissa":
            return 2 ** (constants.MANTISSA_BITS - 1), 2**constants.MANTISSA_BITS - 1
        case "gains" | "bias":
            return -(2**constants.GAIN_BITS), 2**constants.GAIN_BITS
    return -constants.EXPONENT_LIMIT, constants.EXPONENT_LIMIT


def check_range(name: str, rows: list[array[int]], precision: Precision) -> None:
    """Refuse a tensor of a model file with an entry out of its kind's range.

    Implements: MDL-R11.
    """
    least, most = range_of(name, precision)
    if any(min(row) < least or max(row) > most for row in rows):
        raise Refused(Refusal.MODEL_MALFORMED, f"{name} is out of range")


def load(path: Path) -> Model:
    """Return the model of an integer file.

    Implements: MDL-R4.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, VERSION_MISMATCH.
    """
    try:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        stated = json.loads(header.pop("__metadata__")["veil"])
        if stated["spec_version"] != __version__:
            raise Refused(Refusal.VERSION_MISMATCH, "the file is of another spec version: import it again")
        shape, precision = shape_of(stated)
        found = {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
        if found != tensor_shapes(shape, precision):
            raise Refused(Refusal.MODEL_MALFORMED, "tensors do not match the stated shape")
        tensors = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            data = content[start + first : start + last]
            tensors[name] = _rows(data, TYPES[entry["dtype"]], entry["shape"])
            check_range(name, tensors[name], precision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(Refusal.MODEL_MALFORMED, f"{path} is not an integer model file") from error
    return Model(shape, hashlib.sha256(content).digest(), tensors)
