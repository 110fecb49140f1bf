"""What can be recomputed from a report, recomputed: nothing here trusts a sentence, a share or a verdict."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from veil_conformance.audit import attest, claims, content, envelope, output, rebuild
from veil_conformance.audit.report import Json, render, validator
from veil_optimized.model import Model, load
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused

CLOSE: Final = 1e-9
"""Relative difference below which two computations of one figure agree."""
NEAR: Final = 1e-11
"""The same for ends of intervals, absolute: scipy finds them to 2e-12, and where it stops may change."""
TREE: Final = re.compile(r'<meta name="tree" content="((?:\.\./)*(?:[^/":&<>]+/)*)">')
"""Where a page's links begin."""

SECTIONS: Final = {
    "spec_version": "the edition of this copy",
    "claims": "every verdict, figure and sentence, from the counts that it rests on",
    "verdict": "the counts of claims, and the sentence",
    "protection": "what is shown, from the claims that it rests on",
    "bit_identity": "from the counts of different words",
    "faithful": "positions, from lengths of prompts and answers; equal ones, from the list of differences",
    "matrix": "every share, interval, p-value, level and verdict, from counts",
    "weights": "who is trusted",
    "epsilon": "the certificate of the toy table, by both implementations",
    "cost": "ratios and counts a token",
    "measured": "the fields in which two runs may differ",
}
"""What of a section is recomputed."""

NOT_RECOMPUTED: Final[Mapping[str, Sequence[str]]] = {
    "what was counted: tokens, masks, frames, multiplications, steps of proofs, tests of the suite": (
        "claims.no-mask-twice.figures.masked rows",
        "claims.no-mask-twice.figures.elements",
        "claims.frames-follow-lengths.figures.frames",
        "claims.frames-follow-lengths.figures.bytes",
        "claims.*-conforms.figures.passed",
        "claims.???-G*.figures.steps passed",
        "claims.???-G*.figures.controls passed",
        "matrix.curve.tokens",
        "cost.trusted_macs_*",
        "cost.bytes_per_token",
    ),
    "what was measured: seconds, logit errors, the curve, the share of weights": (
        "faithful.*_logit_error",
        "faithful.flips.*",
        "matrix.curve.points.*",
        "weights.*.wrong",
        "environment.seconds",
    ),
    "what was asked for and against whom: subjects, attacks, least tokens, blind guesses": (
        "matrix.cells.*.subject",
        "matrix.cells.*.attack",
        "matrix.cells.*.detail",
        "matrix.cells.*.least",
        "matrix.cells.*.chance",
        "weights.*.material",
        "weights.*.given",
        "weights.*.rows",
        "weights.*.guessed",
    ),
    "masks, which are gone, and the picture, which shows some of what was sent under them": ("picture.*",),
    "prompts and answers": ("generations.*.prompt", "generations.*.answer"),
    "what the suite said last, names and sentences of guarantees, and paths of their proofs and tests": (
        "claims.*-conforms.evidence",
        "claims.???-G*.id",
        "claims.???-G*.title",
        "claims.???-G*.spec.*",
        "claims.???-G*.proof.*",
        "claims.???-G*.test.*",
    ),
    "date, system and releases, and the checkpoint's hash": (
        "environment.facts.*",
        "environment.hashes.checkpoint",
    ),
}
"""What only another audit can tell, with the fields that hold it; claims by their ID."""

OF_MODEL: Final = (
    "model.*",
    "profiles.*",
    "claims.products-fit.figures.least room, as a factor",
    "environment.hashes.integer model",
)
"""What is recomputed with a model alone."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was recomputed, and where the report says something else."""

    thing: str
    problems: Sequence[str] = ()


def _bad(path: Path, remedy: str) -> Refused:
    return Refused(Refusal.MODE_UNAVAILABLE, f"{path}: {remedy}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return made


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is no number")
    return float(text)


def parsed(data: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Refuses: MODE_UNAVAILABLE."""
    try:
        made = json.loads(data, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        json.dumps(made, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"this is no JSON that an audit writes: {error}") from error
    if not isinstance(made, dict):
        raise _bad(path, "this is no JSON object: name a report.json of `veil audit`")
    return made


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _close(stated: float, computed: float, path: str) -> bool:
    near = NEAR if ".interval." in path else 0.0
    try:
        return math.isclose(stated, computed, rel_tol=CLOSE, abs_tol=near)
    except OverflowError:
        return False


def _by_id(value: Any) -> Any:
    """Return claims by their ID, if no ID comes twice; anything else as it is."""
    if not isinstance(value, list) or not all(isinstance(each, dict) and "id" in each for each in value):
        return value
    named = {str(each["id"]): each for each in value}
    return named if len(named) == len(value) > 0 else value


def differences(stated: Any, computed: Any, path: str) -> Iterator[str]:
    """Yield a line for each place under a path where a report does not say what was computed."""
    stated, computed = _by_id(stated), _by_id(computed)
    if isinstance(stated, Mapping) and isinstance(computed, Mapping):
        for name in sorted({*stated, *computed}):
            if name not in stated or name not in computed:
                where = "the report" if name in computed else "what was recomputed"
                yield f"{path}.{name}: {where} has none"
            else:
                yield from differences(stated[name], computed[name], f"{path}.{name}")
    elif isinstance(stated, list | tuple) and isinstance(computed, list | tuple):
        if len(stated) != len(computed):
            yield f"{path}: the report has {len(stated)}, recomputed {len(computed)}"
        else:
            for number, (one, other) in enumerate(zip(stated, computed, strict=True)):
                yield from differences(one, other, f"{path}.{number}")
    elif not _same(stated, computed, path):
        yield f"{path}: the report says {_shown(stated)}, recomputed {_shown(computed)}"


def _same(stated: Any, computed: Any, path: str) -> bool:
    both = stated, computed
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in both)
    if numbers and any(isinstance(each, float) for each in both):
        return _close(stated, computed, path)
    return type(stated) is type(computed) and stated == computed


def schema(report: Json) -> Check:
    """Return whether a report has the stated form."""
    errors = validator().iter_errors(report)
    lines = [f"{'.'.join(map(str, error.absolute_path)) or 'report'}: {error.message}" for error in errors]
    return Check("schema", [line if len(line) <= 200 else line[:197] + "..." for line in lines])


def recomputed(report: Mapping[str, Any], model: Model | None = None) -> Iterator[Check]:
    """Yield a check of each section of a report, which has the stated form."""
    try:
        found = rebuild.found(report, claims.fit(model) if model else None)
        computed: Mapping[str, Any] = content.judged(found, report["model"]["name"])
    except rebuild.Odd as odd:
        yield Check("claims", [str(odd)])
        return
    for name, what in SECTIONS.items():
        yield Check(f"{name}: {what}", list(differences(report[name], computed[name], name)))
    order = [claim["id"] for claim in report["claims"]]
    expected = [claim["id"] for claim in computed["claims"]]
    yield Check("claims: their order", list(differences(order, expected, "claims")))
    yield from _environment(report["environment"])
    if model is not None:
        of_model = content.of_model(model)
        for name in of_model:
            yield Check(f"{name}: from --model", list(differences(report[name], of_model[name], name)))


def _environment(stated: Mapping[str, Any]) -> Iterator[Check]:
    tools = content.tools()
    hashes = {name: stated["hashes"].get(name) for name in tools}
    path = "environment.hashes"
    yield Check("environment: hashes of suite, audit and toy table", list(differences(hashes, tools, path)))
    commands = list(differences(stated["commands"], content.commands(), "environment.commands"))
    yield Check("environment: commands", commands)


def file(report: Mapping[str, Any], model: Path) -> Check:
    """Return whether a report is about the integer file in a folder."""
    computed = content.digest(model / INTEGER_FILE)
    path = f"environment.hashes.{content.INTEGER_MODEL}"
    stated = report["environment"]["hashes"].get(content.INTEGER_MODEL)
    return Check("environment: hash of the integer model", list(differences(stated, computed, path)))


def junit(report: Json, path: Path) -> Check:
    """Return whether a JUnit report is that of a report, byte for byte; its first other line is named."""
    stated, computed = path.read_bytes(), attest.junit(report).encode()
    one, other = (data.decode("utf-8", "replace").split("\n") for data in (stated, computed))
    named = [*differences(one, other, path.name), f"{path.name}: other bytes"] if stated != computed else []
    return Check(f"{path.name}: a case for each claim, as report.json has it", named[:1])


def page(report: Json, path: Path) -> Check:
    """Return whether a page is what this copy of the audit renders, byte for byte."""
    stated = path.read_bytes()
    tree = TREE.search(stated.decode("utf-8", "replace"))
    try:
        same = stated == render(report, tree[1] if tree else None).encode()
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # What has the stated form and cannot be drawn, such as a picture with rows of two lengths.
        same = False
    lines = [] if same else [f"{path.name}: not the page that this copy renders of report.json"]
    return Check(f"{path.name}: rendered again from report.json, byte for byte", lines)


@dataclass(frozen=True, slots=True)
class Given:
    """What to verify: a report, and optionally its model, a statement or envelope, and a public key."""

    report: Path
    model: Path | None = None
    statement: Path | None = None
    key: Path | None = None

    def beside(self, name: str) -> Path:
        """Return a file beside the report."""
        return self.report.parent / name


def statements(given: Given, computed: Json) -> Iterator[Check]:
    """Yield a check of the statement, of the envelope and of its signature. Refuses: MODE_UNAVAILABLE."""
    key = envelope.public_key(given.key) if given.key else None
    beside = [path for name in (output.STATEMENT, output.ENVELOPE) if (path := given.beside(name)).exists()]
    signed = False
    for path in [given.statement] if given.statement else beside:
        stated = parsed(path.read_bytes(), path)
        if "payload" in stated:
            payload, signatures = envelope.opened(stated, str(path))
            stated = parsed(payload, path)
            if key is not None:
                good, signed = envelope.signed_by(key, payload, signatures), True
                lines = [] if good else [f"{path.name}: no signature of it is by --key {given.key}"]
                yield Check(f"{path.name}: its signature", lines)
        lines = list(differences(stated, computed, path.name))
        yield Check(f"{path.name}: what report.json says, and its hash", lines)
    if key is not None and not signed:
        raise _bad(given.report, f"--key is given, and there is no {output.ENVELOPE}: `veil sign-report`")


def verify(given: Given) -> Iterator[Check]:
    """Yield a check of everything that can be recomputed; the first that fails may be the last.

    Refuses: MODE_UNAVAILABLE, and what the model's loader refuses.
    """
    data = given.report.read_bytes()
    report = parsed(data, given.report)
    model = load(given.model / INTEGER_FILE) if given.model else None
    form = schema(report)
    yield form
    if form.problems:
        return
    yield from recomputed(report, model)
    if given.model:
        yield file(report, given.model)
    if (path := given.beside(output.JUNIT)).exists():
        yield junit(report, path)
    yield from statements(given, attest.statement(report, data))
    if (path := given.beside(output.PAGE)).exists():
        yield page(report, path)


def left_out(given: Given) -> Iterator[str]:
    """Yield what was not recomputed, a line each."""
    yield from NOT_RECOMPUTED
    if given.model is None:
        yield "size, hashes and profiles of the model, and room in its fields: --model was not given"
    absent = [
        name for name in (output.JUNIT, output.STATEMENT, output.PAGE) if not given.beside(name).exists()
    ]
    if absent:
        yield f"{', '.join(absent)}: not beside the report"
    if given.key is None:
        yield "a signature: --key was not given"


def sign(path: Path, key: Path) -> Path:
    """Return the envelope of a report's statement, written beside it. Refuses: MODE_UNAVAILABLE."""
    secret, data = envelope.private_key(key), path.read_bytes()
    report, stated = parsed(data, path), path.parent / output.STATEMENT
    if schema(report).problems:
        raise _bad(path, "this is no report that an audit writes: name a report.json of `veil audit`")
    payload = stated.read_bytes()
    if list(differences(parsed(payload, stated), attest.statement(report, data), stated.name)):
        raise _bad(stated, "this is not the statement of this report: audit again")
    written = path.parent / output.ENVELOPE
    output.replace(written, envelope.sealed(payload, secret))
    return written
