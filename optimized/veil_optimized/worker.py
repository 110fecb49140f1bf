"""The worker: holds weights and multiplies the field elements that it is sent.

In mode `split` it also infers: then it sees embeddings of sanitized tokens. Started by torchrun as several
processes, it answers from the first and multiplies in all.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import torch

from veil_optimized import ranks, steps, wire
from veil_optimized.allocator import keep_freed
from veil_optimized.launching import LOOPBACK, READY
from veil_optimized.ranks import ROUND_S, RankLost, Ranks
from veil_optimized.serving import GRACE_S, IDLE_S, Server
from veil_optimized.sharding import Kind, multiplied
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

if TYPE_CHECKING:
    from veil_optimized.sequences import Sequences

WIDE: Final = wire.element_bytes(constants.LWE_MODULUS)
"""Bytes of an element of q: a message of such asks for the halves of the weights."""
REQUESTS: Final = frozenset({FrameKind.MULTIPLY, FrameKind.EMBEDDED})
"""What begins an exchange."""
CACHE_LIMIT: Final = 2**32
"""Bytes of the keys and values that a worker keeps for one stream: 4 GiB, unless it is told otherwise."""


class Weights(Protocol):
    """One linear group as a worker needs it: its integers [outputs, inner] and its field."""

    @property
    def weights(self) -> torch.Tensor:
        """Return int16 or int8 [outputs, inner]."""
        ...

    @property
    def modulus(self) -> int:
        """Return the field's prime."""
        ...


class Model(Protocol):
    """What a worker reads from an integer model file."""

    @property
    def groups(self) -> Sequence[Weights]:
        """Return the linear groups in the order of their numbers."""
        ...

    @property
    def digest(self) -> bytes:
        """Return the file's SHA-256."""
        ...


class Group(Protocol):
    """One linear group where the worker multiplies by it: on a device, or on those of several processes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (outputs, inner)."""
        ...

    @property
    def modulus(self) -> int:
        """Return the field's prime."""
        ...

    def product(self, kind: Kind, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [n, inner] on the worker's device times the weights, int64 [n, outputs]."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A group's weights on the worker's device."""

    weights: torch.Tensor
    modulus: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return (outputs, inner)."""
        outputs, inner = self.weights.shape
        return outputs, inner

    def product(self, kind: Kind, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [n, inner] times the weights, or twice as many outputs by their halves."""
        return multiplied(kind, rows, self.weights, self.modulus)


def place(model: Model, device: str) -> Mapping[int, Placed]:
    """Return the groups by number, their weights on the device."""
    return {
        number: Placed(group.weights.to(device), group.modulus) for number, group in enumerate(model.groups)
    }


def inference(
    model: Model, groups: Mapping[int, Group], device: str = "cpu", cache_limit: int = CACHE_LIMIT
) -> "Callable[[], Sequences] | None":
    """Return what begins plain inference for a stream, on groups that are placed; None for bare ones.

    Nothing is prepared before the first stream that asks for it.
    """
    from veil_optimized.model import Model as Whole

    if not isinstance(model, Whole):
        return None

    def begin() -> "Sequences":
        from veil_optimized import sequences

        return sequences.of(model, sequences.products_on(groups, device), cache_limit)

    return begin


class Worker:
    """The state of one stream: its epoch, at most one unfinished message, and the sequences of mode `split`.

    `infer` begins that mode; without it, EMBEDDED is refused.
    """

    def __init__(
        self,
        groups: Mapping[int, Group],
        model_hash: bytes,
        device: str = "cpu",
        infer: "Callable[[], Sequences] | None" = None,
    ) -> None:
        self._groups = groups
        self._model_hash = model_hash
        self._device = device
        self._infer = infer
        self._sequences: Sequences | None = None
        self._epoch: bytes | None = None
        self._message: wire.Reassembly | None = None
        self.ended = False

    def handle(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that answer one frame, or the one refusal and then nothing more.

        Implements: WIR-P4.
        """
        if self.ended:
            return
        try:
            yield from self._answer(wire.decode(data))
        except (Refused, RuntimeError, MemoryError):
            self.ended, self._message = True, None
            self._sequences = None
            yield wire.encode(wire.REFUSAL)

    def _answer(self, frame: Frame) -> Iterator[bytes]:
        if frame.kind is FrameKind.HELLO and self._epoch is None:
            self._epoch = frame.epoch
            zeros = (0, 0, 0, 0, 0, 0, 0)
            yield wire.encode(Frame(FrameKind.WELCOME, frame.epoch, *zeros, self._model_hash))
            self.ended = frame.payload != self._model_hash
        elif frame.kind in REQUESTS and frame.epoch == self._epoch:
            message = self._message = self._message or self._begin(frame)
            message.add(frame)
            if message.complete:
                self._message = None
            if message.kind is FrameKind.MULTIPLY:
                yield from map(wire.encode, self._product(frame.first_row, message))
            elif message.complete:
                yield from map(wire.encode, self._inferred(message))
        else:
            raise Refused(Refusal.FRAME_UNEXPECTED, frame.kind.name)

    def _begin(self, frame: Frame) -> wire.Reassembly:
        """Return an empty message, once its first piece shows that it can be answered. Implements: WIR-P4."""
        if frame.kind is FrameKind.EMBEDDED:
            self._kept().begin(frame.group, frame.step, frame.total_rows, frame.columns)
            return wire.Reassembly.described_by(frame)
        if frame.group not in self._groups:
            raise Refused(Refusal.FRAME_UNEXPECTED, "group")
        group = self._groups[frame.group]
        outputs, inner = group.shape
        wide = frame.element_bytes == WIDE
        if frame.columns != inner or not (wide or frame.element_bytes == wire.element_bytes(group.modulus)):
            raise Refused(Refusal.FRAME_UNEXPECTED, "shape")
        row_bytes = (1 + wide) * outputs * frame.element_bytes
        wire.check_size(frame.total_rows * row_bytes, row_bytes)
        return wire.Reassembly.described_by(frame)

    def _product(self, first_row: int, message: wire.Reassembly) -> Sequence[Frame]:
        """Return the frames of the product of the rows that have just arrived. Implements: WIR-P7."""
        group, wide = self._groups[message.group], message.element_bytes == WIDE
        modulus = constants.LWE_MODULUS if wide else group.modulus
        shape = (message.row - first_row, message.columns)
        masked = steps.chosen().unpack(message.take(), *shape, modulus).to(self._device)
        product = group.product(Kind.HALVES if wide else Kind.FIELD, masked)
        data = steps.chosen().pack(product.cpu(), modulus)
        names = (FrameKind.PRODUCT, message.epoch, message.group, message.step)
        about = (*names, product.shape[1], message.element_bytes, message.total_rows)
        return wire.pieces(about, first_row, data)

    def _kept(self) -> "Sequences":
        """Return the sequences of this stream. Refuses: FRAME_UNEXPECTED by a worker of bare groups."""
        if self._infer is None:
            raise Refused(Refusal.FRAME_UNEXPECTED, "mode split")
        self._sequences = self._sequences or self._infer()
        return self._sequences

    def _inferred(self, message: wire.Reassembly) -> Sequence[Frame]:
        """Return the frames of the answer to embedded rows. Implements: WIR-P12."""
        shape = (message.total_rows, message.columns)
        words = wire.unpack_words(message.take(), shape[0] * shape[1], constants.RESIDUAL_LIMIT)
        answer = self._kept().answer(message.group, message.step, torch.from_numpy(words).reshape(shape))
        about = (FrameKind.ANSWER, message.epoch, message.group, message.step)
        data = wire.pack_words(answer.numpy(force=True))
        return wire.split(*about, answer.shape[1], message.element_bytes, data)


@dataclass(frozen=True, slots=True)
class Patience:
    """What a worker bears: seconds of a silent peer, seconds for exchanges when it is told to end, and bytes.

    The bytes are those of the keys and values that it keeps for one stream of mode `split`. A worker of
    several processes also bears seconds in which one of them does not do its part.
    """

    idle_s: float = IDLE_S
    grace_s: float = GRACE_S
    cache_limit: int = CACHE_LIMIT
    round_s: float = ROUND_S


def serve_model(
    model: Model,
    address: str,
    ready: Callable[[str], None],
    stop: threading.Event,
    device: str = "cpu",
    patience: Patience = Patience(),
    groups: Mapping[int, Group] | None = None,
) -> None:
    """Serve a model until `stop` is set; `ready` is called once with the address.

    Its groups are placed on the device, unless they are given. A rank that is lost ends the stream that
    needs it and sets `stop`.

    Refuses: WORKER_LOST.
    """
    placed = place(model, device) if groups is None else groups
    infer = inference(model, placed, device, patience.cache_limit)

    def answer(requests: Iterator[bytes]) -> Iterator[bytes]:
        worker = Worker(placed, model.digest, device, infer)
        try:
            for data in requests:
                yield from worker.handle(data)
                if worker.ended:
                    return
        except RankLost:
            stop.set()

    server = Server(answer, address, idle_s=patience.idle_s)
    ready(server.address)
    stop.wait()
    server.stop(patience.grace_s)


def serve(
    model_path: Path,
    address: str = LOOPBACK,
    ready: Callable[[str], None] | None = None,
    device: str = "cpu",
    parent: bool = False,
    patience: Patience = Patience(),
) -> None:
    """Serve an integer model file until SIGTERM, SIGINT or, with `parent`, the end of standard input.

    Refuses: WORKER_LOST, MODEL_MISMATCH, what `model.load` refuses.
    """
    from veil_optimized import model

    keep_freed()
    if ranks.several():
        _serve_together(model_path, address, ready or announce, device, parent, patience)
    else:
        serve_until_told(model.load(model_path), address, ready or announce, device, parent, patience)


def _serve_together(
    model_path: Path,
    address: str,
    ready: Callable[[str], None],
    device: str,
    parent: bool,
    patience: Patience,
) -> None:
    """Serve a model file with other processes: as rank 0 until told to end, as another until rank 0 says so.

    Implements: WIR-P14, WIR-P10.
    Refuses: WORKER_LOST, MODEL_MISMATCH, what `model.load` refuses.
    """
    from veil_optimized import model

    together = Ranks(device, patience.round_s)
    loaded = model.load(model_path)
    if together.rank:
        ranks.obey_rank_0()
        together.hold(loaded)
        del loaded  # the shards are all that stays in memory
        together.follow()
        return
    groups = together.hold(loaded)
    try:
        serve_until_told(loaded, address, ready, device, parent, patience, groups)
    finally:
        together.stop()


def serve_until_told(
    model: Model,
    address: str,
    ready: Callable[[str], None],
    device: str,
    parent: bool,
    patience: Patience = Patience(),
    groups: Mapping[int, Group] | None = None,
) -> None:
    """Serve a model until SIGTERM, SIGINT or, with `parent`, the end of standard input."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if parent:
        threading.Thread(target=wait_for_end_of_input, args=(stop,), daemon=True).start()
    serve_model(model, address, ready, stop, device, patience, groups)


def announce(address: str) -> None:
    """Print the one line that says that the worker is ready."""
    print(READY + address, flush=True)


def wait_for_end_of_input(stop: threading.Event) -> None:
    """Set the event when standard input ends."""
    while os.read(0, 4096):
        pass
    stop.set()


def _seconds(text: str) -> float:
    """Return a positive number of seconds; anything else is a ValueError."""
    value = float(text)
    if not 0 < value < threading.TIMEOUT_MAX:
        raise ValueError(text)
    return value


def _gibibytes(text: str) -> int:
    """Return a positive number of GiB in bytes; anything else is a ValueError."""
    value = int(2**30 * float(text))
    if value <= 0:
        raise ValueError(text)
    return value


def main() -> int:
    """Return the exit status: 0 after a clean end, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m veil_optimized.worker", description=__doc__)
    parser.add_argument("model", type=Path, help="integer model file")
    parser.add_argument("--address", default=LOOPBACK, help="HOST:PORT or unix:PATH to listen on")
    parser.add_argument("--device", default="cpu", help="torch device that holds the weights")
    parser.add_argument("--parent", action="store_true", help="end when standard input ends")
    parser.add_argument("--idle-s", type=_seconds, default=IDLE_S, help="end a stream that is silent so long")
    parser.add_argument("--grace-s", type=_seconds, default=GRACE_S, help="on SIGTERM, time for exchanges")
    parser.add_argument(
        "--round-s", type=_seconds, default=ROUND_S, help="torchrun: time for a process's part"
    )
    parser.add_argument(
        "--cache-gib",
        type=_gibibytes,
        default=CACHE_LIMIT,
        help="mode split: most keys and values of a stream, 4 by default",
    )
    given = parser.parse_args()
    patience = Patience(given.idle_s, given.grace_s, given.cache_gib, given.round_s)
    try:
        device = ranks.own_device(given.device)
        serve(given.model, given.address, announce, device, given.parent, patience)
    except Refused as refused:
        print(f"worker: {refused}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
