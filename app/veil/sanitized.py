"""What of a text may reach a worker that sees tokens: only what a sanitizer made."""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch

from veil.engines import Sanitizer
from veil.forward import refuse_others
from veil_spec.refusals import Refusal, Refused

PENDING: Final = 4096
"""Sequences that may be cut and not yet used; beyond them, the oldest are forgotten."""
TABLE_REMEDY: Final = (
    "this table sanitizes words, so token ids cannot be sanitized: use model.chat, model.generate_text or "
    "model.classify_text, or a pipeline with tokenizer=model.tokenizer"
)


class Gate:
    """Lets through sequences that were made of sanitized text, each as often as it was made."""

    def __init__(self, sanitizer: Sanitizer, special: Sequence[int]) -> None:
        self._sanitizer, self._special = sanitizer, torch.tensor(list(special), dtype=torch.int64)
        self._made: Counter[tuple[int, ...]] = Counter()
        self._lock = threading.Lock()

    def mark(self, row: Sequence[int]) -> None:
        """Remember a sequence that was made of sanitized text."""
        with self._lock:
            self._made[tuple(row)] += 1
            while len(self._made) > PENDING:
                del self._made[next(iter(self._made))]

    def _known(self, row: tuple[int, ...]) -> bool:
        with self._lock:
            known = self._made[row] > 0
            self._made[row] -= 1
            self._made = +self._made
        return known

    def through(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what may be sent in the place of a sequence, int64 [n].

        One that was marked is sent as it is. Of another, with a table of tokens, each that is no special
        token is drawn anew, special tokens being public; with a table of words it is refused.

        Implements: MDL-P4.
        Refuses: MODE_UNAVAILABLE, TOKEN_OUT_OF_RANGE.
        """
        if self._known(tuple(tokens.tolist())):
            return tokens
        if not self._sanitizer.of_tokens:
            raise Refused(Refusal.MODE_UNAVAILABLE, TABLE_REMEDY)
        private = ~torch.isin(tokens, self._special)
        drawn = tokens.clone()
        drawn[private] = torch.from_numpy(self._sanitizer.ids(tokens[private].numpy()))
        return drawn

    def batch(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return a padded batch [batch, length] with every sequence as `through` has it."""
        allowed = input_ids.to(torch.int64, copy=True)
        present = torch.ones_like(allowed) if attention_mask is None else attention_mask
        for row, kept in zip(allowed, present.cpu() != 0, strict=True):
            row[kept] = self.through(row[kept])
        return allowed


def sanitizing(tokenizer: Any, sanitize: Callable[[str], str], mark: Callable[[Sequence[int]], None]) -> Any:
    """Return a copy of a tokenizer that sanitizes texts before it cuts them, and marks what comes out."""

    def clean(given: Any) -> Any:
        if isinstance(given, str):
            return sanitize(given)
        if isinstance(given, Sequence) and all(isinstance(text, str) for text in given):
            return [sanitize(text) for text in given]
        raise Refused(Refusal.MODE_UNAVAILABLE, "only a text, or a list of texts, can be sanitized")

    class Sanitizing(type(tokenizer)):  # type: ignore[misc]
        """A tokenizer of sanitized texts."""

        def __call__(self, text: Any = None, text_pair: Any = None, **options: Any) -> Any:
            """Return the tokens of sanitized texts. Refuses: MODE_UNAVAILABLE, PROMPT_MALFORMED."""
            refuse_others({name: options.get(name) for name in ("text_target", "text_pair_target")})
            made = super().__call__(clean(text), None if text_pair is None else clean(text_pair), **options)
            for row in _unpadded(made["input_ids"], made.get("attention_mask")):
                mark(row)
            return made

        def apply_chat_template(self, *given: Any, **options: Any) -> Any:
            """Refuse: a chat is sanitized turn by turn. Refuses: MODE_UNAVAILABLE."""
            raise Refused(Refusal.MODE_UNAVAILABLE, "a chat is sanitized turn by turn: use model.chat")

    wrapped = copy.copy(tokenizer)
    wrapped.__class__ = Sanitizing
    return wrapped


def _unpadded(ids: Any, masks: Any) -> Iterator[list[int]]:
    """Yield the tokens of each sequence that a tokenizer returned, as lists or as tensors."""
    rows, kept = (part.tolist() if hasattr(part, "tolist") else part for part in (ids, masks))
    if rows and not isinstance(rows[0], list):
        rows, kept = [rows], None if kept is None else [kept]
    for place, row in enumerate(rows):
        mask = [1] * len(row) if kept is None else kept[place]
        yield [token for token, present in zip(row, mask, strict=True) if present]
