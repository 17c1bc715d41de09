"""The page of the command line, out of the programs' own `--help`."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COLUMNS = "96"
OF_SEARCH = (["search", "budget=", "--help"], ["search", "sampler=", "--help"])


def verbs() -> list[str]:
    """The verbs of the command `halut`, in the order of its usage."""
    from halut.cli import USAGE

    return re.findall(r"^  (\w+) {2,}", USAGE.partition("verbs:\n")[2], re.MULTILINE)


def invocations() -> list[list[str]]:
    """Every command line whose help is shown."""
    calls: list[list[str]] = [["--help"]]
    for verb in verbs():
        calls.append([verb, "--help"])
        if verb == "search":
            calls += OF_SEARCH
    return calls


def help_of(arguments: Sequence[str]) -> str:
    """What `halut ARGUMENTS` prints."""
    from halut import cli

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main(arguments)
    return printed.getvalue()


def page(root: Path) -> str:
    """The page, written by a process of its own, so that no program's settings stay here."""
    command = [sys.executable, str(Path(__file__).resolve())]
    environment = {"PYTHONPATH": str(root), "COLUMNS": COLUMNS, "PATH": ""}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    print("# Command line\n\nWhat `halut VERB --help` prints.")
    for arguments in invocations():
        title = " ".join(["halut", *(word for word in arguments if word != "--help")])
        print(f"\n## {title}\n\n```text\n{help_of(arguments).strip()}\n```")


if __name__ == "__main__":
    main()
