"""`veil table`, `veil sanitize` and `veil.sanitize`: bytes, laws, refusals, crashes, memory."""

import contextlib
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import tiny_checkpoint
import veil
from veil import commands, sanitizing
from veil.sanitizing import Pipeline, Settings
from veil.vectors import UNKNOWN
from veil_optimized import tape as bulk
from veil_optimized.accounting import certificate as noisy_max_certificate
from veil_optimized.ledger import Ledger, read_or_create_key
from veil_optimized.sanitizer import Recipe, Sanitizer, build
from veil_optimized.table_file import TableFile
from veil_optimized.tabulated import tabulated_certificate
from veil_reference import noisy_max as reference_noisy_max
from veil_reference import partition as reference_partition
from veil_reference import tabulated as reference
from veil_reference.accounting import claim_limit
from veil_reference.table_file import load_tabulated
from veil_reference.tape import SeededTape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import (
    Certificate,
    Domain,
    Geometric,
    ListedTape,
    Noise,
    Part,
    Table,
    TabulatedTable,
    TwoSidedGeometric,
)

WHOLE = 2**64
SEED = bytes(range(32))
FIXED = ("--seed", SEED.hex())
COLOURS = ("red", "green", "blue", "white", "black", "grey", "brown", "pink", "cyan", "teal", "rose", "gold")
SIGNS = (",", ".", "!", "İ", "ß", "x1", "_", "9")
FALSE_ALARM = 1e-9
"""Chance, over keys, that the test of the drawn frequencies fails for a right sanitizer."""
RSS_LIMIT_MB = 1200
"""For a document of 10**6 tokens."""
TABLE_RSS_LIMIT_MB = 250
"""For a table of 20,000 vectors of 64 numbers."""


# Helpers


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Return what was written, line by line."""
        return self.out.decode().split("\n")[:-1]


def run(*arguments: object, stdin: bytes = b"") -> Done:
    """Return a `veil` command that ran in this process; a numpy warning is an error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error", RuntimeWarning)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = commands.run(list(map(str, arguments)))
        except SystemExit as stop:
            status = int(str(stop.code))
    return Done(status, written(out), written(err).decode())


def written(text: io.TextIOWrapper) -> bytes:
    """Return what was written to a stream in memory."""
    text.flush()
    buffer = text.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


def process(*arguments: object, stdin: bytes = b"", **environment: str) -> Done:
    """Return a `veil` command that ran in a process of its own."""
    command = [sys.executable, "-m", "veil.main", *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, env=os.environ | environment, timeout=120, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


def random_vectors(count: int, width: int, seed: int = 1) -> npt.NDArray[np.float32]:
    """Return vectors, float32 [count, width]."""
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def write_text(path: Path, words: Sequence[str], matrix: npt.NDArray[np.float32]) -> Path:
    """Return a new file of word vectors."""
    lines = (f"{word} {' '.join(f'{x:.6f}' for x in row)}\n" for word, row in zip(words, matrix, strict=True))
    path.write_text("".join(lines), "utf-8")
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parts_of(path: Path) -> list[tuple[str, ...]]:
    """Return the parts of a table file, as the reference reads them."""
    return [part.tokens for part in load_tabulated(path, 0).parts]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return word vectors of 12 colours and 8 odd entries."""
    entries = COLOURS + SIGNS
    return write_text(tmp_path_factory.mktemp("vectors") / "words.txt", entries, random_vectors(20, 6))


@pytest.fixture(scope="module")
def table(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of parts of 4 at three levels, nothing verbatim but the unknown word."""
    path = tmp_path_factory.mktemp("table") / "table"
    levels = ("--epsilon", "1", "--epsilon", "2", "--epsilon", "4")
    assert run("table", "--vectors", words, "--out", path, "--part-size", 4, *levels).status == 0
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory of 256 tokens, one a byte, of which two are special."""
    folder = tiny_checkpoint.write(tmp_path_factory.mktemp("model") / "model")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(settings | {"bos_token": "!", "eos_token": "~"}), "utf-8")
    return folder


@pytest.fixture(scope="module")
def token_table(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the table of a model's tokens, parts of 4."""
    path = tmp_path_factory.mktemp("table") / "tokens"
    assert run("table", "--vectors", model, "--out", path, "--part-size", 4).status == 0
    return path


def test_a_tokenizer_that_cuts_otherwise_is_another_mechanism(
    model: Path, token_table: Path, tmp_path: Path
) -> None:
    other, longer = tmp_path / "other", tmp_path / "longer"
    for folder in (other, longer):
        shutil.copytree(model, folder)
    written = json.loads((model / "tokenizer.json").read_text("utf-8"))
    lower = json.dumps(written | {"normalizer": {"type": "Lowercase"}})
    (other / "tokenizer.json").write_text(lower, "utf-8")
    tokenizer = AutoTokenizer.from_pretrained(longer)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(longer)
    digests = {Pipeline(Settings(token_table, tokenizer=folder)).digest for folder in (model, other)}
    assert len(digests) == 2
    check_refused(
        tmp_path, "another vocabulary", "sanitize", "-", "--table", token_table, "--tokenizer", longer
    )


# veil table


def test_words_a_matrix_and_a_model_give_the_same_bytes_twice(
    words: Path, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "matrix.npy", random_vectors(30, 5).astype(np.float64))
    (tmp_path / "entries").write_text("".join(f"e{n}\n" for n in range(30)))
    for number, source in enumerate(
        [(words,), (tmp_path / "matrix.npy", "--entries", tmp_path / "entries"), (model,)]
    ):
        for noise in ("one-sided", "two-sided"):
            found = set()
            for again in range(2):
                out = tmp_path / f"{number}-{noise}-{again}"
                done = run("table", "--vectors", *source, "--out", out, "--part-size", 3, "--noise", noise)
                assert (done.status, done.err) == (0, "")
                assert digest(out) in done.out.decode()
                found.add(out.read_bytes())
            assert len(found) == 1


def test_the_number_of_threads_does_not_change_a_byte(tmp_path: Path) -> None:
    source = write_text(tmp_path / "v", [f"w{n}" for n in range(3000)], random_vectors(3000, 96))
    for threads in ("1", "2"):
        done = process(
            "table", "--vectors", source, "--out", tmp_path / threads, "--part-size", 3,
            OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads,
        )  # fmt: skip
        assert (done.status, done.err) == (0, "")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_model_directory_gives_a_table_of_its_tokens_and_keeps_special_ones(
    model: Path, token_table: Path
) -> None:
    parts = parts_of(token_table)
    tokens = [token for part in parts for token in part]
    assert len(tokens) == len(set(tokens)) == 256
    assert [part for part in parts if len(part) == 1] == [("!",), ("~",)]
    assert Sanitizer.load(token_table).file.statement.entries == "tokens"
    text = b"a~b!c<unk>"
    done = run(
        "sanitize", "-", "--table", token_table, "--tokenizer", model, "--json", stdin=jsonl(text.decode())
    )
    ids = json.loads(done.out)["entries"]
    entries = Sanitizer.load(token_table).file.entries
    assert len(ids) == len(text)
    assert [entries[ids[place]] for place in (1, 3)] == ["~", "!"]


def jsonl(*texts: str) -> bytes:
    """Return documents as JSON lines."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_what_is_not_protected_is_a_part_of_its_own_and_named_so(words: Path, tmp_path: Path) -> None:
    (tmp_path / "public").write_text("ß\ngold\n", "utf-8")
    options = ("--part-size", 3, "--protect-rarest", "0.5", "--verbatim", tmp_path / "public")
    assert run("table", "--vectors", words, "--out", tmp_path / "t", *options).status == 0
    alone = [part[0] for part in parts_of(tmp_path / "t") if len(part) == 1]
    # 21 entries with the unknown word: the rarest half are the last 10.
    assert alone == [*COLOURS[:11], "gold", "ß", UNKNOWN]
    assert "rarest 0.5" in Sanitizer.load(tmp_path / "t").file.statement.policy


def test_levels_rise_and_a_part_has_the_largest_class_of_its_entries(words: Path, tmp_path: Path) -> None:
    classes = [n % 5 for n in range(21)]
    (tmp_path / "classes").write_text("".join(f"{n}\n" for n in classes))
    options = ("--classes", tmp_path / "classes", "--epsilon", "0.5", "--epsilon", "3", "--part-size", 4)
    assert run("table", "--vectors", words, "--out", tmp_path / "t", *options).status == 0
    file = Sanitizer.load(tmp_path / "t").file
    number = {entry: n for n, entry in enumerate(file.entries)}
    for part, kind in zip(parts_of(tmp_path / "t"), file.classes, strict=True):
        assert kind == max(classes[number[entry]] for entry in part)
    low, high = (Sanitizer(file).certificate(level) for level in (1, 2))
    assert low.exact <= claim_limit("0.5") < high.exact <= claim_limit("3")


def test_vectors_of_one_dimension_keep_their_first_entry(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("a 0.5\nb 0.7\nc 0.1\nd -0.3\n")
    assert run("table", "--vectors", tmp_path / "v", "--out", tmp_path / "t", "--part-size", 2).status == 0
    assert Sanitizer.load(tmp_path / "t").file.entries == ["a", "b", "c", "d", UNKNOWN]


def test_a_larger_table_is_built_in_bounded_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", random_vectors(20_000, 64))
    (tmp_path / "e").write_text("".join(f"w{n}\n" for n in range(20_000)))
    arguments = ["table", "--vectors", str(tmp_path / "m.npy"), "--entries", str(tmp_path / "e")]
    used = peak([*arguments, "--out", str(tmp_path / "t"), "--part-size", "4"])
    print(f"20,000 x 64: {used} MB")
    assert used < TABLE_RSS_LIMIT_MB


def peak(arguments: Sequence[str], output: Path | None = None) -> int:
    """Return the largest resident size of a `veil` command in MB; ru_maxrss would start from pytest's."""
    code = (
        "import sys; from veil import commands; commands.run(sys.argv[1:]);"
        "status = open('/proc/self/status').read().split('VmHWM:')[1];"
        "print(int(status.split()[0]) // 1024, file=sys.stderr)"
    )
    with output.open("wb") if output else contextlib.nullcontext(subprocess.DEVNULL) as out:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], stdout=out, stderr=subprocess.PIPE, check=True
        )
    return int(done.stderr.split()[-1])


BAD_TABLES: dict[str, tuple[bytes | None, tuple[str, ...], str]] = {
    "missing file": (None, (), "does not exist"),
    "no vectors": (b"", (), "holds no vectors"),
    "a header alone": (b"3 2\n", (), "holds no vectors"),
    "wrong width": (b"a 1 2\nb 1\n", (), "line 2"),
    "an empty line": (b"a 1 2\n\nb 2 1\n", (), "line 2"),
    "tabs": (b"a\t1\t2\n", (), "line 1"),
    "no number": (b"a 1 2\nb x 1\n", (), "line 2"),
    "a word twice": (b"a 1 2\nb 2 1\na 2 2\n", (), "'a' occurs 2 times"),
    "not a number": (b"a 1 2\nb nan 1\n", (), "'b'"),
    "infinite": (b"a 1 2\nb 1 -inf\n", (), "'b'"),
    "beyond float32": (b"a 1 2\nb 1e39 1\n", (), "'b'"),
    "not UTF-8": (b"a 1 2\n\xff 1 2\n", (), "line 2"),
    "epsilon 0": (b"a 1 2\nb 2 1\n", ("--epsilon", "0"), "--epsilon 0"),
    "epsilon -1": (b"a 1 2\nb 2 1\n", ("--epsilon=-1",), "--epsilon -1"),
    "epsilon abc": (b"a 1 2\nb 2 1\n", ("--epsilon", "abc"), "--epsilon abc"),
    "epsilon 65": (b"a 1 2\nb 2 1\n", ("--epsilon", "65"), "--epsilon 65"),
    "epsilon nan": (b"a 1 2\nb 2 1\n", ("--epsilon", "nan"), "--epsilon nan"),
    "epsilon too small": (b"a 1 2\nb 2 1\nc 1 1\nd 0 3\n", ("--epsilon", "0.000001"), "raise epsilon"),
    "levels that fall": (b"a 1 2\nb 2 1\n", ("--epsilon", "2", "--epsilon", "1"), "must rise"),
    "levels that stay": (b"a 1 2\nb 2 1\n", ("--epsilon", "1", "--epsilon", "1.0"), "must rise"),
    "part size 1": (b"a 1 2\n", ("--part-size", "1"), "--part-size"),
    "part size 513": (b"a 1 2\n", ("--part-size", "513"), "--part-size"),
    "part size x": (b"a 1 2\n", ("--part-size", "x"), "--part-size"),
    "share 0": (b"a 1 2\n", ("--protect-rarest", "0"), "--protect-rarest"),
    "share 1.1": (b"a 1 2\n", ("--protect-rarest", "1.1"), "--protect-rarest"),
    "share nan": (b"a 1 2\n", ("--protect-rarest", "nan"), "--protect-rarest"),
    "share 1e-999999999": (b"a 1 2\n", ("--protect-rarest", "1e-999999999"), "--protect-rarest"),
    "no first entries": (b"a 1 2\n", ("--most", "0"), "--most"),
    "no such list": (b"a 1 2\n", ("--verbatim", "nowhere"), "nowhere"),
    "no such classes": (b"a 1 2\n", ("--classes", "nowhere"), "nowhere"),
    "no such noise": (b"a 1 2\n", ("--noise", "gaussian"), "--noise"),
}
"""Input of `veil table`: the text file, further options, what the refusal names."""


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_vectors_give_one_line_and_no_file(tmp_path: Path, case: str) -> None:
    content, options, named = BAD_TABLES[case]
    source = tmp_path / "vectors.txt"
    if content is not None:
        source.write_bytes(content)
    check_refused(tmp_path, named, "table", "--vectors", source, "--out", tmp_path / "out", *options)


def check_refused(folder: Path, named: str, *arguments: object, stdin: bytes = b"") -> None:
    """Fail unless a command ends with one line that names what is wrong, and leaves the folder alone."""
    before = snapshot(folder)
    done = run(*arguments, stdin=stdin)
    assert (done.status, done.out) == (2, b"")
    assert done.err.startswith("veil: ")
    assert done.err.count("\n") == 1
    assert named in done.err
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Return the files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.requirement("WIR-P5")
def test_bad_matrices_give_one_line_and_no_file(tmp_path: Path) -> None:
    good, entries = random_vectors(5, 3), tmp_path / "entries"
    entries.write_text("a\nb\nc\nd\ne\n")
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "pickled.npy", np.array([{}] * 5, dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((5, 3), dtype=np.int64))
    np.save(tmp_path / "cube.npy", np.ones((5, 3, 2)))
    np.save(tmp_path / "thin.npy", np.ones((5, 0)))
    np.save(tmp_path / "large.npy", np.full((5, 3), 1e300))
    np.savez(tmp_path / "archive", good)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    whole = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-5])
    (tmp_path / "header.npy").write_bytes(whole[:8] + b"\x10\x00{'descr': 1<2  \n" + bytes(50))
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "nothing.npy").write_bytes(b"")
    for name in ("four", "latin", "twice"):
        (tmp_path / name).write_bytes(
            {"four": b"a\nb\nc\nd", "latin": b"\xe4\n" * 5, "twice": b"a\n" * 5}[name]
        )
    for source, listed, named in (
        ("good", None, "--entries is missing"),
        ("good", "nowhere", "nowhere"),
        ("good", "four", "one row for each line"),
        ("good", "latin", "not UTF-8"),
        ("good", "twice", "'a' occurs 5 times"),
        ("whole", "entries", "floats"),
        ("cube", "entries", "matrix of floats"),
        ("thin", "entries", "thin.npy"),
        ("large", "entries", "'a'"),
        *((name, "entries", "not a .npy matrix") for name in ("pickled", "archive", "short", "header")),
        *((name, "entries", "not a .npy matrix") for name in ("noise", "nothing")),
    ):
        options = () if listed is None else ("--entries", tmp_path / listed)
        source_path = tmp_path / f"{source}.npy"
        check_refused(tmp_path, named, "table", "--vectors", source_path, "--out", tmp_path / "out", *options)


@pytest.mark.requirement("WIR-P5")
def test_bad_places_and_bad_lists_give_one_line_and_no_file(words: Path, tmp_path: Path) -> None:
    (tmp_path / "exists").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "other").write_text("puce\n")
    (tmp_path / "few").write_text("1\n2\n")
    (tmp_path / "signed").write_text("-1\n" * 21)
    source = ("table", "--vectors", words, "--out")
    check_refused(tmp_path, "exists already", *source, tmp_path / "exists")
    check_refused(tmp_path, "exists already", *source, tmp_path)
    check_refused(tmp_path, "does not exist", *source, tmp_path / "nowhere" / "out")
    check_refused(tmp_path, "/dev/null", *source, "/dev/null/out")
    check_refused(tmp_path, "'puce'", *source, tmp_path / "out", "--verbatim", tmp_path / "other")
    for name in ("few", "signed"):
        check_refused(tmp_path, "--classes", *source, tmp_path / "out", "--classes", tmp_path / name)
    check_refused(tmp_path, "model", "table", "--vectors", tmp_path / "model", "--out", tmp_path / "out")


@pytest.mark.requirement("WIR-P5")
def test_in_a_process_of_its_own_too_a_refusal_is_one_line(words: Path, tmp_path: Path) -> None:
    for arguments in (
        ("table", "--vectors", words, "--out", tmp_path / "t", "--protect-rarest", "nan"),
        ("table", "--vectors", words, "--out", tmp_path / "t", "--epsilon", "0.000001"),
        ("sanitize", words, "--table", words),
    ):
        done = process(*arguments)
        assert (done.status, done.out, done.err.count("\n"), done.err[:6]) == (2, b"", 1, "veil: ")
    assert list(tmp_path.iterdir()) == []


# The optimized build against the reference


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[list[float]], int, frozenset[int]]:
    """Return vectors of a few entries, often equally similar, a part size and what is kept verbatim."""
    count, width = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    number = st.integers(-3, 3).map(float) | st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows = draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=count, max_size=count))
    return rows, draw(st.integers(2, 3)), draw(st.frozensets(st.integers(0, count - 1), max_size=2))


@settings(max_examples=15, deadline=None)
@given(vocabularies(), st.booleans(), st.sampled_from([("1",), ("0.25", "7"), ("2", "8")]))
def test_a_built_table_equals_the_reference(
    vocabulary: tuple[list[list[float]], int, frozenset[int]], two_sided: bool, epsilons: tuple[str, ...]
) -> None:
    rows, size, kept = vocabulary
    recipe = Recipe("t", part_size=size, epsilons=epsilons, two_sided=two_sided, verbatim=kept)
    try:
        file = build([f"w{n}" for n in range(len(rows))], np.array(rows, dtype=np.float32), recipe)
    except Refused as refused:
        file = None
        assert refused.reason is Refusal.EPSILON_OUT_OF_RANGE
    directions = [reference_partition.direction(row) for row in rows]
    private = [n for n in range(len(rows)) if n not in kept]
    parts = [
        [private[n] for n in part]
        for part in reference_partition.partition([directions[n] for n in private], size)
    ]
    parts += [[n] for n in sorted(kept)]
    scores = [reference_partition.part_scores([directions[n] for n in part]) for part in parts]
    make = TwoSidedGeometric if two_sided else Geometric
    for level, epsilon in enumerate(epsilons):
        try:
            alphas = [reference.calibrate_part(epsilon, matrix, two_sided) for matrix in scores]
        except Refused as refused:
            assert (refused.reason, file) == (Refusal.EPSILON_OUT_OF_RANGE, None)
            return
        assert file is not None
        weights = [
            tuple(tuple(reference.tabulate(row, make(alpha))) for row in matrix)
            for matrix, alpha in zip(scores, alphas, strict=True)
        ]
        assert [Fraction(int(a), 2**16) for a in file.alphas[level]] == alphas
        found = file.table(level)
        assert [part.tokens for part in found.parts] == [tuple(f"w{n}" for n in part) for part in parts]
        assert [part.scores for part in found.parts] == [tuple(map(tuple, matrix)) for matrix in scores]
        assert [part.weights for part in found.parts] == weights


def made(
    count: int, size: int, two_sided: bool, seed: int = 1, verbatim: frozenset[int] = frozenset()
) -> TableFile:
    """Return a table of random vectors at two levels."""
    recipe = Recipe("t", part_size=size, epsilons=("1", "3"), two_sided=two_sided, verbatim=verbatim)
    return build([f"w{n}" for n in range(count)], random_vectors(count, 4, seed), recipe)


@dataclass(frozen=True)
class Entry:
    """One entry of a table, as the reference has it."""

    members: list[int]
    scores: tuple[int, ...]
    weights: tuple[int, ...]
    noise: Noise


def entries_of(file: TableFile, level: int) -> list[Entry]:
    """Return all entries by number."""
    found: dict[int, Entry] = {}
    make = TwoSidedGeometric if file.statement.noise == "two-sided" else Geometric
    for part, alpha in zip(file.table(level - 1).parts, file.alphas[level - 1], strict=True):
        members = [file.entries.index(token) for token in part.tokens]
        for member, scores, weights in zip(members, part.scores, part.weights, strict=True):
            found[member] = Entry(members, scores, weights, make(Fraction(int(alpha), 2**16)))
    return [found[number] for number in range(len(file.entries))]


@pytest.mark.parametrize("two_sided", [False, True])
def test_draws_and_selections_of_every_entry_equal_the_reference(two_sided: bool) -> None:
    # 15 entries without 2 and 7, parts of 4: 4, 4, then 5 left over, then two of one.
    file = made(15, 4, two_sided, verbatim=frozenset([2, 7]))
    assert file.sizes.tolist() == [4, 4, 5, 1, 1]
    sanitizer, tape = Sanitizer(file), SeededTape(SEED)
    ids = np.array([*range(15), *range(15)][::-1] * 4, dtype=np.int64)
    for level, document, start in ((1, 0, 0), (2, 0, 3), (2, 2**43 - 1, 2**32 - 1 - len(ids))):
        entries = entries_of(file, level)
        drawn, selected, uniform = [], [], []
        for token, number in enumerate(ids.tolist(), start):
            entry = entries[number]
            place = (tape, token, document)
            drawn.append(entry.members[reference.draw(entry.weights, *place).index])
            selected.append(
                entry.members[reference_noisy_max.select(entry.scores, entry.noise, *place).index]
            )
            uniform.append(entry.members[reference.draw_uniformly(len(entry.members), *place).index])
        assert sanitizer.draw(ids, tape, document, level, start).tolist() == drawn
        assert sanitizer.select(ids, tape, document, level, start).tolist() == selected
        assert sanitizer.draw(ids, tape, document, 0, start).tolist() == uniform


@pytest.mark.parametrize("level", [0, 1, 2])
def test_draws_at_extreme_words_equal_the_reference(level: int) -> None:
    file = made(15, 4, False, verbatim=frozenset([2]))
    for number, entry in enumerate(entries_of(file, level or 1)):
        size = len(entry.members)
        ends = (
            [-(-WHOLE * i // size) for i in range(size + 1)]
            if level == 0
            else [0, *accumulate(entry.weights)]
        )
        near = {end + step for end in ends for step in (-1, 0, 1)} | {0, WHOLE - 1, 2**63, 2**32}
        words = sorted(word for word in near if 0 <= word < WHOLE)
        tape = ListedTape({(Domain.DRAW, 0, place): word for place, word in enumerate(words)})
        found = Sanitizer(file).draw(np.full(len(words), number), tape, 0, level).tolist()
        for place, output in enumerate(found):
            if level == 0:
                expected = reference.draw_uniformly(size, tape, place).index
            else:
                expected = reference.draw(entry.weights, tape, place).index
            assert output == entry.members[expected], (number, words[place])


# Certificates against a computation of their own


def tail(alpha: Fraction, two_sided: bool) -> Fraction:
    """Return c such that P(noise > z) = c alpha**(z + 1) for z >= -1."""
    return 1 / (1 + alpha) if two_sided else Fraction(1)


def exhaustive_law(scores: Sequence[int], alpha: Fraction, two_sided: bool) -> list[Fraction]:
    """Return P(index) by summing over winning heights; above the scores, over all subsets of the others."""
    return [chance(scores, i, alpha, two_sided) for i in range(len(scores))]


def chance(scores: Sequence[int], i: int, alpha: Fraction, two_sided: bool) -> Fraction:
    """Return the probability of one index."""
    low, high, c, own = min(scores), max(scores), tail(alpha, two_sided), scores[i]
    others = [(score, 1 if j < i else 0) for j, score in enumerate(scores) if j != i]
    total = Fraction(0)
    for count in range(len(others) + 1):
        for chosen in combinations(others, count):
            exponent = high - own + sum(high - score - strict + 1 for score, strict in chosen)
            total += (1 - alpha) * c * (-c) ** count * alpha**exponent / (1 - alpha ** (count + 1))
    if not two_sided:
        return total
    for top in range(low, high):
        total += at_height(top, own, others, alpha, c)
    return total + at_height(low - 1, own, others, alpha, c) / (1 - alpha ** len(scores))


def at_height(top: int, own: int, others: list[tuple[int, int]], alpha: Fraction, c: Fraction) -> Fraction:
    """Return the probability of winning with one noisy score, for two-sided noise."""
    product = c * (1 - alpha) * alpha ** abs(top - own)
    for score, strict in others:
        z = top - score - strict
        product *= 1 - c * alpha ** (z + 1) if z >= 0 else c * alpha**-z
    return product


def largest_ratio(rows: Sequence[Sequence[int | Fraction]]) -> Fraction:
    """Return the largest P(y | x) / P(y | x') over all x, x' and y, one by one."""
    best = Fraction(0)
    for row in rows:
        for other in rows:
            best = max(best, *(Fraction(p) / Fraction(q) for p, q in zip(row, other, strict=True)))
    return best


def test_the_exhaustive_law_gives_the_known_answers_of_the_specification() -> None:
    alpha = Fraction(2, 3)
    one, two = (exhaustive_law([0, 2, 1], alpha, two_sided) for two_sided in (False, True))
    assert one == [Fraction(4, 19), Fraction(479, 855), Fraction(196, 855)]
    assert two == [Fraction(112, 475), Fraction(1179, 2375), Fraction(636, 2375)]


@pytest.mark.parametrize(
    ("count", "size", "two_sided", "seed"),
    [(11, 3, False, 5), (11, 3, True, 6), (9, 4, True, 2), (14, 3, False, 7), (7, 2, False, 4)],
)
def test_exact_equals_an_exhaustive_computation_on_every_part_and_stays_within_the_bound(
    count: int, size: int, two_sided: bool, seed: int
) -> None:
    file = made(count, size, two_sided, seed, verbatim=frozenset([1]))
    sanitizer = Sanitizer(file)
    for level in (1, 2):
        whole = file.table(level - 1)
        tabulated: list[Fraction] = []
        laws: list[Fraction] = []
        for part, alpha in zip(whole.parts, file.alphas[level - 1], strict=True):
            noise = sanitizer._noise(level, len(laws))
            rows = [exhaustive_law(row, Fraction(int(alpha), 2**16), two_sided) for row in part.scores]
            tabulated.append(largest_ratio(part.weights))
            laws.append(largest_ratio(rows))
            alone = tabulated_certificate(TabulatedTable("t", whole.epsilon, (part,)))
            stated = noisy_max_certificate(Table("t", (Part(part.tokens, part.scores),)), noise)
            assert (alone.exact, stated.exact) == (tabulated[-1], laws[-1])
            assert stated.exact <= stated.bound
            assert alone.exact <= alone.bound
        check_certificate(sanitizer.certificate(level), max(tabulated), claim_limit(whole.epsilon))
        check_certificate(sanitizer.noisy_max_certificate(level), max(laws), None)
        assert sanitizer.part_costs(level).tolist() == list(map(millionths, tabulated))


def test_noisy_max_is_certified_and_charged_by_its_own_law_and_not_by_the_weights() -> None:
    whole, unlike = 2**64, np.array([(63, 29), (29, 0)], dtype=np.int32)
    forged = made(8, 4, False)
    quarter = np.full(16, whole // 4, dtype=np.uint64)
    alphas, weights = forged.alphas.copy(), forged.weights.copy()
    alphas[0, 0], weights[0, :16] = 1, quarter
    sanitizer = Sanitizer(replace(forged, alphas=alphas, weights=weights))
    assert sanitizer.certificate(1).exact <= claim_limit("1")
    with pytest.raises(Refused) as refused:
        sanitizer.noisy_max_certificate(1)
    assert refused.value.reason == Refusal.TABLE_MALFORMED
    assert sanitizer.noisy_max_costs(1)[0] > 10**8

    # Every weight but the largest is raised from 0 to 1: the table meets a claim that its law exceeds.
    # The other part has the larger ratio of weights, and must not hide the first one.
    four, plain = made(4, 2, False), np.array([(3, 0), (0, 3)], dtype=np.int32)
    law = [int(reference.tabulate(row, Geometric(Fraction(1, 2**16)))[1]) for row in unlike.tolist()]
    other = [w for row in plain.tolist() for w in reference.tabulate(row, Geometric(Fraction(1, 2)))]
    assert law == [1, 1]
    rare = replace(
        four,
        statement=replace(four.statement, epsilon=["44.36"]),
        scores=np.concatenate([unlike.ravel(), plain.ravel()]),
        alphas=np.array([[1, 2**15]], dtype=np.int32),
        weights=np.array([[whole - 1, 1, whole - 1, 1, *other]], dtype=np.uint64),
    )
    assert Sanitizer(rare).certificate(1).exact > 4
    with pytest.raises(Refused) as refused:
        Sanitizer(rare).noisy_max_certificate(1)
    assert refused.value.reason == Refusal.CLAIM_NOT_MET
    assert Sanitizer(rare).noisy_max_costs(1)[0] > 55 * 10**6


def check_certificate(found: Certificate, exact: Fraction, bound: Fraction | None) -> None:
    """Fail unless a certificate states this exact figure, and a bound that is not below it."""
    assert found.exact == exact
    assert found.exact <= found.bound
    assert bound is None or found.bound == bound


def millionths(ratio: Fraction) -> int:
    """Return ln(ratio) in millionths rounded up: the least n with e**(n / 10**6) >= ratio."""
    n = max(0, int(math.log(ratio) * 10**6) - 2)
    while (n == 0 and ratio > 1) or (n and claim_limit(Fraction(n, 10**6)) < ratio):
        n += 1
    return n


def test_an_exhaustive_computation_notices_one_changed_weight() -> None:
    file = made(8, 4, False)
    rows = [list(row) for row in file.table(0).parts[0].weights]
    least = min(range(4), key=lambda y: rows[0][y])
    rows[0][least], rows[0][(least + 1) % 4] = 1, rows[0][(least + 1) % 4] + rows[0][least] - 1
    assert largest_ratio(rows) > largest_ratio(file.table(0).parts[0].weights)


# Draws against weights


def is_suspicious(count: int, trials: int, weight: int, threshold: float) -> bool:
    """Return whether a count is beyond Chernoff's bound: its chance is below e**-threshold on either side."""
    share, p = count / trials, weight / WHOLE
    distance = sum(a * math.log(a / b) for a, b in ((share, p), (1 - share, 1 - p)) if a > 0)
    return trials * distance > threshold


def test_drawn_frequencies_agree_with_the_weights_and_not_with_those_of_another_row() -> None:
    file, trials = made(14, 6, False), 100_000
    sanitizer, tape = Sanitizer(file), bulk.SeededTape(SEED)
    entries = entries_of(file, 1)
    threshold = math.log(2 * sum(len(entry.members) for entry in entries) / FALSE_ALARM)
    noticed = 0
    for number, entry in enumerate(entries):
        drawn = sanitizer.draw(np.full(trials, number), tape, number)
        counts = [int((drawn == member).sum()) for member in entry.members]
        assert sum(counts) == trials
        other = entries[next(member for member in entry.members if member != number)]
        for count, weight, wrong in zip(counts, entry.weights, other.weights, strict=True):
            assert not is_suspicious(count, trials, weight, threshold)
            noticed += is_suspicious(count, trials, wrong, threshold)
    assert noticed > len(entries)


# veil sanitize


def cut(text: str) -> list[str]:
    """Return the words and signs of a text, read character by character."""
    found: list[str] = []
    inside = False
    for sign in text.lower():
        in_word = sign.isalnum() or sign == "_"
        if in_word and inside:
            found[-1] += sign
        elif not sign.isspace():
            found.append(sign)
        inside = in_word
    return found


def part_with(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the part of each entry of a table."""
    return {entry: part for part in parts_of(path) for entry in part}


texts = st.lists(
    st.sampled_from(
        [*COLOURS, *SIGNS, "RED", "Grey", "colour", " ", "  ", "\t", "\r", "\x00", "\x1c", "<unk>", "'"]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=3)
).map("".join)
"""Text of one line."""


@pytest.mark.requirement("NMX-P2")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=5))
def test_every_output_word_is_of_the_part_of_its_input_word_and_nothing_else_passes(
    table: Path, documents: list[str]
) -> None:
    parts = part_with(table)
    done = run("sanitize", "-", "--table", table, stdin="".join(f"{text}\n" for text in documents).encode())
    assert (done.status, len(done.lines)) == (0, len(documents))
    for text, line in zip(documents, done.lines, strict=True):
        wanted = [parts.get(word, (UNKNOWN,)) for word in cut(text)]
        outputs = line.split(" ") if line else []
        assert len(outputs) == len(wanted)
        assert all(output in part for output, part in zip(outputs, wanted, strict=True))
        assert line == " ".join(outputs)


@pytest.mark.requirement("NMX-P1")
def test_the_output_is_drawn_from_the_weights_of_the_file_that_the_certificate_names(
    table: Path, tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped"
    file = Sanitizer.load(table).file
    Sanitizer(replace(file, weights=upside_down(file))).save(swapped)
    assert digest(swapped) != digest(table)
    text = " ".join([*COLOURS, *SIGNS, "colour"] * 8)
    for path, level in ((table, 1), (table, 2), (table, 3), (swapped, 2)):
        stated = tmp_path / f"{path.name}-{level}"
        epsilon = ("1", "2", "4")[level - 1]
        options = ("--epsilon", epsilon, "--certificate", stated, *FIXED)
        done = run("sanitize", "-", "--table", path, *options, stdin=f"red\n{text}\n".encode())
        assert done.lines[1].split(" ") == drawn_by_the_reference(path, level, cut(text), document=1)
        found = json.loads(stated.read_text())
        wanted = reference.tabulated_certificate(load_tabulated(path, level - 1))
        assert found["table"] == digest(path)
        assert [shown["exact"] for shown in found["levels"]] == [str(wanted.exact)]
        assert [shown["epsilon_exact"] for shown in found["levels"]] == [wanted.epsilon_exact]
        assert found["not_covered"] == list(wanted.not_covered)
        assert found["not_private"] is True


def upside_down(file: TableFile) -> npt.NDArray[np.uint64]:
    """Return the weights of a table with each part's rows in the opposite order."""
    turned, cell = file.weights.copy(), 0
    for size in map(int, file.sizes):
        square = slice(cell, cell + size * size)
        turned[:, square] = file.weights[:, square].reshape(-1, size, size)[:, ::-1].reshape(-1, size * size)
        cell += size * size
    return turned


def drawn_by_the_reference(path: Path, level: int, found: Sequence[str], document: int) -> list[str]:
    """Return what the reference draws for words of a document."""
    rows = {
        token: (part.tokens, weights)
        for part in load_tabulated(path, level - 1).parts
        for token, weights in zip(part.tokens, part.weights, strict=True)
    }
    tape, outputs = SeededTape(SEED), []
    for place, word in enumerate(found):
        tokens, weights = rows.get(word, rows[UNKNOWN])
        outputs.append(tokens[reference.draw(weights, tape, place, document).index])
    return outputs


@pytest.mark.requirement("NMX-P3")
def test_documents_come_in_order_with_what_is_kept_and_empty_ones_stay_empty(
    table: Path, tmp_path: Path
) -> None:
    lines = [
        {"text": " ".join(COLOURS[:n]), "id": n, "label": [None, {"é": n}], "secret": "red"} for n in range(9)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / "in").write_bytes(content)
    options = ("--table", table, "--json", "--keep", "id", "--keep", "label", *FIXED)
    done = run("sanitize", tmp_path / "in", *options)
    assert run("sanitize", tmp_path / "in", *options, "--workers", 2) == done
    found = [json.loads(line) for line in done.lines]
    assert [line["id"] for line in found] == list(range(9))
    assert [line["label"] for line in found] == [line["label"] for line in lines]
    assert [len(line["text"].split()) for line in found] == list(range(9))
    assert all(
        set(line) == {"id", "label", "text", "entries", "micro_epsilon", "not_private"} for line in found
    )
    assert found[0]["micro_epsilon"] == {"token": 0, "document": 0}
    plain = run("sanitize", "-", "--table", table, *FIXED, stdin=b"\n\n" + b"red gold\n\n" + b"blue")
    assert [len(line.split()) for line in plain.lines] == [0, 0, 2, 0, 1]
    assert plain.out.count(b"\n") == 5
    as_text = run(
        "sanitize",
        "-",
        "--table",
        table,
        *FIXED,
        stdin=b"".join(f"{line['text']}\n".encode() for line in lines),
    )
    assert as_text.lines == [line["text"] for line in found]


BAD_LINES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "not UTF-8": (b"red \xff\n", ()),
    "half a character": (b"red \xed\xa0\x80\n", ()),
    "longer than 2**23 bytes": (b"a" * 2**23 + b"a\n", ()),
    "much longer": (b"a" * 3 * 2**23 + b"\n", ()),
    "no JSON": (b"red\n", ("--json",)),
    "no object": (b"[1]\n", ("--json",)),
    "a number for an object": (b"5\n", ("--json",)),
    "a string for an object": (b'"text"\n', ("--json",)),
    "an empty line": (b"\n", ("--json",)),
    "no text": (b'{"texts": ""}\n', ("--json",)),
    "a number for a text": (b'{"text": 5}\n', ("--json",)),
    "no text at all": (b'{"text": null}\n', ("--json",)),
    "a lone surrogate": (b'{"text": "red \\ud800"}\n', ("--json",)),
    "nothing to keep": (b'{"text": "red"}\n', ("--json", "--keep", "id")),
    "deeply nested": (b"[" * 100_000 + b"\n", ("--json",)),
    "a long number": (b'{"text": "red", "n": 1' + b"0" * 5000 + b"}\n", ("--json",)),
    "not UTF-8 JSON": (b'{"text": "\xff"}\n', ("--json",)),
}
"""Third lines that are refused, and the options."""


@pytest.mark.requirement("NMX-P3")
@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_refused_by_its_number_after_the_documents_before_it(table: Path, case: str) -> None:
    line, options = BAD_LINES[case]
    good = b'{"text": "red gold", "id": 1}\n' if "--json" in options else b"red gold\n"
    done = run("sanitize", "-", "--table", table, *options, stdin=good + good + line + good)
    assert (done.status, len(done.lines)) == (2, 2)
    assert done.err.startswith("veil: line 3 ")
    assert "(PROMPT_MALFORMED)" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.requirement("NMX-P3")
def test_a_line_of_exactly_the_longest_length_is_a_document(table: Path) -> None:
    whole = b"red " + b"a" * (2**23 - 4)
    for end in (b"\n", b"", b"\nred\n"):
        done = run("sanitize", "-", "--table", table, stdin=whole + end)
        assert (done.status, done.lines[0].split()[1]) == (0, UNKNOWN)
        assert len(done.lines) == 1 + (b"red" in end)


@pytest.mark.requirement("NMX-P4")
def test_with_one_seed_neither_batches_nor_neighbours_nor_the_mechanism_s_order_change_a_word(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "".join(
        f"{' '.join(COLOURS[n % 12 :] + SIGNS)} word{n}\n" * (n % 3) for n in range(12)
    ).encode()
    for options in ((), ("--mechanism", "noisy-max"), ("--budget", "30"), ("--epsilon", "4")):
        arguments = ("sanitize", "-", "--table", table, *FIXED, *options)
        expected = run(*arguments, stdin=content)
        assert expected.status == 0
        for batch in (1, 3, 2**10):
            with monkeypatch.context() as patch:
                patch.setattr(sanitizing, "BATCH", batch)
                assert run(*arguments, stdin=content) == expected
        others = b"".join(b"\n" if n != 4 else line for n, line in enumerate(content.splitlines(True)))
        if "--budget" not in options:
            assert run(*arguments, stdin=others).lines[4] == expected.lines[4]


@pytest.mark.requirement("NMX-P4")
def test_with_one_seed_the_number_of_processes_changes_nothing_up_to_a_refused_line(
    table: Path, tmp_path: Path
) -> None:
    words = COLOURS + SIGNS
    content = "".join(f"{' '.join(words[n % 20 :])} word{n}\n" for n in range(150)).encode()
    (tmp_path / "good").write_bytes(content)
    (tmp_path / "bad").write_bytes(content + b"\xff\n" + content)
    good, bad = (
        [
            run("sanitize", tmp_path / name, "--table", table, *FIXED, "--budget", "9", "--workers", workers)
            for workers in (1, 2, 3)[:count]
        ]
        for name, count in (("good", 3), ("bad", 2))
    )
    assert good[0] == good[1] == good[2]
    assert bad[0] == bad[1]
    assert (good[0].status, bad[0].status, bad[0].out) == (0, 2, good[0].out)


def test_a_model_s_tokens_too_are_cut_alike_by_any_number_of_processes(
    model: Path, token_table: Path
) -> None:
    content = "".join(f"Grüße, {n} 🙂 ~!\n" for n in range(40)).encode()
    arguments = ("sanitize", "-", "--table", token_table, "--tokenizer", model, "--json", *FIXED)
    done = [run(*arguments, "--workers", n, stdin=jsonl(*content.decode().splitlines())) for n in (1, 2)]
    assert (done[0].status, done[0].err) == (0, "veil: not_private: the seed is fixed\n")
    assert done[0] == done[1]
    lengths = [len(json.loads(line)["entries"]) for line in done[0].lines]
    assert lengths == [len(line) for line in content.splitlines()]


def test_a_seed_is_not_private_and_without_one_two_runs_differ(table: Path, tmp_path: Path) -> None:
    content = (" ".join(COLOURS) * 20 + "\n").encode()
    arguments = ("sanitize", "-", "--table", table, "--certificate", tmp_path / "c")
    runs = [run(*arguments, stdin=content) for _ in range(2)]
    assert runs[0].out != runs[1].out
    assert [done.err for done in runs] == ["", ""]
    assert json.loads((tmp_path / "c").read_text())["not_private"] is False
    fixed = [run(*arguments, *FIXED, stdin=content) for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert "not_private" in fixed[0].err
    assert json.loads((tmp_path / "c").read_text())["not_private"] is True


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "no such level": (("--epsilon", "3"), "--epsilon 3"),
    "a level and a budget": (("--epsilon", "1", "--budget", "3"), "--epsilon"),
    "a rule without a budget": (("--rule", "rule"), "--rule"),
    "a bad rule": (("--rule", "in", "--budget", "1"), "--rule"),
    "budget -1": (("--budget=-1",), "--budget -1"),
    "budget nan": (("--budget", "nan"), "--budget nan"),
    "budget 1e999999999": (("--budget", "1e999999999"), "--budget 1e999999999"),
    "budget too large": (("--budget", "9" * 19), "--budget 9"),
    "a short seed": (("--seed", "ab"), "--seed"),
    "a seed that is no number": (("--seed", "x" * 64), "--seed"),
    "a key without a ledger": (("--key", "key"), "--ledger"),
    "a limit without a ledger": (("--limit", "1"), "--ledger"),
    "memoise without a ledger": (("--memoise",), "--ledger"),
    "a ledger without a key": (("--ledger", "ledger", "--limit", "1"), "--key"),
    "a ledger without a limit": (("--ledger", "ledger", "--key", "key"), "--limit"),
    "a limit that is none": (("--ledger", "ledger", "--key", "key", "--limit", "x"), "--limit x"),
    "a ledger with a seed": (("--ledger", "l", "--key", "k", "--limit", "1", "--seed", SEED.hex()), "--seed"),
    "memoise without a limit": (("--ledger", "l", "--key", "k", "--memoise"), "--limit"),
    "an adjacency without a ledger": (("--adjacency", "token"), "--ledger"),
    "a ledger in no directory": (("--ledger", "no/l", "--key", "key", "--limit", "1"), "no"),
    "a field to keep of text": (("--keep", "id"), "--json"),
    "a certificate over the source": (("--certificate", "in"), "--certificate in"),
    "a certificate over the ledger": (
        ("--certificate", "l", "--ledger", "l", "--key", "k", "--limit", "1"),
        "--certificate l",
    ),
    "a tokenizer for words": (("--tokenizer", "in"), "--tokenizer"),
    "no process": (("--workers", "0"), "--workers"),
    "no such mechanism": (("--mechanism", "laplace"), "--mechanism"),
    "no such place": (("--certificate", "nowhere/c"), "nowhere"),
}
"""Options of `veil sanitize` that are refused, and what the refusal names."""


@pytest.mark.requirement("WIR-P5")
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_give_one_line_before_anything_is_emitted(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("red gold\n")
    options, named = BAD_OPTIONS[case]
    check_refused(tmp_path, named, "sanitize", "in", "--table", table, *options)


@pytest.mark.requirement("WIR-P5")
def test_a_bad_table_or_source_gives_one_line(
    table: Path, token_table: Path, model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = table.read_bytes()
    (tmp_path / "short").write_bytes(whole[:-1])
    file = Sanitizer.load(table).file
    Sanitizer(replace(file, weights=file.weights + np.uint64(1))).save(tmp_path / "changed")
    check_refused(tmp_path, "short is not a table", "sanitize", "-", "--table", tmp_path / "short")
    check_refused(tmp_path, "weights", "sanitize", "-", "--table", tmp_path / "changed")
    check_refused(tmp_path, "nowhere", "sanitize", "-", "--table", tmp_path / "nowhere")
    check_refused(tmp_path, "nowhere", "sanitize", tmp_path / "nowhere", "--table", table)
    check_refused(tmp_path, "--table", "sanitize", "-")
    tokens = ("sanitize", "-", "--table", token_table)
    check_refused(tmp_path, "--tokenizer is missing", *tokens)
    check_refused(tmp_path, "another vocabulary", *tokens, "--tokenizer", checkpoint)
    check_refused(tmp_path, "no tokenizer", *tokens, "--tokenizer", tmp_path)


# Budgets


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 20), max_size=8),
    st.integers(0, 8_000_000),
    st.dictionaries(st.integers(0, 2), st.integers(0, 3)),
    st.randoms(use_true_random=False),
)
def test_a_divided_document_stays_within_its_budget_and_adjacent_ones_get_the_same_levels(
    classed: Pipeline, ids: list[int], budget: int, rule: dict[int, int], moves: random.Random
) -> None:
    classed.settings = replace(classed.settings, budget=budget, weights=rule)
    file, part_of = classed.sanitizer.file, classed.sanitizer.part_of
    members = [[n for n in range(len(file.entries)) if part_of[n] == part] for part in range(len(file.sizes))]
    names = [*file.entries[:-1], "unknown"]
    adjacent = [moves.choice(members[part_of[number]]) for number in ids]
    prepared, other = (
        classed.prepare(" ".join(names[number] for number in numbers)) for numbers in (ids, adjacent)
    )
    assert (prepared.ids.tolist(), other.ids.tolist()) == (ids, adjacent)
    assert prepared.levels.tolist() == other.levels.tolist()
    assert prepared.costs == other.costs
    costs = [
        int(classed.sanitizer.part_costs(level)[part_of[number]])
        for number, level in zip(ids, prepared.levels.tolist(), strict=True)
    ]
    assert (max(costs, default=0), sum(costs)) == (prepared.costs.token, prepared.costs.document)
    assert sum(costs) <= budget
    shares = sum(
        rule.get(int(file.classes[part_of[number]]), 1) for number in ids if len(members[part_of[number]]) > 1
    )
    for number, level in zip(ids, prepared.levels.tolist(), strict=True):
        weight = rule.get(int(file.classes[part_of[number]]), 1)
        rising = [int(classed.sanitizer.part_costs(n)[part_of[number]]) for n in (1, 2, 3)]
        fits = [n for n in (1, 2, 3) if weight and 0 < rising[n - 1] <= budget * weight // max(shares, 1)]
        assert level == max(fits, default=0)


@pytest.fixture(scope="module")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Return a pipeline with a budget over a table of words at three levels with three classes."""
    entries = [f"w{n}" for n in range(20)] + [UNKNOWN]
    recipe = Recipe(
        "t",
        part_size=3,
        epsilons=("1", "2", "4"),
        verbatim=frozenset([5, 20]),
        classes=[n % 3 for n in range(21)],
    )
    path = tmp_path_factory.mktemp("classed") / "table"
    Sanitizer(build(entries, random_vectors(21, 4), recipe)).save(path)
    return Pipeline(Settings(path, budget=1))


def test_a_budget_is_kept_and_shown_for_each_document(table: Path, tmp_path: Path) -> None:
    (tmp_path / "rule").write_text('{"0": 2}')
    lines = jsonl(*(" ".join(COLOURS[:n]) for n in range(13)))
    options = ("--json", "--budget", "5", "--rule", tmp_path / "rule", "--certificate", tmp_path / "c")
    done = run("sanitize", "-", "--table", table, *options, stdin=lines)
    spent = [json.loads(line)["micro_epsilon"]["document"] for line in done.lines]
    assert len(spent) == 13
    assert max(spent) <= 5_000_000
    assert spent[4] > 3_000_000
    stated = json.loads((tmp_path / "c").read_text())
    assert (stated["document_budget"], len(stated["levels"])) == (5, 3)


# Ledgers


def costs_of(table: Path, documents: Sequence[str]) -> list[int]:
    """Return what each document costs at the first level if all of its tokens are replaced."""
    pipeline = Pipeline(Settings(table))
    return [pipeline.prepare(text).costs.document for text in documents]


def ledger_options(folder: Path, limit: str) -> tuple[object, ...]:
    """Return the options of a ledger in a folder."""
    return ("--ledger", folder / "ledger", "--key", folder / "key", "--limit", limit)


def test_a_document_beyond_the_limit_is_refused_whole_after_those_before_it(
    table: Path, tmp_path: Path
) -> None:
    documents = ["red gold", "blue", "white black grey", "pink"]
    costs = costs_of(table, documents)
    limit = sum(costs[:3]) - 1
    options = ("sanitize", "-", "--table", table, *ledger_options(tmp_path, f"{limit / 10**6:.6f}"))
    for workers in (1, 2):
        done = run(
            *options, "--account", str(workers), "--workers", workers, stdin="\n".join(documents).encode()
        )
        assert (done.status, [len(line.split()) for line in done.lines]) == (2, [2, 1])
        assert "(BUDGET_EXCEEDED)" in done.err
        assert done.err.count("\n") == 1
        with Ledger(tmp_path / "ledger", read_or_create_key(tmp_path / "key")) as ledger:
            assert ledger.spent(str(workers))[1] == sum(costs[:2])
            assert ledger.unfinished() == 0


def test_equal_documents_get_equal_outputs_and_one_charge_only_where_that_is_asked_for(
    table: Path, tmp_path: Path
) -> None:
    text = " ".join(COLOURS)
    (cost,) = costs_of(table, [text])
    for memoise in (False, True):
        folder = tmp_path / str(memoise)
        folder.mkdir()
        options = (*ledger_options(folder, "100"), *(["--memoise"] if memoise else []))
        outputs = []
        for _ in range(2):
            done = run(
                "sanitize", "-", "--table", table, *options, stdin=f"{text}\n{text}\n{text}\n".encode()
            )
            outputs += done.lines
        assert len(set(outputs)) == (1 if memoise else 6)
        with Ledger(folder / "ledger", read_or_create_key(folder / "key")) as ledger:
            assert ledger.spent("default")[1] == cost * (1 if memoise else 6)
    check_refused(
        tmp_path,
        "LEDGER_MISMATCH",
        "sanitize",
        "-",
        "--table",
        table,
        *ledger_options(tmp_path / "True", "100"),
    )


KILLED_AT = """
import os, sys
from veil import commands, sanitizing
from veil_optimized.ledger import Ledger
moment, after = sys.argv[1], int(sys.argv[2])
owner, name = {"charged": (sanitizing.Pipeline, "finish"), "emitted": (Ledger, "complete")}[moment]
original, calls = getattr(owner, name), []
def counted(*arguments):
    calls.append(1)
    if len(calls) > after:
        os.kill(os.getpid(), 9)
    return original(*arguments)
setattr(owner, name, counted)
commands.run(sys.argv[3:])
"""
"""`veil`, killed when a document is charged and not drawn, or emitted and not completed."""


@dataclass(frozen=True)
class Job:
    """Documents that are sanitized under one ledger by processes that get killed."""

    folder: Path
    table: Path
    documents: list[str]
    costs: list[int]

    def command(self, first: int, workers: int) -> list[str]:
        """Return the arguments that continue with document `first`."""
        (self.folder / "in").write_bytes(jsonl(*self.documents[first:]))
        options = ["--table", str(self.table), "--json", "--workers", str(workers)]
        options += map(str, ledger_options(self.folder, "1000000"))
        return ["sanitize", str(self.folder / "in"), *options]

    def progress(self) -> tuple[int, int]:
        """Return how many documents are charged, and how many of them are not completed."""
        with Ledger(self.folder / "ledger", read_or_create_key(self.folder / "key")) as ledger:
            spent, charged, left = ledger.spent("default")[1], 0, ledger.unfinished()
        while spent > 0:
            spent -= self.costs[charged]
            charged += 1
        assert spent == 0
        return charged, left


def whole_lines(path: Path) -> list[list[int]]:
    """Return the entries of each whole line of an output."""
    return [json.loads(line)["entries"] for line in path.read_bytes().split(b"\n")[:-1]]


def killed(job: Job, first: int, moment: tuple[str, int] | float, workers: int) -> list[list[int]]:
    """Return what a process emitted from document `first` on before SIGKILL."""
    output, command = job.folder / "out", job.command(first, workers)
    with output.open("wb") as out:
        if isinstance(moment, tuple):
            arguments = [sys.executable, "-c", KILLED_AT, moment[0], str(moment[1]), *command]
            child = subprocess.Popen(arguments, stdout=out, stderr=subprocess.PIPE)
        else:
            arguments = [sys.executable, "-m", "veil.main", *command]
            child = subprocess.Popen(arguments, stdout=out, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while output.stat().st_size == 0 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(moment)
            child.kill()
        # A process that outlives the killed one would keep this pipe open.
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
    return whole_lines(output)


def test_killed_at_any_moment_no_charge_is_lost_and_unfinished_documents_come_out_as_they_were(
    table: Path, tmp_path: Path
) -> None:
    moves = random.Random(1)
    documents = [" ".join(moves.choices(COLOURS, k=9)) + f" word{n}" for n in range(4000)]
    job = Job(tmp_path, table, documents, costs_of(table, documents))
    emitted: dict[int, list[int]] = {}
    first, repeated = 0, 0
    moments: list[tuple[tuple[str, int] | float, int]] = [
        (("charged", 3), 1), (("emitted", 0), 1), (("emitted", 2), 2), (("charged", 0), 1),
        (moves.uniform(0, 0.1), 1), (moves.uniform(0, 0.1), 1), (moves.uniform(0, 0.1), 2),
    ]  # fmt: skip
    for moment, workers in moments:
        lines = killed(job, first, moment, workers)
        charged, left = job.progress()
        assert first + len(lines) <= charged
        assert left <= 1
        assert not isinstance(moment, tuple) or left == 1
        repeated += check_same(emitted, first, lines)
        first = charged - left
    job.documents[first + 5 :] = []
    done = run(*job.command(first, 1))
    assert done.status == 0
    repeated += check_same(emitted, first, [json.loads(line)["entries"] for line in done.lines])
    assert (sorted(emitted), job.progress()) == (list(range(first + 5)), (first + 5, 0))
    assert repeated >= 2


def check_same(emitted: dict[int, list[int]], first: int, lines: list[list[int]]) -> int:
    """Return how many documents came out again; fail if one of them came out otherwise."""
    again = 0
    for number, line in enumerate(lines, first):
        again += number in emitted
        assert emitted.setdefault(number, line) == line
    return again


def test_an_interrupted_run_with_processes_prints_one_line_and_leaves_none_behind(table: Path) -> None:
    arguments = [sys.executable, "-m", "veil.main", "sanitize", "-", "--table", str(table), "--workers", "2"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        arguments,
        start_new_session=True,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"red gold\n" * 300)
    child.stdin.flush()
    assert len(child.stdout.readline().split()) == 2
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0
    assert err.count(b"\n") <= 1
    assert b"Traceback" not in err


# Hostile text and size


def any_text(count: int, seed: int) -> str:
    """Return characters of all planes, control characters and unassigned ones among them, no surrogates."""
    random_ = random.Random(seed)
    planes = [(0, 0x80), (0x80, 0xD800), (0xE000, 0x10000)] + [(p << 16, (p + 1) << 16) for p in range(1, 17)]
    return "".join(chr(random_.randrange(*random_.choice(planes))) for _ in range(count))


def test_a_megabyte_of_any_characters_is_cut_into_known_words_and_single_signs(table: Path) -> None:
    text = any_text(320_000, 1)
    assert len(text.encode()) > 2**20
    parts = part_with(table)
    documents = text.split("\n")
    done = run("sanitize", "-", "--table", table, stdin=text.encode())
    assert (done.status, done.err, len(done.lines)) == (0, "", len(documents))
    for document, line in zip(documents, done.lines, strict=True):
        wanted = [parts.get(word, (UNKNOWN,)) for word in cut(document)]
        outputs = line.split()
        assert len(outputs) == len(wanted)
        assert all(output in part for output, part in zip(outputs, wanted, strict=True))


def test_any_characters_have_as_many_tokens_as_bytes(model: Path, token_table: Path) -> None:
    text = any_text(100_000, 2).replace("\n", " ")
    arguments = ("sanitize", "-", "--table", token_table, "--tokenizer", model)
    done = run(*arguments, "--json", stdin=jsonl(text))
    assert (done.status, done.err) == (0, "")
    assert len(json.loads(done.out)["entries"]) == len(text.encode())
    plain = run(*arguments, stdin=text.encode() + b"\n\x00\x01\r\n")
    assert (plain.status, len(plain.lines)) == (0, 2)


def test_a_document_of_a_million_tokens_is_sanitized_in_bounded_memory(table: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(jsonl(" ".join(random.Random(1).choices([*COLOURS, "word"], k=10**6))))
    for options in ([], ["--budget", "1000"], ["--mechanism", "noisy-max"]):
        arguments = ["sanitize", str(tmp_path / "in"), "--table", str(table), "--json", *options]
        used = peak(arguments, tmp_path / "out")
        print(f"10**6 tokens, {' '.join(options) or 'plain'}: {used} MB")
        found = json.loads((tmp_path / "out").read_bytes())
        assert len(found["text"].split()) == len(found["entries"]) == 10**6
        assert used < RSS_LIMIT_MB


# The Python interface


def test_one_call_sanitizes_one_text_or_many(table: Path) -> None:
    parts = part_with(table)
    one = veil.sanitize("Red, GOLD colour", table)
    assert isinstance(one, str)
    outputs = one.split(" ")
    assert [
        output in parts[word] for output, word in zip(outputs, ("red", ",", "gold", UNKNOWN), strict=True)
    ]
    many = veil.sanitize(iter(["red", "", "gold gold"]), str(table), "4")
    assert [len(text.split()) for text in many] == [1, 0, 2]
    text = " ".join(COLOURS * 20)
    assert veil.sanitize(text, table) != veil.sanitize(text, table)
    assert veil.sanitize([], table) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("red", "nowhere"), Refusal.TABLE_MALFORMED),
        (("red", "TABLE", "3"), Refusal.EPSILON_OUT_OF_RANGE),
        (("red \ud800", "TABLE"), Refusal.PROMPT_MALFORMED),
        (("red", "TOKENS"), Refusal.TABLE_MALFORMED),
    ],
)
def test_the_call_refuses_by_name(
    table: Path, token_table: Path, arguments: tuple[str, ...], reason: Refusal
) -> None:
    places = {"TABLE": table, "TOKENS": token_table}
    text, path, *level = arguments
    with pytest.raises(Refused) as caught:
        veil.sanitize(text, places.get(path, Path(path)), *level)
    assert caught.value.reason is reason
