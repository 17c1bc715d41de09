"""A picture of a report page in headless Chromium: a section, or the top of it.

python benchmarks/screenshot.py runs/mine/report.html page.png [--section layers] [--dark]

Needs pip install playwright, and a chromium on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    """Write the picture that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("page", type=Path)
    add("picture", type=Path, help="a PNG file")
    add("--section", help="id of a section: summary, layers, sites, ...")
    add("--click", help="a button or link to press first, by its name")
    add("--width", type=int, default=1180, help="pixels (%(default)s)")
    add("--height", type=int, default=1200, help="pixels at most (%(default)s)")
    add("--dark", action="store_true")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("error: playwright is not installed: pip install playwright")

    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: no chromium on the PATH")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(
            viewport={"width": options.width, "height": options.height},
            color_scheme="dark" if options.dark else "light",
        )
        page.goto(options.page.resolve().as_uri())
        page.wait_for_selector("svg, canvas")
        if options.click:
            page.get_by_role("button", name=options.click).first.click()
        if options.section:
            page.locator(f"#{options.section}").scroll_into_view_if_needed()
        page.add_style_tag(content="nav { position: static !important }")
        page.wait_for_timeout(4000)  # charts are drawn one after the other
        target = page.locator(f"#{options.section}") if options.section else page
        target.screenshot(path=options.picture)
        browser.close()


if __name__ == "__main__":
    main()
