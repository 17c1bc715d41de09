"""The README is true: its commands compose, its examples run, its rooms exist."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import nn

from halut.bench.main import parser as bench_parser
from halut.cli import USAGE
from halut.errors import HalutError
from halut.replace.operator_registry import operator_of
from halut.results.main import import_parser
from halut.results.main import parser as results_parser
from halut.sites.find import find_sites
from halut.studies import convergence, sensitivity
from halut.studies.options import configs_of
from halut.studies.sweep import parser as sweep_parser
from halut.training.config.hydra_schemas import conf_dir, register
from halut.training.config.run_config import check
from halut.training.config.unused_options import ineffective, refuse
from halut.training.main import typed

STUDIES = {"sensitivity": sensitivity.parser, "convergence": convergence.parser}
ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
PLUGIN = ROOT / "examples" / "plugin" / "mine.py"


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    """Every train.py command of the README, comments left out."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    texts = [line.split(" # ")[0].strip() for line in lines if line.startswith("python train.py")]
    return [line for line in texts if "--help" not in line]


def test_there_are_commands_and_examples_to_test():
    assert len(commands()) >= 6
    assert len(blocks("python")) >= 6


def verbs() -> list[str]:
    """Every command of the README that begins with halut."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.split(" # ")[0].strip() for line in lines if line.startswith("halut ")]


@pytest.mark.parametrize("command", commands())
def test_commands_are_taken(command, monkeypatch):
    """Composed, held to their schemas, and with values in range and options that have an effect."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # some ask for GPUs
    check_command(command)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("halut.K=12", "K must be a power of two"),
        ("halut.Z=1", "Could not override 'halut.Z'"),
        ("data.root=pictures", "data.root has no effect"),
    ],
)
def test_commands_that_the_program_refuses_are_not_taken(option, message):
    with pytest.raises((HalutError, HydraException), match=message):
        check_command(f"python train.py {option}")


def check_command(command: str) -> None:
    """HalutError, or Hydra's own, if train.py refuses the command by its first or its last values,
    before it reads data; and if its operator cannot replace a 3x3 convolution.
    """
    register()
    GlobalHydra.instance().clear()
    (convolution,), _ = find_sites(nn.Sequential(nn.Conv2d(32, 8, 3)), torch.zeros(1, 32, 8, 8))
    arguments = [word for word in shlex.split(command)[2:] if word != "-m"]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for overrides in (first_values(arguments), first_values(arguments, last=True)):
            settings = typed(compose("train", overrides=overrides))
            check(settings)
            keys = [override.partition("=")[0].lstrip("+") for override in overrides]
            refuse({key: key for key in keys}, ineffective(settings, keys))
            operator_of(settings.halut).build(convolution)


def test_the_verbs_of_the_readme_are_known_and_take_its_options(capsys):
    """`halut VERB OPTIONS`: the verb in its usage, the options read by its own parser."""
    assert len(verbs()) >= 6
    for command in verbs():
        _, verb, *options = shlex.split(command)
        assert f"\n  {verb} " in USAGE, command
        if verb == "bench":
            bench_parser().parse_args(options)
        elif verb == "results":
            imported = options[:1] == ["import"]
            (import_parser if imported else results_parser)().parse_args(options[imported:])
        elif verb == "sweep":
            _, overrides = sweep_parser().parse_known_args(options)
            check_command(shlex.join(["python", "train.py", *overrides]))
        elif verb in STUDIES:
            configs_of(STUDIES[verb]().parse_intermixed_args(options).options)


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


def test_rooms_exist():
    picture = TEXT.split("## The rooms")[1].split("```")[1]
    folder = ROOT
    for line in picture.strip().splitlines():
        names = re.findall(
            r"[\w.]+(?:/|\.py)",
            line.split("   ")[0] if line[0] != " " else line.strip().split("   ")[0],
        )
        if not line.startswith(" "):
            assert (ROOT / names[0]).exists(), names[0]
            folder = ROOT / names[0]
            continue
        for name in names:
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_every_folder_of_the_library_is_in_the_picture():
    picture = TEXT.split("## The rooms")[1].split("```")[1]
    for folder in (*(ROOT / "halut").iterdir(), *(ROOT / "conf").iterdir()):
        if folder.is_dir() and not folder.name.startswith("_"):
            assert f"{folder.name}/" in picture, folder


def test_the_plugin_of_the_readme_is_the_example():
    """Which tests/plugins trains, evaluates and prepares."""
    section = TEXT.split("## Your own encoder")[1].split("Without Hydra")[0]
    shown = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(shown) == 4
    assert "\n\n".join(shown) == PLUGIN.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("samples", "encoders/test_contract.py"),
        ("ternary", "codecs/test_codec_contract.py"),
        ("blobs", "datasets/test_data_contract.py"),
    ],
)
def test_the_suites_take_the_entries_of_a_plugin(name, suite):
    command = ("-m", "pytest", "-q", "-k", name, f"tests/{suite}", "--halut-plugin", str(PLUGIN))
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_library_example_replaces_trains_and_is_three_lines():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import halut

    example = next(block for block in blocks("python") if "replace_" in block)
    assert len(example.splitlines()) == 3
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)]
    network = torch.nn.Sequential(*layers)
    data = TensorDataset(torch.randn(64, 8), torch.arange(64) % 2)
    space = {"network": network, "loader": DataLoader(data, 16), "epochs": 2}
    exec(compile(example, "README.md", "exec"), {"halut": halut, "torch": torch}, space)
    assert [entry.site.name for entry in space["plan"].replaced] == ["2"]
    before = network[2].lut.clone()
    network(torch.randn(4, 8)).sum().backward()
    space["optimizer"].step()
    assert not torch.equal(network[2].lut, before)
    assert network[2].blend.item() == 1 / 8


def test_the_sensitivity_example_runs(capsys, monkeypatch):
    import halut

    monkeypatch.setattr(logging.getLogger("halut"), "handlers", [])  # those of programs run before

    example = next(block for block in blocks("python") if "import candidates_of" in block)
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.arange(64) % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    names = {"halut": halut, "network": network, "x": torch.zeros(1, 8)}
    exec(example, {**names, "loader": loader, "val_loader": loader})
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [[site, score] for site in ("0", "2") for score in ("measured", "fisher")]


def test_names_of_the_library_in_the_readme_exist():
    import halut

    section = TEXT.split("## As a library")[1].split("## The rooms")[0]
    for path in re.findall(r"halut\.([a-zA-Z_.]+)", section):
        value = halut
        for name in path.rstrip(".").split("."):
            value = getattr(value, name)


def test_the_matrix_product_example_runs():
    example = next(block for block in blocks("python") if "HalutMatmul" in block)
    space: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), space)
    A, B, y = space["A"], space["B"], space["y"]
    exact = A[:10] @ B
    assert ((y - exact) ** 2).sum() / (exact**2).sum() < 0.2
