"""The documentation site: `make docs` writes it to build/site."""

import importlib.metadata
import re
from types import GenericAlias

import numpy.typing
from sphinx.ext.napoleon import GoogleDocstring

from geomatch.cli import app as command
from geomatch.cli.help import add_help

add_help(command)  # examples, which only help needs otherwise
# signatures have these names, and not what they stand for, which fills lines
of_numpy = {"__module__": "numpy.typing", "__class_getitem__": classmethod(GenericAlias)}
numpy.typing.ArrayLike, numpy.typing.NDArray = (type(name, (), of_numpy) for name in ("ArrayLike", "NDArray"))

project, release = "geomatch", importlib.metadata.version("geomatch-dift")
project_copyright = "the geomatch authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "py:obj"  # links names in docstrings where they are on the site
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
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
    """Examples of a command are code, defaults what is typed, sections of docstrings fields."""

    def as_code(_app, _context, lines):
        code = [f"    {line}" for line in lines[1:] if line]
        lines[:] = ["Examples::", "", *code] if code else []

    def as_fields(_app, what, _name, _object, _options, lines):
        if what not in ("attribute", "property"):  # where napoleon takes what is before a colon for a type
            lines[:] = GoogleDocstring(lines, what=what).lines()

    def without_arguments(_app, _what, _name, found, *_):
        return ("", None) if getattr(found, "_is_protocol", False) else None

    def as_typed(_app, _context, lines):
        lines[:] = [re.sub(r":default: ``\w*\(?'(.*?)'\)?``", r":default: ``\1``", line) for line in lines]

    app.connect("sphinx-click-process-epilog", as_code)
    app.connect("sphinx-click-process-options", as_typed)
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-process-signature", without_arguments)
