"""The worker: holds weights, multiplies what it is sent, and sees field elements and nothing else."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc
import torch

from veil_optimized import field, wire
from veil_optimized.transport import METHOD, OPTIONS
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

STREAMS: Final = 2
"""Epochs that a worker serves at a time; a further one is turned away, not queued."""
READY: Final = "worker listening on "
"""Begins the one line that a worker process prints, before its address."""
START_S: Final = 300.0
"""Seconds for a worker process to read its model file."""
STOP_S: Final = 10.0
"""Seconds for a worker process to end by itself."""
LOOPBACK: Final = "127.0.0.1:0"
"""The default address: this machine only, any free port."""


class Weights(Protocol):
    """One linear group as a worker needs it: float64 [outputs, inner] holding integers."""

    @property
    def weights(self) -> torch.Tensor:
        """Return float64 [outputs, inner]."""
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


@dataclass(frozen=True, slots=True)
class Placed:
    """A group's weights on the worker's device."""

    weights: torch.Tensor
    modulus: int


def place(model: Model, device: str) -> Mapping[int, Weights]:
    """Return the groups by number, their weights on the device."""
    return {
        number: Placed(group.weights.to(device), group.modulus) for number, group in enumerate(model.groups)
    }


class Worker:
    """The state of one stream: its epoch and at most one unfinished message."""

    def __init__(self, weights: Mapping[int, Weights], model_hash: bytes, device: str = "cpu") -> None:
        self._weights = weights
        self._model_hash = model_hash
        self._device = device
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
            yield wire.encode(wire.REFUSAL)

    def _answer(self, frame: Frame) -> Iterator[bytes]:
        if frame.kind is FrameKind.HELLO and self._epoch is None:
            self._epoch = frame.epoch
            zeros = (0, 0, 0, 0, 0, 0, 0)
            yield wire.encode(Frame(FrameKind.WELCOME, frame.epoch, *zeros, self._model_hash))
            self.ended = frame.payload != self._model_hash
        elif frame.kind is FrameKind.MULTIPLY and frame.epoch == self._epoch:
            self._message = self._message or self._begin(frame)
            self._message.add(frame)
            if self._message.complete:
                message, self._message = self._message, None
                yield from map(wire.encode, self._product(message))
        else:
            raise Refused(Refusal.FRAME_UNEXPECTED, frame.kind.name)

    def _begin(self, frame: Frame) -> wire.Reassembly:
        """Return an empty message, once its first piece shows that it can be answered. Implements: WIR-P4."""
        if frame.group not in self._weights:
            raise Refused(Refusal.FRAME_UNEXPECTED, "group")
        group = self._weights[frame.group]
        outputs, inner = group.weights.shape
        if (frame.columns, frame.element_bytes) != (inner, wire.element_bytes(group.modulus)):
            raise Refused(Refusal.FRAME_UNEXPECTED, "shape")
        row_bytes = outputs * frame.element_bytes
        wire.check_size(frame.total_rows * row_bytes, row_bytes)
        return wire.Reassembly.described_by(frame)

    def _product(self, message: wire.Reassembly) -> Sequence[Frame]:
        """Return the frames of the product. Implements: WIR-P7."""
        group = self._weights[message.group]
        shape = (message.total_rows, message.columns)
        elements = wire.unpack(message.data, shape[0] * shape[1], group.modulus).reshape(shape)
        masked = torch.from_numpy(elements).to(self._device)
        product = field.multiply(masked, group.weights, group.modulus)
        data = wire.pack(product.numpy(force=True), group.modulus)
        about = (FrameKind.PRODUCT, message.epoch, message.group, message.step)
        return wire.split(*about, product.shape[1], message.element_bytes, data)


Answer = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Returns the frames that one stream sends for the frames that it receives."""


def start_server(answer: Answer, address: str) -> tuple[grpc.Server, str]:
    """Return a running gRPC server and the address that it listens on. Refuses: WORKER_LOST."""

    def exchange(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        with suppress(grpc.RpcError):
            yield from answer(requests)

    _, service, method = METHOD.split("/")
    handlers = {method: grpc.stream_stream_rpc_method_handler(exchange)}
    options = (*OPTIONS, ("grpc.so_reuseport", 0))
    server = grpc.server(ThreadPoolExecutor(STREAMS), options=options, maximum_concurrent_rpcs=STREAMS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Refused(Refusal.WORKER_LOST, f"cannot listen on {address}: give another --address") from error
    server.start()
    return server, f"{address.rpartition(':')[0]}:{port}"


def serve_model(
    model: Model, address: str, ready: Callable[[str], None], stop: threading.Event, device: str = "cpu"
) -> None:
    """Serve a model until `stop` is set; `ready` is called once with the address. Refuses: WORKER_LOST."""
    weights = place(model, device)

    def answer(requests: Iterator[bytes]) -> Iterator[bytes]:
        worker = Worker(weights, model.digest, device)
        for data in requests:
            yield from worker.handle(data)
            if worker.ended:
                return

    server, listening = start_server(answer, address)
    ready(listening)
    stop.wait()
    server.stop(grace=1).wait()


def serve(
    model_path: Path,
    address: str = LOOPBACK,
    ready: Callable[[str], None] | None = None,
    device: str = "cpu",
    parent: bool = False,
) -> None:
    """Serve an integer model file until SIGTERM, SIGINT or, with `parent`, the end of standard input.

    Refuses: WORKER_LOST, what `model.load` refuses.
    """
    from veil_optimized import model

    serve_until_told(model.load(model_path), address, ready or announce, device, parent)


def serve_until_told(
    model: Model, address: str, ready: Callable[[str], None], device: str, parent: bool
) -> None:
    """Serve a model until SIGTERM, SIGINT or, with `parent`, the end of standard input."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if parent:
        threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    serve_model(model, address, ready, stop, device)


def announce(address: str) -> None:
    """Print the one line that says that the worker is ready."""
    print(READY + address, flush=True)


def _wait_for_end_of_input(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


@dataclass(frozen=True, slots=True)
class Running:
    """A worker process that this process started."""

    process: subprocess.Popen[str]
    address: str

    def stop(self) -> None:
        """End the process: by the end of its input, or by force."""
        _end(self.process)


def launch(command: Sequence[str], start_s: float = START_S) -> Running:
    """Return a worker process once it listens. Refuses: WORKER_LOST with its last line of errors."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        timer = threading.Timer(start_s, process.kill)
        timer.start()
        line = process.stdout.readline() if process.stdout else ""
        timer.cancel()
        if line.startswith(READY):
            return Running(process, line.removeprefix(READY).strip())
        _end(process)
        errors.seek(0)
        said = errors.read().strip().rpartition("\n")[2]
        raise Refused(Refusal.WORKER_LOST, said or "the worker process did not start")


def _end(process: subprocess.Popen[str]) -> None:
    """Close the process's input, which tells it to stop, and use force if it does not."""
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        process.communicate(timeout=STOP_S)
    process.kill()
    process.wait()


@contextmanager
def start_worker(model_path: Path, device: str = "cpu") -> Iterator[str]:
    """Yield the address of a worker process that ends with the block. Refuses: WORKER_LOST."""
    module = [sys.executable, "-P", "-m", "veil_optimized.worker", str(model_path)]
    running = launch([*module, "--address", LOOPBACK, "--device", device, "--parent"])
    try:
        yield running.address
    finally:
        running.stop()


def main() -> int:
    """Return the exit status: 0 after a clean end, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m veil_optimized.worker", description=__doc__)
    parser.add_argument("model", type=Path, help="integer model file")
    parser.add_argument("--address", default=LOOPBACK, help="HOST:PORT to listen on")
    parser.add_argument("--device", default="cpu", help="torch device that holds the weights")
    parser.add_argument("--parent", action="store_true", help="end when standard input ends")
    given = parser.parse_args()
    try:
        serve(given.model, given.address, announce, given.device, given.parent)
    except Refused as refused:
        print(f"worker: {refused}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
