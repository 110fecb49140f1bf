"""The reference's reader of table files: one level of a safetensors file, checked in full."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from veil_reference.accounting import claim_limit
from veil_reference.tabulated import WHOLE, check_tabulated
from veil_spec import __version__
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Row, TabulatedPart, TabulatedTable

__all__ = ["load_tabulated"]

CODES = {"U8": "B", "I32": "i", "U64": "Q"}
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)
FIELDS = {"spec_version", "name", "entries", "noise", "epsilon", "vectors", "policy"}
Header = dict[str, Any]


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(Refusal.TABLE_MALFORMED, what)


def _statement(veil: str) -> Header:
    """Return the checked metadata. Refuses: VERSION_MISMATCH, TABLE_MALFORMED, EPSILON_OUT_OF_RANGE."""
    stated: Header = json.loads(veil)
    if stated["spec_version"] != __version__:
        raise Refused(Refusal.VERSION_MISMATCH, "the table is of another spec version: build it again")
    _need(set(stated) == FIELDS and isinstance(stated["epsilon"], list), "metadata fields")
    plain = [stated[name] for name in ("name", "vectors", "policy")]
    _need(all(isinstance(value, str) for value in [*plain, *stated["epsilon"]]), "metadata types")
    _need(stated["entries"] in ("words", "tokens"), "entries")
    _need(stated["noise"] in ("one-sided", "two-sided"), "noise")
    limits = [claim_limit(epsilon) for epsilon in stated["epsilon"]]
    _need(limits != [] and limits == sorted(set(limits)), "epsilon must rise")
    return stated


def _tensors(content: bytes, header: Header) -> Iterator[tuple[str, list[int], Row]]:
    start = 8 + int.from_bytes(content[:8], "little")
    _need(start + max(entry["data_offsets"][1] for entry in header.values()) == len(content), "length")
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        data, code = content[start + first : start + last], CODES[entry["dtype"]]
        _need(len(data) == prod(entry["shape"]) * struct.calcsize("<" + code), f"{name}: length")
        yield name, entry["shape"], struct.unpack(f"<{prod(entry['shape'])}{code}", data)


def _expected(entries: int, text: int, sizes: Sequence[int], levels: int) -> dict[str, tuple[str, list[int]]]:
    cells, parts = sum(size * size for size in sizes), len(sizes)
    return {
        "entries": ("U8", [text]),
        "members": ("I32", [entries]),
        "sizes": ("I32", [parts]),
        "classes": ("I32", [parts]),
        "scores": ("I32", [cells]),
        "alphas": ("I32", [levels, parts]),
        "weights": ("U64", [levels, cells]),
    }


def _squares(cells: Row, sizes: Sequence[int]) -> list[tuple[tuple[int, ...], ...]]:
    rest = iter(cells)
    return [tuple(tuple(islice(rest, size)) for _ in range(size)) for size in sizes]


def _table(stated: Header, entries: list[str], found: Mapping[str, Row], level: int) -> TabulatedTable:
    sizes, cells = found["sizes"], sum(size * size for size in found["sizes"])
    tokens = iter([entries[member] for member in found["members"]])
    scores = _squares(found["scores"], sizes)
    weights = _squares(found["weights"][level * cells : (level + 1) * cells], sizes)
    weights = [((WHOLE,),) if square == ((0,),) else square for square in weights]
    parts = [
        TabulatedPart(tuple(islice(tokens, size)), square, rows)
        for size, square, rows in zip(sizes, scores, weights, strict=True)
    ]
    return TabulatedTable(stated["name"], stated["epsilon"][level], tuple(parts))


def load_tabulated(path: Path, level: int) -> TabulatedTable:
    """Return one level of a table file, from 0; every level is checked.

    Implements: NMX-R15.
    Refuses: TABLE_MALFORMED, VERSION_MISMATCH, EPSILON_OUT_OF_RANGE.
    """
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        stated = _statement(**header.pop("__metadata__"))
        found = {name: cells for name, _, cells in _tensors(content, header)}
        sizes, levels = found["sizes"], len(stated["epsilon"])
        entries = json.loads(bytes(found["entries"]).decode())
        expected = _expected(len(entries), len(found["entries"]), sizes, levels)
        _need({n: (e["dtype"], e["shape"]) for n, e in header.items()} == expected, "tensor shapes")
        whole = isinstance(entries, list) and sorted(found["members"]) == list(range(len(entries)))
        _need(whole and min(sizes) > 0, "partition")
        _need(all(0 < a < 2**16 for a in found["alphas"]) and min(found["classes"]) >= 0, "ranges")
        _need(0 <= level < levels, "level")
        tables = [_table(stated, entries, found, n) for n in range(levels)]
        for table in tables:
            check_tabulated(table)
        return tables[level]
    except UNREADABLE as error:
        raise Refused(Refusal.TABLE_MALFORMED, f"{path} is not a table file") from error
