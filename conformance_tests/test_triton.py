"""The CUDA kernel, interpreted on the CPU and compiled for a GPU that is not here.

Triton reads its mode when a kernel is defined, so another process does what is tested here: this file is its
program, and its answer one line of JSON.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veil_optimized import kernels
from veil_optimized.kernels import Kernel, probes, triton_limbs
from veil_optimized.kernels.triton_limbs import TritonLimbs
from veil_spec import constants

FIELDS: Final = (*constants.PRIMES, constants.LWE_MODULUS)
BASES: Final = (8, 7, 6)
SHARED_MOST: Final = 227 * 2**10
"""Bytes of shared memory that a program can have on an H100 or H200."""
MUTANTS: Final = {
    "the top limb is dropped": ("range(LIMBS):\n            inside", "range(LIMBS - 1):\n            inside"),
    "a row's last tile reads on": ("(place < left)", "(place <= left)"),
    "digits carry nothing": ("+ ((word >> (BITS - 1)) & 1)", ""),
    "large elements stay": ("word + LESS, word)", "word, word)"),
    "rows are not lowered": ("lowered = max(0, ", "lowered = min(0, "),
    "limbs of a weight share a place": ("made = tl.dot(parts[part]", "made = tl.dot(parts[0]"),
    "nothing is folded": ("+ FOLD * (total >> FIELD_BITS)", ""),
    "nothing comes back from above p": (
        "total >= MODULUS, total - MODULUS",
        "total > MODULUS, total - MODULUS",
    ),
    "nothing comes back from below 0": ("total < 0, total + MODULUS", "total < 0, total"),
    "q is passed": ("(word >= MODULUS) | (word < before)", "(word < before)"),
    "2^64 is passed": ("(word >= MODULUS) | (word < before)", "(word >= MODULUS)"),
    "0 is passed": ("tl.where(under, total - FOLD, total)", "total"),
    "-1 is taken for 2^64 - 1": ("(number >= 0) & ((word >= MODULUS)", "((word >= MODULUS)"),
    "a digit is not erased": ("digits.zero_()", "digits[1:].zero_()"),
}
"""What each says, and the line that is changed so that it does."""


def changed(module: Path, name: str) -> type[TritonLimbs]:
    """Return the kernel of the source with one mutant's line changed."""
    before, after = MUTANTS[name]
    text = Path(triton_limbs.__file__).read_text("utf-8")
    assert before in text, name
    module.write_text(text.replace(before, after), "utf-8")
    specification = importlib.util.spec_from_file_location(module.stem, module)
    assert specification and specification.loader
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    made.__dict__.update(STEP=1024, CUT=2**16)
    kernel: type[TritonLimbs] = made.TritonLimbs
    return kernel


def special(modulus: int, bits: int) -> list[int]:
    """Return the elements at which something turns."""
    digits = triton_limbs.limb_count(modulus.bit_length(), bits)
    top = triton_limbs.largest(digits, bits)
    ones = sum(2 ** (place * bits) for place in range(digits))
    turns = (0, 1, 2**31, modulus // 2, top, top + 1, -1, -2, -(2 ** (bits - 1)) * ones)
    return [turn % modulus for turn in turns]


@given(st.data())
@settings(max_examples=20, deadline=None)
def any_product_is_right(data: st.DataObject) -> None:
    """Draw shape, type, base and words, the special ones often, and compare with whole integers."""
    bits = data.draw(st.sampled_from(BASES))
    kind = data.draw(st.sampled_from(sorted(probes.LIMITS, key=str)))
    rows, inner, outputs = (data.draw(st.integers(1, most)) for most in (40, 300, 140))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    limit = probes.LIMITS[kind]
    weights = generator.integers(-limit, limit, (outputs, inner), endpoint=True)
    weights = np.where(generator.random(weights.shape) < 0.3, np.sign(weights) * limit, weights)
    words = torch.from_numpy(generator.integers(-(2**63), 2**63, (rows, inner)))

    def elements(modulus: int) -> probes.Integers:
        drawn = words.numpy().view(np.uint64) % np.uint64(modulus)
        turns = generator.choice(np.array(special(modulus, bits), np.uint64), drawn.shape)
        return np.where(generator.random(drawn.shape) < 0.5, turns, drawn).view(np.int64)

    held = torch.from_numpy(weights).to(kind)
    probe = probes.Probe(held, probes.scattered(held, words).rows, elements)
    assert probes.agrees(TritonLimbs(bits), "cpu", probe)


def longest_is_right() -> bool:
    """Return whether the largest sums are right: the lowest digits times the largest weights."""
    inner = constants.INNER_LIMIT
    return all(
        probes.agrees(
            TritonLimbs(),
            "cpu",
            probes.Probe(
                torch.tensor([[limit], [-limit]]).expand(2, inner).to(kind),
                torch.full((1, inner), -constants.ACTIVATION_LIMIT),
                lambda modulus: np.full((1, inner), special(modulus, 8)[-1], np.uint64).view(np.int64),
            ),
        )
        for kind, limit in probes.LIMITS.items()
    )


def erases(kernel: Kernel) -> bool:
    """Return whether what was once the digits of rows is zero after a product."""
    made: list[torch.Tensor] = []
    empty = torch.empty

    def recorded(*size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        made.append(empty(size, dtype=dtype, device=device))
        return made[-1]

    torch.empty = recorded  # type: ignore[assignment]
    try:
        kernel.multiply(torch.full((2, 40), 77), torch.ones(3, 40, dtype=torch.int8), FIELDS[0])
    finally:
        torch.empty = empty
    digits = [tensor for tensor in made if tensor.dtype == torch.int8]
    return len(digits) == 1 and not digits[0].any()


def is_right(kernel: Kernel) -> bool:
    """Return whether a kernel erases, and gets everything right that is asked of it."""
    return erases(kernel) and probes.is_right(kernel, "cpu")


def interpreted(folder: Path) -> dict[str, object]:
    """Return what a process that interprets kernels finds."""
    any_product_is_right()
    longest = longest_is_right()
    triton_limbs.__dict__.update(STEP=1024, CUT=2**16)
    mutants = [changed(folder / f"mutant_{number}.py", name) for number, name in enumerate(MUTANTS)]
    survivors = [name for name, mutant in zip(MUTANTS, mutants, strict=True) if is_right(mutant())]
    return {"longest": longest, "right": is_right(TritonLimbs()), "survivors": survivors}


def compiled(modulus: int, kind: torch.dtype, rows: int) -> dict[str, object]:
    """Return the instructions for products of bytes, and the shared memory, of a kernel for an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    bits = modulus.bit_length()
    limbs, parts = triton_limbs.limb_count(bits, 8), triton_limbs.part_count(kind, 8)
    tile = triton_limbs.tile_for(rows, 4096, limbs, parts, kind.itemsize)
    pointers = {"weights": f"*i{8 * kind.itemsize}", "digits": "*i8", "results": "*i64"}
    signature = pointers | dict.fromkeys(("outputs", "inner", "rows"), "i32")
    fixed = dict(MODULUS=modulus, FIELD_BITS=bits, LIMBS=limbs, PARTS=parts, BITS=8)
    fixed |= dict(ROWS=tile.rows, OUTPUTS=tile.outputs, STEP=triton_limbs.STEP)
    kernel = triton_limbs._multiply
    source = ASTSource(
        kernel,
        {name: signature.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in fixed.items()},
        {(place,): [["tt.divisibility", 16]] for place in range(5)},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    lines = [line for line in made.asm["ptx"].splitlines() if "mma" in line and ".s8.s8" in line]
    return {"products": len(lines), "shared": made.metadata.shared, "machine": len(made.asm["cubin"])}


def all_compiled() -> list[dict[str, object]]:
    """Return what is compiled for the first and last field, both types, one row and many."""
    return [
        compiled(modulus, kind, rows)
        for modulus in (FIELDS[0], FIELDS[-1])
        for kind in probes.LIMITS
        for rows in (1, 512)
    ]


PROGRAMS: Final[dict[str, Callable[[Path], object]]] = {
    "interpreted": interpreted,
    "compiled": lambda _: all_compiled(),
}


def answer(root: Path, folder: Path, program: str, **environment: str) -> str:
    """Return the last line that a process with this environment prints."""
    roots = os.pathsep.join(str(root / name) for name in ("spec", "optimized"))
    usual = {"PYTHONPATH": roots, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, __file__, program, str(folder)],
        env=os.environ | usual | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_it_is_right_where_it_is_interpreted_and_each_mutant_is_wrong(root: Path, tmp_path: Path) -> None:
    found = json.loads(answer(root, tmp_path, "interpreted", TRITON_INTERPRET="1"))
    assert found == {"longest": True, "right": True, "survivors": []}


def test_it_compiles_for_a_gpu_to_products_of_bytes(root: Path, tmp_path: Path) -> None:
    found = json.loads(answer(root, tmp_path, "compiled", TRITON_INTERPRET="0"))
    assert len(found) == 8
    assert all(each["products"] and each["machine"] and each["shared"] <= SHARED_MOST for each in found)


def widest(modulus: int, kind: torch.dtype, bits: int) -> tuple[int, int, int]:
    """Return bounds: of an int32 sum, of `high`, and of the number that `_reduced` adds."""
    field_bits, inner = modulus.bit_length(), constants.INNER_LIMIT
    limbs, parts = triton_limbs.limb_count(field_bits, bits), triton_limbs.part_count(kind, bits)
    top = min(triton_limbs.largest(limbs, bits), 2**63 - 1)
    element = max(min(top, modulus - 1), modulus - top - 1)
    place_sum = min(limbs, parts) * 2 ** (2 * bits - 2) * inner
    low = sum(place_sum << place * bits for place in range(limbs + parts - 1) if place * bits < 32)
    high = (element * inner * probes.LIMITS[kind] + low) // 2**32 + 1
    above = (high >> field_bits - 32) + 1
    return place_sum, high, low + (2**field_bits - modulus) * above


@pytest.mark.parametrize("bits", BASES)
@pytest.mark.parametrize("kind", probes.LIMITS)
@pytest.mark.parametrize("modulus", FIELDS)
def test_no_sum_leaves_its_word(modulus: int, kind: torch.dtype, bits: int) -> None:
    place_sum, high, number = widest(modulus, kind, bits)
    field_bits = modulus.bit_length()
    assert place_sum <= 2**29 and high < 2 ** (field_bits - 2) and number < 2**58
    folded = (2**field_bits - modulus) * ((number + modulus >> field_bits) + 1)
    assert field_bits == 64 or folded < modulus


def test_it_is_offered_for_gpus_alone() -> None:
    assert "triton" in kernels.names("cuda") and "triton" not in kernels.names("cpu")
    assert torch.cuda.is_available() or TritonLimbs.load() is None


def test_without_a_gpu_its_checks_fail(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "conformance_tests/gpu_checks.py"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "passed" not in done.stdout
    assert "no CUDA device" in done.stdout


if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[1]](Path(sys.argv[2]))))
