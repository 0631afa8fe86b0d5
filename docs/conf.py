"""The documentation site: `make docs` writes it to build/site."""

import importlib.metadata

project, release = "geomatch", importlib.metadata.version("geomatch-dift")
project_copyright = "the geomatch authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
myst_heading_anchors = 3
default_role = "py:obj"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "geomatch"
html_copy_source = False
