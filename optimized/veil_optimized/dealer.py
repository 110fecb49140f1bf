"""The dealer: a process that ships mask seeds with their corrections, and the enclave's side of its stream.

Who knows a seed can open every row that it masks, so both ends forget seeds as soon as they can: what this
module holds of one it overwrites. Copies inside gRPC and hashlib and of single frames are dropped, not
overwritten.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import torch

from veil_optimized import identity, integrity, wire
from veil_optimized.allocator import keep_freed
from veil_optimized.identity import Credentials
from veil_optimized.kernels import multiply
from veil_optimized.launching import LOOPBACK, launch
from veil_optimized.remo import Addresses, Outsourced, Rows, pad, ratchet
from veil_optimized.serving import GRACE_S, Server
from veil_optimized.tape import SeededTape
from veil_optimized.transport import DEADLINE_S, RemoteTransport
from veil_optimized.worker import wait_for_end_of_input
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

METHOD: Final = "/veil.Dealer/Exchange"
"""One bidirectional stream is one epoch."""
READY: Final = "dealer listening on "
"""Begins the one line that a dealer process prints, before its address."""
LEASES: Final = 2**16
"""Epochs that a dealer process serves in its life: it remembers each name, less than 10 MiB in all."""
IDLE_S: Final = 3600.0
"""Seconds that an enclave may be silent: its stream cannot be opened again, and its user may think."""
BATCH_BYTES: Final = 2**26
"""Most bytes of corrections that are minted in one pass over the weights, where a step has fewer."""
LAST_STEP: Final = constants.STEP_LIMIT - 1
"""The step above it is for public matrices."""
ZEROS: Final = (0, 0, 0, 0, 0, 0, 0)


class Model(Protocol):
    """What both ends read from an integer model file."""

    @property
    def groups(self) -> Sequence[Outsourced]:
        """Return the linear groups in the order of their numbers."""
        ...

    @property
    def digest(self) -> bytes:
        """Return the file's SHA-256."""
        ...


def check_grant(groups: Sequence[Outsourced], first: int, steps: int, rows: int) -> None:
    """Refuse what no dealer grants, by numbers alone.

    Implements: WIR-P11.
    Refuses: STREAM_OUT_OF_RANGE, CONTEXT_EXCEEDED.
    """
    if not (first >= 0 and steps >= 1 and first + steps - 1 <= LAST_STEP):
        raise Refused(Refusal.STREAM_OUT_OF_RANGE, f"steps {first} to {first + steps - 1}")
    widest = max(group.weights.shape[0] * wire.element_bytes(group.modulus) for group in groups)
    most = min(constants.GRANT_LIMIT // max(1, steps), constants.REPLY_LIMIT // widest)
    if not 1 <= rows <= most:
        remedy = f"a dealer grants 1 to {most} rows in each of {steps} steps of this model, not {rows}"
        raise Refused(Refusal.CONTEXT_EXCEEDED, f"{remedy}: shorten the prompt, or use --minter local")


# The dealer


class Leases:
    """The names of the epochs that this process has served; the first that no longer fits is refused too.

    Implements: RMO-P6.
    """

    def __init__(self, most: int = LEASES) -> None:
        self._most = most
        self._names: set[bytes] = set()
        self._lock = threading.Lock()

    def take(self, epoch: bytes) -> None:
        """Return nothing, once for each name. Refuses: DEALER_LOST."""
        with self._lock:
            if epoch in self._names:
                raise Refused(Refusal.DEALER_LOST, "this epoch was served before")
            if len(self._names) >= self._most:
                raise Refused(Refusal.DEALER_LOST, "no room for another epoch: start the dealer again")
            self._names.add(epoch)


class Dealer:
    """The state of one stream: its epoch, and the first step that it may still grant."""

    def __init__(self, model: Model, leases: Leases) -> None:
        self._model = model
        self._leases = leases
        self._epoch: bytes | None = None
        self._next = 0
        self.ended = False

    def handle(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that answer one frame, or the one refusal and then nothing more.

        Implements: WIR-P9, WIR-P11.
        """
        if self.ended:
            return
        try:
            yield from map(wire.encode, self._answer(wire.decode(data)))
        except (Refused, RuntimeError, MemoryError):
            self.ended = True
            yield wire.encode(wire.REFUSAL)

    def _answer(self, frame: Frame) -> Iterator[Frame]:
        if frame.kind is FrameKind.HELLO and self._epoch is None:
            self._leases.take(frame.epoch)
            self._epoch = frame.epoch
            yield Frame(FrameKind.WELCOME, frame.epoch, *ZEROS, self._model.digest)
            self.ended = frame.payload != self._model.digest
        elif frame.kind is FrameKind.ASK and frame.epoch == self._epoch:
            steps, rows = (int.from_bytes(part, "little") for part in (frame.payload[:4], frame.payload[4:]))
            yield from self._granted(frame.epoch, frame.step, steps, rows)
        else:
            raise Refused(Refusal.FRAME_UNEXPECTED, frame.kind.name)

    def _granted(self, epoch: bytes, first: int, steps: int, rows: int) -> Iterator[Frame]:
        """Yield a grant, so many steps at a time that their corrections fit into BATCH_BYTES.

        Implements: WIR-P11.
        Refuses: PAD_REUSED, what `check_grant` refuses.
        """
        check_grant(self._model.groups, first, steps, rows)
        if first < self._next:
            raise Refused(Refusal.PAD_REUSED, f"step {first} is below step {self._next}")
        self._next = first + steps
        step_bytes = 8 * rows * sum(group.weights.shape[0] for group in self._model.groups)
        most = max(1, BATCH_BYTES // step_bytes)
        for start in range(first, self._next, most):
            yield from self._batch(epoch, range(start, min(start + most, self._next)), rows)

    def _batch(self, epoch: bytes, steps: range, rows: int) -> Iterator[Frame]:
        """Yield the seed and the corrections of each step; the pads of all go through the weights at once.

        Implements: RMO-P4.
        """
        seeds = [drawn_seed() for _ in steps]
        tapes = [SeededTape(seed) for seed in seeds]
        minted: dict[int, torch.Tensor] = {}
        try:
            for position, step in enumerate(steps):
                yield Frame(FrameKind.SEED, epoch, 0, step, 0, 0, 0, 0, 0, bytes(seeds[position]))
                _erase(seeds[position])
                for group in self._model.groups:
                    if position == 0:
                        minted[group.number] = _corrections(group, tapes, steps, rows)
                    mine = slice(position * rows, (position + 1) * rows)
                    yield from _message(epoch, group, step, minted[group.number][mine])
                    if position == len(steps) - 1:
                        del minted[group.number]
        finally:
            for seed, tape in zip(seeds, tapes, strict=True):
                _erase(seed)
                tape.erase()


def drawn_seed() -> bytearray:
    """Return a fresh seed, 32 bytes of the operating system's generator. Implements: RMO-P4."""
    return bytearray(os.urandom(constants.SEED_BYTES))


def _erase(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))


def _corrections(
    group: Outsourced, tapes: Sequence[SeededTape], steps: Sequence[int], rows: int
) -> torch.Tensor:
    """Return the corrections of a group's pads, step after step [steps * rows, outputs]."""
    about = (rows, group.weights.shape[1], group.modulus)
    drawn = [pad(tape, group.number, step, *about) for tape, step in zip(tapes, steps, strict=True)]
    pads = torch.cat(drawn)
    corrections = multiply(pads, group.weights, group.modulus)
    for used in (*drawn, pads):
        used.zero_()
    return corrections


def _message(epoch: bytes, group: Outsourced, step: int, correction: torch.Tensor) -> Sequence[Frame]:
    """Return the frames of one correction."""
    width = wire.element_bytes(group.modulus)
    data = wire.pack(correction.numpy(), group.modulus)
    return wire.split(FrameKind.PRODUCT, epoch, group.number, step, correction.shape[1], width, data)


def start_server(model: Model, address: str, credentials: Credentials, idle_s: float = IDLE_S) -> Server:
    """Return a running dealer that talks to the pinned peer alone. Refuses: DEALER_LOST."""
    leases = Leases()

    def answer(requests: Iterator[bytes]) -> Iterator[bytes]:
        dealer = Dealer(model, leases)
        for data in requests:
            yield from dealer.handle(data)
            if dealer.ended:
                return

    try:
        return Server(answer, address, METHOD, credentials.of_server(), idle_s)
    except Refused as refused:
        raise Refused(Refusal.DEALER_LOST, refused.detail) from refused


# The enclave's side


class Stream(Protocol):
    """An ordered stream of frames to one dealer."""

    def send(self, data: bytes) -> None:
        """Send one frame. Refuses: WORKER_LOST."""
        ...

    def receive(self) -> bytes:
        """Return the dealer's next frame. Refuses: WORKER_LOST."""
        ...

    def close(self) -> None:
        """End the stream without a message."""
        ...


class DealerTransport(RemoteTransport):
    """A stream to a dealer process: TLS with both certificates pinned, and a time limit on every message."""

    def __init__(self, address: str, credentials: Credentials, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(address, deadline_s, METHOD, credentials.of_client())
        self._between = True

    def receive(self) -> bytes:
        """Return the next frame. Refuses: WORKER_LOST when its message is not whole within the deadline."""
        if self._between:
            self.start_clock()
        data = super().receive()
        self._between = wire.ends_a_message(data)
        return data


@dataclass(frozen=True, slots=True)
class Grant:
    """Steps asked for, of so many rows each; `arriving` takes the next correction from the stream."""

    steps: range
    rows: int
    arriving: Generator[None, None, None]


class DealerMinter:
    """Pads and corrections from a dealer, each used once, none used unchecked; the first failure ends it.

    Steps are asked for in rising order. What arrives early stays in memory until it is taken or passed over.
    `macs` counts the multiplications of the checks.

    Implements: RMO-P5, RMO-P6.
    """

    def __init__(
        self, stream: Stream, epoch: bytes, model: Model, checks: Mapping[int, integrity.Check] | None = None
    ) -> None:
        """Take a stream that nothing was sent on; the dealer must never see the vectors of `checks`.

        Without `checks` they are prepared here, one for each group.
        """
        self.epoch = epoch
        self._stream = stream
        self._model = model
        self._checks = checks if checks is not None else prepared(model)
        self._used = Addresses()
        self._grants: deque[Grant] = deque()
        self._ready: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._planned = range(0)
        # Keys of domain `rmo.ratchet`: they tell seeds apart and say nothing about them.
        self._seeds: set[bytes] = set()
        self._next = 0
        self._current = 0
        self.macs = 0
        self.checked = 0
        self.ended = False

    def open(self) -> None:
        """Return nothing once the dealer has named the same model. Refuses: DEALER_LOST, MODEL_MISMATCH."""
        with self._ending_on_failure():
            self._send(Frame(FrameKind.HELLO, self.epoch, *ZEROS, self._model.digest))
            answer = self._receive()
            if answer.kind is not FrameKind.WELCOME or answer.epoch != self.epoch:
                raise Refused(Refusal.DEALER_LOST, "the dealer sent another frame than a WELCOME")
            if answer.payload != self._model.digest:
                raise Refused(Refusal.MODEL_MISMATCH, "start the dealer with the same integer model file")

    def first_step(self, group: Outsourced, step: int, rows: int) -> int:
        """Return the first step from this one on that was granted for so many rows, or can still be.

        No group goes back to a step that another one has left behind.
        """
        step = max(step, self._current)
        while step < self._next and not self._holds(group.number, step, rows):
            step += 1
        return step

    def prefetch(self, first_step: int, steps: int) -> None:
        """Ask for one-row steps first_step to first_step + steps - 1, as soon as all before them are.

        Refuses: DEALER_LOST.
        """
        with self._ending_on_failure():
            self._planned = range(first_step, first_step + steps)
            self._ask_planned()

    def mint(self, groups: Sequence[Outsourced], first_step: int, steps: int, rows: Rows = None) -> None:
        """Let the dealer prepare one-row steps, for all groups that it knows. Refuses: DEALER_LOST.

        Steps of more rows are asked for when they come.
        """
        if rows is None:
            self.prefetch(first_step, steps)

    def take(self, group: Outsourced, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pads [rows, inner], pads times weights [rows, outputs]), checked; the caller erases them.

        A step that was not asked for is asked for now.

        Refuses: PAD_REUSED, CHECK_FAILED, DEALER_LOST, what `check_grant` refuses.
        """
        with self._ending_on_failure():
            self._used.burn(group.number, step)
            self._leave_behind(step)
            if step >= self._next:
                self._ask(step, 1, rows)
                self._ask_planned()
            elif step < self._current or not self._holds(group.number, step, rows):
                raise Refused(Refusal.PAD_REUSED, f"step {step} was not granted for {rows} rows")
            while (group.number, step) not in self._ready:
                self._advance()
            pads, correction = self._ready.pop((group.number, step))
            pads[rows:].zero_()
            return pads[:rows], correction[:rows]

    def close(self) -> None:
        """End the stream, and overwrite all that was granted and not used. Implements: RMO-P6."""
        self.ended = True
        self._stream.close()
        for grant in self._grants:
            grant.arriving.close()
        self._grants.clear()
        for elements in self._ready.values():
            _zero(elements)
        self._ready.clear()

    def _holds(self, group: int, step: int, rows: int) -> bool:
        ready = self._ready.get((group, step))
        if ready is not None:
            return len(ready[0]) >= rows
        return any(step in grant.steps and grant.rows >= rows for grant in self._grants)

    def _leave_behind(self, step: int) -> None:
        """Overwrite what was granted for earlier steps."""
        self._current = max(self._current, step)
        for key in [key for key in self._ready if key[1] < self._current]:
            _zero(self._ready.pop(key))

    def _ask_planned(self) -> None:
        """Ask for what is planned and not yet asked for, if nothing below it can be asked for any more."""
        steps = range(max(self._planned.start, self._next), self._planned.stop)
        if self._planned.start <= self._next and steps:
            self._ask(steps.start, len(steps), 1)

    def _ask(self, first: int, steps: int, rows: int) -> None:
        check_grant(self._model.groups, first, steps, rows)
        amount = steps.to_bytes(4, "little") + rows.to_bytes(4, "little")
        self._send(Frame(FrameKind.ASK, self.epoch, 0, first, 0, 0, 0, 0, 0, amount))
        numbers = range(first, first + steps)
        self._grants.append(Grant(numbers, rows, self._arriving(numbers, rows)))
        self._next = first + steps

    def _advance(self) -> None:
        """Take one more correction from the stream, or find that a grant has arrived whole."""
        for _ in self._grants[0].arriving:
            return
        self._grants.popleft()

    def _arriving(self, steps: range, rows: int) -> Generator[None, None, None]:
        """Take a grant from the stream, and stop after each correction.

        Implements: RMO-P5.
        Refuses: DEALER_LOST, CHECK_FAILED.
        """
        for step in steps:
            tape = self._tape(step)
            try:
                for group in self._model.groups:
                    pads = pad(tape, group.number, step, rows, group.weights.shape[1], group.modulus)
                    self._ready[group.number, step] = pads, self._correction(group, step, pads)
                    self._leave_behind(self._current)
                    yield
            finally:
                tape.erase()

    def _tape(self, step: int) -> SeededTape:
        """Return the tape of a step's seed. Refuses: DEALER_LOST."""
        frame = self._receive()
        if (frame.kind, frame.epoch, frame.step) != (FrameKind.SEED, self.epoch, step):
            raise Refused(Refusal.DEALER_LOST, "the dealer sent another frame than this step's SEED")
        mark = ratchet(frame.payload)
        if mark in self._seeds:
            raise Refused(Refusal.DEALER_LOST, "the dealer sent a seed that it had sent before")
        self._seeds.add(mark)
        return SeededTape(frame.payload)

    def _correction(self, group: Outsourced, step: int, pads: torch.Tensor) -> torch.Tensor:
        """Return a group's correction for these pads, checked.

        Implements: RMO-P5.
        Refuses: DEALER_LOST, CHECK_FAILED.
        """
        rows, outputs = len(pads), group.weights.shape[0]
        about = (group.number, step, outputs, wire.element_bytes(group.modulus), rows)
        message = wire.Reassembly(FrameKind.PRODUCT, self.epoch, *about)
        while not message.complete:
            frame = self._receive()
            with _as_lost("sent what was not asked for"):
                message.add(frame)
        with _as_lost("sent what is no field element"):
            elements = wire.unpack(message.take(), rows * outputs, group.modulus)
        correction = torch.from_numpy(elements).reshape(rows, outputs)
        check = self._checks[group.number]
        self.macs += rows * check.macs
        try:
            check.verify(pads, correction)
        except Refused as refused:
            remedy = "a correction of the dealer is wrong, and the epoch has ended: use another dealer"
            raise Refused(refused.reason, remedy) from refused
        self.checked += 1
        return correction

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """End the stream, without a word, on whatever goes wrong inside. Implements: RMO-P5."""
        if self.ended:
            raise Refused(Refusal.DEALER_LOST, "the stream to the dealer has ended")
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _send(self, frame: Frame) -> None:
        with _as_lost("does not answer"):
            self._stream.send(wire.encode(frame))

    def _receive(self) -> Frame:
        """Return the dealer's next frame. Refuses: DEALER_LOST."""
        with _as_lost("does not answer"):
            data = self._stream.receive()
        with _as_lost("sent what is no frame"):
            frame = wire.decode(data)
        if frame.kind is FrameKind.REFUSAL:
            raise Refused(Refusal.DEALER_LOST, "the dealer refused to go on")
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _zero(elements: tuple[torch.Tensor, torch.Tensor]) -> None:
    for matrix in elements:
        matrix.zero_()


@contextmanager
def _as_lost(fault: str) -> Iterator[None]:
    """Give every refusal inside the name DEALER_LOST. Refuses: DEALER_LOST."""
    try:
        yield
    except Refused as refused:
        said = f"the dealer {fault}: {refused.detail or refused.reason}"
        raise Refused(Refusal.DEALER_LOST, said) from refused


def prepared(model: Model) -> Mapping[int, integrity.Check]:
    """Return a check of each group, with vectors of its own from the operating system. Implements: RMO-P5."""
    secret = SeededTape(os.urandom(constants.SEED_BYTES))
    checks = {
        group.number: integrity.prepare(secret, group.number, group.weights, group.modulus)
        for group in model.groups
    }
    secret.erase()
    return checks


# The process


def serve(
    model_path: Path,
    address: str,
    credentials: Credentials,
    ready: Callable[[str], None] | None = None,
    parent: bool = False,
) -> None:
    """Serve an integer model file until SIGTERM, SIGINT or, with `parent`, the end of standard input.

    Implements: WIR-P10.
    Refuses: DEALER_LOST, what `model.load` refuses.
    """
    from veil_optimized import model

    keep_freed()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if parent:
        threading.Thread(target=wait_for_end_of_input, args=(stop,), daemon=True).start()
    server = start_server(model.load(model_path), address, credentials)
    (ready or announce)(server.address)
    stop.wait()
    server.stop(GRACE_S)


def announce(address: str) -> None:
    """Print the one line that says that the dealer is ready."""
    print(READY + address, flush=True)


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a dealer listens, and what lets an enclave talk to it."""

    address: str
    credentials: Credentials


def line_of(credentials: Credentials) -> str:
    """Return credentials as one line for a pipe: it holds a private key."""
    return json.dumps({"identity": credentials.identity.pem.decode(), "peer": credentials.peer.decode()})


def credentials_from(line: str) -> Credentials:
    """Return the credentials that `line_of` wrote. Refuses: MODE_UNAVAILABLE."""
    try:
        stated = json.loads(line)
        own, peer = stated["identity"].encode(), stated["peer"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(Refusal.MODE_UNAVAILABLE, "the first line of input holds no credentials") from error
    return Credentials(identity.parse(own, "the identity"), identity.certificate(peer, "the peer"))


@contextmanager
def start_dealer(model_path: Path) -> Iterator[Contact]:
    """Yield a dealer process of this machine that ends with the block; keys go through its input alone.

    Implements: RMO-P4.
    Refuses: DEALER_LOST.
    """
    dealer, enclave = identity.make(), identity.make()
    command = [sys.executable, "-P", "-m", "veil_optimized.dealer", str(model_path), "--address", LOOPBACK]
    try:
        running = launch(command, ready=READY, told=line_of(Credentials(dealer, enclave.certificate)))
    except Refused as refused:
        raise Refused(Refusal.DEALER_LOST, refused.detail) from refused
    try:
        yield Contact(running.address, Credentials(enclave, dealer.certificate))
    finally:
        running.stop()


def main() -> int:
    """Return the exit status: 0 after a clean end, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m veil_optimized.dealer", description=__doc__)
    parser.add_argument("model", type=Path, help="integer model file")
    parser.add_argument("--address", default=LOOPBACK, help="HOST:PORT to listen on")
    given = parser.parse_args()
    try:
        serve(given.model, given.address, credentials_from(sys.stdin.readline()), parent=True)
    except Refused as refused:
        print(f"dealer: {refused}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
