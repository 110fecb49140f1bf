"""Wrong programs made from the examples in other languages: one operator or one number is another.

A mutant is caught if the vectors of the operations that it claims tell it from the example: by a wrong
response, by its end, or by the time it takes. A source is read as tokens only, so that the rules are the
same for every language with operators like those of C.
"""

import json
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import veil_conformance
from example_cases import LONG_CASES, MALFORMED, Case

ROOT: Final = Path(__file__).parent.parent
SWAPS: Final[Mapping[str, str]] = {
    **{"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "**": "*", "++": "--", "--": "++"},
    **{"<<": ">>", ">>": "<<", ">>>": "<<", "&": "|", "|": "&", "^": "|"},
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "===": "!==", "!==": "==="},
    **{"&&": "||", "||": "&&", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "%=": "/="},
    **{"<<=": ">>=", ">>=": "<<=", "&=": "|=", "|=": "&=", "^=": "|="},
}
"""Operator to the one that takes its place."""
SIGNS: Final = frozenset("+-*&/<>")
"""Operators only if a value stands before them: otherwise a sign, a pointer or something else."""
TOKEN: Final = re.compile(
    r"""(?P<skipped>\s+|//[^\n]*|/\*.*?\*/|^[ \t]*\#[^\n]*
    |"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`)
    |(?P<number>0[xX][0-9a-fA-F]+|[0-9]+)(?P<suffix>[A-Za-z]*)
    |(?P<word>[A-Za-z_$][A-Za-z_$0-9]*)
    |(?P<operator>>>>=|===|!==|<<=|>>=|>>>|\*\*|->|=>|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^<>])
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
SECONDS: Final = 5
"""A program that answers all vectors in a tenth of a second hangs if it is not done by then."""
PATIENCE: Final = 30
"""Seconds for the long cases, in a build that looks for faults."""
MEMORY: Final = 2**31
"""Bytes that a mutant may take."""
OUTPUT: Final = 2**24
"""Bytes that a mutant may write."""
STRICT: Final = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED: Final = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")


@dataclass(frozen=True)
class Language:
    """An example: its source, how it is started, its builds, and where its arithmetic ends.

    `quick` builds what the vectors are fed to, `careful` what also ends at a fault in memory.
    """

    source: Path
    start: tuple[str, ...]
    quick: tuple[str, ...]
    careful: tuple[str, ...]
    end: str | None = None


def _cc(*flags: str) -> tuple[str, ...]:
    return ("cc", *flags, "-I{beside}", "-o", "{folder}/program", "{source}")


LANGUAGES: Final = {
    "c": Language(
        ROOT / "examples/c/veil.c", (), _cc("-std=c11", "-w", "-O0"), _cc("-std=c11", "-w", *SANITIZED)
    ),
    "javascript": Language(
        ROOT / "examples/javascript/veil.mjs",
        ("node", "--max-old-space-size=1024"),
        ("node", "--check", "{source}"),
        ("node", "--check", "{source}"),
        end="// Values on the wire",
    ),
}
"""The examples; what lies behind `end` reads and writes JSON."""


@dataclass(frozen=True)
class Mutant:
    """A source in which one token is another; `line` is its line, from 1."""

    line: int
    text: str
    old: str
    new: str
    source: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.old} to {self.new} in: {self.text}"


def mutants(source: str, end: str | None) -> Iterator[Mutant]:
    """Yield every mutant of a source, up to the line that contains `end`."""
    lines, before = source.splitlines(), ""
    stop = len(source) if end is None else source.index(end)
    for token in TOKEN.finditer(source, 0, stop):
        kind, old = token.lastgroup, token[0]
        if kind == "skipped":
            continue
        line = source.count("\n", 0, token.start()) + 1
        for new in _changes(token, before):
            changed = source[: token.start()] + new + source[token.end() :]
            yield Mutant(line, lines[line - 1].strip(), old, new, changed)
        before = old


def _changes(token: re.Match[str], before: str) -> Sequence[str]:
    if token["number"] is not None:
        value, suffix = int(token["number"], 0), token["suffix"]
        return [f"{other}{suffix}" for other in (value + 1, value - 1) if other >= 0]
    operator = token["operator"]
    if operator not in SWAPS or (operator in SIGNS and not re.search(r"[\w\])]$", before)):
        return []
    return [SWAPS[operator]]


def vectors(operations: Container[str]) -> list[Case]:
    """Return the cases of the vector files whose operation is claimed."""
    folder = Path(veil_conformance.__file__).parent / "vectors"
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    listed = [case for file in files for case in file.get("cases", ())]
    return [case for case in listed if case["operation"] in operations]


def long_cases(operations: Container[str]) -> list[Case]:
    """Return the cases that are too long to feed to every mutant."""
    return [case for case in LONG_CASES if case["operation"] in operations]


def requests(cases: Sequence[Case]) -> str:
    """Return one line for each case, numbered from 1."""
    return "".join(
        json.dumps({"id": i, "operation": case["operation"], "input": case["input"]}) + "\n"
        for i, case in enumerate(cases, 1)
    )


def responses(cases: Sequence[Case]) -> list[Case]:
    """Return what has to be answered to `requests`."""
    kinds = ["output" if "output" in case else "refusal" for case in cases]
    return [{"id": i, kind: case[kind]} for i, (kind, case) in enumerate(zip(kinds, cases, strict=True), 1)]


def _limit_output() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT, OUTPUT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_memory() -> None:
    _limit_output()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@dataclass(frozen=True)
class Program:
    """A built example. A sanitizer and node reserve more memory than they use, so only C's quick builds are
    held to a limit of it.
    """

    command: tuple[str, ...]
    limited: bool = False

    def run(self, lines: str, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Return how it ended on these lines, and what it wrote. Raises: TimeoutExpired."""
        with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+", errors="replace") as said:
            asked.write(lines)
            asked.seek(0)
            limit = _limit_memory if self.limited else _limit_output
            done = subprocess.run(
                self.command,
                stdin=asked,
                stdout=said,
                stderr=subprocess.PIPE,
                timeout=seconds,
                preexec_fn=limit,
            )
            said.seek(0)
            errors = done.stderr.decode(errors="replace")
            return subprocess.CompletedProcess(done.args, done.returncode, said.read(), errors)

    def is_right(self, cases: Sequence[Case], seconds: float = PATIENCE) -> bool:
        """Return whether it answers all cases as it has to, and ends."""
        try:
            done = self.run(requests(cases), seconds)
            found = [json.loads(line) for line in done.stdout.splitlines()]
        except (subprocess.TimeoutExpired, ValueError):
            return False
        return done.returncode == 0 and found == responses(cases)

    def is_strict(self) -> bool:
        """Return whether it ends at every malformed line as it has to, and at a line without an end."""
        ends = [f"{line}\n" for line in MALFORMED] + ["{}"]
        try:
            return all(self._turns_down(line) for line in ends)
        except subprocess.TimeoutExpired:
            return False

    def _turns_down(self, line: str) -> bool:
        done = self.run(line)
        return (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def built(language: Language, source: str, folder: Path, careful: bool) -> Program | None:
    """Return the program made from a source, or None where it is none."""
    path = folder / language.source.name
    path.write_text(source)
    parts = language.careful if careful else language.quick
    command = [part.format(source=path, folder=folder, beside=language.source.parent) for part in parts]
    if subprocess.run(command, capture_output=True).returncode != 0:
        return None
    compiled = folder / "program"
    return Program(
        (*language.start, str(compiled if compiled.exists() else path)), compiled.exists() and not careful
    )


def survives(language: Language, source: str, cases: Sequence[Case], long: Sequence[Case]) -> bool | None:
    """Return whether a source is right on all cases and malformed lines; None if it is no program."""
    with tempfile.TemporaryDirectory() as folder:
        program = built(language, source, Path(folder), careful=False)
        if program is None or not program.is_right(cases, SECONDS):
            return None if program is None else False
        program = built(language, source, Path(folder), careful=True)
        return program is not None and program.is_right([*cases, *long]) and program.is_strict()


def survivors(language: Language, cases: Sequence[Case], long: Sequence[Case]) -> tuple[list[Mutant], int]:
    """Return the mutants that nothing tells from the example, and how many mutants there are."""
    made = list(mutants(language.source.read_text(), language.end))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(lambda mutant: survives(language, mutant.source, cases, long), made))
    alive = [mutant for mutant, verdict in zip(made, verdicts, strict=True) if verdict]
    return alive, sum(verdict is not None for verdict in verdicts)
