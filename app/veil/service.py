"""An enclave process from outside: how it is started, and the JSON lines between it and who started it.

`veil.answering` is its inside. Nothing here loads torch.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from veil.requests import Reply, Request, TextsRequest
from veil_optimized.launching import launch_worker
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused

if TYPE_CHECKING:
    from veil_optimized.dealer import Contact

__all__ = ["Reply", "Request", "Running", "Settings", "TextsRequest", "start_enclave", "starting_worker"]

STOP_S: Final = 30.0
"""Seconds for an enclave process to end by itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an enclave process is told at its start; nothing in it is secret."""

    model: Path
    mode: str
    profile: str = "pad"
    m_over_d: Fraction | None = None
    transcript: Path | None = None
    dealer: str | None = None
    plaintext: Path | None = None
    commitment: str | None = None
    table: Path | None = None
    epsilon: str | None = None

    @property
    def integer_file(self) -> Path:
        """Return the integer file. Refuses: MODEL_MALFORMED."""
        path = self.model / INTEGER_FILE
        if not path.is_file():
            remedy = (
                f"--model {self.model} has no {INTEGER_FILE}: make it with `veil import SOURCE --out DIR`"
            )
            raise Refused(Refusal.MODEL_MALFORMED, remedy)
        return path

    @property
    def private(self) -> bool:
        """Return whether a guarantee of the specification can cover what these settings run."""
        return self.mode != "plain" and self.profile != "rank" and self.plaintext is None

    def arguments(self) -> list[str]:
        """Return the command-line options that mean these settings."""
        given = ["--model", str(self.model), "--mode", self.mode, "--profile", self.profile]
        if self.dealer is not None:
            given += ["--minter", "dealer", "--dealer", self.dealer, "--identity", "-"]
        options = {
            "--m-over-d": self.m_over_d,
            "--plaintext": self.plaintext,
            "--commitment": self.commitment,
            "--transcript": self.transcript,
            "--table": self.table,
            "--epsilon": self.epsilon,
        }
        for option, value in options.items():
            given += [option, str(value)] if value is not None else []
        return given


def _as_said(errors: str) -> Refused:
    """Return the refusal of an enclave process that ended, from its last line of errors."""
    said = re.search(r"^veil: (.*?)(?: \(([A-Z_]+)\))?$", errors.strip().rpartition("\n")[2])
    if said is None:
        return Refused(Refusal.WORKER_LOST, "the enclave process ended early")
    return Refused(Refusal(said[2] or Refusal.WORKER_LOST), said[1])


class Answered(Refused):
    """A refusal among the replies; `index` is the place of the prompt or text that it is about, if of one."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(Refusal(reply["refusal"]), reply["detail"])
        self.index = reply.get("index")


class Running:
    """An enclave process that this process started."""

    def __init__(self, requests: IO[str], replies: IO[str], errors: IO[str]) -> None:
        self._requests, self._replies, self._errors = requests, replies, errors

    def tell(self, line: str) -> None:
        """Write a line to the process; one that has ended says why when it is asked."""
        with suppress(BrokenPipeError):
            self._requests.write(line)
            self._requests.flush()

    def replies(self, request: Request | TextsRequest) -> Iterator[Reply]:
        """Yield replies as they come, but for the last one. Refuses: whatever the enclave refused."""
        self.tell(request.line())
        for line in self._replies:
            reply: Reply = json.loads(line)
            if "refusal" in reply:
                raise Answered(reply)
            if "done" in reply:
                return
            yield reply
        raise _as_said(self._errors.read())

    def ask(self, request: Request) -> Iterator[str]:
        """Yield the answer's text as it comes. Refuses: whatever the enclave refused."""
        return (reply["piece"] for reply in self.replies(request) if "piece" in reply)


@contextmanager
def starting_worker(model_path: Path) -> Iterator[Future[str]]:
    """Yield the address, once it is known, of a worker process that ends with the block."""
    with ThreadPoolExecutor(1) as pool:
        launched = pool.submit(launch_worker, model_path)
        try:
            yield pool.submit(lambda: launched.result().address)
        finally:
            if launched.exception() is None:
                launched.result().stop()


@contextmanager
def start_enclave(
    settings: Settings, worker: str | Future[str] | None, dealer: "Contact | None" = None
) -> Iterator[Running]:
    """Yield an enclave process that ends with the block.

    Its key for a dealer is the first line of its input; the next is the address of a worker that was still
    starting.
    """
    settings = settings if dealer is None else replace(settings, dealer=dealer.address)
    command = [sys.executable, "-P", "-m", "veil.main", "enclave", *settings.arguments()]
    if worker is not None:
        command += ["--worker", "-" if isinstance(worker, Future) else worker]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("a pipe is missing")
        running = Running(process.stdin, process.stdout, process.stderr)
        try:
            if dealer is not None:
                from veil_optimized.dealer import line_of

                running.tell(line_of(dealer.credentials) + "\n")
            if isinstance(worker, Future):
                running.tell(worker.result() + "\n")
            yield running
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
