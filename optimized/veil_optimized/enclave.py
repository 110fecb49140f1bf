"""The trusted side: masks every linear group's input, checks and unmasks the worker's answer."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import torch

from veil_optimized import integrity, remo
from veil_optimized.model import Group, Model
from veil_optimized.session import Channel
from veil_optimized.tape import SeededTape
from veil_optimized.transcript import Header
from veil_optimized.transport import DEADLINE_S, GrpcTransport, RecordingTransport, Transport
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused

PROFILES: Final = ("pad", "rank")
BASIS_STEP: Final = 2**32 - 1
"""The step under which a group's public basis crosses the wire: no pad ever has it."""


@dataclass
class Cost:
    """What protection cost so far, in seconds measured and field multiplications counted.

    Pads are minted; the check of each group is prepared once an epoch. Offline counts both.
    """

    mint_seconds: float = 0.0
    prepare_seconds: float = 0.0
    macs_online: int = 0
    macs_offline: int = 0


@dataclass(frozen=True, slots=True)
class Masking:
    """How an epoch masks: a profile, m / width for `rank`, and in tests a seed: else the system gives one."""

    profile: str = "pad"
    rank: Fraction | None = None
    check: bool = True
    seed: bytes | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise Refused(
                Refusal.MODE_UNAVAILABLE, f"profile {self.profile!r} is not one of {', '.join(PROFILES)}"
            )
        if (self.profile == "rank") != (self.rank is not None):
            raise Refused(
                Refusal.RANK_OUT_OF_RANGE, "profile rank needs --m-over-d, and no other profile takes it"
            )

    @property
    def private(self) -> bool:
        """Return whether a guarantee of spec/remo.md covers this epoch."""
        return self.profile == "pad" and self.seed is None


class Enclave:
    """One epoch of masked outsourcing; `products` computes a decoder's linear groups.

    `checked` counts the worker's products that passed the check.

    Implements: RMO-R8, RMO-P1, RMO-P2.
    """

    def __init__(self, model: Model, channel: Channel, masking: Masking | None = None) -> None:
        self.masking = masking or Masking()
        self.cost = Cost()
        self.checked = 0
        self.channel = channel
        self._model = model
        self._calls: Counter[int] = Counter()
        self._tape = SeededTape(self.masking.seed or os.urandom(constants.SEED_BYTES))
        self._checks = self._prepared() if self.masking.check else {}
        self._local = remo.LocalMinter(self._tape)
        self._ranked = remo.RankMinter(self._tape)

    def _prepared(self) -> dict[int, integrity.Check]:
        secret, start = SeededTape(os.urandom(constants.SEED_BYTES)), time.perf_counter()
        checks = {
            group.number: integrity.prepare(secret, group.number, group.weights, group.modulus)
            for group in self._model.groups
        }
        self.cost.prepare_seconds += time.perf_counter() - start
        for group in self._model.groups:
            self.cost.macs_offline += _vectors(checks[group.number]) * group.weights.numel()
        return checks

    @property
    def secret_vectors(self) -> tuple[int, ...]:
        """Return how many secret vectors check each group's products; 0 for a group without a check."""
        kept = [self._checks.get(group.number) for group in self._model.groups]
        return tuple(0 if check is None else _vectors(check) for check in kept)

    def open(self) -> None:
        """Greet the worker; under profile `rank`, publish each group's basis. Refuses: as Channel does."""
        self.channel.hello(self._model.digest)
        if self.masking.rank is not None:
            for group in self._model.groups:
                self._publish(group, self.masking.rank)

    def _publish(self, group: Group, ratio: Fraction) -> None:
        width = group.weights.shape[1]
        basis = remo.rank_basis(self._tape, group.number, int(ratio * width), width, group.modulus)
        self._ranked.publish(group, basis, self._multiplied(group, BASIS_STEP, basis))

    @property
    def next_step(self) -> int:
        """Return the number of the next forward call in this epoch."""
        return self._calls[0]

    def mint_ahead(self, first_step: int, steps: int) -> None:
        """Prepare the pads of one-token steps first_step to first_step + steps - 1, off the critical path."""
        if self.masking.rank is not None or not steps:
            return
        start, before = time.perf_counter(), self._local.macs
        for group in self._model.groups:
            self._local.mint(group, first_step, steps)
        self.cost.mint_seconds += time.perf_counter() - start
        self.cost.macs_offline += self._local.macs - before

    def products(self, group: Group, rows: torch.Tensor) -> torch.Tensor:
        """Return the exact integer products of 16-bit rows, int64 [n, outputs], computed by the worker.

        Refuses: CHECK_FAILED, and what Channel refuses; either ends the epoch.
        """
        step = self._calls[group.number]
        self._calls[group.number] += 1
        pads, correction = self._minted(group, step, len(rows))
        masked = remo.mask(rows, pads, group.modulus)
        return remo.unmask(self._multiplied(group, step, masked), correction, group.modulus)

    def _minted(self, group: Group, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        minter: remo.Minter = self._local if self.masking.rank is None else self._ranked
        start, before = time.perf_counter(), minter.macs
        taken = minter.take(group, step, rows)
        if minter.macs > before:
            self.cost.mint_seconds += time.perf_counter() - start
            self.cost.macs_online += minter.macs - before
        return taken

    def _multiplied(self, group: Group, step: int, masked: torch.Tensor) -> torch.Tensor:
        """Return the worker's product, verified.

        Implements: INT-P1.
        """
        product = self.channel.multiply(group.number, step, masked, group.modulus, group.weights.shape[0])
        if self.masking.check:
            check = self._checks[group.number]
            self.cost.macs_online += check.macs * len(masked)
            try:
                check.verify(masked, product)
            except Refused:
                self.channel.close()
                raise
            self.checked += 1
        return product


@contextmanager
def epoch(
    model: Model,
    address: str,
    masking: Masking | None = None,
    transcript: Path | None = None,
    deadline_s: float = DEADLINE_S,
) -> Iterator[Enclave]:
    """Yield an enclave in a fresh epoch with the worker at an address. Refuses: as Enclave does."""
    masking = masking or Masking()
    name = os.urandom(constants.EPOCH_BYTES)
    transport: Transport = GrpcTransport(address, deadline_s)
    if transcript is not None:
        header = Header(__version__, model.digest, masking.profile, masking.rank, name, _fields(model.groups))
        transport = RecordingTransport(transport, transcript, header)
    with Channel(transport, name) as channel:
        enclave = Enclave(model, channel, masking)
        enclave.open()
        yield enclave


def _vectors(check: integrity.Check) -> int:
    return int(check.secret.limbs.shape[1])


def _fields(groups: Sequence[Group]) -> tuple[int, ...]:
    return tuple(group.modulus for group in groups)
