"""Command-line front end of train.py and evaluate.py: help, and Hydra's errors in one line."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from halut.errors import HalutError, quiet_pipes, report_error
from halut.training.config.help import page
from halut.training.config.hydra_errors import known_options, nearest, one_line
from halut.training.config.hydra_schemas import conf_dir
from halut.training.config.plugin_options import import_plugins
from halut.training.config.renamed import register, with_new_keys
from halut.training.parallel.distributed import print_error, warn

FLAGS = (
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--resolve",
    "--package",
    "-p",
    "--run",
    "-r",
    "--multirun",
    "-m",
    "--shell-completion",
    "-sc",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--experimental-rerun",
    "--info",
    "-i",
)
"""Hydra's own."""
FULL = "HYDRA_FULL_ERROR"


def command(
    name: str, schema: type, prepare: Callable[[list[str]], list[str]] = list
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorator: the function as a program that composes conf/NAME.yaml of the dataclass `schema`.

    `prepare` may rewrite the command line before Hydra reads it; plugins are imported then, too.
    """

    def decorate(run: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        register()
        composed = hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(run)

        @functools.wraps(run)
        def main() -> Any:
            with quiet_pipes():
                arguments = with_new_keys(prepare(sys.argv[1:]))
                program = _program()
                try:
                    arguments, warnings = import_plugins(arguments, name == "train")
                    for warning in warnings:
                        warn(warning)
                    if "--help" in arguments or "-h" in arguments:
                        print(page(name, schema, program, arguments), end="")
                        return None
                    _check_flags(arguments, schema)
                    with _full_errors():
                        sys.argv = [sys.argv[0], *arguments]
                        return composed()
                except HalutError as error:
                    report_error(error, print_error, "debug=traceback" in arguments)
                    sys.exit(1)
                except (HydraException, OmegaConfBaseException) as error:
                    print_error(one_line(error, schema, program))
                    sys.exit(1)
                except ValueError as error:  # Hydra's own, of GROUP=null
                    if "Config group override" not in str(error):
                        raise
                    nulls = [each for each in arguments if each.endswith("=null")]
                    print_error(f"{' '.join(nulls)}: a group has no null; see --help GROUP")
                    sys.exit(1)

        return main

    return decorate


def command_line() -> str:
    """The command line, as it can be typed again."""
    first = sys.argv[0]
    if os.path.basename(first) == "halut" or first.endswith(os.path.join("halut", "cli.py")):
        first = "halut"  # the console command, wherever it is installed
    words = shlex.split(first) if first.startswith("halut ") else [first]
    python = ["python"] if words[0].endswith(".py") else []
    return shlex.join([*python, *words, *sys.argv[1:]])


def override_value(text: str) -> str:
    """Text as the value of an override that Hydra reads as the same text, in quotes if needed.

    >>> override_value("runs/sweep/halut.K=8,seed=0")
    "'runs/sweep/halut.K=8,seed=0'"
    """
    if "/" in text and re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\*)'", lambda quote: quote[1] * 2 + "\\'", text)
    return "'" + re.sub(r"\\+$", lambda end: end[0] * 2, escaped) + "'"


def _program() -> str:
    first = sys.argv[0]
    return first if first.startswith("halut ") else f"python {os.path.basename(first)}"


def _check_flags(arguments: list[str], schema: type) -> None:
    """Refuse what looks like an option of other tools: --epochs 5."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if not flag.startswith("-") or any(known.startswith(flag) for known in FLAGS):
            continue
        key = flag.lstrip("-").replace("-", "_")
        options = sorted(set(known_options(schema)))
        near = [key] if key in options else nearest(key, options)
        hint = f"; did you mean {' or '.join(f'{each}=...' for each in near)}?" if near else ""
        print_error(f"unknown option {flag}: options are written KEY=VALUE{hint}")
        sys.exit(2)


@contextmanager
def _full_errors() -> Iterator[None]:
    """Hydra hands its exceptions on, in place of printing them with advice of its own."""
    before = os.environ.get(FULL)
    os.environ[FULL] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(FULL, None)
        else:
            os.environ[FULL] = before
