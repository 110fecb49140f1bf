"""Starting a process that says when it is ready, without loading what it runs."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from veil_spec.refusals import Refusal, Refused

READY: Final = "worker listening on "
"""Begins the one line that a worker process prints, before its address."""
START_S: Final = 300.0
"""Seconds for a worker process to read its model file."""
STOP_S: Final = 10.0
"""Seconds for a worker process to end by itself, more than the grace that it gives to its peers."""
LOOPBACK: Final = "127.0.0.1:0"
"""The default address: this machine only, any free port."""
BESIDE: Final = "unix:" if hasattr(socket, "AF_UNIX") else LOOPBACK
"""The address of a worker that the enclave starts: a Unix socket of its own, for it costs less than gRPC."""


@dataclass(frozen=True, slots=True)
class Running:
    """A worker process that this process started."""

    process: subprocess.Popen[str]
    address: str

    def stop(self) -> None:
        """End the process: by the end of its input, or by force."""
        _end(self.process)


def launch(command: Sequence[str], start_s: float = START_S, ready: str = READY, told: str = "") -> Running:
    """Return a process that got a line on its standard input, if any, once it prints that it is ready.

    Refuses: WORKER_LOST with its last line of errors.
    """
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        timer = threading.Timer(start_s, process.kill)
        timer.start()
        if process.stdin and told:
            with suppress(BrokenPipeError):
                process.stdin.write(told + "\n")
                process.stdin.flush()
        line = process.stdout.readline() if process.stdout else ""
        timer.cancel()
        if line.startswith(ready):
            return Running(process, line.removeprefix(ready).strip())
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


def launch_worker(model_path: Path, device: str = "cpu", address: str = BESIDE) -> Running:
    """Return a worker process for an integer file, beside this process. Refuses: WORKER_LOST."""
    module = [sys.executable, "-P", "-m", "veil_optimized.worker", str(model_path)]
    return launch([*module, "--address", address, "--device", device, "--parent"])


@contextmanager
def start_worker(model_path: Path, device: str = "cpu", address: str = BESIDE) -> Iterator[str]:
    """Yield the address of a worker process that ends with the block. Refuses: WORKER_LOST."""
    running = launch_worker(model_path, device, address)
    try:
        yield running.address
    finally:
        running.stop()
