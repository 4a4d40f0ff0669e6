"""The site: `make docs` builds it. Nothing is fetched from a network, by the build or by whoever reads the pages."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

HERE = Path(__file__).parent
# The finished study that scripts of the gallery open: the repository's own, or another one.
os.environ["CINECUBE_STUDY"] = os.path.abspath(os.environ.get("CINECUBE_STUDY", HERE.parent))

project = "cinecube"
author = copyright = "cinecube developers"
version = release = importlib.metadata.version("cinecube")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]  # scripts; their pages are in `examples`

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as GitHub links them

# Types in docstrings are words, such as `array` or `shape (row,)`: only dotted names have to be those of something.
nitpick_ignore_regex = [("py:class", r"[^.]*")]
# For the picture function below; without a cache of the settings every build is a whole one.
suppress_warnings = ["config.cache"]

default_role = "code"  # docstrings and help texts have single backquotes, as Markdown has
autodoc_typehints = "none"  # docstrings say types in words, with the names of axes
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_use_param = False  # types in words are no names to link
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "cinecube"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "cinecube"},
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def _drawn_without_pyplot(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """The picture of `axes` that a function of cinecube returned, which pyplot, where the gallery looks, knows not."""
    known = block_vars["example_globals"]
    axes = known.pop("axes", None)
    if not isinstance(axes, Axes) or axes.figure.canvas.manager:  # which figures of pyplot have
        return ""
    path = next(block_vars["image_path_iterator"])
    axes.figure.savefig(path, dpi=110, bbox_inches="tight")
    return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "image_scrapers": (_drawn_without_pyplot, "matplotlib"),  # pyplot's figures are closed by the second
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
    "abort_on_example_error": True,
    "run_stale_examples": True,  # their study may be another than before
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # seconds of this machine say nothing
    "write_computation_times": False,
}


def _help_as_pages(app: Sphinx, ctx: Any, lines: list[str]) -> None:
    """Help texts as reStructuredText: options as code, `--rows` would have a dash, and examples as a block of it."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith(("..", ":", "|")):
            lines[i] = re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"``\g<0>``", line)
    start = next((i for i, line in enumerate(lines) if line.strip() in ("| Example:", "| Examples:")), len(lines))
    examples = [f"    {line.strip().removeprefix('|').strip()}" for line in lines[start + 1 :]]
    lines[start:] = ["Example::", "", *examples] if examples else []


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    for part in ("description", "options", "arguments"):
        app.connect(f"sphinx-click-process-{part}", _help_as_pages)
