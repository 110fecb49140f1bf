"""The integer Llama decoder, one token at a time, from the integer file alone."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from veil_reference import fixed_point, integrity, remo
from veil_reference.field import dot
from veil_reference.tape import SeededTape
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import ModelShape, Quantised, Row, Rows

TYPES: dict[str, Literal["h", "i"]] = {"I16": "h", "I32": "i"}
Accumulate = Callable[["Group", Row], Sequence[int]]
"""Computes a group's exact integer products of one 16-bit row: plainly or masked."""


@dataclass(frozen=True, slots=True)
class Group:
    """The maps of one input, stacked: weight (j, i) is weights[j][i] * mantissa[j] * 2**-exponent[j]."""

    number: int
    weights: list[array[int]]
    mantissa: array[int]
    exponent: array[int]


@dataclass(frozen=True, slots=True)
class Model:
    """An integer model file in memory; `digest` is the SHA-256 of the file."""

    shape: ModelShape
    digest: bytes
    tensors: dict[str, list[array[int]]]

    def group(self, number: int, name: str) -> Group:
        """Return a linear group by its name in the file."""
        mantissa, exponent = self.tensors[f"{name}.mantissa"][0], self.tensors[f"{name}.exponent"][0]
        return Group(number, self.tensors[f"{name}.weights"], mantissa, exponent)

    def norm(self, name: str, row: Row) -> Quantised:
        """Return the row normalised with the gains of that name."""
        gains, exponent = self.tensors[f"{name}.gains"][0], self.tensors[f"{name}.exponent"][0][0]
        return fixed_point.rms_norm(row, gains, exponent, self.shape.norm_epsilon)


def tensor_shapes(shape: ModelShape) -> dict[str, tuple[str, list[int]]]:
    """Return the type and shape of every tensor that a model file holds.

    Implements: MDL-R3.
    """
    width, attention = shape.width, shape.heads * shape.head_width
    linear = {"embedding": (shape.vocabulary, width)} | (
        {} if shape.tied else {"head": (shape.vocabulary, width)}
    )
    norms = ["final_norm"]
    for layer in (f"layers.{n}" for n in range(shape.layers)):
        linear[f"{layer}.qkv"] = attention + 2 * shape.kv_heads * shape.head_width, width
        linear[f"{layer}.o"] = width, attention
        linear[f"{layer}.gate_up"] = 2 * shape.inner, width
        linear[f"{layer}.down"] = width, shape.inner
        norms += [f"{layer}.attention_norm", f"{layer}.mlp_norm"]
    named = {f"{name}.weights": ("I16", list(size)) for name, size in linear.items()}
    for part in ("mantissa", "exponent"):
        named |= {f"{name}.{part}": ("I32", [size[0]]) for name, size in linear.items()}
    named |= {f"{name}.gains": ("I32", [width]) for name in norms}
    return named | {f"{name}.exponent": ("I32", [1]) for name in norms}


def parse_shape(text: str) -> ModelShape:
    """Return the shape from a model file's `veil` metadata. Refuses: VERSION_MISMATCH, MODEL_MALFORMED."""
    stated = json.loads(text)
    if stated["spec_version"] != __version__:
        raise Refused(Refusal.VERSION_MISMATCH, "the model file is of another spec version: import it again")
    rational = {name: Fraction(stated["shape"][name]) for name in ("rope_theta", "norm_epsilon")}
    return ModelShape(**(stated["shape"] | rational))


def _rows(data: bytes, code: Literal["h", "i"], size: list[int]) -> list[array[int]]:
    cells = memoryview(data).cast(code)
    width = size[-1]
    return [array(code, cells[start : start + width]) for start in range(0, len(cells), width)]


RANGES = {
    "weights": (-constants.WEIGHT_LIMIT, constants.WEIGHT_LIMIT),
    "mantissa": (2 ** (constants.MANTISSA_BITS - 1), 2**constants.MANTISSA_BITS - 1),
    "exponent": (-constants.EXPONENT_LIMIT, constants.EXPONENT_LIMIT),
    "gains": (-(2**constants.GAIN_BITS), 2**constants.GAIN_BITS),
}


def check_range(name: str, rows: list[array[int]]) -> None:
    """Refuse a tensor of a model file with an entry out of its kind's range.

    Implements: MDL-R11.
    """
    least, most = RANGES[name.rpartition(".")[2]]
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
        shape = parse_shape(header.pop("__metadata__")["veil"])
        if {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} != tensor_shapes(shape):
            raise Refused(Refusal.MODEL_MALFORMED, "tensors do not match the stated shape")
        tensors = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            tensors[name] = _rows(
                content[start + first : start + last], TYPES[entry["dtype"]], entry["shape"]
            )
            check_range(name, tensors[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(Refusal.MODEL_MALFORMED, f"{path} is not an integer model file") from error
    return Model(shape, hashlib.sha256(content).digest(), tensors)


def accumulate(group: Group, row: Row) -> Sequence[int]:
    """Return the exact integer products of a 16-bit row with every output channel."""
    return [dot(row, channel) for channel in group.weights]


@dataclass
class Masked:
    """Computes products through masks, as enclave and worker would, from a given seed: for tests.

    Implements: RMO-R8.
    """

    seed: bytes
    rank: Fraction | None = None
    used: remo.Addresses = field(default_factory=remo.Addresses)
    calls: Counter[int] = field(default_factory=Counter)

    def __call__(self, group: Group, row: Row) -> Sequence[int]:
        """Return the same integers as `accumulate`, through mask, multiply, verify and unmask."""
        tape, number = SeededTape(self.seed), group.number
        modulus = remo.choose_modulus(group.weights)
        step = self.calls[number]
        self.calls[number] += 1
        self.used.burn(number, step)
        pads = self._pads(number, step, len(row), modulus)
        masked = remo.mask([row], pads, modulus)
        returned = remo.multiply(masked, group.weights, modulus)
        secret = integrity.challenge(tape, number, len(group.weights), modulus)
        key = integrity.check_key(group.weights, secret, modulus)
        integrity.verify(masked, returned, secret, key, modulus)
        return remo.unmask(returned, remo.multiply(pads, group.weights, modulus), modulus)[0]

    def _pads(self, number: int, step: int, width: int, modulus: int) -> Rows:
        tape = SeededTape(self._seed_of(step))
        if self.rank is None:
            return remo.pad(tape, number, step, 1, width, modulus)
        basis = remo.rank_basis(SeededTape(self.seed), number, int(self.rank * width), width, modulus)
        return remo.rank_pad(tape, basis, number, step, 1, modulus)

    def _seed_of(self, step: int) -> bytes:
        seed = self.seed
        for _ in range(step):
            seed = remo.ratchet(seed)
        return seed


class Decoder:
    """A decoder with its cache of keys and values; `products` computes every linear group."""

    def __init__(self, model: Model, products: Accumulate = accumulate) -> None:
        self.model = model
        self.products = products
        self.position = 0
        self.keys: list[list[list[Quantised]]] = [[] for _ in range(model.shape.layers)]
        self.values: list[list[Sequence[Row]]] = [[] for _ in range(model.shape.layers)]

    def linear(self, number: int, name: str, row: Quantised, fraction: int, limit: int) -> list[int]:
        """Return a group's outputs in fixed point.

        Implements: MDL-R5.
        """
        group = self.model.group(number, name)
        products = self.products(group, row.values)
        return [
            fixed_point.rescale(product * mantissa, row.exponent + exponent - fraction, limit)
            for product, mantissa, exponent in zip(products, group.mantissa, group.exponent, strict=True)
        ]

    def hidden(self, number: int, name: str, row: Quantised) -> list[int]:
        """Return a group's outputs with 18 fractional bits."""
        return self.linear(number, name, row, constants.HIDDEN_FRACTION, constants.HIDDEN_LIMIT)

    def embed(self, token: int) -> list[int]:
        """Return a token's embedding with 24 fractional bits [width].

        Implements: MDL-R6.
        Refuses: TOKEN_OUT_OF_RANGE.
        """
        if not 0 <= token < self.model.shape.vocabulary:
            raise Refused(Refusal.TOKEN_OUT_OF_RANGE)
        table = self.model.group(0, "embedding")
        mantissa, shift = table.mantissa[token], table.exponent[token] - constants.RESIDUAL_FRACTION
        return [
            fixed_point.rescale(q * mantissa, shift, constants.RESIDUAL_LIMIT) for q in table.weights[token]
        ]

    def attention(self, layer: int, row: Quantised) -> Quantised:
        """Return the attention heads' averages of one new token, quantised [heads * head width].

        Implements: MDL-R7.
        """
        shape = self.model.shape
        mixed = self.hidden(4 * layer, f"layers.{layer}.qkv", row)
        heads = [mixed[i : i + shape.head_width] for i in range(0, len(mixed), shape.head_width)]
        queries, rest = heads[: shape.heads], heads[shape.heads :]
        self.keys[layer].append([self._placed(head) for head in rest[: shape.kv_heads]])
        self.values[layer].append(rest[shape.kv_heads :])
        shared = shape.heads // shape.kv_heads
        averages = [self._head(layer, n // shared, self._placed(query)) for n, query in enumerate(queries)]
        return fixed_point.quantise([word for head in averages for word in head], constants.HIDDEN_FRACTION)

    def _placed(self, head: Row) -> Quantised:
        rotated = fixed_point.rotate(head, self.position, self.model.shape.rope_theta)
        return fixed_point.quantise(rotated, constants.HIDDEN_FRACTION)

    def _head(self, layer: int, kv_head: int, query: Quantised) -> Sequence[int]:
        scores = [fixed_point.attention_score(query, keys[kv_head]) for keys in self.keys[layer]]
        return fixed_point.softmax_average(scores, [values[kv_head] for values in self.values[layer]])

    def mlp(self, layer: int, row: Quantised) -> Quantised:
        """Return SiLU(gate) * up, quantised [inner].

        Implements: MDL-R8.
        """
        both = self.hidden(4 * layer + 2, f"layers.{layer}.gate_up", row)
        gate, up = both[: self.model.shape.inner], both[self.model.shape.inner :]
        gated = [fixed_point.silu(g) * u for g, u in zip(gate, up, strict=True)]
        return fixed_point.quantise(gated, 2 * constants.HIDDEN_FRACTION)

    def residual(self, number: int, name: str, row: Quantised, stream: Row) -> list[int]:
        """Return the residual stream plus a group's outputs, saturated [width]."""
        added = self.linear(number, name, row, constants.RESIDUAL_FRACTION, constants.RESIDUAL_LIMIT)
        return [
            fixed_point.clamp(x + y, constants.RESIDUAL_LIMIT) for x, y in zip(stream, added, strict=True)
        ]

    def step(self, token: int) -> list[int]:
        """Return the logits after one more token, with 18 fractional bits [vocabulary].

        Implements: MDL-R9, MDL-R13.
        Refuses: TOKEN_OUT_OF_RANGE, CONTEXT_EXCEEDED.
        """
        shape = self.model.shape
        if self.position >= shape.context:
            raise Refused(Refusal.CONTEXT_EXCEEDED)
        stream = self.embed(token)
        for layer in range(shape.layers):
            name = f"layers.{layer}"
            attended = self.attention(layer, self.model.norm(f"{name}.attention_norm", stream))
            stream = self.residual(4 * layer + 1, f"{name}.o", attended, stream)
            gated = self.mlp(layer, self.model.norm(f"{name}.mlp_norm", stream))
            stream = self.residual(4 * layer + 3, f"{name}.down", gated, stream)
        self.position += 1
        head = "embedding" if shape.tied else "head"
        return self.hidden(4 * shape.layers, head, self.model.norm("final_norm", stream))


def logits(model: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Return the logits after each token [positions, vocabulary], with 18 fractional bits."""
    decoder = Decoder(load(model))
    return [decoder.step(token) for token in tokens]


def masked_logits(model: Path, tokens: Sequence[int], seed: bytes, rank: Fraction | None) -> list[list[int]]:
    """Return the same logits through masks: profile `pad`, or `rank` with m = floor(rank * width)."""
    decoder = Decoder(load(model), Masked(seed, rank))
    return [decoder.step(token) for token in tokens]


def greedy(row: Row) -> int:
    """Return the lowest index of the largest logit.

    Implements: MDL-R10.
    """
    return max(range(len(row)), key=lambda index: (row[index], -index))
