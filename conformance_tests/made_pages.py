"""Pages that are made: the tables of the plug-in protocol in spec/wire.md, its schema, a list for each class.

`python conformance_tests/made_pages.py --write` writes them; without it, it says what is not current.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import traceability
from veil_conformance import protocol
from veil_conformance.classes import CLASSES, Class
from veil_conformance.process import TAPES
from veil_spec import __version__

PAGE: Final = "spec/wire.md"
SCHEMA: Final = "conformance_tests/veil_conformance/vectors/protocol.json"
CHECKLISTS: Final = "conformance_tests/classes"
MARK: Final = "<!-- {}: written by make spec -->\n"
"""Stands before what is made; `END` stands after it."""
END: Final = "<!-- end -->\n"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with each part between its marks; ValueError where a mark is missing."""
    for name, text in parts.items():
        start = MARK.format(name)
        head, found, rest = page.partition(start)
        _, ended, tail = rest.partition(END)
        if not found or not ended or start in tail:
            raise ValueError(f"{PAGE} has not one place for {name}")
        page = f"{head}{start}{text}\n{END}{tail}"
    return page


def checklist(each: Class, requirements: Mapping[str, traceability.Requirement]) -> str:
    """Return the page of a class: what it is for, how it is claimed, and what it has to fulfil."""
    operations = sorted(each.operations | ({"word"} if each.operations & set(TAPES) else set()))
    needed = ", ".join(f"`{name}`" for name in operations)
    command = f"python -m veil_conformance --impl NAME --class {each.name}"
    lines = [
        f"# {each.name}",
        "",
        f"{each.purpose} An implementation claims this class by claiming these operations: {needed}.",
        "",
        f"It fulfils it if `{command}` ends with status 0 and "
        f"the line `Veil {__version__} · {each.name} PASS`, followed by the suite's hash.",
        "",
    ]
    for name in each.requirements:
        requirement = requirements[name]
        by = [f"`{o}`" for o in operations if name in protocol.OPERATIONS[o].requirements]
        page = requirement.path.removeprefix("spec/")
        lines.append(f"- [ ] **{name}** ({', '.join(by)}), {page}: {requirement.text}")
    return "\n".join(lines) + "\n"


def made(root: Path) -> dict[str, str]:
    """Return the text that each page should have."""
    parts = {
        "values": protocol.kinds_table(),
        "operations": protocol.operations_table(),
        "refusals": protocol.refusals_list(),
    }
    page = (root / PAGE).read_text("utf-8")
    specified = {
        requirement.id: requirement
        for requirement in traceability.requirements(
            {
                path.relative_to(root).as_posix(): path.read_text("utf-8")
                for path in (root / "spec").glob("*.md")
            }
        )
    }
    lists = {f"{CHECKLISTS}/{name}.md": checklist(each, specified) for name, each in CLASSES.items()}
    return {PAGE: filled(page, parts), SCHEMA: protocol.schema()} | lists


def problems(root: Path) -> list[str]:
    """Return one line for each page that is not what `make spec` writes, or that nothing makes."""
    wanted = made(root)
    texts = {name: path.read_text("utf-8") for name in wanted if (path := root / name).is_file()}
    found = [f"{n} is not current: run make spec" for n, text in wanted.items() if texts.get(n) != text]
    pages = {path.relative_to(root).as_posix() for path in (root / CHECKLISTS).glob("*")}
    return found + [f"{name} belongs to no class: remove it" for name in sorted(pages - set(wanted))]


def main() -> int:
    """Return 0 where every page is current, or was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write them")
    root = Path(__file__).resolve().parent.parent
    if parser.parse_args().write:
        (root / CHECKLISTS).mkdir(exist_ok=True)
        for name, text in made(root).items():
            (root / name).write_text(text, "utf-8")
        return 0
    found = problems(root)
    print("\n".join([*found, f"{len(found)} problems"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
