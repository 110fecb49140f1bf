"""Between text and tokens, with the tokenizer that `veil import` put beside the integer file."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from veil_spec.refusals import Refusal, Refused

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
"""What stands for bytes that are no character, or not yet one."""
ROLES: Final = ("system", "user", "assistant")
SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names under which a chat template may ask for special tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str

    def checked(self) -> "Turn":
        """Return the turn. Refuses: PROMPT_EMPTY, PROMPT_MALFORMED."""
        if self.role not in ROLES:
            raise Refused(Refusal.PROMPT_MALFORMED, f"a turn's role is one of {', '.join(ROLES)}")
        if self.role == "user" and not self.content.strip():
            raise Refused(Refusal.PROMPT_EMPTY, "the prompt is empty: give some text")
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused(Refusal.PROMPT_MALFORMED, "the prompt is not UTF-8 text") from error
        return self


def token_names(tokenizer: Any, count: int) -> list[str]:
    """Return the names of the first tokens; numbers without one get a name of their own [count]."""
    return _named(tokenizer.convert_ids_to_tokens, count)


def _named(name_of: Callable[[int], object], count: int) -> list[str]:
    names = [name_of(number) for number in range(count)]
    return [f"<unused {number}>" if name is None else str(name) for number, name in enumerate(names)]


def _stated(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, empty where there is none. Refuses: MODEL_MALFORMED."""
    try:
        stated = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        raise Refused(Refusal.MODEL_MALFORMED, f"{path} is not a JSON object: import the model again")
    return stated


def _content(token: object) -> str | None:
    """Return the text of a special token, as configurations state it: text, or an object with it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _numbers(value: object) -> set[int]:
    listed = value if isinstance(value, list) else [value]
    return {number for number in listed if type(number) is int}


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the text of the chat template, if the model has one."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text("utf-8")
    found = config.get("chat_template") or _stated(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


class Text:
    """A model directory's tokenizer. Refuses: MODEL_MALFORMED."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            remedy = f"{folder} holds no tokenizer: make it with `veil import`"
            raise Refused(Refusal.MODEL_MALFORMED, remedy) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _stated(folder / "tokenizer_config.json")
        self._special = {name: text for name in SPECIAL if (text := _content(config.get(name))) is not None}
        self._chat, self._folder = _template(folder, config), folder

    @property
    def stop(self) -> set[int]:
        """Return the tokens that end a generation: the tokenizer's and those of the configuration."""
        configured = _stated(self._folder / "generation_config.json") or _stated(self._folder / "config.json")
        own = self._special.get("eos_token")
        number = None if own is None else self._tokenizer.token_to_id(own)
        return _numbers(configured.get("eos_token_id")) | _numbers(number)

    @property
    def labels(self) -> dict[int, str]:
        """Return the names of a classifier's labels, as far as the configuration states them."""
        stated = _stated(self._folder / "config.json").get("id2label")
        listed = stated.items() if isinstance(stated, dict) else ()
        return {int(number): str(name) for number, name in listed if str(number).isdecimal()}

    @property
    def many_labels(self) -> bool:
        """Return whether a text may have several labels."""
        return _stated(self._folder / "config.json").get("problem_type") == "multi_label_classification"

    def tokens(self, prompt: str, raw: bool = False) -> list[int]:
        """Return a prompt's tokens, in the model's chat template unless raw.

        Refuses: PROMPT_EMPTY, PROMPT_MALFORMED.
        """
        turn = Turn("user", prompt).checked()
        return self.raw(prompt) if raw else self.chat([turn])

    def raw(self, text: str) -> list[int]:
        """Return the tokens of a text without a template, with those that the tokenizer puts around it."""
        return self._encoded(text)

    def chat(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens of a conversation that the model is to continue, in its chat template.

        A single prompt of the user needs no template. Refuses: PROMPT_MALFORMED.
        """
        if self._chat is not None:
            from veil.chat import render

            messages = [asdict(turn) for turn in turns]
            return self._encoded(render(self._chat, messages, self._special), special=False)
        if len(turns) > 1 or turns[0].role != "user":
            remedy = "the model has no chat template: give one prompt, without turns and system text"
            raise Refused(Refusal.PROMPT_MALFORMED, remedy)
        return self._encoded(turns[0].content)

    def _encoded(self, text: str, special: bool = True) -> list[int]:
        """Return tokens; with `special`, also those that the tokenizer puts around every text."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def sequence(self, text: str) -> tuple[list[int], list[int]]:
        """Return a text's tokens with those around it, and the type of each."""
        encoded = self._tokenizer.encode(text)
        return list(encoded.ids), list(encoded.type_ids)

    def plain_tokens(self, text: str) -> list[int]:
        """Return the tokens of a text as it stands: no template, and nothing in it is a special token."""
        self._tokenizer.encode_special_tokens = True
        try:
            return self._encoded(text, special=False)
        finally:
            self._tokenizer.encode_special_tokens = False

    def joined(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, exactly as they stand."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    @property
    def size(self) -> int:
        """Return the number of tokens that the tokenizer can give, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def digest(self) -> str:
        """Return a hash of all that decides how a text is cut."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def vocabulary(self, count: int) -> list[str]:
        """Return the names of the first tokens [count]."""
        return _named(self._tokenizer.id_to_token, count)

    def token(self, token: int) -> str:
        """Return one token as text."""
        return self.joined([token])

    def shown(self, tokens: Sequence[int]) -> str:
        """Return tokens as text without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield text as tokens arrive, never half a character; stop tokens have no text."""
        answer = Answer(self.shown, self.stop)
        for token in tokens:
            if piece := answer.add(token):
                yield piece
        if piece := answer.end():
            yield piece


class Characters:
    """The text of tokens as they come, in whole characters.

    Only the tokens since the last whole character are decoded, behind those before it, on whose presence
    spaces depend.
    """

    def __init__(self, shown: Callable[[Sequence[int]], str]) -> None:
        self._shown = shown
        self._tokens: list[int] = []
        self._said = 0
        """How many tokens, from the beginning of the list, were text already."""

    def add(self, token: int) -> str:
        """Return the text that a token completes; held back while its last character may be half of one."""
        self._tokens.append(token)
        fresh = self._fresh()
        if not fresh or fresh.endswith(REPLACEMENT):
            return ""
        self._tokens = self._tokens[self._said :]
        self._said = len(self._tokens)
        return fresh

    def _fresh(self) -> str:
        return self._shown(self._tokens)[len(self._shown(self._tokens[: self._said])) :]

    def end(self) -> str:
        """Return what was held back, without half a character at the end."""
        return self._fresh().rstrip(REPLACEMENT)


class StopStrings:
    """Lets text through up to the first stop string to be complete, wherever pieces of text begin and end."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings, self._held = strings, ""
        self.found = False

    def add(self, piece: str) -> str:
        """Return the text that no stop string can begin in any more."""
        text, self._held = self._held + piece, ""
        ends = [(at + len(stop), at) for stop in self._strings if (at := text.find(stop)) >= 0]
        if ends:
            self.found = True
            return text[: min(ends)[1]]
        kept = max((_overlap(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return what was held back."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest beginning of a stop string that the text ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class Answer:
    """One sequence's text as its tokens come; `stopped` says that it has met a stop token or stop string."""

    def __init__(
        self,
        shown: Callable[[Sequence[int]], str],
        stop_tokens: Iterable[int] = (),
        stop_strings: Sequence[str] = (),
    ) -> None:
        self._characters, self._strings = Characters(shown), StopStrings(stop_strings)
        self._stop = frozenset(stop_tokens)
        self.stopped, self.count = False, 0

    def add(self, token: int) -> str:
        """Return the text that a token lets through."""
        self.count += 1
        if token in self._stop:
            self.stopped = True
            return ""
        return self._through(self._characters.add(token))

    def _through(self, piece: str) -> str:
        text = self._strings.add(piece)
        self.stopped = self.stopped or self._strings.found
        return text

    def end(self) -> str:
        """Return what is left once no token follows: nothing behind a stop string."""
        if self._strings.found:
            return ""
        return self._through(self._characters.end()) + self._strings.end()
