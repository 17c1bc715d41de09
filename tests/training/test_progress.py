"""Progress bars on a terminal, none elsewhere; one message for one error."""

from __future__ import annotations

import io

from rich.console import Console

from halut.training import progress


def shown(monkeypatch, terminal: bool) -> str:
    """What a bar over three things writes."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    monkeypatch.setattr(progress, "console", console)
    with progress.bar("capture layer1.conv1", 3) as done:
        for _ in range(3):
            done(1)
    return out.getvalue()


def test_a_terminal_sees_what_is_done(monkeypatch):
    out = shown(monkeypatch, terminal=True)
    assert "capture layer1.conv1" in out
    assert "3/3" in out


def test_files_and_pipes_see_no_bar(monkeypatch):
    assert shown(monkeypatch, terminal=False) == ""


def test_an_error_is_one_line_on_the_standard_error(capsys):
    progress.complain("no such thing; choose a, b")
    assert capsys.readouterr().err == "error: no such thing; choose a, b\n"
