"""Between text and tokens, with the tokenizer that `veil import` put beside the integer file."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from veil_spec.refusals import Refusal, Refused


def token_names(tokenizer: Any, count: int) -> list[str]:
    """Return the names of the first tokens; numbers without one get a name of their own [count]."""
    names = [tokenizer.convert_ids_to_tokens(number) for number in range(count)]
    return [f"<unused {number}>" if name is None else str(name) for number, name in enumerate(names)]


class Text:
    """A model directory's tokenizer."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            remedy = f"{folder} holds no tokenizer: make it with `veil import`"
            raise Refused(Refusal.MODEL_MALFORMED, remedy) from error

    @property
    def stop(self) -> set[int]:
        """Return the tokens that end a generation."""
        return {self._tokenizer.eos_token_id} - {None}

    def tokens(self, prompt: str, raw: bool = False) -> list[int]:
        """Return a prompt's tokens, in the model's chat template unless raw.

        Refuses: PROMPT_EMPTY, PROMPT_MALFORMED.
        """
        if not prompt.strip():
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt is empty: give some text")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused(Refusal.PROMPT_MALFORMED, "the prompt is not UTF-8 text") from error
        if raw or self._tokenizer.chat_template is None:
            return [int(token) for token in self._tokenizer(prompt)["input_ids"]]
        chat = [{"role": "user", "content": prompt}]
        encoded = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in encoded["input_ids"]]

    def plain_tokens(self, text: str) -> list[int]:
        """Return the tokens of a text as it stands: no template, and nothing in it is a special token."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [int(token) for token in encoded["input_ids"]]

    def joined(self, tokens: list[int]) -> str:
        """Return tokens as text, exactly as they stand."""
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    @property
    def size(self) -> int:
        """Return the number of tokens that the tokenizer can give, added ones included."""
        return len(self._tokenizer)

    @property
    def digest(self) -> str:
        """Return a hash of all that decides how a text is cut. Refuses: MODEL_UNSUPPORTED."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise Refused(Refusal.MODEL_UNSUPPORTED, "the tokenizer has no tokenizer.json: convert it first")
        return hashlib.sha256(backend.to_str().encode()).hexdigest()

    def vocabulary(self, count: int) -> list[str]:
        """Return the names of the first tokens [count]."""
        return token_names(self._tokenizer, count)

    def token(self, token: int) -> str:
        """Return one token as text."""
        return str(self._tokenizer.decode([token]))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield text as tokens arrive, never half a character."""
        seen: list[int] = []
        shown = ""
        for token in tokens:
            seen.append(token)
            text = str(self._tokenizer.decode(seen, skip_special_tokens=True))
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
