"""Table files of any small tables, written with the standard library alone."""

import json
from collections.abc import Sequence
from itertools import accumulate

from veil_conformance.tiny_model import Tensor, Tensors
from veil_spec import __version__
from veil_spec.types import TabulatedTable


def metadata(levels: Sequence[TabulatedTable]) -> dict[str, object]:
    """Return the object under the metadata key `veil` for a table at these levels."""
    stated: dict[str, object] = {"spec_version": __version__, "name": levels[0].name, "entries": "words"}
    stated |= {"noise": "two-sided", "epsilon": [level.epsilon for level in levels]}
    return stated | {"vectors": "ab" * 32, "policy": "none"}


def tensors(levels: Sequence[TabulatedTable]) -> Tensors:
    """Return the tensors of a table at these levels; entries are numbered from the last token on."""
    parts = levels[0].parts
    sizes, tokens = [len(part.tokens) for part in parts], [token for part in parts for token in part.tokens]
    text = json.dumps(tokens[::-1], ensure_ascii=False).encode()
    scores = [score for part in parts for row in part.scores for score in row]
    weights = [
        weight % 2**64 for level in levels for part in level.parts for row in part.weights for weight in row
    ]
    return {
        "entries": Tensor("U8", (len(text),), tuple(text)),
        "members": Tensor("I32", (len(tokens),), tuple(range(len(tokens)))[::-1]),
        "sizes": Tensor("I32", (len(parts),), tuple(sizes)),
        "classes": Tensor("I32", (len(parts),), tuple(accumulate([2] * len(parts)))),
        "scores": Tensor("I32", (len(scores),), tuple(scores)),
        "alphas": Tensor("I32", (len(levels), len(parts)), (2**15,) * (len(levels) * len(parts))),
        "weights": Tensor("U64", (len(levels), len(scores)), tuple(weights)),
    }
