"""What an audit found, rebuilt from its report's counts, so that all that follows can be computed again."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from veil_conformance.attacks import reuse
from veil_conformance.audit import claims, faithful, lying, secrecy
from veil_conformance.audit.attacking import DECODED, RATIO, Attacked, Exposure, Scene
from veil_conformance.audit.claims import Fit, Found
from veil_conformance.audit.decoding import Checking, Cost, Decoded, Tally, Told
from veil_conformance.audit.evidence import IMPLEMENTATIONS, Conformance, Guarantee, Proof, Proved
from veil_conformance.audit.matrix import COLUMNS, FEW, RANK_READ, SCHEME_READ, Cell, Matrix, Point
from veil_conformance.audit.reusing import Masks
from veil_conformance.audit.statistics import counted
from veil_spec.refusals import Refusal

Figures = Mapping[str, Any]
FIELD: Final = re.compile(r"([0-9]{1,3}) over 2\^([1-9][0-9]) - ([0-9]{1,2})")
TIMED: Final = ("plain_float32", "plain_integer", "masked", "mint", "prepare")
MOST: Final = 2**20
"""Counts above this are no counts of an audit, and would take memory to rebuild."""


class Odd(Exception):
    """Raised with one line that names what is missing in a report, or is of no use there."""


class Counts:
    """The figures of a report's claims, by the claim's ID."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._figures: dict[str, Figures] = {claim["id"]: claim["figures"] for claim in report["claims"]}
        self._evidence: dict[str, str] = {claim["id"]: claim["evidence"] for claim in report["claims"]}

    def of(self, claim: str) -> Figures:
        """Return a claim's figures. Raises: Odd."""
        if claim not in self._figures:
            raise Odd(f"claims.{claim}: there is no such claim")
        return self._figures[claim]

    def said_by(self, claim: str) -> str:
        """Return the evidence of a claim that there is."""
        return self._evidence[claim]

    def count(self, claim: str, name: str, most: int = 2**63) -> int:
        """Return a count, at most so large. Raises: Odd."""
        value = self.of(claim).get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise Odd(f"claims.{claim}.figures.{name}: this is no count: {value!r}")
        return value

    def said(self, claim: str, name: str) -> bool:
        """Return whether something is the case. Raises: Odd."""
        value = self.of(claim).get(name)
        if not isinstance(value, bool):
            raise Odd(f"claims.{claim}.figures.{name}: this is neither true nor false: {value!r}")
        return value

    def number(self, claim: str, name: str) -> float:
        """Return a number. Raises: Odd."""
        value = self.of(claim).get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Odd(f"claims.{claim}.figures.{name}: this is no number: {value!r}")
        return value


def _hits(share: float, tokens: int) -> int:
    return round(share * tokens)


def _share(column: str, expected: str) -> float:
    """Return the share that decides a cell."""
    if expected == "read":
        return SCHEME_READ if column == "own target" else RANK_READ
    return FEW if expected == "few" else 0.0


def _cell(number: int, cell: Mapping[str, Any]) -> Cell:
    """Return a cell with as many hits as its share says, whichever tokens they were. Raises: Odd."""
    tokens, hits = cell["tokens"], _hits(cell["named"], cell["tokens"])
    made = Cell(
        **{name: cell[name] for name in ("subject", "attack", "target", "expected")},
        column=cell["target"] if cell["target"] in COLUMNS else "own target",
        share=_share(cell["column"], cell["expected"]),
        least=cell["least"],
        detail=cell["detail"],
        right=(True,) * hits + (False,) * (tokens - hits),
        chance=cell["chance"],
    )
    paired = cell["paired"]
    if paired is None:
        return made
    noise, differences = _hits(paired["uniform"], tokens), dict(map(tuple, paired["differences"]))
    moved = sum(abs(step) * count for step, count in differences.items())
    if not tokens or max(moved, sum(differences.values())) > tokens:
        raise Odd(f"matrix.cells.{number}.paired.differences: more than {tokens} tokens can make")
    ahead = sum(step * count for step, count in differences.items())
    if ahead != hits - noise:
        raise Odd(f"matrix.cells.{number}.paired.differences: they add up to {ahead}, hits to {hits - noise}")
    compared = counted((hits, noise), tokens, paired["only_here"], differences)
    return replace(made, uniform=noise / tokens, comparison=compared)


def _matrix(matrix: Mapping[str, Any]) -> Matrix:
    points = [Point(**point) for point in matrix["curve"]["points"]]
    return Matrix(
        [_cell(number, cell) for number, cell in enumerate(matrix["cells"])],
        points,
        matrix["curve"]["tokens"],
    )


def _decoded(report: Mapping[str, Any], counts: Counts) -> Decoded:
    nothing = torch.empty(0)
    said = report["generations"]
    told = [Told([0] * each["prompt_tokens"], [0] * each["new_tokens"], nothing) for each in said]
    tokens, cost = [len(each.tokens) for each in told], report["cost"]
    steps = sum(tokens) - len(tokens)
    if steps < 1:
        raise Odd("generations: not one decoding step")
    trips = counts.count("one-ciphertext-per-input", "round trips")
    mismatches = counts.count("masked-equals-plain", "different words")
    received = counts.count("check-soundness", "products received")
    checked = counts.count("check-soundness", "products checked")
    return Decoded(
        told,
        stepwise=Tally(sum(tokens), mismatches),
        cost=Cost(
            steps,
            **{f"{way}_s": cost[f"{way}_s"] for way in TIMED},
            macs_online=cost["trusted_macs_online"],
            macs_offline=cost["trusted_macs_offline"],
            bytes=round(cost["bytes_per_token"] * steps),
            round_trips=trips,
        ),
        checking=Checking(received, checked),
    )


def _close(report: Mapping[str, Any], decoded: Decoded) -> faithful.Comparison:
    stated, positions = report["faithful"], sum(len(each.fed) for each in decoded.told)
    flips = tuple(faithful.Flip(**flip) for flip in stated["flips"])
    errors = stated["max_logit_error"], stated["rms_logit_error"]
    return faithful.Comparison(positions, positions - len(flips), *errors, flips)


def _exposure(counts: Counts) -> Exposure:
    name = "frames-follow-lengths"
    frames, sent = (counts.count(name, each) for each in ("frames", "bytes"))
    return Exposure(frames, sent, 1 + DECODED, counts.said(name, "as predicted"))


def _masks(counts: Counts) -> Masks:
    name = "no-mask-twice"
    nowhere = reuse.Place(0, 0, 0, 0)
    findings = [reuse.Finding("run", nowhere, nowhere)] * counts.count(name, "used twice", MOST)
    seen = reuse.Report(counts.count(name, "masked rows"), counts.count(name, "elements"), 0, findings)
    return Masks(seen, counts.said(name, "plaintext as in plain inference"))


def _material(stated: Mapping[str, Any]) -> secrecy.Material:
    trusted = secrecy.TRUSTED.get(stated["profile"], "")
    return secrecy.Material(**{**stated, "trusted": trusted})


def _caught(counts: Counts) -> list[lying.Caught]:
    figures, caught = counts.of("workers-that-lie"), []
    for lie, expected in lying.LIES:
        name = lie.__name__.replace("_", " ")
        refusal, _, heard = str(figures.get(name)).partition(", ")
        met = Refusal(refusal) if refusal in set(Refusal) else None
        caught.append(lying.Caught(name, expected, met, heard == "silent"))
    return caught


def _secrets(counts: Counts) -> dict[int, int]:
    stated = str(counts.of("check-soundness").get("secret vectors"))
    fields = [FIELD.fullmatch(each) for each in stated.split(", ")]
    known = [each for each in fields if each]
    if not known or len(known) != len(fields):
        raise Odd(f"claims.check-soundness.figures.secret vectors: unreadable: {stated!r}")
    return {2 ** int(each[2]) - int(each[3]): int(each[1]) for each in known}


def _conformance(counts: Counts) -> list[Conformance]:
    made = []
    for name in IMPLEMENTATIONS:
        claim = f"{name.removeprefix('veil_')}-conforms"
        if counts.of(claim):
            names = ("passed", "failed", "not claimed", "exit status")
            passed, failed, unclaimed, status = (counts.count(claim, each) for each in names)
            made.append(Conformance(name, passed, failed, unclaimed, status, counts.said_by(claim)))
    return made


def _proofs(report: Mapping[str, Any], counts: Counts) -> list[Proved] | None:
    """Return the proofs of the guarantees that a report names: their sentences are the report's own."""
    made = []
    for claim in report["claims"]:
        if claim["kind"] == "proved" and claim["id"] != "guarantees":
            names = ("steps passed", "controls passed", "failed")
            passed, controls, failed = (counts.count(claim["id"], name) for name in names)
            proof = Proof(passed, controls, failed, set(claim["proof"]))
            page = "".join(claim["spec"][:1])
            made.append(Proved(Guarantee(claim["id"], claim["title"], page), proof, claim["test"]))
    return made or None


def _fit(report: Mapping[str, Any], counts: Counts) -> Fit:
    groups = 4 * report["model"]["layers"] + 1
    wide = counts.count("products-fit", "that could wrap")
    return Fit(groups, wide, counts.number("products-fit", "least room, as a factor"))


def found(report: Mapping[str, Any], fit: Fit | None = None) -> Found:
    """Return what an audit must have found for its report, which has the stated form, to be right.

    Counts are the report's; the certificate is computed anew, and so is `fit` where a model is given. The
    picture is left out. Raises: Odd.
    """
    counts = Counts(report)
    decoded = _decoded(report, counts)
    different = counts.count("optimized-equals-reference", "different words")
    slow = Tally(report["bit_identity"]["reference_positions"], different)
    nothing = Scene(RATIO, 0, [], [], {}, {})
    alpha, stated, agree = claims.certified()
    return Found(
        counts.count("masked-equals-plain", "tokens asked for"),
        decoded,
        slow,
        _close(report, decoded),
        Attacked((), nothing, _exposure(counts)),
        _masks(counts),
        _matrix(report["matrix"]),
        [_material(each) for each in report["weights"]],
        fit or _fit(report, counts),
        _secrets(counts),
        _caught(counts),
        stated,
        agree,
        alpha,
        _proofs(report, counts),
        _conformance(counts),
    )
