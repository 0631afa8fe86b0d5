"""The documentation site: `make docs` writes it to build/site."""

import importlib.metadata
from types import GenericAlias

import numpy.typing

from geomatch.cli import app as command
from geomatch.cli.help import add_help

add_help(command)  # examples, which only help needs otherwise
# signatures have these names, and not what they stand for, which fills lines
numpy.typing.ArrayLike = type("ArrayLike", (), {})
numpy.typing.NDArray = type("NDArray", (), {"__class_getitem__": classmethod(GenericAlias)})

project, release = "geomatch", importlib.metadata.version("geomatch-dift")
project_copyright = "the geomatch authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "py:obj"  # links names in docstrings where they are on the site
autodoc_member_order = "bysource"
smartquotes = False  # two hyphens are those of an option
html_theme = "furo"
html_title = "geomatch"
html_copy_source = False
html_static_path = html_css_files = ["site.css"]
# code and tables that are wider than the page can be scrolled with the keyboard
html_js_files = [(None, {"body": """addEventListener("load", () => {
  for (const box of document.querySelectorAll("pre, .table-wrapper"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
});"""})]  # fmt: skip


def setup(app):
    """Examples at the end of a command's help are code."""

    def as_code(_app, _context, lines):
        code = [f"    {line}" for line in lines[1:] if line]
        lines[:] = ["Examples::", "", *code] if code else []

    app.connect("sphinx-click-process-epilog", as_code)
