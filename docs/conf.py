"""The documentation site: `make docs` builds it, without a network and without a warning."""

import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

project = "efficientnet-pod"
author = "the contributors to efficientnet-pod"
copyright = "the contributors; Apache-2.0"
extensions = ["from_code", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = "efficientnet-pod"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
highlight_language = "none"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_heading_slug_func = "from_code.links.slug"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
suppress_warnings = ["myst.header"]  # parts of a page begin at the level that their place has

# Address of the repository, where files outside of docs/ are linked; a hosted build knows it.
_NAME = os.environ.get("GITHUB_REPOSITORY", "")
_REPOSITORY = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{_NAME}" if _NAME else ""


def setup(app: Any) -> None:
    """Gives the extension the address of the repository."""
    app.add_config_value("repository", _REPOSITORY, "env")
