"""How Sphinx makes the site: the pages of this folder, and those of the other rooms where they stand."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("docs", "spec", "reference", "optimized", "app", "conformance_tests")
sys.path[:0] = [str(ROOT / source) for source in SOURCES]

from veil_spec import __version__  # noqa: E402

project = "Veil"
version = release = __version__
html_title = f"Veil {__version__}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "trace_links"]

root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "README.md",
    "docs/**",
    "*/README.md",
    "spec/*.md",
    "conformance_tests/*.md",
    "conformance_tests/classes/*.md",
    "benchmarks/*.md",
    "benchmarks/*/*.md",
]
exclude_patterns = [".*", "build", "dist", "*.egg-info"]

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_copy_source = False
html_show_copyright = False
