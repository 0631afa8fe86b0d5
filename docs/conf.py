"""The documentation site: `make docs` writes it to build/site."""

import importlib.metadata
from types import GenericAlias

import numpy.typing

# signatures have these names, and not what they stand for, which fills lines
numpy.typing.ArrayLike = type("ArrayLike", (), {})
numpy.typing.NDArray = type("NDArray", (), {"__class_getitem__": classmethod(GenericAlias)})

project, release = "geomatch", importlib.metadata.version("geomatch-dift")
project_copyright = "the geomatch authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "py:obj"  # links names in docstrings where they are on the site
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "geomatch"
html_copy_source = False
