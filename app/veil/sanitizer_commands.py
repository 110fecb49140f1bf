"""`veil table` and `veil sanitize`: options in, one line for what is wrong."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from rich.console import Console
from rich.progress import Progress

from veil import vectors
from veil.sanitizing import Account, Pipeline, Published, Sanitized, Sanitizing, Settings, sanitize
from veil_optimized import accounting
from veil_optimized.accounting import claim_limit, decimals
from veil_optimized.ledger import Adjacency, Ledger, Policy, read_or_create_key
from veil_optimized.sanitizer import Recipe, Sanitizer, build
from veil_spec import constants
from veil_spec.refusals import Refusal, Refused
from veil_spec.types import Certificate, Geometric, TwoSidedGeometric

DOCUMENT_BYTES: Final = 2**23
"""Longest line that is read: as many signs need some 500 MB."""
DECIMAL: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
"""Numbers on the command line, as those of ACC-R8: `Fraction` alone would also take 1e999999999."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The command line of `veil table`."""

    source: Path
    out: Path
    part_size: int
    epsilons: tuple[str, ...]
    two_sided: bool
    entries: Path | None = None
    most: int | None = None
    verbatim: Path | None = None
    protect_rarest: str | None = None
    classes: Path | None = None
    name: str | None = None


def make_table(options: TableOptions, console: Console) -> Sanitizer:
    """Return the sanitizer of a new table file.

    Refuses: TABLE_MALFORMED, MODEL_MALFORMED, EPSILON_OUT_OF_RANGE.
    """
    if options.out.exists():
        raise _refused(f"--out {options.out} exists already: name a new file")
    if not options.out.parent.is_dir():
        raise _refused(f"--out {options.out}: the directory {options.out.parent} does not exist")
    _check_levels(options.epsilons)
    found = vectors.read(options.source, options.entries, options.most)
    kept, policy = _verbatim(options, found)
    recipe = Recipe(
        name=options.name or options.source.stem,
        kind=found.kind,
        part_size=options.part_size,
        epsilons=options.epsilons,
        two_sided=options.two_sided,
        verbatim=kept,
        policy=policy,
        classes=None if options.classes is None else _classes(options.classes, found.entries, "--classes"),
    )
    steps = ("partition", "calibrate", "tabulate")
    with Progress(console=console, transient=True) if console.is_terminal else nullcontext() as progress:
        tasks = {step: progress.add_task(step, total=None) for step in steps} if progress else {}

        def show(step: str, done: int, whole: int) -> None:
            if progress:
                progress.update(tasks[step], completed=done, total=whole)

        return Sanitizer(build(found.entries, found.matrix, recipe, show)).save(options.out)


def _refused(detail: str) -> Refused:
    return Refused(Refusal.TABLE_MALFORMED, detail)


def _check_levels(epsilons: tuple[str, ...]) -> None:
    limits = []
    for epsilon in epsilons:
        try:
            limits.append(claim_limit(epsilon))
        except Refused as refused:
            raise Refused(refused.reason, f"--epsilon {epsilon}: {refused.detail}") from refused
    if any(high <= low for low, high in pairwise(limits)):
        listed = " ".join(f"--epsilon {epsilon}" for epsilon in epsilons)
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, f"{listed}: levels must rise, give the smallest first")


def _verbatim(options: TableOptions, found: vectors.Vectors) -> tuple[frozenset[int], str]:
    """Return which entries are kept verbatim, and why in words."""
    kept, reasons = set(found.special), []
    if found.special:
        what = "special tokens" if found.kind == "tokens" else f"{vectors.UNKNOWN} for every other word"
        reasons.append(f"{what} kept verbatim")
    if options.verbatim is not None:
        kept |= _numbers(vectors.read_list(options.verbatim), found.entries, options.verbatim)
        reasons.append("entries of a public list kept verbatim")
    if options.protect_rarest is not None:
        share = _share(options.protect_rarest)
        kept |= set(range(len(found.entries) - int(share * len(found.entries))))
        reasons.append(
            f"only the rarest {options.protect_rarest} of entries, by the order of the vectors, replaced"
        )
    return frozenset(kept), "; ".join(reasons) or "nothing is kept verbatim"


def _numbers(words: list[str], entries: list[str], path: Path) -> set[int]:
    numbers = {entry: number for number, entry in enumerate(entries)}
    unknown = next((word for word in words if word not in numbers), None)
    if unknown is not None:
        raise _refused(f"{path}: {unknown[:40]!r} is no entry of the vectors")
    return {numbers[word] for word in words}


def _share(text: str) -> Fraction:
    share = Fraction(text) if DECIMAL.fullmatch(text) else 0
    if not 0 < share <= 1:
        raise _refused("--protect-rarest must be a number above 0 and at most 1, such as 0.9")
    return Fraction(share)


def _classes(path: Path, entries: list[str], option: str) -> list[int]:
    try:
        classes = [int(line) for line in vectors.read_list(path)]
    except ValueError:
        classes = []
    if len(classes) != len(entries) or not all(0 <= number < 2**31 for number in classes):
        every = f"each of {len(entries)} entries, {entries[-1]} included"
        raise _refused(f"{option} {path} must have one integer from 0 for {every}")
    return classes


Lines = list[tuple[str, str]]
"""Names and values, as they are printed."""


def certificate_of_json(path: Path, epsilon: str, two_sided: bool) -> Lines:
    """Return what a JSON table guarantees with noise calibrated to epsilon.

    Refuses: TABLE_MALFORMED, EPSILON_OUT_OF_RANGE.
    """
    table = accounting.load_table(path)
    try:
        alpha = accounting.calibrate(epsilon, accounting.range_distance(table))
    except Refused as refused:
        raise Refused(refused.reason, f"--epsilon {epsilon}: {refused.detail}") from refused
    noise = TwoSidedGeometric(alpha) if two_sided else Geometric(alpha)
    sides = "two-sided" if two_sided else "one-sided"
    head = [("table", table.name), ("noise", f"{sides}, alpha {alpha}"), ("epsilon nominal", epsilon)]
    return head + _certified(accounting.certificate(table, noise))


def certificate_of_file(path: Path, epsilon: str | None, counts: Path | None) -> Lines:
    """Return what one level of a table file guarantees. Refuses: as `Pipeline` and `Sanitizer` do."""
    sanitizer = Sanitizer.load(path)
    level, stated = sanitizer.level_of(epsilon), sanitizer.file.statement
    head = [("table", stated.name), ("hash", sanitizer.file.digest), ("noise", f"{stated.noise}, tabulated")]
    head.append(("epsilon nominal", stated.epsilon[level - 1]))
    certified = sanitizer.certificate(level)
    shown = head + _certified(certified)
    if counts is not None:
        recovery = sanitizer.weighted_recovery(_classes(counts, sanitizer.file.entries, "--counts"), level)
        shown.append(("weighted guess", decimals(recovery)))
    shown.append(("if replaced", f"part bits {sanitizer.replaced_part_bits}"))
    return [*shown, ("policy", stated.policy), ("verbatim", f"{len(certified.verbatim)} entries")]


def _certified(stated: Certificate) -> Lines:
    worst = stated.worst
    return [
        ("epsilon bound", stated.epsilon_bound),
        ("epsilon exact", stated.epsilon_exact),
        ("worst pair", f"{worst.token} against {worst.other}, output {worst.output}"),
        ("adjacency", stated.adjacency),
        ("part bits", stated.part_bits),
        ("bayes recovery", decimals(stated.bayes_recovery)),
        ("not covered", ", ".join(stated.not_covered)),
    ]


@dataclass(frozen=True, slots=True)
class PaperOptions:
    """Where profile `cmif-paper` takes its vectors, and how many candidates."""

    source: Path
    candidates: int


@dataclass(frozen=True, slots=True)
class SanitizeOptions:
    """The command line of `veil sanitize`."""

    source: str
    settings: Settings
    paper: PaperOptions | None = None
    json_lines: bool = False
    keep: tuple[str, ...] = ()
    certificate: Path | None = None
    ledger: Path | None = None
    key: Path | None = None
    account: str = "default"
    limit: str | None = None
    document_limit: str | None = None
    adjacency: str | None = None
    memoise: bool = False
    seed: str | None = None
    workers: int = 1


def sanitize_stream(options: SanitizeOptions, output: BinaryIO, console: Console) -> None:
    """Return nothing once every document of the source is sanitized, one a line.

    Implements: NMX-P3.
    Refuses: PROMPT_MALFORMED, BUDGET_EXCEEDED, TABLE_MALFORMED and what the ledger refuses.
    """
    seed = _seed(options)
    _check_certificate_place(options)
    if options.keep and not options.json_lines:
        raise _refused("--keep means nothing without --json: leave it out")
    pipeline = _pipeline(options)
    stated = pipeline.statement(private=options.seed is None)
    stated["kept_fields"] = list(options.keep)
    with ExitStack() as stack:
        source = _opened(options.source, stack)
        account = _account(options, stack)
        if account is not None:
            stated["ledger"] = account.ledger.policy.statement
        if options.certificate is not None:
            _write_whole(options.certificate, json.dumps(stated, indent=2) + "\n")
        _summarise(stated, options, console)
        documents = _Documents(source, options)
        done = sanitize(
            pipeline, documents.texts(), seed, account, options.workers, documents.emitter(output)
        )
        try:
            for _ in done:
                pass
        except BrokenExecutor:
            remedy = "a process that cuts text has died: give fewer --workers"
            raise Refused(Refusal.WORKER_LOST, remedy) from None


def _check_certificate_place(options: SanitizeOptions) -> None:
    """Refuse a certificate that would replace what the run reads or writes. Refuses: TABLE_MALFORMED."""
    used = [Path(options.source), options.settings.table, options.ledger, options.key]
    place = options.certificate
    if place is not None and any(path is not None and path.absolute() == place.absolute() for path in used):
        raise _refused(f"--certificate {place} is used for something else: name a new file")


def _pipeline(options: SanitizeOptions) -> Sanitizing:
    if options.paper is None:
        return Pipeline(options.settings)
    if options.paper.source.suffix == ".npy":
        raise _refused("--profile cmif-paper takes word vectors as text")
    found = vectors.read(options.paper.source)
    return Published(found, options.paper.candidates, options.settings.epsilon or "1")


def _summarise(stated: dict[str, object], options: SanitizeOptions, console: Console) -> None:
    if stated["not_private"]:
        why = "the seed is fixed" if options.paper is None else "profile cmif-paper has infinite epsilon"
        console.print(f"veil: not_private: {why}", markup=False, highlight=False)
    levels = stated.get("levels")
    if console.is_terminal and isinstance(levels, list):
        exact = ", ".join(level["epsilon_exact"] for level in levels)
        console.print(f"epsilon {exact} a token: {stated['adjacency']}", markup=False, highlight=False)


def _seed(options: SanitizeOptions) -> bytes:
    if options.seed is None:
        return os.urandom(constants.SEED_BYTES)
    if options.ledger is not None:
        raise Refused(Refusal.SEED_LENGTH, "--seed means nothing with --ledger: leave one of them out")
    try:
        seed = bytes.fromhex(options.seed)
    except ValueError:
        seed = b""
    if len(seed) != constants.SEED_BYTES:
        raise Refused(Refusal.SEED_LENGTH, f"--seed must be {2 * constants.SEED_BYTES} hexadecimal digits")
    return seed


def _account(options: SanitizeOptions, stack: ExitStack) -> Account | None:
    if options.ledger is None:
        given = [options.key, options.limit, options.document_limit, options.adjacency]
        if any(value is not None for value in given) or options.memoise:
            remedy = "--ledger is missing: --key, --adjacency, --memoise and limits belong to one"
            raise Refused(Refusal.LEDGER_MISMATCH, remedy)
        return None
    if options.key is None:
        raise Refused(Refusal.LEDGER_MISMATCH, "--key is missing: name a file for the ledger's key")
    if options.ledger.exists() and not options.key.exists():
        raise Refused(
            Refusal.LEDGER_MISMATCH, f"--key {options.key} does not exist: name the ledger's own key"
        )
    if not options.ledger.parent.is_dir():
        raise Refused(
            Refusal.LEDGER_MISMATCH, f"--ledger: the directory {options.ledger.parent} does not exist"
        )
    policy = _policy(options)
    ledger = Ledger(options.ledger, read_or_create_key(options.key), policy)
    stack.callback(ledger.close)
    if options.adjacency not in (None, ledger.policy.adjacency):
        remedy = f"--adjacency {options.adjacency}: the ledger's is {ledger.policy.adjacency}"
        raise Refused(Refusal.LEDGER_MISMATCH, remedy)
    return Account(ledger, options.account)


def _policy(options: SanitizeOptions) -> Policy | None:
    """Return the policy that a command line states, if it states one. Refuses: LEDGER_MISMATCH."""
    if options.limit is not None:
        most = options.document_limit
        return Policy(
            Adjacency(options.adjacency or Adjacency.DOCUMENT),
            millionths("--limit", options.limit),
            None if most is None else millionths("--document-limit", most),
            options.memoise,
        )
    if options.document_limit is not None or options.memoise:
        remedy = "--limit is missing: --document-limit and --memoise come with it"
        raise Refused(Refusal.LEDGER_MISMATCH, remedy)
    if options.ledger is not None and not options.ledger.exists():
        remedy = "--limit is missing: a new ledger needs a limit for each account"
        raise Refused(Refusal.LEDGER_MISMATCH, remedy)
    return None


def millionths(option: str, text: str) -> int:
    """Return an epsilon in millionths, rounded down. Refuses: BUDGET_MALFORMED."""
    value = int(Fraction(text) * 10**6) if DECIMAL.fullmatch(text) else -1
    if not 0 <= value < 2**63:
        raise Refused(Refusal.BUDGET_MALFORMED, f"{option} {text} must be a decimal number from 0, as 2.5")
    return value


def read_weights(path: Path | None) -> dict[int, int]:
    """Return the weight of each class of a budget's public rule. Refuses: BUDGET_MALFORMED."""
    if path is None:
        return {}
    try:
        found = {int(kind): weight for kind, weight in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError, RecursionError):
        found = {0: -1}
    if not all(type(weight) is int and 0 <= weight < 2**63 for weight in found.values()):
        remedy = f'--rule {path} must be a JSON object of classes and weights, such as {{"0": 1, "1": 3}}'
        raise Refused(Refusal.BUDGET_MALFORMED, remedy)
    return found


def _opened(source: str, stack: ExitStack) -> BinaryIO:
    return sys.stdin.buffer if source == "-" else stack.enter_context(Path(source).open("rb"))


def _write_whole(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, "utf-8")
    scratch.rename(path)


class _Documents:
    """The lines of a source, and what is written for each."""

    def __init__(self, source: BinaryIO, options: SanitizeOptions) -> None:
        self._source, self._options = source, options
        self._kept: list[dict[str, object]] = []

    def texts(self) -> Iterator[str]:
        """Yield one document for each line. Refuses: PROMPT_MALFORMED."""
        number = 0
        while line := self._source.readline(DOCUMENT_BYTES + 1):
            number += 1
            document = line.removesuffix(b"\n")
            if len(document) > DOCUMENT_BYTES:
                raise _line(number, f"is longer than {DOCUMENT_BYTES} bytes: break the document up")
            yield self._text(number, document)

    def _text(self, number: int, line: bytes) -> str:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise _line(number, "is not UTF-8 text") from None
        return self._field(number, text) if self._options.json_lines else text

    def _field(self, number: int, line: str) -> str:
        try:
            fields = json.loads(line)
            text = fields["text"]
            kept = {name: fields[name] for name in self._options.keep}
        except (ValueError, KeyError, TypeError, RecursionError):
            names = " and ".join(map(repr, ["text", *self._options.keep]))
            raise _line(number, f"is not a JSON object with {names}") from None
        if not isinstance(text, str) or not _is_whole(text):
            raise _line(number, "has a text that is not a string of whole characters")
        self._kept.append(kept)
        return text

    def emitter(self, output: BinaryIO) -> Callable[[Sanitized], None]:
        """Return what writes one sanitized document as one line."""

        def emit(done: Sanitized) -> None:
            if self._options.json_lines:
                fields = self._kept.pop(0) | {"text": done.text, "entries": done.ids}
                fields |= {"micro_epsilon": None if done.costs is None else asdict(done.costs)}
                if self._options.seed is not None or self._options.paper is not None:
                    fields["not_private"] = True
                output.write(json.dumps(fields).encode() + b"\n")
            else:
                output.write(done.text.replace("\n", " ").encode("utf-8", "replace") + b"\n")
            output.flush()

        return emit


def _is_whole(text: str) -> bool:
    """Return whether no half of a surrogate pair stands alone."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _line(number: int, what: str) -> Refused:
    return Refused(Refusal.PROMPT_MALFORMED, f"line {number} {what}")
