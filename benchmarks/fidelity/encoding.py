"""An encoder in integers against float32: sentence embeddings, and the labels of a classifier."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

import torch
from benchmarks.fidelity import measures, sources
from benchmarks.fidelity.measures import DISTANCE_LIMIT, Progress

from veil_optimized.encoder import Encoder, sentence
from veil_optimized.model import Model
from veil_spec import constants

BATCH: Final = 16
"""Sentences in one pass of the integers."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Cosine distances of embeddings of the same sentences."""

    subject: str
    reference: str
    sentences: int
    mean: float
    largest: float
    judged: bool

    @property
    def met(self) -> bool:
        """Return whether the target is met, where there is one."""
        return not self.judged or self.largest < DISTANCE_LIMIT

    def record(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self) | {"met": self.met}


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that a subject and a reference guess for the same sentences, and their logits' differences.

    `widest` is the largest margin of the reference at a sentence where they guess unlike labels.
    """

    subject: str
    reference: str
    sentences: int
    unlike: int
    widest: float
    largest_error: float
    rms_error: float
    subject_accuracy: float
    reference_accuracy: float
    judged: bool

    @property
    def met(self) -> bool:
        """Return whether the target is met, where there is one."""
        return not self.judged or self.unlike == 0

    def record(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self) | {"met": self.met}


def cut(tokenizer: Any, texts: Sequence[str], context: int) -> list[list[int]]:
    """Return each text's tokens, special ones included, at most `context`."""
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=context)["input_ids"]
    return found


def integer_embeddings(integer: Model, tokens: Sequence[list[int]], told: Progress) -> torch.Tensor:
    """Return the sentence embeddings of MDL-R18 as reals, float64 [sentences, width], not normalised."""
    encoder, rows = Encoder(integer), []
    for batch in _batches(f"{integer.precision}: embeddings", tokens, told):
        rows += [sentence(stream) for stream in encoder.streams(batch)]
    return measures.shown(torch.stack(rows), constants.RESIDUAL_FRACTION)


def integer_logits(integer: Model, tokens: Sequence[list[int]], told: Progress) -> torch.Tensor:
    """Return the words of the labels' logits, int64 [sentences, labels]."""
    encoder = Encoder(integer)
    batches = _batches(f"{integer.precision}: labels", tokens, told)
    return torch.cat([encoder.labels(encoder.streams(batch)) for batch in batches])


def _batches(name: str, tokens: Sequence[list[int]], told: Progress) -> Iterator[Sequence[list[int]]]:
    for start in range(0, len(tokens), BATCH):
        told(name, start, len(tokens))
        yield tokens[start : start + BATCH]


def float_embeddings(model: Any, tokens: Sequence[list[int]], told: Progress) -> torch.Tensor:
    """Return mean-pooled last states, one sentence at a time, float64 [sentences, width]."""
    return torch.stack([out.last_hidden_state[0].mean(0) for out in _outputs(model, tokens, told)]).double()


def float_logits(model: Any, tokens: Sequence[list[int]], told: Progress) -> torch.Tensor:
    """Return the logits of the labels, one sentence at a time, float64 [sentences, labels]."""
    return torch.stack([out.logits[0] for out in _outputs(model, tokens, told)]).double()


def _outputs(model: Any, tokens: Sequence[list[int]], told: Progress) -> Iterator[Any]:
    for number, row in enumerate(tokens):
        told("float32", number, len(tokens))
        with torch.inference_mode():
            yield model(input_ids=torch.tensor([row]))


def embeddings(
    integer: Model, original: Any, tokens: Sequence[list[int]], told: Progress
) -> Iterator[Embeddings]:
    """Yield an integer model's embeddings against float32, with the original and any rounded weights."""
    found = integer_embeddings(integer, tokens, told)
    for name, model, judged in _references(integer, original):
        distances = measures.cosine_distances(found, float_embeddings(model, tokens, told))
        mean, largest = float(distances.mean()), float(distances.max())
        yield Embeddings(f"integers, {integer.precision}", name, len(tokens), mean, largest, judged)


def _references(integer: Model, original: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield each reference's name, its model, and whether the integers are judged by it."""
    exact = str(integer.precision) == "w16a16"
    yield "original weights", original, exact
    if not exact:
        yield f"weights rounded as {integer.precision}", sources.rounded(integer, original), False


def labels(
    integer: Model,
    words: torch.Tensor,
    original: Any,
    tokens: Sequence[list[int]],
    truth: Sequence[int],
    told: Progress,
) -> Iterator[Labels]:
    """Yield an integer classifier's words against float32, with the original and any rounded weights."""
    for name, model, judged in _references(integer, original):
        names = f"integers, {integer.precision}", name
        yield against(names, measures.shown(words), float_logits(model, tokens, told), truth, judged)


def against(
    names: tuple[str, str],
    subject: torch.Tensor,
    reference: torch.Tensor,
    truth: Sequence[int],
    judged: bool,
) -> Labels:
    """Return what two classifiers' logits, float64 [sentences, labels], have in common."""
    guessed, expected = subject.argmax(-1), reference.argmax(-1)
    unlike, errors = guessed != expected, subject - reference
    top = reference.topk(2, -1).values
    right = torch.tensor(truth)
    return Labels(
        subject=names[0],
        reference=names[1],
        sentences=len(subject),
        unlike=int(unlike.sum()),
        widest=max((top[:, 0] - top[:, 1])[unlike].tolist(), default=0.0),
        largest_error=float(errors.abs().max()),
        rms_error=sqrt(float(errors.square().mean())),
        subject_accuracy=float((guessed == right).double().mean()),
        reference_accuracy=float((expected == right).double().mean()),
        judged=judged,
    )
