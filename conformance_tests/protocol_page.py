"""The tables of the plug-in protocol in spec/wire.md, and its schema, made from `veil_conformance.protocol`.

`python conformance_tests/protocol_page.py --write` writes both; without it, it says what is not current.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from veil_conformance import protocol

PAGE: Final = "spec/wire.md"
SCHEMA: Final = "conformance_tests/veil_conformance/vectors/protocol.json"
MARK: Final = "<!-- {}: written by make spec -->\n"
"""Stands before what is made; `END` stands after it."""
END: Final = "<!-- end -->\n"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with each part between its marks; ValueError where a mark is missing."""
    for name, text in parts.items():
        between = re.compile(re.escape(MARK.format(name)) + ".*?" + re.escape(END), re.DOTALL)
        page, count = between.subn(lambda _, n=name, t=text: f"{MARK.format(n)}{t}\n{END}", page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{PAGE} has {count} places for {name}")
    return page


def made(root: Path) -> dict[str, str]:
    """Return the text that each file should have."""
    parts = {
        "values": protocol.kinds_table(),
        "operations": protocol.operations_table(),
        "refusals": protocol.refusals_list(),
    }
    return {PAGE: filled((root / PAGE).read_text("utf-8"), parts), SCHEMA: protocol.schema()}


def problems(root: Path) -> list[str]:
    """Return one line for each file that is not what `make spec` writes."""
    paths = {name: root / name for name in made(root)}
    texts = {name: path.read_text("utf-8") if path.is_file() else "" for name, path in paths.items()}
    return [
        f"{name} is not current: run make spec" for name, text in made(root).items() if texts[name] != text
    ]


def main() -> int:
    """Return 0 where everything is current, or was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write both")
    root = Path(__file__).resolve().parent.parent
    if parser.parse_args().write:
        for name, text in made(root).items():
            (root / name).write_text(text, "utf-8")
        return 0
    found = problems(root)
    print("\n".join([*found, f"{len(found)} problems"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
