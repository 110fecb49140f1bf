"""The auditor of sanitizers rejects every broken one in its mode, no correct one, and states its power."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom

from veil_conformance.audit.statistics import clopper_pearson
from veil_conformance.program import Fields, Value
from veil_conformance.sanitizers import (
    accounting,
    base,
    blackbox,
    cases,
    chances,
    correct,
    exact,
    independence,
    laws,
    page,
    run,
)
from veil_conformance.sanitizers.cases import Case
from veil_conformance.sanitizers.serve import InProcess
from veil_conformance.sanitizers.settings import Settings
from veil_conformance.sanitizers.subject import Sanitizer, Subject, Unusable, description
from veil_conformance.sanitizers.verdicts import Finding, Status, Verdict, concluded, overall
from veil_reference.accounting import exact_pmf
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Geometric, TwoSidedGeometric

ENOUGH = Settings(false_rejection=1e-8, draws=150_000, seconds=1e6)
"""For broken sanitizers: a fixed number of outputs, on however busy a machine."""
FEW = Settings(false_rejection=1e-8, draws=40_000, seconds=1.0)
"""For correct ones: all of them together are wrongly rejected with probability below 1e-6."""
QUIET = Console(quiet=True)
Judge = Callable[[str, str, Settings], Verdict]


def key(case: Case) -> str:
    return case.key


def check_rejected(case: Case, judge: Judge) -> None:
    verdict = judge(case.impl, case.mode, ENOUGH)
    assert verdict.status == "REJECTED", verdict.reason
    assert verdict.reason and "\n" not in verdict.reason
    assert run.expected(case, [verdict]), "rejected, but for another reason"


@pytest.mark.parametrize("case", cases.BROKEN, ids=key)
def test_every_broken_sanitizer_is_rejected_in_its_mode(case: Case) -> None:
    check_rejected(case, run.judged)


@pytest.mark.parametrize("case", cases.CORRECT, ids=key)
def test_no_correct_sanitizer_is_rejected(case: Case) -> None:
    made = run.audit_case(case, FEW)
    assert made.status == "NOT REJECTED", [verdict.reason for verdict in made.verdicts]
    assert made.as_expected is True
    assert all(verdict.reason for verdict in made.verdicts), "a verdict without its power"


def test_an_auditor_that_never_rejects_is_noticed() -> None:
    def lazy(impl: str, mode: str, settings: Settings) -> Verdict:
        return Verdict(mode, "NOT REJECTED", "nothing was looked at")

    with pytest.raises(AssertionError):
        check_rejected(cases.BROKEN[0], lazy)


def test_all_negative_cases_and_enough_positive_ones_are_shipped() -> None:
    assert len({case.key for case in cases.BROKEN}) == len(cases.BROKEN) >= 17
    assert len({case.key for case in cases.CORRECT}) == len(cases.CORRECT) >= 7
    assert {case.mode for case in cases.BROKEN} == set(run.MODES)
    assert all(case.checks for case in cases.BROKEN)
    assert all(case.origin for case in (*cases.BROKEN, *cases.CORRECT))


class Claims(base.PermuteAndFlip):
    """Exact epsilon 0.99998, with any claim."""

    name = "a claim"

    def __init__(self, epsilon: str) -> None:
        super().__init__()
        self.epsilon = epsilon


def subject_of(sanitizer: Sanitizer) -> Subject:
    return Subject(InProcess(sanitizer))


def counted(make: Callable[[], Sanitizer], settings: Settings = ENOUGH) -> Verdict:
    @contextmanager
    def opener() -> Iterator[Subject]:
        yield subject_of(make())

    return blackbox.audit(subject_of(make()), settings, opener)


def excess_of(verdict: Verdict) -> float:
    return min(
        float(f.figures["detectable excess"]) for f in verdict.findings if "detectable excess" in f.figures
    )


def test_the_stated_excess_is_detected() -> None:
    right = counted(lambda: Claims("1"))
    assert right.status == "NOT REJECTED"
    excess = excess_of(right)
    assert 0 < excess < 0.8 and f"{excess:.4f}" in right.reason
    lowered = f"{1 - excess:.6f}"
    # Each run rejects with probability 0.95 or more: six failures in a row come up once in 10**7.
    assert any(counted(lambda: Claims(lowered)).status == "REJECTED" for _ in range(6))


def test_the_power_is_what_it_is_said_to_be() -> None:
    p, claim, trials, level, runs = 0.1, 1.0, 20_000, 1e-8, 400
    excess = chances.detectable_excess(p, trials, claim, level)
    assert excess is not None
    random = np.random.default_rng()

    def rejections(loss: float) -> int:
        pairs = zip(
            random.binomial(trials, p, runs), random.binomial(trials, p * math.exp(-loss), runs), strict=True
        )
        bounds = [chances.log_ratio_bound(int(a), trials, int(b), trials, level) for a, b in pairs]
        return sum(bound > claim for bound in bounds)

    # 380 are expected, with a standard deviation of 4.4 at most.
    assert rejections(claim + excess) >= 350
    assert rejections(claim + excess / 4) < 200, "the stated excess is not near the smallest"
    assert rejections(claim) == 0


def test_one_sided_bounds_are_clopper_and_pearsons() -> None:
    for hits, trials in ((0, 300), (1, 2), (150, 300), (299, 300), (300, 300)):
        low, high = clopper_pearson(hits, trials, 0.99)
        assert chances.at_least(hits, trials, 0.005) == pytest.approx(low)
        assert 1 - chances.at_least(trials - hits, trials, 0.005) == pytest.approx(high)
    for level in (0.01, 1e-10):
        low = chances.at_least(40, 30_000, level)
        assert binom.sf(39, 30_000, low) == pytest.approx(level, rel=1e-6)


def test_a_bound_is_exceeded_no_more_often_than_stated() -> None:
    random, trials, runs, level = np.random.default_rng(), 300, 3000, 0.05
    hits, others = random.binomial(trials, 0.2, runs), random.binomial(trials, 0.1, runs)
    bounds = [
        chances.log_ratio_bound(int(a), trials, int(b), trials, level)
        for a, b in zip(hits, others, strict=True)
    ]
    wrong = sum(bound > math.log(2) for bound in bounds)
    # At most 300 are expected, with a standard deviation of 16.
    assert wrong <= 390
    assert max(bounds) < 5 and wrong < runs


def test_the_bound_on_g_holds_for_every_outcome() -> None:
    law, trials = {"a": 0.5, "b": 0.3, "c": 0.2}, 24
    found = []
    for a, b in product(range(trials + 1), repeat=2):
        if a + b <= trials:
            counts = {"a": a, "b": b, "c": trials - a - b}
            ways = math.factorial(trials) / math.prod(math.factorial(seen) for seen in counts.values())
            chance = ways * math.prod(law[name] ** seen for name, seen in counts.items())
            found.append((*chances.relative_entropy_p_value(counts, law), chance))
    for statistic, p_value, _ in found:
        assert p_value >= sum(chance for other, _, chance in found if other >= statistic - 1e-9) - 1e-12
    assert min(p_value for _, p_value, _ in found) < 1e-8
    assert chances.relative_entropy_p_value({"d": 1}, law) == (math.inf, 0.0)


def test_a_shift_as_large_as_stated_is_noticed() -> None:
    trials, level = 20_000, 1e-8
    shift = chances.detectable_shift(0.4, trials, 3, level)
    assert shift is not None and 0.01 < shift < 0.1
    random, law = np.random.default_rng(), {"a": 0.4, "b": 0.4, "c": 0.2}

    def noticed(rise: float) -> int:
        drawn = random.multinomial(trials, [0.4 + rise, 0.4 - rise / 2, 0.2 - rise / 2], 200)
        pairs = (dict(zip("abc", map(int, row), strict=True)) for row in drawn)
        return sum(chances.relative_entropy_p_value(counts, law)[1] <= level for counts in pairs)

    assert noticed(shift) >= 170
    assert noticed(0) == 0


def as_law(**fields: Value) -> laws.Law:
    return laws.parse(fields)


def values(law: laws.Law) -> list[Fraction]:
    return list(law.chances.values())


def test_laws_have_their_known_answers() -> None:
    scores: list[Value] = [0, 2, 1]
    one, two = ({"kind": kind, "alpha": "2/3"} for kind in ("geometric", "two-sided-geometric"))
    assert values(as_law(scores=scores, noise=one)) == [
        Fraction(4, 19),
        Fraction(479, 855),
        Fraction(196, 855),
    ]
    thirds = [Fraction(112, 475), Fraction(1179, 2375), Fraction(636, 2375)]
    assert values(as_law(scores=scores, noise=two)) == thirds
    inverse_e = str(Fraction(math.exp(-1)))
    flipped = values(as_law(scores=[1, -1], noise={"kind": "exponential", "alpha": inverse_e}))
    softmax = values(as_law(scores=[1, -1], noise={"kind": "gumbel", "alpha": inverse_e}))
    assert [float(law[0]) for law in (flipped, softmax)] == pytest.approx([0.93233236, 0.88079708], abs=1e-8)
    assert sum(flipped) == sum(softmax) == 1


def test_listed_noise_agrees_with_geometric_noise() -> None:
    scores, steps = [3, 0, 5, 5], 90
    weights = [2 ** (steps - k) for k in range(steps)]
    mine = laws.listed_noise(scores, 0, weights)
    theirs = exact_pmf(scores, Geometric(Fraction(1, 2)))
    assert sum(mine) == 1
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < Fraction(1, 2**80)
    assert laws.listed_noise([0, 1], -1, [1, 1]) == [Fraction(1, 4), Fraction(3, 4)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights": [1, 2], "total": 4}, "sum to 4 -1"),
        ({"weights": [5, -1], "total": 4}, "negative"),
        ({"scores": [1], "noise": {"kind": "listed", "start": 0, "weights": [0]}}, "all are 0"),
    ],
)
def test_numbers_that_are_no_distribution_are_named(fields: Fields, said: str) -> None:
    with pytest.raises(laws.NoLaw, match=re.escape(said)):
        laws.parse(fields)


def test_a_claim_is_compared_exactly() -> None:
    e_below = Fraction(27182818284590452353602874713526624977572470936999, 10**49)
    e_above = e_below + Fraction(1, 10**49)
    assert not laws.exceeds(e_below, Fraction(1)) and laws.exceeds(e_above, Fraction(1))
    assert not laws.exceeds(Fraction(1), Fraction(0)) and laws.exceeds(
        Fraction(10**9 + 1, 10**9), Fraction(0)
    )
    assert not laws.exceeds(Fraction(2) ** 144, Fraction(100)) and laws.exceeds(
        Fraction(2) ** 145, Fraction(100)
    )
    low, high = laws.powers_of_e(Fraction(7, 2))
    assert low < high and float(low) == pytest.approx(math.exp(3.5)) == float(high)


def test_the_exact_figure_is_that_of_an_exhaustive_search() -> None:
    subject = subject_of(correct.OptimizedTwoSided())
    ratio = Fraction(0)
    for part in correct.TOY:
        rows = [exact_pmf(row, TwoSidedGeometric(correct.calibrated("1"))) for row in part["scores"]]
        ratio = max(ratio, *(a / b for x in rows for y in rows for a, b in zip(x, y, strict=True)))
    parts = [list(part) for part in subject.description.parts]
    found = {token: laws.parse(subject.law(token)) for token in subject.description.tokens}
    assert exact._worst(parts, found)[0] == ratio


def test_opendp_follows_our_one_sided_law() -> None:
    scores, level = [3, 2, 1, 0], 1e-8
    sanitizer = correct.OpenDp()
    sanitizer.rows = {"x": scores}
    counts = Counter(map(laws.symbol, sanitizer.sample("x", 20_000)))
    alpha = Fraction(math.exp(-0.5))

    def p_value(law: Sequence[Fraction]) -> float:
        named = {laws.symbol(i): float(chance) for i, chance in enumerate(law)}
        return chances.relative_entropy_p_value(counts, named)[1]

    ours = laws.one_sided_exponential(scores, alpha)
    assert p_value(ours) > level
    assert p_value(laws.exponential_mechanism(scores, alpha)) < level
    # On a finer and finer grid, exact_pmf comes to the same law: each halving halves what is left.
    gaps = []
    for fine in (8, 16, 32):
        grid = Geometric(Fraction(round(math.exp(-1 / (2 * fine)) * 2**16), 2**16))
        law = exact_pmf([fine * score for score in scores], grid)
        gaps.append(max(abs(float(a - b)) for a, b in zip(law, ours, strict=True)))
    assert gaps[2] < 0.01 and gaps[1] / gaps[0] == pytest.approx(0.5, abs=0.05) == gaps[2] / gaps[1]
    assert sanitizer.epsilon == "1.0"


def oracle(pair: accounting.Pair, count: int, pessimistic: bool) -> tuple[Callable[[float], float], ...]:
    """Return dp_accounting's epsilon of a delta and delta of an epsilon, for `count` outputs of a pair."""
    module = import_module("dp_accounting.pld.privacy_loss_distribution")
    p, q = pair.p / accounting.GRID, pair.q / accounting.GRID
    mine, theirs = ({0: math.log(each), 1: math.log(1 - each)} for each in (p, q))
    made = module.from_two_probability_mass_functions(
        theirs, mine, value_discretization_interval=1e-4, pessimistic_estimate=pessimistic
    ).self_compose(count)
    return made.get_epsilon_for_delta, made.get_delta_for_epsilon


@pytest.mark.parametrize(("count", "delta"), [(10, "0.000001"), (100, "0.000001")])
def test_totals_agree_with_dp_accounting(count: int, delta: str) -> None:
    found = accounting.strongest(Fraction(1), count, Fraction(delta))
    assert found is not None
    pair, least = found
    low, _ = oracle(pair, count, pessimistic=False)
    high, delta_of = oracle(pair, count, pessimistic=True)
    assert low(float(delta)) - 1e-4 <= float(least) <= high(float(delta))
    assert high(float(delta)) - low(float(delta)) < 0.03
    mine = float(accounting.delta_at_least(pair, count, Fraction(count, 4)))
    assert mine == pytest.approx(delta_of(count / 4), rel=0.02)
    assert accounting.delta_at_least(pair, count, least) > Fraction(delta)


def test_pure_composition_agrees_with_dp_accounting() -> None:
    grid = accounting.GRID
    coin = accounting.Pair(int(grid / (1 + math.exp(-1))), int(grid / (1 + math.exp(1))))
    high, _ = oracle(coin, 100, pessimistic=True)
    total = high(1e-6)
    assert total == pytest.approx(83.53, abs=0.02)
    assert accounting.delta_at_least(coin, 100, Fraction(total - 0.1)) > Fraction("0.000001")
    assert accounting.delta_at_least(coin, 100, Fraction(total + 0.1)) < Fraction("0.000001")
    assert accounting.delta_at_least(coin, 100, Fraction(101)) == 0


class Total(correct.Tabulated):
    """An accountant that claims what it is told to, in parts of the sum."""

    share = "1"

    def compose(self, epsilon: str, count: int, delta: str) -> str:
        return f"{float(epsilon) * count * float(self.share):.6f}"


def test_a_total_is_rejected_only_below_what_is_lost() -> None:
    sanitizer = Total()
    assert accounting.audit(subject_of(sanitizer), FEW).status == "NOT REJECTED"
    sanitizer.share = "0.999"
    verdict = accounting.audit(subject_of(sanitizer), FEW)
    assert verdict.status == "REJECTED"
    assert [f.check for f in verdict.findings if f.rejects] == [
        f"composition of {count}, delta 0" for count in (1, 2, 10)
    ]


def test_scores_that_all_move_one_way_may_be_called_monotone() -> None:
    sanitizer = base.PermuteAndFlip()
    sanitizer.name, sanitizer.monotone = "monotone", True
    sanitizer.rows = {"high": [3, 2, 1], "low": [2, 2, 1]}
    assert accounting.audit(subject_of(sanitizer), FEW).status == "NOT REJECTED"
    sanitizer.rows = {"high": [3, 2, 1], "low": [2, 3, 1]}
    assert accounting.audit(subject_of(sanitizer), FEW).status == "REJECTED"


class VerbatimDocuments(correct.Laplace):
    """Single tokens are noised, those of documents are not."""

    def sanitize(self, document: Sequence[str]) -> Sequence[Value]:
        return list(document)


def test_documents_that_pass_unchanged_are_rejected() -> None:
    verdict = counted(VerbatimDocuments)
    assert [f.check for f in verdict.findings if f.rejects] == ["independence, documents and samples"]


def test_streams_of_independent_outputs_are_told_from_copies() -> None:
    random = np.random.default_rng()

    def stream() -> list[str]:
        return [str(value) for value in random.integers(0, 3, 4000)]

    one, two = stream(), stream()
    copied = [a if keep else b for a, b, keep in zip(one, two, random.random(4000) < 0.5, strict=True)]
    assert chances.matching_p_value(*independence.two_streams(one, two))[2] > 1e-7
    assert chances.matching_p_value(*independence.two_streams(one, copied))[2] < 1e-12
    assert chances.matching_p_value(*independence.one_stream(one))[2] > 1e-7
    doubled = [value for value in one[:2000] for _ in range(2)]
    assert chances.matching_p_value(*independence.one_stream(doubled))[2] < 1e-12
    share = chances.detectable_copies(1 / 3, 2000, 1e-8)
    assert share is not None and 0.05 < share < 0.3


def test_pairs_share_no_output() -> None:
    one, two = ([f"{name}{i}" for i in range(64)] for name in "ab")
    for suspects, controls in (independence.two_streams(one, two), independence.one_stream(one)):
        used = [output for pair in (*suspects, *controls) for output in pair]
        assert len(set(used)) == len(used) and len(suspects) > 10 < len(controls)


NAMES = [
    "",
    "no_such_module_at_all",
    "json:nothing",
    "json",
    "json:loads",
    "a b",
    "module:",
    "exec:",
    "exec:./no_such_program",
    "exec:'open",
    "exec:true",
    "exec:echo hello",
    "collections:Counter",
]


@pytest.mark.parametrize("impl", NAMES)
def test_a_name_that_leads_nowhere_gives_one_line(impl: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        run.audit_sanitizer(impl, tmp_path / "out", QUIET)
    said = str(caught.value)
    assert caught.value.reason is Refusal.MODE_UNAVAILABLE
    assert said.startswith(f"MODE_UNAVAILABLE: --impl {impl}: ") and "\n" not in said and len(said) < 500
    assert not (tmp_path / "out").exists()


def test_a_bad_name_ends_the_command_with_2() -> None:
    command = [sys.executable, "-m", "veil_conformance.sanitizers", "--impl", "no_such_module_at_all"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", "-1"),
        ("epsilon", 1),
        ("epsilon", "1e3"),
        ("epsilon", "1001"),
        ("adjacency", "word"),
        ("parts", []),
        ("parts", [["a"]]),
        ("parts", [["a", "a"]]),
        ("parts", ["ab"]),
        ("parts", [["a", 1]]),
        ("offers", ["magic"]),
        ("worst", ["a", "a"]),
        ("worst", ["a", "z"]),
        ("name", ""),
        ("monotone", "yes"),
        ("colour", "blue"),
    ],
)
def test_a_malformed_description_names_its_field(field: str, value: Value) -> None:
    good: dict[str, Value] = {"name": "n", "epsilon": "1", "adjacency": "part", "parts": [["a", "b"]]}
    assert description(good).tokens == ("a", "b")
    with pytest.raises(Unusable, match=field if field != "colour" else "describe must give"):
        description(good | {field: value})


PROGRAM = """
import json, os, sys, time
about = {"name": "x", "epsilon": "1", "adjacency": "part", "parts": [["a", "b"]]}
about["offers"] = ["law", "compose"]
for line in sys.stdin:
    request = json.loads(line)
    if request["operation"] == "describe":
        print(json.dumps({"id": request["id"], "output": about}), flush=True)
        continue
    %s
"""
FAULTS = {
    "sys.exit(3)": "ended with status 3",
    "raise KeyError('nothing of this name')": "KeyError: 'nothing of this name'",
    "os.kill(os.getpid(), 9)": "ended with status -9",
    "print('Loading model...', flush=True)": "which is not JSON",
    "print('[' * 100000, flush=True)": "which is not JSON",
    "print(json.dumps({'id': 0, 'output': []}), flush=True)": "does not answer request",
    "print(json.dumps({'id': request['id']}), flush=True)": "does not answer request",
    "print(json.dumps({'id': request['id'], 'output': ['a']}), flush=True)": "gave ['a']",
    "print(json.dumps({'id': request['id'], 'output': 'a' * 128}), flush=True)": "gave 'aaa",
    "print(json.dumps({'id': request['id'], 'refusal': '1\\n2'}), flush=True)": "was refused: '1\\n2'",
    "sys.stdin.close(); print('{}', flush=True)": "does not answer request",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_program_that_fails_is_crashed_in_one_line(fault: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM % fault, "utf-8")
    made = run.audit(f"exec:{sys.executable} {program}", FEW)
    assert made.status == "CRASHED"
    assert [verdict.status for verdict in made.verdicts] == ["CRASHED"] * 3
    for verdict in made.verdicts:
        assert "\n" not in verdict.reason and len(verdict.reason) < 400
    assert FAULTS[fault] in made.verdicts[1].reason


SILENCES = {
    "time.sleep(60)": "sample: no answer within 4 seconds",
    "os.close(1); time.sleep(60)": "sample: the program closed its standard input or output",
    "pass": "sample: the request is not read within 4 seconds",
}


@pytest.mark.parametrize("fault", SILENCES)
def test_a_program_that_says_nothing_is_crashed(fault: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    unread = PROGRAM.replace('"a"', '"a" * 10**6').replace("continue", "time.sleep(60)")
    program.write_text((unread if fault == "pass" else PROGRAM) % fault, "utf-8")
    verdict = run.judged(f"exec:{sys.executable} {program}", blackbox.MODE, replace(FEW, timeout=4.0))
    assert (verdict.status, verdict.reason) == ("CRASHED", SILENCES[fault])


def test_a_program_that_fails_later_is_crashed(tmp_path: Path) -> None:
    text = Path(cases.COIN).read_text("utf-8").replace("for line", "left = 12\nfor line")
    text = text.replace("    given =", "    left -= 1\n    left or sys.exit(9)\n    given =")
    (tmp_path / "program.py").write_text(text, "utf-8")
    verdict = run.judged(f"exec:{sys.executable} {tmp_path / 'program.py'}", blackbox.MODE, FEW)
    assert verdict.status == "CRASHED" and "status 9" in verdict.reason


def test_a_python_sanitizer_that_prints_is_heard_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(
        "from veil_conformance.sanitizers.correct import Tabulated\n"
        "print('hello')\n"
        "def sanitizer():\n    print('made')\n    return Tabulated()\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run.audit("loud", FEW).status == "NOT REJECTED"


def test_the_first_verdict_that_matters_counts() -> None:
    def said(*statuses: str) -> str:
        return overall([Verdict("m", cast(Status, status), "") for status in statuses])

    assert said("NOT EXPOSED", "NOT REJECTED") == "NOT REJECTED"
    assert said("NOT REJECTED", "CRASHED") == "CRASHED"
    assert said("CRASHED", "REJECTED", "NOT REJECTED") == "REJECTED"
    with pytest.raises(ValueError):
        concluded("m", [], 0, 0.0)
    assert concluded("m", [Finding("c", False, "")], 0, 0.0).status == "NOT REJECTED"


def test_a_case_that_goes_wrong_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = replace(cases.BROKEN[0], mode=exact.MODE, checks=("exact epsilon",)), cases.CORRECT[-1]
    few = replace(FEW, draws=4000)
    monkeypatch.setattr(cases, "BROKEN", (good,))
    monkeypatch.setattr(cases, "CORRECT", (bad,))
    assert run.audit_cases(tmp_path / "right", QUIET, few)
    monkeypatch.setattr(cases, "BROKEN", (replace(bad, mode="black-box"),))
    monkeypatch.setattr(cases, "CORRECT", (replace(good, mode=""), Case("no_such_module_at_all", "missing")))
    assert not run.audit_cases(tmp_path / "wrong", QUIET, few)
    held = json.loads((tmp_path / "wrong" / "verdicts.json").read_text("utf-8"))
    assert held["unexpected"] == [bad.impl, good.impl, "no_such_module_at_all"]
    assert [each["status"] for each in held["audits"]] == ["NOT REJECTED", "REJECTED", "NOT RUN"]
    shown = (tmp_path / "wrong" / "verdicts.html").read_text("utf-8")
    assert "Not as it must be" in shown and "NOT RUN" in shown


class Markup(correct.Tabulated):
    """A sanitizer whose name is markup."""

    name = "<script>alert(1)</script>"


def test_the_page_shows_names_as_they_are_and_stands_alone(tmp_path: Path) -> None:
    verdict = exact.audit(subject_of(Markup()), FEW)
    made = run.Audit("m:<b>", Markup.name, "epsilon 1", [verdict], verdict.status)
    page.write(page.content([made.as_json()], FEW), tmp_path)
    shown = (tmp_path / "verdicts.html").read_text("utf-8")
    assert "&lt;script&gt;" in shown and "<script" not in shown and "<b>" not in shown
    assert "NOT REJECTED" in shown and not re.search(r"(src|href)=\"(?!#)", shown)


def test_a_mode_that_has_nothing_to_look_at_says_so() -> None:
    sanitizer = subject_of(correct.Laplace())
    assert exact.audit(sanitizer, FEW).status == "NOT EXPOSED"
    assert accounting.audit(sanitizer, FEW).status == "NOT EXPOSED"


def test_a_constant_law_passes_and_shows_no_power() -> None:
    class Constant(base.Described):
        name, parts = "constant", (("a", "b"),)

        def draw(self, token: str) -> Value:
            return 0

    verdict = counted(Constant, FEW)
    assert verdict.status == "NOT REJECTED" and "no dependence can show" in verdict.reason
