"""What an audit leaves behind, against itself: two runs, and reports in which one thing is changed."""

import base64
import copy
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

import tiny_checkpoint
from test_audit_report import options_for
from veil.commands import run
from veil.importer import import_model
from veil_conformance import suite, tiny_model
from veil_conformance.audit import (
    attest,
    claims,
    envelope,
    evidence,
    matrix,
    output,
    rebuild,
    report,
    statistics,
    verify,
)
from veil_conformance.audit import content as content_module
from veil_conformance.audit.content import judged
from veil_conformance.audit.run import audit
from veil_optimized.model import load
from veil_spec.architecture import INTEGER_FILE

Report = dict[str, Any]
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two audits of one tiny model."""
    base = tmp_path_factory.mktemp("evidence")
    import_model(tiny_checkpoint.write(base / "checkpoint"), base / "model")
    assert audit(options_for(base, "first"))
    assert audit(options_for(base, "second"))
    return base


@pytest.fixture(scope="module")
def content(folder: Path) -> Report:
    """Return the first report."""
    return read(folder / "first")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute once what is computed again for every report."""
    cached = (claims, "certified"), (statistics, "clopper_pearson"), (matrix, "clopper_pearson")
    for module, name in cached:
        monkeypatch.setattr(module, name, cache(getattr(module, name)))


def read(folder: Path) -> Report:
    made: Report = json.loads((folder / "report.json").read_text("utf-8"))
    return made


def leaves(value: Any, path: Place = ()) -> Iterator[Place]:
    """Yield the path of everything in a report that has no parts."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaf for name, part in parts for leaf in leaves(part, (*path, name))]
    yield from inner or [path]


def at(content: Any, path: Place) -> Any:
    for name in path:
        content = content[name]
    return content


def changed(content: Report, path: Place, value: Any) -> Report:
    other = copy.deepcopy(content)
    at(other, path[:-1])[path[-1]] = value
    return other


def named(content: Report, path: Place) -> str:
    """Return a path as `verify` names it: claims by their ID."""
    if path[0] == "claims":
        path = ("claims", content["claims"][path[1]]["id"], *path[2:])
    return ".".join(map(str, path))


def general(content: Report, path: Place) -> str:
    """Return a path with asterisks for indices; claims keep their ID."""
    if path[0] == "claims":
        path = ("claims", content["claims"][path[1]]["id"], *path[2:])
    return ".".join("*" if isinstance(name, int) else name for name in path)


def others(content: Report, path: Place) -> list[Any]:
    """Return up to two other values of a field."""
    value = at(content, path)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value / 2 + 0.3, value / 3 or 0.1]
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return [hashlib.sha256(value.encode()).hexdigest()]
    if isinstance(value, str):
        alike = {
            at(content, leaf) for leaf in leaves(content) if general(content, leaf) == general(content, path)
        }
        return [f"{value}x", *sorted(alike - {value})[:1]]
    return [0.25, True] if value is None else [["x"]]


def mutants(content: Report) -> Iterator[tuple[Place, Report]]:
    """Yield the report with one field changed, for each field that it has, in a form that it may have.

    Of a list one place is taken; of the matrix one for each kind of cell.
    """
    done = set()
    for path in leaves(content):
        kind: tuple[str, ...] = (general(content, path),)
        if path[:2] == ("matrix", "cells"):
            cell = content["matrix"]["cells"][path[2]]
            kind += (cell["column"], cell["expected"])
        if kind not in done:
            done.add(kind)
            yield from ((path, changed(content, path, value)) for value in others(content, path))


def listed(field: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(field, pattern) for pattern in patterns)


RESTS: Final = {
    "generations.*": "faithful.positions",
    "model.name": "verdict.sentence",
    "model.layers": "claims.one-ciphertext-per-input",
    "bit_identity.reference_positions": "claims.optimized-equals-reference",
    "matrix.cells.*.expected": "claims.",
    "matrix.cells.*.tokens": "claims.",
    "matrix.cells.*.target": "claims.",
    "weights.*.recovered": "claims.weights-are-with-the-enclave",
}
"""A field that counts, and what is named if it is changed: that which rests on it."""


def blamed(content: Report, path: Place, lines: Sequence[str]) -> bool:
    """Return whether lines name a changed field, its claim, cell or section, or what rests on it."""
    own, field = named(content, path), general(content, path)
    nearest = ".".join(own.split(".")[: 3 if own.startswith("matrix.cells") else 2])
    section = [own.partition(".")[0] + "."] if own.startswith("cost.") else []
    rests = [name for pattern, name in RESTS.items() if fnmatchcase(field, pattern)]
    return any(line.startswith(name) for line in lines for name in (own, nearest, *section, *rests))


def problems(content: Report) -> list[str]:
    """Return what a report alone is found to say wrongly."""
    return [line for check in verify.recomputed(content) for line in check.problems]


@pytest.fixture(scope="module")
def whole(content: Report) -> Report:
    """Return the report as if proofs and suites had run, which a tiny audit leaves out."""
    proof = evidence.Proof(2, 1, 0, {"proofs/prove_masking.py"})
    line = evidence.Guarantee("RMO-G1", "What is sent MUST be uniform.", "spec/remo.md")
    found = replace(
        rebuild.found(content),
        proofs=[evidence.Proved(line, proof, ["conformance_tests/test_attacks.py"])],
        conformance=[
            evidence.Conformance(name, 50, 0, 0, 0, "conforms") for name in evidence.IMPLEMENTATIONS
        ],
    )
    made: Report = json.loads(json.dumps({**content, **judged(found, content["model"]["name"])}))
    return made


SECTIONS: Final = ("claims", "matrix", "")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_report_with_one_field_changed_is_rejected_by_name(
    whole: Report, section: str, quick: None
) -> None:
    """Every field but those that are said not to be recomputed, and of those none."""
    assert problems(whole) == [] == verify.schema(whole).problems
    left = [*verify.OF_MODEL, *(field for fields in verify.NOT_RECOMPUTED.values() for field in fields)]
    unseen, tried = set(), set()
    for path, report_ in mutants(whole):
        if path[0] != section and (section or path[0] in SECTIONS):
            continue
        field = general(whole, path)
        if verify.schema(report_).problems:
            continue
        lines = problems(report_)
        tried.add(field)
        if not lines:
            unseen.add(field)
        elif not listed(field, left):
            assert blamed(whole, path, lines), (field, lines)
    assert {field for field in unseen if not listed(field, left)} == set()
    assert {field for field in tried if listed(field, left)} - set(RESTS) == unseen - set(RESTS)


def test_a_report_of_another_form_is_rejected_by_name(content: Report) -> None:
    bad = {
        "matrix.cells.0.tokens": 5.0,
        "matrix.cells.0.named": 1.5,
        "generations.0.new_tokens": 10**9,
        "model.hash": "0",
    }
    for name, value in bad.items():
        path = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        (line,) = verify.schema(changed(content, path, value)).problems
        assert line.startswith(f"{name}: ")
    assert verify.schema(content | {"more": 1}).problems
    assert verify.schema({name: content[name] for name in content if name != "cost"}).problems


def test_a_report_with_a_claim_or_a_cell_left_out_is_rejected_by_name(content: Report, quick: None) -> None:
    for number, claim in enumerate(content["claims"]):
        rest = [each for each in content["claims"] if each is not claim]
        lines = problems(content | {"claims": rest})
        assert any(line.startswith(f"claims.{claim['id']}") for line in lines), number
    swapped = content["claims"][1::-1] + content["claims"][2:]
    assert any(line.startswith("claims.0: ") for line in problems(content | {"claims": swapped}))
    fewer = content["matrix"] | {"cells": content["matrix"]["cells"][1:]}
    assert problems(content | {"matrix": fewer})


def test_two_runs_differ_only_in_what_is_listed(folder: Path) -> None:
    first, second = read(folder / "first"), read(folder / "second")
    for measured in ("times", "chance"):
        fields = {general_of_list(first, path) for path in leaves(first)}
        for pattern in report.measured()[measured]:
            assert any(field == pattern or field.startswith(f"{pattern}.") for field in fields), pattern
    same = [json.dumps(report.unmeasured(each), indent=1) for each in (first, second)]
    assert same[0] == same[1]
    assert json.dumps(first) != json.dumps(second)
    junits = [(folder / name / "junit.xml").read_text("utf-8") for name in ("first", "second")]
    untimed = [re.sub(' (time|timestamp)="[^"]*"', "", junit) for junit in junits]
    assert untimed[0] == untimed[1] and junits[0] != junits[1]
    stated = [(folder / name / "statement.json").read_text("utf-8") for name in ("first", "second")]
    digests = [hashlib.sha256((folder / name / "report.json").read_bytes()) for name in ("first", "second")]
    unnamed = [text.replace(digest.hexdigest(), "") for text, digest in zip(stated, digests, strict=True)]
    assert unnamed[0] == unnamed[1] and stated[0] != stated[1]


def general_of_list(content: Report, path: Place) -> str:
    """Return a path with an asterisk for each index, of claims too."""
    return ".".join("*" if isinstance(name, int) else name for name in path)


def test_what_two_runs_have_in_common_is_all_but_the_list(content: Report) -> None:
    common, fields = attest.common_digest(content), [*itertools.chain(*report.measured().values())]
    for path, other in mutants(content):
        field = general_of_list(content, path)
        free = any(field == pattern or field.startswith(f"{pattern}.") for pattern in fields)
        assert (attest.common_digest(other) == common) == free, field


def checked(folder: Path, **given: Path) -> dict[str, list[str]]:
    """Return what is said against each thing that is recomputed."""
    checks = verify.verify(verify.Given(folder / "report.json", **given))
    return {check.thing.partition(":")[0]: list(check.problems) for check in checks}


def test_a_clean_report_passes_with_all_that_lies_beside_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        status = run(["verify-report", str(folder / name / "report.json"), "--model", str(folder / "model")])
        said = capsys.readouterr().out.splitlines()
        assert status == 0, said
        things = [line.removeprefix("ok").split(":")[0].strip() for line in said if line.startswith("ok ")]
        assert {*verify.SECTIONS, "schema", "model", "profiles", "junit.xml", "statement.json"} <= {*things}
        assert "report.html" in things
        assert [line for line in said if line.startswith("not ")]
        assert said[-1].startswith(f"{len(things)} recomputed, all as in ")


@pytest.fixture
def made(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the first audit's files."""
    return shutil.copytree(folder / "first", tmp_path / "made")


def test_a_report_that_says_something_else_gives_one(
    made: Path, content: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(content, ("claims", 0, "verdict"), "fails")
    (made / "report.json").write_text(json.dumps(other), "utf-8")
    assert run(["verify-report", str(made / "report.json")]) == 1
    said = capsys.readouterr().out
    assert 'claims.masked-equals-plain.verdict: the report says "fails", recomputed "holds"' in said
    assert re.search("^DIFFERS  junit.xml", said, re.M) and re.search("^DIFFERS  statement.json", said, re.M)
    assert " differ from " in said.splitlines()[-1]


def test_each_line_of_a_junit_report_is_compared(made: Path, content: Report) -> None:
    lines = (made / "junit.xml").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        other = [*lines[:number], line.replace("e", "a", 1).replace("/", "//"), *lines[number + 1 :]]
        (made / "junit.xml").write_text("\n".join(other) + "\n", "utf-8")
        (problem,) = verify.junit(content, made / "junit.xml").problems
        assert problem.startswith(f"junit.xml.{number}: ")
    for text in ("\r\n".join(lines), "\n".join(lines), "\n".join([*lines, "", ""])):
        (made / "junit.xml").write_bytes(text.encode())
        assert verify.junit(content, made / "junit.xml").problems


def test_each_field_of_a_statement_is_compared(made: Path) -> None:
    data = (made / "report.json").read_bytes()
    stated = json.loads((made / "statement.json").read_text("utf-8"))
    assert list(verify.differences(stated, attest.statement(json.loads(data), data), "s")) == []
    for path in leaves(stated):
        other = changed(stated, path, "x")
        found = verify.differences(other, attest.statement(json.loads(data), data), "s")
        assert any(line.startswith(".".join(["s", *map(str, path)])) for line in found)


def test_each_part_of_a_page_is_compared(
    made: Path, content: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (made / "report.html").read_text("utf-8")
    assert verify.page(content, made / "report.html").problems == []
    tree = verify.TREE.search(page)
    assert tree is not None
    rendered = {tree[1]: report.render(content, tree[1]), None: report.render(content)}
    monkeypatch.setattr(verify, "render", lambda content, prefix: rendered.get(prefix, ""))
    for place in range(0, len(page), len(page) // 50):
        (made / "report.html").write_text(page[:place] + "~" + page[place + 1 :], "utf-8")
        assert verify.page(content, made / "report.html").problems, place
    for data in (page.replace("\n", "\r\n").encode(), page.encode() + b"\xff", b""):
        (made / "report.html").write_bytes(data)
        assert verify.page(content, made / "report.html").problems


def test_hostile_reports_are_differences_and_no_traceback(
    made: Path, content: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile: dict[str, Any] = {
        "generations": [],
        "picture.tokens": ["x"],
        "picture.rank.elements": [[1], [1, 2]],
        "cost.bytes_per_token": 1e300,
        "model.parameters": 10**400,
        "faithful.max_logit_error": 10**400,
        "claims.2.figures.largest gap of a difference": 10**400,
        "claims.0.figures": {},
        "matrix.cells.0.tokens": 0,
        "matrix.curve.points": content["matrix"]["curve"]["points"][:2],
    }
    for name, value in hostile.items():
        path = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        (made / "report.json").write_text(json.dumps(changed(content, path, value)), "utf-8")
        assert run(["verify-report", str(made / "report.json")]) == 1, name
    assert "Traceback" not in capsys.readouterr().out


def test_a_model_is_compared(folder: Path, content: Report, quick: None, tmp_path: Path) -> None:
    model = load(folder / "model" / INTEGER_FILE)
    for path, other in mutants(content):
        field = general(content, path)
        if listed(field, verify.OF_MODEL) and not verify.schema(other).problems:
            lines = [line for check in verify.recomputed(other, model) for line in check.problems]
            if field == "environment.hashes.integer model":
                lines = list(verify.file(other, folder / "model").problems)
            assert any(line.startswith(named(content, path)) for line in lines), field
    shutil.copytree(folder / "model", tmp_path / "model")
    tiny_model.write(tmp_path / "model" / INTEGER_FILE, tiny_model.SMALL, b"another")
    found = checked(folder / "first", model=tmp_path / "model")
    assert {thing for thing, lines in found.items() if lines} >= {"model", "environment"}


@pytest.mark.parametrize("name", ["conformance suite", "audit", "toy table"])
def test_another_suite_is_named(content: Report, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = content_module.tools()
    monkeypatch.setattr(content_module, "tools", lambda: tools | {name: "0" * 64})
    assert [line.partition(":")[0] for line in problems(content)] == [f"environment.hashes.{name}"]


@pytest.mark.parametrize("name", ["test_wire.py", "suite.ini", "vectors/schema.json"])
def test_a_changed_suite_has_another_hash(tmp_path: Path, name: str) -> None:
    copied = shutil.copytree(suite.ROOT, tmp_path / "suite", ignore=shutil.ignore_patterns("__pycache__"))
    assert suite.suite_digest(copied) == suite.suite_digest()
    audited = suite.audit_digest(copied)
    with (copied / name).open("a") as file:
        file.write(" ")
    assert suite.suite_digest(copied) != suite.suite_digest()
    assert suite.audit_digest(copied) == audited
    with (copied / "audit" / "claims.py").open("a") as file:
        file.write(" ")
    assert suite.audit_digest(copied) != audited


def with_verdicts(content: Report, *verdicts: str) -> Report:
    claims_ = [claim | {"verdict": said} for claim, said in zip(content["claims"], verdicts, strict=False)]
    counts = {name: verdicts.count(name) for name in ("holds", "fails", "not_claimed")}
    good = counts["fails"] == 0 and counts["holds"] > 0
    return content | {"claims": claims_, "verdict": {"all_hold": good, "sentence": "s", **counts}}


@pytest.mark.parametrize(
    ("verdicts", "result"),
    [
        (("holds", "holds"), "PASSED"),
        (("holds", "not_claimed"), "WARNED"),
        (("holds", "fails"), "FAILED"),
        (("not_claimed", "fails"), "FAILED"),
        (("not_claimed", "not_claimed"), "FAILED"),
    ],
)
def test_verdicts_become_results(content: Report, verdicts: tuple[str, ...], result: str) -> None:
    made, ids = with_verdicts(content, *verdicts), [claim["id"] for claim in content["claims"]]
    predicate = cast(Report, attest.statement(made, b"")["predicate"])
    named_ = {
        "holds": predicate["passedTests"],
        "fails": predicate["failedTests"],
        "not_claimed": predicate["configuration"][-1]["annotations"]["notClaimed"],
    }
    assert predicate["result"] == result and predicate["warnedTests"] == []
    for verdict, names in named_.items():
        assert names == [name for name, said in zip(ids, verdicts, strict=False) if said == verdict]
    suite_ = next(ElementTree.fromstring(attest.junit(made)).iter("testsuite"))
    cases = list(suite_.iter("testcase"))
    tags = {"holds": None, "fails": "failure", "not_claimed": "skipped"}
    assert [next((child.tag for child in case), None) for case in cases] == [tags[each] for each in verdicts]
    assert [case.get("name") for case in cases] == ids[: len(verdicts)]
    assert (suite_.get("failures"), suite_.get("skipped"), suite_.get("tests")) == (
        str(verdicts.count("fails")),
        str(verdicts.count("not_claimed")),
        str(len(verdicts)),
    )
    for case, claim in zip(cases, content["claims"], strict=False):
        failure = case.find("failure")
        assert failure is None or (failure.get("message"), failure.text) == (
            claim["title"],
            claim["evidence"],
        )


def test_junit_has_no_character_that_xml_refuses(content: Report) -> None:
    odd = changed(with_verdicts(content, "fails"), ("claims", 0, "evidence"), "a\x1b[1m\ud800\uffff<b>&")
    (failure,) = ElementTree.fromstring(attest.junit(odd)).iter("failure")
    assert failure.text == "a\ufffd[1m\ufffd\ufffd<b>&"


def write_keys(folder: Path, name: str, key: Any) -> tuple[Path, Path]:
    """Return the files of a private key and its public one."""
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return secret, public


def test_what_is_signed_is_as_dsse_has_it() -> None:
    """The known answer of the DSSE protocol."""
    signed = envelope.pae("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_signed_report_passes_and_a_changed_or_foreign_one_does_not(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, public = write_keys(tmp_path, "one", Ed25519PrivateKey.generate())
    _, foreign = write_keys(tmp_path, "other", Ed25519PrivateKey.generate())
    assert run(["sign-report", str(made / "report.json"), "--key", str(secret)]) == 0
    written = made / "statement.dsse.json"
    sealed = json.loads(written.read_text("utf-8"))
    payload, signature = base64.b64decode(sealed["payload"]), base64.b64decode(sealed["signatures"][0]["sig"])
    head = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload)
    cast(Ed25519PublicKey, load_pem_public_key(public.read_bytes())).verify(signature, head + payload)
    assert payload == (made / "statement.json").read_bytes()
    assert checked(made, key=public)["statement.dsse.json"] == []
    assert run(["verify-report", str(made / "report.json"), "--key", str(public)]) == 0
    capsys.readouterr()
    assert run(["verify-report", str(made / "report.json"), "--key", str(foreign)]) == 1
    assert "statement.dsse.json: no signature of it is by --key" in capsys.readouterr().out
    given = verify.Given(made / "report.json", statement=written, key=public)
    data = (made / "report.json").read_bytes()
    computed = attest.statement(json.loads(data), data)
    assert not any(check.problems for check in verify.statements(given, computed))
    for name in ("payload", "sig"):
        other = copy.deepcopy(sealed)
        place = other if name == "payload" else other["signatures"][0]
        raw = base64.b64decode(place[name])
        place[name] = base64.b64encode(raw.replace(b"holds", b"fails") + b" ").decode()
        written.write_text(json.dumps(other), "utf-8")
        signature_check = next(iter(verify.statements(given, computed)))
        assert signature_check.problems, name


def one_line(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """Return the one line of a command that refuses its input."""
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.err.count("\n") == 1, said
    return said.err


def test_keys_of_another_kind_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_ = str(made / "report.json")
    secret, public = write_keys(tmp_path, "one", Ed25519PrivateKey.generate())
    curve, curve_public = write_keys(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    for key in (curve, public, locked, tmp_path / "none.pem", made / "report.json"):
        assert key.name in one_line(capsys, ["sign-report", report_, "--key", str(key)])
        assert not (made / "statement.dsse.json").exists()
    assert "sign-report" in one_line(capsys, ["verify-report", report_, "--key", str(public)])
    assert run(["sign-report", report_, "--key", str(secret)]) == 0
    for key in (curve_public, secret, tmp_path / "none.pub"):
        assert key.name in one_line(capsys, ["verify-report", report_, "--key", str(key)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        '{"a": NaN}',
        '{"a": 1, "a": 1}',
        "[" * 10**5,
        "\x00",
        "{}\n{}",
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
    ],
)
def test_what_is_no_report_is_refused_in_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(text)
    assert "report.json" in one_line(capsys, ["verify-report", str(tmp_path / "report.json")])
    assert "none.json" in one_line(capsys, ["verify-report", str(tmp_path / "none.json")])


@pytest.mark.parametrize("text", ["", "[]", '{"payload": 5}', '{"payload": "*", "payloadType": "x"}'])
def test_what_is_no_statement_is_refused_in_one_line(
    made: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "mine.json").write_text(text)
    options = ["verify-report", str(made / "report.json"), "--statement", str(made / "mine.json")]
    assert "mine.json" in one_line(capsys, options)


def test_only_the_statement_of_a_report_is_signed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, _ = write_keys(tmp_path, "one", Ed25519PrivateKey.generate())
    stated = json.loads((made / "statement.json").read_text("utf-8"))
    stated["predicate"]["result"] = "PASSED"
    (made / "statement.json").write_text(json.dumps(stated), "utf-8")
    options = ["sign-report", str(made / "report.json"), "--key", str(secret)]
    assert "statement.json" in one_line(capsys, options)
    assert not (made / "statement.dsse.json").exists()


def test_a_new_report_has_no_envelope_of_an_old_one(made: Path, content: Report) -> None:
    (made / "statement.dsse.json").write_text("{}")
    output.write(content, made, None)
    assert not (made / "statement.dsse.json").exists()
    assert verify.page(content, made / "report.html").problems == []
