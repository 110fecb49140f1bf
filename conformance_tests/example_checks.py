"""The examples in other languages: every vector, every malformed line, and every wrong line of arithmetic.

`make examples` runs this, and the suite itself on each program. A compiler or interpreter that is not there
is a failure.
"""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import example_mutants
from example_cases import Case
from example_mutants import LANGUAGES, Language, Program
from veil_spec import __version__

TOOLS: Final = {"c": "cc", "javascript": "node"}
DAMAGED: Final = 100
"""Lines with a wrong byte, cut short or with a part twice."""
LINES: Final = 600
"""A C source is shorter: an auditor reads it in one sitting."""
EQUIVALENT: Final[dict[str, dict[tuple[str, str, str], str]]] = {"c": {}, "javascript": {}}
"""For each language: (line, token, what takes its place) to why nothing can tell them apart."""


@dataclass(frozen=True)
class Example:
    """A built example, and the cases of the operations that it claims."""

    name: str
    language: Language
    program: Program
    cases: list[Case]
    long: list[Case]


@pytest.fixture(scope="module", params=LANGUAGES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Yield each example, in its careful build; fail where it cannot be built."""
    name = request.param
    language = LANGUAGES[name]
    if shutil.which(TOOLS[name]) is None:
        pytest.fail(f"no {TOOLS[name]}: make examples needs one", pytrace=False)
    source = language.source.read_text()
    program = example_mutants.built(language, source, tmp_path_factory.mktemp(name), careful=True)
    assert program is not None, f"{language.source} is no program"
    ask = {"operation": "describe", "input": {}}
    about = json.loads(program.run(example_mutants.requests([ask])).stdout)["output"]
    assert about["spec_version"] == __version__
    cases = [ask | {"output": about}, *example_mutants.vectors(about["operations"])]
    yield Example(name, language, program, cases, example_mutants.long_cases(about["operations"]))


def test_it_has_no_warning_and_is_short(example: Example, tmp_path: Path) -> None:
    """C is built with all warnings as errors, for the standard alone."""
    source = example.language.source
    assert len(source.read_text().splitlines()) < LINES
    if example.name == "c":
        command = ("cc", *example_mutants.STRICT, "-O2", "-o", str(tmp_path / "veil"), str(source))
        assert subprocess.run(command).returncode == 0


def test_it_answers_every_case(example: Example) -> None:
    """C does so with every access to memory and every operation checked."""
    cases = [*example.cases, *example.long]
    done = example.program.run(example_mutants.requests(cases))
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for case, right, answer in zip(cases, example_mutants.responses(cases), found, strict=True):
        assert answer == right, case


def test_a_malformed_line_ends_it_with_one_line(example: Example) -> None:
    """Exit status 2, one line on standard error, nothing on standard output."""
    assert example.program.is_strict()


def test_no_damaged_line_does_harm(example: Example) -> None:
    """Requests with one fault each are answered, refused or turned down; a crash has another status."""
    chance = random.Random(example.name)
    lines = [line for line in example_mutants.requests(example.cases).splitlines() if len(line) < 2000]
    damaged = [_damaged(chance.choice(lines), chance) for _ in range(DAMAGED)]
    while damaged:
        done = example.program.run("".join(f"{line}\n" for line in damaged), seconds=100)
        answered = done.stdout.count("\n")
        assert done.returncode == (2 if answered < len(damaged) else 0), damaged[answered]
        assert done.stderr.count("\n") == (answered < len(damaged)), done.stderr
        damaged = damaged[answered + 1 :]


def _damaged(line: str, chance: random.Random) -> str:
    place, other = sorted(chance.sample(range(len(line)), 2))
    wrong = chance.choice('"{}[],:-0123456789abcdeft\\ \x01\x7f')
    return chance.choice(
        (
            line[:place],
            line[:place] + wrong + line[place + 1 :],
            line[:place] + line[other:],
            line[:other] + line[place:],
        )
    )


def test_every_wrong_line_of_arithmetic_is_caught(example: Example) -> None:
    """One operator or number at a time is another; a line that nothing tells from it is reported."""
    alive, made = example_mutants.survivors(example.language, example.cases, example.long)
    known = EQUIVALENT[example.name]
    found = {(mutant.text, mutant.old, mutant.new) for mutant in alive}
    unexplained = [str(mutant) for mutant in alive if (mutant.text, mutant.old, mutant.new) not in known]
    print(f"{example.name}: {made - len(alive)} of {made} mutants caught, {len(known)} explained")
    assert made > 300
    assert not unexplained, "\n".join(unexplained)
    assert not set(known) - found, "explained, but caught or gone"


def test_a_change_without_effect_survives(example: Example) -> None:
    """The control: what is the same program is not caught, and what lacks a refusal is."""
    source = example.language.source.read_text()
    judge = example_mutants.survives
    assert judge(example.language, source + "\n", example.cases, example.long)
    wrong = re.sub(r'"SCORES_EMPTY"', '"SCORE_EMPTY"', source)
    assert judge(example.language, wrong, example.cases, example.long) is False
