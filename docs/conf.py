"""The site: Sphinx, because the reference is made of docstrings and every warning is an error; furo, dark and light."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import sst_cvx

project, author, release = "sst-cvx", "the sst-cvx developers", sst_cvx.__version__
copyright = "2026, the sst-cvx developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", "sst-cvx"
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
toc_object_entries_show_parents = "hide"
autodoc_preserve_defaults = True
autosummary_generate = True
napoleon_numpy_docstring = False
napoleon_preprocess_types = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
