"""The fixture that measures a ratio, and the one table and report at the end of a run."""

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

import pytest
import torch
from benchmarks import ratios
from benchmarks.models import Small, small
from benchmarks.ratios import Figure, Work

REPORT: Final = Path(__file__).resolve().parent.parent / "build" / "bench" / "report.json"
FIGURES: Final[list[Figure]] = []


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    extra_info: dict[str, object]

    def pedantic(self, target: Callable[[], None], *, setup: Callable[[], None], rounds: int) -> None:
        """Call `setup` and then, timed, `target` in every round."""
        ...


class Measure(Protocol):
    """Measures one ratio and adds it to the table."""

    def __call__(self, title: str, candidate: Work, baseline: Work, target: float | None = None) -> Figure:
        """Return the figure."""
        ...


@pytest.fixture
def measure(benchmark: Benchmark) -> Measure:
    """Return what times a candidate and a baseline in turns, the baseline in the set-up of each round."""

    def measured(title: str, candidate: Work, baseline: Work, target: float | None = None) -> Figure:
        ours, theirs = _timing(candidate), _timing(baseline)
        candidate_s: list[float] = []
        baseline_s: list[float] = []

        def before() -> None:
            baseline_s.append(theirs() / baseline.items)

        def run() -> None:
            candidate_s.append(ours() / candidate.items)

        benchmark.pedantic(run, setup=before, rounds=ratios.ROUNDS)
        figure = Figure(title, tuple(candidate_s), tuple(baseline_s), target)
        benchmark.extra_info.update(figure.record())
        FIGURES.append(figure)
        return figure

    return measured


def _timing(work: Work) -> Callable[[], float]:
    """Return what times one call's share of enough calls, after one call that is not timed."""
    if not work.single:
        work.run()
    calls = 1 if work.single else ratios.calls_for(_once(work.run, 1))
    return lambda: _once(work.run, calls)


def _once(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the seeded model of the decoding figures."""
    return small(tmp_path_factory.mktemp("model"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Print one table, the one below, and keep torch to one thread.

    With more, waiting for a thread that another process has displaced is all that a busy machine shows.
    """
    torch.set_num_threads(1)
    config.option.benchmark_quiet = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table and write the report."""
    if not FIGURES:
        return
    terminalreporter.section("ratios of time, median of the rounds' ratios")
    for line in ratios.table(FIGURES):
        terminalreporter.write_line(line)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": _environment(), "figures": [figure.record() for figure in FIGURES]}
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    terminalreporter.write_line(f"written to {REPORT}")


def _environment() -> dict[str, object]:
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "huge_pages": huge_pages.read_text().strip() if huge_pages.exists() else "unknown",
        "versions": {name: version(name) for name in ("torch", "numpy", "cryptography", "grpcio")},
    }
