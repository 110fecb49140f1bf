"""The trusted side: masks every linear group's input, checks and unmasks the worker's answer."""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from veil_optimized import integrity, remo
from veil_optimized.dealer import Contact, DealerMinter, DealerTransport
from veil_optimized.model import Asking, Group, Model, Together
from veil_optimized.profiles import Cover, Masking, profile_of
from veil_optimized.remo import Minter, Outsourced, Rows
from veil_optimized.session import Channel, Exchange
from veil_optimized.tape import SeededTape
from veil_optimized.transcript import Header
from veil_optimized.transport import DEADLINE_S, RecordingTransport, RemoteTransport, Transport
from veil_spec import __version__, constants
from veil_spec.architecture import DecoderShape
from veil_spec.refusals import Refusal, Refused

Witness = Callable[[int, int, torch.Tensor], None]
"""Takes (group, step, rows) before the last of them are masked."""
MINTED_AT_ONCE: Final = 32
"""Steps whose pads are minted at once: one pass over the weights serves them all."""
STEPS_LEFT: Final = 4
"""How many steps before those that are expected their pads are drawn: in one, every group is waited for."""
BASIS_STEP: Final = constants.STEP_LIMIT
"""The step under which a group's public basis crosses the wire: no row ever has it."""


@dataclass
class Cost:
    """What protection cost so far, in seconds measured and field multiplications counted.

    Pads are minted; the check of each group is prepared once an epoch. Offline counts both.
    """

    mint_seconds: float = 0.0
    prepare_seconds: float = 0.0
    macs_online: int = 0
    macs_offline: int = 0


@dataclass
class Message:
    """A step of a group on its way to the worker; `seen` are its plain rows so far."""

    step: int
    rows: int
    cover: Cover
    sent: Outsourced
    exchange: Exchange
    seen: list[torch.Tensor] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Return whether all rows are on their way."""
        return sum(rows.shape[0] for rows in self.seen) == self.rows


class Enclave:
    """One epoch of masked outsourcing; `products` computes a decoder's linear groups.

    `checked` counts the worker's products that passed the check; `minter` takes the place of the local one;
    `witness` is told (group, step, rows) of all that is masked, for tests: then nothing is private.

    Implements: RMO-R8, RMO-P1, RMO-P2.
    Refuses: LWE_UNSUITABLE.
    """

    def __init__(
        self,
        model: Model,
        channel: Channel,
        masking: Masking | None = None,
        minter: Minter | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.masking = masking or Masking()
        self.cost = Cost()
        self.checked = 0
        self.channel = channel
        self._model = model
        self._witness = witness
        self._calls: Counter[int] = Counter()
        self._expected, self._expected_rows = range(0), 1
        self._message: Message | None = None
        self._lock = threading.RLock()
        self._ratchet = remo.Ratchet(self.masking.seed or os.urandom(constants.SEED_BYTES))
        self._profile = profile_of(self.masking, self._ratchet, minter)
        self._sent = {group.number: self._profile.sent(group) for group in model.groups}
        self._checks = self._prepared() if self.masking.check else {}

    def _prepared(self) -> dict[int, integrity.Check]:
        secret, start = SeededTape(os.urandom(constants.SEED_BYTES)), time.perf_counter()
        checks = {
            number: integrity.prepare(secret, number, sent.weights, sent.modulus)
            for number, sent in self._sent.items()
        }
        secret.erase()
        self.cost.prepare_seconds += time.perf_counter() - start
        for number, sent in self._sent.items():
            self.cost.macs_offline += _vectors(checks[number]) * sent.weights.numel()
        return checks

    @property
    def private(self) -> bool:
        """Return whether a guarantee of spec/remo.md covers this epoch."""
        return self.masking.private and self._witness is None

    @property
    def secret_vectors(self) -> tuple[int, ...]:
        """Return how many secret vectors check each group's products; 0 for a group without a check."""
        kept = [self._checks.get(group.number) for group in self._model.groups]
        return tuple(0 if check is None else _vectors(check) for check in kept)

    def open(self) -> None:
        """Greet the worker, and publish the bases of profiles that have one. Refuses: as Channel does."""
        with self._ending_on_failure():
            self.channel.hello(self._model.digest)
            for group in self._model.groups:
                basis = self._profile.basis(group)
                if basis is not None:
                    image = self._multiplied(self._sent[group.number], BASIS_STEP, basis)
                    self._profile.publish(group, basis, image)

    @property
    def next_step(self) -> int:
        """Return the number of the next forward call of several rows."""
        return self._profile.first_step(self._model.groups[0], self._calls[0], 2)

    def mint_ahead(self, first_step: int, steps: int, rows: int = 1) -> None:
        """Prepare the pads of steps first_step to first_step + steps - 1, off the critical path.

        Each step is one of so many rows, of which a decoder's head takes one.

        A dealer is asked for them; profiles without a minter prepare nothing.
        """
        start, before = time.perf_counter(), self._profile.macs
        with self._ending_on_failure():
            self._profile.ahead(self._model.groups, first_step, steps, self._rows(rows))
        if self._profile.macs > before:
            self.cost.mint_seconds += time.perf_counter() - start
            self.cost.macs_offline += self._profile.macs - before

    def expect(self, first_step: int, steps: int, rows: int = 1) -> None:
        """Prepare the pads of steps to come as `mint_ahead` does, but while answers are on their way.

        No more than `MINTED_AT_ONCE` steps are prepared at once; with a dealer, these and no further ones.
        """
        if self._profile.background is None:
            self.mint_ahead(first_step, min(steps, MINTED_AT_ONCE), rows)
        else:
            with self._ending_on_failure():
                self._expected, self._expected_rows = range(first_step, first_step + steps), rows
                self._mint_in_between()

    def _mint_in_between(self) -> None:
        """Correct the pads of one group, or draw those of the next steps before the last ones are used."""
        minter = self._profile.background
        if minter is None or not (minter.behind or self._expected):
            return
        start, before = time.perf_counter(), minter.macs
        begun = max(self._calls.values(), default=0)
        if not minter.work() and self._expected and self._expected[0] - begun < STEPS_LEFT:
            coming, self._expected = self._expected[:MINTED_AT_ONCE], self._expected[MINTED_AT_ONCE:]
            drawn = [step for step in coming if step >= begun and minter.is_open(step)]
            minter.draw(self._model.groups, drawn, self._rows(self._expected_rows))
        if minter.macs > before:
            self.cost.mint_seconds += time.perf_counter() - start
            self.cost.macs_offline += minter.macs - before

    def _rows(self, rows: int) -> Rows:
        if rows == 1:
            return None
        head = 1 if isinstance(self._model.shape, DecoderShape) else rows
        return [rows] * (len(self._model.groups) - 1) + [head]

    def products(self, group: Group, rows: torch.Tensor) -> torch.Tensor:
        """Return the exact integer products of 16-bit rows, int64 [n, outputs], computed by the worker.

        Refuses: CHECK_FAILED, and what Channel refuses; either ends the epoch.
        """
        with self._ending_on_failure():
            return self._asked(group, rows, rows.shape[0])()

    @property
    def together(self) -> Together | None:
        """Return what lets parts of a step take turns, or None for a profile that hides whole steps."""
        return self._in_turns if self._profile.in_parts else None

    def _in_turns(self, parts: Sequence[Asking[torch.Tensor]], rows: int) -> list[torch.Tensor]:
        """Return what parts of a step of so many rows come to: one goes on while another is multiplied.

        Their rows of a group are parts of one message, in their order.

        Refuses: as `products` does.
        """
        made: dict[Asking[torch.Tensor], torch.Tensor] = {}
        with self._ending_on_failure():
            waiting = deque((part, self._asked(*next(part), rows)) for part in parts)
            while waiting:
                part, answer = waiting.popleft()
                products = answer()
                try:
                    asked = part.send(products)
                except StopIteration as done:
                    made[part] = done.value
                else:
                    waiting.append((part, self._asked(*asked, rows)))
        return [made[part] for part in parts]

    def _asked(self, group: Group, rows: torch.Tensor, total: int) -> Callable[[], torch.Tensor]:
        """Send the next rows of a group's step of so many in all; return what waits for their products."""
        if self.channel.ended:
            raise Refused(Refusal.WORKER_LOST, "the epoch has ended")
        message = self._message = self._message or self._begin(group, total)
        message.seen.append(rows)
        if message.complete and self._witness is not None:
            self._witness(group.number, message.step, torch.cat(message.seen))
        masked, data, reveal = message.cover.hide(rows)
        self.channel.send(message.exchange, data)
        if message.complete:
            self._message = None

        def answer() -> torch.Tensor:
            self._mint_in_between()
            product = self.channel.receive(message.exchange, masked.shape[0], message.sent.modulus)
            return reveal(self._verified(message.sent, masked, product))

        return answer

    def _begin(self, group: Group, rows: int) -> Message:
        """Return a message of so many rows of a group, in the next step that has pads for them."""
        step = self._profile.first_step(group, self._calls[group.number], rows)
        self._calls[group.number] = step + 1
        start, before = time.perf_counter(), self._profile.macs
        cover = self._profile.cover(group, step, rows)
        if self._profile.macs > before:
            self.cost.mint_seconds += time.perf_counter() - start
            self.cost.macs_online += self._profile.macs - before
        sent = self._sent[group.number]
        return Message(step, rows, cover, sent, self._exchange(sent, step, rows))

    def _exchange(self, sent: Outsourced, step: int, rows: int) -> Exchange:
        outputs, inner = sent.weights.shape
        return self.channel.begin(sent.number, step, rows, inner, outputs, sent.modulus)

    def close(self) -> None:
        """End the epoch, without another word to the worker, and overwrite what is left of its masks."""
        self.channel.close()
        if self._message is not None:
            self._message.cover.erase()
        self._profile.close()
        self._ratchet.close()

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Let one thread in, and end the epoch on whatever goes wrong inside. Implements: INT-P1."""
        with self._lock:
            try:
                yield
            except BaseException:
                self.close()
                raise

    def _multiplied(self, sent: Outsourced, step: int, masked: torch.Tensor) -> torch.Tensor:
        """Return the worker's product, verified."""
        product = self.channel.multiply(sent.number, step, masked, sent.modulus, sent.weights.shape[0])
        return self._verified(sent, masked, product)

    def _verified(self, sent: Outsourced, masked: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        """Return a product that is one. Refuses: CHECK_FAILED. Implements: INT-P1."""
        if self.masking.check:
            check = self._checks[sent.number]
            self.cost.macs_online += check.macs * masked.shape[0]
            check.verify(masked, product)
            self.checked += 1
        return product


@contextmanager
def epoch(
    model: Model,
    address: str,
    masking: Masking | None = None,
    transcript: Path | None = None,
    deadline_s: float = DEADLINE_S,
    dealer: Contact | None = None,
    witness: Witness | None = None,
) -> Iterator[Enclave]:
    """Yield an enclave in a fresh epoch with the worker at an address. Refuses: as Enclave does."""
    masking = masking or Masking()
    name = os.urandom(constants.EPOCH_BYTES)
    transport: Transport = RemoteTransport(address, deadline_s)
    if transcript is not None:
        header = Header(
            __version__, model.digest, masking.profile, masking.rank, name, _fields(model, masking)
        )
        transport = RecordingTransport(transport, transcript, header)
    with ExitStack() as stack, Channel(transport, name) as channel:
        minter = None
        if dealer is not None:
            stream = DealerTransport(dealer.address, dealer.credentials, deadline_s)
            minter = stack.enter_context(DealerMinter(stream, name, model))
            minter.open()
        enclave = Enclave(model, channel, masking, minter, witness)
        try:
            enclave.open()
            yield enclave
        finally:
            enclave.close()


def _vectors(check: integrity.Check) -> int:
    return len(check.vectors)


def _fields(model: Model, masking: Masking) -> tuple[int, ...]:
    """Return the field that each group is sent in."""
    wide = masking.profile == "lwe"
    return tuple(constants.LWE_MODULUS if wide else group.modulus for group in model.groups)
