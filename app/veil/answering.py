"""Inside an enclave process: requests in, text, labels or embeddings out, all in one epoch."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import IO, Final

import torch

from veil.engines import Opened, Turns, VeilConfig, open_engine
from veil.requests import Message, Prompt, Reply, Request, TextsRequest, read
from veil.service import Settings
from veil.text import Answer, Text, Turn
from veil_optimized import plaintext
from veil_optimized.dealer import Contact
from veil_optimized.encoder import sentence
from veil_optimized.generate import Choose, Drawn, Step, batch_steps, most_likely
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused

OPTIONS: Final = {"m_over_d": "--m-over-d", "the commitment": "--commitment"}
"""What VeilConfig says, and what the command line calls it."""


def serve(
    settings: Settings,
    worker: str | None,
    requests: IO[str],
    replies: IO[str],
    dealer: Contact | None = None,
) -> None:
    """Answer each request line with reply lines, all in one epoch, until the requests end."""
    text, config = Text(settings.integer_file.parent), _config(settings, worker)
    with _recording(settings) as record, _opened(settings, config, dealer, record) as opened:
        service = Service(opened, text, record)
        for line in requests:
            for reply in service.replies(line):
                print(json.dumps(reply), file=replies, flush=True)
            if opened.ended:
                return


def _config(settings: Settings, worker: str | None) -> VeilConfig:
    return VeilConfig(
        mode=settings.mode,
        profile=settings.profile,
        m_over_d=settings.m_over_d,
        worker=worker,
        table=settings.table,
        epsilon=settings.epsilon,
        transcript=settings.transcript,
        commitment=settings.commitment,
    )


@contextmanager
def _recording(settings: Settings) -> Iterator[plaintext.Writer | None]:
    """Yield the plaintext record of a test run; of an epoch that does not open, no record stays."""
    if settings.plaintext is None:
        yield None
        return
    with plaintext.Writer(settings.plaintext) as record:
        yield record


@contextmanager
def _opened(
    settings: Settings, config: VeilConfig, dealer: Contact | None, record: plaintext.Writer | None
) -> Iterator[Opened]:
    """Yield the open engine; refusals name options as the command line does."""
    opened = False
    try:
        witness = None if record is None else record.witness
        with open_engine(settings.model, config, dealer, witness) as engine:
            opened = True
            yield engine
    except Refused as refused:
        if opened:
            raise
        raise Refused(refused.reason, _as_options(refused.detail)) from refused
    finally:
        if record is not None and not opened and settings.plaintext is not None:
            record.close()
            settings.plaintext.unlink(missing_ok=True)


def _as_options(detail: str) -> str:
    for said, option in OPTIONS.items():
        detail = detail.replace(said, option)
    return detail


class At(Refused):
    """A refusal of one prompt or text among several: `index` is its place."""

    def __init__(self, refused: Refused, index: int) -> None:
        super().__init__(refused.reason, refused.detail)
        self.index = index


@contextmanager
def _placing(index: int) -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        raise At(refused, index) from refused


class Service:
    """Answers requests with one open engine; conversations in modes that sanitize are remembered."""

    def __init__(self, opened: Opened, text: Text, record: plaintext.Writer | None = None) -> None:
        self._opened, self._text, self._record = opened, text, record
        self._sanitized = opened.config.sanitized
        self._conversations: dict[str, Turns] = {}

    def replies(self, line: str) -> Iterator[Reply]:
        """Yield the replies to one line; a refusal is one of them."""
        try:
            request = read(line)
            if isinstance(request, Request):
                yield from self._generated(request)
            else:
                yield from self._encoded(request)
            yield {"done": True, "not_private": not self._opened.private}
        except At as refused:
            yield {"refusal": str(refused.reason), "detail": refused.detail, "index": refused.index}
        except Refused as refused:
            yield {"refusal": str(refused.reason), "detail": refused.detail}

    # Text from a decoder

    def _generated(self, request: Request) -> Iterator[Reply]:
        engine = self._opened.decoder()
        if request.conversation is not None and request.several:
            remedy = "a conversation has one prompt and one sample: leave batch and samples out"
            raise Refused(Refusal.FRAME_MALFORMED, remedy)
        if self._sanitized:
            yield {"statement": self._statement()}
        rows: list[list[int]] = []
        for index, prompt in enumerate(request.prompts):
            with _placing(index) if request.several else nullcontext():
                turns = self._turns(prompt, request)
                if self._sanitized:
                    shown = [Message(role=turn.role, content=turn.content) for turn in turns]
                    yield {"index": index, "sanitized": shown}
                rows.append(self._text.raw(turns[0].content) if request.raw else self._text.chat(turns))
        places = [(index, sample) for index in range(len(rows)) for sample in range(request.drawing.samples)]
        choices = _choices(request, len(rows))
        for first in range(0, len(places), request.at_once):
            chunk = places[first : first + request.at_once]
            prompts = [rows[index] for index, _ in chunk]
            if len(chunk) == 1:
                self._opened.mint_ahead(prompts[0], request.new_tokens)
            answers = [Answer(self._text.shown, self._text.stop, request.stop) for _ in chunk]
            made = batch_steps(
                engine,
                prompts,
                request.new_tokens,
                lambda place, token, answers=answers: answers[place].stopped,  # type: ignore[misc]
                [choices[place] for place in chunk],
            )
            steps = made if self._record is None else _recorded(self._record, prompts, made)
            yield from self._said(request, chunk, answers, steps)

    def _said(
        self,
        request: Request,
        chunk: Sequence[tuple[int, int]],
        answers: Sequence[Answer],
        steps: Iterator[Mapping[int, Step]],
    ) -> Iterator[Reply]:
        """Yield the text of a batch as it comes, and the end of each sequence."""
        whole = ""
        for made in steps:
            for place, step in made.items():
                answer = answers[place]
                piece = answer.add(step.token)
                ended = answer.stopped or answer.count == request.new_tokens
                piece += answer.end() if ended else ""
                whole += piece
                index, sample = chunk[place]
                about: Reply = {"index": index, "sample": sample} if request.several else {}
                if piece:
                    yield {**about, "piece": piece}
                if ended and request.several:
                    reason = "stop" if answer.stopped else "length"
                    yield {**about, "finish": reason, "tokens": answer.count}
        if request.conversation is not None and self._sanitized:
            self._conversations[request.conversation].answered(whole)

    def _turns(self, prompt: Prompt, request: Request) -> list[Turn]:
        """Return the turns of a prompt as they are sent, sanitized where the mode asks for it.

        Refuses: PROMPT_EMPTY, PROMPT_MALFORMED.
        """
        if isinstance(prompt, str):
            turns = [Turn("user", prompt)]
        else:
            turns = [Turn(message["role"], message["content"]) for message in prompt]
        for turn in turns:
            turn.checked()
        if request.raw and (not isinstance(prompt, str) or request.system is not None):
            raise Refused(Refusal.PROMPT_MALFORMED, "raw takes one text: leave turns and system out")
        if request.system is not None:
            if turns[0].role == "system":
                remedy = "the conversation has a system turn already: leave system out"
                raise Refused(Refusal.PROMPT_MALFORMED, remedy)
            turns.insert(0, Turn("system", request.system).checked())
        if not self._sanitized:
            return turns
        said = sum(turn.role != "system" for turn in turns)
        sent = self._memory(request, said).sent([turn.content for turn in turns])
        return [Turn(turn.role, content) for turn, content in zip(turns, sent, strict=True)]

    def _memory(self, request: Request, said: int) -> Turns:
        """Return what was sent of a conversation; one of several turns has to have a name.

        Refuses: PROMPT_MALFORMED.
        """
        if request.conversation is None:
            if said > 1:
                remedy = "name the conversation, so that earlier turns are sent again as they were"
                raise Refused(Refusal.PROMPT_MALFORMED, f"several turns are sanitized once each: {remedy}")
            return self._opened.turns()
        return self._conversations.setdefault(request.conversation, self._opened.turns())

    def _statement(self) -> str:
        """Return what holds of a run that sanitizes, in one line."""
        sanitizer = self._opened.sanitizer
        if sanitizer is None:
            raise Refused(Refusal.MODE_UNAVAILABLE, "there is no sanitizer")
        file, level = sanitizer.pipeline.sanitizer.file, sanitizer.pipeline.level
        epsilon, kept = file.statement.epsilon[level - 1], int((file.sizes == 1).sum())
        drawn = f"each {file.statement.entries[:-1]} is drawn under epsilon {epsilon}"
        drawn += f", but for {kept} of the {len(file.entries)} entries, which stay as they are"
        table = f"table {file.digest[:19]}"
        if self._opened.config.mode == "split":
            seen = "the worker sees the sanitized tokens, those of the chat template and the response"
        else:
            seen = (
                "the worker sees no tokens; should a mask fail, it would see sanitized ones and the response"
            )
        return f"{drawn} ({table}); {seen}; token counts and timing are visible"

    # Labels and embeddings from an encoder

    def _encoded(self, request: TextsRequest) -> Iterator[Reply]:
        tokens, types = [], []
        if self._sanitized:
            yield {"statement": self._statement()}
        for index, text in enumerate(request.texts):
            with _placing(index):
                sent = Turn("user", text).checked().content
                if self._sanitized:
                    sent = self._opened.sanitize(sent)
                    yield {"index": index, "sanitized": [Message(role="user", content=sent)]}
                sequence = self._text.sequence(sent)
                self._check(sequence[0])
            tokens.append(sequence[0])
            types.append(sequence[1])
        if request.task == "classify":
            yield from self._labelled(self._opened.labels(tokens, types))
        else:
            for index, stream in enumerate(self._opened.encoder().streams(tokens, types)):
                words = sentence(stream).tolist()
                embedding = [word / 2**constants.RESIDUAL_FRACTION for word in words]
                yield {"index": index, "embedding": embedding}

    def _check(self, tokens: Sequence[int]) -> None:
        context = self._opened.model.shape.context
        if len(tokens) > context:
            remedy = f"{len(tokens)} tokens exceed the model's context of {context}: shorten the text"
            raise Refused(Refusal.CONTEXT_EXCEEDED, remedy)

    def _labelled(self, logits: torch.Tensor) -> Iterator[Reply]:
        """Yield the label and scores of each row of logits; the label is the lowest index of the largest."""
        names, many = self._text.labels, self._text.many_labels or logits.shape[1] == 1
        for index, row in enumerate(logits.tolist()):
            labels = [names.get(number, f"LABEL_{number}") for number in range(len(row))]
            shown = dict(zip(labels, _scores(row, many), strict=True))
            yield {"index": index, "label": labels[row.index(max(row))], "scores": shown}


def _scores(row: Sequence[int], many: bool) -> list[float]:
    """Return what is shown of a row of logits with 18 fractional bits: probabilities, of each or of one."""
    unit = 2.0**constants.HIDDEN_FRACTION
    if many:
        return [0.5 + 0.5 * math.tanh(word / unit / 2) for word in row]
    parts = [math.exp((word - max(row)) / unit) for word in row]
    return [part / sum(parts) for part in parts]


def _choices(request: Request, prompts: int) -> dict[tuple[int, int], Choose]:
    """Return how the tokens of each sample of each prompt are chosen."""
    drawing = request.drawing
    places = [(index, sample) for index in range(prompts) for sample in range(drawing.samples)]
    if drawing.sampling is None:
        return dict.fromkeys(places, most_likely)
    if drawing.seed is not None:
        tapes = [SeededTape(drawing.seed)] * prompts
    else:
        tapes = [SeededTape(os.urandom(constants.SEED_BYTES)) for _ in range(prompts)]
    return {place: Drawn(drawing.sampling, tapes[place[0]], place[1]) for place in places}


def _recorded(
    record: plaintext.Writer, prompts: Sequence[Sequence[int]], steps: Iterator[Mapping[int, Step]]
) -> Iterator[Mapping[int, Step]]:
    """Yield steps; record prompts, and each token once the model has taken it in, in the rows' order."""
    fed: dict[int, Sequence[int]] = dict(enumerate(prompts))
    for made in steps:
        record.tokens([token for place in made for token in fed[place]])
        fed = {place: [step.token] for place, step in made.items()}
        yield made
