"""From text to sanitized text: cutting, levels, charges, draws."""

import hashlib
import json
import os
import re
import signal
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from veil.vectors import UNKNOWN, Vectors
from veil_optimized.accounting import decimals
from veil_optimized.budget import divide
from veil_optimized.ledger import Costs, Ledger
from veil_optimized.published import PaperSanitizer
from veil_optimized.sanitizer import Sanitizer
from veil_optimized.tape import SeededTape
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Certificate

Ids = npt.NDArray[np.int64]
WORD: Final = re.compile(r"\w+|[^\w\s]")
"""A run of letters, digits and underscores, or one other character that is no white space."""
BATCH: Final = 2**16
"""Tokens drawn at a time: a draw needs some 300 bytes a token."""
WINDOW: Final = 64
"""Documents under way for each process that cuts."""
LOAD: Final = 2**23
"""Characters under way: beyond them no further document is read."""


class Cutter(Protocol):
    """Between text and entry numbers."""

    digest: str

    def cut(self, text: str) -> Ids:
        """Return the entries of a text."""
        ...

    def join(self, ids: Ids) -> str:
        """Return entries as text."""
        ...


class Words:
    """Lower-cased words and single signs, with one unknown word; white space and case are gone for good.

    Implements: NMX-P2.
    """

    digest = f"words {unicodedata.unidata_version}"

    def __init__(self, entries: list[str]) -> None:
        self._entries, self._numbers = entries, {entry: number for number, entry in enumerate(entries)}
        if UNKNOWN not in self._numbers:
            raise Refused(Refusal.TABLE_MALFORMED, f"the table has no entry {UNKNOWN}: build it again")

    def cut(self, text: str) -> Ids:
        """Return the entries of a text."""
        unknown, numbers = self._numbers[UNKNOWN], self._numbers
        return np.array([numbers.get(word, unknown) for word in WORD.findall(text.lower())], dtype=np.int64)

    def join(self, ids: Ids) -> str:
        """Return entries with one space between them."""
        return " ".join([self._entries[number] for number in ids.tolist()])


class Tokens:
    """A model's own tokens; special tokens written in a text are cut like any other text."""

    def __init__(self, folder: Path | None, entries: list[str]) -> None:
        from veil.text import Text

        if folder is None:
            remedy = "--tokenizer is missing: the table is of a model's tokens, give the model's directory"
            raise Refused(Refusal.TABLE_MALFORMED, remedy)
        self._text = Text(folder)
        if self._text.size > len(entries) or self._text.vocabulary(len(entries)) != entries:
            raise Refused(Refusal.MODEL_MISMATCH, f"{folder} has another vocabulary than the table")
        self.digest = self._text.digest

    def cut(self, text: str) -> Ids:
        """Return the entries of a text."""
        return np.array(self._text.plain_tokens(text), dtype=np.int64)

    def join(self, ids: Ids) -> str:
        """Return entries as text."""
        return self._text.joined(ids.tolist())


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides a sanitized text beside seed and text; weights are those of the parts' classes."""

    table: Path
    epsilon: str | None = None
    mechanism: str = "tabulated"
    tokenizer: Path | None = None
    budget: int | None = None
    weights: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document before its draws: entries, the level of each, and what it costs."""

    text: str
    ids: Ids
    levels: Ids
    costs: Costs


@dataclass(frozen=True, slots=True)
class Sanitized:
    """A sanitized document: what leaves, its entries, and what it cost."""

    text: str
    ids: list[int]
    costs: Costs | None


class Sanitizing(Protocol):
    """One way to sanitize documents."""

    @property
    def digest(self) -> str:
        """Return a hash of all that decides the output beside seed and text, 64 hexadecimal digits."""
        ...

    def prepare(self, text: str) -> Prepared:
        """Return a document cut, with its levels and costs."""
        ...

    def finish(self, prepared: Prepared, tape: SeededTape, document: int = 0) -> Sanitized:
        """Return the sanitized document."""
        ...

    def statement(self, private: bool) -> dict[str, object]:
        """Return what a run guarantees, as JSON."""
        ...


class Published:
    """Profile `cmif-paper` on words: no guarantee, so nothing can be charged for it.

    Refuses: TABLE_MALFORMED, EPSILON_OUT_OF_RANGE.
    """

    def __init__(self, found: Vectors, candidates: int, epsilon: str) -> None:
        if found.kind != "words":
            raise Refused(Refusal.TABLE_MALFORMED, "profile cmif-paper takes word vectors")
        self._sanitizer = PaperSanitizer(found.entries, found.matrix, candidates, epsilon)
        self._cutter, self._epsilon, self._candidates = Words(found.entries), epsilon, candidates

    @property
    def digest(self) -> str:
        """Refuse: the cost of a document is infinite. Refuses: BUDGET_EXCEEDED."""
        raise Refused(
            Refusal.BUDGET_EXCEEDED, "profile cmif-paper has no finite epsilon to charge: leave --ledger out"
        )

    def prepare(self, text: str) -> Prepared:
        """Return a document cut."""
        ids = self._cutter.cut(text)
        return Prepared(text, ids, np.zeros(len(ids), dtype=np.int64), Costs(0, 0))

    def finish(self, prepared: Prepared, tape: SeededTape, document: int = 0) -> Sanitized:
        """Return the sanitized document. Refuses: STREAM_OUT_OF_RANGE."""
        outputs = np.empty_like(prepared.ids)
        for first in range(0, len(outputs), BATCH):
            ids = prepared.ids[first : first + BATCH]
            outputs[first : first + BATCH] = self._sanitizer.select(ids, tape, document, first)
        return Sanitized(self._cutter.join(outputs), outputs.tolist(), None)

    def statement(self, private: bool) -> dict[str, object]:
        """Return what a run guarantees, as JSON: nothing."""
        stated = self._sanitizer.certificate()
        return {
            "profile": "cmif-paper",
            "nominal_epsilon": self._epsilon,
            "candidates": self._candidates,
            "adjacency": stated.adjacency,
            "epsilon_exact": stated.epsilon,
            "impossible_for_other": asdict(stated.witness),
            "not_private": True,
        }


class Pipeline:
    """One table with one way of using it. Refuses: TABLE_MALFORMED, MODEL_MISMATCH, EPSILON_OUT_OF_RANGE."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.sanitizer = settings, Sanitizer.load(settings.table)
        entries = self.sanitizer.file.entries
        words = self.sanitizer.file.statement.entries == "words"
        self.cutter: Cutter = Words(entries) if words else Tokens(settings.tokenizer, entries)
        self.level = self.sanitizer.level_of(settings.epsilon)
        if words and settings.tokenizer is not None:
            raise Refused(
                Refusal.TABLE_MALFORMED, "--tokenizer means nothing for a table of words: leave it out"
            )
        exact = settings.mechanism == "tabulated"
        cost = self.sanitizer.part_costs if exact else self.sanitizer.noisy_max_costs
        if settings.budget is None:
            self._part_costs = cost(self.level)
        else:
            numbers = range(1, self.sanitizer.levels + 1)
            self._level_costs = np.stack([cost(level) for level in numbers], axis=1)

    @property
    def digest(self) -> str:
        """Return a hash of all that decides the output beside seed and text, 64 hexadecimal digits."""
        stated = asdict(self.settings) | {
            "table": self.sanitizer.file.digest,
            "tokenizer": self.cutter.digest,
        }
        stated["weights"] = sorted(self.settings.weights.items())
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def prepare(self, text: str) -> Prepared:
        """Return a document cut, with its levels and costs. Refuses: PROMPT_MALFORMED."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused(
                Refusal.PROMPT_MALFORMED, "the text holds half a character (a lone surrogate)"
            ) from None
        ids = self.cutter.cut(text)
        parts = self.sanitizer.part_of[ids]
        if self.settings.budget is None:
            levels, spent = np.full(len(ids), self.level), self._part_costs[parts]
        else:
            levels, spent = self._divided(parts)
        return Prepared(text, ids, levels, Costs(int(spent.max(initial=0)), int(spent.sum())))

    def _divided(self, parts: Ids) -> tuple[Ids, Ids]:
        """Return the levels and costs of a document with a budget; the rule sees parts alone (ACC-G2)."""
        present, which = np.unique(parts, return_inverse=True)
        chosen, weights_of, costs_of = self.settings.weights, [], []
        for part, kind in zip(present.tolist(), self.sanitizer.file.classes[present].tolist(), strict=True):
            row = self._level_costs[part].tolist()
            # A part that costs nothing at any level needs no share, and one whose costs fall cannot use one.
            priced = row[-1] > 0 and sorted(row) == row
            weights_of.append(chosen.get(kind, 1) if priced else 0)
            costs_of.append(row if priced else [])
        weights = [weights_of[n] for n in which.tolist()]
        usable = [costs_of[n] for n in which.tolist()]
        levels = np.array(divide(self.settings.budget or 0, weights, usable), dtype=np.int64)
        with_none = np.hstack([np.zeros((len(parts), 1), dtype=np.int64), self._level_costs[parts]])
        return levels, with_none[np.arange(len(parts)), levels]

    def finish(self, prepared: Prepared, tape: SeededTape, document: int = 0) -> Sanitized:
        """Return the sanitized document. Refuses: STREAM_OUT_OF_RANGE."""
        draw = self.sanitizer.draw if self.settings.mechanism == "tabulated" else self.sanitizer.select
        outputs = np.empty_like(prepared.ids)
        for first in range(0, len(outputs), BATCH):
            ids, levels = prepared.ids[first : first + BATCH], prepared.levels[first : first + BATCH]
            for level in np.unique(levels).tolist():
                lanes = levels == level
                use = self.sanitizer.draw if level == 0 else draw
                outputs[first : first + BATCH][lanes] = use(ids, tape, document, level, first)[lanes]
        return Sanitized(self.cutter.join(outputs), outputs.tolist(), prepared.costs)

    def certificates(self) -> list[Certificate]:
        """Return the certificates of the levels in use. Refuses: CLAIM_NOT_MET."""
        numbers = range(1, self.sanitizer.levels + 1) if self.settings.budget is not None else [self.level]
        make = (
            self.sanitizer.certificate
            if self.settings.mechanism == "tabulated"
            else self.sanitizer.noisy_max_certificate
        )
        return [make(number) for number in numbers]

    def statement(self, private: bool) -> dict[str, object]:
        """Return what a run guarantees, as JSON: everything shown is rounded up.

        Implements: NMX-P1.
        """
        file = self.sanitizer.file
        levels = []
        for stated in self.certificates():
            levels.append(
                {
                    "epsilon_bound": stated.epsilon_bound,
                    "epsilon_exact": stated.epsilon_exact,
                    "exact": str(stated.exact),
                    "range_distance": stated.range_distance,
                    "worst": asdict(stated.worst),
                    "part_bits": stated.part_bits,
                    "replaced_part_bits": self.sanitizer.replaced_part_bits,
                    "bayes_recovery": decimals(stated.bayes_recovery),
                }
            )
        return {
            "table": file.digest,
            "vectors": file.statement.vectors,
            "name": file.statement.name,
            "entries": file.statement.entries,
            "noise": file.statement.noise,
            "mechanism": self.settings.mechanism,
            "adjacency": stated.adjacency,
            "levels": levels,
            "document_budget": None if self.settings.budget is None else self.settings.budget / 10**6,
            "policy": file.statement.policy,
            "verbatim": {"count": len(stated.verbatim), "entries": list(stated.verbatim)},
            "not_covered": list(stated.not_covered),
            "not_private": not private,
        }


_pipeline: list[Pipeline] = []
"""The pipeline of a process that cuts."""


def _start(pipeline: Pipeline) -> None:
    _pipeline[:] = [pipeline]
    Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare(text: str) -> Prepared:
    return _pipeline[0].prepare(text)


def _prepared(
    pipeline: Sanitizing, texts: Iterable[str], workers: int, pool: Executor | None
) -> Iterator[Prepared]:
    """Yield documents cut, in their order; with a pool, a bounded number of them ahead."""
    if pool is None:
        yield from map(pipeline.prepare, texts)
        return
    waiting: deque[tuple[int, Future[Prepared]]] = deque()
    load = 0
    for size, future in _submitted(texts, pool):
        waiting.append((size, future))
        load += size
        while len(waiting) > WINDOW * workers or load > LOAD:
            size, future = waiting.popleft()
            load -= size
            yield future.result()
    yield from (future.result() for _, future in waiting)


def _submitted(texts: Iterable[str], pool: Executor) -> Iterator[tuple[int, Future[Prepared]]]:
    """Yield the length and the cutting of each text; a refusal of the source comes in its place."""
    try:
        for text in texts:
            yield len(text), _without_interrupts(pool, text)
    except Refused as refused:
        failed: Future[Prepared] = Future()
        failed.set_exception(refused)
        yield 0, failed


def _without_interrupts(pool: Executor, text: str) -> Future[Prepared]:
    """Return the cutting of a text; a process that this starts leaves interrupts to this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_prepare, text)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class Account:
    """Where documents are charged."""

    ledger: Ledger
    name: str


def sanitize(
    pipeline: Sanitizing,
    texts: Iterable[str],
    key: bytes,
    account: Account | None = None,
    workers: int = 1,
    emit: Callable[[Sanitized], None] | None = None,
) -> Iterator[Sanitized]:
    """Yield sanitized documents in their order: with the same key the same, whatever the number of workers.

    Implements: NMX-P4.

    With an account, each document is charged before it is drawn, drawn from its invocation's seed, handed to
    `emit`, and then completed. Without one, document n is drawn as number n under the key.

    Refuses: PROMPT_MALFORMED, BUDGET_EXCEEDED, LEDGER_DAMAGED, LEDGER_LOCKED.
    """
    with ExitStack() as stack:
        pool = None
        if workers > 1 and isinstance(pipeline, Pipeline):
            # A forked process would inherit the ledger's locks, and hold them if this one is killed.
            pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (pipeline,))
            stack.callback(pool.shutdown, cancel_futures=True)
        tape, digest = SeededTape(key), pipeline.digest if account is not None else ""
        for number, prepared in enumerate(_prepared(pipeline, texts, workers, pool)):
            if account is None:
                done = pipeline.finish(prepared, tape, number)
                if emit:
                    emit(done)
            else:
                done = _charged(pipeline, prepared, account, digest, emit)
            yield done


def _charged(
    pipeline: Sanitizing,
    prepared: Prepared,
    account: Account,
    digest: str,
    emit: Callable[[Sanitized], None] | None,
) -> Sanitized:
    ledger = account.ledger
    ticket = ledger.charge(account.name, prepared.text.encode("utf-8"), digest, prepared.costs)
    done = pipeline.finish(prepared, SeededTape(ledger.sampling_seed(ticket)))
    if emit:
        emit(done)
    ledger.complete(ticket)
    return done
