"""The committed vectors are what the reference makes, byte for byte, under any hash seed."""

import json
import os
import subprocess
import sys
from operator import mul
from pathlib import Path

import pytest

from veil_conformance.generate import VECTORS


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_regenerated_vectors_are_the_committed_ones(root: Path, tmp_path: Path, hash_seed: str) -> None:
    roots = ("spec", "reference", "conformance_tests")
    paths = os.pathsep.join(str(root / name) for name in roots)
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "veil_conformance.generate", "--out", str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    schemas = {"schema.json", "protocol.json"}
    committed = {path.name: path.read_bytes() for path in VECTORS.glob("*.json") if path.name not in schemas}
    assert made == committed


def test_the_transcript_ends_with_the_plain_products_and_its_pads_are_never_used_twice() -> None:
    cases = json.loads((VECTORS / "transcript.json").read_text("utf-8"))["cases"]
    by_comment = {case["comment"]: case for case in cases}
    ends = [case for case in cases if case["operation"] == "unmask"]
    for case in ends:
        at = case["comment"].removesuffix(": the plain product")
        activations = by_comment[f"{at}: masked rows"]["input"]["activations"]
        weights = by_comment[f"{at}: the worker's product"]["input"]["weights"]
        rows = [[sum(map(mul, row, column)) for column in weights] for row in activations]
        assert case["output"] == rows
    pads = [case["output"]["words"] for case in cases if case["operation"] == "pad"]
    assert len(ends) == len(set(pads)) == 6
