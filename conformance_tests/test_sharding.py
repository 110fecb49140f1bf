"""A worker of several processes: any number gives the same bytes, and one that is lost ends them all."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from veil_conformance import tiny_model
from veil_optimized import ranks, wide, wire
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.generate import generate
from veil_optimized.launching import LOOPBACK, READY
from veil_optimized.model import Model, group_names, load
from veil_optimized.ranks import Ranks
from veil_optimized.session import Channel
from veil_optimized.sharding import PLAN, Cut, Kind, Split, multiplied
from veil_optimized.split import SplitDecoder
from veil_optimized.transport import LocalTransport, RemoteTransport, StreamLost, Transport
from veil_optimized.worker import Worker, place
from veil_spec import constants
from veil_spec.architecture import ModelShape, Precision
from veil_spec.types import Frame, FrameKind

Rows = list[list[int]]
EPOCH: Final = bytes(range(16))
ZEROS: Final = (0, 0, 0, 0, 0, 0, 0)
SHAPE: Final = replace(tiny_model.SWITCHED, vocabulary=3, inner=3)
"""No dimension of a group is a multiple of 2, 3 and 4, and two are smaller than 4."""
PROMPT: Final = [2, 0, 1]
DEADLINE_S: Final = 60.0
ROUND_S: Final = 3.0
"""Seconds that a rank which stands still is waited for here."""


# Plan


MAPS: Final = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A decoder's groups to the maps that they stack, as transformers calls them."""


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_the_plan_is_the_one_that_the_models_configuration_carries(family: str) -> None:
    plan = getattr(transformers, f"{family}Config").base_model_tp_plan
    stated = {name: [plan[f"layers.*.{map_}"] for map_ in maps] for name, maps in MAPS.items()}
    assert stated == {name: [PLAN[name]] * len(maps) for name, maps in MAPS.items()}
    head = getattr(transformers, f"{family}ForCausalLM")._tp_plan["lm_head"]
    assert {head.partition("_")[0]} == {PLAN["head"], PLAN["embedding"]}


def test_bert_still_carries_no_plan_of_its_own() -> None:
    assert transformers.BertConfig.base_model_tp_plan is None


@pytest.mark.parametrize("shape", [tiny_model.SMALL, tiny_model.SWITCHED, tiny_model.ENCODER])
def test_every_group_of_every_structure_is_in_the_plan(shape: ModelShape) -> None:
    assert {name.rpartition(".")[2] for name in group_names(shape)} <= set(PLAN)


# Arithmetic


@dataclass(frozen=True)
class Case:
    """A product that is shared among ranks."""

    kind: Kind
    cut: Cut
    weights: torch.Tensor
    rows: Rows
    modulus: int

    @property
    def field(self) -> int:
        """Return the modulus of the words."""
        return constants.LWE_MODULUS if self.kind is Kind.HALVES else self.modulus

    def parts(self) -> list[torch.Tensor]:
        """Return what each rank computes from its shard alone."""
        words = torch.tensor([[word - 2**64 * (word >= 2**63) for word in row] for row in self.rows])
        pairs = [
            (self.cut.operand(words, rank), self.cut.shard(self.weights, rank).clone())
            for rank in range(self.cut.ranks)
        ]
        return [multiplied(self.kind, rows, shard, self.modulus) for rows, shard in pairs]

    def joined(self, parts: Sequence[torch.Tensor]) -> Rows:
        """Return the words that these parts make, as unsigned integers or, if exact, as integers."""
        words = self.cut.joined(self.kind, parts, self.modulus).tolist()
        return words if self.kind is Kind.EXACT else [[word % 2**64 for word in row] for row in words]

    def expected(self) -> Rows:
        """Return the product in Python integers."""
        whole = [[int(weight) for weight in row] for row in self.weights.tolist()]
        if self.kind is Kind.HALVES:
            high = [[(weight + 128) // 256 for weight in row] for row in whole]
            low = [
                [w - 256 * h for w, h in zip(*pair, strict=True)] for pair in zip(whole, high, strict=True)
            ]
            whole = high + low
        sums = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in whole] for x in self.rows]
        return sums if self.kind is Kind.EXACT else [[word % self.field for word in row] for row in sums]


@st.composite
def cases(draw: st.DrawFn, split: Split | None = None, least: int = 1, most: int = 5) -> Case:
    """Return a product of any shape, shared among `least` to `most` ranks."""
    outputs, inner, count = draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(st.integers(1, 3))
    kind, modulus = draw(st.sampled_from(Kind)), draw(st.sampled_from(constants.PRIMES))
    field = constants.LWE_MODULUS if kind is Kind.HALVES else modulus
    limit = constants.ACTIVATION_LIMIT
    low, high = (-limit, limit) if kind is Kind.EXACT else (0, field - 1)
    words = st.integers(low, high) | st.sampled_from([low, high])
    dtype, top = draw(st.sampled_from([(torch.int16, constants.WEIGHT_LIMIT), (torch.int8, 127)]))
    weights = st.integers(-top, top) | st.sampled_from([-top, top])

    def matrix(numbers: st.SearchStrategy[int], height: int) -> Rows:
        return draw(
            st.lists(st.lists(numbers, min_size=inner, max_size=inner), min_size=height, max_size=height)
        )

    cut = Cut(split or draw(st.sampled_from(Split)), outputs, inner, draw(st.integers(least, most)))
    return Case(kind, cut, torch.tensor(matrix(weights, outputs), dtype=dtype), matrix(words, count), modulus)


@pytest.mark.requirement("WIR-P14")
@given(cases())
def test_the_parts_of_any_number_of_ranks_join_to_the_product(case: Case) -> None:
    assert case.joined(case.parts()) == case.expected()


@given(cases())
def test_every_weight_is_held_by_exactly_one_rank(case: Case) -> None:
    held = [case.cut.shard(case.weights, rank) for rank in range(case.cut.ranks)]
    dimension = 0 if case.cut.split is Split.COLWISE else 1
    assert torch.equal(torch.cat(held, dimension), case.weights)
    assert all(shard.is_contiguous() for shard in held)
    sizes = [shard.shape[dimension] for shard in held]
    assert max(sizes) - min(sizes) <= 1


@given(cases(Split.ROWWISE, least=2))
def test_negative_control_a_part_that_is_left_out_is_noticed(case: Case) -> None:
    parts = case.parts()
    for rank, part in enumerate(parts):
        rest = case.joined([*parts[:rank], torch.zeros_like(part), *parts[rank + 1 :]])
        assert (rest == case.expected()) == (not part.any())


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", [2, 4])
def test_negative_control_parts_in_another_order_are_noticed(kind: Kind, count: int) -> None:
    weights = torch.tensor([[1], [-300], [700], [-1100]], dtype=torch.int16)
    case = Case(kind, Cut(Split.COLWISE, 4, 1, count), weights, [[1]], constants.PRIMES[0])
    parts = case.parts()
    assert case.joined(parts) == case.expected() != case.joined(parts[::-1])


def test_negative_control_words_of_q_do_not_add_as_integers() -> None:
    largest = torch.tensor([[-60]])
    assert (largest + largest).tolist() != wide.add(largest, largest).tolist() == [[-61]]


def test_a_long_message_is_multiplied_in_pieces_and_by_one_rank_too(
    models: dict[Precision, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "PIECE", 60)
    assert not ranks.several()
    model, one = load(models[Precision.W16A16]), Ranks("cpu")
    for number, group in one.hold(model).items():
        rows = torch.arange(11 * group.shape[1]).reshape(11, -1)
        for kind in Kind:
            right = multiplied(kind, rows, model.groups[number].weights, group.modulus)
            assert torch.equal(group.product(kind, rows), right)
    one.stop()


# Processes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """Return the integer file of each precision."""
    folder = tmp_path_factory.mktemp("sharded")
    return {each: tiny_model.write(folder / each, SHAPE, b"sharded", each) for each in Precision}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def environment(**changes: str) -> dict[str, str]:
    """Return what a process here is started with."""
    path = os.pathsep.join(sys.path)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | changes


@dataclass(frozen=True)
class Group:
    """A worker that torchrun started."""

    process: subprocess.Popen[str]
    folder: Path

    def address(self) -> str:
        """Return the address that rank 0 prints next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(READY), self.said(0)
        return line.removeprefix(READY).strip()

    def pids(self) -> dict[int, int]:
        """Return the process of each rank that runs."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = dict[int, int]()
        for pid in children:
            stated = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(line[5:]): int(pid) for line in stated if line.startswith(b"RANK=")}
        return found

    def said(self, rank: int, attempt: int = 0) -> list[str]:
        """Return the lines of a rank's standard error."""
        (path,) = self.folder.glob(f"*/attempt_{attempt}/{rank}/stderr.log")
        return path.read_text().splitlines()


@contextmanager
def torchrun(folder: Path, model: Path, count: int, *options: str, restarts: int = 0) -> Iterator[Group]:
    """Yield a worker of so many processes, which ends with the block."""
    folder.mkdir()
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--redirects=2"]
    command += ["--monitor-interval=0.1", "--shutdown-timeout=2", f"--log-dir={folder}"]
    command += [f"--nproc-per-node={count}", f"--max-restarts={restarts}", "-m", "veil_optimized.worker"]
    command += [str(model), "--parent", *options]
    with (folder / "torchrun").open("w") as errors:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment()
        )
    try:
        yield Group(process, folder)
        if process.poll() is None:
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


Workers = Callable[[Precision, int], str]
"""Returns the address of a worker of so many processes."""


@pytest.fixture(scope="module")
def workers(models: dict[Precision, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Yield what starts workers: each of them once, for all tests."""
    folder, addresses = tmp_path_factory.mktemp("workers"), dict[tuple[Precision, int], str]()
    with ExitStack() as stack:

        def address(precision: Precision, count: int) -> str:
            if (precision, count) not in addresses:
                group = torchrun(folder / f"{precision}-{count}", models[precision], count)
                addresses[precision, count] = stack.enter_context(group).address()
            return addresses[precision, count]

        yield address


def elements(rows: int, columns: int, modulus: int) -> list[int]:
    """Return field elements without a pattern, the largest one first."""
    return [(modulus - 1) * (n**5 + 1) // 7**6 % modulus if n else modulus - 1 for n in range(rows * columns)]


def questions(model: Model) -> Iterator[Frame]:
    """Yield a MULTIPLY message for each group, of one row and of several, in its field and in that of q."""
    for number, group in enumerate(model.groups):
        for rows in (1, 5):
            for modulus in (group.modulus, constants.LWE_MODULUS):
                inner, width = group.weights.shape[1], wire.element_bytes(modulus)
                data = wire.pack(elements(rows, inner, modulus), modulus)
                yield from wire.split(FrameKind.MULTIPLY, EPOCH, number, rows, inner, width, data)


def answers(transport: Transport, model: Model) -> list[bytes]:
    """Return the bytes of every answer to HELLO and the questions: one frame each."""
    hello = Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest)
    received = []
    for frame in (hello, *questions(model)):
        transport.send(wire.encode(frame))
        received.append(transport.receive())
    transport.close()
    return received


def of_one_process(model: Model) -> list[bytes]:
    """Return what a worker in this process answers."""
    return answers(LocalTransport(Worker(place(model, "cpu"), model.digest).handle), model)


@pytest.mark.requirement("WIR-P14")
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("precision", Precision)
def test_any_number_of_processes_answers_with_the_same_bytes(
    models: dict[Precision, Path], workers: Workers, precision: Precision, count: int
) -> None:
    model = load(models[precision])
    found = answers(RemoteTransport(workers(precision, count)), model)
    assert found == of_one_process(model)
    assert len(found) == 1 + 4 * len(model.groups)


def test_negative_control_the_questions_tell_two_models_apart(models: dict[Precision, Path]) -> None:
    one, other = (of_one_process(load(path)) for path in models.values())
    assert all(left != right for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("precision", Precision)
def test_masked_and_split_generation_by_any_number_of_processes_equal_plain(
    models: dict[Precision, Path], workers: Workers, precision: Precision, count: int
) -> None:
    model, new = load(models[precision]), SHAPE.context - len(PROMPT)
    plain = generate(Decoder(model), PROMPT, new)
    with Channel(RemoteTransport(workers(precision, count)), EPOCH) as channel:
        enclave = Enclave(model, channel)
        enclave.open()
        masked = generate(Decoder(model, enclave.products), PROMPT, new)
        split = generate(SplitDecoder(model, channel), PROMPT, new)
    assert masked.tokens == split.tokens == plain.tokens
    assert len(plain.tokens) == new


@pytest.mark.requirement("WIR-P4")
def test_nonsense_is_refused_before_another_rank_hears_of_it(
    models: dict[Precision, Path], workers: Workers
) -> None:
    model, address = load(models[Precision.W16A16]), workers(Precision.W16A16, 3)
    good = next(questions(model))
    nonsense = [
        replace(good, payload=b"\xff" * len(good.payload)),
        replace(good, group=len(model.groups)),
        replace(good, columns=good.columns - 1, payload=good.payload[good.element_bytes :]),
    ]
    for frame in nonsense:
        stream = RemoteTransport(address)
        stream.send(wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest)))
        stream.receive()
        stream.send(wire.encode(frame))
        assert stream.receive() == wire.encode(wire.REFUSAL)
        stream.close()
    assert answers(RemoteTransport(address), model) == of_one_process(model)


# A rank that is lost


LOST: Final = "worker: WORKER_LOST: rank 0 of 3 lost another: start this worker again"


def test_a_rank_killed_in_the_middle_is_started_again_and_one_that_stands_still_ends_them_all(
    models: dict[Precision, Path], tmp_path: Path
) -> None:
    model, place_ = load(models[Precision.W16A16]), f"127.0.0.1:{free_port()}"
    options = ("--address", place_, "--round-s", str(ROUND_S))
    with torchrun(tmp_path / "group", models[Precision.W16A16], 3, *options, restarts=1) as group:
        assert group.address() == place_
        with Channel(RemoteTransport(place_, DEADLINE_S), EPOCH) as channel:
            enclave = Enclave(model, channel)
            enclave.open()
            halted = group.pids()[2]
            os.kill(halted, signal.SIGSTOP)
            timer = threading.Timer(ROUND_S / 3, os.kill, (halted, signal.SIGKILL))
            timer.start()
            masked = generate(Decoder(model, enclave.products), PROMPT, 4)
            timer.join()
            assert masked.tokens == generate(Decoder(model), PROMPT, 4).tokens
            assert 1 <= channel.resumed <= constants.RESUME_LIMIT
        assert group.said(0) == [LOST]
        assert group.address() == place_
        halted = group.pids()[1]
        os.kill(halted, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(StreamLost):
            answers(RemoteTransport(place_, DEADLINE_S), model)
        assert 0.9 * ROUND_S < time.monotonic() - start < 5 * ROUND_S
        os.kill(halted, signal.SIGKILL)  # torchrun would, after half a minute
        assert group.process.wait(DEADLINE_S) != 0
        assert group.said(0, attempt=1) == [LOST]


# Ranks without torchrun


def by_hand(paths: Sequence[Path]) -> list[subprocess.Popen[str]]:
    """Return a process for each rank, started with the environment alone; all listen on any port."""
    about = {"WORLD_SIZE": str(len(paths)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command, pipe = [sys.executable, "-P", "-m", "veil_optimized.worker"], subprocess.PIPE
    return [
        subprocess.Popen(
            [*command, str(path), "--address", LOOPBACK],
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=environment(**about, RANK=str(rank)),
        )
        for rank, path in enumerate(paths)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return the status and the errors of each process."""
    try:
        said = [process.communicate(timeout=DEADLINE_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, errors) for process, errors in zip(processes, said, strict=True)]


@pytest.mark.requirement("WIR-P10")
def test_told_to_end_all_ranks_answer_what_was_begun_and_end_with_status_0(
    models: dict[Precision, Path],
) -> None:
    path = models[Precision.W16A16]
    model, processes = load(path), by_hand([path, path])
    assert processes[0].stdout is not None
    stream = RemoteTransport(processes[0].stdout.readline().removeprefix(READY).strip(), DEADLINE_S)
    asked = next(frame for frame in questions(model) if frame.rows > 1)
    row = asked.columns * asked.element_bytes
    stream.send(wire.encode(Frame(FrameKind.HELLO, EPOCH, *ZEROS, model.digest)))
    stream.send(wire.encode(replace(asked, rows=1, payload=asked.payload[:row])))
    stream.receive()
    first = wire.decode(stream.receive()).payload
    time.sleep(0.3)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    stream.send(wire.encode(replace(asked, first_row=1, rows=asked.rows - 1, payload=asked.payload[row:])))
    payload = first + wire.decode(stream.receive()).payload
    assert payload in [wire.decode(frame).payload for frame in of_one_process(model)]
    assert ended(processes) == [(0, ""), (0, "")]
    stream.close()


@pytest.mark.requirement("WIR-P5")
def test_ranks_with_different_models_refuse_to_begin(models: dict[Precision, Path]) -> None:
    said = "worker: MODEL_MISMATCH: start all ranks with the same integer model file\n"
    assert ended(by_hand(list(models.values()))) == [(2, said)] * 2
