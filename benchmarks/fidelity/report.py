"""The tables, the record and the picture of a run."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import exp
from pathlib import Path
from typing import Final, Protocol

import matplotlib as mpl
import torch
from benchmarks.fidelity.decoding import Result
from benchmarks.fidelity.encoding import Embeddings, Labels
from benchmarks.fidelity.measures import GAP_LIMIT, Comparison
from benchmarks.fidelity.sanitized import Split
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from veil_spec import __version__

mpl.use("Agg")

FLOOR: Final = 1e-5
"""Smaller gaps are drawn here."""
LISTED: Final = 8
"""Flips of a comparison that the table shows; the record holds all."""
DECODER: Final = (
    "subject",
    "reference",
    "positions",
    "greedy agreed",
    "widest gap of a flip",
    "max error",
    "rms error",
    "perplexity",
    "reference's",
    "texts identical",
    "target",
)
EMBEDDINGS: Final = ("subject", "reference", "sentences", "mean distance", "max distance", "target")
LABELS: Final = (
    "subject",
    "reference",
    "sentences",
    "labels unlike",
    "widest margin there",
    "max error",
    "rms error",
    "accuracy",
    "reference's",
    "target",
)
SPLIT: Final = (
    "mode split",
    "sentences",
    "texts changed",
    "labels unlike",
    "other words",
    "accuracy",
    "plain's, same texts",
    "plain's, not sanitized",
    "target",
)
FLIPS: Final = ("subject", "reference", "where", "top-two gap", "gap to the token chosen")


class Recorded(Protocol):
    """One row of a table."""

    @property
    def met(self) -> bool:
        """Return whether its target is met, where there is one."""
        ...

    def record(self) -> dict[str, object]:
        """Return its figures for JSON."""
        ...


def notes(source: str, seconds: float) -> dict[str, object]:
    """Return when, where and on what a run took place."""
    return {
        "source": source,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
        "versions": {"veil": __version__} | {name: version(name) for name in ("torch", "transformers")},
        "seconds": round(seconds),
    }


def write(name: str, results: Sequence[Recorded], about: Mapping[str, object], place: Path) -> list[str]:
    """Write NAME.json and NAME.md into the folder, each complete or not at all; return the table's lines."""
    lines = tables(results)
    record = {"notes": about, "results": [result.record() for result in results]}
    _replace(place / f"{name}.json", json.dumps(record, indent=1) + "\n")
    _replace(place / f"{name}.md", "\n".join([*_heading(about), "", *lines]) + "\n")
    return lines


def tables(results: Sequence[Recorded]) -> list[str]:
    """Return the lines of one Markdown table for each kind of result, and one of the flips."""
    decoders = [result for result in results if isinstance(result, Result)]
    parts = (
        (DECODER, [_decoder_cells(result) for result in decoders]),
        (FLIPS, [row for result in decoders for row in _flip_rows(result)]),
        (EMBEDDINGS, [_embedding_cells(result) for result in results if isinstance(result, Embeddings)]),
        (LABELS, [_label_cells(result) for result in results if isinstance(result, Labels)]),
        (SPLIT, [_split_cells(result) for result in results if isinstance(result, Split)]),
    )
    lines = [line for head, rows in parts if rows for line in ["", *_table(head, rows)]]
    return lines[1:]


def _heading(about: Mapping[str, object]) -> list[str]:
    versions = about["versions"]
    assert isinstance(versions, dict)
    kept = ", ".join(f"{name} {number}" for name, number in versions.items())
    return [f"{about['source']}: {about['date']}, {about['machine']}, {kept}, {about['seconds']} s."]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _verdict(judged: bool, met: bool) -> str:
    return ("met" if met else "MISSED") if judged else "none"


def _decoder_cells(result: Result) -> list[str]:
    found, texts = result.forced, result.texts
    return [
        result.subject,
        result.reference,
        f"{found.positions:,}",
        f"{found.positions - len(found.flips):,}",
        f"{found.widest:.4f}" if found.flips else "no flip",
        f"{found.largest_error:.4f}",
        f"{found.rms_error:.5f}",
        f"{exp(found.subject_loss / found.followed):.4f}",
        f"{exp(found.reference_loss / found.followed):.4f}",
        f"{texts.prompts - len(texts.partings)} of {texts.prompts}" if texts else "",
        _verdict(result.judged, result.met),
    ]


def _flip_rows(result: Result) -> list[list[str]]:
    """Return a comparison's flips, widest first: where, and how near the reference was to a tie."""
    found = [(f"position {flip.position}", flip.top_two, flip.lost) for flip in result.forced.flips]
    for parted in result.texts.partings if result.texts else ():
        found.append((f"text {parted.prompt + 1}, token {parted.token + 1}", parted.top_two, parted.lost))
    widest = sorted(found, key=lambda flip: -flip[2])[:LISTED]
    names = [result.subject, result.reference]
    return [[*names, where, f"{top_two:.5f}", f"{lost:.5f}"] for where, top_two, lost in widest]


def _embedding_cells(result: Embeddings) -> list[str]:
    return [
        result.subject,
        result.reference,
        f"{result.sentences:,}",
        f"{result.mean:.1e}",
        f"{result.largest:.1e}",
        _verdict(result.judged, result.met),
    ]


def _label_cells(result: Labels) -> list[str]:
    return [
        result.subject,
        result.reference,
        f"{result.sentences:,}",
        str(result.unlike),
        f"{result.widest:.4f}" if result.unlike else "none unlike",
        f"{result.largest_error:.5f}",
        f"{result.rms_error:.6f}",
        f"{result.subject_accuracy:.4f}",
        f"{result.reference_accuracy:.4f}",
        _verdict(result.judged, result.met),
    ]


def _split_cells(result: Split) -> list[str]:
    return [
        result.precision,
        str(result.sentences),
        str(result.changed),
        str(result.unlike),
        str(result.other_words),
        f"{result.split_accuracy:.4f}",
        f"{result.plain_accuracy:.4f}",
        f"{result.unsanitized_accuracy:.4f}",
        _verdict(True, result.met),
    ]


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw the top-two gap of the subject against that of the reference, a panel for each comparison."""
    figure = Figure(figsize=(4.6 * len(results), 4.8), layout="constrained")
    grid = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axis, result in zip(grid, results, strict=True):
        _panel(axis, result.forced)
        axis.set_title(f"{result.subject}\nagainst {result.reference}", fontsize=10)
        axis.set_xlabel("top-two gap of the reference")
    grid[0].set_ylabel("top-two gap of the subject")
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, found: Comparison) -> None:
    flipped = {flip.position for flip in found.flips}
    pairs = [
        (max(reference, FLOOR), max(subject, FLOOR))
        for reference, subject in zip(found.reference_gaps, found.subject_gaps, strict=True)
    ]
    kept = [pair for place, pair in enumerate(pairs) if place not in flipped]
    crossed = [pair for place, pair in enumerate(pairs) if place in flipped]
    for points, mark, size, colour, name in (
        (kept, "o", 4, "#0b5394", "same token"),
        (crossed, "X", 45, "#cc4125", "flip"),
    ):
        axis.scatter(
            [x for x, _ in points], [y for _, y in points], s=size, marker=mark, color=colour, label=name
        )
    axis.axvline(GAP_LIMIT, color="grey", linestyle="--", linewidth=1, label=f"gap {GAP_LIMIT}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
