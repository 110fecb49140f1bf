"""A round trip of 1x576 field elements each way, to a worker process and to a worker in this process."""

import itertools
import os
from typing import Final

import pytest
import torch
from benchmarks.conftest import Measure
from benchmarks.models import SHAPE, Small
from benchmarks.ratios import Work

from veil_optimized.launching import BESIDE, LOOPBACK, start_worker
from veil_optimized.session import Channel
from veil_optimized.transport import LocalTransport, RemoteTransport, Transport
from veil_optimized.worker import Worker, place
from veil_spec import constants

GROUP: Final = 1
"""The first attention output: 576 elements in, 576 out."""


def round_trip(transport: Transport, model: Small) -> Work:
    """Return one product of one row, as the enclave asks for it."""
    group = model.integer.groups[GROUP]
    channel = Channel(transport, os.urandom(constants.EPOCH_BYTES))
    channel.hello(model.integer.digest)
    rows = torch.arange(SHAPE.width).unsqueeze(0)
    step = itertools.count()
    return Work(lambda: channel.multiply(GROUP, next(step), rows, group.modulus, SHAPE.width))


@pytest.mark.parametrize(("carrier", "listens"), [("Unix socket", BESIDE), ("gRPC", LOOPBACK)])
def bench_round_trip(measure: Measure, small_model: Small, carrier: str, listens: str) -> None:
    """What carries the frames, the codec and another process; the product itself is in both."""
    worker = Worker(place(small_model.integer, "cpu"), small_model.integer.digest)
    local = LocalTransport(worker.handle)
    with start_worker(small_model.path, address=listens) as address:
        remote = RemoteTransport(address)
        title = f"round trip of 1x576 elements: {carrier} / in process"
        measure(title, round_trip(remote, small_model), round_trip(local, small_model))
        remote.close()
