"""Programs under test: the reference has its verdicts behind the protocol, and what fails is told as such."""

import contextlib
import io
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import hypothesis
import jsonschema
import pytest

from veil_conformance import __main__ as command_line
from veil_conformance import loading, process, program, runner
from veil_conformance.codec import SIGNATURES, Fields, Json
from veil_conformance.process import Limits, Plugin
from veil_conformance.suite import ROOT
from veil_conformance.verdicts import verdicts, why
from veil_spec import __version__
from veil_spec.interface import Implementation

SCHEMA = json.loads((ROOT / "vectors" / "protocol.json").read_text("utf-8"))
SERVED = f"exec:{sys.executable} -m veil_conformance.serve"
hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("mutants"), max_examples=10)
SEEN = 12
"""Requests and responses of each operation that are held against the schema."""
SHORT = 20_000
"""Most characters of those: a schema takes seconds for a million integers."""


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return what holds a line against a definition of the schema."""
    return jsonschema.Draft202012Validator(SCHEMA | {"anyOf": [{"$ref": f"#/$defs/{name}"}]})


class Watched(Plugin):
    """A program whose lines are held against the schema, and whose operations are noted."""

    def __init__(self, line: str) -> None:
        self.asked: list[str] = []
        self.counts: Counter[str] = Counter()
        super().__init__(program.words(line.removeprefix(program.PREFIX)))

    def _ask(self, operation: str, given: Mapping[str, Json], seconds: float) -> Json:
        self.asked.append(operation)
        output = super()._ask(operation, given, seconds)
        short = len(json.dumps([given, output])) <= SHORT
        self.counts[operation] += short
        if short and self.counts[operation] <= SEEN:
            validator(f"{operation}.request").validate({"id": 1, "operation": operation, "input": given})
            validator(f"{operation}.output").validate({"id": 1, "output": output})
        return output


@dataclass
class Watch(runner.Suite):
    """A run that notes which tests were left out after they had asked for something."""

    mixed: list[str] = field(default_factory=list)

    def pytest_runtest_logstart(self) -> None:
        """Forget what the last test asked for."""
        super().pytest_runtest_logstart()
        cast(Watched, self.implementation).asked.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was left out and should have been two."""
        super().pytest_runtest_logreport(report)
        asked = set(cast(Watched, self.implementation).asked) - {"seeded_tape"}
        if self.results and self.results[-1].outcome == "left out" and report.when == "call" and asked:
            self.mixed.append(report.nodeid)


def quietly(suite: runner.Suite, *files: str, profile: str = "mutants") -> str:
    """Return what a run prints; its results are in the suite."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runner.run(suite, profile, ["--tb=short"], files)
    return printed.getvalue()


def test_the_reference_behind_the_protocol_has_its_verdicts() -> None:
    plugin = Watched(f"{SERVED} veil_reference")
    suite = Watch(cast(Implementation, plugin))
    try:
        printed = quietly(suite, profile="few")
    finally:
        plugin.close()
    assert {name: said for name, said in verdicts(suite.results).items() if said != "PASS"} == {}, printed
    assert not any(suite.troubles.values())
    assert suite.mixed == []
    outcomes = Counter(result.outcome for result in suite.results)
    assert set(outcomes) == {"passed", "left out"} and outcomes["left out"] < outcomes["passed"] // 20
    assert set(plugin.counts) == {"describe", *SIGNATURES}


MIXED = """
import pytest

@pytest.mark.requirement("MDL-R10")
def test_two_in_one(impl):
    assert impl.greedy([1]) == 0
    assert impl.greedy([2**60]) == 0

@pytest.mark.requirement("MDL-R10")
def test_one(impl):
    assert impl.greedy([2**60]) == 0
"""


def test_a_test_that_is_left_out_half_way_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(MIXED, "utf-8")
    plugin = Watched(f"{SERVED} veil_reference")
    suite = Watch(cast(Implementation, plugin))
    quietly(suite, str(tmp_path / "test_mixed.py"))
    plugin.close()
    assert [name.split("::")[1] for name in suite.mixed] == ["test_two_in_one"]
    assert verdicts(suite.results) == {"MDL-R10": "NOT CLAIMED"}


THEIRS = """
from veil_reference.implementation import Reference
from veil_spec.types import Selection

class Wrong(Reference):
    name = "wrong"
    operations = frozenset({"select", "seeded_tape", "sample", "noise"})

    @staticmethod
    def select(scores, noise, tape, token=0, document=0):
        right = Reference.select(scores, noise, tape, token, document)
        noisy = [s + Reference.sample(noise, tape, token, c, document) for c, s in enumerate(scores)]
        last = len(noisy) - 1 - noisy[::-1].index(noisy[right.index])
        return Selection(last)

def wrong():
    return Wrong()
"""


def test_what_a_wrong_program_is_asked_is_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS, "utf-8")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), *filter(None, sys.path)]))
    plugin = loading.load(f"{SERVED} theirs:wrong")
    suite = runner.Suite(plugin, frozenset({"NMX-R4"}))
    printed = quietly(suite, "test_noisy_max.py", profile="ci")
    cast(Plugin, plugin).close()
    assert verdicts(suite.results) == {"NMX-R4": "FAIL"}
    assert "noises=[0, 0]" in printed and "top=3" in printed
    assert re.search(
        r'^> {"id": 1, "operation": "select".*\n< {"id": 1, "output": {"index": 1}}$', printed, re.M
    )
    assert not any(suite.troubles.values())


PROGRAM = """
import hashlib, json, os, sys, time
operations = ["greedy", "ratchet"]
about = {"name": "x", "version": "7", "spec_version": "VERSION", "operations": operations}
for line in sys.stdin:
    request = json.loads(line)
    number, operation, given = request["id"], request["operation"], request["input"]
    if operation == "describe":
        answer = about
    elif operation == "ratchet":
        tag = b"veil VERSION rmo.ratchet"
        answer = hashlib.sha256(bytes([len(tag)]) + tag + bytes.fromhex(given["seed"])).hexdigest()
    else:
        answer = given["row"].index(max(given["row"]))
    reply = {"id": number, "output": answer}
    FAULT
    print(json.dumps(reply), flush=True)
""".replace("VERSION", __version__)


def stand(tmp_path: Path, fault: str) -> str:
    """Return the name of a program with one fault."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("FAULT", fault), "utf-8")
    return f"exec:{sys.executable} {path}"


FAULTS = {
    "sys.exit(3)": "CRASHED: greedy: the program ended with status 3",
    "raise KeyError('nothing')": "CRASHED: greedy: the program ended with status 1: KeyError: 'nothing'",
    "os.kill(os.getpid(), 11)": "CRASHED: greedy: the program ended with status -11",
    "os.close(1); time.sleep(9)": "CRASHED: greedy: the program closed its standard input or output",
    "time.sleep(9)": "TIMEOUT: greedy: no answer within 0.5 seconds",
    "print('Loading...', flush=True)": "GARBAGE: greedy: standard output holds 'Loading...', which",
    "print('[' * 10**5, flush=True)": "which is not JSON",
    "print(flush=True)": "standard output holds '', which is not JSON",
    "os.write(1, b'\\xff\\n')": "which is not JSON",
    "reply['id'] += 1": "does not answer request",
    "reply['id'] = True": "does not answer request",
    "reply['id'] = str(number)": "does not answer request",
    "reply['time'] = 1": "does not answer request",
    "reply['refusal'] = None": "does not answer request",
    "del reply['output']": "does not answer request",
    "reply = [reply]": "does not answer request",
    'print(\'{"id": %d, "id": %d, "output": 0}\' % (number, number)); continue': "which is not JSON",
    "reply = {'id': number, 'refusal': 'NO_SUCH_NAME'}": "no refusal has the name 'NO_SUCH_NAME'",
    "reply = {'id': number, 'refusal': ['WOULD_WRAP']}": "no refusal has the name ['WOULD_WRAP']",
    "reply['output'] = str(answer)": "not an integer below 2^53: '",
    "reply['output'] = float(answer)": "not an integer below 2^53: ",
    "reply['output'] = bool(answer)": "not an integer below 2^53: ",
    "reply['output'] = answer + 2**53": "not an integer below 2^53: ",
    "reply['output'] = None": "not an integer below 2^53: None",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_program_that_fails_is_told_as_such_and_never_passed(tmp_path: Path, fault: str) -> None:
    name = stand(tmp_path, f"if operation == 'greedy':\n        {fault}")
    plugin = loading.load(name, Limits(answer=0.5, restarts=9))
    suite = runner.Suite(plugin, frozenset({"MDL-R10", "RMO-R22"}))
    printed = quietly(suite, "test_vectors.py")
    cast(Plugin, plugin).close()
    assert verdicts(suite.results) == {"MDL-R10": "FAIL", "RMO-R22": "PASS"}
    assert suite.troubles["RMO-R22"] == []
    said = why(suite.troubles["MDL-R10"])
    assert FAULTS[fault] in said and "\n" not in said and len(said) < 400
    assert re.match(r" \(4 (CRASHED|TIMEOUT|GARBAGE); first \1: greedy: ", said)
    assert 'The input was {"row": [' in printed


def test_a_property_ends_where_the_program_does_and_is_not_shrunk(tmp_path: Path) -> None:
    name = stand(tmp_path, "if operation == 'greedy' and len(given['row']) > 1:\n        sys.exit(3)")
    plugin = loading.load(name)
    suite = runner.Suite(plugin, frozenset({"MDL-R10"}))
    printed = quietly(suite, "test_model.py", profile="ci")
    cast(Plugin, plugin).close()
    assert [str(trouble) for trouble in suite.troubles["MDL-R10"]] == [
        "greedy: the program ended with status 3"
    ]
    assert verdicts(suite.results) == {"MDL-R10": "FAIL"} and 'The input was {"row": [' in printed


def test_a_program_is_started_anew_a_stated_number_of_times(tmp_path: Path) -> None:
    name = stand(tmp_path, "operation == 'describe' or sys.exit(5)")
    plugin = loading.load(name, Limits(restarts=2))
    suite = runner.Suite(plugin, frozenset({"MDL-R10", "RMO-R22"}))
    quietly(suite, "test_vectors.py")
    cast(Plugin, plugin).close()
    said = [str(trouble) for trouble in suite.troubles["MDL-R10"] + suite.troubles["RMO-R22"]]
    assert [line.split(": ")[1] for line in said[:3]] == ["the program ended with status 5"] * 3
    assert {line.split(": ", 1)[1] for line in said[3:]} == {
        "not asked: the program was started anew 2 times before"
    }
    assert verdicts(suite.results) == {"MDL-R10": "FAIL", "RMO-R22": "FAIL"}
    assert why(suite.troubles["MDL-R10"]).startswith(f" ({len(suite.troubles['MDL-R10'])} CRASHED; first ")


AGAIN = """
    if os.path.exists(MARK) and operation == "describe":
        ACTION
    open(MARK, "w").close()
    operation == "describe" or sys.exit(5)
"""


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("time.sleep(9)", "SLOW START: describe: no answer within 0.5 seconds"),
        ("about['version'] = '8'", "GARBAGE: describe: the program describes itself otherwise than before"),
        ("sys.exit(6)", "CRASHED: describe: the program ended with status 6"),
    ],
)
def test_a_program_that_fails_when_it_is_started_anew_is_told(tmp_path: Path, action: str, said: str) -> None:
    mark = repr(str(tmp_path / "mark"))
    name = stand(tmp_path, AGAIN.strip().replace("MARK", mark).replace("ACTION", action))
    plugin = cast(Plugin, loading.load(name, Limits(start=5.0)))
    plugin._limits = Limits(start=0.5)
    suite = runner.Suite(cast(Implementation, plugin), frozenset({"MDL-R10"}))
    quietly(suite, "test_vectors.py")
    plugin.close()
    assert [f"{t.name}: {t}" for t in suite.troubles["MDL-R10"]][1] == said


STARTS = {
    "sys.exit(4)": "CRASHED: describe: the program ended with status 4",
    "time.sleep(9)": "SLOW START: describe: no answer within 0.5 seconds",
    "print('hello', flush=True)": "GARBAGE: describe: standard output holds 'hello', which is not JSON",
    "reply['id'] = 9": "does not answer request 1",
    "reply['more'] = 9": "does not answer request 1",
    "reply = {'id': 1, 'refusal': 'WOULD_WRAP'}": "GARBAGE: describe: WOULD_WRAP",
    "del about['version']": "not an object of name, version, spec_version, operations",
    "about['more'] = ''": "not an object of name, version, spec_version, operations",
    "about['name'] = 1": "not a string: 1",
    "operations.append('greedy')": "an operation is claimed twice",
    "operations.append('fly')": "claims unknown operations: fly",
    "operations.clear()": "claims no operation",
    "about['spec_version'] = '0.0.1'": "implements version 0.0.1",
    "operations.append('seeded_tape')": "word comes with seeded_tape or listed_tape",
    "operations.append('word')": "word comes with seeded_tape or listed_tape",
}


@pytest.mark.parametrize("fault", STARTS)
def test_a_program_that_does_not_describe_itself_is_not_tested(tmp_path: Path, fault: str) -> None:
    start = 0.5 if fault == "time.sleep(9)" else 10.0
    with pytest.raises(loading.Unusable) as raised:
        loading.load(stand(tmp_path, fault), Limits(start=start))
    assert STARTS[fault] in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exec:", "it names no program"),
        ("exec:'", "its quotation marks do not match"),
        ("exec:/nowhere/program", "cannot start '/nowhere/program': No such file or directory"),
    ],
)
def test_a_program_that_cannot_be_started_is_not_tested(name: str, said: str) -> None:
    with pytest.raises(loading.Unusable, match=said):
        loading.load(name)


def test_a_program_sees_its_input_end(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    name = stand(tmp_path, "")
    path = tmp_path / "program.py"
    path.write_text(path.read_text("utf-8") + f"open({str(ended)!r}, 'w').close()\n", "utf-8")
    cast(Plugin, loading.load(name)).close()
    assert ended.exists()


def test_a_line_that_is_too_long_is_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LINE_LIMIT", 2**17)
    plugin = loading.load(stand(tmp_path, "operation == 'describe' or print('[' * 2**18, flush=True)"))
    with pytest.raises(process.Unanswered, match="GARBAGE: greedy: an answer of more than 131072 bytes"):
        plugin.greedy([1])
    cast(Plugin, plugin).close()


def test_a_value_that_its_own_type_refuses_is_no_refusal_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    made: Fields = {"kind": "geometric", "alpha": "3/2"}
    text = PROGRAM.replace('"greedy"', '"noise"').replace('given["row"].index(max(given["row"]))', repr(made))
    path.write_text(text.replace("FAULT", ""), "utf-8")
    plugin = loading.load(f"exec:{sys.executable} {path}")
    suite = runner.Suite(plugin, frozenset({"NMX-R7"}))
    quietly(suite, "test_noisy_max.py")
    cast(Plugin, plugin).close()
    assert verdicts(suite.results) == {"NMX-R7": "FAIL"}
    assert "is out of range: ALPHA_OUT_OF_RANGE" in why(suite.troubles["NMX-R7"])


FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(root: Path, language: str) -> list[str]:
    """Return the fenced blocks of the README in a language."""
    page = (root / "conformance_tests" / "README.md").read_text("utf-8")
    return [text for name, text in FENCED.findall(page) if name == language]


def test_the_program_of_the_readme_passes_what_it_claims(root: Path, tmp_path: Path) -> None:
    text = next(block for block in blocks(root, "python") if '"greedy"' in block)
    (tmp_path / "greedy.py").write_text(text, "utf-8")
    plugin = loading.load(f"exec:{sys.executable} {tmp_path / 'greedy.py'}")
    suite = runner.Suite(plugin, frozenset({"MDL-R10", "MDL-R9"}))
    quietly(suite, "test_model.py", "test_vectors.py")
    cast(Plugin, plugin).close()
    assert verdicts(suite.results) == {"MDL-R10": "PASS", "MDL-R9": "NOT CLAIMED"}


def test_the_commands_of_the_readme_have_the_options_that_there_are(root: Path) -> None:
    lines = [line for block in blocks(root, "sh") for line in block.splitlines()]
    read = [command_line.parser().parse_args(shlex.split(line)[3:]) for line in lines]
    assert [options.impl for options in read] == [
        "module:factory",
        "exec:./program arguments",
        "exec:./program",
    ]
    assert (str(read[2].known_failures), read[2].junit) == ("known_failures", "report.xml")
