"""Sphinx configuration: `make docs` builds the site into build/docs, without network access."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from imitact.core.version import __version__

project = "imitact"
version = release = __version__
copyright = "the imitact authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "other_pages",
    "page_links",
    "mathml",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

default_role = "literal"  # `code` in docstrings
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"imitact {__version__}"
html_static_path = ["_static"]
html_css_files = ["imitact.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f6feb",
        "color-brand-content": "#1f6feb",
        "color-brand-visited": "#1f6feb",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6cb0ff",
        "color-brand-content": "#6cb0ff",
        "color-brand-visited": "#6cb0ff",
    },
}
highlight_language = "text"  # of blocks that name no language
pygments_style = "friendly"
pygments_dark_style = "github-dark"
