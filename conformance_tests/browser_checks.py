"""The built site in headless Chromium, as wide as a telephone; `make docs-browser` runs this.

It needs Chromium, and fails without it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import unquote, urldefrag

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

SITE: Final = Path(__file__).resolve().parent.parent / "build" / "docs"
"""Its index.html does nothing but lead to the first page."""
TELEPHONE: Final = {"width": 390, "height": 844}
LOOKED_AT: Final = """() => ({
    links: [...document.querySelectorAll("a[href]")].map(each => each.href),
    names: [...document.querySelectorAll("[id]")].map(each => each.id),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
})"""
"""What a page has: its links, the names of its elements, and how much wider than the screen it is."""
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@dataclass
class Seen:
    """What a walk through a site found wrong, and how much it looked at."""

    faults: list[str] = field(default_factory=list)
    names: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, set[str]] = field(default_factory=dict)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Return nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the system's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "Chromium is not installed: there is no way to look at the pages"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        yield started
        started.close()


def walk(browser: Browser, folder: Path) -> Seen:
    """Return what is wrong with the pages of a folder: every one is opened, every link followed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        seen = Seen()
        page = browser.new_page(viewport=TELEPHONE)
        start = f"http://127.0.0.1:{server.server_port}/"
        for path in sorted(set(folder.rglob("*.html")) - {SITE / "index.html"}):
            _look(page, start, path.relative_to(folder).as_posix(), seen)
        page.close()
        server.shutdown()
    for place, links in seen.links.items():
        seen.faults += [
            f"{place}: broken link {link}" for link in sorted(links) if not _leads(link, folder, seen)
        ]
    return seen


def _look(page: Page, start: str, path: str, seen: Seen) -> None:
    said: list[str] = []
    listeners = {
        "console": lambda message: (
            said.append(message.text) if message.type in {"error", "warning"} else None
        ),
        "pageerror": lambda error: said.append(str(error)),
        "response": lambda got: said.append(f"{got.status} {got.url}") if got.status >= 400 else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(start + path, wait_until="load")
    found = page.evaluate(LOOKED_AT)
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    seen.names[path] = set(found["names"])
    seen.links[path] = {link.removeprefix(start) for link in found["links"]}
    seen.faults += [f"{path}: {each}" for each in said]
    if found["wide"] > 0:
        seen.faults.append(f"{path}: {found['wide']} pixels wider than a telephone")


def _leads(link: str, folder: Path, seen: Seen) -> bool:
    """Return whether a link ends at a file, or an element, that is there; other hosts are not asked."""
    path, anchor = urldefrag(link)
    if "://" in path or path.startswith("mailto:"):
        return True
    path = unquote(path) or "index.html"
    return unquote(anchor) in seen.names.get(path, ()) if anchor else (folder / path).is_file()


def test_no_page_has_a_broken_link_an_error_or_anything_wider_than_a_telephone(browser: Browser) -> None:
    seen = walk(browser, SITE)
    assert len(seen.names) > 100
    links = sum(map(len, seen.links.values()))
    print(f"{len(seen.names)} pages, {links} links")
    assert seen.faults == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "broken link"),
        ('<a href="#gone">x</a>', "broken link"),
        ("<script>console.error('oh')</script>", "oh"),
        ("<script>throw new Error('ah')</script>", "ah"),
        ('<div style="width: 500px">x</div>', "pixels wider"),
        ('<img src="gone.png">', "404"),
    ],
)
def test_negative_control_a_page_with_a_fault(
    browser: Browser, tmp_path: Path, body: str, fault: str
) -> None:
    head = '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    (tmp_path / "index.html").write_text(f"<!doctype html><head>{head}</head><body>{body}</body>", "utf-8")
    assert any(fault in each for each in walk(browser, tmp_path).faults)
