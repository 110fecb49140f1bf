"""What runs a model under a mode: settings, engines, and the sanitizer in front of them."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from veil_optimized import integrity
from veil_optimized.allocator import keep_freed
from veil_optimized.decoder import Decoder
from veil_optimized.enclave import Enclave, Witness, epoch
from veil_optimized.encoder import Encoder
from veil_optimized.generate import Engine, steps_of
from veil_optimized.launching import start_worker
from veil_optimized.model import Model, Products, Together, load, plain_products
from veil_optimized.profiles import Masking
from veil_optimized.tape import SeededTape
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE, Precision
from veil_spec.refusals import Refusal, Refused

if TYPE_CHECKING:
    from veil.sanitizing import Ids
    from veil_optimized.dealer import Contact

MODES: Final = ("masked", "plain", "split", "both")
SANITIZED: Final = ("split", "both")


def _unavailable(detail: str) -> Refused:
    return Refused(Refusal.MODE_UNAVAILABLE, detail)


def _ratio(given: Fraction | str | None) -> Fraction | None:
    if given is None:
        return None
    with suppress(ValueError, ZeroDivisionError, TypeError):
        ratio = given if isinstance(given, Fraction) else Fraction(given)
        if 0 < ratio < 1:
            return ratio
    raise Refused(Refusal.RANK_OUT_OF_RANGE, "m_over_d must be a fraction between 0 and 1, such as 1/2")


@dataclass(frozen=True)
class VeilConfig:
    """How a model is run; nothing in it is secret, and what does not fit together is refused at once.

    `mode` is masked, plain, split or both; `precision` is w16a16 or w8a16, by default that of an imported
    model and w16a16 for a checkpoint; `worker` is HOST:PORT of a running worker, and without one a
    worker process is started on this machine; `table` is the sanitizer's, for split and both, `epsilon` one
    of its levels; `transcript` is a new file for all that the worker sees; `commitment` is the Merkle root of
    the expected weights.

    Refuses: MODE_UNAVAILABLE, RANK_OUT_OF_RANGE, TABLE_MALFORMED.
    """

    mode: str = "masked"
    profile: str = "pad"
    m_over_d: Fraction | str | None = None
    precision: str | None = None
    worker: str | None = None
    table: Path | str | None = None
    epsilon: str | None = None
    transcript: Path | str | None = None
    commitment: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise _unavailable(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.precision is not None and self.precision not in list(Precision):
            raise _unavailable(f"precision {self.precision!r} is not one of {', '.join(Precision)}")
        normal: dict[str, Any] = {"m_over_d": _ratio(self.m_over_d)}
        for name in ("table", "transcript"):
            path = getattr(self, name)
            normal[name] = None if path is None else Path(path)
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        self._check_sanitizer()
        self._check_masking()

    def _check_sanitizer(self) -> None:
        if self.sanitized and self.table is None:
            remedy = f"mode {self.mode} needs a sanitizer table: make one with `veil table`"
            raise Refused(Refusal.TABLE_MALFORMED, remedy)
        for name in () if self.sanitized else ("table", "epsilon"):
            if getattr(self, name) is not None:
                raise _unavailable(f"{name} means nothing in mode {self.mode}: leave it out")

    def _check_masking(self) -> None:
        if self.masked:
            _ = self.masking
        elif self.profile != "pad" or self.m_over_d is not None:
            name = "m_over_d" if self.profile == "pad" else "profile"
            raise _unavailable(f"{name} means nothing in mode {self.mode}: leave it out")
        for name in ("worker", "transcript") if self.mode == "plain" else ():
            if getattr(self, name) is not None:
                raise _unavailable(f"{name} means nothing in mode plain: leave it out")

    @property
    def masked(self) -> bool:
        """Return whether linear layers are masked."""
        return self.mode in ("masked", "both")

    @property
    def sanitized(self) -> bool:
        """Return whether text is sanitized before anything else is done with it."""
        return self.mode in SANITIZED

    @property
    def masking(self) -> Masking:
        """Return how an epoch masks. Refuses: MODE_UNAVAILABLE, RANK_OUT_OF_RANGE."""
        ratio = self.m_over_d if isinstance(self.m_over_d, Fraction) else None
        return Masking(self.profile, ratio)


class EncoderEngine(Protocol):
    """An encoder here or elsewhere."""

    def streams(
        self, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[torch.Tensor]:
        """Return the last stream of each sequence, int64 [n_i, width], 24 fractional bits."""
        ...


class Sanitizer:
    """A table's draws under a fresh key from the operating system, one document number for each call.

    Refuses: CLAIM_NOT_MET, TABLE_MALFORMED.
    """

    def __init__(self, table: Path, epsilon: str | None, folder: Path) -> None:
        from veil.sanitizing import Pipeline, Settings, Tokens
        from veil_optimized.table_file import read

        of_words = read(table).statement.entries == "words"
        self.pipeline = Pipeline(Settings(table, epsilon, tokenizer=None if of_words else folder))
        self.pipeline.certificates()
        self.of_tokens = isinstance(self.pipeline.cutter, Tokens)
        self._tape = SeededTape(os.urandom(constants.SEED_BYTES))
        self._lock, self._document = threading.Lock(), 0

    def _next(self) -> int:
        with self._lock:
            self._document += 1
            return self._document - 1

    def text(self, text: str) -> str:
        """Return a text sanitized, drawn afresh. Refuses: PROMPT_MALFORMED."""
        return self.pipeline.finish(self.pipeline.prepare(text), self._tape, self._next()).text

    def ids(self, ids: "Ids") -> "Ids":
        """Return a table's entries, each replaced by a draw [n]. Refuses: TOKEN_OUT_OF_RANGE."""
        sanitizer = self.pipeline.sanitizer
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(sanitizer.file.entries):
            raise Refused(Refusal.TOKEN_OUT_OF_RANGE, "a token is not in the sanitizer's table")
        return sanitizer.draw(ids, self._tape, self._next(), self.pipeline.level)


class Turns:
    """The turns of one conversation as the worker gets them, each sanitized once.

    A turn is known by its place and all that stands before it, never by its text alone: were equal texts
    given equal outputs, the worker would learn that they are equal.

    Implements: MDL-P5.
    """

    def __init__(self, sanitize: Callable[[str], str]) -> None:
        self._sanitize = sanitize
        self._turns: list[_Turn] = []

    def sent(self, turns: Sequence[str]) -> list[str]:
        """Return turns as they were sent; from the first that is new or altered on, they are drawn afresh."""
        pairs = zip(turns, self._turns, strict=False)
        same = next((n for n, (text, turn) in enumerate(pairs) if not turn.says(text)), len(self._turns))
        fresh = [_Turn(text, self._sanitize(text)) for text in turns[same:]]
        self._turns = self._turns[: min(same, len(turns))] + fresh
        return [turn.sent for turn in self._turns]

    def answered(self, text: str) -> None:
        """Add a turn that came from the model: the worker has seen it."""
        self._turns.append(_Turn(text, text, answer=True))


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn, and what was sent in its place."""

    text: str
    sent: str
    answer: bool = False

    def says(self, text: str) -> bool:
        """Return whether a text is this turn; the white space around an answer may have gone."""
        return text == self.text or (self.answer and text.strip() == self.text.strip())


class Opened:
    """A model that is ready to run: in an epoch with a worker, or in this process alone."""

    def __init__(
        self,
        model: Model,
        config: VeilConfig,
        enclave: Enclave | None = None,
        channel: Any = None,
        sanitizer: Sanitizer | None = None,
    ) -> None:
        self.model, self.config, self.enclave = model, config, enclave
        self._channel, self.sanitizer = channel, sanitizer

    @property
    def private(self) -> bool:
        """Return whether a guarantee of the specification covers what runs."""
        return self.config.mode == "split" or (self.enclave is not None and self.enclave.private)

    @property
    def ended(self) -> bool:
        """Return whether the epoch with the worker has ended."""
        channel = self._channel if self.enclave is None else self.enclave.channel
        return channel is not None and bool(channel.ended)

    @property
    def _products(self) -> Products:
        return plain_products if self.enclave is None else self.enclave.products

    @property
    def _together(self) -> Together | None:
        return None if self.enclave is None else self.enclave.together

    def decoder(self) -> Engine[Any]:
        """Return the decoder of the mode. Refuses: MODEL_UNSUPPORTED."""
        if self.config.mode == "split":
            from veil_optimized.split import SplitDecoder

            return SplitDecoder(self.model, self._channel)
        return Decoder(self.model, self._products, self._together)

    def encoder(self) -> EncoderEngine:
        """Return the encoder of the mode. Refuses: MODEL_UNSUPPORTED."""
        if self.config.mode == "split":
            from veil_optimized.split import SplitEncoder

            return SplitEncoder(self.model, self._channel)
        return Encoder(self.model, self._products, self._together)

    def labels(
        self, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """Return the labels' logits of sequences, int64 [sequences, labels], 18 fractional bits.

        Refuses: MODEL_UNSUPPORTED, and as an encoder's `embed` does.
        """
        engine = self.encoder()
        if isinstance(engine, Encoder):
            return engine.labels(engine.streams(tokens, types))
        made: torch.Tensor = engine.labels(tokens, types)  # type: ignore[attr-defined]
        return made

    def mint_ahead(self, prompt: Sequence[int], new_tokens: int) -> None:
        """Prepare the pads of the one-row steps that follow those in which a prompt is taken in."""
        if self.enclave is not None and new_tokens > 1:
            first = self.enclave.next_step + steps_of([prompt])
            self.enclave.expect(first, new_tokens - 1)

    def sanitize(self, text: str) -> str:
        """Return a text sanitized, drawn afresh. Refuses: MODE_UNAVAILABLE, PROMPT_MALFORMED."""
        if self.sanitizer is None:
            raise _unavailable(f"mode {self.config.mode} has no sanitizer: use split or both")
        return self.sanitizer.text(text)

    def turns(self) -> Turns:
        """Return the memory of a new conversation; without a sanitizer, turns are sent as they are."""
        return Turns(self.sanitize if self.config.sanitized else str)


@contextmanager
def open_engine(
    folder: Path,
    config: VeilConfig,
    dealer: "Contact | None" = None,
    witness: Witness | None = None,
) -> Iterator[Opened]:
    """Yield a directory's model, opened; the epoch and a worker process started for it end with the block.

    The directory holds integer.safetensors and the tokenizer files. `dealer` and `witness` are those of
    `enclave.epoch`.

    Refuses: MODE_UNAVAILABLE, MODEL_MALFORMED, MODEL_MISMATCH, RANK_OUT_OF_RANGE, and as `model.load`,
    `enclave.epoch` and `start_worker` do.
    """
    path = folder / INTEGER_FILE
    if not path.is_file():
        remedy = f"{folder} has no {INTEGER_FILE}: make it with `veil import SOURCE --out DIR`"
        raise Refused(Refusal.MODEL_MALFORMED, remedy)
    if config.transcript is not None and Path(config.transcript).exists():
        raise _unavailable(f"transcript {config.transcript} exists already: name a new file")
    keep_freed()
    model = load(path)
    check_commitment(model, config.commitment)
    check_rank(model, config.masking.rank if config.masked else None)
    with ExitStack() as stack:
        sanitizer = None
        if config.sanitized:
            sanitizer = Sanitizer(Path(config.table or ""), config.epsilon, folder)
        if config.mode == "plain":
            yield Opened(model, config)
            return
        address = config.worker or stack.enter_context(start_worker(path))
        transcript = None if config.transcript is None else Path(config.transcript)
        if config.masked:
            opening = epoch(model, address, config.masking, transcript, dealer=dealer, witness=witness)
            enclave = _entered(stack, opening, transcript)
            yield Opened(model, config, enclave, sanitizer=sanitizer)
        else:
            from veil_optimized import split

            channel = _entered(stack, split.epoch(model, address, transcript), transcript)
            yield Opened(model, config, channel=channel, sanitizer=sanitizer)


def _entered(stack: ExitStack, opening: AbstractContextManager[Any], transcript: Path | None) -> Any:
    """Return what an epoch yields; of one that does not open, no transcript stays."""
    try:
        return stack.enter_context(opening)
    except BaseException:
        if transcript is not None:
            transcript.unlink(missing_ok=True)
        raise


def check_commitment(model: Model, expected: str | None) -> None:
    """Refuse weights that are not the expected ones. Refuses: MODEL_MISMATCH."""
    if expected is not None and integrity.commitment(model.groups).hex() != expected.lower():
        remedy = "the commitment is not that of the model's weights: get the file that it was made for"
        raise Refused(Refusal.MODEL_MISMATCH, remedy)


def check_rank(model: Model, ratio: Fraction | None) -> None:
    """Refuse a rank ratio that leaves nothing of a layer. Refuses: RANK_OUT_OF_RANGE."""
    narrowest = min(group.weights.shape[1] for group in model.groups)
    if ratio is not None and ratio * narrowest < 1:
        remedy = f"m_over_d {ratio} leaves no row for a layer of width {narrowest}: choose a larger one"
        raise Refused(Refusal.RANK_OUT_OF_RANGE, remedy)
