"""The decoder of Llama, Mistral, Qwen2 and Qwen3, one token at a time."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from veil_reference import fixed_point
from veil_reference.masked import Masked
from veil_reference.model import Model, load
from veil_spec import constants
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Quantised, Row


class Decoder:
    """A decoder with its cache of keys and values. Refuses: MODEL_UNSUPPORTED."""

    def __init__(self, model: Model) -> None:
        if not isinstance(model.shape, DecoderShape):
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model is no decoder")
        self.model = model
        self.shape = model.shape
        self.position = 0
        self.keys: list[list[list[Quantised]]] = [[] for _ in range(self.shape.layers)]
        self.values: list[list[Sequence[Row]]] = [[] for _ in range(self.shape.layers)]

    def attention(self, layer: int, row: Quantised) -> Quantised:
        """Return the attention heads' averages of one new token, quantised [heads * head width].

        Implements: MDL-R7.
        """
        shape = self.shape
        mixed = self.model.hidden(4 * layer, row)
        heads = [mixed[i : i + shape.head_width] for i in range(0, len(mixed), shape.head_width)]
        queries, rest = heads[: shape.heads], heads[shape.heads :]
        self.keys[layer].append([self._placed(layer, "k_norm", head) for head in rest[: shape.kv_heads]])
        self.values[layer].append(rest[shape.kv_heads :])
        shared = shape.heads // shape.kv_heads
        placed = [self._placed(layer, "q_norm", query) for query in queries]
        averages = [self._head(layer, n // shared, query) for n, query in enumerate(placed)]
        return fixed_point.quantise([word for head in averages for word in head], constants.HIDDEN_FRACTION)

    def _placed(self, layer: int, norm: str, head: Row) -> Quantised:
        if self.shape.head_norms:
            gains = self.model.norm(f"layers.{layer}.{norm}")
            head = fixed_point.head_norm(head, *gains, self.shape.norm_epsilon)
        rotated = fixed_point.rotate(head, self.position, self.shape.rotation)
        return fixed_point.quantise(rotated, constants.HIDDEN_FRACTION)

    def _head(self, layer: int, kv_head: int, query: Quantised) -> Sequence[int]:
        seen = slice(-self.shape.window, None)
        scores = [fixed_point.attention_score(query, keys[kv_head]) for keys in self.keys[layer][seen]]
        return fixed_point.softmax_average(scores, [values[kv_head] for values in self.values[layer][seen]])

    def mlp(self, layer: int, row: Quantised) -> Quantised:
        """Return SiLU(gate) * up, quantised [inner].

        Implements: MDL-R8.
        """
        both = self.model.hidden(4 * layer + 2, row)
        gate, up = both[: self.shape.inner], both[self.shape.inner :]
        gated = [fixed_point.silu(g) * u for g, u in zip(gate, up, strict=True)]
        return fixed_point.quantise(gated, 2 * constants.HIDDEN_FRACTION)

    def step(self, token: int) -> list[int]:
        """Return the logits after one more token, with 18 fractional bits [vocabulary].

        Implements: MDL-R9, MDL-R13.
        Refuses: TOKEN_OUT_OF_RANGE, CONTEXT_EXCEEDED.
        """
        if self.position >= self.shape.context:
            raise Refused(Refusal.CONTEXT_EXCEEDED)
        stream = self.model.look_up("embedding", token)
        for layer in range(self.shape.layers):
            name = f"layers.{layer}"
            attended = self.attention(layer, self.model.rms_norm(f"{name}.attention_norm", stream))
            stream = self.model.residual(4 * layer + 1, attended, stream)
            gated = self.mlp(layer, self.model.rms_norm(f"{name}.mlp_norm", stream))
            stream = self.model.residual(4 * layer + 3, gated, stream)
        self.position += 1
        return self.model.hidden(4 * self.shape.layers, self.model.rms_norm("final_norm", stream))


def logits(model: Path, tokens: Sequence[int]) -> list[list[int]]:
    """Return the logits after each token [positions, vocabulary], with 18 fractional bits."""
    decoder = Decoder(load(model))
    return [decoder.step(token) for token in tokens]


def masked_logits(model: Path, tokens: Sequence[int], seed: bytes, rank: Fraction | None) -> list[list[int]]:
    """Return the same logits through masks: profile `pad`, or `rank` with m = floor(rank * width)."""
    decoder = Decoder(replace(load(model), products=Masked(seed, rank)))
    return [decoder.step(token) for token in tokens]
