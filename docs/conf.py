"""Sphinx's configuration: ``make docs``."""

from __future__ import annotations

import alf

project = "alf"
author = "The alf developers"
copyright = author  # noqa: A001  (Sphinx's own name for it)
release = version = alf.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"alf {release}"
html_static_path = ["_static"]
html_css_files = ["alf.css"]
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
