"""What is asked of an enclave process, and what it answers: one JSON line each.

Nothing here loads torch: the process that asks starts in a tenth of a second.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypedDict

from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Sampling

DECIMAL: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{64}")
AT_ONCE: Final = constants.SEQUENCE_LIMIT
"""Sequences that run as one ragged batch, unless told otherwise: as many as a worker keeps in mode split."""
Named = Callable[[str], str]
"""Returns what a user calls an option."""


class Message(TypedDict):
    """One turn, as chats are written everywhere: who speaks, and what is said."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""A text of the user's, or a conversation."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are chosen: greedily, or drawn; `samples` texts of each prompt under one seed.

    Without a seed, each prompt gets one from the operating system. Masks never depend on it.
    """

    sampling: Sampling | None = None
    seed: bytes | None = None
    samples: int = 1


GREEDY: Final = Drawing()


@dataclass(frozen=True, slots=True)
class Request:
    """Prompts for an enclave process: one, or with `batch` several, of which at most `at_once` run together.

    In modes that sanitize, `conversation` names a conversation whose turns are drawn once.
    """

    prompt: Prompt
    new_tokens: int
    raw: bool = False
    batch: tuple[Prompt, ...] | None = None
    system: str | None = None
    stop: tuple[str, ...] = ()
    drawing: Drawing = GREEDY
    conversation: str | None = None
    at_once: int = AT_ONCE

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Return all prompts, in their order."""
        return (self.prompt,) if self.batch is None else self.batch

    @property
    def several(self) -> bool:
        """Return whether replies state which prompt and sample they belong to."""
        return self.batch is not None or self.drawing.samples > 1

    def line(self) -> str:
        """Return the request as one JSON line."""
        stated = _prompt_fields(self.prompt) if self.batch is None else {}
        if self.batch is not None:
            stated["batch"] = [_prompt_fields(prompt) for prompt in self.batch]
        stated |= {"new_tokens": self.new_tokens, "raw": self.raw, "stop": list(self.stop)}
        stated |= {"system": self.system, "conversation": self.conversation, "at_once": self.at_once}
        return json.dumps(stated | _drawing_fields(self.drawing)) + "\n"


@dataclass(frozen=True, slots=True)
class TextsRequest:
    """Texts for an encoder; `task` is classify or embed."""

    task: str
    texts: tuple[str, ...]

    def line(self) -> str:
        """Return the request as one JSON line."""
        return json.dumps({self.task: list(self.texts)}) + "\n"


class Reply(TypedDict, total=False):
    """One line from an enclave process.

    A piece of text, the end of a sequence, what was sanitized, a label, an embedding, a refusal, or the end.
    """

    piece: str
    index: int
    sample: int
    finish: str
    tokens: int
    sanitized: list[Message]
    statement: str
    label: str
    scores: dict[str, float]
    embedding: list[float]
    refusal: str
    detail: str
    done: bool
    not_private: bool


def _prompt_fields(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}


def _drawing_fields(drawing: Drawing) -> dict[str, Any]:
    if drawing.sampling is None:
        return {}
    chosen = drawing.sampling
    return {
        "temperature": str(chosen.temperature),
        "top_k": chosen.count,
        "top_p": str(chosen.share),
        "seed": None if drawing.seed is None else drawing.seed.hex(),
        "samples": drawing.samples,
    }


# Reading


def read(line: str) -> Request | TextsRequest:
    """Return what a line asks for. Refuses: FRAME_MALFORMED, SAMPLING_OUT_OF_RANGE."""
    try:
        stated = json.loads(line, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        remedy = 'a request is one JSON line such as {"prompt": "text", "new_tokens": 8}'
        raise Refused(Refusal.FRAME_MALFORMED, remedy)
    given = {name: value for name, value in stated.items() if value is not None}
    for task in ("classify", "embed"):
        if task in given:
            return TextsRequest(task, _texts(given, task))
    return _request(given)


def _malformed(name: str, what: str) -> Refused:
    return Refused(Refusal.FRAME_MALFORMED, f"{name} must be {what}")


def _texts(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = given[name]
    if set(given) != {name} or not _are_texts(texts) or not texts:
        raise _malformed(name, "a list of texts, and alone in its request")
    return tuple(texts)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


OPTIONS: Final = frozenset(
    {"prompt", "messages", "batch", "new_tokens", "raw", "system", "stop", "conversation", "at_once"}
    | {"temperature", "top_k", "top_p", "seed", "samples"}
)
"""The fields of a request for text."""


def _request(given: Mapping[str, Any]) -> Request:
    unknown = sorted(set(given) - OPTIONS)
    if unknown:
        raise Refused(Refusal.FRAME_MALFORMED, f"a request has no field {unknown[0][:40]!r}")
    if sum(name in given for name in ("prompt", "messages", "batch")) != 1:
        raise _malformed("a request", "one of prompt, messages, batch, classify and embed")
    batch = given.get("batch")
    if batch is not None and not (isinstance(batch, list) and batch):
        raise _malformed("batch", "a list of prompts")
    stop, raw = given.get("stop", []), given.get("raw", False)
    if not (_are_texts(stop) and all(stop)):
        raise _malformed("stop", "a list of texts that are not empty")
    if not isinstance(raw, bool):
        raise _malformed("raw", "true or false")
    texts = {name: given.get(name) for name in ("system", "conversation")}
    for name, text in texts.items():
        if not (text is None or isinstance(text, str)):
            raise _malformed(name, "text")
    return Request(
        "" if batch is not None else prompt_of(given),
        whole(given.get("new_tokens"), "new_tokens"),
        raw,
        None if batch is None else tuple(prompt_of(each) for each in batch),
        texts["system"],
        tuple(stop),
        drawing(given, str),
        texts["conversation"],
        whole(given.get("at_once", AT_ONCE), "at_once"),
    )


def whole(value: object, name: str) -> int:
    """Return a whole number of at least 1. Refuses: FRAME_MALFORMED."""
    if type(value) is not int or value < 1:
        raise _malformed(name, "a whole number of at least 1")
    return value


def prompt_of(stated: object) -> Prompt:
    """Return the prompt of an object with either prompt or messages. Refuses: FRAME_MALFORMED."""
    if isinstance(stated, dict) and isinstance(stated.get("prompt"), str) and "messages" not in stated:
        return str(stated["prompt"])
    turns = stated.get("messages") if isinstance(stated, dict) else None
    if not (isinstance(turns, list) and turns and all(map(_is_message, turns))):
        raise Refused(
            Refusal.FRAME_MALFORMED,
            'a prompt is {"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}]}',
        )
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)


def _is_message(turn: object) -> bool:
    """Return whether this is a turn with a role and text, and nothing else."""
    if not (isinstance(turn, dict) and set(turn) == {"role", "content"}):
        return False
    return all(isinstance(value, str) for value in turn.values())


def drawing(given: Mapping[str, Any], named: Named) -> Drawing:
    """Return how tokens are chosen; without a temperature, or at 0, greedily.

    Refuses: SAMPLING_OUT_OF_RANGE.
    """
    chosen = {
        name: given[name] for name in ("top_k", "top_p", "seed", "samples") if given.get(name) is not None
    }
    temperature = _decimal(given.get("temperature", "0"), "temperature", named)
    if temperature == 0:
        meaningless = [name for name, value in chosen.items() if (name, value) != ("samples", 1)]
        if meaningless:
            remedy = f"means nothing without {named('temperature')}: add {named('temperature')} 1"
            raise _out_of_range(f"{named(meaningless[0])} {remedy}")
        return GREEDY
    with _naming(temperature, chosen, named):
        share = _decimal(chosen.get("top_p", "1"), "top_p", named)
        sampling = Sampling(temperature, chosen.get("top_k"), share)
    samples = chosen.get("samples", 1)
    if type(samples) is not int or not 1 <= samples <= 2**16:
        raise _out_of_range(f"{named('samples')} must be a whole number from 1 to 65536")
    seed = chosen.get("seed")
    return Drawing(sampling, None if seed is None else seed_of(seed, named("seed")), samples)


@contextmanager
def _naming(temperature: Fraction, chosen: Mapping[str, object], named: Named) -> Iterator[None]:
    """Let a refusal of a sampling say which option it is about, as the user calls it."""
    try:
        yield
    except Refused as refused:
        detail = refused.detail
        for name in ("temperature", "top_k", "top_p"):
            detail = re.sub(rf"^{name}\b", named(name), detail)
        raise Refused(refused.reason, detail) from refused


def _out_of_range(detail: str) -> Refused:
    return Refused(Refusal.SAMPLING_OUT_OF_RANGE, detail)


def _decimal(value: object, name: str, named: Named) -> Fraction:
    text = str(value) if type(value) in (int, str) else ""
    ratio = re.fullmatch(r"[0-9]{1,40}(?:/[0-9]{1,40})?", text)
    if not (DECIMAL.fullmatch(text) or ratio):
        raise _out_of_range(f"{named(name)} must be a number such as 0.8")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise _out_of_range(f"{named(name)} must be a number such as 0.8") from None


def seed_of(value: object, name: str) -> bytes:
    """Return the 32 bytes of a seed: 64 hexadecimal digits, or a whole number. Refuses: SEED_LENGTH."""
    if isinstance(value, str) and HEXADECIMAL.fullmatch(value):
        return bytes.fromhex(value)
    text = str(value) if type(value) in (int, str) else ""
    if re.fullmatch(r"[0-9]{1,78}", text) and int(text) < 2 ** (8 * constants.SEED_BYTES):
        return int(text).to_bytes(constants.SEED_BYTES, "big")
    raise Refused(Refusal.SEED_LENGTH, f"{name} must be 64 hexadecimal digits or a whole number")


def batches(texts: Iterator[str], count: int) -> Iterator[Sequence[str]]:
    """Yield texts in lists of at most `count`, reading no further than that."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == count:
            yield held
            held = []
    if held:
        yield held
