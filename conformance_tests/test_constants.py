"""The constants of the prose equal those of veil_spec.constants.

In spec/*.md a table whose first header cell is `constant` states constants: each row is
| `NAME` | expression | reason |, the expression made of decimal integers with + - * ^ and parentheses, or
several such with commas between them, or ASCII text in double quotes. Elsewhere `NAME` = expression repeats a
constant.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from veil_spec import constants

Constant = int | bytes | tuple[int, ...]
Pages = Mapping[str, str]

ROW: Final = re.compile(r"\| `([A-Z][A-Z0-9_]*)` \| `?([^|`]+?)`? \| ([^|]*\S) \|")
REPEATED: Final = re.compile(r"`([A-Z][A-Z0-9_]*)` = `?(\(?[0-9](?:[0-9+*^() -]*[0-9)])?)")
MALFORMED: Final = "a row of a table of constants is | `NAME` | expression | reason |"
LARGEST_EXPONENT: Final = 1024


def value_of(expression: str) -> Constant:
    """Return the value of an expression; ValueError where it is not one."""
    if quoted := re.fullmatch(r'"([ -~]*)"', expression):
        return quoted[1].encode("ascii")
    if not re.fullmatch(r"[0-9+*^(), -]+", expression) or "**" in expression or "//" in expression:
        raise ValueError(expression)
    try:
        tree = ast.parse(expression.replace("^", "**"), mode="eval").body
    except SyntaxError as error:
        raise ValueError(expression) from error
    return tuple(map(_integer, tree.elts)) if isinstance(tree, ast.Tuple) else _integer(tree)


def _integer(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_integer(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _integer(node.left), _integer(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Pow) and 0 <= right <= LARGEST_EXPONENT:
            return int(left**right)
    raise ValueError(ast.unparse(node))


def constant_rows(page: str) -> Iterator[str]:
    """Yield the rows, without header and rule, of every table whose first header cell is `constant`."""
    inside = False
    for line in page.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.split("|")[1].strip().lower() == "constant":
            inside = True
        elif inside and not re.fullmatch(r"[|: -]+", line):
            yield line


def stated(pages: Pages) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (page, name, expression, whether a table states it) for every statement of a constant."""
    for page, text in pages.items():
        for line in constant_rows(text):
            match = ROW.match(line)
            yield (page, match[1], match[2], True) if match else (page, "", line, True)
        yield from ((page, name, expression, False) for name, expression in REPEATED.findall(text))


def specified() -> dict[str, Constant]:
    """Return every constant of veil_spec.constants."""
    return {name: value for name, value in vars(constants).items() if name.isupper()}


def constant_problems(pages: Pages, coded: Mapping[str, Constant]) -> list[str]:
    """Return every way in which prose and code state constants differently."""
    found: list[str] = []
    pages_of: dict[str, list[str]] = {name: [] for name in coded}
    for page, name, expression, in_table in stated(pages):
        if not name:
            found.append(f"{page}: {MALFORMED}: {expression}")
        elif name not in coded:
            found.append(f"{page}: {name} is no constant of veil_spec")
        else:
            found += _difference(page, name, expression, coded[name])
            pages_of[name] += [page] * in_table
    return found + [
        f"{name} is stated {len(on)} times: {on}" for name, on in pages_of.items() if len(on) != 1
    ]


def _difference(page: str, name: str, expression: str, coded: Constant) -> Iterator[str]:
    try:
        if value_of(expression) != coded:
            yield f"{page}: {name} is {expression} in prose and {coded!r} in code"
    except ValueError:
        yield f"{page}: {name}: {expression!r} is not an expression of this check"


def test_prose_and_code_state_the_same_constants(root: Path) -> None:
    pages = {path.name: path.read_text("utf-8") for path in sorted((root / "spec").glob("*.md"))}
    found = constant_problems(pages, specified())
    assert specified() and not found, "\n".join(found)


CODED: Final[dict[str, Constant]] = {"LIMIT": 2**20, "PRIMES": (7, 11), "FLOOR": -8, "MAGIC": b"VEIL"}
PAGE: Final = """A row counts. `LIMIT` = 2^20 fits.

| Constant | Value | Reason |
| --- | --- | --- |
| `LIMIT` | 2^20 | enough |
| `PRIMES` | 2^3 - 1, 11 | prime |
| `FLOOR` | -8 | low |
| `MAGIC` | "VEIL" | four bytes |

| refusal | when |
| --- | --- |
| `SEED_LENGTH` | never |
"""
EDITS: Final = {
    "other value": ("| 2^20 |", "| 2^21 |", "LIMIT is 2^21 in prose"),
    "other element": ("2^3 - 1, 11", "2^3 - 1, 13", "PRIMES is"),
    "other bytes": ('"VEIL"', '"VAIL"', "MAGIC is"),
    "other repetition": ("`LIMIT` = 2^20", "`LIMIT` = 2^19", "LIMIT is 2^19 in prose"),
    "unknown name": ("`FLOOR`", "`CEILING`", "CEILING is no constant"),
    "not stated": ("| `FLOOR` | -8 | low |\n", "", "FLOOR is stated 0 times"),
    "stated twice": ("| `FLOOR` | -8 | low |\n", "| `FLOOR` | -8 | low |\n" * 2, "FLOOR is stated 2 times"),
    "no reason": ("| -8 | low |", "| -8 | |", MALFORMED),
    "not an expression": ("| -8 |", "| about -8 |", "not an expression"),
    "a call": ("| -8 |", "| (8)(8) |", "not an expression"),
    "a huge power": ("| -8 |", "| 9^9^9 |", "not an expression"),
}


def test_a_page_that_agrees_has_no_problem() -> None:
    assert constant_problems({"page.md": PAGE}, CODED) == []


@pytest.mark.parametrize("name", EDITS)
def test_every_disagreement_is_caught(name: str) -> None:
    old, new, expected = EDITS[name]
    assert old in PAGE
    found = constant_problems({"page.md": PAGE.replace(old, new, 1)}, CODED)
    assert any(expected in problem for problem in found), found
