"""The integer file, mapped into memory, and the linear groups and norms that a model is made of."""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open

from veil_optimized import fixed_point, kernels, remo, steps
from veil_optimized.fixed_point import Rows
from veil_spec import __version__, constants
from veil_spec.architecture import Description, ModelShape, Precision, describe, shape_of
from veil_spec.refusals import Refusal, Refused

TYPES: Final = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32}


@dataclass(frozen=True, slots=True)
class Group:
    """The maps of one input, stacked: weights int16 or int8 [outputs, inner], scales int64 [outputs].

    The weights are the file's own bytes, mapped, and `field.blocks` widens them a block at a time. The bias,
    if there is one, is int64 [outputs] with its exponent.
    """

    number: int
    name: str
    weights: torch.Tensor
    mantissa: torch.Tensor
    exponent: torch.Tensor
    modulus: int
    bias: torch.Tensor | None = None
    bias_exponent: int = 0


Products = Callable[[Group, torch.Tensor], torch.Tensor]
"""Computes a group's exact integer products of 16-bit rows: int64 [n, inner] to [n, outputs]."""
Made = TypeVar("Made")
Asking = Generator[tuple[Group, torch.Tensor], torch.Tensor, Made]
"""A computation that yields (group, rows) wherever it needs products, and goes on with them."""
PARTS: Final = 4
"""Most parts of a step that take turns: some are multiplied while one is computed."""
PART: Final = 16
"""Fewest rows of such a part."""
Together = Callable[[Sequence[Asking[torch.Tensor]], int], list[torch.Tensor]]
"""Returns what parts of one step of so many rows come to, computed in turns; all ask for the same groups."""


def answered(asking: Asking[Made], products: Products) -> Made:
    """Return what a computation comes to with these products."""
    given = cast(torch.Tensor, None)  # what begins a generator
    while True:
        try:
            asked = asking.send(given)
        except StopIteration as done:
            made: Made = done.value
            return made
        given = products(*asked)


@dataclass(frozen=True, slots=True)
class Model:
    """An integer model file, its weights mapped; `digest` is the SHA-256 of the file."""

    name: str
    shape: ModelShape
    precision: Precision
    digest: bytes
    groups: list[Group]
    tensors: dict[str, torch.Tensor]

    @property
    def parameters(self) -> int:
        """Return the number of weights, gains and biases, shared ones counted once."""
        kept = (
            tensor.numel()
            for name, tensor in self.tensors.items()
            if name.endswith((".weights", ".gains", ".bias"))
        )
        return sum(kept)

    def look_up(self, table: str, indices: Sequence[int]) -> torch.Tensor:
        """Return rows of a table with 24 fractional bits, int64 [n, width].

        Implements: MDL-R6.
        Refuses: TOKEN_OUT_OF_RANGE.
        """
        size, chosen = len(self.tensors[f"{table}.weights"]), list(indices)
        if not all(0 <= index < size for index in chosen):
            raise Refused(Refusal.TOKEN_OUT_OF_RANGE, f"{table} has {size} rows, numbered from 0")
        weights, mantissa, exponent = (
            self.tensors[f"{table}.{part}"][chosen].to(torch.int64)
            for part in ("weights", "mantissa", "exponent")
        )
        shift = exponent.unsqueeze(-1) - constants.RESIDUAL_FRACTION
        return fixed_point.rescale(weights * mantissa.unsqueeze(-1), shift, constants.RESIDUAL_LIMIT)

    def gains(self, name: str) -> tuple[torch.Tensor, int]:
        """Return the gains of a norm, int64 [width], and their exponent."""
        return self.tensors[f"{name}.gains"], int(self.tensors[f"{name}.exponent"])

    def rms_norm(self, name: str, rows: torch.Tensor) -> Rows:
        """Return the rows normalised with the gains of that name."""
        return steps.chosen().rms_norm(rows, *self.gains(name), self.shape.norm_epsilon)

    def layer_norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows centred and normalised with the gains and biases of that name, int64 [n, width]."""
        bias = self.tensors[f"{name}.bias"], int(self.tensors[f"{name}.bias_exponent"])
        return fixed_point.layer_norm(rows, *self.gains(name), *bias, self.shape.norm_epsilon)


def group_names(shape: ModelShape) -> list[str]:
    """Return the names of the linear groups in the order of their numbers."""
    return [group.name for group in describe(shape).groups]


def tensor_shapes(shape: ModelShape, precision: Precision) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Return the type and shape of every tensor that a model file holds.

    Implements: MDL-R3.
    """
    return {name: (TYPES[kind], size) for name, kind, size in describe(shape).tensors(precision)}


def group_of(number: int, description: Description, tensors: dict[str, torch.Tensor]) -> Group:
    """Return a linear group by its number, of tensors as `load` leaves them."""
    name = description.groups[number].name
    weights, mantissa, exponent = (tensors[f"{name}.{part}"] for part in ("weights", "mantissa", "exponent"))
    bias, bias_exponent = tensors.get(f"{name}.bias"), tensors.get(f"{name}.bias_exponent")
    modulus = remo.choose_modulus(weights)
    shift = 0 if bias_exponent is None else int(bias_exponent)
    return Group(number, name, weights, mantissa, exponent, modulus, bias, shift)


def check_range(name: str, tensor: torch.Tensor, precision: Precision) -> None:
    """Refuse a tensor of a model file with an entry out of its kind's range.

    Implements: MDL-R11.
    """
    gain, exponent = 2**constants.GAIN_BITS, constants.EXPONENT_LIMIT
    ranges = {
        "weights": (-precision.weight_limit, precision.weight_limit),
        "mantissa": (2 ** (constants.MANTISSA_BITS - 1), 2**constants.MANTISSA_BITS - 1),
        "gains": (-gain, gain),
        "bias": (-gain, gain),
    }
    least, most = ranges.get(name.rpartition(".")[2], (-exponent, exponent))
    if int(tensor.min()) < least or int(tensor.max()) > most:
        raise Refused(Refusal.MODEL_MALFORMED, f"{name} is out of range")


def load(path: Path) -> Model:
    """Return the model of an integer file, whose weights stay mapped: nobody may change the file in place.

    Implements: MDL-R4.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, VERSION_MISMATCH.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        with safe_open(path, framework="pt") as file:
            stated = json.loads(file.metadata()["veil"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if stated["spec_version"] != __version__:
            remedy = "the model file is of another spec version: import it again"
            raise Refused(Refusal.VERSION_MISMATCH, remedy)
        shape, precision = shape_of(stated)
        found = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()}
        if found != tensor_shapes(shape, precision):
            raise Refused(Refusal.MODEL_MALFORMED, "tensors do not match the stated shape")
        for name, tensor in tensors.items():
            check_range(name, tensor, precision)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Refused(Refusal.MODEL_MALFORMED, f"{path} is not an integer model file") from error
    return assemble(str(stated["name"]), shape, precision, digest, tensors)


def assemble(
    name: str, shape: ModelShape, precision: Precision, digest: bytes, tensors: dict[str, torch.Tensor]
) -> Model:
    """Return the model of these tensors; all but the weights are widened to int64."""
    wide = {
        name: tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor
        for name, tensor in tensors.items()
    }
    description = describe(shape)
    groups = [group_of(number, description, wide) for number in range(len(description.groups))]
    return Model(name, shape, precision, digest, groups, wide)


def plain_products(group: Group, rows: torch.Tensor) -> torch.Tensor:
    """Return the exact products without any protection."""
    return kernels.exact(rows, group.weights)


@dataclass(frozen=True, slots=True)
class Layers:
    """A model's linear groups in fixed point, of products that are asked for."""

    model: Model

    def linear(
        self, number: int, rows: Rows, fraction: int, limit: int, stream: torch.Tensor | None = None
    ) -> Asking[torch.Tensor]:
        """Return a group's outputs in fixed point [n, outputs], added to a stream where one is given."""
        group = self.model.groups[number]
        products = yield group, rows.values
        return steps.chosen().settle(products, group, rows.exponent, fraction, limit, stream)

    def hidden(self, number: int, rows: Rows) -> Asking[torch.Tensor]:
        """Return a group's outputs with 18 fractional bits [n, outputs]."""
        return self.linear(number, rows, constants.HIDDEN_FRACTION, constants.HIDDEN_LIMIT)

    def residual(self, number: int, rows: Rows, stream: torch.Tensor) -> Asking[torch.Tensor]:
        """Return the stream plus a group's outputs, saturated [n, width]."""
        return self.linear(number, rows, constants.RESIDUAL_FRACTION, constants.RESIDUAL_LIMIT, stream)
