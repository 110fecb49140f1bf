"""A worker of several processes: rank 0 answers enclaves, and every rank multiplies by its shards.

Rank 0 sends each rank an order of three words and then the rows; the others send their products back. What
comes from a peer has been checked by then, and only integers cross: nothing is pickled.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from veil_optimized import kernels
from veil_optimized.sharding import PLAN, Cut, Kind, multiplied
from veil_spec.refusals import Refusal, Refused

if TYPE_CHECKING:
    from veil_optimized.model import Model

ENVIRONMENT: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process that it starts."""
ROUND_S: Final = 60.0
"""Seconds for all ranks to multiply by one piece: as long as an enclave waits for an answer by default."""
ALWAYS: Final = timedelta(days=365)
"""For an order a rank waits as long as nobody asks for anything; it notices that rank 0 has gone."""
PIECE: Final = 2**22
"""Most elements of the rows and the product of one round, 32 MiB: no message takes a rank more than that."""
STOP: Final = 0
"""The order after which there is none; any other is a `Kind`."""


class RankLost(Exception):
    """A rank did not do its part, so that the ranks no longer agree on what comes next."""


def several() -> bool:
    """Return whether this process was started as one of several."""
    return all(name in os.environ for name in ENVIRONMENT) and os.environ["WORLD_SIZE"] != "1"


def own_device(device: str) -> str:
    """Return the device of this process: `cuda` is, of a machine's GPUs, the one with its local number."""
    if device != "cuda" or not several():
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', os.environ['RANK'])}"


def _meeting(timeout: timedelta) -> tuple[Store, int, int]:
    """Return where the ranks find one another's addresses, this rank's number and the count of all.

    torchrun may keep one store through all restarts, and there the addresses of ranks that are gone.
    """
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return store, rank, count


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank holds of a group."""

    cut: Cut
    weights: torch.Tensor
    modulus: int


class Ranks:
    """The processes of a worker, seen from one of them. `rank` is its number.

    Tensors on a CPU cross by gloo, those on a GPU by NCCL.
    """

    def __init__(self, device: str, round_s: float = ROUND_S) -> None:
        """Find the others. Refuses: WORKER_LOST."""
        self._device = torch.device(device)
        self._lock = threading.Lock()
        self._shards: list[Shard] = []
        self._lost = False
        timeout = timedelta(seconds=round_s)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self._device)
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        try:
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            store, rank, count = _meeting(timeout)
            distributed.init_process_group(backend, None, timeout, count, rank, store)
            self._orders = distributed.new_group(backend="gloo", timeout=ALWAYS)
        except (RuntimeError, ValueError) as error:
            remedy = "the ranks of this worker did not find one another: start them all with torchrun"
            raise Refused(Refusal.WORKER_LOST, remedy) from error
        self.rank, self.count = rank, count

    def hold(self, model: "Model") -> Mapping[int, "Sharded"]:
        """Keep this rank's shards on its device, and return the groups by number once all ranks have theirs.

        Refuses: MODEL_MISMATCH, WORKER_LOST.
        """
        kernels.chosen(self._device.type)
        for group in model.groups:
            outputs, inner = group.weights.shape
            cut = Cut(PLAN[group.name.rpartition(".")[2]], outputs, inner, self.count)
            weights = cut.shard(group.weights, self.rank).to(self._device)
            self._shards.append(Shard(cut, weights, group.modulus))
        self._compare(model.digest)
        return {number: Sharded(self, number, shard) for number, shard in enumerate(self._shards)}

    def _compare(self, digest: bytes) -> None:
        """Return once every rank has shown the same digest. Refuses: MODEL_MISMATCH, WORKER_LOST."""
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        shown = [torch.empty_like(own) for _ in range(self.count)]
        with self._refusing(), self._together():
            distributed.all_gather(shown, own, group=self._orders)
        if any(not torch.equal(own, other) for other in shown):
            with suppress(RankLost), self._together():
                self._part()
            raise Refused(Refusal.MODEL_MISMATCH, "start all ranks with the same integer model file")

    def multiply(self, number: int, kind: Kind, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [n, inner], which are on this rank's device, times a group's whole weights.

        Rank 0 calls this, any of its threads at a time.

        Implements: WIR-P14.
        """
        shard = self._shards[number]
        with self._lock, self._together():
            self._order(kind, number, len(rows))
            parts = self._round(shard, kind, rows)
            return shard.cut.joined(kind, parts, shard.modulus)

    def follow(self) -> None:
        """Multiply as rank 0 says until it says stop: SIGTERM is for rank 0 to obey. Refuses: WORKER_LOST."""
        with self._refusing(), self._together():
            while True:
                kind, number, count = self._ordered()
                if kind == STOP:
                    return self._part()
                shard = self._shards[number]
                rows = torch.empty(count, shard.cut.inner, dtype=torch.int64, device=self._device)
                self._round(shard, Kind(kind), rows)

    def stop(self) -> None:
        """Return when every rank has been told to end, and has heard it. Refuses: WORKER_LOST."""
        with self._refusing(), self._lock, self._together():
            self._order(STOP, 0, 0)
            self._part()

    def _order(self, kind: int, number: int, count: int) -> None:
        distributed.broadcast(torch.tensor([kind, number, count]), 0, group=self._orders)

    def _ordered(self) -> tuple[int, int, int]:
        """Return the next order: its kind, a group's number and a count of rows."""
        order = torch.empty(3, dtype=torch.int64)
        distributed.broadcast(order, 0, group=self._orders)
        kind, number, count = order.tolist()
        return kind, number, count

    def _round(self, shard: Shard, kind: Kind, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return on rank 0 the products of all ranks by the same rows, and elsewhere nothing.

        They cross as wide as the widest of them.
        """
        distributed.broadcast(rows, 0)
        cut = shard.cut
        widths = [kind.bands * cut.width(rank) for rank in range(self.count)]
        own = rows.new_zeros(len(rows), max(widths))
        operand = cut.operand(rows, self.rank)
        own[:, : widths[self.rank]] = multiplied(kind, operand, shard.weights, shard.modulus)
        gathered = [torch.empty_like(own) for _ in widths] if self.rank == 0 else None
        distributed.gather(own, gathered)
        return [part[:, :width] for part, width in zip(gathered or [], widths, strict=False)]

    def _part(self) -> None:
        """Leave, when all are here."""
        distributed.all_reduce(torch.zeros(1))
        distributed.destroy_process_group()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn whatever goes wrong inside into the end of all rounds."""
        if self._lost:
            raise RankLost
        try:
            yield
        except Exception as error:
            self._lost = True
            raise RankLost from error

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Refuses: WORKER_LOST."""
        try:
            yield
        except RankLost as lost:
            remedy = f"rank {self.rank} of {self.count} lost another: start this worker again"
            raise Refused(Refusal.WORKER_LOST, remedy) from lost


@dataclass(frozen=True, slots=True)
class Sharded:
    """A group that all ranks hold together, as rank 0 multiplies by it."""

    ranks: Ranks
    number: int
    shard: Shard

    @property
    def shape(self) -> tuple[int, int]:
        """Return (outputs, inner) of the whole."""
        return self.shard.cut.outputs, self.shard.cut.inner

    @property
    def modulus(self) -> int:
        """Return the field's prime."""
        return self.shard.modulus

    def product(self, kind: Kind, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [n, inner] times the weights, or their halves: piece by piece, each a round."""
        pieces = torch.split(rows, max(1, PIECE // sum(self.shape)))
        return torch.cat([self.ranks.multiply(self.number, kind, piece) for piece in pieces])


def obey_rank_0() -> None:
    """Leave it to rank 0 to end on SIGTERM and SIGINT, which torchrun sends to all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
