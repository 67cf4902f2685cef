"""Configuration of Sphinx: ``sphinx-build -W docs docs/_build`` makes the site, which loads nothing from elsewhere."""

from __future__ import annotations

import visionagents_runner

project = "visionagents_runner"
author = "the maintainers of visionagents_runner"
copyright = f"2026, {author}"  # noqa: A001
version = release = visionagents_runner.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4  # as GitHub makes them, so that links to headings work there too
suppress_warnings = ["myst.header"]
smartquotes = False  # sentences of the code are copied into a search, and code into a terminal

html_theme = "furo"
html_title = "visionagents_runner"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_permalinks_icon = "#"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
_fonts = {"font-stack": "system-ui, sans-serif", "font-stack--monospace": "ui-monospace, monospace"}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1a5fb4", "color-brand-content": "#1a5fb4", **_fonts},
    "dark_css_variables": {"color-brand-primary": "#8ab8f0", "color-brand-content": "#8ab8f0"},
    "footer_icons": [],
}
