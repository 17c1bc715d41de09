"""Blocks of the README and of docs/ that are no commands: each runs, or equals a file."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

import halut
from halut.results.record import Record
from halut.results.store import Store
from halut.studies import cost
from tests.docs.pages import README, ROOT, blocks, pages, section, text

PLUGIN = ROOT / "examples" / "plugin" / "mine.py"
LIBRARY = "docs/how-to/library.md"
SENSITIVITY = "docs/how-to/sensitivity.md"
STORE = "docs/how-to/store.md"
PLUGIN_PAGE = "docs/how-to/plugin.md"
EXPORT = "docs/how-to/export.md"
DEPLOYMENT = "docs/how-to/deployment.md"
"""tests/evaluation/test_evaluate.py runs its block on a run."""


def loader() -> DataLoader[Any]:
    data = TensorDataset(torch.randn(64, 8), torch.arange(64) % 2)
    return DataLoader(data, batch_size=16)


def library() -> dict[str, Any]:
    """Names that the library's blocks take as given: a network, batches, a number of epochs."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)]
    network = torch.nn.Sequential(*layers)
    return {"halut": halut, "torch": torch, "network": network, "loader": loader(), "epochs": 2}


def executed(page: str, part: str, space: dict[str, Any]) -> dict[str, Any]:
    """The names after the block of a page that has `part` in it."""
    (block,) = [block for block in blocks("python", page) if part in block.text]
    exec(compile(block.text, page, "exec"), space)
    return space


def three_lines(page: str) -> None:
    """Replaced, with the optimizer's duties attached: a step changes the table."""
    space = executed(page, "halut.attach", library())
    (block,) = [block for block in blocks("python", page) if "halut.attach" in block.text]
    assert len(block.text.splitlines()) == 3
    assert [entry.site.name for entry in space["plan"].replaced] == ["2"]
    network = space["network"]
    before = network[2].lut.clone()
    network(torch.randn(4, 8)).sum().backward()
    space["optimizer"].step()
    assert not torch.equal(network[2].lut, before)
    assert network[2].blend.item() == 1 / 8


def rules() -> None:
    """The first rule that matches wins; what no rule means stays exact."""
    space = library()
    layers = [torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU()]
    space["network"] = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2))
    plan = executed(LIBRARY, "rules =", space)["plan"]
    assert [(entry.site.name, entry.operator) for entry in plan.replaced] == [("0", "pq")]


def product() -> None:
    """A matrix product is near the exact one."""
    space = executed(LIBRARY, "HalutMatmul", {})
    exact = space["A"][:10] @ space["B"]
    assert ((space["y"] - exact) ** 2).sum() / (exact**2).sum() < 0.2


RUN: dict[tuple[str, str], Callable[[], None]] = {
    (README, "halut.attach"): lambda: three_lines(README),
    ("docs/index.md", "halut.attach"): lambda: three_lines("docs/index.md"),
    (LIBRARY, "halut.attach"): lambda: three_lines(LIBRARY),
    (LIBRARY, "rules ="): rules,
    (LIBRARY, "HalutMatmul"): product,
}
"""Blocks that run without fixtures, by page and a part of their text."""
ELSEWHERE = {
    (SENSITIVITY, "import candidates_of"),
    (STORE, "from halut.results.store import Store"),
    (DEPLOYMENT, "load_bundle"),
    (EXPORT, "onnxruntime"),
    (EXPORT, "halut.export("),
}
"""Blocks that tests with fixtures run, here, in tests/evaluation and in tests/export."""


@pytest.mark.parametrize(("page", "part"), RUN)
def test_a_block_runs(page, part):
    RUN[page, part]()


def test_every_python_block_is_run_by_a_test():
    for block in blocks("python"):
        if block.page != PLUGIN_PAGE:
            keys = [key for key in (*RUN, *ELSEWHERE) if key[0] == block.page]
            assert sum(part in block.text for _, part in keys) == 1, f"{block.page}: {block.text}"


def test_the_blocks_of_the_plugin_page_are_the_example():
    """Which tests/plugins trains, evaluates and prepares."""
    shown = [block.text for block in blocks("python", PLUGIN_PAGE)]
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


def test_the_sensitivity_block_runs(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("halut"), "handlers", [])  # those of programs run before
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    space = {"halut": halut, "network": network, "x": torch.zeros(1, 8)}
    executed(
        SENSITIVITY, "import candidates_of", {**space, "loader": loader(), "val_loader": loader()}
    )
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [[site, score] for site in ("0", "2") for score in ("measured", "fisher")]


def test_the_store_block_prints_what_was_lost(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for seed, lost in ((0, 2.5), (0, 1.5), (1, 0.5)):
        network = {"model": "resnet8", "options": {}, "weights": str(lost)}
        Store("results").append(Record("run", network, {}, {"lost": lost}, seed=seed))
    executed(STORE, "from halut.results.store import Store", {})
    assert capsys.readouterr().out.split() == ["1.5", "2.5"]


def test_the_export_block_says_how_far_the_answers_are(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    space = library()
    halut.replace_(space["network"], halut.Tree(V=4, K=4), calibration=space["loader"])
    executed(EXPORT, "halut.export(", space)
    assert 0 <= float(capsys.readouterr().out.split()[-1]) < 1e-4
    assert (tmp_path / "out/model.onnx").is_file()


def test_names_of_the_library_exist():
    """Every `halut.NAME` of its page, and what other pages call or construct."""
    found = re.findall(r"(?<!from )halut\.([a-zA-Z_.]+)", text(LIBRARY))
    for page in pages():
        found += re.findall(r"(?<![\w/.])halut\.([a-zA-Z_.]+)\(", text(page))
    assert {"replace_", "prepare", "nn.CodecLinear", "Integer"} <= set(found)
    for path in set(found):
        value: Any = halut
        for name in path.rstrip(".").split("."):
            value = getattr(value, name)


def test_yaml_blocks_are_files_that_hydra_composes(tmp_path):
    """`# conf/GROUP/NAME.yaml` on the first line: composed from a folder that has it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from halut.training.config.hydra_schemas import conf_dir, register

    register()
    shutil.copytree(conf_dir(), tmp_path / "conf")
    found = blocks("yaml")
    assert found
    for block in found:
        name = block.text.splitlines()[0].removeprefix("# conf/")
        assert name.endswith(".yaml"), f"{block.page}: {name}"
        (tmp_path / "conf" / name).write_text(block.text)
        group, _, choice = name.removesuffix(".yaml").rpartition("/")
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
            composed = compose("train", [f"{group}={choice}"], return_hydra_config=True)
        own = composed.hydra.launcher if group == "hydra/launcher" else composed[group]
        for key, value in yaml.safe_load(block.text).items():
            assert key == "defaults" or own[key] == value, f"{block.page}: {key}"


def test_the_costs_of_the_recipe_are_those_of_halut_cost(tmp_path, capsys):
    page = "docs/results/accuracy.md"
    shown = section(page, "What it saves")
    (command,) = re.findall(r"^halut cost (.*)$", shown, re.MULTILINE)
    assert cost.main([*command.split(), "--json", str(tmp_path / "cost.json")]) == 0
    variants = json.loads((tmp_path / "cost.json").read_text())["variants"]
    figures = {each["variant"]: each["figures"] for each in variants}
    names = ("macs", "encode_compares", "lookups", "bytes", "table_bytes")
    wanted = [[f"{figures[variant][name]:,}" for variant in ("exact", "plan")] for name in names]
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| ([\d,]+) \|$", shown, re.MULTILINE)
    assert [list(row) for row in rows] == wanted


def picture() -> str:
    """The tree of folders on the page of the source tree."""
    found = blocks("text", "docs/reference/source.md")[0].text
    assert "train.py" in found
    return found


def test_rooms_exist():
    folder = ROOT
    for line in picture().strip().splitlines():
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
    for folder in (*(ROOT / "halut").iterdir(), *(ROOT / "conf").iterdir()):
        if folder.is_dir() and not folder.name.startswith("_"):
            assert f"{folder.name}/" in picture(), folder


def test_the_order_of_imports_is_the_contract_s():
    """lint-imports holds the rooms to it; programs stand above them."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (rooms,) = [each for each in contracts["contracts"] if each.get("containers") == ["halut"]]
    shown = section("docs/reference/source.md", "Imports").split("```text\n")[1].split("```")[0]
    layers = shown.strip().splitlines()
    assert layers[0] == "train.py, evaluate.py, cli"
    assert layers[1:] == rooms["layers"][1:]


def paths() -> Iterator[tuple[str, str]]:
    """(page, path) of every file and folder of the repository that a page names."""
    for page in pages():
        for path in re.findall(
            r"`((?:halut|conf|tests|benchmarks|kernels|examples)/[\w/.]+)`", text(page)
        ):
            yield page, path


def test_paths_that_pages_name_exist():
    found = list(paths())
    assert len(found) >= 15
    own = {"conf/experiment/mine.yaml", "conf/hydra/launcher/mine.yaml"}  # a user's
    assert [each for each in found if each[1] not in own and not (ROOT / each[1]).exists()] == []
