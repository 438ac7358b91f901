"""How Sphinx builds the site: ``make docs``."""

import sys
from pathlib import Path

from pygments.lexers import TextLexer

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

from rlsd.version import __version__  # noqa: E402

project, author, release = "rlsd", "rlsd contributors", __version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
exclude_patterns = ["_build", "results/*"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks show the outputs that are committed; a test executes them
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what matters of them
# Pages lead to files of the sources, which are no part of the site.
suppress_warnings = ["myst.xref_missing"]


def setup(app):
    """Show pictures in mermaid's language as the text that they are written in."""
    app.add_lexer("mermaid", TextLexer)
