"""Every claim of the audit, with the verdict that the measurements give it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import torch

from veil_conformance.attacks.registry import ATTACKS
from veil_conformance.audit import evidence, faithful, lying, secrecy
from veil_conformance.audit.attacking import LETTER, Attacked
from veil_conformance.audit.decoding import Checking, Decoded, Tally
from veil_conformance.audit.matrix import SCHEME_READ, Cell, Matrix
from veil_conformance.audit.options import NOMINAL_EPSILON, TOY_TABLE
from veil_conformance.audit.report import Claim, verdict
from veil_conformance.audit.reusing import EPOCHS, Masks
from veil_optimized import accounting
from veil_optimized.model import Model
from veil_reference import accounting as reference_accounting
from veil_spec import constants
from veil_spec.types import Certificate, TwoSidedGeometric

LEAST_PROMPTS: Final = 4
LEAST_REFERENCE_POSITIONS: Final = 2


@dataclass(frozen=True, slots=True)
class Fit:
    """Of how many linear groups a product could wrap around its field, and the least room as a factor."""

    groups: int
    wide: int
    room: float


@dataclass
class Found:
    """Everything that the audit measured: the claims need no more."""

    new_tokens: int
    """How many the model was asked for after each prompt."""
    decoded: Decoded
    reference: Tally
    faithful: faithful.Comparison
    attacked: Attacked
    masks: Masks
    matrix: Matrix
    materials: list[secrecy.Material]
    fit: Fit
    secrets: Mapping[int, int]
    """Secret vectors of the check by modulus, in the group and epoch that had the fewest."""
    caught: list[lying.Caught]
    certificate: Certificate
    certificates_agree: bool
    alpha: Fraction
    proofs: list[evidence.Proved] | None
    conformance: list[evidence.Conformance] | None


def _proved(found: Found) -> Iterator[Claim]:
    """Yield one claim for each guarantee of the specification."""
    if found.proofs is None:
        yield Claim(
            "guarantees",
            "The guarantees of the specification are proved.",
            "proved",
            "not_claimed",
            "The proofs were not run: they need the source tree, where `make audit` runs them.",
        )
        return
    for each in found.proofs:
        guarantee, proof = each.guarantee, each.proof
        yield Claim(
            guarantee.id,
            guarantee.text,
            "proved",
            verdict(proof.holds),
            "Each step run by machine is a test, and a control shows that it refutes a false claim. "
            "What is argued in words or assumed stands in proofs/README.md.",
            {"steps passed": proof.proofs, "controls passed": proof.controls, "failed": proof.failed},
            [guarantee.page],
            sorted(proof.files),
            each.tests,
        )


def _conforming(found: Found) -> Iterator[Claim]:
    for name in evidence.IMPLEMENTATIONS:
        suite = next((run for run in found.conformance or [] if run.implementation == name), None)
        yield Claim(
            f"{name.removeprefix('veil_')}-conforms",
            f"`{name}` meets every requirement of the specification that a test can decide.",
            "checked",
            "not_claimed" if suite is None else verdict(suite.holds),
            "The suite was not run." if suite is None else suite.said,
            {}
            if suite is None
            else {
                "passed": suite.passed,
                "failed": suite.failed,
                "not claimed": suite.not_claimed,
                "exit status": suite.status,
            },
            ["spec/README.md"],
            [],
            ["conformance_tests/README.md"],
        )


def _identity(found: Found) -> Iterator[Claim]:
    tally, told = found.decoded.identity, found.decoded.told
    enough = len(told) >= LEAST_PROMPTS and all(len(each.tokens) == found.new_tokens for each in told)
    yield Claim(
        "masked-equals-plain",
        "Every logit of masked generation, through a worker process, equals that of the plain integer model.",
        "measured",
        verdict(tally.mismatches == 0 and enough),
        "Compared twice: with the plain model token by token, and with whole sequences at once.",
        {
            "prompts": len(told),
            "tokens asked for": found.new_tokens,
            "positions": tally.positions,
            "different words": tally.mismatches,
        },
        ["spec/remo.md", "spec/model.md"],
        ["proofs/prove_masking.py"],
        ["conformance_tests/veil_conformance/audit/decoding.py"],
    )
    slow = found.reference
    yield Claim(
        "optimized-equals-reference",
        "Every logit of the optimized model equals that of the reference, through all layers.",
        "measured",
        verdict(slow.mismatches == 0 and slow.positions >= LEAST_REFERENCE_POSITIONS),
        "The reference is plain Python integers and shares no code with the optimized model.",
        {"positions": slow.positions, "different words": slow.mismatches},
        ["spec/model.md", "spec/fixed_point.md"],
        [],
        ["conformance_tests/veil_conformance/audit/run.py"],
    )
    close = found.faithful
    yield Claim(
        "faithful",
        "The integer model's greedy token is the float32 model's, or that one was all but undecided.",
        "measured",
        verdict(close.holds),
        "Transformers in float32 is fed the integer model's own tokens. Each difference is listed below.",
        {
            "positions": close.positions,
            "equal": close.greedy_equal,
            "largest gap of a difference": max((flip.gap for flip in close.flips), default=0.0),
            "largest gap allowed": faithful.GAP_LIMIT,
        },
        ["spec/model.md"],
        [],
        ["conformance_tests/veil_conformance/audit/faithful.py"],
    )


def _cells(matrix: Matrix, chosen: Callable[[Cell], bool]) -> dict[str, str | float | bool]:
    """Return the figures of a claim about some cells: how many, the fewest tokens, and the shares."""
    cells = [cell for cell in matrix.cells if chosen(cell) and cell.expected != "refused"]
    figures: dict[str, str | float | bool] = {
        "cells": len(cells),
        "fewest tokens": min((len(cell.right) for cell in cells), default=0),
        "least share named": min((cell.named for cell in cells), default=0.0),
        "largest share named": max((cell.named for cell in cells), default=0.0),
    }
    compared = [cell.comparison for cell in cells if cell.comparison is not None]
    if compared:
        figures["least p-value"] = min(each.p_value for each in compared)
        figures["level of each test"] = matrix.level
    return figures


def _said(
    matrix: Matrix, name: str, title: str, evidence: str, proof: str, chosen: Callable[[Cell], bool]
) -> Claim:
    """Return a claim about some cells of the matrix."""
    return Claim(
        name,
        title,
        "measured",
        verdict(matrix.hold(chosen)),
        evidence,
        _cells(matrix, chosen),
        ["spec/remo.md"],
        [f"proofs/{proof}.py"],
        ["conformance_tests/test_audit_matrix.py"],
    )


def attacks(matrix: Matrix) -> Iterator[Claim]:
    """Yield the claims that the matrix decides."""
    yield _said(
        matrix,
        "rank-is-read",
        "Profile `rank` over a field is read at least to 99 %, down to a null space of one dimension.",
        "The look-up in the null space of the public basis, and sequential matching through every tap.",
        "prove_rank_leaks",
        lambda cell: cell.column == "rank" and cell.subject != LETTER,
    )
    yield _said(
        matrix,
        "real-rank-is-read",
        "Real-valued `rank` at sigma 10: nearest neighbour names single-digit percent, the null space 99 %.",
        "Both on the same kind of view. The first is what the paper measures; it does not use the basis. "
        "The small share is required of the audited model alone.",
        "prove_rank_leaks",
        lambda cell: cell.column == "real rank",
    )
    yield _said(
        matrix,
        "schemes-are-read",
        "Every broken scheme of the suite is read by the attack that is made for it.",
        f"At least {SCHEME_READ:.0%} of the tokens. An attack that breaks nothing would show nothing below.",
        "prove_rank_leaks",
        lambda cell: cell.column == "own target",
    )
    untried = matrix.untried()
    yield Claim(
        "every-attack-was-tried",
        "Every attack of the suite ran on `pad`, on `lwe` and on each scheme that it must break.",
        "checked",
        verdict(not untried),
        "Cells of a model that a profile refuses do not count.",
        {"attacks": len(ATTACKS), "pairs left out": len(untried)},
        ["spec/remo.md"],
        [],
        ["conformance_tests/test_audit_matrix.py"],
    )
    for profile, proof in (("pad", "prove_masking"), ("lwe", "prove_lwe_privacy")):
        yield _said(
            matrix,
            f"{profile}-hides",
            f"No attack gets more from profile `{profile}` than from uniform noise of the same shape.",
            "An exact paired test in every cell; the level of each is such that an honest run fails with a "
            "probability of at most 0.1 % in all tests together.",
            proof,
            lambda cell, profile=profile: (  # type: ignore[misc]
                cell.column == profile and cell.subject != LETTER and cell.expected != "refused"
            ),
        )
    yield _said(
        matrix,
        "recorded-letter",
        "In transcripts of a real prompt through the worker, `rank` is read and `pad` is not.",
        "Recorded as the worker was sent them; the attacker has them and the public model.",
        "prove_masking",
        lambda cell: cell.subject == LETTER,
    )


def _traffic(found: Found) -> Iterator[Claim]:
    exposed, cost = found.attacked.exposure, found.decoded.cost
    yield Claim(
        "frames-follow-lengths",
        "Of what a worker is sent, all but field elements follows from model, lengths and the epoch's name.",
        "checked",
        verdict(exposed.as_predicted),
        "Every frame of one recorded prompt and a few tokens after it, under profile `pad`, is compared byte "
        "for byte with the one that lengths predict; field elements are left out, the greeting's digest is "
        "not. The epoch's name is the one in the transcript's header.",
        {
            "frames": exposed.frames,
            "bytes": exposed.bytes,
            "steps": exposed.steps,
            "as predicted": exposed.as_predicted,
        },
        ["spec/wire.md"],
        [],
        ["conformance_tests/test_audit_report.py"],
    )
    yield Claim(
        "one-ciphertext-per-input",
        "A token takes one round trip for each distinct input of a linear layer.",
        "measured",
        verdict(cost.round_trips == found.fit.groups * cost.decoding_steps),
        "Four for each layer and one for the head, counted over all decoding steps.",
        {"round trips": cost.round_trips, "tokens": cost.decoding_steps},
        ["spec/remo.md"],
        [],
        ["conformance_tests/veil_conformance/audit/decoding.py"],
    )


def _weights(found: Found) -> Claim:
    wrong = [each.material for each in found.materials if not each.recovered]
    return Claim(
        "weights-are-with-the-enclave",
        "Under every profile, what enclave or dealer hold or learn gives the weights away.",
        "checked",
        verdict(bool(found.materials) and not wrong),
        "Solved for on the first linear layer: whoever is named as trusted below has to be.",
        {
            "kinds of material": len(found.materials),
            "that gave all weights": len(found.materials) - len(wrong),
        },
        ["spec/remo.md"],
        [],
        ["conformance_tests/veil_conformance/audit/secrecy.py"],
    )


def _fresh(found: Found) -> Claim:
    looked = found.masks.report
    return Claim(
        "no-mask-twice",
        "No mask, and no part of one, was used twice: recomputed from what was sent and what was masked.",
        "measured",
        verdict(found.masks.holds),
        "Epochs of one prompt through the worker, in the enclave's test mode. A mask is what was sent minus "
        "the plaintext, whatever indices the enclave believes in; the plaintext is that of plain inference.",
        {
            "epochs": EPOCHS,
            "masked rows": looked.rows,
            "elements": looked.elements,
            "used twice": len(looked.findings),
            "plaintext as in plain inference": found.masks.truthful,
        },
        ["spec/remo.md"],
        ["proofs/prove_freshness.py"],
        ["conformance_tests/test_audit_report.py"],
    )


def _lies(found: Found) -> Claim:
    met = {each.lie: f"{each.refusal}, {'silent' if each.silent else 'NOT SILENT'}" for each in found.caught}
    return Claim(
        "workers-that-lie",
        "A worker that alters, repeats, reorders, cuts, mislabels or withholds an answer is refused by name.",
        "checked",
        verdict(bool(found.caught) and all(each.holds for each in found.caught)),
        "Each lie is about the first product; the worker then receives no more than an honest one had.",
        met,
        ["spec/integrity.md", "spec/wire.md"],
        ["proofs/prove_freivalds.py"],
        ["conformance_tests/test_process.py"],
    )


def fit(model: Model) -> Fit:
    """Return whether the products of a model fit their fields, from its weights."""
    rooms, wide = [], 0
    for group in model.groups:
        largest = int(group.weights.to(torch.int64).abs().sum(-1).max()) * (constants.ACTIVATION_LIMIT + 1)
        wide += 2 * largest > group.modulus - 1
        rooms.append((group.modulus - 1) / (2 * largest) if largest else 1.0)
    return Fit(len(rooms), wide, min(rooms))


def _fits(found: Found) -> Claim:
    return Claim(
        "products-fit",
        "No product of any linear group can wrap around its field.",
        "checked",
        verdict(found.fit.wide == 0),
        "Recomputed in integers from the weights of every group, for the largest possible activations.",
        {
            "groups": found.fit.groups,
            "that could wrap": found.fit.wide,
            "least room, as a factor": found.fit.room,
        },
        ["spec/remo.md"],
        ["proofs/prove_masking.py"],
        ["conformance_tests/veil_conformance/audit/claims.py"],
    )


def secrets(model: Model, ran: Checking) -> dict[int, int]:
    """Return for each modulus, in ascending order, the fewest secret vectors of a group over it."""
    vectors = ran.vectors or (0,) * len(model.groups)
    fewest: dict[int, int] = {}
    for group, count in zip(model.groups, vectors, strict=True):
        fewest[group.modulus] = min(count, fewest.get(group.modulus, count))
    return dict(sorted(fewest.items()))


def _over(modulus: int, count: int) -> str:
    bits = modulus.bit_length()
    return f"{count} over 2^{bits} - {2**bits - modulus}"


def soundness(vectors: Mapping[int, int], ran: Checking) -> Claim:
    """Return the claim that every product was checked, with enough secret vectors for each field."""
    least = min(modulus**count for modulus, count in vectors.items())
    enough = least >= 2**constants.SOUNDNESS_BITS
    return Claim(
        "check-soundness",
        "Every product was checked, and a wrong one passes one check with a probability of at most 2^-64.",
        "checked",
        verdict(enough and ran.checked == ran.received > 0),
        "Counted in the epochs of the masked generations: products that the channel received, checks passed, "
        "and the fewest secret vectors of a group. Bits are binary orders of magnitude of the error.",
        {
            "secret vectors": ", ".join(_over(modulus, count) for modulus, count in vectors.items()),
            "bits, one check": _bits(least),
            "products received": ran.received,
            "products checked": ran.checked,
            "bits, all of them": _bits(least // max(1, ran.received)),
        },
        ["spec/integrity.md"],
        ["proofs/prove_freivalds.py"],
        ["conformance_tests/test_enclave.py"],
    )


def _bits(power: int) -> int:
    return max(0, power.bit_length() - 1)


def certified() -> tuple[Fraction, Certificate, bool]:
    """Return alpha, the toy table's certificate, and whether the reference computes the same one."""
    table = accounting.load_table(TOY_TABLE)
    distance = accounting.range_distance(table)
    alpha = accounting.calibrate(NOMINAL_EPSILON, distance)
    stated = accounting.certificate(table, TwoSidedGeometric(alpha))
    slow_alpha = reference_accounting.calibrate(NOMINAL_EPSILON, distance)
    return alpha, stated, stated == reference_accounting.certificate(table, TwoSidedGeometric(slow_alpha))


def _certificate(found: Found) -> Claim:
    stated = found.certificate
    ordered = stated.exact <= stated.bound and Fraction(stated.epsilon_bound) <= Fraction(NOMINAL_EPSILON)
    return Claim(
        "certificate",
        "For the toy table, exact epsilon is at most the bound, and the bound at most the nominal epsilon.",
        "checked",
        verdict(found.certificates_agree and ordered),
        "Computed exactly, as rationals, by both implementations.",
        {
            "both implementations agree": found.certificates_agree,
            "exact": float(stated.epsilon_exact),
            "bound": float(stated.epsilon_bound),
            "nominal": float(NOMINAL_EPSILON),
        },
        ["spec/accounting.md", "spec/noisy_max.md"],
        ["proofs/prove_noisy_max.py"],
        ["conformance_tests/veil_conformance/audit/run.py"],
    )


def claims(found: Found) -> list[Claim]:
    """Return every claim with its verdict: measured ones first, then checked, then proved."""
    made = [
        *_identity(found),
        *attacks(found.matrix),
        _weights(found),
        *_traffic(found),
        _fresh(found),
        _lies(found),
        _fits(found),
        soundness(found.secrets, found.decoded.checking),
        _certificate(found),
        *_conforming(found),
        *_proved(found),
    ]
    return sorted(made, key=lambda claim: ("measured", "checked", "proved").index(claim.kind))
