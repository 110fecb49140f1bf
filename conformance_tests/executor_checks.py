"""`make executors`: a sweep of attacks on Dask and on Ray comes to the cells of this process."""

from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import distributed
import pytest
import ray

import sweeps
from veil_spec.architecture import INTEGER_FILE


class OnRay(Executor):
    """Ray as an executor."""

    def submit(self, function: Any, /, *given: Any, **named: Any) -> "Future[Any]":
        """Return the future of a remote call."""
        called: Future[Any] = ray.remote(function).remote(*given, **named).future()
        return called


@pytest.fixture(scope="module")
def model(imported: Path) -> Path:
    """Return the small model's file."""
    return imported / INTEGER_FILE


@pytest.fixture(scope="module")
def here(model: Path) -> list[object]:
    """Return the cells that this process comes to."""
    return sweeps.cells(sweeps.Here(), model)


def test_dask_comes_to_the_same_cells(model: Path, here: list[object]) -> None:
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        assert sweeps.cells(client.get_executor(), model) == here


def test_ray_comes_to_the_same_cells(model: Path, here: list[object]) -> None:
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    try:
        assert sweeps.cells(OnRay(), model) == here
    finally:
        ray.shutdown()
