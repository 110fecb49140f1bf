"""The committed vectors are what the reference makes, byte for byte, under any hash seed."""

import os
import subprocess
import sys
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
