"""kill -9 of enclave, worker and dealer at random moments of a generation: no mask twice, no wrong word."""

import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import torch

import tiny_checkpoint
from forked import Order, Parent, Process, parent
from veil.importer import import_model
from veil.text import Text
from veil_conformance.attacks import reuse
from veil_optimized import identity, plaintext, transcript
from veil_optimized.decoder import Decoder
from veil_optimized.generate import generate
from veil_optimized.model import Group, Model, load, plain_products
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE

KILLS: Final = int(os.environ.get("VEIL_KILLS", "12"))
"""How many processes are killed inside a generation; a soak takes 500."""
PROMPTS: Final = ("a quiet word", "the sum of all", "x")
"""One run of an enclave answers them all, in one epoch."""
NEW_TOKENS: Final = 12
VICTIMS: Final = ("enclave", "worker", "dealer")
PATIENCE_S: Final = 120.0
"""Seconds within which a run ends, whatever happens: more than three times the deadline."""
RETURN_S: Final = 20.0
"""Seconds that an enclave waits for a worker that comes back."""
GONE_S: Final = 1.0
"""Seconds that an enclave waits for one that does not."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is right: the text of each answer, and the rows that an enclave masks for all, in order."""

    answers: list[str]
    rows: list[tuple[int, torch.Tensor]]


@dataclass(slots=True)
class Outcome:
    """What a run said: the text of each answer, how many are whole, and its lines of refusal."""

    answers: list[str] = field(default_factory=list)
    whole: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Counts of a session of kills."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    late: int = 0
    resumed: int = 0
    pairs: list[tuple[Path, Path]] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the imported model, two identities and the requests."""
    made = tmp_path_factory.mktemp("kills")
    import_model(tiny_checkpoint.write(made / "float"), made / "model")
    for name in ("enclave", "dealer"):
        identity.write(identity.make(), made / name)
    requests = [{"prompt": prompt, "new_tokens": NEW_TOKENS, "raw": True} for prompt in PROMPTS]
    (made / "requests").write_text("".join(json.dumps(request) + "\n" for request in requests))
    return made


@pytest.fixture(scope="module")
def forks() -> Iterator[Parent]:
    """Yield the forking process."""
    with parent() as made:
        yield made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    """Return the model."""
    return load(folder / "model" / INTEGER_FILE)


@pytest.fixture(scope="module")
def expected(folder: Path, model: Model) -> Expected:
    """Return what plain inference says and masks."""
    text, rows = Text(folder / "model"), list[tuple[int, torch.Tensor]]()

    def products(group: Group, inputs: torch.Tensor) -> torch.Tensor:
        rows.append((group.number, inputs))
        return plain_products(group, inputs)

    answers = []
    for prompt in PROMPTS:
        made = generate(Decoder(model, products), text.tokens(prompt, True), NEW_TOKENS, text.stop)
        answers.append("".join(text.pieces(made.tokens)))
    return Expected(answers, rows)


class Service:
    """A worker or a dealer that is started again, at the address that it had, whenever it is not there."""

    def __init__(self, forks: Parent, folder: Path, name: str) -> None:
        self._forks, self._name, self._folder = forks, name, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._options = ["--model", str(folder / "model"), "--address", self.address]
        if name == "dealer":
            own, peer = folder / "dealer" / "identity.pem", folder / "enclave" / "certificate.pem"
            self._options += ["--identity", str(own), "--peer", str(peer)]
        self.process: Process | None = None

    def start(self) -> None:
        """Return once it listens, if it did not run."""
        if self.process is not None and self.process.wait(0) is None:
            return
        said = self._folder / f"{self._name}.said"
        files = (os.devnull, str(said), str(self._folder / f"{self._name}.errors"))
        said.write_text("")
        self.process = self._forks.start(Order([self._name, *self._options], *files))
        ends = time.monotonic() + PATIENCE_S
        while self.address not in said.read_text():
            assert time.monotonic() < ends and self.process.wait(0) is None, f"no {self._name}"
            time.sleep(0.005)

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.wait(0) is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self.process = None


class Run:
    """One enclave process: an epoch that answers all requests."""

    def __init__(
        self,
        forks: Parent,
        folder: Path,
        number: int,
        services: dict[str, Service],
        dealt: bool,
        deadline_s: float = RETURN_S,
        seed: str = "",
    ) -> None:
        self.transcript, self.plaintext = folder / f"{number}.transcript", folder / f"{number}.plaintext"
        self._said, self._errors = folder / f"{number}.said", folder / f"{number}.errors"
        arguments = ["enclave", "--model", str(folder / "model"), "--worker", services["worker"].address]
        arguments += ["--transcript", str(self.transcript)]
        if dealt:
            own, peer = folder / "enclave" / "identity.pem", folder / "dealer" / "certificate.pem"
            arguments += ["--minter", "dealer", "--dealer", services["dealer"].address]
            arguments += ["--identity", str(own), "--peer", str(peer)]
        files = (str(folder / "requests"), str(self._said), str(self._errors))
        self.process = forks.start(Order(arguments, *files, str(self.plaintext), deadline_s, seed))

    def await_epoch(self) -> None:
        """Return when the first row has been masked, or when the process has ended."""
        while not (self.plaintext.exists() and self.plaintext.stat().st_size):
            if self.process.wait(0.002) is not None:
                return

    def outcome(self) -> Outcome:
        """Return what it said; a line that a kill cut off is left out."""
        made = Outcome(answers=[""])
        for line in self._said.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            reply = json.loads(line)
            if "piece" in reply:
                made.answers[-1] += reply["piece"]
            elif "done" in reply:
                made.whole += 1
                made.answers.append("")
            else:
                made.lines.append(f"{reply['detail']} ({reply['refusal']})")
        errors = self._errors.read_text()
        made.lines += [line for line in errors.splitlines() if "not_private" not in line]
        return made


def wrong(outcome: Outcome, expected: Expected) -> list[int]:
    """Return the numbers of answers with a word that is not the right one, or that claim to be whole."""
    whole, started = outcome.answers[: outcome.whole], outcome.answers[outcome.whole :]
    found = [n for n, answer in enumerate(whole) if answer != expected.answers[n]]
    rest = [*expected.answers[outcome.whole :], ""]
    return found + [outcome.whole + n for n, answer in enumerate(started) if not rest[n].startswith(answer)]


def check_run(run: Run, status: int | None, killed: bool, expected: Expected) -> str:
    """Return how a run ended: "killed", "whole" or its one line; anything else fails."""
    assert status is not None, "a run did not end"
    outcome = run.outcome()
    assert wrong(outcome, expected) == []
    if killed:
        assert status == -9
        return "killed"
    assert status in (0, 2), (status, outcome.lines)
    if outcome.whole == len(PROMPTS):
        assert outcome.lines == []
        return "whole"
    assert len(outcome.lines) == 1, outcome.lines
    (line,) = outcome.lines
    assert "\n" not in line and line.endswith(("(WORKER_LOST)", "(DEALER_LOST)")), line
    return line.rpartition("(")[2].rstrip(")")


def keep(run: Run, expected: Expected, tally: Tally) -> None:
    """Add a run's transcript and record to those that are searched, once the record is seen to be true."""
    if not run.plaintext.exists() or not trim(run.transcript):
        return
    record = plaintext.read(run.plaintext)
    held = [(group, rows) for (_, group), rows in record.rows.items()]
    assert len(held) <= len(expected.rows)
    for (group, rows), (number, right) in zip(held, expected.rows, strict=False):
        assert (group, rows.tolist()) == (number, right.tolist())
    tally.pairs.append((run.transcript, run.plaintext))
    hellos = [data for data in sent_to_worker(run.transcript) if data[7] == 1]
    tally.resumed += max(0, len(hellos) - 1)


def sent_to_worker(path: Path) -> Iterator[bytes]:
    """Yield the frames to the worker in a transcript."""
    for record in transcript.read(path).records:
        if record.direction is transcript.Direction.TO_WORKER:
            yield record.data


def trim(path: Path) -> bool:
    """Return whether a transcript has a header, and cut off the record that a kill left unfinished."""
    data = path.read_bytes() if path.exists() else b""
    start = len(constants.TRANSCRIPT_MAGIC) + 4
    if len(data) < start or len(data) < start + int.from_bytes(data[start - 4 : start], "little"):
        return False
    end = start + int.from_bytes(data[start - 4 : start], "little")
    while len(data) >= end + 5 and len(data) >= end + 5 + int.from_bytes(data[end + 1 : end + 5], "little"):
        end += 5 + int.from_bytes(data[end + 1 : end + 5], "little")
    os.truncate(path, end)
    return True


def kill_rounds(forks: Parent, folder: Path, expected: Expected, kills: int) -> Tally:
    """Return the counts of as many kills, each at a moment inside the generation of a run."""
    tally, chance = Tally(), random.Random()
    services = {name: Service(forks, folder, name) for name in ("worker", "dealer")}
    lasted = 0.0
    while sum(tally.kills.values()) < kills:
        victim = VICTIMS[sum(tally.kills.values()) % 3]
        dealt = victim == "dealer" or chance.random() < 0.5
        comes_back = tally.kills["worker"] % 4 != 3
        for name in services:
            services[name].start()
        deadline_s = RETURN_S if victim != "worker" or comes_back or not lasted else GONE_S
        run = Run(forks, folder, tally.runs, services, dealt, deadline_s)
        tally.runs += 1
        run.await_epoch()
        start = time.monotonic()
        if not lasted:
            status = run.process.wait(PATIENCE_S)
            lasted = time.monotonic() - start
            tally.ends[check_run(run, status, False, expected)] += 1
            keep(run, expected, tally)
            continue
        status = run.process.wait(chance.uniform(0, lasted))
        struck = status is None
        if struck:
            process = run.process if victim == "enclave" else services[victim].process
            assert process is not None
            process.kill()
            process.wait(PATIENCE_S)
            if victim == "worker" and comes_back:
                services["worker"].start()
            status = -9 if victim == "enclave" else run.process.wait(PATIENCE_S)
            tally.kills[victim] += 1
        else:
            tally.late += 1
            lasted = (lasted + time.monotonic() - start) / 2
        end = check_run(run, status, struck and victim == "enclave", expected)
        tally.ends[f"{victim}{'' if struck else ' (late)'}: {end}"] += 1
        keep(run, expected, tally)
    for service in services.values():
        service.stop()
    return tally


@pytest.mark.requirement("RMO-G9")
def test_killed_at_random_moments_no_mask_is_used_twice_and_no_word_is_wrong(
    forks: Parent, folder: Path, expected: Expected
) -> None:
    start = time.monotonic()
    tally = kill_rounds(forks, folder, expected, KILLS)
    took = time.monotonic() - start
    found = reuse.check(tally.pairs)
    print(dict(tally.kills), dict(tally.ends), f"{tally.runs} runs, {tally.late} over before the kill,")
    print(f"{tally.resumed} streams resumed, {found.rows} masked rows, {found.sent_again} sent again,")
    print(f"{took:.0f} s, and {time.monotonic() - start - took:.0f} s to search")
    assert found.findings == []
    assert found.rows > 0
    assert sum(tally.kills.values()) == KILLS
    assert tally.resumed > 0


def test_negative_control_two_epochs_of_one_seed_are_found(
    forks: Parent, folder: Path, expected: Expected
) -> None:
    tally, services = Tally(), {"worker": Service(forks, folder, "worker")}
    services["worker"].start()
    for number in (10**6, 10**6 + 1):
        run = Run(forks, folder, number, services, dealt=False, seed="07" * 32)
        assert check_run(run, run.process.wait(PATIENCE_S), False, expected) == "whole"
        keep(run, expected, tally)
    services["worker"].stop()
    assert len(reuse.check(tally.pairs).findings) > 0
    assert reuse.check(tally.pairs[:1]).findings == []


def test_negative_control_a_wrong_word_is_found(expected: Expected) -> None:
    right = expected.answers
    assert wrong(Outcome([*right, ""], len(right)), expected) == []
    assert wrong(Outcome([right[0], right[1][:3]], 1), expected) == []
    assert wrong(Outcome([right[0][:-1], ""], 1), expected) == [0]
    assert wrong(Outcome([right[0], right[1][:3] + "\0"], 1), expected) == [1]
    assert wrong(Outcome([*right, "more"], len(right)), expected) == [len(right)]
