"""`python -m benchmarks.fidelity`: how closely a checkpoint's integers follow it in float32."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from benchmarks.fidelity import decoding, encoding, report, sanitized, sources
from benchmarks.fidelity.measures import Progress
from benchmarks.fidelity.report import Recorded
from benchmarks.utility.packages import Unusable
from rich import progress
from rich.console import Console
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from veil.loading import resolve
from veil_optimized.model import Model, load
from veil_spec.architecture import INTEGER_FILE, DecoderShape, Precision
from veil_spec.refusals import Refused


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 where a target is missed, or 2 after one line that says what is wrong."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        results = _run(asked)
    except (Unusable, Refused, OSError) as error:
        print(f"benchmarks.fidelity: {sources.first_line(error)}", file=sys.stderr)
        return 2
    return 0 if all(result.met for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    decoder = kinds.add_parser("decoder", help="a model that generates: forced positions and greedy texts")
    decoder.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="UTF-8 text")
    decoder.add_argument("--positions", type=_positive, default=2048, help="forced positions (default 2048)")
    decoder.add_argument(
        "--new-tokens", type=_positive, default=64, help="tokens of a greedy text (default 64)"
    )
    encoder = kinds.add_parser("encoder", help="a model that embeds sentences: cosine distances")
    encoder.add_argument(
        "--sentences",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".tsv (first column) or prose",
    )
    encoder.add_argument("--count", type=_positive, default=1000, help="sentences (default 1000)")
    classifier = kinds.add_parser("classifier", help="a model with labels: the labels it guesses")
    classifier.add_argument(
        "--tsv", type=Path, required=True, metavar="FILE", help="a header, then lines of sentence, tab, label"
    )
    classifier.add_argument("--table", type=Path, help="sanitizer table: compare mode split as well")
    classifier.add_argument("--epsilon", help="level of the table (default: its only one)")
    for each in (decoder, encoder, classifier):
        each.add_argument("source", type=Path, metavar="SOURCE", help="checkpoint folder or .gguf file")
        each.add_argument("--out", type=Path, required=True, help="folder for the tables and the record")
        each.add_argument(
            "--precision",
            nargs="+",
            type=Precision,
            choices=list(Precision),
            default=list(Precision),
            help="default: both",
        )
        each.add_argument("--integer", type=Path, help="a folder from `veil import` instead of the cache's")
        each.add_argument("--threads", type=_positive, default=1, help="threads of torch (default 1)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _run(asked: argparse.Namespace) -> Sequence[Recorded]:
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    started, results, lines = time.monotonic(), list[Recorded](), list[str]()
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading")

        def told(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        for result in MEASURED[asked.kind](asked, told):
            results.append(result)
            about = report.notes(asked.source.name, time.monotonic() - started)
            lines = report.write(asked.kind, results, about, asked.out)
    print("\n".join(lines))
    decoders = [result for result in results if isinstance(result, decoding.Result)]
    if decoders:
        report.plot(decoders, asked.out / "gaps.png")
    return results


def _folders(asked: argparse.Namespace, told: Progress) -> list[Path]:
    """Return the folders of the integer files that are measured."""
    if asked.integer:
        return [asked.integer]
    return [resolve(asked.source, precision, lambda line: told(line, 0, 1)) for precision in asked.precision]


def _loaded(folder: Path, decoder: bool) -> Model:
    model = load(folder / INTEGER_FILE)
    if isinstance(model.shape, DecoderShape) != decoder:
        right = "encoder or classifier" if decoder else "decoder"
        raise Unusable(f"{folder} is of the other structure: use the command {right}")
    return model


def _decoder(asked: argparse.Namespace, told: Progress) -> Iterator[Recorded]:
    models = [_loaded(folder, decoder=True) for folder in _folders(asked, told)]
    original = sources.floats(asked.source, AutoModelForCausalLM)
    context = models[0].shape.context
    given = decoding.prepared(asked.source, asked.text, asked.positions, context, asked.new_tokens)
    for model in models:
        yield from decoding.measure(model, original, given, told)


def _encoder(asked: argparse.Namespace, told: Progress) -> Iterator[Recorded]:
    texts = sources.sentences(asked.sentences, asked.count)
    models = [_loaded(folder, decoder=False) for folder in _folders(asked, told)]
    original = sources.floats(asked.source, AutoModel)
    tokens = encoding.cut(sources.tokenizer(asked.source), texts, models[0].shape.context)
    for model in models:
        yield from encoding.embeddings(model, original, tokens, told)


def _classifier(asked: argparse.Namespace, told: Progress) -> Iterator[Recorded]:
    found = sources.labelled(asked.tsv)
    folders = _folders(asked, told)
    models = [_loaded(folder, decoder=False) for folder in folders]
    original = sources.floats(asked.source, AutoModelForSequenceClassification)
    cutter = sources.tokenizer(asked.source)
    tokens = encoding.cut(cutter, found.texts, models[0].shape.context)
    for folder, model in zip(folders, models, strict=True):
        words = encoding.integer_logits(model, tokens, told)
        yield from encoding.labels(model, words, original, tokens, found.labels, told)
        if asked.table:
            chosen = asked.table, asked.epsilon
            yield sanitized.measure(folder, model, cutter, found, words, chosen, told)


MEASURED: Final[Mapping[str, Callable[[argparse.Namespace, Progress], Iterator[Recorded]]]] = {
    "decoder": _decoder,
    "encoder": _encoder,
    "classifier": _classifier,
}
"""What each command measures."""

if __name__ == "__main__":
    sys.exit(main())
