"""What report.json says, as a JUnit report and as an in-toto statement.

Source: in-toto Statement v1 and predicate test-result v0.1, both of the in-toto attestation framework.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree

from veil_conformance.audit.content import CHECKPOINT, INTEGER_MODEL
from veil_conformance.audit.report import Json, found, unmeasured

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"
SUBJECTS: Final = (INTEGER_MODEL, CHECKPOINT)
"""What was audited; the other hashes of a report are of what audited it."""
NO_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no form for."""


def _claims(report: Json) -> list[dict[str, str]]:
    claims = found(report, "claims")
    if not isinstance(claims, Sequence):
        raise TypeError("claims")
    names = ("id", "title", "kind", "verdict", "evidence")
    return [{name: str(claim[name]) for name in names} for claim in claims if isinstance(claim, Mapping)]


def _printable(text: str) -> str:
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def junit(report: Json) -> str:
    """Return a JUnit report: a case for each claim, skipped where it is not claimed.

    Only the whole audit is timed, so that only its suite has seconds.
    """
    claims = _claims(report)
    verdicts = [claim["verdict"] for claim in claims]
    about = {
        "name": "veil audit",
        "tests": str(len(claims)),
        "failures": str(verdicts.count("fails")),
        "errors": "0",
        "skipped": str(verdicts.count("not_claimed")),
        "time": _printable(str(found(report, "environment.seconds"))),
        "timestamp": _printable(str(found(report, "environment.facts.date"))),
    }
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", about)
    for claim in claims:
        name = {"classname": f"veil.audit.{claim['kind']}", "name": _printable(claim["id"])}
        case = ElementTree.SubElement(suite, "testcase", name)
        if claim["verdict"] == "fails":
            failure = ElementTree.SubElement(case, "failure", message=_printable(claim["title"]))
            failure.text = _printable(claim["evidence"])
        elif claim["verdict"] == "not_claimed":
            ElementTree.SubElement(case, "skipped", message=_printable(claim["evidence"]))
    ElementTree.indent(suites, " ")
    return ElementTree.tostring(suites, "unicode", xml_declaration=True) + "\n"


def common_digest(report: Json) -> str:
    """Return the SHA-256 of what two runs on the same inputs have in common, as JSON with sorted keys."""
    same = json.dumps(unmeasured(report), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(same.encode()).hexdigest()


def statement(report: Json, stated: bytes) -> Mapping[str, Json]:
    """Return the in-toto statement on a report, given also as the bytes of its file.

    A claim that was not tried is in none of the lists: the annotation `notClaimed` names it, and the result
    is then at best WARNED.
    """
    hashes = found(report, "environment.hashes")
    if not isinstance(hashes, Mapping):
        raise TypeError("hashes")
    named = {verdict: _named(report, verdict) for verdict in ("holds", "fails", "not_claimed")}
    passed = "WARNED" if named["not_claimed"] else "PASSED"
    file: Json = {
        "name": "report.json",
        "digest": {"sha256": hashlib.sha256(stated).hexdigest()},
        "annotations": {"sha256WithoutMeasured": common_digest(report), "notClaimed": named["not_claimed"]},
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_resource(name, hashes[name]) for name in SUBJECTS if name in hashes],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": passed if found(report, "verdict.all_hold") else "FAILED",
            "configuration": [
                *(_resource(name, hashes[name]) for name in hashes if name not in SUBJECTS),
                file,
            ],
            "passedTests": named["holds"],
            "warnedTests": [],
            "failedTests": named["fails"],
        },
    }


def _named(report: Json, verdict: str) -> list[str]:
    return [claim["id"] for claim in _claims(report) if claim["verdict"] == verdict]


def _resource(name: str, digest: Json) -> Mapping[str, Json]:
    return {"name": name, "digest": {"sha256": digest}}


def text(stated: Json) -> str:
    """Return a statement as the text of its file."""
    return json.dumps(stated, indent=1, ensure_ascii=False) + "\n"
