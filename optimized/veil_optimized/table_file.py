"""Table files: one safetensors file that carries everything its certificates depend on."""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from veil_optimized.accounting import claim_limit
from veil_spec import __version__, constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import TabulatedPart, TabulatedTable

__all__ = ["Statement", "TableFile", "load_tabulated", "read", "write"]

ENTRY_KINDS: Final = ("words", "tokens")
NOISES: Final = ("one-sided", "two-sided")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a table file says about itself, all of it public."""

    spec_version: str
    name: str
    entries: str
    noise: str
    epsilon: list[str]
    vectors: str
    policy: str


@dataclass(frozen=True, slots=True)
class TableFile:
    """A checked table file, laid out as in spec/noisy_max.md; `digest` is its SHA-256."""

    statement: Statement
    entries: list[str]
    members: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int32]
    classes: npt.NDArray[np.int32]
    scores: npt.NDArray[np.int32]
    alphas: npt.NDArray[np.int32]
    weights: npt.NDArray[np.uint64]
    digest: str = ""

    def table(self, level: int) -> TabulatedTable:
        """Return one level, from 0, as lists."""
        parts, token, cell = [], 0, 0
        for size in map(int, self.sizes):
            members = self.members[token : token + size]
            squares = [
                tuple(map(tuple, cells[cell : cell + size * size].reshape(size, size).tolist()))
                for cells in (self.scores, self.weights[level])
            ]
            if size == 1:
                squares[1] = ((2**constants.TABLE_BITS,),)
            parts.append(TabulatedPart(tuple(self.entries[n] for n in members), *squares))
            token, cell = token + size, cell + size * size
        return TabulatedTable(self.statement.name, self.statement.epsilon[level], tuple(parts))


def write(path: Path, table: TableFile) -> str:
    """Return the SHA-256 of the new file. The same table always gives the same bytes."""
    text = json.dumps(table.entries, ensure_ascii=False).encode("utf-8")
    arrays = {name: getattr(table, name) for name in ("members", "sizes", "classes", "scores", "alphas")}
    arrays |= {"entries": np.frombuffer(text, dtype=np.uint8), "weights": table.weights}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(arrays, metadata={"veil": json.dumps(asdict(table.statement), sort_keys=True)})
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(content)
    scratch.rename(path)
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> TableFile:
    """Return a table file, checked in full.

    Implements: NMX-R15.
    Refuses: TABLE_MALFORMED, VERSION_MISMATCH, EPSILON_OUT_OF_RANGE.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(Refusal.TABLE_MALFORMED, f"{path} cannot be read: {error.strerror}") from error
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if set(header["__metadata__"]) != {"veil"}:
            raise _refuse("metadata has the one key veil")
        statement = _statement(json.loads(header["__metadata__"]["veil"]))
        entries = json.loads(arrays.pop("entries").tobytes().decode("utf-8"))
        table = TableFile(statement, entries, **arrays, digest=hashlib.sha256(content).hexdigest())
        _check(table)
        return table
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Refused(Refusal.TABLE_MALFORMED, f"{path} is not a table file") from error


def _refuse(what: str) -> Refused:
    return Refused(Refusal.TABLE_MALFORMED, what)


def _statement(stated: dict[str, Any]) -> Statement:
    if stated["spec_version"] != __version__:
        raise Refused(Refusal.VERSION_MISMATCH, "the table is of another spec version: build it again")
    statement = Statement(**stated)
    texts = [statement.name, statement.vectors, statement.policy]
    if type(statement.epsilon) is not list or not statement.epsilon:
        raise _refuse("epsilon must be a list of decimal strings")
    if any(type(text) is not str for text in [*texts, *statement.epsilon]):
        raise _refuse("name, vectors, policy and each epsilon must be strings")
    if statement.entries not in ENTRY_KINDS or statement.noise not in NOISES:
        raise _refuse("entries are words or tokens, noise is one-sided or two-sided")
    limits = [claim_limit(epsilon) for epsilon in statement.epsilon]
    if any(high <= low for low, high in pairwise(limits)):
        raise _refuse("the levels' epsilons must rise")
    return statement


def _check(table: TableFile) -> None:
    sizes, levels, count = table.sizes, len(table.statement.epsilon), len(table.entries)
    if sizes.dtype != np.int32 or sizes.ndim != 1 or sizes.min() < 1 or sizes.max() > constants.PART_LIMIT:
        raise _refuse(f"part sizes must be between 1 and {constants.PART_LIMIT}")
    cells = int(np.sum(sizes.astype(np.int64) ** 2))
    expected = {
        "members": (np.int32, (count,)),
        "classes": (np.int32, sizes.shape),
        "scores": (np.int32, (cells,)),
        "alphas": (np.int32, (levels, *sizes.shape)),
        "weights": (np.uint64, (levels, cells)),
    }
    for name, (kind, shape) in expected.items():
        if (getattr(table, name).dtype, getattr(table, name).shape) != (kind, shape):
            raise _refuse(f"{name} must be {np.dtype(kind)} {list(shape)}")
    if not np.array_equal(np.sort(table.members), np.arange(count)) or len(set(table.entries)) != count:
        raise _refuse("every entry must be in exactly one place")
    if type(table.entries) is not list or any(type(entry) is not str for entry in table.entries):
        raise _refuse("entries must be strings")
    least, most = int(table.alphas.min()), int(table.alphas.max())
    if least < 1 or most >= constants.ALPHA_DENOMINATOR_LIMIT or table.classes.min() < 0:
        raise _refuse("alphas are numerators over 2**16, classes are at least 0")
    if np.abs(table.scores.astype(np.int64)).max() > constants.SCORE_LIMIT:
        raise _refuse("a score is out of range")
    _check_weights(table)


def _check_weights(table: TableFile) -> None:
    """Refuse weights that are not laws: by sums modulo 2**64, and in float64 for the multiple of 2**64."""
    sizes = table.sizes.astype(np.int64)
    widths = np.repeat(sizes, sizes)
    starts, alone = np.cumsum(widths) - widths, widths == 1
    for level in table.weights:
        zeros = np.flatnonzero(level == 0)
        rough = np.add.reduceat(level.astype(np.float64), starts) / 2.0**constants.TABLE_BITS
        wrong = np.abs(rough + alone - 1) > 0.5
        if not np.array_equal(zeros, starts[alone]) or wrong.any() or np.add.reduceat(level, starts).any():
            raise _refuse("weights are positive integers, 2**64 in each row")


def load_tabulated(path: Path, level: int) -> TabulatedTable:
    """Return one level of a table file, from 0. Refuses: as `read`."""
    table = read(path)
    if not 0 <= level < len(table.statement.epsilon):
        raise _refuse(f"the table has no level {level}")
    return table.table(level)
