"""A Sphinx extension: links every ID to its line in the specification, and every name of code to its source.

Below the line of a requirement stands what answers for it, as spec/TRACEABILITY.md has it. All of it comes
from `traceability`, which `make check` runs: there is nothing here to keep up to date.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

import traceability

ID: Final = re.compile(rf"\b{traceability.ID}\b")
DOTTED: Final = re.compile(r"[a-z_]+(\.\w+)+|[\w/]+\.py")
"""A literal that may name a function, a class, a module or a Python file."""
UNLINKED: Final = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.raw)
"""What keeps an ID in its text as it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """A page without its suffix, and an anchor on it or nothing."""

    page: str
    anchor: str = ""


Link = Callable[[str, Place], nodes.reference]
"""Returns a link with this text to a place, from the page at hand."""


@dataclass(frozen=True)
class Tree:
    """What there is to link to."""

    files: traceability.Files

    @cached_property
    def defined(self) -> dict[str, Place]:
        """Return where each ID is defined."""
        return {each.id: Place(_page(each.path), each.id) for each in traceability.requirements(self.files)}

    @cached_property
    def answers(self) -> dict[str, dict[str, list[traceability.Citation]]]:
        """Return what answers for each ID."""
        return traceability.answers(self.files)

    @cached_property
    def code(self) -> dict[str, Place]:
        """Return the sources of all that has a name: definitions, modules, mutants, files by their paths."""
        found: dict[str, Place] = {}
        for path in self.sources:
            module = traceability.module_name(path)
            found |= {name: Place(_source(path)) for name in (*_endings(path), module)}
            for definition in traceability.parse(self.files[path]).definitions:
                found[f"{module}.{definition.name}"] = Place(_source(path), f"L-{definition.first}")
        for columns in self.answers.values():
            for citation in (each for column in columns.values() for each in column):
                found.setdefault(citation.name, Place(_source(citation.path)))
        return found

    @cached_property
    def sources(self) -> list[str]:
        """Return the paths of all Python files."""
        return sorted(path for path in self.files if path.endswith(".py"))


def _page(path: str) -> str:
    return path.rsplit(".", 1)[0]


def _source(path: str) -> str:
    return f"source/{_page(path)}"


def _endings(path: str) -> Iterator[str]:
    """Yield every way to name a file by the end of its path."""
    parts = PurePosixPath(path).parts
    return ("/".join(parts[first:]) for first in range(len(parts)))


def _read(app: Sphinx) -> None:
    app.veil_tree = Tree(traceability.read(Path(app.srcdir)))


def _linked(app: Sphinx, page: nodes.document, docname: str) -> None:
    """Add the links of one page."""
    tree: Tree = app.veil_tree

    def link(text: str, place: Place) -> nodes.reference:
        target = app.builder.get_relative_uri(docname, place.page)
        uri = f"{target}#{place.anchor}" if place.anchor else target
        return nodes.reference("", text, refuri=uri, internal=True)

    _link_ids(page, docname, tree, link)
    _link_code(page, tree, link)
    _add_traces(page, docname, tree, link)


def _link_ids(page: nodes.document, docname: str, tree: Tree, link: Link) -> None:
    for text in list(page.findall(nodes.Text)):
        if not _inside(text, UNLINKED) and not _defines(text.parent, tree, docname):
            parts = [part for part in re.split(f"({ID.pattern})", text.astext()) if part]
            made = [
                link(part, tree.defined[part]) if part in tree.defined else nodes.Text(part) for part in parts
            ]
            if any(isinstance(part, nodes.reference) for part in made):
                text.parent.replace(text, made)


def _link_code(page: nodes.document, tree: Tree, link: Link) -> None:
    for literal in list(page.findall(nodes.literal)):
        place = tree.code.get(literal.astext()) if DOTTED.fullmatch(literal.astext()) else None
        if place is not None and not _inside(literal, (nodes.reference, nodes.title)):
            reference = link("", place)
            literal.replace_self(reference)
            reference += literal


def _add_traces(page: nodes.document, docname: str, tree: Tree, link: Link) -> None:
    """Give each line that defines an ID its anchor, and put below it what answers for it."""
    for strong in list(page.findall(nodes.strong)):
        if _defines(strong, tree, docname):
            paragraph, name = strong.parent, strong.astext()
            paragraph["ids"].append(name)
            paragraph.parent.insert(paragraph.parent.index(paragraph) + 1, _trace(name, tree, link))


def _inside(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _defines(node: nodes.Node, tree: Tree, docname: str) -> bool:
    """Return whether a node is the bold ID at the start of the line that defines it."""
    place = tree.defined.get(node.astext())
    if place is None or place.page != docname or not isinstance(node, nodes.strong):
        return False
    return isinstance(node.parent, nodes.paragraph) and node.parent.astext().startswith(node.astext())


def _trace(name: str, tree: Tree, link: Link) -> nodes.container:
    """Return one line for each column of the table that has something."""
    box = nodes.container(classes=["trace"])
    for column, cited in tree.answers[name].items():
        if cited:
            line = nodes.paragraph("", f"{column}: ")
            for number, citation in enumerate(cited):
                line += [nodes.Text(", " if number else ""), link(citation.name, tree.code[citation.name])]
            box += line
    return box


def _sources(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield a page for every Python file, with an anchor for every line."""
    tree: Tree = app.veil_tree
    form = HtmlFormatter(lineanchors="L", linenos="inline")
    for path in tree.sources:
        body = highlight(tree.files[path], PythonLexer(), form)
        yield _source(path), {"title": path, "body": f"<h1>{path}</h1>{body}"}, "page.html"


def _docstring(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Turn a docstring of this house, plain text with `literals`, into reStructuredText."""
    parts = re.split(r"(`[^`]+`)", "\n".join(lines))
    marked = (f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts)
    lines[:] = "".join(marked).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Return what Sphinx wants to know of an extension."""
    app.connect("builder-inited", _read)
    app.connect("doctree-resolved", _linked)
    app.connect("html-collect-pages", _sources)
    app.connect("autodoc-process-docstring", _docstring)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
