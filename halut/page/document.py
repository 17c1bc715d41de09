"""report.html: the page's content, scripts and styles in one file."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from halut.errors import HalutError
from halut.io import write_bytes
from halut.page.charts import templates
from halut.page.columns import as_rows
from halut.page.plain import plain_tables

log = logging.getLogger("halut")
SCRIPTS = (
    *("data", "elements", "table", "charts", "summary", "layers", "training", "drawings"),
    *("sites", "compare", "records", "search", "start"),
)
"""The page's own scripts, in order; together they are one function."""
EXPORT = "window.vegaEmbed = vegaEmbed;"
"""What the bundle of the charts' scripts leaves for the page's own."""
MISSING = (
    "no charts: vl-convert-python is not installed: pip install 'halut[page]'; "
    "the tables need nothing"
)


def write_page(path: Path, page: Mapping[str, Any]) -> bool:
    """Write the page, whole or not at all; False, after a line of log, if it has no charts."""
    library = chart_library()
    if library is None:
        log.warning("%s: %s", path.name, MISSING)
        page = {**page, "notes": [*page["notes"], MISSING]}
    write_bytes(path, document(page, library).encode("utf-8", "replace"))
    return library is not None


def document(page: Mapping[str, Any], library: str | None = None) -> str:
    """The page in HTML. `library` are the scripts of Vega-Embed, without which there are no charts.

    Texts of records reach the browser as JSON without any <, or escaped.
    """
    static = files("halut.page") / "static"
    script = "\n".join((static / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    series = [row["series"] for row in as_rows(page["headline"])]
    content = {**page, **templates(series)} if library is not None else {**page, "charts": {}}
    return Template((static / "page.html").read_text("utf-8")).substitute(
        title=escape(str(page["title"])),
        style=(static / "page.css").read_text("utf-8"),
        notes="".join(f"<li>{escape(str(note))}</li>" for note in page["notes"]),
        plain=plain_tables(page),
        data=in_script(json.dumps(content, allow_nan=False, separators=(",", ":"))),
        library=packed(library) if library and shows_charts(page) else "",
        script=in_script_source(f'(() => {{\n"use strict";\n{script}\n}})();'),
    )


def in_script(text: str) -> str:
    """JSON that ends no script element and begins no comment in one."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def shows_charts(page: Mapping[str, Any]) -> bool:
    """False for a page without a record, a run and a search, which has nothing to draw."""
    records, lines = page["records"]["count"], page["headline"]["count"]
    return bool(records or lines or page["runs"] or page["searches"])


def packed(script: str) -> str:
    """gzip in base64, a third of the size: what every browser since 2023 unpacks by itself."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def in_script_source(text: str) -> str:
    """The same for JavaScript, where </script> and <!-- can only stand in strings."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def chart_library() -> str | None:
    """The scripts of Vega-Embed, Vega-Lite and Vega in one; None without vl-convert-python.

    Bundling them takes seconds: a copy stays in $XDG_CACHE_HOME/halut for the next page.
    """
    try:
        import vl_convert
    except ImportError:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "halut"
    file = cache / f"vega-{version('vl-convert-python')}.js"
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeError):
        library = str(vl_convert.javascript_bundle(EXPORT))
    try:
        write_bytes(file, library.encode())
    except OSError as error:
        log.debug("%s is not kept: %s", file, error)
    return library


def check_library() -> None:
    """HalutError, saying what to install, if pictures cannot be drawn."""
    try:
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise HalutError(
            "pictures need vl-convert-python: pip install 'halut[page]'; report.html needs nothing"
        ) from error
