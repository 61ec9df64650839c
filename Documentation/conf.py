# SPDX-License-Identifier: LGPL-2.1 OR MIT
# sphinx-build -W -b html Documentation out/doc
import pathlib

project = "upreempt"
author = "The upreempt authors"
copyright = author
version = release = (pathlib.Path(__file__).parent.parent / "VERSION").read_text().strip()

root_doc = "index"
exclude_patterns = ["man"]
highlight_language = "c"
html_theme = "alabaster"
html_theme_options = {"page_width": "70em"}
