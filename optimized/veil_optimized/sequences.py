"""Mode `split`, the worker's side: plain inference of what a stream sends, and what is kept of it."""

from collections.abc import Mapping
from typing import Protocol

import torch

from veil_optimized.decoder import FIRST_ROOM, Cache, Decoder
from veil_optimized.encoder import Encoder
from veil_optimized.generate import PIECE
from veil_optimized.model import Group, Model, Products
from veil_optimized.sharding import Kind
from veil_spec import constants
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused


class Sequences(Protocol):
    """The sequences of one stream."""

    def begin(self, number: int, step: int, rows: int, columns: int) -> None:
        """Refuse rows that cannot be answered, before any of them is kept. Refuses: FRAME_UNEXPECTED."""
        ...

    def answer(self, number: int, step: int, words: torch.Tensor) -> torch.Tensor:
        """Return the words, int64 [rows, columns], that answer rows which `begin` let in."""
        ...


class Held(Protocol):
    """A group's weights where the worker keeps them."""

    def product(self, kind: Kind, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [n, inner] on the worker's device times the weights, int64 [n, outputs]."""
        ...


def products_on(groups: Mapping[int, Held], device: str) -> Products:
    """Return plain products with groups by their numbers on a device; rows and results stay here."""

    def products(group: Group, rows: torch.Tensor) -> torch.Tensor:
        return groups[group.number].product(Kind.EXACT, rows.to(device)).to(rows.device)

    return products


def of(model: Model, products: Products, cache_limit: int) -> Sequences:
    """Return the sequences of a new stream."""
    if isinstance(model.shape, DecoderShape):
        return Decoding(Decoder(model, products), cache_limit)
    return Encoding(Encoder(model, products))


def _refused(detail: str) -> Refused:
    return Refused(Refusal.FRAME_UNEXPECTED, detail)


def _check(number: int, columns: int, width: int) -> None:
    """Refuses: FRAME_UNEXPECTED."""
    if number >= constants.SEQUENCE_LIMIT:
        raise _refused(f"sequence {number}")
    if columns != width:
        raise _refused(f"rows of {columns} words")


class Decoding:
    """Sequences of a decoder: a cache for each, all of them together within a number of bytes."""

    def __init__(self, decoder: Decoder, cache_limit: int) -> None:
        self._decoder = decoder
        self._limit = cache_limit
        self._caches: dict[int, Cache] = {}
        probe = decoder.new_cache()
        probe.reserve(1)
        self._token_bytes = -(-probe.bytes // min(FIRST_ROOM, decoder.shape.context))

    def begin(self, number: int, step: int, rows: int, columns: int) -> None:
        """Implements: WIR-P13. Refuses: FRAME_UNEXPECTED."""
        _check(number, columns, self._decoder.shape.width)
        if step and (number not in self._caches or self._caches[number].position != step):
            raise _refused(f"step {step}")
        if step + rows > self._decoder.shape.context:
            raise _refused(f"{step + rows} rows")
        kept = {other: cache.bytes for other, cache in self._caches.items() if step or other != number}
        room = self._room(step + rows)
        grown = room if room > kept.get(number, 0) else 0
        if sum(kept.values()) + grown > self._limit:
            raise _refused("too many keys and values")

    def _room(self, positions: int) -> int:
        """Return the most bytes that a cache with so many positions takes, beside what it held before."""
        return min(self._decoder.shape.context, max(2 * positions, FIRST_ROOM)) * self._token_bytes

    def answer(self, number: int, step: int, words: torch.Tensor) -> torch.Tensor:
        """Return the logits after the last row, int64 [1, vocabulary]. Implements: WIR-P12."""
        if not step:
            self._caches[number] = self._decoder.new_cache()
        cache = self._caches[number]
        for piece in torch.split(words, PIECE):
            logits = self._decoder.through([cache], [piece])
        return logits


class Encoding:
    """Sequences of an encoder: each is one message, and nothing is kept."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def begin(self, number: int, step: int, rows: int, columns: int) -> None:
        """Implements: WIR-P13. Refuses: FRAME_UNEXPECTED."""
        _check(number, columns, self._encoder.shape.width)
        if step or rows > self._encoder.shape.context:
            raise _refused(f"{rows} rows at step {step}")

    def answer(self, number: int, step: int, words: torch.Tensor) -> torch.Tensor:
        """Return the labels' logits, int64 [1, labels], or the last stream. Implements: WIR-P12."""
        streams = self._encoder.through([words])
        return self._encoder.labels(streams) if self._encoder.shape.labels else streams[0]
