"""The audit of one model: run it masked, compare, attack, check, write the report."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from veil_conformance.attacks import base
from veil_conformance.audit import decoding, faithful, lying, output, report, reusing, secrecy
from veil_conformance.audit.attacking import Attacker
from veil_conformance.audit.claims import Found, certified, claims, fit, secrets
from veil_conformance.audit.content import assemble
from veil_conformance.audit.decoding import Decoded, Tally
from veil_conformance.audit.evidence import Evidence
from veil_conformance.audit.options import Options
from veil_conformance.audit.trials import Sweep, fresh_tape, own_executor
from veil_optimized.decoder import Decoder
from veil_optimized.launching import start_worker
from veil_optimized.model import Model, load
from veil_reference import decoder as reference_decoder
from veil_reference import model as reference_model
from veil_spec.architecture import INTEGER_FILE

__all__ = ["Options", "audit"]

COLUMNS: Final = 140
"""Width of what is printed where there is no terminal."""


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield what shows one line of progress: in place on a terminal, one after another elsewhere."""
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    start = time.perf_counter()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def tell(line: str) -> None:
            bar.update(task, description=line)
            if not console.is_terminal:
                console.print(f"{time.perf_counter() - start:6.0f} s  {line}", highlight=False)

        yield tell


def _against_reference(model: Model, path: Path, tokens: Sequence[int], tell: Callable[[str], None]) -> Tally:
    """Return the comparison of optimized and reference logits after each token, all layers."""
    tell("loading the model into the reference, plain Python")
    slow = reference_decoder.Decoder(reference_model.load(path))
    rows = []
    for number, token in enumerate(tokens, 1):
        tell(f"position {number} of {len(tokens)} in the reference, plain Python")
        rows.append(slow.step(token))
    tally = Tally()
    tally.add(Decoder(model).step(list(tokens), every_position=True), torch.tensor(rows))
    return tally


@contextmanager
def _evidence(options: Options, scratch: Path) -> Iterator[Evidence | None]:
    """Yield the running proofs and suites, which end with the block."""
    runs = Evidence(options.root, scratch) if options.suites else None
    try:
        yield runs
    finally:
        if runs is not None:
            runs.stop()


def _decode(options: Options, model: Model, address: str, tell: Callable[[str], None]) -> Decoded:
    tell("loading the float32 model")
    real = faithful.FloatModel(options.checkpoint)
    prompts = [options.words.tokens(prompt) for prompt in options.prompts]
    return decoding.decode(model, real, address, prompts, options.new_tokens, tell)


def _measure(options: Options, model: Model, scratch: Path, tell: Callable[[str], None]) -> Found:
    """Return all that the claims need.

    Proofs and suites run beside the reference alone: each is busy on one core, while everything else uses
    all cores and would be timed wrongly.
    """
    path, words = options.model / INTEGER_FILE, options.words
    letter = words.tokens(options.attacked, raw=True)[: options.attacked_tokens]
    first = words.tokens(options.prompts[0], raw=True)[: options.reference_positions]
    with nullcontext(options.worker) if options.worker else start_worker(path) as address:
        decoded = _decode(options, model, address, tell)
        close = faithful.compare(list(zip(decoded.plain, decoded.real, strict=True)))
        with _evidence(options, scratch) as runs:
            compared = _against_reference(model, path, first, tell)
            tell("computing the certificate")
            alpha, stated, agree = certified()
            tell("waiting for proofs and conformance suite")
            proofs = runs.proofs() if runs else None
            conformance = runs.conformance() if runs else None
        tell("recomputing masks from two recorded epochs")
        masks = reusing.recorded(model, address, letter, scratch)
        tell("reading the vocabulary's rows")
        known = base.vocabulary(model)
        attacked = Attacker(model, known, address, letter, scratch, fresh_tape).run(tell)
    with nullcontext(options.executor) if options.executor else own_executor() as executor:
        matrix = Sweep(options.plan, path, tuple(letter)).run(executor, tell)
    matrix.cells.extend(attacked.cells)
    tell("solving for weights")
    materials = secrecy.table(model)
    tell("letting workers lie")
    caught = lying.expose(model, decoded.told[0].prompt[:3])
    return Found(
        options.new_tokens,
        decoded,
        compared,
        close,
        attacked,
        masks,
        matrix,
        materials,
        fit(model),
        secrets(model, decoded.checking),
        caught,
        stated,
        agree,
        alpha,
        proofs,
        conformance,
    )


def audit(options: Options) -> bool:
    """Return whether no claim fails, after the report is written and the verdicts are printed.

    Refuses: what the model's loader, the enclave and the worker refuse.
    """
    start = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    with (
        _progress(options.console) as tell,
        tempfile.TemporaryDirectory(dir=options.output, prefix=".work-") as scratch,
    ):
        tell("loading the integer model")
        model = load(options.model / INTEGER_FILE)
        found = _measure(options, model, Path(scratch), tell)
        tell("writing the report")
        made = claims(found)
        content = assemble(options, model, found, time.perf_counter() - start)
        output.write(content, options.output, options.root)
    printed = Console(width=None if sys.stdout.isatty() else COLUMNS)
    printed.print(report.verdict_table(made))
    overall = report.overall(made, model.name)
    printed.print(str(overall["sentence"]), style="bold" if overall["all_hold"] else "bold red")
    printed.print(f"report: {options.output / 'report.html'}", highlight=False)
    return bool(overall["all_hold"])
