"""What report.json says, from what was measured."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

import veil_spec
from veil_conformance import suite
from veil_conformance.audit import attacking, costs, decoding, evidence, faithful, report, statistics, texts
from veil_conformance.audit.claims import Found, claims
from veil_conformance.audit.decoding import Decoded
from veil_conformance.audit.matrix import Cell, Matrix
from veil_conformance.audit.options import NOMINAL_EPSILON, TOY_TABLE, Options, Words
from veil_conformance.audit.report import Claim, Json
from veil_optimized import accounting, integrity
from veil_optimized.model import Model
from veil_spec.architecture import INTEGER_FILE

PACKAGES: Final = ("torch", "transformers", "numpy", "scipy", "matplotlib", "grpcio")
"""Whose releases the page names."""
INTEGER_MODEL: Final = "integer model"
CHECKPOINT: Final = "checkpoint"
"""What the report calls the files that were audited."""


def _promises(
    stated: Sequence[tuple[str, Sequence[str]]], made: Sequence[Claim]
) -> Sequence[Mapping[str, Json]]:
    holding = {claim.id for claim in made if claim.verdict == "holds"}
    return [{"text": text, "claims": list(ids), "shown": holding.issuperset(ids)} for text, ids in stated]


def _cell(cell: Cell, level: float) -> Mapping[str, Json]:
    compared = cell.comparison
    return {
        "subject": cell.subject,
        "attack": cell.attack,
        "column": cell.column,
        "target": cell.target,
        "detail": cell.detail,
        "expected": cell.expected,
        "share": cell.share,
        "least": cell.least,
        "holds": cell.holds(level),
        "tokens": len(cell.right),
        "named": cell.named,
        "interval": list(cell.interval),
        "chance": cell.chance,
        "paired": None
        if compared is None
        else {
            "uniform": cell.uniform,
            "only_here": compared.only_first,
            "only_there": compared.only_second,
            "units": compared.units,
            "differences": [list(each) for each in compared.differences.items()],
            "interval": list(compared.interval),
            "p_value": compared.p_value,
        },
    }


def _matrix(matrix: Matrix) -> Mapping[str, Json]:
    return {
        "false_alarm": statistics.FALSE_ALARM,
        "comparisons": matrix.comparisons,
        "level": matrix.level,
        "cells": [_cell(cell, matrix.level) for cell in matrix.cells],
        "curve": {
            "tokens": matrix.curve_tokens,
            "points": [asdict(point) for point in matrix.curve],
        },
    }


def _cost(cost: decoding.Cost) -> Mapping[str, Json]:
    return {
        "decoding_steps": cost.decoding_steps,
        "plain_float32_s": cost.plain_float32_s,
        "plain_integer_s": cost.plain_integer_s,
        "masked_s": cost.masked_s,
        "mint_s": cost.mint_s,
        "prepare_s": cost.prepare_s,
        "ratio_to_float32": cost.masked_s / cost.plain_float32_s,
        "ratio_to_plain_integer": cost.masked_s / cost.plain_integer_s,
        "ratio_including_mint": (cost.masked_s + cost.mint_s + cost.prepare_s) / cost.plain_float32_s,
        "trusted_macs_online": cost.macs_online,
        "trusted_macs_offline": cost.macs_offline,
        "bytes_per_token": cost.bytes / cost.decoding_steps,
        "round_trips_per_token": cost.round_trips / cost.decoding_steps,
    }


def _scene(words: Words, scene: attacking.Scene) -> Mapping[str, Json]:
    def seen(profile: str) -> Json:
        guesses = scene.guesses[profile]
        return {
            "elements": scene.elements[profile],
            "guesses": [words.token(token) for token in guesses],
            "right": [guess == token for guess, token in zip(guesses, scene.tokens, strict=True)],
        }

    return {
        "m_over_d": float(scene.m_over_d),
        "modulus": scene.modulus,
        "tokens": [words.token(token) for token in scene.tokens],
        "integers": scene.integers,
        "rank": seen("rank"),
        "pad": seen("pad"),
    }


def _generations(options: Options, decoded: Decoded) -> Sequence[Mapping[str, Json]]:
    return [
        {
            "prompt": prompt,
            "answer": "".join(options.words.token(token) for token in told.tokens),
            "prompt_tokens": len(told.prompt),
            "new_tokens": len(told.tokens),
        }
        for prompt, told in zip(options.prompts, decoded.told, strict=True)
    ]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit(root: Path | None) -> str:
    if root is None:
        return "installed package"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "no commit yet"


def tools() -> dict[str, str]:
    """Return the SHA-256 of everything that an audit audits with, by what the report calls it."""
    table = digest(TOY_TABLE)
    return {"toy table": table, "conformance suite": suite.suite_digest(), "audit": suite.audit_digest()}


def commands() -> list[str]:
    """Return the commands that run an audit, or parts of it, again."""
    suites = [f"python -m veil_conformance --impl {name}" for name in evidence.IMPLEMENTATIONS]
    return ["make audit", "python -m pytest proofs", *suites]


def _environment(options: Options, seconds: float) -> Mapping[str, Json]:
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tree": _commit(options.root),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    source = options.checkpoint if options.checkpoint.is_file() else options.checkpoint / "model.safetensors"
    hashed = {INTEGER_MODEL: options.model / INTEGER_FILE, CHECKPOINT: source}
    return {
        "facts": facts | {package: _release(package) for package in PACKAGES},
        "hashes": {name: digest(path) for name, path in hashed.items() if path.is_file()} | tools(),
        "commands": commands(),
        "seconds": seconds,
    }


def _epsilon(found: Found) -> Mapping[str, Json]:
    stated = found.certificate
    return {
        "nominal": float(NOMINAL_EPSILON),
        "bound": float(stated.epsilon_bound),
        "exact": float(stated.epsilon_exact),
        "adjacency": stated.adjacency,
        "part_bits": float(stated.part_bits),
        "bayes_recovery": float(stated.bayes_recovery),
        "table": accounting.load_table(TOY_TABLE).name,
        "alpha": str(found.alpha),
    }


def judged(found: Found, name: str) -> Mapping[str, Json]:
    """Return what report.json says of a model with this name that follows from what was found."""
    made = claims(found)
    tally, slow, close = found.decoded.identity, found.reference, found.faithful
    return {
        "spec_version": veil_spec.__version__,
        "verdict": report.overall(made, name),
        "protection": {
            "protected": _promises(texts.PROTECTED, made),
            "not_protected": _promises(texts.NOT_PROTECTED, made),
        },
        "claims": [claim.as_json() for claim in made],
        "bit_identity": {
            "masked_vs_plain": tally.mismatches == 0,
            "optimized_vs_reference": slow.mismatches == 0,
            "mismatches": tally.mismatches + slow.mismatches,
            "positions": tally.positions,
            "reference_positions": slow.positions,
        },
        "faithful": {
            "positions": close.positions,
            "greedy_equal": close.greedy_equal,
            "max_logit_error": close.max_logit_error,
            "rms_logit_error": close.rms_logit_error,
            "gap_limit": faithful.GAP_LIMIT,
            "flips": [asdict(flip) for flip in close.flips],
        },
        "matrix": _matrix(found.matrix),
        "weights": [asdict(each) for each in found.materials],
        "epsilon": _epsilon(found),
        "cost": _cost(found.decoded.cost),
        "measured": report.measured(),
    }


def of_model(model: Model) -> Mapping[str, Json]:
    """Return what report.json says that follows from an integer model."""
    return {
        "model": {
            "name": model.name,
            "parameters": model.parameters,
            "hash": model.digest.hex(),
            "commitment": integrity.commitment(model.groups).hex(),
            "layers": model.shape.layers,
            "vocabulary": model.shape.vocabulary,
        },
        "profiles": [asdict(each) for each in costs.profile_costs(model)],
    }


def assemble(options: Options, model: Model, found: Found, seconds: float) -> Mapping[str, Json]:
    """Return report.json's content."""
    return {
        **judged(found, model.name),
        **of_model(model),
        "picture": _scene(options.words, found.attacked.scene),
        "generations": _generations(options, found.decoded),
        "environment": _environment(options, seconds),
    }
