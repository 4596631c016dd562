"""The site: Sphinx builds it from the Markdown beside this file, and from the docstrings of the package."""

import re
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "flask_phoenix"
author = "flask_phoenix authors"
copyright = f"%Y, {author}"
version = release = version_of(project)

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
#: A block without a language is what a terminal shows.
highlight_language = "text"

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
# Pygments knows no HAProxy.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
#: What the engine calls, and no author.
INTERNAL = """
    bind channels conflation declared_events entrances error_handlers handlers interceptors intercepts match read_join
    read_params runtime server
"""
autodoc_default_options = {"exclude-members": ", ".join(INTERNAL.split())}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
#: The types of parameters: not every one is a public name.
nitpick_ignore_regex = [("py:class", ".*"), ("py:exc", r"[A-Z]\w+Error|werkzeug\..*")]

html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = "flask_phoenix"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "_static/flame.svg"
html_copy_source = False


def add_toctree(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the list of pages in the index of a folder the navigation, too."""
    if page.endswith("/index"):
        pages = "\n".join(re.findall(r"^- \[[^\]]+\]\(([\w-]+)\.md\)", source[0], re.MULTILINE))
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_toctree)
