"""The documentation, run as it is written: every command of a tutorial, and what the page says it prints.

`make docs` runs this after it has built the site.
"""

import doctest
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt

import trace_links
import traceability

ROOT: Final = Path(__file__).resolve().parent.parent
TUTORIALS: Final = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
CAPTION: Final = ":caption: "
LOOSELY: Final = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
"""In what a page says is printed, three dots stand for anything, and white space is all the same."""
MOST_SECONDS: Final = 3600
"""For one block: the first audit of a machine is among them."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fence: `sh` is run, `text` is what the commands before it print, `python` with a name is a file."""

    kind: str
    name: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Return the fences of a page in order."""
    found = []
    for token in MarkdownIt().parse(page):
        if token.type == "fence" and token.map is not None:
            head, _, rest = token.content.partition("\n\n")
            named = head.startswith(CAPTION)
            text = rest if named else token.content
            kind = token.info.split()[-1] if token.info else ""
            found.append(Block(kind, head.removeprefix(CAPTION) if named else "", text, token.map[0] + 1))
    return found


def faults(page: str, folder: Path) -> list[str]:
    """Return what is not as the page says, having written its files and run its commands in a folder."""
    found, printed = [], ""
    for block in blocks(page):
        if block.name:
            (folder / block.name).write_text(block.text, "utf-8")
        elif block.kind == "sh":
            status, printed = run(block.text, folder)
            found += [f"line {block.line}: exit status {status}: {printed}"] if status else []
        elif block.kind == "text" and not doctest.OutputChecker().check_output(block.text, printed, LOOSELY):
            found.append(f"line {block.line}: prints\n{printed}")
    return found


def run(commands: str, folder: Path) -> tuple[int, str]:
    """Return the exit status of commands in a folder, and all that they print; the first that fails ends."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "VEIL": str(ROOT), "COLUMNS": "120"}
    ended = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=MOST_SECONDS,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    assert any(block.kind == "sh" for block in blocks(text))
    assert faults(text, tmp_path) == []


@pytest.mark.parametrize(
    "page",
    [
        "```sh\necho one\n```\n\n```text\ntwo\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "```{code-block} python\n:caption: a.py\n\nprint(1)\n```\n```sh\npython a.py\n```\n```text\n2\n```\n",
    ],
    ids=["another output", "a command that fails", "a file that prints something else"],
)
def test_negative_control_a_tutorial_that_says_something_else(page: str, tmp_path: Path) -> None:
    assert faults(page, tmp_path)


def test_every_module_of_the_specification_and_the_reference_has_its_page() -> None:
    pages = "".join(page.read_text("utf-8") for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    for folder in ("spec/veil_spec", "reference/veil_reference"):
        for path in sorted((ROOT / folder).glob("*.py")):
            module = traceability.module_name(path.relative_to(ROOT).as_posix())
            assert path.stem == "__init__" or f".. automodule:: {module}\n" in pages, module


def test_every_requirement_links_to_what_answers_for_it() -> None:
    """On the built page, under each sentence, every cell of the traceability table is a link."""
    tree = trace_links.Tree(traceability.read(ROOT))
    built = ROOT / "build" / "docs"
    for requirement in traceability.requirements(tree.files):
        page = (built / f"{requirement.path.removesuffix('.md')}.html").read_text("utf-8")
        assert f'id="{requirement.id}"' in page, requirement.id
        for cited in (each for cell in tree.answers[requirement.id].values() for each in cell):
            place = tree.code[cited.name]
            anchor = f"#{place.anchor}" if place.anchor else ""
            assert f'href="../{place.page}.html{anchor}">{cited.name}</a>' in page, (
                requirement.id,
                cited.name,
            )
