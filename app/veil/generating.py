"""`veil generate`, `classify` and `embed` from outside the enclave process: files in, answers out."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Final, cast

from veil.requests import Prompt, Reply, Request, TextsRequest, batches, prompt_of
from veil.service import Answered, Running
from veil_spec.refusals import Refusal, Refused

STANDARD_INPUT: Final = "-"


def _read(path: Path, option: str) -> str:
    """Return what a file or standard input holds. Refuses: PROMPT_MALFORMED."""
    try:
        data = sys.stdin.buffer.read() if str(path) == STANDARD_INPUT else path.read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(Refusal.PROMPT_MALFORMED, f"{option} {path} is not UTF-8 text") from error


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def prompts(argument: str | None, files: Sequence[Path], lines: Path | None) -> tuple[Prompt, ...]:
    """Return all prompts: the argument, one for each file, and one for each line of a file of prompts.

    Refuses: PROMPT_EMPTY, PROMPT_MALFORMED.
    """
    found: list[Prompt] = []
    if argument is not None:
        found.append(sys.stdin.read() if argument == STANDARD_INPUT else argument)
    found += [_read(path, "--prompt-file") for path in files]
    if lines is not None:
        found += _of_lines(lines)
    if not found:
        raise Refused(Refusal.PROMPT_EMPTY, "PROMPT is missing: give it, --prompt-file or --prompts")
    return tuple(found)


def _of_lines(path: Path) -> Iterator[Prompt]:
    """Yield the prompts of a file: of JSON lines if its first line is one, else one a line."""
    lines = _lines(_read(path, "--prompts"))
    stated = _prompt(lines[0]) is not None
    for number, line in enumerate(lines, 1):
        prompt = _prompt(line) if stated else line
        if prompt is None:
            remedy = 'is not {"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}]}'
            raise Refused(Refusal.PROMPT_MALFORMED, f"--prompts {path}: line {number} {remedy}")
        if not (prompt if not isinstance(prompt, str) else prompt.strip()):
            raise Refused(Refusal.PROMPT_EMPTY, f"--prompts {path}: line {number} is empty: give some text")
        yield prompt


def _prompt(line: str) -> Prompt | None:
    try:
        return prompt_of(json.loads(line))
    except (ValueError, RecursionError, Refused):
        return None


def texts(arguments: Sequence[str], path: Path | None) -> Iterator[str]:
    """Return the texts of a command line, in their order: arguments, then the lines of a file.

    Refuses: PROMPT_EMPTY.
    """
    if not arguments and path is None:
        raise Refused(Refusal.PROMPT_EMPTY, "TEXT is missing: give it, or --texts FILE")
    return chain(
        chain.from_iterable(_stream(Path(text)) if text == STANDARD_INPUT else [text] for text in arguments),
        () if path is None else _stream(path),
    )


def _stream(path: Path) -> Iterator[str]:
    """Yield the lines of a file as they are read. Refuses: PROMPT_MALFORMED."""
    if str(path) == STANDARD_INPUT:
        yield from _decoded(cast(IO[bytes], sys.stdin.buffer), path)
        return
    with path.open("rb") as file:
        yield from _decoded(file, path)


def _decoded(file: IO[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            said = f"--texts {path}: line {number} is not UTF-8 text"
            raise Refused(Refusal.PROMPT_MALFORMED, said) from error


def check_new(option: str, path: Path) -> None:
    """Refuse a file that exists already, or that has no folder. Refuses: MODE_UNAVAILABLE."""
    if path.exists():
        raise Refused(Refusal.MODE_UNAVAILABLE, f"{option} {path} exists already: name a new file")
    if not path.parent.is_dir():
        raise Refused(Refusal.MODE_UNAVAILABLE, f"{option} {path}: there is no folder {path.parent}")


class Told:
    """What a run says on standard error beside its answers: once what holds, and what was sanitized."""

    def __init__(self, mode: str, show: bool) -> None:
        self._mode, self._show, self._stated = mode, show, False

    def through(self, replies: Iterator[Reply], first: int = 0) -> Iterator[Reply]:
        """Yield the replies that are answers; `first` is the number of the request's first text."""
        for reply in replies:
            if "statement" in reply:
                self._state(reply["statement"])
            elif "sanitized" in reply:
                self._sanitized(reply, first)
            else:
                yield reply

    def _state(self, statement: str) -> None:
        if not self._stated:
            print(f"veil: {self._mode}: {statement}", file=sys.stderr)
        self._stated = True

    def _sanitized(self, reply: Reply, first: int) -> None:
        for message in reply["sanitized"] if self._show else ():
            number, text = reply["index"] + first + 1, message["content"]
            shown = json.dumps(text, ensure_ascii=False)
            print(f"veil: sanitized {number} {message['role']}: {shown}", file=sys.stderr)


def print_answers(enclave: Running, request: Request, told: Told) -> None:
    """Print the text of one prompt as it comes, or one JSON line for each sample of each prompt, in order."""
    replies = told.through(enclave.replies(request))
    if request.several:
        try:
            for line in _in_order(replies, len(request.prompts), request.drawing.samples):
                print(json.dumps(line), flush=True)
        except Answered as refused:
            place = "" if refused.index is None else f"prompt {refused.index + 1}: "
            raise Refused(refused.reason, place + refused.detail) from refused
        return
    for reply in replies:
        print(reply["piece"], end="", flush=True)
    print()


def _in_order(replies: Iterator[Reply], count: int, samples: int) -> Iterator[dict[str, object]]:
    """Yield what each sequence said, once all before it are whole."""
    texts: dict[tuple[int, int], str] = {}
    done: dict[tuple[int, int], dict[str, object]] = {}
    waiting = iter([(index, sample) for index in range(count) for sample in range(samples)])
    following = next(waiting)
    for reply in replies:
        place = reply["index"], reply["sample"]
        texts[place] = texts.get(place, "") + reply.get("piece", "")
        if "finish" in reply:
            about = {"prompt": place[0], "sample": place[1], "text": texts.pop(place)}
            done[place] = {**about, "tokens": reply["tokens"], "finish": reply["finish"]}
        while following in done:
            yield done.pop(following)
            following = next(waiting, (count, 0))


def _each(enclave: Running, task: str, listed: Iterator[str], at_once: int, told: Told) -> Iterator[Reply]:
    """Yield the reply to each text, in order. Refuses: what the enclave refuses, naming the text."""
    first = 0
    for batch in batches(listed, at_once):
        try:
            yield from told.through(enclave.replies(TextsRequest(task, tuple(batch))), first)
        except Answered as refused:
            place = "" if refused.index is None else f"text {first + refused.index + 1}: "
            raise Refused(refused.reason, place + refused.detail) from refused
        first += len(batch)


def print_labels(enclave: Running, listed: Iterator[str], at_once: int, told: Told) -> None:
    """Print one JSON line for each text: the label, and the scores of all labels."""
    for reply in _each(enclave, "classify", listed, at_once, told):
        print(json.dumps({"label": reply["label"], "scores": reply["scores"]}), flush=True)


def print_embeddings(
    enclave: Running, listed: Iterator[str], at_once: int, out: Path | None, told: Told
) -> None:
    """Print one JSON line for each text, or write a file, float64 [texts, width], whole or not at all."""
    found = (reply["embedding"] for reply in _each(enclave, "embed", listed, at_once, told))
    if out is None:
        for embedding in found:
            print(json.dumps({"embedding": embedding}), flush=True)
        return
    import numpy as np

    rows = np.array(list(found), dtype=np.float64)
    if not rows.size:
        raise Refused(Refusal.PROMPT_EMPTY, "there is no text to embed: give some lines")
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as file:
            np.save(file, rows)
        part.rename(out)
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote {out}: {rows.shape[0]} embeddings of width {rows.shape[1]}")
