"""Weights stay integers in memory: products by blocks are exact, and no process holds a widened copy."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import torch

from conftest import write_checkpoint
from veil.importer import import_model
from veil_optimized import field, integrity, kernels, lwe, remo
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE

Rows = list[list[int]]
MIB: Final = 2**20
ROOM: Final = 40 * MIB
"""What loading, one check key and two products may take beside the file."""
VOCABULARY: Final = 65_536
WIDTH: Final = 256
HEAD: Final = 2 * VOCABULARY * WIDTH
"""Bytes of the head's weights, and of the halves that the 8-bit kernel keeps of them."""
SMALL_BLOCK: Final = 16
"""Elements of a block: two rows of seven, the last one alone."""
FIELDS: Final = (*constants.PRIMES, constants.LWE_MODULUS)
TYPES: Final = ((torch.int8, 128), (torch.int16, constants.WEIGHT_LIMIT + 1))


def drawn(dtype: torch.dtype, limit: int) -> torch.Tensor:
    """Return weights [5, 7] with both extremes in the last row."""
    draw = torch.Generator().manual_seed(limit)
    weights = torch.randint(1 - limit, limit, (5, 7), generator=draw).to(dtype)
    weights[4, :2] = torch.tensor([limit - 1, 1 - limit])
    return weights


def elements(rows: int, columns: int, modulus: int) -> Rows:
    """Return field elements from the largest one down."""
    return [[modulus - 1 - (r * columns + c) ** 9 % modulus for c in range(columns)] for r in range(rows)]


def words(rows: Rows) -> torch.Tensor:
    """Return elements as int64, those of q by their bits."""
    return torch.tensor([[element - 2**64 * (element >= 2**63) for element in row] for row in rows])


def exact(left: Rows, right: Rows, modulus: int) -> Rows:
    """Return left times the transpose of right, mod p, in Python integers."""
    return [[sum(a * b for a, b in zip(x, y, strict=True)) % modulus for y in right] for x in left]


def right_products(modulus: int, weights: torch.Tensor) -> bool:
    """Return whether both products by blocks equal those of Python integers, for 1 and 3 rows."""
    whole = [[int(weight) for weight in row] for row in weights.tolist()]
    turned = [list(column) for column in zip(*whole, strict=True)]
    for count in (1, 3):
        masked, secret = elements(count, 7, modulus), elements(count, 5, modulus)
        product = field.multiply(words(masked), weights, modulus)
        key = integrity.check_key(weights, words(secret), modulus)
        if not torch.equal(product, words(exact(masked, whole, modulus))):
            return False
        if not torch.equal(key, words(exact(secret, turned, modulus))):
            return False
    return True


@pytest.mark.requirement("RMO-R4")
@pytest.mark.parametrize("modulus", FIELDS)
@pytest.mark.parametrize(("dtype", "limit"), TYPES)
def test_products_by_blocks_are_exact(
    modulus: int, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (1, SMALL_BLOCK, field.BLOCK):
        monkeypatch.setattr(field, "BLOCK", block)
        assert right_products(modulus, drawn(dtype, limit))


@pytest.mark.requirement("RMO-R1")
def test_norms_and_halves_by_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.zeros(5, 70_000, dtype=torch.int16)
    weights[4] = constants.WEIGHT_LIMIT
    weights[1, :3] = torch.tensor([-128, -129, -constants.WEIGHT_LIMIT])
    monkeypatch.setattr(field, "BLOCK", SMALL_BLOCK)
    assert remo.choose_modulus(weights) == constants.PRIMES[2]
    assert remo.choose_modulus(weights[:4]) == constants.PRIMES[0]
    high, low = lwe.halves(weights).chunk(2)
    assert torch.equal(256 * high.to(torch.int64) + low, weights.to(torch.int64))


Blocks = Callable[[torch.Tensor], Iterator[tuple[slice, torch.Tensor]]]
WALK: Final[Blocks] = field.blocks


def without_the_last(weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the blocks of all rows but the last."""
    return WALK(weights[:-1])


def each_one_row_late(weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the blocks of the weights turned by one row."""
    return WALK(weights.roll(1, 0))


def in_single_precision(weights: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the blocks with what bfloat16 keeps of them."""
    return ((part, block.to(torch.bfloat16).to(torch.float64)) for part, block in WALK(weights))


@pytest.mark.parametrize("wrong", [without_the_last, each_one_row_late, in_single_precision])
def test_negative_control_wrong_blocks_are_noticed(wrong: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "BLOCK", SMALL_BLOCK)
    monkeypatch.setattr(field, "blocks", wrong)
    assert not right_products(constants.PRIMES[0], drawn(*TYPES[1]))


# Real memory

SCRIPT = """
import sys
from pathlib import Path
import torch
from veil_optimized import field, integrity, model
from veil_optimized.tape import SeededTape

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
small = torch.ones(600, 256, dtype=torch.int16)
integrity.prepare(SeededTape(bytes(32)), 0, small, 2**48 - 59)
field.multiply(torch.ones(1, 256, dtype=torch.int64), small, 2**48 - 59)
before = peak()
loaded = model.load(Path(sys.argv[1]))
exec(sys.argv[2])
head = loaded.groups[-1]
model.plain_products(head, torch.ones(1, head.weights.shape[1], dtype=torch.int64))
field.multiply(torch.ones(1, head.weights.shape[1], dtype=torch.int64), head.weights, head.modulus)
integrity.prepare(SeededTape(bytes(32)), head.number, head.weights, head.modulus)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file of 64 MiB, nearly all of it an embedding and a head of 32 MiB each."""
    folder = tmp_path_factory.mktemp("large")
    draw = torch.Generator().manual_seed(3)
    name, kept = "model.layers.0", "weight"

    def weights(*size: int) -> torch.Tensor:
        """Return random weights, the same in every 256 rows."""
        rows = torch.randn(256, size[1], generator=draw, dtype=torch.bfloat16)
        return rows.repeat(-(-size[0] // 256), 1)[: size[0]].contiguous()

    linear = {
        "q_proj": (WIDTH, WIDTH),
        "k_proj": (WIDTH, WIDTH),
        "v_proj": (WIDTH, WIDTH),
        "o_proj": (WIDTH, WIDTH),
    }
    mlp = {"gate_proj": (16, WIDTH), "up_proj": (16, WIDTH), "down_proj": (WIDTH, 16)}
    tensors = {f"{name}.self_attn.{part}.{kept}": weights(*size) for part, size in linear.items()}
    tensors |= {f"{name}.mlp.{part}.{kept}": weights(*size) for part, size in mlp.items()}
    norms = ("model.norm", f"{name}.input_layernorm", f"{name}.post_attention_layernorm")
    tensors |= {f"{norm}.{kept}": torch.ones(WIDTH) for norm in norms}
    tensors |= {f"{part}.{kept}": weights(VOCABULARY, WIDTH) for part in ("model.embed_tokens", "lm_head")}
    source = write_checkpoint(
        folder / "float",
        tensors,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    import_model(source, folder / "integer")
    (source / "model.safetensors").unlink()
    return folder / "integer" / INTEGER_FILE


def growth(path: Path, change: str = "", kernel: str = "portable") -> int:
    """Return by how many bytes the peak memory of a process grows that loads the file and multiplies."""
    command: Sequence[str] = [sys.executable, "-P", "-c", SCRIPT, str(path), change]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        kernels.CHOICE: kernel,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.usable("cpu")])
def test_a_process_holds_its_weights_once_as_the_file_has_them(large: Path, kernel: str) -> None:
    size = large.stat().st_size
    assert size > 64 * MIB
    halves = HEAD if kernel == "int8" else 0
    assert size / 2 + halves < growth(large, kernel=kernel) < size + halves + ROOM


@pytest.mark.parametrize(
    "change",
    [
        "field.BLOCK = 2**40",
        "kept = [torch.clone(group.weights) for group in loaded.groups]",
    ],
    ids=["widens a matrix at a time", "keeps a copy"],
)
def test_negative_control_another_copy_of_the_weights_is_noticed(large: Path, change: str) -> None:
    assert growth(large, change) > large.stat().st_size + ROOM


KEPT: Final = """
import resource, sys, torch
from pathlib import Path
from veil_optimized.allocator import keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    assert keep_freed()
before = resident()
held = [torch.ones(20 * 2**20, dtype=torch.int8) for _ in range(6)]
del held
print(resident() - before)
"""
"""Prints how many bytes more a process holds after it has freed six tensors of 20 MiB."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways")
@pytest.mark.parametrize(("asked", "kept"), [("keep", True), ("", False)])
def test_freed_memory_stays_with_a_process_that_asks_for_it(asked: str, kept: bool) -> None:
    """Tensors that are freed leave memory for the next ones; without a word they go back to the system."""
    done = subprocess.run([sys.executable, "-c", KEPT, asked], capture_output=True, text=True, check=True)
    assert (int(done.stdout) >= 100 * MIB) is kept
