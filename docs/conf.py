"""The site: Sphinx builds it from the Markdown beside this file, and from the docstrings of the package."""

import re
from importlib.metadata import version as version_of
from typing import Any

from click import Context
from sphinx.application import Sphinx

from flask_phoenix.cli.commands import phoenix

#: Where the page of commands wants what they say of themselves.
COMMANDS = "<!-- commands: the site puts them here -->"

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
autodoc_preserve_defaults = True
#: Types that are told by their names.
autodoc_type_aliases = {name: name for name in ("Result", "NewMeta", "Presences", "Frame", "Expected")}
#: What the engine calls, and no author.
INTERNAL = """
    bind channels conflation declared_events entrances error_handlers handlers interceptors intercepts match read_in
    read_join read_out read_params runtime server
"""
autodoc_default_options = {"exclude-members": ", ".join(INTERNAL.split())}
add_module_names = False
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


def add_commands(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what each command says of itself where the page of commands wants it."""
    if page == "reference/cli":
        context = Context(phoenix, info_name="flask phoenix")
        told = [
            f"### {name}\n\n```text\n{command.get_help(Context(command, context, info_name=name))}\n```\n"
            for name in phoenix.list_commands(context)
            if (command := phoenix.get_command(context, name))
        ]
        source[0] = source[0].replace(COMMANDS, "\n".join(told))


def shorten(app: Sphinx, kind: str, name: str, target: object, options: object, signature: str, returns: str) -> Any:
    """Write no arguments of what authors do not make themselves, and none that another page lists."""
    if name.rpartition(".")[2] in ("Channel", "Socket", "RawSocket", "Joined", "SocketRef"):
        return "", None
    if name == "flask_phoenix.Phoenix.socket":
        return "(at: str, /, *, blueprint: Blueprint | None = None, **options: Any)", returns
    named = [part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in (signature, returns)]
    return tuple(named)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_toctree)
    app.connect("source-read", add_commands)
    app.connect("autodoc-process-signature", shorten)
