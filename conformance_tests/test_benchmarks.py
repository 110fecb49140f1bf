"""The arithmetic of the benchmarks, on numbers that are given: nothing here is timed."""

import pytest
from benchmarks.ratios import MOST_CALLS, Figure, calls_for, table, timed_text

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
