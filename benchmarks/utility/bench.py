"""Drawing texts, training classifiers and judging; weights and figures are kept for the next run."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from benchmarks.utility import classifier
from benchmarks.utility.classifier import Classifier
from benchmarks.utility.corpus import Corpus, Labelled, with_phrases
from benchmarks.utility.mechanisms import Mechanism
from benchmarks.utility.vocabulary import Floats, Vocabulary

CLEAN_PHRASES: Final = 36_000
SANITIZED_PHRASES: Final = 12_000
TRAINING_SEED: Final = 1_000_000
"""Seed of the draws for a training text, apart from the seeds of evaluation."""

Report = Callable[[str, int, int], None]
"""Told what is under way: its name, steps done, steps in all."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A corpus, where weights and accuracies are kept, how many seeds are drawn, and who is told."""

    corpus: Corpus
    cache: Path
    seeds: int
    report: Report

    def accuracy(self, judge: Classifier, texts: Sequence[str]) -> float:
        """Return the accuracy on these texts, kept under a hash of the weights and the texts."""
        labels = self.corpus.dev.labels
        found = self.kept(
            "accuracies", [digest(judge), *texts], lambda: classifier.accuracy(judge, texts, labels)
        )
        assert found is not None
        return found

    def kept(self, kind: str, given: Sequence[str], compute: Callable[[], float | None]) -> float | None:
        """Return a figure, kept under a hash of all that it is computed from."""
        name = hashlib.sha256("\n".join(given).encode()).hexdigest()
        path = self.cache / kind / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(compute()))
            unfinished.replace(path)
        found: float | None = json.loads(path.read_text())
        return found

    def clean(self) -> Classifier:
        """Return the classifier trained on clean text."""
        labelled = with_phrases(self.corpus, CLEAN_PHRASES, seed=0)
        return self._trained(f"{self.corpus.name} clean", labelled, classifier.untrained)

    def sanitized(self, name: str, vocabulary: Vocabulary, first: int, mechanism: Mechanism) -> Classifier:
        """Return the clean classifier trained for one more pass, on text that the mechanism sanitized."""
        labelled = with_phrases(self.corpus, SANITIZED_PHRASES, seed=0)
        drawn = draw_texts(labelled.texts, vocabulary, first, mechanism, TRAINING_SEED)
        return self._trained(f"{self.corpus.name} {name}", Labelled(drawn.texts, labelled.labels), self.clean)

    def verdicts(self, judge: Classifier, words: Sequence[str]) -> Floats:
        """Return the classifier's verdict on each word alone [words], kept under a hash of both."""
        name = hashlib.sha256("\n".join([digest(judge), *words]).encode()).hexdigest()
        path = self.cache / "verdicts" / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.report("judging words alone", 0, 1)
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, classifier.margins(judge, words))
            unfinished.replace(path)
        return np.asarray(np.load(path), dtype=np.float64)

    def _trained(self, name: str, labelled: Labelled, start: Callable[[], Classifier]) -> Classifier:
        text = "\n".join([name, *labelled.texts]).encode()
        place = self.cache / "weights" / f"{name.replace(' ', '_')}-{hashlib.sha256(text).hexdigest()[:12]}"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = start()
            classifier.train(
                fresh, labelled, lambda done, total: self.report(f"training: {name}", done, total)
            )
            classifier.save(fresh, place)
        return classifier.load(place)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sanitized texts, and the shares of their tokens that are protected and that came out changed."""

    texts: tuple[str, ...]
    protected: float
    changed: float


def draw_texts(
    texts: Sequence[str], vocabulary: Vocabulary, first: int, mechanism: Mechanism, seed: int
) -> Drawn:
    """Return the texts with every protected word replaced by a draw; a word outside the list is protected."""
    split = [text.split() for text in texts]
    words = [word for line in split for word in line]
    ids = vocabulary.ids(words)
    drawn = mechanism.draw(ids, seed)
    private = ids >= first
    out = [
        vocabulary.entries[new] if hidden else word
        for word, new, hidden in zip(words, drawn, private, strict=True)
    ]
    changed = fmean(new != word for new, word in zip(out, words, strict=True))
    ends = np.cumsum([len(line) for line in split])
    lines = tuple(" ".join(out[end - len(line) : end]) for end, line in zip(ends, split, strict=True))
    return Drawn(lines, float(private.mean()), changed)


def digest(judge: Classifier) -> str:
    """Return a hash of the weights."""
    found = hashlib.sha256()
    for name, weight in judge.model.state_dict().items():
        found.update(name.encode() + weight.numpy().tobytes())
    return found.hexdigest()
