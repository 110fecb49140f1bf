"""The arithmetic of the benchmarks, on numbers that are given: nothing here is timed."""

import time
from pathlib import Path

import pytest
from benchmarks import plots
from benchmarks.growth import Curve, exponent
from benchmarks.ratios import (
    FEWEST,
    MOST_CALLS,
    ROUNDS,
    Figure,
    Work,
    calls_for,
    in_turns,
    rounds_for,
    table,
    timed_text,
)
from benchmarks.reporting import Report, Section, shown
from benchmarks.sides import minted
from benchmarks.splitting import PARTS, Clock, Split

DRIFTING = Figure("drifting", (2.0, 8.0, 30.0), (1.0, 2.0, 10.0), 3.0)
"""The machine becomes ten times slower; each round's ratio stays near 3."""


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert DRIFTING.ratios == (2.0, 4.0, 3.0)
    assert DRIFTING.ratio == 3.0


def test_work_against_itself_has_ratio_one() -> None:
    seconds = (0.5, 0.25, 4.0)
    assert Figure("same", seconds, seconds).record() == {
        "title": "same",
        "ratio": 1.0,
        "lowest": 1.0,
        "highest": 1.0,
        "rounds": 3,
        "candidate_s": 0.5,
        "baseline_s": 0.5,
        "target": None,
        "limit_s": None,
        "verdict": "",
    }


@pytest.mark.parametrize(("target", "verdict"), [(3.0, "met"), (2.99, "missed"), (None, "")])
def test_target_is_met_up_to_itself(target: float | None, verdict: str) -> None:
    assert Figure("drifting", DRIFTING.candidate, DRIFTING.baseline, target).verdict == verdict


def test_table_prints_missed_with_the_number() -> None:
    missed = Figure("slow", (0.009, 0.018), (0.001, 0.002), 8.0)
    assert [line.split() for line in table([missed])] == [
        ["figure", "this", "baseline", "ratio", "range", "target"],
        ["slow", "13.5", "ms", "1.5", "ms", "9.00", "9.00", "-", "9.00", "<=", "8", "missed"],
    ]


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [(1.0, 1), (0.004, 1), (0.003, 2), (1e-9, MOST_CALLS), (0.0, MOST_CALLS)],
)
def test_short_work_is_called_until_a_timing_lasts(seconds: float, calls: int) -> None:
    assert calls_for(seconds) == calls


def test_rounds_must_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = Figure("odd", (1.0, 2.0), (1.0,)).ratios


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0012, "1.2 ms"), (3e-6, "3 us"), (4.2e-9, "4.2 ns")]
)
def test_seconds_are_shown_in_their_unit(seconds: float, text: str) -> None:
    assert timed_text(seconds) == text


@pytest.mark.parametrize(("limit", "goal"), [(2e-8, "<= 20 ns met"), (9e-9, "<= 9 ns missed")])
def test_a_figure_without_a_target_may_have_a_longest_time(limit: float, goal: str) -> None:
    assert Figure("token", (1e-8, 1e-8), (1e-9, 1e-9), limit_s=limit).goal == goal


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, ROUNDS), (0.01, ROUNDS), (0.3, 10), (60.0, FEWEST)])
def test_long_work_has_fewer_rounds(seconds: float, rounds: int) -> None:
    assert rounds_for(seconds) == rounds


def test_single_work_is_prepared_before_each_call_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    work = Work(lambda: calls.append("run"), single=True, before=lambda: calls.append("before"))
    assert [len(seconds) for seconds in in_turns({"work": work}, 2).values()] == [2]
    assert calls == ["before", "run"] * 3


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_its_exponent(power: float) -> None:
    assert exponent([(size, 7 * size**power) for size in (3, 10, 64, 5000)]) == pytest.approx(power)


def test_a_curve_that_bends_has_a_steeper_end() -> None:
    curve = Curve("step", "width", "masked", "s", tuple((n, 100.0 + n * n) for n in (1, 10, 100, 1000)), "")
    assert curve.exponent < curve.last == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("cost", "unit", "text"), [(0.5, "s", "500 ms"), (1536, "B", "1.5 KiB"), (3, "B", "3 B")]
)
def test_costs_are_shown_in_their_unit(cost: float, unit: str, text: str) -> None:
    assert shown(cost, unit) == text


def test_minting_is_added_round_by_round() -> None:
    assert minted({"mint": (1.0, 2.0), "masked": (10.0, 30.0), "plain": (0.0, 0.0)}) == (11.0, 32.0)


def test_time_in_a_part_inside_another_counts_once() -> None:
    clock = Clock()
    clock.restart()
    start = time.perf_counter()
    with clock.during("wire"), clock.during("multiply"):
        time.sleep(0.02)
    split = clock.split(1)
    assert sum(split.values()) <= time.perf_counter() - start
    assert list(split) == list(PARTS)
    assert split["wire"] < 0.02 <= split["multiply"]


def test_the_report_has_every_table_and_picture(tmp_path: Path) -> None:
    points = ((1, 0.001), (2, 0.002))
    curves = [Curve("step", "batch", "masked", unit, points, "Rows grow.") for unit in "sB"]
    part = Section("One <part>", [DRIFTING], [Split("step", "compiled", {"mask": 0.1})], curves, ["A note."])
    names = [path.name for path in Report({part.title: part}, [0.5]).write(tmp_path)]
    assert names == ["report.json", "table.md", "report.html", "growth-batch.png", "split.png"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| drifting | 8 s | 2 s | 3.00 | 2.00 - 4.00 | <= 3 met |" in lines
    assert "| step | masked | batch 1 to 2: 1 ms to 2 ms | 1.00 | 1.00 | Rows grow. |" in lines
    assert "One &lt;part&gt;" in (tmp_path / "report.html").read_text()


def test_nothing_is_drawn_of_nothing() -> None:
    assert plots.drawn([], []) == []
