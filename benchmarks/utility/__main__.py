"""`python -m benchmarks.utility`: accuracy of sanitized text against epsilon and against Bayes recovery."""

import argparse
import sys
import time
from pathlib import Path

import torch
from benchmarks.utility import experiment, report
from benchmarks.utility.bench import Bench
from benchmarks.utility.corpus import Corpus, reviews, sst2
from benchmarks.utility.packages import Unusable
from benchmarks.utility.settings import title
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 after one line that says what is wrong and what to do."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    try:
        corpus = sst2(asked.sst2) if asked.sst2 else reviews()
        for place in (asked.cache, asked.out):
            place.mkdir(parents=True, exist_ok=True)
        _run(corpus, asked)
    except (Unusable, OSError) as error:
        print(f"benchmarks.utility: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utility", description=__doc__)
    parser.add_argument(
        "--sst2", type=Path, help="folder with train.tsv and dev.tsv; without it: movie reviews"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for weights and accuracies, kept")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.md, plot.png")
    parser.add_argument("--seeds", type=_positive, default=5, help="draws of every setting (default 5)")
    parser.add_argument("--threads", type=_positive, default=1, help="threads of torch (default 1)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _run(corpus: Corpus, asked: argparse.Namespace) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started, results = time.monotonic(), []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("loading")

        def told(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        for result in experiment.run(Bench(corpus, asked.cache, asked.seeds, told)):
            results.append(result)
            progress.console.print(f"{result.mean:.4f}  {title(result.setting)}; {result.trained_on}")
            seconds = round(time.monotonic() - started)
            notes = {
                "corpus": corpus.name,
                "texts": len(corpus.dev),
                "words": experiment.WORDS,
                "seconds": seconds,
            }
            report.write(results, notes, asked.out)
    report.plot(results, asked.out / "plot.png")
    print("\n".join(report.table(sorted(results, key=report.order))))


if __name__ == "__main__":
    sys.exit(main())
