"""What `make mutmut` counts and refuses, and that the committed page explains every survivor."""

import re
from pathlib import Path

import pytest

import mutation
from mutation import MODULES, PAGE, SURVIVORS, WANTED

KILLED = {f"veil_reference.tape.x_word__mutmut_{n}": "killed" for n in range(1, 40)}
ALIVE = "veil_reference.noise.x_sample__mutmut_1"
SAME = "Equivalent: it is the same."
FEW = dict(list(KILLED.items())[:18])
FOUND = {**KILLED, ALIVE: "survived"}


@pytest.mark.parametrize(
    ("found", "reasons", "said"),
    [
        (FOUND, {ALIVE: SAME}, []),
        ({**FOUND, ALIVE: "timeout"}, {}, []),
        (FOUND, {}, [f"{ALIVE} survives without a reason"]),
        ({**FOUND, ALIVE: "no tests"}, {}, [f"{ALIVE} survives without a reason"]),
        (KILLED, {ALIVE: SAME}, [f"{ALIVE} has a reason and does not survive"]),
        ({ALIVE: "survived"}, {ALIVE: SAME}, ["0 of 0 wrong references are killed: too few"]),
        ({}, {}, ["0 of 0 wrong references are killed: too few"]),
        (
            {**FEW, ALIVE: "survived"},
            {ALIVE: "Not tested: why."},
            ["18 of 19 wrong references are killed: too few"],
        ),
        ({**FEW, ALIVE: "survived"}, {ALIVE: SAME}, []),
    ],
)
def test_a_run_is_refused_for_survivors_without_a_reason_and_for_a_low_score(
    found: dict[str, str], reasons: dict[str, str], said: list[str]
) -> None:
    assert mutation.faults(found, reasons) == said


def test_the_page_has_the_counts_and_each_survivor_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "version", lambda name: "3")
    made = mutation.page(FOUND, {ALIVE: ["-a", "+b"]}, {ALIVE: SAME}, "2026-01-01")
    assert (
        "| tape | 39 | 39 | 0 | 0 | 0 | 100.0 % | 100.0 % |\n| noise | 1 | 0 | 0 | 1 | 0 | none | 0.0 % |"
        in made
    )
    assert "| all | 40 | 39 | 0 | 1 | 0 | 100.0 % | 97.5 % |" in made
    assert f"`{ALIVE}` (survived): {SAME}\n\n```diff\n-a\n+b\n```\n" in made


def test_the_committed_page_reaches_the_score_and_explains_every_survivor() -> None:
    text = Path(PAGE).read_text("utf-8")
    listed = re.findall(r"^`(\S+)` \(\w[\w ]*\): (.+)$", text, re.MULTILINE)
    assert dict(listed) == dict(SURVIVORS)
    counts = re.findall(r"^\| (\w+)" + r" \| (\d+)" * 5, text, re.MULTILINE)
    assert [name for name, *_ in counts] == [*MODULES, "all"]
    total, killed, stuck, same, alive = (int(number) for number in counts[-1][1:])
    assert killed + stuck + same + alive == total and same + alive == len(SURVIVORS)
    assert same == sum(reason.startswith(mutation.EQUIVALENT) for reason in SURVIVORS.values())
    assert killed + stuck >= WANTED * (total - same)
