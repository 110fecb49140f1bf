"""The models of spec/model.md, put together from an implementation's own fixed-point operations."""

from collections.abc import Sequence
from fractions import Fraction

from veil_conformance.checking import clipped, nearest
from veil_conformance.tiny_model import Tensors
from veil_spec import constants
from veil_spec.architecture import DecoderShape, EncoderShape, ModelShape
from veil_spec.interface import Implementation
from veil_spec.types import Quantised, Row, Rows

WIDE = (".o", ".down")
"""Endings of the linear maps into the residual stream."""


def scaled(value: int, shift: int, limit: int) -> int:
    """Return rescale(value, shift, limit) by its definition, for shifts up to 62."""
    return clipped(nearest(Fraction(value) / Fraction(2) ** min(shift, 62)), limit)


def added(stream: Row, words: Row) -> list[int]:
    """Return the residual stream plus a group's words, saturated."""
    return [clipped(a + b, constants.RESIDUAL_LIMIT) for a, b in zip(stream, words, strict=True)]


class Parts:
    """What both structures consist of."""

    def __init__(self, impl: Implementation, shape: ModelShape, tensors: Tensors) -> None:
        self.impl = impl
        self.epsilon = shape.norm_epsilon
        self.tensors = tensors

    def values(self, name: str) -> tuple[int, ...]:
        """Return a tensor's values."""
        return self.tensors[name].values

    def linear(self, name: str, row: Quantised) -> list[int]:
        """Return a linear group's words (MDL-R5)."""
        fraction, limit = (24, 2**46 - 1) if name.endswith(WIDE) else (18, 2**30 - 1)
        scales = zip(self.values(f"{name}.mantissa"), self.values(f"{name}.exponent"), strict=True)
        rows = self.tensors[f"{name}.weights"].rows()
        sums = [sum(x * w for x, w in zip(row.values, channel, strict=True)) for channel in rows]
        words = [
            scaled(y * m, row.exponent + e - fraction, limit) for y, (m, e) in zip(sums, scales, strict=True)
        ]
        if f"{name}.bias" not in self.tensors:
            return words
        shift = self.values(f"{name}.bias_exponent")[0] - fraction
        biases = self.values(f"{name}.bias")
        return [clipped(w + scaled(b, shift, limit), limit) for w, b in zip(words, biases, strict=True)]

    def row_of(self, table: str, index: int) -> list[int]:
        """Return the words of a row of a table (MDL-R6)."""
        mantissa = self.values(f"{table}.mantissa")[index]
        shift = self.values(f"{table}.exponent")[index] - 24
        return [
            scaled(w * mantissa, shift, 2**46 - 1) for w in self.tensors[f"{table}.weights"].rows()[index]
        ]

    def gains(self, name: str) -> tuple[tuple[int, ...], int]:
        """Return a norm's gains and their exponent."""
        return self.values(f"{name}.gains"), self.values(f"{name}.exponent")[0]

    def average(self, query: Quantised, keys: Sequence[Quantised], values: Rows) -> Sequence[int]:
        """Return the softmax average of the values under the scores of a query."""
        return self.impl.softmax_average([self.impl.attention_score(query, key) for key in keys], values)


class Composed(Parts):
    """One epoch of decoding; every requirement of the decoder has one method."""

    def __init__(self, impl: Implementation, shape: DecoderShape, tensors: Tensors) -> None:
        super().__init__(impl, shape, tensors)
        self.shape = shape
        self.cache: list[list[tuple[list[Quantised], Rows]]] = [[] for _ in range(shape.layers)]

    def norm(self, name: str, row: Row) -> Quantised:
        """Return a normalised row (FXP-R7)."""
        return self.impl.rms_norm(row, *self.gains(name), self.epsilon)

    def embed(self, token: int) -> list[int]:
        """Return a token's words (MDL-R6)."""
        return self.row_of("embedding", token)

    def attention(self, layer: int, row: Quantised, position: int) -> Quantised:
        """Return the heads' averages (MDL-R7)."""
        shape, width, name = self.shape, self.shape.head_width, f"layers.{layer}"
        mixed = self.linear(f"{name}.qkv", row)
        heads = [mixed[start : start + width] for start in range(0, len(mixed), width)]
        q, kv = heads[: shape.heads], heads[shape.heads :]
        queries = [self.placed(f"{name}.q_norm", head, position) for head in q]
        keys = [self.placed(f"{name}.k_norm", head, position) for head in kv[: shape.kv_heads]]
        self.cache[layer].append((keys, kv[shape.kv_heads :]))
        first = max(0, position + 1 - shape.window) if shape.window else 0
        seen = self.cache[layer][first : position + 1]
        averages: list[int] = []
        for n, query in enumerate(queries):
            shared = n // (shape.heads // shape.kv_heads)
            averages += self.average(query, [k[shared] for k, _ in seen], [v[shared] for _, v in seen])
        return self.impl.quantise(averages, constants.HIDDEN_FRACTION)

    def placed(self, norm: str, head: Row, position: int) -> Quantised:
        """Return a head normalised where the shape says so, rotated and quantised."""
        if self.shape.head_norms:
            head = self.impl.head_norm(head, *self.gains(norm), self.epsilon)
        rotated = self.impl.rotate(head, position, self.shape.rotation)
        return self.impl.quantise(rotated, constants.HIDDEN_FRACTION)

    def mlp(self, layer: int, row: Quantised) -> Quantised:
        """Return the gated words (MDL-R8)."""
        both = self.linear(f"layers.{layer}.gate_up", row)
        gate, up = both[: self.shape.inner], both[self.shape.inner :]
        return self.impl.quantise([self.impl.silu(g) * u for g, u in zip(gate, up, strict=True)], 36)

    def step(self, token: int, position: int) -> list[int]:
        """Return the logits after one more token (MDL-R9)."""
        stream = self.embed(token)
        for layer in range(self.shape.layers):
            name = f"layers.{layer}"
            attended = self.attention(layer, self.norm(f"{name}.attention_norm", stream), position)
            stream = added(stream, self.linear(f"{name}.o", attended))
            gated = self.mlp(layer, self.norm(f"{name}.mlp_norm", stream))
            stream = added(stream, self.linear(f"{name}.down", gated))
        return self.linear("embedding" if self.shape.tied else "head", self.norm("final_norm", stream))

    def logits(self, tokens: Sequence[int]) -> list[list[int]]:
        """Return the logits after each token."""
        return [self.step(token, position) for position, token in enumerate(tokens)]


class ComposedEncoder(Parts):
    """One sequence through an encoder; every requirement of the encoder has one method."""

    def __init__(self, impl: Implementation, shape: EncoderShape, tensors: Tensors) -> None:
        super().__init__(impl, shape, tensors)
        self.shape = shape

    def norm(self, name: str, row: Row) -> list[int]:
        """Return a centred and normalised row (FXP-R12)."""
        biases, exponent = self.values(f"{name}.bias"), self.values(f"{name}.bias_exponent")[0]
        return list(self.impl.layer_norm(row, *self.gains(name), biases, exponent, self.epsilon))

    def embed(self, token: int, position: int, kind: int) -> list[int]:
        """Return the stream of one position before the first layer (MDL-R14)."""
        rows = self.row_of("embedding", token), self.row_of("positions", position), self.row_of("types", kind)
        summed = [clipped(sum(column), 2**46 - 1) for column in zip(*rows, strict=True)]
        return self.norm("embedding_norm", summed)

    def attention(self, layer: int, stream: Rows) -> list[Quantised]:
        """Return the heads' averages of every position (MDL-R15)."""
        width = self.shape.width
        mixed = [self.linear(f"layers.{layer}.qkv", self.impl.quantise(row, 24)) for row in stream]
        joined: list[list[int]] = [[] for _ in stream]
        for head in range(self.shape.heads):
            q, k, v = ([self.head(row[p : p + width], head) for row in mixed] for p in (0, width, 2 * width))
            keys = [self.impl.quantise(row, 18) for row in k]
            for position, row in enumerate(q):
                joined[position] += self.average(self.impl.quantise(row, 18), keys, v)
        return [self.impl.quantise(row, 18) for row in joined]

    def head(self, row: Row, head: int) -> Row:
        """Return the words of one head."""
        width = self.shape.width // self.shape.heads
        return row[head * width : (head + 1) * width]

    def layer(self, layer: int, stream: Rows) -> list[list[int]]:
        """Return the stream after one more layer (MDL-R16)."""
        name = f"layers.{layer}"
        attended = [self.linear(f"{name}.o", row) for row in self.attention(layer, stream)]
        stream = [
            self.norm(f"{name}.attention_norm", added(x, y)) for x, y in zip(stream, attended, strict=True)
        ]
        raised = [self.linear(f"{name}.up", self.impl.quantise(row, 24)) for row in stream]
        gated = [self.impl.quantise([self.impl.gelu(word) for word in row], 18) for row in raised]
        fed = [self.linear(f"{name}.down", row) for row in gated]
        return [self.norm(f"{name}.mlp_norm", added(x, y)) for x, y in zip(stream, fed, strict=True)]

    def stream(self, tokens: Sequence[int], types: Sequence[int]) -> list[list[int]]:
        """Return the last stream."""
        rows = [self.embed(t, n, kind) for n, (t, kind) in enumerate(zip(tokens, types, strict=True))]
        for layer in range(self.shape.layers):
            rows = self.layer(layer, rows)
        return rows

    def labels(self, stream: Rows) -> list[int]:
        """Return the labels' logits of a last stream (MDL-R17)."""
        pooled = self.linear("pooler", self.impl.quantise(stream[0], 24))
        return self.linear("classifier", self.impl.quantise([self.impl.tanh(word) for word in pooled], 30))
