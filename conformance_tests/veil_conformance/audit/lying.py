"""Workers that lie: each must be caught by name, and learn nothing from how the enclave reacts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from veil_optimized import wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.model import Model
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport
from veil_optimized.worker import Worker, place
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

Lie = Callable[[Frame, int], list[bytes]]
"""Turns the honest frame of the first product, over F_p, into what is sent."""


def _elements(frame: Frame, modulus: int) -> list[int]:
    return [int(value) for value in wire.unpack(frame.payload, frame.rows * frame.columns, modulus)]


def _with(frame: Frame, payload: bytes) -> list[bytes]:
    return [wire.encode(replace(frame, payload=payload))]


def wrong_element(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product with one element changed by one."""
    width = frame.element_bytes
    last = (int.from_bytes(frame.payload[-width:], "little") + 1) % modulus
    return _with(frame, frame.payload[:-width] + last.to_bytes(width, "little"))


def reordered_rows(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product with its first row moved to the end."""
    row = frame.columns * frame.element_bytes
    return _with(frame, frame.payload[row:] + frame.payload[:row])


def outside_the_field(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product with p in place of one element."""
    width = frame.element_bytes
    return _with(frame, modulus.to_bytes(width, "little") + frame.payload[width:])


def truncated(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product without its last byte."""
    return [wire.encode(frame)[:-1]]


def repeated(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product twice."""
    return 2 * [wire.encode(frame)]


def another_step(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product as if it belonged to the next step."""
    return [wire.encode(replace(frame, step=frame.step + 1))]


def pieces_out_of_order(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product in two pieces, the second first."""
    half = frame.columns * frame.element_bytes
    first = replace(frame, rows=1, payload=frame.payload[:half])
    second = replace(frame, first_row=1, rows=frame.rows - 1, payload=frame.payload[half:])
    return [wire.encode(second), wire.encode(first)]


def another_version(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product in a frame of another version."""
    data = bytearray(wire.encode(frame))
    data[len(constants.FRAME_MAGIC)] ^= 1
    return [bytes(data)]


def silence(frame: Frame, modulus: int) -> list[bytes]:
    """Return nothing."""
    return []


def honest(frame: Frame, modulus: int) -> list[bytes]:
    """Return the product as it is: the control."""
    return [wire.encode(frame)]


LIES: Final[tuple[tuple[Lie, Refusal], ...]] = (
    (wrong_element, Refusal.CHECK_FAILED),
    (reordered_rows, Refusal.CHECK_FAILED),
    (outside_the_field, Refusal.NOT_IN_FIELD),
    (truncated, Refusal.FRAME_TRUNCATED),
    (repeated, Refusal.FRAME_UNEXPECTED),
    (another_step, Refusal.FRAME_UNEXPECTED),
    (pieces_out_of_order, Refusal.FRAME_UNEXPECTED),
    (another_version, Refusal.VERSION_MISMATCH),
    (silence, Refusal.WORKER_LOST),
)
"""Each lie about the first product, with the refusal that it must meet."""


@dataclass(frozen=True, slots=True)
class Caught:
    """How one lie ended: the refusal, if there was one, and whether the worker saw what it always sees."""

    lie: str
    expected: Refusal
    refusal: Refusal | None
    silent: bool

    @property
    def holds(self) -> bool:
        """Return whether the lie met its refusal and the worker learnt nothing more."""
        return self.refusal is self.expected and self.silent


class _Liar:
    """A worker in this process that tells one lie; `heads` keeps the head of every frame that it receives."""

    def __init__(self, model: Model, lie: Lie) -> None:
        self._worker = Worker(place(model, "cpu"), model.digest)
        self._lie: Lie | None = lie
        self._moduli = [group.modulus for group in model.groups]
        self.heads: list[Frame] = []

    def handle(self, data: bytes) -> list[bytes]:
        """Return the answer to one frame, the first product changed."""
        self.heads.append(replace(wire.decode(data), payload=b"", epoch=b""))
        answers = list(self._worker.handle(data))
        first = wire.decode(answers[0]) if answers else None
        if first is None or first.kind is not FrameKind.PRODUCT or self._lie is None:
            return answers
        lie, self._lie = self._lie, None
        return lie(first, self._moduli[first.group]) + answers[1:]


def _tried(model: Model, prompt: Sequence[int], lie: Lie) -> tuple[Refusal | None, list[Frame]]:
    liar = _Liar(model, lie)
    with Channel(LocalTransport(liar.handle), os.urandom(constants.EPOCH_BYTES)) as channel:
        enclave = Enclave(model, channel)
        enclave.open()
        try:
            Decoder(model, enclave.products).step(list(prompt))
        except Refused as refused:
            return refused.reason, liar.heads
    return None, liar.heads


def expose(model: Model, prompt: Sequence[int]) -> list[Caught]:
    """Return how every lie ended, after an honest worker has passed. The prompt needs two tokens or more.

    What a caught worker received must be the beginning of what an honest one receives: up to the lie, or, for
    a product sent twice, up to the exchange that the second copy spoils.
    """
    refusal, whole = _tried(model, prompt, honest)
    if refusal is not None:
        raise Refused(refusal, "an honest worker was refused")
    caught = []
    for lie, expected in LIES:
        met, heads = _tried(model, prompt, lie)
        until = 3 if lie is repeated else 2
        silent = heads == whole[: len(heads)] and len(heads) == until
        caught.append(Caught(lie.__name__.replace("_", " "), expected, met, silent))
    return caught
