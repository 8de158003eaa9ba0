"""Sphinx's configuration: ``make docs``."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer

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
autodoc_typehints = "signature"
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Names of other projects that the pages refer to. Intersphinx would fetch their inventories at
# every build, which fails without a network; these few addresses do not change.
REQUESTS = "https://requests.readthedocs.io/en/latest/api/#requests."
URLLIB3 = "https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util."
PYTHON = "https://docs.python.org/3/library/"
ELSEWHERE = {
    "requests.exceptions.RequestException": f"{REQUESTS}RequestException",
    "requests.RequestException": f"{REQUESTS}RequestException",
    "requests.models.Response": f"{REQUESTS}Response",
    "requests.models.PreparedRequest": f"{REQUESTS}PreparedRequest",
    "requests.Session": f"{REQUESTS}Session",
    "requests.sessions.Session": f"{REQUESTS}Session",
    "requests.Session.request": f"{REQUESTS}Session.request",
    "requests.Session.send": f"{REQUESTS}Session.send",
    "urllib3.util.retry.Retry": f"{URLLIB3}Retry",
    "contextvars": f"{PYTHON}contextvars.html#module-contextvars",
    "email.message.Message": f"{PYTHON}email.compat32-message.html#email.message.Message",
    "os.PathLike": f"{PYTHON}os.html#os.PathLike",
    **{
        f"collections.abc.{name}": f"{PYTHON}collections.abc.html#collections.abc.{name}"
        for name in ("Callable", "Collection", "Generator", "Iterator", "Mapping", "Sequence")
    },
}


def link_elsewhere(_app: Any, _env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Link a name of another project to its documentation."""
    url = ELSEWHERE.get(node["reftarget"])
    return None if url is None else nodes.reference("", "", content, internal=False, refuri=url)


def name_client(*arguments: Any) -> tuple[str | None, str | None] | None:
    """Show ``Client`` in a signature, not the type variable for it and its subclasses."""
    *_, signature, returned = arguments
    if not isinstance(returned, str) or not returned.endswith("_C"):
        return None
    return signature, "Client"


def setup(app: Any) -> None:
    app.connect("missing-reference", link_elsewhere)
    app.connect("autodoc-process-signature", name_client)
    # Show the parameters of a Client, not the overloads that type checkers read.
    analyzer = ModuleAnalyzer.for_module("alf.client")
    analyzer.analyze()
    analyzer.overloads.clear()
