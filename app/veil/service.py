"""The enclave as a process: prompts in, tokens out, as JSON lines between it and the one that started it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, Final, TypedDict

from veil.importer import INTEGER_FILE
from veil.text import Text
from veil_optimized import integrity, plaintext
from veil_optimized.dealer import Contact, line_of
from veil_optimized.enclave import Enclave, epoch
from veil_optimized.generate import steps
from veil_optimized.model import Decoder, Model, load, plain_products
from veil_optimized.profiles import Masking
from veil_spec.refusals import Refusal, Refused

STOP_S: Final = 30.0
"""Seconds for an enclave process to end by itself."""
MINTED_AHEAD: Final = 32
"""Steps whose pads are minted at once: one pass over the weights serves them all."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an enclave process is told at its start; nothing in it is secret."""

    model: Path
    mode: str
    profile: str
    m_over_d: Fraction | None
    transcript: Path | None
    dealer: str | None = None
    plaintext: Path | None = None
    commitment: str | None = None

    @property
    def integer_file(self) -> Path:
        """Return the integer file. Refuses: MODEL_MALFORMED."""
        path = self.model / INTEGER_FILE
        if not path.is_file():
            remedy = (
                f"--model {self.model} has no {INTEGER_FILE}: make it with `veil import SOURCE --out DIR`"
            )
            raise Refused(Refusal.MODEL_MALFORMED, remedy)
        return path

    @property
    def private(self) -> bool:
        """Return whether a guarantee of the specification covers what these settings run."""
        return self.mode == "masked" and self.masking.private and self.plaintext is None

    @property
    def masking(self) -> Masking:
        """Return how an epoch masks. Refuses: RANK_OUT_OF_RANGE."""
        return Masking(self.profile, self.m_over_d)

    def arguments(self) -> list[str]:
        """Return the command-line options that mean these settings."""
        given = ["--model", str(self.model), "--mode", self.mode, "--profile", self.profile]
        given += ["--m-over-d", str(self.m_over_d)] if self.m_over_d is not None else []
        if self.dealer is not None:
            given += ["--minter", "dealer", "--dealer", self.dealer, "--identity", "-"]
        given += ["--plaintext", str(self.plaintext)] if self.plaintext else []
        given += ["--commitment", self.commitment] if self.commitment else []
        return given + (["--transcript", str(self.transcript)] if self.transcript else [])


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for an enclave process."""

    prompt: str
    new_tokens: int
    raw: bool = False


class Reply(TypedDict, total=False):
    """One line from an enclave process: a piece of text, a refusal, or the end."""

    piece: str
    refusal: str
    detail: str
    done: bool
    not_private: bool


def _request(line: str) -> Request:
    try:
        stated = json.loads(line)
        prompt, count, raw = stated["prompt"], stated["new_tokens"], stated.get("raw", False)
        if not (isinstance(prompt, str) and type(count) is int and count >= 1 and isinstance(raw, bool)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = 'a request is one JSON line such as {"prompt": "text", "new_tokens": 8}'
        raise Refused(Refusal.FRAME_MALFORMED, remedy) from error
    return Request(prompt, count, raw)


@contextmanager
def _enclave(
    settings: Settings,
    model: Model,
    worker: str | None,
    dealer: Contact | None,
    record: plaintext.Writer | None = None,
) -> Iterator[Enclave | None]:
    if settings.mode == "plain":
        yield None
        return
    if worker is None:
        raise Refused(Refusal.WORKER_LOST, f"--mode {settings.mode} needs --worker HOST:PORT")
    opened = False
    try:
        witness = None if record is None else record.witness
        given = (model, worker, settings.masking, settings.transcript)
        with epoch(*given, dealer=dealer, witness=witness) as enclave:
            opened = True
            yield enclave
    finally:
        for path in (settings.transcript, settings.plaintext):
            if path is not None and not opened:
                path.unlink(missing_ok=True)


def _answer(
    model: Model,
    text: Text,
    enclave: Enclave | None,
    request: Request,
    record: plaintext.Writer | None = None,
) -> Iterator[Reply]:
    prompt = text.tokens(request.prompt, request.raw)
    decoder = Decoder(model, plain_products if enclave is None else enclave.products)
    if enclave is not None:
        enclave.mint_ahead(enclave.next_step + 1, min(request.new_tokens - 1, MINTED_AHEAD))
    made = (step.token for step in steps(decoder, prompt, request.new_tokens, text.stop))
    for piece in text.pieces(made if record is None else _recorded(record, prompt, made)):
        yield {"piece": piece}
    yield {"done": True, "not_private": enclave is None or not enclave.private}


def _recorded(record: plaintext.Writer, prompt: list[int], made: Iterator[int]) -> Iterator[int]:
    """Yield tokens; record the prompt, and each token once the model has taken it in."""
    fed = prompt
    for token in made:
        record.tokens(fed)
        fed = [token]
        yield token


def serve(
    settings: Settings,
    worker: str | None,
    requests: IO[str],
    replies: IO[str],
    dealer: Contact | None = None,
) -> None:
    """Answer each request line with reply lines, all in one epoch, until the requests end."""
    model, text = load(settings.integer_file), Text(settings.model)
    _check_commitment(model, settings.commitment)
    _check_rank(model, settings.m_over_d)
    writing = nullcontext() if settings.plaintext is None else plaintext.Writer(settings.plaintext)
    with writing as record, _enclave(settings, model, worker, dealer, record) as enclave:
        for line in requests:
            for reply in _guarded(model, text, enclave, line, record):
                print(json.dumps(reply), file=replies, flush=True)
            if enclave is not None and enclave.channel.ended:
                return


def _check_commitment(model: Model, expected: str | None) -> None:
    """Refuse weights that are not the expected ones. Refuses: MODEL_MISMATCH."""
    if expected is not None and integrity.commitment(model.groups).hex() != expected.lower():
        remedy = "--commitment is not that of the model's weights: get the file that it was made for"
        raise Refused(Refusal.MODEL_MISMATCH, remedy)


def _check_rank(model: Model, ratio: Fraction | None) -> None:
    narrowest = min(group.weights.shape[1] for group in model.groups)
    if ratio is not None and ratio * narrowest < 1:
        remedy = f"--m-over-d {ratio} leaves no row for a layer of width {narrowest}: choose a larger one"
        raise Refused(Refusal.RANK_OUT_OF_RANGE, remedy)


def _guarded(
    model: Model, text: Text, enclave: Enclave | None, line: str, record: plaintext.Writer | None = None
) -> Iterator[Reply]:
    try:
        yield from _answer(model, text, enclave, _request(line), record)
    except Refused as refused:
        yield {"refusal": str(refused.reason), "detail": refused.detail}


def _as_said(errors: str) -> Refused:
    """Return the refusal of an enclave process that ended, from its last line of errors."""
    said = re.search(r"^veil: (.*?)(?: \(([A-Z_]+)\))?$", errors.strip().rpartition("\n")[2])
    if said is None:
        return Refused(Refusal.WORKER_LOST, "the enclave process ended early")
    return Refused(Refusal(said[2] or Refusal.WORKER_LOST), said[1])


class Running:
    """An enclave process that this process started."""

    def __init__(self, requests: IO[str], replies: IO[str], errors: IO[str]) -> None:
        self._requests, self._replies, self._errors = requests, replies, errors

    def ask(self, request: Request) -> Iterator[str]:
        """Yield the answer's text as it comes. Refuses: whatever the enclave refused."""
        line = json.dumps(asdict(request)) + "\n"
        with suppress(BrokenPipeError):
            self._requests.write(line)
            self._requests.flush()
        for answer in self._replies:
            reply: Reply = json.loads(answer)
            if "refusal" in reply:
                raise Refused(Refusal(reply["refusal"]), reply["detail"])
            if "done" in reply:
                return
            yield reply["piece"]
        raise _as_said(self._errors.read())


@contextmanager
def start_enclave(settings: Settings, worker: str | None, dealer: Contact | None = None) -> Iterator[Running]:
    """Yield an enclave process that ends with the block; its key for a dealer is the first line of input."""
    settings = settings if dealer is None else replace(settings, dealer=dealer.address)
    command = [sys.executable, "-P", "-m", "veil.main", "enclave", *settings.arguments()]
    command += ["--worker", worker] if worker else []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("a pipe is missing")
        if dealer is not None:
            with suppress(BrokenPipeError):
                print(line_of(dealer.credentials), file=process.stdin, flush=True)
        try:
            yield Running(process.stdin, process.stdout, process.stderr)
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
