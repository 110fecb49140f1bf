"""The dealer against honest and lying peers: seeds fresh, corrections checked, nothing used twice or kept."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from test_process import refusal_of
from veil import commands
from veil_optimized import dealer as subject
from veil_optimized import identity, wire
from veil_optimized.dealer import Contact, Dealer, DealerMinter, DealerTransport, Leases, start_dealer
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave
from veil_optimized.generate import generate
from veil_optimized.identity import Credentials
from veil_optimized.launching import LOOPBACK, start_worker
from veil_optimized.model import Model, load
from veil_optimized.remo import pad
from veil_optimized.serving import Server
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape
from veil_optimized.transport import LocalTransport, RemoteTransport
from veil_optimized.worker import Worker, place
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Frame, FrameKind

PROMPT = [3, 1, 4, 1, 5]
EPOCH = bytes(range(16))
OTHER_EPOCH = bytes(range(1, 17))
REFUSAL_BYTES = wire.encode(wire.REFUSAL)
Rewrite = Callable[[Frame], Sequence[Frame | bytes]]


@pytest.fixture(scope="module")
def model(imported: Path) -> Model:
    """Return the small integer model."""
    return load(imported / INTEGER_FILE)


def unchanged(frame: Frame) -> Sequence[Frame | bytes]:
    """Return the frame."""
    return [frame]


@dataclass
class Parties:
    """An enclave, a worker and a dealer in this process, and every frame between them."""

    model: Model
    rewrite: Rewrite = unchanged
    leases: Leases = field(default_factory=Leases)
    epoch: bytes = EPOCH
    to_worker: list[Frame] = field(default_factory=list)
    to_dealer: list[Frame] = field(default_factory=list)
    from_dealer: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        dealer, worker = Dealer(self.model, self.leases), Worker(place(self.model, "cpu"), self.model.digest)

        def deal(data: bytes) -> Iterator[bytes]:
            self.to_dealer.append(wire.decode(data))
            for answer in map(wire.decode, dealer.handle(data)):
                self.from_dealer.append(answer)
                for sent in self.rewrite(answer):
                    yield sent if isinstance(sent, bytes) else wire.encode(sent)

        def work(data: bytes) -> Iterator[bytes]:
            self.to_worker.append(wire.decode(data))
            yield from worker.handle(data)

        self.minter = DealerMinter(LocalTransport(deal), self.epoch, self.model)
        self.channel = Channel(LocalTransport(work), self.epoch)
        self.enclave = Enclave(self.model, self.channel, minter=self.minter)

    def open(self) -> "Parties":
        """Return these after both greetings."""
        self.minter.open()
        self.enclave.open()
        return self

    @property
    def asked(self) -> list[tuple[int, int, int]]:
        """Return (first step, steps, rows) of every ASK."""
        return [amounts(frame) for frame in self.to_dealer if frame.kind is FrameKind.ASK]


def amounts(frame: Frame) -> tuple[int, int, int]:
    """Return (first step, steps, rows) of an ASK."""
    steps, rows = (int.from_bytes(part, "little") for part in (frame.payload[:4], frame.payload[4:]))
    return frame.step, steps, rows


# An honest dealer


@pytest.mark.parametrize("ahead", [0, 2, 40])
def test_generation_with_a_dealer_equals_plain_generation(model: Model, ahead: int) -> None:
    parties = Parties(model).open()
    plain = generate(Decoder(model), PROMPT, 6)
    parties.minter.prefetch(1, ahead)
    dealt = generate(Decoder(model, parties.enclave.products), PROMPT, 6)
    assert torch.equal(dealt.logits, plain.logits)
    assert parties.minter.checked == 6 * len(model.groups)
    prompt, later = (0, 1, len(PROMPT)), [(step, 1, 1) for step in range(1, 6)]
    assert parties.asked == [prompt, *([(1, ahead, 1)] if ahead else []), *later[ahead:]]


def test_a_second_prompt_passes_over_what_was_asked_for_single_rows(model: Model) -> None:
    parties = Parties(model).open()
    for _ in range(2):
        parties.minter.prefetch(parties.enclave.next_step + 1, 4)
        made = generate(Decoder(model, parties.enclave.products), PROMPT, 3)
        assert torch.equal(made.logits, generate(Decoder(model), PROMPT, 3).logits)
    assert parties.asked == [(0, 1, 5), (1, 4, 1), (5, 1, 5), (6, 4, 1)]
    steps = [frame.step for frame in parties.to_worker if frame.group == 0 and frame.rows]
    assert steps == [0, 1, 2, 5, 6, 7]


@pytest.mark.requirement("WIR-P10")
def test_real_processes_give_the_plain_logits_show_nothing_secret_and_end_when_told(
    model: Model, imported: Path
) -> None:
    file = imported / INTEGER_FILE
    with start_worker(file) as address, start_dealer(file) as contact, dealt(model, contact) as minter:
        with Channel(RemoteTransport(address), minter.epoch) as channel:
            enclave = Enclave(model, channel, minter=minter)
            enclave.open()
            minter.prefetch(1, 3)
            made = generate(Decoder(model, enclave.products), PROMPT, 4)
        assert torch.equal(made.logits, generate(Decoder(model), PROMPT, 4).logits)
        (process,) = children("veil_optimized.dealer")
        shown = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
        assert b"veil_optimized.dealer" in shown
        assert b"BEGIN" not in shown
        assert written_by(process) == []
        os.kill(int(process.name), signal.SIGTERM)
        assert waited(lambda: [minter.take(model.groups[0], step, 1) for step in count(4)]) < 10
        status = os.waitid(os.P_PID, int(process.name), os.WEXITED | os.WNOWAIT)
    assert status is not None
    assert (status.si_code, status.si_status) == (os.CLD_EXITED, 0)


def children(module: str) -> list[Path]:
    """Return the folders in /proc of this process's children that run a module."""
    found = [path.parent for path in Path("/proc").glob("[0-9]*/stat")]
    return [path for path in found if is_child(path) and module.encode() in (path / "cmdline").read_bytes()]


def is_child(process: Path) -> bool:
    """Return whether a process is this one's child."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False


def written_by(process: Path) -> list[str]:
    """Return the regular files that a process holds open for writing and that have content."""
    found = []
    for link in (process / "fd").iterdir():
        flags = int((process / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0], 8)
        if link.is_file() and flags & (os.O_WRONLY | os.O_RDWR) and link.stat().st_size:
            found.append(os.readlink(link))
    return found


@contextmanager
def dealt(model: Model, contact: Contact, deadline_s: float = 30.0) -> Iterator[DealerMinter]:
    """Yield a minter that has greeted a dealer in an epoch of its own."""
    stream = DealerTransport(contact.address, contact.credentials, deadline_s)
    with DealerMinter(stream, os.urandom(16), model) as minter:
        minter.open()
        yield minter


# A dealer that lies


def shifted(frame: Frame, model: Model, chosen: slice | list[int], by: int = 1) -> Frame:
    """Return a correction with `by` added to some of its elements."""
    modulus, count = model.groups[frame.group].modulus, frame.rows * frame.columns
    elements = wire.unpack(frame.payload, count, modulus)
    elements[chosen] = (elements[chosen] + by) % modulus
    return replace(frame, payload=wire.pack(elements, modulus))


WRONG: dict[str, Callable[[Frame, Model], Frame]] = {
    "one element": lambda frame, model: shifted(frame, model, [0]),
    "the last element": lambda frame, model: shifted(frame, model, [-1]),
    "half the field away": lambda frame, model: shifted(frame, model, [7], by=2**31),
    "one row": lambda frame, model: shifted(frame, model, slice(frame.columns)),
    "all elements": lambda frame, model: shifted(frame, model, slice(None)),
    "zeros": lambda frame, model: replace(frame, payload=bytes(len(frame.payload))),
}


def refused_at(model: Model, rewrite: Rewrite, group: int, step: int = 0) -> Refused:
    """Return how a dealer is refused whose lie is met at a group of a step; the worker saw nothing of it."""
    parties = Parties(model, rewrite).open()
    decoder = Decoder(model, parties.enclave.products)
    with pytest.raises(Refused) as refused:
        for number in range(step + 1):
            decoder.step(PROMPT if number == 0 else [1])
    said = len(parties.to_worker)
    assert said == 1 + step * len(model.groups) + group
    with pytest.raises(Refused):
        Decoder(model, parties.enclave.products).step(PROMPT)
    assert len(parties.to_worker) == said
    assert parties.minter.ended
    return refused.value


def at(group: int, step: int, change: Callable[[Frame], Sequence[Frame | bytes]]) -> Rewrite:
    """Return a rewriting of the frames of one correction."""

    def rewrite(frame: Frame) -> Sequence[Frame | bytes]:
        hit = (frame.kind, frame.group, frame.step) == (FrameKind.PRODUCT, group, step)
        return change(frame) if hit else [frame]

    return rewrite


@pytest.mark.requirement("RMO-P5")
@pytest.mark.parametrize("lie", WRONG)
@pytest.mark.parametrize(("group", "step"), [(0, 0), (3, 0), (8, 1)])
def test_a_wrong_correction_is_caught_before_any_row_is_masked_with_it(
    model: Model, lie: str, group: int, step: int
) -> None:
    rewrite = at(group, step, lambda frame: [WRONG[lie](frame, model)])
    assert refused_at(model, rewrite, group, step).reason is Refusal.CHECK_FAILED


@pytest.mark.requirement("RMO-P5")
def test_a_wrong_correction_among_those_asked_for_ahead_is_caught(model: Model) -> None:
    parties = Parties(model, at(3, 2, lambda frame: [shifted(frame, model, [0])])).open()
    parties.minter.prefetch(1, 4)
    with pytest.raises(Refused) as refused:
        generate(Decoder(model, parties.enclave.products), PROMPT, 6)
    assert refused.value.reason is Refusal.CHECK_FAILED
    assert "dealer" in refused.value.detail
    last = parties.to_worker[-1]
    assert (last.group, last.step) == (2, 2)


def seeds(change: Callable[[Frame], Frame]) -> Rewrite:
    """Return a rewriting of the seeds."""
    return lambda frame: [change(frame) if frame.kind is FrameKind.SEED else frame]


@pytest.mark.requirement("RMO-P5")
def test_a_correction_for_other_pads_is_caught(model: Model) -> None:
    assert refused_at(model, seeds(lambda frame: replace(frame, payload=bytes(32))), 0).reason is (
        Refusal.CHECK_FAILED
    )


def lower_half(frame: Frame) -> Frame:
    """Return a message with its last column left out."""
    size = frame.element_bytes
    rows = [
        frame.payload[row * frame.columns * size : ((row + 1) * frame.columns - 1) * size]
        for row in range(frame.rows)
    ]
    return replace(frame, columns=frame.columns - 1, payload=b"".join(rows))


LOST: dict[str, Callable[[Frame], Sequence[Frame | bytes]]] = {
    "says nothing": lambda frame: [],
    "refuses": lambda frame: [REFUSAL_BYTES],
    "sends rubbish": lambda frame: [b"\xff" * 80],
    "truncates": lambda frame: [wire.encode(frame)[:-1]],
    "sends another group": lambda frame: [replace(frame, group=frame.group + 1)],
    "sends another step": lambda frame: [replace(frame, step=9)],
    "sends another epoch": lambda frame: [replace(frame, epoch=OTHER_EPOCH)],
    "sends another kind": lambda frame: [replace(frame, kind=FrameKind.MULTIPLY)],
    "sends too few columns": lambda frame: [lower_half(frame)],
    "promises more rows": lambda frame: [replace(frame, total_rows=2**20)],
    "sends a row twice": lambda frame: (
        [replace(frame, rows=1, payload=frame.payload[: frame.columns * frame.element_bytes])] * 2
    ),
    "leaves the field": lambda frame: [replace(frame, payload=b"\xff" * len(frame.payload))],
    "sends a seed again": lambda frame: [Frame(FrameKind.SEED, EPOCH, 0, 0, 0, 0, 0, 0, 0, bytes(32))],
}


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize(("group", "step"), [(0, 0), (5, 0)])
def test_a_dealer_that_breaks_the_format_is_lost(model: Model, fault: str, group: int, step: int) -> None:
    refused = refused_at(model, at(group, step, LOST[fault]), group, step)
    assert refused.reason is Refusal.DEALER_LOST
    assert "dealer" in refused.detail
    assert "\n" not in refused.detail


def test_a_dealer_that_repeats_a_step_is_lost(model: Model) -> None:
    rewrite = seeds(lambda frame: replace(frame, step=0))
    assert refused_at(model, rewrite, 0, step=1).reason is Refusal.DEALER_LOST


@pytest.mark.requirement("RMO-P6")
def test_a_dealer_that_repeats_a_seed_is_lost_even_if_its_corrections_are_right(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "drawn_seed", lambda: bytearray(range(32)))
    refused = refused_at(model, unchanged, 0, step=1)
    assert refused.reason is Refusal.DEALER_LOST
    assert "seed" in refused.detail


@pytest.mark.parametrize(
    ("welcome", "reason"),
    [
        (lambda frame: replace(frame, payload=bytes(32)), Refusal.MODEL_MISMATCH),
        (lambda frame: replace(frame, epoch=OTHER_EPOCH), Refusal.DEALER_LOST),
        (lambda frame: replace(frame, kind=FrameKind.HELLO), Refusal.DEALER_LOST),
        (lambda frame: wire.REFUSAL, Refusal.DEALER_LOST),
    ],
)
def test_another_answer_to_hello_ends_the_epoch(
    model: Model, welcome: Callable[[Frame], Frame], reason: Refusal
) -> None:
    parties = Parties(model, lambda frame: [welcome(frame)])
    assert refusal_of(parties.minter.open) is reason
    assert refusal_of(lambda: parties.minter.take(model.groups[0], 0, 1)) is Refusal.DEALER_LOST
    assert len(parties.to_dealer) == 1


# Seeds


@pytest.mark.requirement("RMO-P4")
def test_every_step_of_every_epoch_has_a_seed_of_its_own(model: Model) -> None:
    sent = []
    for epoch in (EPOCH, OTHER_EPOCH):
        for leases in (Leases(), Leases()):  # a restarted dealer
            parties = Parties(model, leases=leases, epoch=epoch).open()
            parties.minter.prefetch(0, 5)
            generate(Decoder(model, parties.enclave.products), PROMPT, 3)
            sent += [frame.payload for frame in parties.from_dealer if frame.kind is FrameKind.SEED]
    assert len(set(sent)) == len(sent) == 4 * (5 + 1 + 2)


@pytest.mark.requirement("RMO-P4")
def test_a_seed_is_drawn_when_its_batch_is_granted_and_overwritten_when_the_batch_is_sent(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytearray] = []
    original, tapes = subject.drawn_seed, []

    def draw() -> bytearray:
        drawn.append(original())
        return drawn[-1]

    class Kept(SeededTape):
        def __init__(self, seed: bytes | bytearray) -> None:
            super().__init__(seed)
            tapes.append(self)

    monkeypatch.setattr(subject, "drawn_seed", draw)
    monkeypatch.setattr(subject, "SeededTape", Kept)
    monkeypatch.setattr(subject, "BATCH_BYTES", 1)
    peer = Dealer(model, Leases())
    assert len(list(peer.handle(hello(model)))) == 1
    answers = peer.handle(ask(0, 3, 1))
    kinds = []
    for answer in answers:
        kinds.append(wire.decode(answer).kind)
        assert len(drawn) == kinds.count(FrameKind.SEED)
    assert [bytes(seed) for seed in drawn] == [bytes(32)] * 3
    for tape in tapes:
        with pytest.raises(KeyError):
            pad(tape, 0, 0, 1, 1, constants.PRIMES[0])


@pytest.mark.requirement("RMO-P4")
def test_a_grant_that_is_broken_off_leaves_no_seed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytearray] = []
    original = subject.drawn_seed

    def draw() -> bytearray:
        drawn.append(original())
        return drawn[-1]

    monkeypatch.setattr(subject, "drawn_seed", draw)
    peer = Dealer(model, Leases())
    list(peer.handle(hello(model)))
    answers = peer.handle(ask(0, 3, 1))
    next(answers)
    assert len(drawn) == 3
    assert any(any(seed) for seed in drawn)
    del answers
    assert not any(any(seed) for seed in drawn)


@pytest.fixture(scope="module")
def serving(model: Model) -> Iterator[Contact]:
    """Yield how to reach a dealer in this process, over TLS."""
    dealer, enclave = identity.make(), identity.make()
    server = subject.start_server(model, LOOPBACK, Credentials(dealer, enclave.certificate))
    yield Contact(server.address, Credentials(enclave, dealer.certificate))
    server.stop(0)


@pytest.mark.requirement("RMO-P4")
def test_both_ends_accept_the_pinned_certificate_alone(model: Model, serving: Contact) -> None:
    good, stranger = serving.credentials, identity.make()
    with dealt(model, serving):
        pass
    for bad in (
        Credentials(stranger, good.peer),
        Credentials(good.identity, stranger.certificate),
        Credentials(replace(stranger, certificate=good.identity.certificate), good.peer),
    ):
        start = time.monotonic()
        with pytest.raises(Refused) as refused, dealt(model, replace(serving, credentials=bad)):
            pass
        assert refused.value.reason is Refusal.DEALER_LOST
        assert time.monotonic() - start < 10


@pytest.mark.requirement("RMO-P4")
def test_a_stream_without_tls_is_not_answered(model: Model, serving: Contact) -> None:
    plain = RemoteTransport(serving.address, 10.0, subject.METHOD)
    with DealerMinter(plain, EPOCH, model) as minter:
        assert refusal_of(minter.open) is Refusal.DEALER_LOST


# Each epoch once, each step once, nothing kept


@pytest.mark.requirement("RMO-P6")
def test_an_epoch_s_name_is_served_once(model: Model) -> None:
    leases = Leases()
    Parties(model, leases=leases).open()
    again = Parties(model, leases=leases)
    assert refusal_of(again.minter.open) is Refusal.DEALER_LOST
    Parties(model, leases=leases, epoch=OTHER_EPOCH).open()


@pytest.mark.requirement("RMO-P6")
def test_an_epoch_s_name_is_served_once_over_grpc_too(model: Model, serving: Contact) -> None:
    name = os.urandom(16)
    for expected in (None, Refusal.DEALER_LOST):
        with DealerMinter(DealerTransport(serving.address, serving.credentials), name, model) as minter:
            if expected is None:
                minter.open()
            else:
                assert refusal_of(minter.open) is expected


@pytest.mark.requirement("RMO-P6")
def test_a_dealer_that_cannot_remember_another_epoch_serves_no_other() -> None:
    leases = Leases(most=2)
    for number in range(2):
        leases.take(bytes([number]) * 16)
    for number in (0, 2, 3):
        assert refusal_of(partial(leases.take, bytes([number]) * 16)) is Refusal.DEALER_LOST


@pytest.mark.requirement("RMO-P6")
@pytest.mark.parametrize(("group", "step", "rows"), [(0, 2, 1), (0, 1, 1), (1, 1, 1), (1, 2, 2), (1, 2, 1)])
def test_a_step_of_a_group_is_taken_once(model: Model, group: int, step: int, rows: int) -> None:
    parties = Parties(model).open()
    parties.minter.prefetch(0, 4)
    parties.minter.take(model.groups[0], 2, 1)
    action = partial(parties.minter.take, model.groups[group], step, rows)
    if (group, step, rows) == (1, 2, 1):
        action()
        return
    assert refusal_of(action) is Refusal.PAD_REUSED
    assert refusal_of(lambda: parties.minter.take(model.groups[2], 3, 1)) is Refusal.DEALER_LOST


@pytest.mark.requirement("RMO-P6")
def test_what_is_passed_over_or_left_at_the_end_is_overwritten(model: Model) -> None:
    parties = Parties(model).open()
    parties.minter.prefetch(0, 4)
    first, last = model.groups[0], model.groups[-1]
    parties.minter.take(last, 1, 1)
    held = dict(parties.minter._ready)
    assert set(held) == {(group.number, 1) for group in model.groups[:-1]}
    parties.minter.take(first, 3, 1)
    assert not any(matrix.any() for elements in held.values() for matrix in elements)
    assert parties.minter._ready == {}
    parties.minter.take(model.groups[2], 3, 1)
    ((_, left),) = parties.minter._ready.items()
    parties.minter.close()
    assert not any(matrix.any() for matrix in left)
    assert parties.minter._ready == {}


@pytest.mark.requirement("RMO-P6")
def test_rows_granted_and_not_taken_are_overwritten(model: Model) -> None:
    parties = Parties(model).open()
    parties.minter.take(model.groups[0], 0, 3)
    pads, correction = parties.minter.take(model.groups[1], 0, 2)
    assert (len(pads), len(correction)) == (2, 2)
    whole = torch.as_strided(pads, (3, pads.shape[1]), pads.stride())
    assert whole[:2].any() and not whole[2:].any()


@pytest.mark.requirement("RMO-P6")
def test_nothing_of_a_grant_is_written_to_a_file(model: Model) -> None:
    with writes() as opened:
        parties = Parties(model).open()
        parties.minter.prefetch(1, 3)
        generate(Decoder(model, parties.enclave.products), PROMPT, 3)
        parties.minter.close()
    assert opened == []
    with writes() as opened:
        Path(os.devnull).write_bytes(b"seen")
    assert opened == [os.devnull]


WATCHERS: list[list[str]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and WATCHERS:
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            WATCHERS[-1].append(str(path))


@contextmanager
def writes() -> Iterator[list[str]]:
    """Yield the list of files that this process opens for writing inside the block."""
    if not WATCHERS:
        sys.addaudithook(_watch)
    found = list[str]()
    WATCHERS.append(found)
    try:
        yield found
    finally:
        WATCHERS.append([])


# A dealer that is asked for what it does not grant


def hello(model: Model, epoch: bytes = EPOCH) -> bytes:
    """Return a HELLO."""
    return wire.encode(Frame(FrameKind.HELLO, epoch, *subject.ZEROS, model.digest))


def ask(first: int, steps: int, rows: int, epoch: bytes = EPOCH) -> bytes:
    """Return an ASK."""
    amount = steps.to_bytes(4, "little") + rows.to_bytes(4, "little")
    return wire.encode(Frame(FrameKind.ASK, epoch, 0, first, 0, 0, 0, 0, 0, amount))


NOT_GRANTED = {
    "an ASK before HELLO": lambda model: [ask(0, 1, 1)],
    "two HELLOs": lambda model: [hello(model), hello(model)],
    "no steps": lambda model: [hello(model), ask(0, 0, 1)],
    "no rows": lambda model: [hello(model), ask(0, 1, 0)],
    "a row too many": lambda model: [hello(model), ask(0, 1, constants.GRANT_LIMIT + 1)],
    "too many steps": lambda model: [hello(model), ask(0, constants.GRANT_LIMIT // 2 + 1, 2)],
    "a step twice": lambda model: [hello(model), ask(4, 1, 1), ask(4, 1, 1)],
    "a step of a range again": lambda model: [hello(model), ask(4, 3, 1), ask(6, 1, 1)],
    "an earlier step": lambda model: [hello(model), ask(4, 1, 1), ask(3, 1, 1)],
    "the step of public matrices": lambda model: [hello(model), ask(2**32 - 1, 1, 1)],
    "steps beyond 32 bits": lambda model: [hello(model), ask(2**32 - 2, 2, 1)],
    "another epoch": lambda model: [hello(model), ask(0, 1, 1, OTHER_EPOCH)],
    "rubbish": lambda model: [hello(model), b"rubbish"],
    "rows to multiply": lambda model: [
        hello(model),
        wire.encode(Frame(FrameKind.MULTIPLY, EPOCH, 0, 0, 0, 1, 1, 24, 6, bytes(144))),
    ],
}


@pytest.mark.requirement("WIR-P11")
@pytest.mark.parametrize("nonsense", NOT_GRANTED)
def test_a_dealer_answers_what_it_does_not_grant_with_the_one_refusal_and_then_nothing(
    model: Model, nonsense: str
) -> None:
    peer = Dealer(model, Leases())
    *before, last = NOT_GRANTED[nonsense](model)
    for data in before:
        assert REFUSAL_BYTES not in list(peer.handle(data))
    assert list(peer.handle(last)) == [REFUSAL_BYTES]
    assert peer.ended
    assert list(peer.handle(hello(model))) == []


@pytest.mark.requirement("WIR-P11")
def test_a_grant_is_a_seed_and_then_each_group_s_correction_for_every_step_in_order(model: Model) -> None:
    peer = Dealer(model, Leases())
    list(peer.handle(hello(model)))
    for first, steps, rows in ((3, 4, 2), (7, 1, 1), (9, 1, constants.GRANT_LIMIT)):
        frames = [wire.decode(data) for data in peer.handle(ask(first, steps, rows))]
        assert REFUSAL_BYTES not in map(wire.encode, frames)
        seen = [(frame.kind, frame.step, frame.group) for frame in frames if frame.first_row == 0]
        assert seen == [
            about
            for step in range(first, first + steps)
            for about in (
                (FrameKind.SEED, step, 0),
                *((FrameKind.PRODUCT, step, group.number) for group in model.groups),
            )
        ]


def test_the_client_asks_for_nothing_that_a_dealer_does_not_grant(model: Model) -> None:
    parties = Parties(model).open()
    too_many = constants.GRANT_LIMIT + 1
    assert refusal_of(lambda: parties.minter.take(model.groups[0], 0, too_many)) is Refusal.CONTEXT_EXCEEDED
    assert parties.asked == []


# Processes and time


def waited(action: Callable[[], object]) -> float:
    """Return the seconds until an action is refused with DEALER_LOST."""
    start = time.monotonic()
    assert refusal_of(action) is Refusal.DEALER_LOST
    return time.monotonic() - start


def test_a_killed_dealer_is_lost_at_once(model: Model, imported: Path) -> None:
    with start_dealer(imported / INTEGER_FILE) as contact, dealt(model, contact) as minter:
        minter.take(model.groups[0], 0, 1)
        (process,) = children("veil_optimized.dealer")
        os.kill(int(process.name), signal.SIGKILL)
        assert waited(lambda: minter.take(model.groups[0], 1, 1)) < 10


def test_a_dealer_that_hangs_is_lost_at_the_deadline(model: Model) -> None:
    dealer, enclave = identity.make(), identity.make()
    credentials = Credentials(dealer, enclave.certificate)
    hang = threading.Event()

    def silent(requests: Iterator[bytes]) -> Iterator[bytes]:
        for _ in requests:
            hang.wait(20)
            yield from ()

    server = Server(silent, LOOPBACK, subject.METHOD, credentials.of_server())
    contact = Contact(server.address, Credentials(enclave, dealer.certificate))
    stream = DealerTransport(contact.address, contact.credentials, 0.5)
    with DealerMinter(stream, EPOCH, model) as minter:
        assert 0.4 < waited(minter.open) < 5
    hang.set()
    server.stop(0)


def test_a_dealer_process_without_a_model_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught, start_dealer(tmp_path / "missing"):
        pass
    assert caught.value.reason is Refusal.DEALER_LOST
    assert "MODEL_MALFORMED" in caught.value.detail
    assert "\n" not in caught.value.detail


# Identities


def test_an_identity_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    made = identity.make()
    secret, public = identity.write(made, tmp_path / "new")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert identity.load(secret) == made
    assert identity.load_certificate(public) == made.certificate
    assert b"PRIVATE" not in public.read_bytes()
    assert "PRIVATE" not in repr(made) + repr(Credentials(made, made.certificate))
    assert refusal_of(lambda: identity.write(made, tmp_path / "new")) is Refusal.MODE_UNAVAILABLE


def test_an_identity_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    made, other = identity.make(), identity.make()
    path = tmp_path / "identity.pem"
    path.touch(0o600)
    for content in (b"", b"rubbish", made.certificate, made.key, made.key + other.certificate):
        path.write_bytes(content)
        assert refusal_of(lambda: identity.load(path)) is Refusal.MODE_UNAVAILABLE
    for content in (b"", b"rubbish", made.key, made.certificate + other.certificate):
        path.write_bytes(content)
        assert refusal_of(lambda: identity.load_certificate(path)) is Refusal.MODE_UNAVAILABLE
    path.write_bytes(made.pem)
    assert identity.load(path) == made
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        assert refusal_of(lambda: identity.load(path)) is Refusal.MODE_UNAVAILABLE


# Who learns what


def ran(model: Model, prompt: list[int], epoch: bytes = EPOCH) -> tuple[Parties, list[torch.Tensor]]:
    """Return the parties of one forward call, and the rows that were masked in it."""
    parties, rows = Parties(model, epoch=epoch).open(), []

    def products(group: object, inputs: torch.Tensor) -> torch.Tensor:
        rows.append(inputs.clone())
        return parties.enclave.products(group, inputs)  # type: ignore[arg-type]

    Decoder(model, products).step(prompt)
    return parties, rows


def masked_rows(parties: Parties, model: Model) -> list[torch.Tensor]:
    """Return what the worker got, group after group [rows, inner]."""
    return [
        torch.from_numpy(
            wire.unpack(frame.payload, frame.rows * frame.columns, model.groups[frame.group].modulus)
        ).reshape(frame.rows, frame.columns)
        for frame in parties.to_worker
        if frame.kind is FrameKind.MULTIPLY
    ]


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_sees_the_same_bytes_whatever_the_prompt(model: Model) -> None:
    views = [ran(model, prompt)[0].to_dealer for prompt in (PROMPT, PROMPT[::-1], [9] * 5)]
    assert views[0] == views[1] == views[2]
    assert len(views[0]) == 2


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_and_a_worker_together_read_every_row_and_two_workers_do_not(model: Model) -> None:
    parties, rows = ran(model, PROMPT)
    (seed,) = [frame.payload for frame in parties.from_dealer if frame.kind is FrameKind.SEED]
    other, _ = ran(model, PROMPT, OTHER_EPOCH)
    seen, elsewhere = masked_rows(parties, model), masked_rows(other, model)
    assert len(seen) == len(elsewhere) == len(model.groups)
    for group, plain, first, second in zip(model.groups, rows, seen, elsewhere, strict=True):
        pads = pad(SeededTape(seed), group.number, 0, len(plain), plain.shape[1], group.modulus)
        assert torch.equal((first - pads).remainder(group.modulus), plain.remainder(group.modulus))
        assert not torch.equal(first, second)


# The command line


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit status of a command in this process, and its errors."""
    capsys.readouterr()
    try:
        status = commands.run(arguments)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        status = ended.code
    return status, capsys.readouterr().err


DEALT = ("--minter", "dealer")
BAD: list[tuple[tuple[str, ...], str]] = [
    (("generate", "w1", *DEALT, "--profile", "rank", "--m-over-d", "1/2"), "--profile rank"),
    (("generate", "w1", *DEALT, "--profile", "lwe"), "--profile lwe"),
    (("generate", "w1", *DEALT, "--mode", "plain"), "--mode plain"),
    (("generate", "w1", "--dealer", "127.0.0.1:1"), "--minter local"),
    (("generate", "w1", "--peer", "nowhere"), "--minter local"),
    (("generate", "w1", *DEALT, "--identity", "nowhere"), "--dealer"),
    (("generate", "w1", *DEALT, "--dealer", "127.0.0.1:1"), "--identity"),
    (("generate", "w1", *DEALT, "--dealer", "127.0.0.1:1", "--identity", "nowhere"), "--peer"),
    (("enclave", *DEALT, "--worker", "127.0.0.1:1"), "--dealer"),
    (("enclave", *DEALT, "--worker", "1:1", "--dealer", "1:1", "--identity", "no", "--peer", "no"), "no:"),
    (("dealer", "--identity", "nowhere", "--peer", "nowhere"), "nowhere"),
    (("dealer", "--identity", "SECRET", "--peer", "SECRET", "--address", "nonsense"), "--address"),
    (("dealer", "--identity", "OPEN", "--peer", "OPEN"), "chmod 600"),
    (("dealer", "--identity", "JUNK", "--peer", "CERTIFICATE"), "veil identity"),
    (("dealer", "--identity", "SECRET", "--peer", "JUNK"), "veil identity"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD)
def test_bad_options_of_a_dealer_give_one_line_that_names_them_and_status_2(
    imported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    named: str,
) -> None:
    made = identity.make()
    secret, public = identity.write(made, tmp_path / "made")
    loose = tmp_path / "open.pem"
    loose.write_bytes(made.pem)
    loose.chmod(0o644)
    (tmp_path / "junk").touch(0o600)
    files = {
        "JUNK": str(tmp_path / "junk"),
        "SECRET": str(secret),
        "CERTIFICATE": str(public),
        "OPEN": str(loose),
    }
    given = [files.get(word, word) for word in arguments]
    status, errors = said(capsys, *given, "--model", str(imported))
    problems = [line for line in errors.splitlines() if "not_private" not in line]
    assert (status, len(problems)) == (2, 1)
    assert problems[0].startswith("veil: ")
    assert named in problems[0]


def test_veil_identity_makes_two_new_files_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "identity", "--out", str(tmp_path))[0] == 0
    assert identity.load(tmp_path / "identity.pem").certificate == (
        identity.load_certificate(tmp_path / "certificate.pem")
    )
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, errors = said(capsys, "identity", "--out", str(tmp_path))
    assert (status, errors.count("\n")) == (2, 1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_generate_with_a_dealer_of_its_own_equals_plain(
    imported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("generate", "w3 w1 w4", "--model", str(imported), "--new-tokens", "4")
    outputs = []
    for more in ((*DEALT, "--transcript", str(tmp_path / "seen")), ("--mode", "plain")):
        assert commands.run([*options, *more]) == 0
        outputs.append(capfd.readouterr())
    assert outputs[0].out == outputs[1].out
    assert len(outputs[0].out.split()) == 4
    assert "not_private" not in outputs[0].err
