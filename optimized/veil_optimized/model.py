"""The integer Llama decoder on tensors: whole prompts at once, any `products` for its linear groups."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from veil_optimized import fixed_point, remo, tables
from veil_optimized.fixed_point import Rows
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import ModelShape

TYPES = {"I16": torch.int16, "I32": torch.int32}


@dataclass(frozen=True, slots=True)
class Group:
    """The maps of one input, stacked; weights float64 [outputs, inner], scales int64 [outputs]."""

    number: int
    name: str
    weights: torch.Tensor
    mantissa: torch.Tensor
    exponent: torch.Tensor
    modulus: int


Products = Callable[[Group, torch.Tensor], torch.Tensor]
"""Computes a group's exact integer products of 16-bit rows: int64 [n, inner] to [n, outputs]."""


@dataclass(frozen=True, slots=True)
class Model:
    """An integer model file in memory; `digest` is the SHA-256 of the file."""

    name: str
    shape: ModelShape
    digest: bytes
    groups: list[Group]
    tensors: dict[str, torch.Tensor]

    @property
    def parameters(self) -> int:
        """Return the number of weights and gains, shared ones counted once."""
        kept = (
            tensor.numel() for name, tensor in self.tensors.items() if name.endswith((".weights", ".gains"))
        )
        return sum(kept)

    def norm(self, name: str, rows: torch.Tensor) -> Rows:
        """Return the rows normalised with the gains of that name."""
        gains, exponent = self.tensors[f"{name}.gains"], int(self.tensors[f"{name}.exponent"])
        return fixed_point.rms_norm(rows, gains, exponent, self.shape.norm_epsilon)


def group_names(shape: ModelShape) -> list[str]:
    """Return the linear groups in the order of their numbers: four a layer, then the head."""
    layers = [f"layers.{n}.{name}" for n in range(shape.layers) for name in ("qkv", "o", "gate_up", "down")]
    return [*layers, "embedding" if shape.tied else "head"]


def tensor_shapes(shape: ModelShape) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Return the type and shape of every tensor that a model file holds.

    Implements: MDL-R3.
    """
    sizes = {"embedding": (shape.vocabulary, shape.width)}
    if not shape.tied:
        sizes["head"] = (shape.vocabulary, shape.width)
    norms = ["final_norm"]
    attention = shape.heads * shape.head_width
    for layer in (f"layers.{n}" for n in range(shape.layers)):
        sizes[f"{layer}.qkv"] = (attention + 2 * shape.kv_heads * shape.head_width, shape.width)
        sizes[f"{layer}.o"] = (shape.width, attention)
        sizes[f"{layer}.gate_up"] = (2 * shape.inner, shape.width)
        sizes[f"{layer}.down"] = (shape.width, shape.inner)
        norms.extend((f"{layer}.attention_norm", f"{layer}.mlp_norm"))
    result: dict[str, tuple[torch.dtype, list[int]]] = {}
    for name, size in sizes.items():
        result[f"{name}.weights"] = (torch.int16, list(size))
        result[f"{name}.mantissa"] = result[f"{name}.exponent"] = (torch.int32, [size[0]])
    for name in norms:
        result[f"{name}.gains"] = (torch.int32, [shape.width])
        result[f"{name}.exponent"] = (torch.int32, [1])
    return result


def _group(number: int, name: str, tensors: dict[str, torch.Tensor]) -> Group:
    weights = tensors[f"{name}.weights"].to(torch.float64)
    mantissa, exponent = (tensors[f"{name}.{part}"] for part in ("mantissa", "exponent"))
    return Group(number, name, weights, mantissa, exponent, remo.choose_modulus(weights))


RANGES = {
    "weights": (-constants.WEIGHT_LIMIT, constants.WEIGHT_LIMIT),
    "mantissa": (2 ** (constants.MANTISSA_BITS - 1), 2**constants.MANTISSA_BITS - 1),
    "exponent": (-constants.EXPONENT_LIMIT, constants.EXPONENT_LIMIT),
    "gains": (-(2**constants.GAIN_BITS), 2**constants.GAIN_BITS),
}


def check_range(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor of a model file with an entry out of its kind's range.

    Implements: MDL-R11.
    """
    least, most = RANGES[name.rpartition(".")[2]]
    if int(tensor.min()) < least or int(tensor.max()) > most:
        raise Refused(Refusal.MODEL_MALFORMED, f"{name} is out of range")


def load(path: Path) -> Model:
    """Return the model of an integer file.

    Implements: MDL-R4.
    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, VERSION_MISMATCH.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
        with safe_open(path, framework="pt") as file:
            stated = json.loads(file.metadata()["veil"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if stated["spec_version"] != __version__:
            raise Refused(
                Refusal.VERSION_MISMATCH, "the model file is of another spec version: import it again"
            )
        rational = {name: Fraction(stated["shape"][name]) for name in ("rope_theta", "norm_epsilon")}
        shape = ModelShape(**(stated["shape"] | rational))
        if {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()} != tensor_shapes(
            shape
        ):
            raise Refused(Refusal.MODEL_MALFORMED, "tensors do not match the stated shape")
        for name, tensor in tensors.items():
            check_range(name, tensor)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Refused(Refusal.MODEL_MALFORMED, f"{path} is not an integer model file") from error
    wide = {
        name: tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor
        for name, tensor in tensors.items()
    }
    groups = [_group(number, name, wide) for number, name in enumerate(group_names(shape))]
    return Model(str(stated["name"]), shape, digest, groups, wide)


def plain_products(group: Group, rows: torch.Tensor) -> torch.Tensor:
    """Return the exact products without any protection: every sum stays below 2**53, so float64 is exact."""
    return (rows.to(torch.float64) @ group.weights.T).to(torch.int64)


class Decoder:
    """A decoder with its cache of keys and values; `products` computes every linear group."""

    def __init__(self, model: Model, products: Products = plain_products) -> None:
        self.model = model
        self.products = products
        self.position = 0
        self.rope = tables.rope(min(256, model.shape.context), model.shape.head_width, model.shape.rope_theta)
        self.keys: list[Rows] = []
        self.values: list[torch.Tensor] = []

    def linear(self, number: int, rows: Rows, fraction: int, limit: int) -> torch.Tensor:
        """Return a group's outputs in fixed point [n, outputs].

        Implements: MDL-R5.
        """
        group = self.model.groups[number]
        products = self.products(group, rows.values)
        shift = rows.exponent.unsqueeze(-1) + group.exponent - fraction
        return fixed_point.rescale(products * group.mantissa, shift, limit)

    def hidden(self, number: int, rows: Rows) -> torch.Tensor:
        """Return a group's outputs with 18 fractional bits [n, outputs]."""
        return self.linear(number, rows, constants.HIDDEN_FRACTION, constants.HIDDEN_LIMIT)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        """Return the tokens' embeddings with 24 fractional bits [n, width].

        Implements: MDL-R6.
        Refuses: TOKEN_OUT_OF_RANGE.
        """
        if not all(0 <= token < self.model.shape.vocabulary for token in tokens):
            raise Refused(Refusal.TOKEN_OUT_OF_RANGE)
        weights, mantissa, exponent = (
            self.model.tensors[f"embedding.{part}"][tokens].to(torch.int64)
            for part in ("weights", "mantissa", "exponent")
        )
        shift = exponent.unsqueeze(-1) - constants.RESIDUAL_FRACTION
        return fixed_point.rescale(weights * mantissa.unsqueeze(-1), shift, constants.RESIDUAL_LIMIT)

    def attention(self, layer: int, rows: Rows) -> Rows:
        """Return the attention heads' averages of the new tokens, quantised [n, heads * head width].

        Implements: MDL-R7.
        """
        shape, count = self.model.shape, rows.values.shape[0]
        heads = self.hidden(4 * layer, rows).reshape(count, -1, shape.head_width).transpose(0, 1)
        queries, keys, values = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads])
        self._append(layer, self._placed(keys), values)
        shared = shape.heads // shape.kv_heads
        cached = self.keys[layer]
        every = Rows(cached.values.repeat_interleave(shared, 0), cached.exponent.repeat_interleave(shared, 0))
        scores = fixed_point.attention_score(self._placed(queries), every)
        averages = fixed_point.softmax_average(
            scores, self.values[layer].repeat_interleave(shared, 0), self._visible(count)
        )
        return fixed_point.quantise(averages.transpose(0, 1).reshape(count, -1), constants.HIDDEN_FRACTION)

    def _placed(self, heads: torch.Tensor) -> Rows:
        window = slice(self.position, self.position + heads.shape[1])
        rotated = fixed_point.rotate(heads, self.rope[0][window], self.rope[1][window])
        return fixed_point.quantise(rotated, constants.HIDDEN_FRACTION)

    def _append(self, layer: int, keys: Rows, values: torch.Tensor) -> None:
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
            return
        old = self.keys[layer]
        exponents = torch.cat((old.exponent, keys.exponent), 1)
        self.keys[layer] = Rows(torch.cat((old.values, keys.values), 1), exponents)
        self.values[layer] = torch.cat((self.values[layer], values), 1)

    def _visible(self, count: int) -> torch.Tensor:
        places = torch.arange(self.position + count)
        return places <= places[self.position :].unsqueeze(-1)

    def mlp(self, layer: int, rows: Rows) -> Rows:
        """Return SiLU(gate) * up, quantised [n, inner].

        Implements: MDL-R8.
        """
        gate, up = self.hidden(4 * layer + 2, rows).chunk(2, -1)
        return fixed_point.quantise(fixed_point.silu(gate) * up, 2 * constants.HIDDEN_FRACTION)

    def residual(self, number: int, rows: Rows, stream: torch.Tensor) -> torch.Tensor:
        """Return the residual stream plus a group's outputs, saturated [n, width]."""
        added = self.linear(number, rows, constants.RESIDUAL_FRACTION, constants.RESIDUAL_LIMIT)
        return (stream + added).clamp(-constants.RESIDUAL_LIMIT, constants.RESIDUAL_LIMIT)

    def check_room(self, tokens: int) -> None:
        """Refuse more tokens than the context still holds.

        Implements: MDL-R13.
        Refuses: CONTEXT_EXCEEDED.
        """
        context = self.model.shape.context
        if self.position + tokens > context:
            remedy = (
                f"{self.position + tokens} tokens exceed the model's context of {context}: shorten the prompt"
            )
            raise Refused(Refusal.CONTEXT_EXCEEDED, remedy)

    def step(self, tokens: list[int], every_position: bool = False) -> torch.Tensor:
        """Return the logits after the last of these tokens [1, vocabulary], or after each [n, vocabulary].

        Logits have 18 fractional bits. Many tokens at once give the words of one at a time: rows mix only in
        attention, whose sums are exact.

        Implements: MDL-R9.
        Refuses: TOKEN_OUT_OF_RANGE, PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        shape, end = self.model.shape, self.position + len(tokens)
        if not tokens:
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt has no tokens: give some text")
        self.check_room(len(tokens))
        if end > len(self.rope[0]):
            self.rope = tables.rope(min(2 * end, shape.context), shape.head_width, shape.rope_theta)
        stream = self.embed(tokens)
        for layer in range(shape.layers):
            attended = self.attention(layer, self.model.norm(f"layers.{layer}.attention_norm", stream))
            stream = self.residual(4 * layer + 1, attended, stream)
            gated = self.mlp(layer, self.model.norm(f"layers.{layer}.mlp_norm", stream))
            stream = self.residual(4 * layer + 3, gated, stream)
        self.position = end
        kept = stream if every_position else stream[-1:]
        return self.hidden(4 * shape.layers, self.model.norm("final_norm", kept))


def greedy(row: torch.Tensor) -> int:
    """Return the lowest index of the largest logit.

    Implements: MDL-R10.
    """
    return int((row == row.max()).nonzero()[0, 0])
