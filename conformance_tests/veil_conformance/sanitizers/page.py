"""verdicts.json, verdicts.html made from nothing but it, and the table for a terminal."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Final, cast

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from veil_conformance.sanitizers.settings import Settings
from veil_conformance.sanitizers.verdicts import Json

PACKAGE: Final = "veil_conformance.sanitizers"
COLOURS: Final = {
    "REJECTED": "bold red",
    "NOT REJECTED": "green",
    "CRASHED": "bold magenta",
    "NOT RUN": "yellow",
}
COLUMNS: Final = 140
"""Width of the table where the output is no terminal."""
REASON: Final = 240
"""Characters of a reason in the terminal; the page has all of them."""

Fields = Mapping[str, Json]


def content(audits: Sequence[Fields], settings: Settings) -> Fields:
    """Return what verdicts.json holds."""
    verdicts = [verdict for each in audits for verdict in _list(each["verdicts"])]
    return {
        "settings": asdict(settings),
        "audits": list(audits),
        "seconds": sum(cast(float, verdict["seconds"]) for verdict in verdicts),
        "outputs": sum(cast(int, verdict["outputs"]) for verdict in verdicts),
        "false_rejection": sum(
            cast(float, verdict["false_rejection"])
            for each in audits
            if not each["mode"]
            for verdict in _list(each["verdicts"])
        ),
        "unexpected": [each["impl"] for each in audits if each["as_expected"] is False],
    }


def _list(value: Json) -> Sequence[Fields]:
    return cast(Sequence[Fields], value)


def render(held: Fields) -> str:
    """Return the page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files(PACKAGE).joinpath("verdicts.html.j2").read_text("utf-8")).render(
        held
    )


def write(held: Fields, folder: Path) -> None:
    """Write verdicts.json and verdicts.html, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "verdicts.json": json.dumps(held, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "verdicts.html": render(held),
    }
    for name, text in texts.items():
        scratch = folder / f".{name}.part"
        scratch.write_text(text, "utf-8", errors="backslashreplace")
        scratch.replace(folder / name)


def table(held: Fields) -> Table:
    """Return the verdicts for a terminal: of each mode, or of a shipped sanitizer's own mode."""
    made = Table(title="Verdicts", title_justify="left")
    for heading in ("sanitizer", "mode", "verdict"):
        made.add_column(heading, no_wrap=True)
    made.add_column("why, or what would have shown")
    for each in _list(held["audits"]):
        for verdict in _list(each["verdicts"]):
            if not each["mode"] or verdict["mode"] == each["mode"] or verdict["status"] == "CRASHED":
                status, why = str(verdict["status"]), str(verdict["reason"])
                shown = why if len(why) <= REASON else f"{why[:REASON]}..."
                cells = (
                    Text(str(each["name"])),
                    Text(str(verdict["mode"])),
                    Text(status, COLOURS.get(status, "")),
                )
                made.add_row(*cells, Text(shown))
    return made


def publish(audits: Sequence[Fields], settings: Settings, folder: Path) -> None:
    """Write both files, and print the table and where they are."""
    held = content(audits, settings)
    write(held, folder)
    printed = Console(width=None if sys.stdout.isatty() else COLUMNS)
    printed.print(table(held))
    for each in audits:
        if each["as_expected"] is None:
            printed.print(Text(f"{each['name']}: {each['status']}"))
    for impl in cast(Sequence[str], held["unexpected"]):
        printed.print(Text(f"not as it must be: {impl}", "bold red"))
    printed.print(Text(f"report: {folder / 'verdicts.html'}"))
