"""A classifier in mode split against the same integers in one process, on the same sanitized sentences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.fidelity import encoding
from benchmarks.fidelity.measures import Progress
from benchmarks.utility.corpus import Labelled

from veil.engines import VeilConfig, open_engine
from veil_optimized.model import Model


@dataclass(frozen=True, slots=True)
class Split:
    """Labels and logits of mode split and of plain integers for the same sanitized sentences.

    `unlike` counts labels, `other_words` sentences with any other word of their logits, `changed` sentences
    whose text the sanitizer changed beyond white space and case.
    """

    precision: str
    sentences: int
    changed: int
    unlike: int
    other_words: int
    split_accuracy: float
    plain_accuracy: float
    unsanitized_accuracy: float

    @property
    def met(self) -> bool:
        """Return whether every label is that of plain inference."""
        return self.unlike == 0 and self.split_accuracy == self.plain_accuracy

    def record(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self) | {"met": self.met}


def measure(
    folder: Path,
    integer: Model,
    tokenizer: Any,
    found: Labelled,
    clean: torch.Tensor,
    chosen: tuple[Path, str | None],
    told: Progress,
) -> Split:
    """Return one draw of the sanitized sentences under a fresh key, classified in both ways.

    `clean` holds the words of the logits without sanitizing, `chosen` table and epsilon. Mode split
    starts a worker process; its sentences and those of the plain model are the same texts.
    """
    precision = str(integer.precision)
    config = VeilConfig(mode="split", precision=precision, table=chosen[0], epsilon=chosen[1])
    context = integer.shape.context
    with open_engine(folder, config) as opened:
        texts = [opened.sanitize(text) for text in found.texts]
        tokens = encoding.cut(tokenizer, texts, context)
        remote = []
        for start in range(0, len(tokens), encoding.BATCH):
            told("mode split: labels", start, len(tokens))
            remote.append(opened.labels(tokens[start : start + encoding.BATCH]))
    here = encoding.integer_logits(integer, tokens, told)
    changed = sum(_folded(a) != _folded(b) for a, b in zip(texts, found.texts, strict=True))
    return compared(precision, changed, torch.cat(remote), here, clean, found.labels)


def _folded(text: str) -> str:
    return "".join(text.lower().split())


def compared(
    precision: str,
    changed: int,
    split: torch.Tensor,
    plain: torch.Tensor,
    clean: torch.Tensor,
    truth: Sequence[int],
) -> Split:
    """Return what the words of two ways' logits, int64 [sentences, labels], have in common."""
    right = torch.tensor(truth)
    guesses = [words.argmax(-1) for words in (split, plain, clean)]
    accuracies = [float((guess == right).double().mean()) for guess in guesses]
    unlike = int((guesses[0] != guesses[1]).sum())
    other = int((split != plain).any(-1).sum())
    return Split(precision, len(truth), changed, unlike, other, *accuracies)
