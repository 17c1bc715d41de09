"""griffe extension: examples of docstrings, `>>>` lines and what follows them, as code blocks."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


def fenced(text: str) -> str:
    """Lines from a `>>>` to the next empty one, between fences.

    >>> fenced("An example:\\n\\n>>> 1 + 1\\n2\\n\\nMore.").splitlines()[2:6]
    ['```pycon', '>>> 1 + 1', '2', '```']
    """
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if not inside and line.startswith(">>> "):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines[:-1] if not lines[-1] else lines)


class Doctests(Extension):
    """Puts examples into code blocks when griffe has read an object."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
