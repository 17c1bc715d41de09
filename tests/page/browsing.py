"""What tests read of a page in the browser."""

from __future__ import annotations

from typing import Any


def cells(page: Any, table: str) -> list[dict[str, str]]:
    """The rows of a table by its label, by the headings."""
    heads = [
        text.strip() for text in page.locator(f'table[aria-label="{table}"] th').all_inner_texts()
    ]
    rows = page.locator(f'table[aria-label="{table}"] tbody tr')
    return [
        dict(zip(heads, row.locator("td").all_inner_texts(), strict=True)) for row in rows.all()
    ]
