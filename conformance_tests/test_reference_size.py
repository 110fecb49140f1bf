"""The reference can be read in one sitting."""

import ast
import io
import statistics
import tokenize
from pathlib import Path
from typing import Final

CODE_LIMIT: Final = 1540
"""1,200 at first. 0.3.0 took 104: profile lwe, the ratchet, the commitment, dealers' frames.
0.4.0 took 220: encoders, biases, head norms, scaled rotations, sampling, frames of mode split."""
FUNCTION_LIMIT: Final = 12
NO_CODE: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no blank, comment or docstring."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            found.difference_update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return found


def function_lengths(source: str) -> list[int]:
    """Return the number of code lines in the body of each function, in order."""
    lines = code_lines(source)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    return [
        len(lines & set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)))
        for node in sorted(functions, key=lambda node: node.lineno)
    ]


def size_problems(sources: list[str]) -> list[str]:
    """Return what is too long for one sitting."""
    total = sum(len(code_lines(source)) for source in sources)
    lengths = [length for source in sources for length in function_lengths(source)]
    median = statistics.median(lengths) if lengths else 0
    found = [] if 0 < total < CODE_LIMIT else [f"{total} lines of code, limit {CODE_LIMIT}"]
    return found + [f"median function {median} lines"] * (not 0 < median <= FUNCTION_LIMIT)


def test_the_reference_is_short(root: Path) -> None:
    paths = sorted((root / "reference").rglob("*.py"))
    assert size_problems([path.read_text("utf-8") for path in paths]) == []


SOURCE: Final = '''"""Module."""

# comment
LIMIT = 1
"""Reason."""


def one(
    value: int,
) -> str:
    """Return text,

    at length.
    """
    # reason
    text = """two
lines"""
    return text


class Two:
    """Class."""

    def __init__(self) -> None:
        """Do nothing."""
'''


def test_blanks_comments_and_docstrings_are_not_counted() -> None:
    assert len(code_lines(SOURCE)) == 1 + 3 + 3 + 2
    assert function_lengths(SOURCE) == [3, 0]


def test_each_excess_is_reported() -> None:
    long_function = "def f():\n" + "    x = 1\n" * (FUNCTION_LIMIT + 1)
    assert size_problems([long_function]) == ["median function 13 lines"]
    many_lines = "def f():\n    return 1\n" + "x = 1\n" * CODE_LIMIT
    assert size_problems([many_lines]) == [f"{CODE_LIMIT + 2} lines of code, limit {CODE_LIMIT}"]
    assert len(size_problems([])) == 2
