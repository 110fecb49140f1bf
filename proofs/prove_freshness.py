"""No mask serves two plaintexts, old transcripts stay closed, and workers in league see what one worker sees.

Two explorations of crashes, lost streams, retries, restarts and rolled-back disks: one of a model with all
reachable states, one of the running enclave and dealer with all short orders of events. Then games on small
fields.
"""

import gc
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Final, NamedTuple, cast

import pytest
import torch

from veil_optimized import dealer, wire
from veil_optimized import remo as fast
from veil_optimized.enclave import Enclave
from veil_optimized.model import Asking, Model
from veil_optimized.session import Channel
from veil_optimized.transport import StreamLost
from veil_optimized.worker import Worker, place
from veil_reference import remo, tape
from veil_spec import constants
from veil_spec.refusals import Refused
from veil_spec.types import Domain, FrameKind, Rows

# RMO-G9, a model: all reachable states

GROUPS: Final = 2
STEPS: Final = 2
RETRIES: Final = 1
Seed = tuple[int, int]
"""(which draw of the operating system's generator, how often it was ratcheted)."""
Address = tuple[Seed, int, int]
"""(seed of the step, group, step): what a mask is a function of."""
Burnt = tuple[tuple[int, int], ...]
Stored = tuple[int, int, Burnt] | None
"""What the disk holds of an epoch: (draw, steps begun, burnt); a sound enclave stores nothing."""


@dataclass(frozen=True, slots=True)
class Design:
    """A machine to explore; the defaults are the specified one."""

    dealer: bool = False
    burns: bool = True
    resends: bool = True
    stores: bool = False
    grants_again: bool = False
    clones: bool = False
    epochs: int = 2


class Message(NamedTuple):
    """A masked row that waits for its answer."""

    address: Address
    plaintext: int
    sent: bool


class Alive(NamedTuple):
    """The enclave's memory."""

    draw: int
    burnt: Burnt
    waiting: Message | None
    retries: int
    granted: tuple[tuple[int, int], ...]


class World(NamedTuple):
    """Everything: memory, disk and its snapshots, the generator, what a dealer keeps, the worker's record."""

    enclave: Alive | None
    disk: Stored
    snapshots: frozenset[Stored]
    draws: int
    epochs: int
    kept: tuple[tuple[int, int], ...]
    frozen: Alive | None
    seen: frozenset[tuple[Address, int]]


START: Final = World(None, None, frozenset([None]), 0, 0, (), None, frozenset())


@cache
def burnt_after(burnt: Burnt, group: int, step: int) -> Burnt | None:
    """Return the steps burnt last after one more, by the reference's Addresses, or None where it refuses."""
    used = remo.Addresses()
    for pair in burnt:
        used.burn(*pair)
    try:
        used.burn(group, step)
    except Refused:
        return None
    return tuple(sorted({**dict(burnt), group: step}.items()))


def begun(world: World, design: Design) -> Iterator[World]:
    """Yield a start of the enclave: a fresh seed, unless the design takes up what the disk holds."""
    if world.epochs < design.epochs:
        draw, burnt = (world.draws, ()) if world.disk is None else (world.disk[0], world.disk[2])
        memory = Alive(draw, burnt, None, RETRIES, ())
        fresh = int(world.disk is None)
        yield world._replace(enclave=memory, draws=world.draws + fresh, epochs=world.epochs + 1)


def masked(world: World, memory: Alive, design: Design) -> Iterator[World]:
    """Yield a row masked at any address that the design lets a caller name, of either plaintext."""
    for group, step, plaintext in product(range(GROUPS), range(STEPS), (0, 1)):
        burnt = burnt_after(memory.burnt, group, step)
        if burnt is None:
            if design.burns:
                continue
            burnt = memory.burnt
        granted = dict(memory.granted)
        if design.dealer and step not in granted:
            continue
        seed = (granted[step], 0) if design.dealer else (memory.draw, step)
        message = Message((seed, group, step), plaintext, False)
        kept = (memory.draw, step, burnt) if design.stores else None
        after = memory._replace(burnt=burnt, waiting=message)
        yield world._replace(enclave=after, disk=kept, snapshots=world.snapshots | {kept})


def carried(world: World, memory: Alive, message: Message, design: Design) -> Iterator[World]:
    """Yield what may happen to a message: it arrives, it is answered, or its stream breaks either way."""
    if not message.sent:
        seen = world.seen | {(message.address, message.plaintext)}
        yield world._replace(enclave=memory._replace(waiting=message._replace(sent=True)), seen=seen)
    else:
        yield world._replace(enclave=memory._replace(waiting=None))
    if memory.retries:
        texts = (message.plaintext,) if design.resends else (0, 1)
        for text in texts:
            again = message._replace(plaintext=text, sent=False)
            yield world._replace(enclave=memory._replace(waiting=again, retries=memory.retries - 1))
    else:
        yield world._replace(enclave=None)


def dealt(world: World, memory: Alive, design: Design) -> Iterator[World]:
    """Yield a step granted by the dealer to an enclave that gets the seed, or loses the stream."""
    for step in range(STEPS):
        if any(step <= had for had, _ in memory.granted):
            continue
        kept = dict(world.kept)
        seed = kept.get(step, world.draws)
        if design.grants_again:
            kept[step] = seed
        after = world._replace(draws=max(world.draws, seed + 1), kept=tuple(sorted(kept.items())))
        yield after._replace(enclave=memory._replace(granted=(*memory.granted, (step, seed))))
        yield after._replace(enclave=None)


def successors(world: World, design: Design) -> Iterator[World]:
    """Yield every world that one event leads to."""
    for old in world.snapshots:
        if old != world.disk:
            yield world._replace(disk=old)
    memory = world.enclave
    if memory is None:
        yield from begun(world, design)
        if design.clones and world.frozen is not None:
            yield world._replace(enclave=world.frozen)
        return
    yield world._replace(enclave=None)  # a crash, or the end of a dealer's stream
    if design.clones and world.frozen is None:
        yield world._replace(frozen=memory)
    if memory.waiting is not None:
        yield from carried(world, memory, memory.waiting, design)
    else:
        yield from masked(world, memory, design)
        if design.dealer:
            yield from dealt(world, memory, design)


def reuses(world: World) -> bool:
    """Return whether the worker has seen one address with two plaintexts."""
    return len({address for address, _ in world.seen}) < len(world.seen)


def explored(design: Design) -> tuple[int, int, bool]:
    """Return (states, events, whether an address was reused), breadth first, to the end or a reuse."""
    known, waiting, events = {START}, deque([START]), 0
    while waiting:
        for after in successors(waiting.popleft(), design):
            events += 1
            if after not in known:
                if reuses(after):
                    return len(known), events, True
                known.add(after)
                waiting.append(after)
    return len(known), events, False


@pytest.mark.requirement("RMO-G9")
@pytest.mark.parametrize(
    ("design", "states"), [(Design(), 78885), (Design(dealer=True), 113401)], ids=["local", "dealer"]
)
def test_no_reachable_state_holds_one_address_with_two_plaintexts(design: Design, states: int) -> None:
    """Whatever crashes, breaks, retries, restarts, rolls back or is minted ahead, and in whatever order.

    Given: two groups, two steps, two plaintexts that the adversary picks for every call, also while pads wait
    that were minted ahead; calls name any step in any order; a stream breaks before or after a message
    arrives; one resumption; crashes of the enclave at every point; two epochs; every snapshot that the disk
    ever held; dealer: restarts, grants lost on the way (by machine: all reachable states, on the reference's
    Addresses). Any numbers: seeds of different draws differ, those of one epoch differ by step, Addresses
    lets a step pass once, and a retry is the message that waits (argued, by induction).
    Then: one address has one plaintext.
    Assuming: TAP-A2, RMO-A1.
    Proves: RMO-G9.
    Pins: veil_reference.remo.Addresses.burn f8f8b93e.
    """
    found, _, reused = explored(design)
    assert (found, reused) == (states, False)


BROKEN: Final = {
    "stores seed and step, and goes on from a disk that can be rolled back": Design(stores=True),
    "masks again on a retry, with what is then the plaintext": Design(resends=False),
    "keeps no addresses": Design(burns=False),
    "has a dealer that grants the seeds of its last life again": Design(dealer=True, grants_again=True),
    "runs again from a copy of its memory, against the assumption": Design(clones=True),
}


@pytest.mark.parametrize("design", BROKEN.values(), ids=BROKEN.keys())
def test_negative_control_each_broken_machine_reuses_an_address(design: Design) -> None:
    """The same exploration finds the reuse of every machine that breaks one rule.

    Controls: RMO-G9.
    """
    assert explored(design)[2]


# RMO-G9, the running code: all short orders of events


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear group of two inputs and two outputs."""

    number: int
    weights: torch.Tensor = field(default_factory=lambda: torch.tensor([[3, -1], [2, 5]], dtype=torch.int16))
    modulus: int = constants.PRIMES[-1]


@dataclass(frozen=True, slots=True)
class Layers:
    """What enclave, worker and dealer read of a model."""

    groups: tuple[Layer, ...] = (Layer(0), Layer(1))
    digest: bytes = bytes(32)


@dataclass(slots=True)
class Wire:
    """A transport to a worker in this process; a stream can break before or after the next message."""

    model: Layers
    frames: list[bytes]
    breaks: str = ""
    waiting: deque[bytes] = field(default_factory=deque)
    worker: Worker | None = None

    def send(self, data: bytes) -> None:
        """Record what reaches the worker, unless the stream breaks first."""
        if self.breaks == "before" and wire.decode(data).kind is FrameKind.MULTIPLY:
            self.breaks = ""
            raise StreamLost("broken before the message")
        self.frames.append(data)
        self.worker = self.worker or Worker(place(self.model, "cpu"), self.model.digest)
        self.waiting.extend(self.worker.handle(data))

    def receive(self) -> bytes:
        """Return the next answer, unless the stream breaks first."""
        if self.breaks == "after" and wire.decode(self.waiting[0]).kind is FrameKind.PRODUCT:
            self.breaks = ""
            raise StreamLost("broken after the message")
        return self.waiting.popleft()

    def reopen(self) -> None:
        """Meet a worker that remembers nothing."""
        self.worker = None
        self.waiting.clear()

    def close(self) -> None:
        """Return nothing."""


@dataclass(slots=True)
class Desk:
    """A stream to a dealer in this process; a dealer that started again knows no stream."""

    dealer: dealer.Dealer
    waiting: deque[bytes] = field(default_factory=deque)
    gone: bool = False

    def send(self, data: bytes) -> None:
        """Hand a frame to the dealer. Refuses: WORKER_LOST."""
        if self.gone:
            raise StreamLost("the dealer is gone")
        self.waiting.extend(self.dealer.handle(data))

    def receive(self) -> bytes:
        """Return the next answer. Refuses: WORKER_LOST."""
        if self.gone or not self.waiting:
            raise StreamLost("the dealer is gone")
        return self.waiting.popleft()

    def close(self) -> None:
        """Return nothing."""


ROWS: Final = {"x": [[1, 2]], "y": [[-7, 9]], "prompt": [[1, 2], [32767, -32767]]}
"""The plaintexts of a call: one row, another, or a prompt of two, the first of which comes again."""
Place = tuple[int, int, int]
"""(life of the enclave, group, step)."""


class House:
    """Enclave, worker, dealer and disk under one adversary.

    `told` is what was to be masked where, `frames` what was sent in each life of the enclave.
    """

    def __init__(self, dealt: bool) -> None:
        self.model, self.told = Layers(), list[tuple[Place, Rows]]()
        self.frames: list[list[bytes]] = []
        self.dealt, self.leases, self.names = dealt, dealer.Leases(), list[bytes]()
        self.restart()

    def restart(self, name: bytes | None = None) -> None:
        """Start an enclave in a new epoch, or under a name that a rolled-back disk still holds."""
        self.names.append(name or os.urandom(constants.EPOCH_BYTES))
        self.frames.append([])
        self.wire, self.desk = Wire(self.model, self.frames[-1]), Desk(dealer.Dealer(self.model, self.leases))
        self.minter = dealer.DealerMinter(self.desk, self.names[-1], self.model) if self.dealt else None
        channel = Channel(self.wire, self.names[-1])
        self.enclave = Enclave(cast(Model, self.model), channel, minter=self.minter, witness=self.note)
        if self.minter is not None:
            self.minter.open()
        self.enclave.open()

    def note(self, group: int, step: int, rows: torch.Tensor) -> None:
        """Keep what is about to be masked."""
        self.told.append(((len(self.frames) - 1, group, step), rows.tolist()))

    def does(self, event: str) -> None:
        """Let one event happen; what the code refuses has then happened too."""
        try:
            self._does(event)
        except Refused:
            self.restart()

    def _does(self, event: str) -> None:
        if event in ROWS:
            for layer in self.model.groups:
                self.call(layer, ROWS[event])
        elif event == "in turns":
            self.call_in_turns(ROWS["prompt"])
        elif event == "half a call":
            self.call(self.model.groups[0], ROWS["x"])
        elif event in ("before", "after"):
            self.wire.breaks = event
        elif event == "ahead":
            self.prepare(self.enclave.next_step)
        elif event == "expected":
            self.enclave.expect(self.enclave.next_step, 2)
        elif event == "rewind":
            self.enclave._calls.clear()
        elif event == "dealer restarts":
            self.leases, self.desk.gone = dealer.Leases(), True
        elif event == "rollback":
            self.restart(self.names[0] if self.dealt else None)
        else:
            self.restart()

    def prepare(self, step: int) -> None:
        """Mint two steps ahead, here or at the dealer."""
        if self.minter is None:
            self.enclave.mint_ahead(step, 2)
        else:
            self.minter.prefetch(step, 2)

    def call(self, layer: Layer, rows: Sequence[Sequence[int]]) -> None:
        """Return nothing once the worker's product is right."""
        given = torch.tensor(rows)
        expected = given @ layer.weights.to(torch.int64).T
        assert torch.equal(self.enclave.products(layer, given), expected)  # type: ignore[arg-type]

    def call_in_turns(self, rows: Sequence[Sequence[int]]) -> None:
        """Return nothing once the products of two rows that take turns are right."""

        def part(row: torch.Tensor) -> Asking[torch.Tensor]:
            for layer in self.model.groups:
                products = yield layer, row  # type: ignore[misc]
                assert torch.equal(products, row @ layer.weights.to(torch.int64).T)
            return row

        assert self.enclave.together is not None
        self.enclave.together([part(row) for row in torch.split(torch.tensor(rows), 1)], len(rows))

    def sent(self) -> dict[Place, dict[int, set[bytes]]]:
        """Return the different payloads that reached the worker at each place, by their first row."""
        found: dict[Place, dict[int, set[bytes]]] = {}
        for life, frames in enumerate(self.frames):
            for frame in map(wire.decode, frames):
                if frame.kind is FrameKind.MULTIPLY:
                    place = found.setdefault((life, frame.group, frame.step), {})
                    place.setdefault(frame.first_row, set()).add(frame.payload)
        return found

    def reused(self) -> bool:
        """Return whether some place carried two payloads, or two rows went under one mask.

        Masks are recomputed: what was sent minus what was masked there.
        """
        sent, owners = self.sent(), dict[tuple[int, ...], set[tuple[Place, int]]]()
        for told, rows in self.told:
            modulus = self.model.groups[told[1]].modulus
            for first, payload in ((n, each) for n, some in sent.get(told, {}).items() for each in some):
                elements = wire.unpack(payload, len(payload) // 6, modulus).reshape(-1, 2).tolist()
                for number, (masked, row) in enumerate(zip(elements, rows[first:], strict=False), first):
                    mask = tuple((c - x) % modulus for c, x in zip(masked, row, strict=True))
                    owners.setdefault(mask, set()).add((told, number))
        several = any(len(some) > 1 for place in sent.values() for some in place.values())
        return several or any(len(o) > 1 for o in owners.values())


EVENTS: Final = (
    "x",
    "prompt",
    "in turns",
    "half a call",
    "before",
    "after",
    "ahead",
    "expected",
    "rewind",
    "crash",
)
DEALER_EVENTS: Final = (*EVENTS[:-1], "dealer restarts", "rollback")


def orders(dealt: bool, length: int) -> Iterator[tuple[House, tuple[str, ...]]]:
    """Yield a house after each order of so many events, ended by a call of another row."""
    for events in product(DEALER_EVENTS if dealt else EVENTS, repeat=length):
        house = House(dealt)
        for event in (*events, "y"):
            house.does(event)
        yield house, events


LENGTH: Final = int(os.environ.get("VEIL_FRESHNESS_EVENTS", "2"))


@pytest.mark.requirement("RMO-G9")
@pytest.mark.parametrize("dealt", [False, True], ids=["local", "dealer"])
def test_the_running_enclave_masks_no_two_rows_alike(dealt: bool) -> None:
    """Every order of two events leaves a transcript without a reused mask, and every product is right.

    Given: the optimized enclave, channel, worker, minters and dealer; calls of one row and of a prompt, at
    once and by rows that take turns, a call that only half of the groups answer, streams that break before
    and after a message, pads minted ahead at once and in between, counters set back, crashes, dealers that
    start again, and an epoch's name from a rolled-back disk
    (by machine: all orders of the stated length; VEIL_FRESHNESS_EVENTS makes them longer).
    Then: the machine explored above is the one that runs; masks are recomputed from what was sent.
    Assuming: TAP-A2, RMO-A1.
    Proves: RMO-G9.
    """
    count = 0
    for house, events in orders(dealt, LENGTH):
        assert not house.reused(), events
        count += len(house.sent()) > 0
    assert 2 * count > len(DEALER_EVENTS if dealt else EVENTS) ** LENGTH


def test_negative_control_the_same_orders_find_a_seed_that_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A generator that repeats itself, and pads without addresses and without erasure, are found.

    Controls: RMO-G9.
    """
    with monkeypatch.context() as patched:
        drawn = iter(range(2**32))
        patched.setattr(os, "urandom", lambda n: b"s" * n if n == 32 else next(drawn).to_bytes(n, "little"))
        assert any(house.reused() for house, _ in orders(False, 2))
        assert any(house.reused() for house, _ in orders(True, 2))
    with monkeypatch.context() as patched:
        patched.setattr(fast.Addresses, "burn", lambda self, group, step: None)
        patched.setattr(fast.Ratchet, "forget", lambda self, steps: None)
        assert any(house.reused() for house, _ in orders(False, 2))


# RMO-G8: a later seed opens no earlier row

Generator = tuple[tuple[int, int], ...]
"""A small generator: (seed of the next step, pad) of each seed."""
SMALL: Final = 3
Chain = tuple[int, ...]
"""Pads of steps 0 to t - 1, then the seed of step t."""


def chain(generator: Generator, seed: int, done: Sequence[int], length: int) -> Chain:
    """Return the pads `done`, those of a seed up to `length` steps, and the seed that is left."""
    pads = list(done)
    while len(pads) < length:
        seed, drawn = generator[seed]
        pads.append(drawn)
    return (*pads, seed)


def hybrid(generator: Generator, ideal: int, length: int) -> Counter[Chain]:
    """Return the law, out of 3**4, of the chain whose first `ideal` steps are drawn uniformly."""
    weight = SMALL ** (3 - ideal)
    laws: Counter[Chain] = Counter()
    for *done, seed in product(range(SMALL), repeat=ideal + 1):
        laws[chain(generator, seed, done, length)] += weight
    return laws


def reduced(generator: Generator, ideal: int, length: int, uniform: bool) -> Counter[Chain]:
    """Return the law of the chain that a distinguisher builds around one challenge (next seed, pad).

    It draws the pads before the challenge itself and ratchets on from the challenge.
    """
    challenges = list(product(range(SMALL), repeat=2)) if uniform else list(generator)
    weight = SMALL ** (4 - ideal) // len(challenges)
    laws: Counter[Chain] = Counter()
    for done in product(range(SMALL), repeat=ideal):
        for seed, drawn in challenges:
            laws[chain(generator, seed, (*done, drawn), length)] += weight
    return laws


@pytest.mark.requirement("RMO-G8")
def test_telling_the_chain_from_uniform_is_telling_one_of_its_links() -> None:
    """Neighbouring games differ by one challenge: the pad and the next seed of one step, or uniform ones.

    Given: all 729 generators of three seeds, chains of 1 to 3 steps (by machine: complete; equal laws, so for
    every distinguisher). In general t hops, each at most the PRF advantage against ChaCha20 and SHA-256
    (argued).
    Then: the advantage against t steps is at most t times that against one.
    Assuming: TAP-A1.
    Proves: RMO-G8.
    Pins: veil_reference.remo.ratchet 4e9a1e2e.
    """
    for generator in product(product(range(SMALL), range(SMALL)), repeat=SMALL):
        for length in (1, 2, 3):
            for ideal in range(length):
                assert hybrid(generator, ideal, length) == reduced(generator, ideal, length, uniform=False)
                assert hybrid(generator, ideal + 1, length) == reduced(generator, ideal, length, uniform=True)


def what_is_seen(laws: Counter[Chain], rows: Sequence[int]) -> Counter[Chain]:
    """Return the law of (masked rows of the steps so far, the seed in memory)."""
    seen: Counter[Chain] = Counter()
    for (*pads, seed), count in laws.items():
        seen[*((x + r) % SMALL for x, r in zip(rows, pads, strict=True)), seed] += count
    return seen


def closed(laws: Counter[Chain], length: int) -> bool:
    """Return whether masked rows and the seed in memory have one law for all rows."""
    plain = list(product(range(SMALL), repeat=length))
    return all(what_is_seen(laws, rows) == what_is_seen(laws, plain[0]) for rows in plain)


@pytest.mark.requirement("RMO-G8")
def test_in_the_last_game_the_seed_in_memory_says_nothing_about_the_rows_before_it() -> None:
    """With all links uniform, masked rows and the current seed are independent of the plaintext.

    Given: p = 3, 1 to 3 steps, all plaintexts (by machine: complete).
    Then: together with the hops above, a transcript stays closed when a later seed leaks.
    Assuming: TAP-A1, RMO-P3.
    Proves: RMO-G8.
    """
    some = ((1, 0), (2, 1), (0, 2))
    assert all(closed(hybrid(some, length, length), length) for length in (1, 2, 3))
    assert not any(closed(hybrid(some, 0, length), length) for length in (1, 2, 3))


def opened(back: Callable[[bytes], bytes] | None, forward: Callable[[bytes], bytes]) -> bool:
    """Return whether the seed of step 2 opens a row of step 1: by a step back, or by those ahead."""
    modulus, row, first = constants.PRIMES[0], [[5, -32767]], bytes(range(32))
    second = forward(first)
    third = forward(second)
    masked = remo.mask(row, remo.pad(tape.SeededTape(second), 3, 1, 1, 2, modulus), modulus)
    tries = [back(third)] if back else [third, forward(third), remo.ratchet(third)]
    for seed in tries:
        pads = remo.pad(tape.SeededTape(seed), 3, 1, 1, 2, modulus)
        if [[(c - r) % modulus for c, r in zip(masked[0], pads[0], strict=True)]] == [
            [x % modulus for x in row[0]]
        ]:
            return True
    return False


def counted(seed: bytes) -> bytes:
    """Return a seed one larger: a counter in the place of the ratchet."""
    return ((int.from_bytes(seed, "big") + 1) % 2**256).to_bytes(32, "big")


def uncounted(seed: bytes) -> bytes:
    """Return a seed one smaller."""
    return ((int.from_bytes(seed, "big") - 1) % 2**256).to_bytes(32, "big")


def test_negative_control_without_the_ratchet_a_later_seed_opens_old_rows() -> None:
    """Seeds that count up are counted down; a chain of one seed is not closed; the ratchet's seed opens none.

    Controls: RMO-G8.
    """
    assert opened(uncounted, counted)
    assert not opened(None, remo.ratchet)
    assert not closed(Counter({(pad, pad): 1 for pad in range(SMALL)}), 1)


def reachable(root: object) -> Iterator[object]:
    """Yield every object that can be reached from one, types, modules and functions left out."""
    waiting, known = [root], {id(root)}
    while waiting:
        thing = waiting.pop()
        yield thing
        for inner in gc.get_referents(thing):
            if id(inner) not in known and not isinstance(inner, type | type(gc) | type(reachable)):
                known.add(id(inner))
                waiting.append(inner)


def secrets_of(seed: bytes) -> set[bytes]:
    """Return a step's seed and all its keys but the one that is the next seed."""
    keys = {tape.domain_key(seed, domain) for domain in Domain if domain is not Domain.RATCHET}
    return {seed, *keys}


def kept_bytes(root: object) -> set[bytes]:
    """Return every byte string of 32 bytes that can be reached from an object."""
    held = (bytes(thing) for thing in reachable(root) if isinstance(thing, bytes | bytearray))
    return {text for text in held if len(text) == constants.SEED_BYTES}


def leftovers(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the steps whose seeds or keys an enclave still holds after each of five events.

    They are calls in steps 0 to 2, two steps minted ahead, and a call in step 3, which was.
    """
    drawn: list[bytes] = []
    real = os.urandom
    with monkeypatch.context() as patched:
        patched.setattr(os, "urandom", lambda n: drawn.append(real(n)) or drawn[-1])  # type: ignore[func-returns-value]
        house = House(dealt=False)
    seeds = [next(text for text in drawn if len(text) == constants.SEED_BYTES)]
    for _ in range(6):
        seeds.append(remo.ratchet(seeds[-1]))
    found = []
    for event in ("x", "prompt", "x", "ahead", "y"):
        house.does(event)
        held = kept_bytes(house.enclave)
        found.append([step for step, seed in enumerate(seeds) if secrets_of(seed) & held])
    return found


@pytest.mark.requirement("RMO-G8")
def test_the_running_enclave_holds_no_seed_of_an_earlier_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In step t the enclave holds t and the next seed, and of steps minted ahead no seed.

    Given: the optimized enclave with a local minter, all bytes that the interpreter can reach from it
    (checked; copies that libraries keep in memory of their own are not seen). The tape of step 2 has the seed
    of step 3 among its keys, so that it goes with step 2.
    Then: what RMO-P3 wants overwritten is gone from the objects.
    Assuming: RMO-P3.
    Proves: RMO-G8.
    Pins: veil_optimized.remo.Ratchet a091897f.
    """
    assert leftovers(monkeypatch) == [[0, 1], [1, 2], [2, 3], [2, 3, 5], [5]]


def test_negative_control_a_ratchet_that_erases_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same search finds the keys of every step where nothing is forgotten.

    Controls: RMO-G8.
    """
    monkeypatch.setattr(fast.Ratchet, "forget", lambda self, steps: None)
    assert leftovers(monkeypatch)[2] == [0, 1, 2, 3]


# RMO-G10: coalitions

SENDINGS: Final = tuple(product((0, 1), (0, 1)))
"""(epoch, step) of the rows of one element that are masked below."""


def sent_to(holders: Sequence[int], x: Sequence[int]) -> Counter[tuple[int, ...]]:
    """Return the law of all that these workers see, over all pads; row i goes to worker i mod 2."""
    seen: Counter[tuple[int, ...]] = Counter()
    for pads in product(range(SMALL), repeat=len(SENDINGS)):
        row = remo.mask([x], [pads], SMALL)[0]
        seen[tuple(c for i, c in enumerate(row) if i % 2 in holders)] += 1
    return seen


@pytest.mark.requirement("RMO-G10")
def test_all_workers_of_all_epochs_together_see_uniform_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joint view of any workers over epochs and steps is uniform, whatever the rows are.

    Given: p = 3, two workers, two epochs of two steps, every plaintext (by machine: complete, on the
    reference's mask). For more, pads at distinct addresses are independent, and so are epochs (TAP-A2): a
    coalition is one worker with a longer transcript (argued).
    Then: workers in league have the view of one worker, that of game `chacha`.
    Assuming: TAP-A1, RMO-A1.
    Proves: RMO-G10.
    Pins: veil_reference.remo.mask df7adc50.
    """
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    for x in product((-1, 0, 1), repeat=len(SENDINGS)):
        for holders in ((0,), (1,), (0, 1)):
            counts = sent_to(holders, x)
            rows = len(holders) * 2
            assert len(counts) == SMALL**rows and set(counts.values()) == {SMALL ** (4 - rows)}


def known_to_dealer_and_worker(x: Sequence[int], granted: frozenset[int]) -> Counter[tuple[int, ...]]:
    """Return the law of what a dealer knows of rows it granted, with what a worker saw: pads, masked rows."""
    seen: Counter[tuple[int, ...]] = Counter()
    for pads in product(range(SMALL), repeat=2):
        row = remo.mask([x], [pads], SMALL)[0]
        seen[(*row, *(pads[i] for i in sorted(granted)))] += 1
    return seen


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_with_a_worker_opens_the_rows_that_it_granted_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their joint view tells granted rows exactly, and has one law for all values of the others.

    Given: p = 3, two rows of which none, one or both were granted, every plaintext (by machine: complete).
    Then: RMO-A4 is needed, and for those rows alone.
    Assuming: TAP-A1, RMO-A1.
    Proves: RMO-G10.
    """
    monkeypatch.setattr(constants, "PRIMES", (SMALL,))
    rows = list(product((-1, 0, 1), repeat=2))
    for granted in (frozenset[int](), frozenset([0]), frozenset([1]), frozenset([0, 1])):
        for x, y in product(rows, repeat=2):
            alike = known_to_dealer_and_worker(x, granted) == known_to_dealer_and_worker(y, granted)
            apart = not known_to_dealer_and_worker(x, granted) & known_to_dealer_and_worker(y, granted)
            assert (alike, apart) == ((True, False) if all(x[i] == y[i] for i in granted) else (False, True))


def asked(house: House) -> list[bytes]:
    """Return every frame that reaches the dealer while a house makes three calls."""
    frames: list[bytes] = []
    real = house.desk.dealer.handle
    house.desk.dealer.handle = lambda data: frames.append(data) or real(data)  # type: ignore[func-returns-value,method-assign]
    house.prepare(1)
    for event in ("prompt", "x", "y"):
        house.does(event)
    return frames


@pytest.mark.requirement("RMO-G10")
def test_a_dealer_alone_receives_steps_and_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames that a dealer receives are the same for other plaintexts of the same lengths.

    Given: the optimized enclave and dealer, two runs of a prompt and two rows with all values changed
    (checked): every frame is an ASK.
    Then: a dealer alone learns L.
    Assuming: RMO-A1.
    Proves: RMO-G10.
    """
    first = House(dealt=True)
    frames = [wire.decode(data) for data in asked(first)]
    assert frames and all(frame.kind is FrameKind.ASK for frame in frames)
    changed = {name: [[7 * x - 3 for x in row] for row in rows] for name, rows in ROWS.items()}
    changed["prompt"] = [[0, 0], [0, 0]]
    for name, rows in changed.items():
        monkeypatch.setitem(ROWS, name, rows)
    other = [wire.decode(data) for data in asked(House(dealt=True))]
    assert [replace(frame, epoch=bytes(16)) for frame in other] == [
        replace(frame, epoch=bytes(16)) for frame in frames
    ]


def test_negative_control_a_dealer_and_a_worker_recover_every_granted_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the seeds that the dealer drew, the worker's transcript of a running house opens.

    Controls: RMO-G10.
    """
    seeds: list[bytes] = []
    real = dealer.drawn_seed
    monkeypatch.setattr(dealer, "drawn_seed", lambda: bytearray(seeds.append(bytes(seed := real())) or seed))  # type: ignore[func-returns-value]
    house = House(dealt=True)
    for event in ("x", "prompt", "y"):
        house.does(event)
    found = []
    for frame in map(wire.decode, house.frames[0]):
        if frame.kind is FrameKind.MULTIPLY:
            modulus = house.model.groups[frame.group].modulus
            pads = remo.pad(
                tape.SeededTape(seeds[frame.step]), frame.group, frame.step, frame.rows, 2, modulus
            )
            elements = wire.unpack(frame.payload, 2 * frame.rows, modulus).reshape(-1, 2).tolist()
            found.append(remo.unmask(elements, pads, modulus))
    assert found == [ROWS[name] for name in ("x", "x", "prompt", "prompt", "y", "y")]
