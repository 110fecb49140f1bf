"""The decoder of Llama, Mistral, Qwen2 and Qwen3 on tensors: many tokens of many sequences at once."""

from collections.abc import Sequence
from copy import copy
from typing import Final, Self

import torch

from veil_optimized import fixed_point, steps, tables
from veil_optimized.fixed_point import Rows
from veil_optimized.model import (
    PART,
    PARTS,
    Asking,
    Layers,
    Model,
    Products,
    Together,
    answered,
    plain_products,
)
from veil_spec import constants
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused

FIRST_ROOM: Final = 64
"""Positions that a cache has room for at first; it doubles when it is full."""


class Cache:
    """The keys and values of one sequence, in memory that doubles with its length up to the context."""

    def __init__(self, shape: DecoderShape) -> None:
        self._shape = shape
        self.position = 0
        self._keys: list[torch.Tensor] = []
        self._exponents: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    @property
    def bytes(self) -> int:
        """Return the bytes that it holds."""
        held = (*self._keys, *self._exponents, *self._values)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens. Refuses: CONTEXT_EXCEEDED. Implements: MDL-R13."""
        needed, context = self.position + tokens, self._shape.context
        if needed > context:
            remedy = f"{needed} tokens exceed the model's context of {context}: shorten the prompt"
            raise Refused(Refusal.CONTEXT_EXCEEDED, remedy)
        room = self._keys[0].shape[1] if self._keys else 0
        if needed > room:
            self._grow(min(context, max(needed, 2 * room, FIRST_ROOM)))

    def _grow(self, room: int) -> None:
        heads, width = self._shape.kv_heads, self._shape.head_width
        old = self._keys, self._exponents, self._values
        sizes = ((heads, room, width), (heads, room), (heads, room, width))
        kinds = (torch.int16, torch.int32, torch.int32)
        new = [
            [torch.zeros(size, dtype=kind) for _ in range(self._shape.layers)]
            for size, kind in zip(sizes, kinds, strict=True)
        ]
        for before, after in zip(old, new, strict=True):
            for source, target in zip(before, after, strict=False):
                target[:, : self.position] = source[:, : self.position]
        self._keys, self._exponents, self._values = new

    def append(self, layer: int, keys: Rows, values: torch.Tensor) -> tuple[Rows, torch.Tensor]:
        """Return a layer's keys and values, with those of new tokens [kv heads, positions, head width]."""
        end = self.position + values.shape[1]
        window = slice(self.position, end)
        self._keys[layer][:, window] = keys.values
        self._exponents[layer][:, window] = keys.exponent
        self._values[layer][:, window] = values
        return self.held(layer, end)

    def after(self, tokens: int) -> Self:
        """Return this cache as it will be when so many tokens, for which it has room, have been taken in."""
        later = copy(self)
        later.position += tokens
        return later

    def held(self, layer: int, end: int) -> tuple[Rows, torch.Tensor]:
        """Return a layer's keys and values of the positions below `end`."""
        every = Rows(self._keys[layer][:, :end], self._exponents[layer][:, :end])
        return every, self._values[layer][:, :end]


class Decoder:
    """A decoder; `products` computes every linear group, and `cache` is that of its own one sequence.

    With `together`, parts of a step of many rows take turns, with the same words in the end.

    Refuses: MODEL_UNSUPPORTED.
    """

    def __init__(
        self, model: Model, products: Products = plain_products, together: Together | None = None
    ) -> None:
        if not isinstance(model.shape, DecoderShape):
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the model is an encoder: it cannot generate text")
        self.model = model
        self.shape = model.shape
        self.layers = Layers(model)
        self._products = products
        self._together = together
        self.cache = self.new_cache()
        self._rope = tables.rope(1, self.shape.head_width, self.shape.rotation)

    def new_cache(self) -> Cache:
        """Return the cache of a sequence that has not begun."""
        return Cache(self.shape)

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return embeddings, int64 [n, width], 24 fractional bits. Refuses: TOKEN_OUT_OF_RANGE."""
        return self.model.look_up("embedding", tokens)

    def _attention(
        self, layer: int, rows: Rows, caches: Sequence[Cache], counts: Sequence[int]
    ) -> Asking[Rows]:
        """Return the attention heads' averages of the new tokens of every sequence, quantised [n, ...].

        Implements: MDL-R7.
        """
        shape = self.shape
        mixed = yield from self.layers.hidden(4 * layer, rows)
        heads = mixed.reshape(rows.values.shape[0], -1, shape.head_width)
        averages = [
            self._sequence(layer, part, cache)
            for part, cache in zip(torch.split(heads, list(counts)), caches, strict=True)
        ]
        return steps.chosen().quantise(torch.cat(averages), constants.HIDDEN_FRACTION)

    def _sequence(self, layer: int, heads: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Return a sequence's averages [n, heads * head width] of all its heads [n, heads, head width]."""
        shape, first = self.shape, cache.position
        queries, keys, values = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], 1)
        placed = self._placed(layer, "q_norm", queries, first)
        keys_placed = self._placed(layer, "k_norm", keys, first)
        every = cache.append(layer, keys_placed, values.transpose(0, 1))
        return steps.chosen().attend(placed, *every, first, shape.window)

    def _placed(self, layer: int, norm: str, heads: torch.Tensor, first: int) -> Rows:
        if self.shape.head_norms:
            gains = self.model.gains(f"layers.{layer}.{norm}")
            heads = fixed_point.head_norm(heads, *gains, self.shape.norm_epsilon)
        window = slice(first, first + heads.shape[0])
        return steps.chosen().place(heads, self._rope[0][window], self._rope[1][window])

    def _mlp(self, layer: int, rows: Rows) -> Asking[Rows]:
        """Return SiLU(gate) * up, quantised [n, inner]."""
        both = yield from self.layers.hidden(4 * layer + 2, rows)
        return steps.chosen().gate(both)

    def _turn_to(self, end: int) -> None:
        """Have the rotations of all positions below `end`."""
        if end > self._rope[0].shape[0]:
            room = min(max(2 * end, FIRST_ROOM), self.shape.context)
            self._rope = tables.rope(room, self.shape.head_width, self.shape.rotation)

    def through(
        self, caches: Sequence[Cache], streams: Sequence[torch.Tensor], every_position: bool = False
    ) -> torch.Tensor:
        """Return the logits after embedded tokens [n_i, width] of each sequence, or after each token.

        Logits, int64 [rows, vocabulary], have 18 fractional bits. Rows of a sequence mix only in attention,
        whose sums are exact, and rows of different sequences never do.

        Implements: MDL-R9, MDL-P3.
        Refuses: PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        counts = [len(part) for part in streams]
        if not counts or min(counts) == 0:
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt has no tokens: give some text")
        for cache, count in zip(caches, counts, strict=True):
            cache.reserve(count)
            self._turn_to(cache.position + count)
        stream = self._stream(caches, counts, torch.cat(list(streams)))
        last = torch.tensor(counts).cumsum(0) - 1
        kept = stream if every_position else stream[last]
        head = self.layers.hidden(4 * self.shape.layers, self.model.rms_norm("final_norm", kept))
        logits = answered(head, self._products)
        for cache, count in zip(caches, counts, strict=True):
            cache.position += count
        return logits

    def _stream(self, caches: Sequence[Cache], counts: Sequence[int], stream: torch.Tensor) -> torch.Tensor:
        """Return the stream [n, width] after all layers, computed at once or by parts that take turns.

        Of a sequence that is cut, an earlier part is always one group ahead, so that its keys and values are
        there when a later one looks at them.
        """
        rows = len(stream)
        many = min(PARTS, rows // PART)
        if self._together is None or many < 2:
            return answered(self._through_layers(caches, counts, stream), self._products)
        parts = []
        for part in torch.tensor_split(stream, many):
            held, (caches, counts) = _cut(caches, counts, len(part))
            parts.append(self._through_layers(*held, part))
        return torch.cat(self._together(parts, rows))

    def _through_layers(
        self, caches: Sequence[Cache], counts: Sequence[int], stream: torch.Tensor
    ) -> Asking[torch.Tensor]:
        """Return the stream [n, width] after all layers; the caches have room, and get keys and values."""
        for layer in range(self.shape.layers):
            normal = self.model.rms_norm(f"layers.{layer}.attention_norm", stream)
            attended = yield from self._attention(layer, normal, caches, counts)
            stream = yield from self.layers.residual(4 * layer + 1, attended, stream)
            gated = yield from self._mlp(layer, self.model.rms_norm(f"layers.{layer}.mlp_norm", stream))
            stream = yield from self.layers.residual(4 * layer + 3, gated, stream)
        return stream

    def advance(
        self, caches: Sequence[Cache], tokens: Sequence[Sequence[int]], every_position: bool = False
    ) -> torch.Tensor:
        """Return the logits after new tokens of each sequence, one row a sequence or a token; see `through`.

        Refuses: TOKEN_OUT_OF_RANGE, PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        return self.through(caches, [self.embed(part) for part in tokens], every_position)

    def step(self, tokens: Sequence[int], every_position: bool = False) -> torch.Tensor:
        """Return the logits after the last of these tokens of its own sequence, or after each; see `through`.

        Refuses: TOKEN_OUT_OF_RANGE, PROMPT_EMPTY, CONTEXT_EXCEEDED.
        """
        return self.advance([self.cache], [tokens], every_position)


def _cut(
    caches: Sequence[Cache], counts: Sequence[int], rows: int
) -> tuple[tuple[list[Cache], list[int]], tuple[list[Cache], list[int]]]:
    """Return (caches, tokens of each) before and after so many rows; the sequence there may be cut."""
    before, after, left = (list[Cache](), list[int]()), (list[Cache](), list[int]()), rows
    for cache, count in zip(caches, counts, strict=True):
        taken = min(count, left)
        left -= taken
        for side, held, tokens in ((before, cache, taken), (after, cache.after(taken), count - taken)):
            if tokens:
                side[0].append(held)
                side[1].append(tokens)
    return before, after


def logits(model: Model, tokens: Sequence[int], products: Products = plain_products) -> torch.Tensor:
    """Return the logits after each token, int64 [n, vocabulary], 18 fractional bits. Refuses as `step`."""
    return Decoder(model, products).step(tokens, every_position=True)
