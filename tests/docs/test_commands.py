"""Commands of the README and of docs/ are taken: they compose; verbs, options, files exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import nn

from halut.bench.main import parser as bench_parser
from halut.bench.scaling import _parser as scaling_parser
from halut.cli import USAGE
from halut.errors import HalutError
from halut.export.command import parser as export_parser
from halut.export.targets import load_target
from halut.page.command import parser as report_parser
from halut.replace.operator_registry import operator_of
from halut.results.main import import_parser
from halut.results.main import parser as results_parser
from halut.search import command as budget_search
from halut.search.main import way_of
from halut.search.trials import command as trial_search
from halut.sites.find import find_sites
from halut.studies import convergence, cost, sensitivity
from halut.studies.options import configs_of
from halut.studies.sweep import parser as sweep_parser
from halut.training.config.hydra_schemas import conf_dir, register
from halut.training.config.run_config import check
from halut.training.config.unused_options import ineffective, refuse
from halut.training.evaluate import with_run
from halut.training.main import typed
from tests.docs.pages import README, ROOT, blocks, pages, prose

STUDIES = {"sensitivity": sensitivity.parser, "convergence": convergence.parser}
PLUGIN = "docs/how-to/plugin.md"
"""Its commands need its file: tests/plugins runs them."""


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every line of a shell block, comments and `&&` taken apart."""
    lines = []
    for block in blocks("bash"):
        for line in block.text.splitlines():
            for part in re.sub(r"(^| +)#( .*|!.*|SBATCH .*)?$", "", line).split(" && "):
                if part.strip():
                    lines.append((block.page, part.strip()))
    return lines


def inline_commands() -> list[tuple[str, str]]:
    """(page, command) of every command within the prose: `halut VERB ...`, `python FILE ...`."""
    found = []
    for page in pages():
        for code in re.findall(r"`([^`]+)`", prose(page)):
            words = " ".join(code.split())
            if re.match(r"(halut [a-z]+ |python [\w/]+\.py)", words) and "..." not in words:
                found.append((page, words.replace("\\|", "|")))
    return found


def is_example(command: str) -> bool:
    """Whether words in capitals stand for what a reader gives: FOLDER, GROUP, $C."""
    return bool(re.search(r"(^| |=)(\$?[A-Z]+)( |/|$)", command.replace("runs/MINE", "")))


COMMANDS = sorted(set(shell_lines() + inline_commands()))


def test_there_are_commands_to_test():
    kinds = [command.split()[0] for _, command in COMMANDS]
    assert kinds.count("python") >= 50
    assert kinds.count("halut") >= 40
    assert {page for page, _ in COMMANDS} >= {README, "docs/index.md", "docs/how-to/budget.md"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_is_taken(page, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # some ask for GPUs
    if page == PLUGIN or is_example(command):
        words = shlex.split(command)
        assert words[0] in ("halut", "python", "sbatch")
        assert known(words), command
        return
    check_line(command)


def known(words: list[str]) -> bool:
    """Whether a program, or a verb of halut, is there."""
    if words[0] == "python":
        return (ROOT / words[1]).exists()
    return words[0] == "sbatch" or f"\n  {words[1]} " in USAGE


def check_line(command: str) -> None:
    """AssertionError, HalutError, SystemExit or Hydra's own error for what would not run."""
    words = shlex.split(command)
    for start, take in LINES.items():
        if command.startswith(start):
            take(words)
            return
    pytest.fail(f"no check for: {command}")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("python train.py halut.K=12", HalutError),
        ("python train.py halut.Z=1", HydraException),
        ("python train.py data.root=pictures", HalutError),
        ("python evaluate.py runs/mine speed=1", HydraException),
        ("python benchmarks/absent.py", AssertionError),
        ("python benchmarks/search_front.py --absent", AssertionError),
        ("halut absent", AssertionError),
        ("halut cost model=resnet8 --absent", SystemExit),
        ("halut cost model=resnet8 halut.Z=1", HydraException),
        ("halut search budget=shoes:1", HalutError),
        ("halut sensitivity model=resnet8 --options 'tree Z=1'", HalutError),
        ("pip install 'halut[absent]'", AssertionError),
        ("make coffee", pytest.fail.Exception),
    ],
)
def test_what_would_not_run_is_refused(line, error):
    with pytest.raises(error):
        check_line(line)


def train(words: list[str]) -> None:
    """`python train.py OPTIONS`."""
    if "--help" not in words:
        check_command(words[2:])


def check_command(words: list[str]) -> None:
    """HalutError, or Hydra's own, if train.py refuses the words by their first or last values,
    before it reads data; and if its operator cannot replace a 3x3 convolution.
    """
    register()
    GlobalHydra.instance().clear()
    (convolution,), _ = find_sites(nn.Sequential(nn.Conv2d(32, 8, 3)), torch.zeros(1, 32, 8, 8))
    arguments = [word for word in words if word != "-m"]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for overrides in (first_values(arguments), first_values(arguments, last=True)):
            settings = typed(compose("train", overrides=overrides))
            check(settings)
            keys = [override.partition("=")[0].lstrip("+") for override in overrides]
            refuse({key: key for key in keys}, ineffective(settings, keys))
            operator_of(settings.halut).build(convolution)


def first_values(arguments: list[str], last: bool = False) -> list[str]:
    """Overrides with the first (or last) value of each that a sweep takes values from."""
    taken = []
    for override in OverridesParser.create().parse_overrides(arguments):
        line = override.input_line
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
            line = f"{override.get_key_element()}={values[-1 if last else 0]}"
        taken.append(line)
    return taken


def composed(words: list[str]) -> None:
    """Options of a subject without a run: composed, whether or not each has an effect alone."""
    overrides = [word for word in words if "=" in word]
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        compose("train", overrides=overrides)


def evaluate(words: list[str]) -> None:
    """`python evaluate.py RUN OPTIONS`."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        compose("evaluate", overrides=with_run(words[2:]))


def verb(words: list[str]) -> None:
    """`halut VERB OPTIONS`: the verb in its usage, the options read by its own parser."""
    _, name, *options = words
    assert f"\n  {name} " in USAGE, name
    if options == ["--help"]:
        return
    if name == "bench":
        bench_parser().parse_args(options)
    elif name == "scaling":
        scaling_parser().parse_args(options)
    elif name == "report":
        report_parser().parse_args(options)
    elif name == "results":
        imported = options[:1] == ["import"]
        (import_parser if imported else results_parser)().parse_args(options[imported:])
    elif name == "sweep":
        _, overrides = sweep_parser().parse_known_args(options)
        check_command(overrides)
    elif name == "cost":
        composed(cost.parser().parse_args(options).subject)
    elif name == "search":
        search(options)
    elif name == "export":
        load_target(export_parser().parse_intermixed_args(options).to)
    elif name in STUDIES:
        given = STUDIES[name]().parse_intermixed_args(options)
        configs_of(given.options)
        composed(given.overrides)
    elif name in ("train", "evaluate"):
        (train if name == "train" else evaluate)([*words[:2], *options])
    else:
        assert name in ("env", "table"), f"no check for halut {name}"


def search(options: list[str]) -> None:
    """Both ways of `halut search`; an experiment's space is tested where it is shipped."""
    if way_of(options) == "trials":
        given = trial_search.parser().parse_intermixed_args(options)
        configs_of([text for text in given.options if text != "keep"])
        return
    given = budget_search.parser().parse_intermixed_args(options)
    budgets, _, overrides = budget_search.asked(given.overrides)
    assert budgets
    configs_of(given.options)
    composed(overrides)


def script(words: list[str]) -> None:
    """`python FILE OPTIONS`, `bash FILE`: the file is there, and its source has the options."""
    path = ROOT / words[1]
    assert path.exists(), words[1]
    for word in words[2:]:
        assert not word.startswith("--") or word in path.read_text(), f"{words[1]}: {word}"


def module(words: list[str]) -> None:
    """`python -m MODULE`."""
    assert find_spec(words[2]) is not None, words[2]


def install(words: list[str]) -> None:
    """`pip install`: the extras are in pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text()
    table = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", table, re.MULTILINE))
    for names in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(names.split(",")) <= extras, names


def launched(words: list[str]) -> None:
    """`torchrun ... -m halut.cli VERB` and `srun ... python train.py`: what is launched."""
    if "halut.cli" in words:
        verb(["halut", *words[words.index("halut.cli") + 1 :]])
    else:
        train(words[words.index("python") :])


def nothing(words: list[str]) -> None:
    """Lines of the shell alone, and programs that .ci/run or tests/export run."""


LINES: dict[str, Callable[[list[str]], None]] = {
    "python train.py": train,
    "python evaluate.py": evaluate,
    "python -m": module,
    "python reader.py": nothing,
    "python ": script,
    "bash ": script,
    "halut ": verb,
    "pip install": install,
    "torchrun ": launched,
    "srun ": launched,
    "source ": nothing,
    "pytest ": nothing,
    "mkdocs build": nothing,
    'C="data=': nothing,
    **dict.fromkeys(("cd ", "iverilog ", "vvp ", "cc ", "layer=", "./check "), nothing),
}
"""What checks a line, by how it begins."""
