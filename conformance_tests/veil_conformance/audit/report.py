"""The form of report.json, and report.html made from nothing but report.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from textwrap import shorten
from typing import Final, Literal

import jsonschema
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from veil_conformance.audit import charts, picture

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
Kind = Literal["proved", "checked", "measured"]
Verdict = Literal["holds", "fails", "not_claimed"]
BASE: Final = jsonschema.Draft202012Validator
PACKAGE: Final = "veil_conformance.audit"
SHOWN: Final = {"holds": "holds", "fails": "FAILS", "not_claimed": "not claimed"}
TITLE_COLUMNS: Final = 85
"""Room for a claim's title beside its ID, kind and verdict in 140 columns."""
COLOURS: Final = {"holds": "green", "fails": "bold red", "not_claimed": "yellow"}


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement with its verdict; spec, proof and test are paths from the tree's root."""

    id: str
    title: str
    kind: Kind
    verdict: Verdict
    evidence: str
    figures: Mapping[str, str | float | bool] = field(default_factory=dict)
    spec: Sequence[str] = ()
    proof: Sequence[str] = ()
    test: Sequence[str] = ()

    def as_json(self) -> Mapping[str, Json]:
        """Return the claim as report.json has it."""
        lists = {name: list(getattr(self, name)) for name in ("spec", "proof", "test")}
        return asdict(self) | lists


def verdict(holds: bool) -> Verdict:
    """Return the verdict of a claim that was tried."""
    return "holds" if holds else "fails"


def overall(claims: Sequence[Claim], model: str) -> Mapping[str, Json]:
    """Return the verdict on all claims: it holds if some claim does and none fails."""
    counts = {name: sum(claim.verdict == name for claim in claims) for name in SHOWN}
    failed = ", ".join(claim.id for claim in claims if claim.verdict == "fails")
    good = counts["fails"] == 0 and counts["holds"] > 0
    tried = counts["holds"] + counts["fails"]
    if good:
        sentence = f"All {tried} claims that were tried hold for {model}, run masked by a separate process."
    else:
        sentence = f"{counts['fails']} of {tried} claims that were tried FAIL for {model}: {failed}."
    if counts["not_claimed"]:
        sentence = f"{sentence[:-1]}; {counts['not_claimed']} could not be tried here."
    return {"all_hold": good, "sentence": sentence, **counts}


@cache
def validator() -> jsonschema.protocols.Validator:
    """Return what tells whether a report has exactly the stated form; 1.0 is no integer."""
    schema = json.loads(files(PACKAGE).joinpath("report.schema.json").read_text("utf-8"))
    types = BASE.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(BASE, type_checker=types)(schema)


def validate(report: Json) -> None:
    """Raise jsonschema.ValidationError unless the report has exactly the stated form."""
    validator().validate(report)


def measured() -> Mapping[str, Sequence[str]]:
    """Return the fields in which two runs on the same inputs may differ, by the reason."""
    stated: Mapping[str, Sequence[str]] = validator().schema["properties"]["measured"]["const"]
    return stated


def unmeasured(report: Json) -> Json:
    """Return the part of a report that two runs on the same inputs have in common."""
    patterns = {tuple(path.split(".")) for paths in measured().values() for path in paths}

    def kept(value: Json, path: tuple[str, ...]) -> Json:
        if isinstance(value, Mapping):
            inner = {name: (*path, name) for name in value}
            return {name: kept(value[name], at) for name, at in inner.items() if at not in patterns}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [kept(item, (*path, "*")) for item in value]
        return value

    return kept(report, ())


def found(report: Json, key: str) -> Json:
    """Return the value under a dotted key, such as attacks.0.recovered."""
    value = report
    for part in key.split("."):
        if isinstance(value, Mapping):
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = value[int(part)]
        else:
            raise KeyError(key)
    return value


def _number(value: float, form: str) -> str:
    if form == "percent":
        return f"{100 * value:.2f} %" if not 0 < abs(value) < 0.0001 else f"{100 * value:.2g} %"
    if form == "seconds":
        return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"


def shown(value: Json, form: str = "") -> str:
    """Return a value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, form)
    return SHOWN.get(str(value), str(value)) if form == "verdict" else str(value)


class _Page:
    """What the template calls: every value that it shows comes from report.json, under its key."""

    def __init__(self, report: Json, prefix: str | None) -> None:
        self._report, self._prefix = report, prefix

    def show(self, key: str, form: str = "") -> Markup:
        """Return the value under a key in an element that names the key; text between backticks is code."""
        pieces = shown(found(self._report, key), form).split("`")
        if len(pieces) % 2 == 0:
            return Markup('<span data-key="{}">{}</span>').format(key, "`".join(pieces))
        set_off = (Markup("<code>{}</code>") if odd % 2 else Markup("{}") for odd in range(len(pieces)))
        text = Markup("").join(form.format(piece) for form, piece in zip(set_off, pieces, strict=True))
        return Markup('<span data-key="{}">{}</span>').format(key, text)

    def link(self, key: str) -> Markup:
        """Return a link to the path under a key, or the path alone where there is no tree to lead to."""
        if self._prefix is None:
            return self.show(key)
        path = str(found(self._report, key))
        return Markup('<a href="{}" data-key="{}">{}</a>').format(self._prefix + path, key, path)

    def heat_map(self, subject: str) -> str:
        """Return the heat map of one model of the matrix."""
        return charts.heat_map(squares(self._report, subject))

    def curve(self) -> str:
        """Return the curve over the scale of real-valued masks."""
        points = [point for point in _list(found(self._report, "matrix.curve.points"))]
        columns = [_numbers(points, name) for name in ("sigma", "nearest", "null_space")]
        return charts.curve(*columns)

    def draw(self, profile: str) -> str:
        """Return the picture of a profile."""
        scene = found(self._report, "picture")
        seen = found(self._report, f"picture.{profile}")
        if not isinstance(scene, Mapping) or not isinstance(seen, Mapping):
            raise TypeError("picture")
        return picture.draw(
            _texts(scene["tokens"]),
            _cells(scene["integers"]),
            _cells(seen["elements"]),
            _texts(seen["guesses"]),
            [bool(hit) for hit in _list(seen["right"])],
            _integer(scene["modulus"]),
        )


def squares(report: Json, subject: str) -> list[charts.Square]:
    """Return the heat map of one model: of several cells in one square the one furthest from expected."""
    worst: dict[tuple[str, str], charts.Square] = {}
    for cell in _list(found(report, "matrix.cells")):
        if not isinstance(cell, Mapping) or cell["subject"] != subject:
            continue
        place, share = (str(cell["attack"]), str(cell["column"])), _share(cell)
        square = charts.Square(*place, share, bool(cell["holds"]))
        if place not in worst or _further(cell["expected"], square, worst[place]):
            worst[place] = square
    return list(worst.values())


def _share(cell: Mapping[str, Json]) -> float | None:
    named = cell["named"]
    if cell["expected"] == "refused" or not isinstance(named, int | float):
        return None
    return float(named)


def _further(expected: Json, square: charts.Square, other: charts.Square) -> bool:
    if square.share is None or other.share is None or square.holds != other.holds:
        return not square.holds
    return square.share < other.share if expected == "read" else square.share > other.share


def subjects(report: Json) -> list[str]:
    """Return the models of the matrix that were met with more than one attack."""
    met: dict[str, set[str]] = {}
    for cell in _list(found(report, "matrix.cells")):
        if isinstance(cell, Mapping):
            met.setdefault(str(cell["subject"]), set()).add(str(cell["attack"]))
    return [subject for subject, attacks in met.items() if len(attacks) > 1]


def _list(value: Json) -> Sequence[Json]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError("a list is expected")
    return value


def _numbers(points: Sequence[Json], name: str) -> list[float]:
    values = [point[name] for point in points if isinstance(point, Mapping)]
    return [float(value) for value in values if isinstance(value, int | float)]


def _integer(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError("an integer is expected")
    return value


def _texts(value: Json) -> list[str]:
    return [str(text) for text in _list(value)]


def _cells(value: Json) -> list[list[int]]:
    return [[_integer(cell) for cell in _list(row)] for row in _list(value)]


def render(report: Json, prefix: str | None = None) -> str:
    """Return the page of a report; `prefix` leads from the page to the tree's root, if there is one."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files(PACKAGE).joinpath("report.html.j2").read_text("utf-8"))
    page = _Page(report, prefix)
    return template.render(
        report=report,
        prefix=prefix,
        show=page.show,
        link=page.link,
        draw=page.draw,
        heat_map=page.heat_map,
        curve=page.curve,
        subjects=subjects(report),
    )


def verdict_table(claims: Sequence[Claim]) -> Table:
    """Return the claims as a table for a terminal."""
    table = Table(title="What holds", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what it says")
    for claim in claims:
        colour = COLOURS[claim.verdict]
        title = shorten(claim.title.replace("`", ""), TITLE_COLUMNS, placeholder=" ...")
        table.add_row(claim.id, claim.kind, Text(SHOWN[claim.verdict], colour), Text(title))
    return table
