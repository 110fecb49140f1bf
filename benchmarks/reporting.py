"""The report of a run: its figures as text, JSON, Markdown and one page with plots."""

import json
import os
import platform
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from benchmarks import plots, ratios
from benchmarks.growth import Curve
from benchmarks.ratios import Figure, timed_text
from benchmarks.splitting import Split
from jinja2 import Environment, FileSystemLoader, select_autoescape

from veil_optimized import kernels, steps

GROWTH: Final = ("cost", "series", "size", "exponent", "at the end", "why")
UNITS: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


@dataclass
class Section:
    """What one module of benchmarks found."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tables(self) -> list[tuple[Sequence[str], list[list[str]]]]:
        """Return the head and the rows of every table that is not empty."""
        parts = [*dict.fromkeys(name for split in self.splits for name in split.seconds)]
        made: list[tuple[Sequence[str], list[list[str]]]] = [
            (ratios.HEAD, [figure.cells() for figure in self.figures]),
            (
                ("time of a token", *parts),
                [
                    [split.title, *(timed_text(split.seconds.get(name, 0)) for name in parts)]
                    for split in self.splits
                ],
            ),
            (GROWTH, [_grown(curve) for curve in self.curves]),
        ]
        return [(head, rows) for head, rows in made if rows]

    def text(self) -> list[str]:
        """Return the lines for a terminal."""
        lines = [*self.notes, *(ratios.table(self.figures) if self.figures else [])]
        for head, rows in self.tables[bool(self.figures) :]:
            widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
            lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))]
        return lines

    def markdown(self) -> list[str]:
        """Return the lines of the Markdown tables, under a heading."""
        lines = [f"## {self.title}", "", *(line for note in self.notes for line in (note, ""))]
        for head, rows in self.tables:
            every = [head, ["---"] * len(head), *rows]
            lines += [*("| " + " | ".join(cell or " " for cell in row) + " |" for row in every), ""]
        return lines


def _grown(curve: Curve) -> list[str]:
    ends = [shown(cost, curve.unit) for _, cost in (curve.points[0], curve.points[-1])]
    size = f"{curve.axis} {curve.span}: {' to '.join(ends)}"
    return [curve.operation, curve.series, size, f"{curve.exponent:.2f}", f"{curve.last:.2f}", curve.reason]


def shown(cost: float, unit: str) -> str:
    """Return a cost in seconds or bytes with three digits."""
    if unit == "s":
        return timed_text(cost)
    name, scale = next((pair for pair in UNITS if cost >= pair[1]), ("B", 1))
    return f"{cost / scale:.3g} {name}"


@dataclass
class Report:
    """Everything that a run found; `load` holds the machine's load at its beginning."""

    sections: dict[str, Section] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)

    def section(self, title: str) -> Section:
        """Return the section of that title."""
        return self.sections.setdefault(title, Section(title))

    @property
    def filled(self) -> list[Section]:
        """Return the sections that found something."""
        return [part for part in self.sections.values() if part.tables or part.notes]

    def write(self, folder: Path) -> list[Path]:
        """Return the files that are written into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        about = environment() | {"load at start": self.load, "load at end": load_now()}
        pictures = [picture for part in self.filled for picture in plots.drawn(part.splits, part.curves)]
        for name, data in pictures:
            (folder / name).write_bytes(data)
        texts: dict[str, Callable[[], str]] = {
            "report.json": lambda: json.dumps(self._record(about), indent=1) + "\n",
            "table.md": lambda: "\n".join(self._markdown(about)),
            "report.html": lambda: self._page(about, pictures),
        }
        for name, make in texts.items():
            (folder / name).write_text(make(), encoding="utf-8")
        return [folder / name for name in (*texts, *(name for name, _ in pictures))]

    def _record(self, about: dict[str, object]) -> dict[str, object]:
        return {
            "environment": about,
            "figures": [
                figure.record() | {"section": part.title} for part in self.filled for figure in part.figures
            ],
            "splits": [split.record() for part in self.filled for split in part.splits],
            "growth": [curve.record() for part in self.filled for curve in part.curves],
            "notes": [note for part in self.filled for note in part.notes],
        }

    def _markdown(self, about: dict[str, object]) -> Iterator[str]:
        yield from (", ".join(f"{name}: {value}" for name, value in about.items()) + ".", "")
        for part in self.filled:
            yield from part.markdown()

    def _page(self, about: dict[str, object], pictures: Sequence[tuple[str, bytes]]) -> str:
        here = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["j2"])
        )
        shown = [(name, "data:image/png;base64," + b64encode(data).decode()) for name, data in pictures]
        figures = [figure for part in self.filled for figure in part.figures if figure.verdict]
        missed = [figure for figure in figures if figure.verdict == "missed"]
        page = here.get_template("report.html.j2")
        return page.render(about=about, sections=self.filled, pictures=shown, judged=figures, missed=missed)


def load_now() -> float:
    """Return the processes that ran or waited in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def environment() -> dict[str, object]:
    """Return the machine that figures come from, and what of Veil and of torch they use."""
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads of each process": torch.get_num_threads(),
        "torch's instructions": torch.backends.cpu.get_cpu_capability(),
        "kernel": kernels.chosen().name,
        "steps": steps.chosen().name,
        "huge pages": huge_pages.read_text().strip() if huge_pages.exists() else "unknown",
        "versions": ", ".join(
            f"{name} {version(name)}" for name in ("torch", "numpy", "cryptography", "grpcio")
        ),
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()}, {next(names, 'unknown')}"
