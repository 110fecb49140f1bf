"""A product by 1 to 4 ranks of a worker against one process without the others: the scaling curve.

Rank 0 is the process that measures; no enclave and no wire is in a figure. Each rank has one thread. The
machine of the house has two cores: from the third rank on the curve shows what sharing a core costs.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import torch
from benchmarks.conftest import Measure
from benchmarks.models import SHAPE, small
from benchmarks.ratios import Work

from veil_optimized.model import Model, load
from veil_optimized.ranks import Ranks, Sharded
from veil_optimized.sharding import Kind
from veil_optimized.worker import Placed

WIDE: Final = replace(
    SHAPE, vocabulary=64, width=2048, inner=4096, layers=1, heads=16, kv_heads=16, head_width=128
)
"""One layer, wide enough that a product takes longer than its rows take to the other ranks."""
GROUPS: Final = {"outputs shared": 2, "inner shared": 3}
"""Gate with up, 2,048 to 8,192, and down, 4,096 to 2,048: one group for each way to cut."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the integer file of one layer of random weights."""
    return small(tmp_path_factory.mktemp("wide"), WIDE).path


@contextmanager
def rank_0_of(
    count: int, path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Sharded]]:
    """Yield the groups that this process shares with others, which end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in (about | {"RANK": "0", "OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-P", "-m", "veil_optimized.worker", str(path)]
    others = [subprocess.Popen(command, env=os.environ | {"RANK": str(rank)}) for rank in range(1, count)]
    try:
        together = Ranks("cpu")
        yield list(together.hold(model).values())
        together.stop()
    finally:
        for other in others:
            other.wait(10)


@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def bench_ranks(
    measure: Measure, path: Path, monkeypatch: pytest.MonkeyPatch, count: int, name: str, rows: int
) -> None:
    """The same rows by the same weights: shared, and whole in this process."""
    model = load(path)
    whole = model.groups[GROUPS[name]]
    alone = Placed(whole.weights, whole.modulus)
    elements = torch.arange(rows * alone.shape[1]).reshape(rows, -1)
    with rank_0_of(count, path, model, monkeypatch) as groups:
        shared = groups[whole.number]
        assert torch.equal(shared.product(Kind.FIELD, elements), alone.product(Kind.FIELD, elements))
        measure(
            f"product of {rows} rows, {name}: {count} ranks / 1 process",
            Work(lambda: shared.product(Kind.FIELD, elements)),
            Work(lambda: alone.product(Kind.FIELD, elements)),
        )
