"""`veil` commands as processes in milliseconds: a parent that has loaded everything forks one for each order.

Orders and answers are JSON lines. Each child runs the command line as it is, with three changes for a test:
an enclave records what it masks, a frame is in its transcript before it is sent, and its deadline is set.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

POLL_S: Final = 0.003
"""Seconds between two looks at a process."""
ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GRPC_VERBOSITY": "NONE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Order:
    """A `veil` command: its arguments, its three files, and for an enclave a record of what it masks."""

    arguments: Sequence[str]
    given: str
    said: str
    errors: str
    plaintext: str = ""
    deadline_s: float = 60.0
    seed: str = ""


class Process(NamedTuple):
    """A child of the forking process."""

    parent: "Parent"
    pid: int

    def kill(self) -> None:
        """End the process at once."""
        os.kill(self.pid, 9)

    def wait(self, seconds: float) -> int | None:
        """Return the exit status, negative for a signal, or None if the process still runs then."""
        return self.parent.ask({"wait": self.pid, "seconds": seconds})


class Parent:
    """The forking process, seen from a test."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders, self._answers = orders, answers

    def ask(self, order: object) -> int | None:
        """Return the answer to one order."""
        print(json.dumps(order), file=self._orders, flush=True)
        answer: int | None = json.loads(self._answers.readline())
        return answer

    def start(self, order: Order) -> Process:
        """Return a new process."""
        pid = self.ask(asdict(order))
        if pid is None:
            raise RuntimeError("no process")
        return Process(self, pid)


@contextmanager
def parent() -> Iterator[Parent]:
    """Yield the forking process, ready; it ends with the block, and kills what is left of its children."""
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a pipe is missing")
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the forking process did not start")
        yield Parent(process.stdin, process.stdout)
        process.stdin.close()


def _record(order: Order) -> None:
    """Change this process so that its enclave is on record."""
    from veil import engines
    from veil_optimized import enclave, plaintext
    from veil_optimized.model import Model
    from veil_optimized.profiles import Masking
    from veil_optimized.remo import Minter
    from veil_optimized.session import Channel

    vars(engines)["epoch"] = functools.partial(enclave.epoch, deadline_s=order.deadline_s)
    opened = enclave.Enclave.__init__
    writer = plaintext.Writer(Path(order.plaintext))

    def start(
        self: enclave.Enclave,
        model: Model,
        channel: Channel,
        masking: Masking | None = None,
        minter: Minter | None = None,
        witness: enclave.Witness | None = None,
    ) -> None:
        opened(self, model, channel, masking, minter, writer.witness)

    enclave.Enclave.__init__ = start  # type: ignore[method-assign]
    if order.seed:
        masking = Masking(seed=bytes.fromhex(order.seed))
        engines.VeilConfig.masking = property(lambda self: masking)  # type: ignore[method-assign, assignment]


def _run(order: Order) -> int:
    """Return the exit status of a command in this process."""
    from veil.commands import run

    for number, (name, flags) in enumerate(
        (
            (order.given, os.O_RDONLY),
            (order.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (order.errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        )
    ):
        os.dup2(os.open(name, flags, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    try:
        if order.plaintext:
            _record(order)
        return run(order.arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _started(order: Order) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        status = _run(order)
    finally:
        os._exit(status)


def _waited(pid: int, seconds: float, ended: dict[int, int]) -> int | None:
    """Return a child's exit status, which is added to `ended`, or None if it still runs by then."""
    ends = time.monotonic() + seconds
    while pid not in ended:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > ends:
            return None
        else:
            time.sleep(POLL_S)
    return ended[pid]


def main() -> None:
    """Obey orders until there are no more, then end the children that are left."""
    import tokenizers  # noqa: F401

    from veil import answering, commands  # noqa: F401
    from veil_optimized import dealer, worker  # noqa: F401

    started: set[int] = set()
    ended: dict[int, int] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        stated = json.loads(line)
        if "wait" in stated:
            answer = _waited(stated["wait"], stated["seconds"], ended)
        else:
            answer = _started(Order(**stated))
            started.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in started - ended.keys():
        os.kill(pid, 9)


if __name__ == "__main__":
    main()
