"""The decoder of spec/model.md, put together from an implementation's own fixed-point operations."""

from collections.abc import Sequence
from fractions import Fraction

from veil_conformance.checking import clipped, nearest
from veil_conformance.tiny_model import Tensors
from veil_spec import constants
from veil_spec.interface import Implementation
from veil_spec.types import ModelShape, Quantised, Row, Rows


def scaled(value: int, shift: int, limit: int) -> int:
    """Return rescale(value, shift, limit) by its definition, for shifts up to 62."""
    return clipped(nearest(Fraction(value) / Fraction(2) ** min(shift, 62)), limit)


class Composed:
    """One epoch of decoding; every requirement of the area MDL has one method."""

    def __init__(self, impl: Implementation, shape: ModelShape, tensors: Tensors) -> None:
        self.impl = impl
        self.shape = shape
        self.tensors = tensors
        self.cache: list[list[tuple[list[Quantised], Rows]]] = [[] for _ in range(shape.layers)]

    def linear(self, name: str, row: Quantised) -> list[int]:
        """Return a linear group's words (MDL-R5)."""
        wide = name.endswith((".o", ".down"))
        fraction, limit = (24, 2**46 - 1) if wide else (18, 2**30 - 1)
        scales = zip(
            self.tensors[f"{name}.mantissa"].values, self.tensors[f"{name}.exponent"].values, strict=True
        )
        rows = self.tensors[f"{name}.weights"].rows()
        sums = [sum(x * w for x, w in zip(row.values, channel, strict=True)) for channel in rows]
        return [
            scaled(y * m, row.exponent + e - fraction, limit) for y, (m, e) in zip(sums, scales, strict=True)
        ]

    def norm(self, name: str, row: Row) -> Quantised:
        """Return a normalised row (FXP-R7)."""
        gains, exponent = self.tensors[f"{name}.gains"].values, self.tensors[f"{name}.exponent"].values[0]
        return self.impl.rms_norm(row, gains, exponent, self.shape.norm_epsilon)

    def embed(self, token: int) -> list[int]:
        """Return a token's words (MDL-R6)."""
        mantissa = self.tensors["embedding.mantissa"].values[token]
        shift = self.tensors["embedding.exponent"].values[token] - 24
        return [
            scaled(w * mantissa, shift, 2**46 - 1) for w in self.tensors["embedding.weights"].rows()[token]
        ]

    def attention(self, layer: int, row: Quantised, position: int) -> Quantised:
        """Return the heads' averages (MDL-R7)."""
        shape, width = self.shape, self.shape.head_width
        mixed = self.linear(f"layers.{layer}.qkv", row)
        heads = [mixed[start : start + width] for start in range(0, len(mixed), width)]
        q, kv = [self.placed(head, position) for head in heads[: shape.heads]], heads[shape.heads :]
        keys = [self.placed(head, position) for head in kv[: shape.kv_heads]]
        self.cache[layer].append((keys, kv[shape.kv_heads :]))
        averages: list[int] = []
        for n in range(shape.heads):
            shared = n // (shape.heads // shape.kv_heads)
            scores = [self.impl.attention_score(q[n], past[shared]) for past, _ in self.cache[layer]]
            averages += self.impl.softmax_average(scores, [values[shared] for _, values in self.cache[layer]])
        return self.impl.quantise(averages, constants.HIDDEN_FRACTION)

    def placed(self, head: Row, position: int) -> Quantised:
        """Return a head rotated and quantised."""
        rotated = self.impl.rotate(head, position, self.shape.rope_theta)
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


def added(stream: Row, words: Row) -> list[int]:
    """Return the residual stream plus a group's words, saturated."""
    return [clipped(a + b, constants.RESIDUAL_LIMIT) for a, b in zip(stream, words, strict=True)]
