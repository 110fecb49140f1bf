"""The fixtures that measure ratios, and the one table and report at the end of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import pytest
import torch
from benchmarks import ratios
from benchmarks.models import Small, small
from benchmarks.ratios import Baseline, Figure, Stopwatch, Work
from benchmarks.reporting import Report, Section, load_now

from veil_optimized.allocator import keep_freed

BUILD: Final = Path(__file__).resolve().parent.parent / "build"
REPORT: Final = Report()


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    extra_info: dict[str, object]

    def pedantic(self, target: Callable[[], None], *, setup: Callable[[], None], rounds: int) -> None:
        """Call `setup` and then, timed, `target` in every round."""
        ...


class Compare(Protocol):
    """Measures one candidate against several baselines in the same rounds."""

    def __call__(self, candidate: Work, baselines: Sequence[Baseline]) -> None:
        """Add a figure for each baseline to the table."""
        ...


class Measure(Protocol):
    """Measures one ratio and adds it to the table."""

    def __call__(
        self,
        title: str,
        candidate: Work,
        baseline: Work,
        target: float | None = None,
        limit_s: float | None = None,
    ) -> None:
        """Add the figure to the table."""
        ...


@pytest.fixture
def section(request: pytest.FixtureRequest) -> Section:
    """Return the part of the report that is the module's own, headed by what its docstring says first."""
    return REPORT.section((request.module.__doc__ or request.module.__name__).partition("\n")[0])


@pytest.fixture
def compare(benchmark: Benchmark, section: Section) -> Compare:
    """Return what times a candidate and its baselines in turns, the baselines in the set-up of each round."""

    def compared(candidate: Work, baselines: Sequence[Baseline]) -> None:
        ours, theirs = Stopwatch(candidate), [Stopwatch(baseline.work) for baseline in baselines]
        candidate_s: list[float] = []
        baselines_s: list[list[float]] = [[] for _ in baselines]

        def before() -> None:
            for seconds, watch in zip(baselines_s, theirs, strict=True):
                seconds.append(watch())

        rounds = ratios.rounds_for(sum(watch.seconds for watch in (ours, *theirs)))
        benchmark.pedantic(lambda: candidate_s.append(ours()), setup=before, rounds=rounds)
        for baseline, seconds in zip(baselines, baselines_s, strict=True):
            sides = tuple(candidate_s), tuple(seconds)
            section.figures.append(Figure(baseline.title, *sides, baseline.target, baseline.limit_s))
        benchmark.extra_info["figures"] = [figure.record() for figure in section.figures[-len(baselines) :]]

    return compared


@pytest.fixture
def measure(compare: Compare) -> Measure:
    """Return what times a candidate and one baseline in turns."""

    def measured(
        title: str,
        candidate: Work,
        baseline: Work,
        target: float | None = None,
        limit_s: float | None = None,
    ) -> None:
        compare(candidate, [Baseline(title, baseline, target, limit_s)])

    return measured


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the seeded model of the decoding figures."""
    return small(tmp_path_factory.mktemp("model"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Print one table, the one below, keep torch to one thread, and freed memory as Veil's processes do.

    With more threads, waiting for one that another process has displaced is all that a busy machine shows.
    """
    torch.set_num_threads(1)
    keep_freed()
    config.option.benchmark_quiet = True
    REPORT.load.append(load_now())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table and write the report."""
    if not REPORT.filled:
        return
    for part in REPORT.filled:
        terminalreporter.section(part.title)
        for line in part.text():
            terminalreporter.write_line(line)
    for path in REPORT.write(BUILD / "bench"):
        terminalreporter.write_line(f"written to {path}")
