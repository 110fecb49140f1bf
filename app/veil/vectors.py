"""Public vectors of a public vocabulary: word vectors in a text file, a matrix, or a model's token matrix."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Final

import numpy as np
import numpy.typing as npt

from veil_spec.refusals import Refusal, Refused

UNKNOWN: Final = "<unk>"
"""Stands for every word that the vocabulary lacks (NMX-P2)."""
TOKEN_MATRICES: Final = (
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
    "bert.embeddings.word_embeddings.weight",
    "embeddings.word_embeddings.weight",
)
"""Where checkpoints keep the vectors of their tokens."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Entries of a vocabulary, float32 vectors [entries, dimensions], and the entries' kind."""

    entries: list[str]
    matrix: npt.NDArray[np.float32]
    kind: str
    special: frozenset[int] = frozenset()
    """Entries that are no text: a model's special tokens, or the unknown word."""


def read(source: Path, entries: Path | None = None, most: int | None = None) -> Vectors:
    """Return the first `most` vectors of a source. Refuses: TABLE_MALFORMED, MODEL_MALFORMED."""
    if not source.exists():
        raise _refused(f"--vectors {source} does not exist: give word vectors or a model directory")
    if entries is not None and source.suffix != ".npy":
        raise _refused(f"--entries means nothing for {source}: it belongs to a .npy matrix")
    if source.is_dir() or source.suffix == ".gguf":
        found = _of_model(source)
    elif source.suffix == ".npy":
        words, matrix = _of_matrix(source, entries)
        found = _with_unknown(words[:most], matrix[:most])
    else:
        found = _with_unknown(*_of_text(source, most))
    _check(source, found)
    return found


def _check(source: Path, found: Vectors) -> None:
    if not found.matrix.size:
        raise _refused(f"{source} holds no vectors: give at least one entry and one number")
    wrong = np.flatnonzero(~np.isfinite(found.matrix).all(axis=1))
    if wrong.size:
        name = found.entries[wrong[0]][:40]
        raise _refused(f"{source}: the vector of {name!r} has an entry that is not a finite float32 number")


def _refused(detail: str) -> Refused:
    return Refused(Refusal.TABLE_MALFORMED, detail)


def read_list(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file. Refuses: TABLE_MALFORMED."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise _refused(f"{path} is not UTF-8 text: one entry a line") from None
    return lines[:-1] if lines and not lines[-1] else lines


def _of_matrix(source: Path, entries: Path | None) -> tuple[list[str], npt.NDArray[np.float32]]:
    if entries is None:
        raise _refused("--entries is missing: a .npy file needs a file with one entry a line")
    try:
        matrix = np.lib.format.open_memmap(source, mode="r")
    except (ValueError, TypeError, ArithmeticError, EOFError, SyntaxError, TokenError) as error:
        raise _refused(f"{source} is not a .npy matrix") from error
    words = read_list(entries)
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(words) != len(matrix):
        raise _refused(f"{source} must be a matrix of floats with one row for each line of {entries}")
    with np.errstate(over="ignore"):
        return words, matrix.astype(np.float32)


def _of_text(source: Path, most: int | None) -> tuple[list[str], npt.NDArray[np.float32]]:
    words, cells, width = [], array("f"), 0
    with source.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1 and word.isdigit() and numbers[0].isdigit():
                continue
            width = width or len(numbers)
            if not word or not numbers or len(numbers) != width:
                expected = f"a word and {width or 'its'} numbers, one space between them, are expected"
                raise _refused(f"{source}, line {number}: {expected}")
            try:
                cells.extend(map(float, numbers))
            except (ValueError, OverflowError):
                raise _refused(f"{source}, line {number}: what follows the word is not a number") from None
            words.append(word)
            if len(words) == most:
                break
    return words, np.frombuffer(cells, dtype=np.float32).reshape(len(words), width)


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise _refused(f"line {number} of the vectors is not UTF-8 text") from None


def _with_unknown(words: list[str], matrix: npt.NDArray[np.float32]) -> Vectors:
    word, times = Counter(words).most_common(1)[0] if words else ("", 0)
    if times > 1:
        raise _refused(f"{word[:40]!r} occurs {times} times in the vectors: keep one of them")
    if UNKNOWN not in words:
        words = [*words, UNKNOWN]
        matrix = np.vstack([matrix, np.zeros((1, matrix.shape[1]), dtype=np.float32)])
    return Vectors(words, matrix, "words", frozenset([words.index(UNKNOWN)]))


def _of_model(source: Path) -> Vectors:
    from transformers import AutoTokenizer

    from veil.checkpoint import open_checkpoint
    from veil.text import token_names

    checkpoint = open_checkpoint(source)
    name = next((name for name in TOKEN_MATRICES if name in checkpoint.names), None)
    if name is None:
        raise _refused(f"{source} holds no token matrix under a known name: {', '.join(TOKEN_MATRICES)}")
    where, options = (source.parent, {"gguf_file": source.name}) if source.is_file() else (source, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, **options)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refused(Refusal.MODEL_MALFORMED, f"{where} holds no tokenizer: add its files") from error
    matrix = checkpoint.get(name).float().numpy()
    special = frozenset(number for number in tokenizer.all_special_ids if number < len(matrix))
    return Vectors(token_names(tokenizer, len(matrix)), matrix, "tokens", special)
