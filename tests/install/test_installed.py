"""Installed from a wheel that was built from the sdist, the package works from another folder."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.install.environments import ROOT, Environment, checkout, missing_tools, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools), reason=f"not installed: {missing_tools}"),
]

TINY = (
    *("debug=smoke", "model=resnet8", "model.options.width=8", "policy.only=[stack3.conv2]"),
    *("baseline=false", "trainer.accelerator=cpu"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with the sdist of a checkout, and the wheel that was made from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = checkout(folder / "checkout")
    python = Environment.create(folder / "tools").python
    run(python, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Environment:
    network = Environment.create(tmp_path_factory.mktemp("installed") / "venv")
    (wheel,) = built.glob("*.whl")
    network.install(wheel)
    return network


def sources(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}


def test_the_wheel_is_small_and_holds_what_runs(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < 2 << 20
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sources("halut", "*.py") | {f"halut/{x}" for x in sources("data", "*.py")} <= names
    assert sources("halut", "*.yaml") <= names  # energies of operations
    assert {f"halut/{name}" for name in sources("conf", "*.yaml")} <= names
    assert sources("halut/page/static", "*.*") <= names
    assert {p for p in sources("halut/export/packed", "*.*") if "__pycache__" not in p} <= names
    assert {f"halut/{name}" for name in sources("kernels/cuda", "*.cu")} <= names
    assert "halut/py.typed" in names
    assert any(name.startswith("halut/_kernels") and name.endswith(".so") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    folders = {name.split("/")[0] for name in names}
    assert folders == {"halut", next(f for f in folders if f.endswith(".dist-info"))}


def test_the_sdist_holds_sources_alone(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"CMakeLists.txt", "README.md", "train.py", "conf/train.yaml", "LICENSE"} <= names
    assert sources("kernels", "*.cpp") <= names
    kinds = {Path(name).suffix for name in names}
    assert kinds <= {
        ".c",
        ".py",
        ".cpp",
        ".h",
        ".cu",
        ".cuh",
        ".yaml",
        ".yml",
        ".toml",
        ".txt",
        ".md",
        "",
        ".json",
        ".cff",
        ".typed",
        ".html",
        ".css",
        ".js",
        ".sh",
        ".v",
    }


def test_import_and_environment(installed, tmp_path):
    code = "import halut, halut._kernels, halut.data\n"
    code += "import halut.training.config.hydra_schemas as s; print(halut.__file__)"
    done = run(installed.python, "-c", code + "; print(s.conf_dir())", cwd=tmp_path)
    packages = str(installed.packages.resolve())
    assert [line.startswith(packages) for line in done.stdout.splitlines()] == [True, True]
    report = json.loads(installed.halut("env", "--json", cwd=tmp_path).stdout)
    assert report["commit"] is None
    assert report["kernels"]["accumulate"].startswith("cpu (")


def test_training_and_evaluation_run_elsewhere(installed, tmp_path):
    installed.halut("train", *TINY, "run_dir=run", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [site["name"] for site in report["sites"] if site["operator"] != "keep"]
    assert "stack3.conv2" in (tmp_path / "run" / "report.html").read_text()
    installed.halut("evaluate", "run=run", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


LOADED = """
import halut, torch
from halut.data import build
try:
    halut.load("run")
except halut.HalutError as refusal:
    print("needs the plugin" in str(refusal))
network = halut.load("run", plugins=["./mine.py"])
blobs = build("blobs")
blobs.setup()
images, labels = next(iter(blobs.test_dataloader()))
prepared = halut.prepare(network, images[:1])
print((prepared(images).argmax(1) == network(images).argmax(1)).float().mean().item())
"""


def test_a_plugin_file_in_an_empty_folder_is_trained_evaluated_and_prepared(installed, tmp_path):
    """An encoder, a codec, a model and a data set of a user's own, with nothing but the wheel."""
    shutil.copy(ROOT / "examples" / "plugin" / "mine.py", tmp_path)
    own = ("plugins=[./mine.py]", "halut=samples", "model=mlp", "data=blobs", "policy=linear")
    rule = "policy.rules=[{name: '1', operator: ternary, options: {activation: null}}]"
    short = ("base.epochs=3", "schedule.train_batches=4", "trainer.accelerator=cpu", "ptq=none")
    installed.halut("train", *own, rule, *short, "baseline=false", "run_dir=run", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {site["operator"] for site in report["sites"]} == {"samples", "ternary"}
    assert report["base"]["test_accuracy"] > 90
    assert report["final"]["test_accuracy"] > 50
    refused = installed.halut("evaluate", "run=run", cwd=tmp_path, code=1).stderr
    assert f"needs the plugin {(tmp_path / 'mine.py').resolve()}" in refused
    installed.halut("evaluate", "run=run", own[0], "json=figures.json", cwd=tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["accuracy"] == report["final"]["test_accuracy"]
    lines = run(installed.python, "-c", LOADED, cwd=tmp_path).stdout.splitlines()
    assert lines[-2] == "True"
    assert float(lines[-1]) > 0.99


def test_benchmarks_run_elsewhere(installed, tmp_path):
    assert "--json" in installed.halut("bench", "--help", cwd=tmp_path).stdout
    quick = ("--quick", "--only", "accumulate", "--threads", "1", "--rounds", "3")
    installed.halut("bench", *quick, "--json", "times.json", cwd=tmp_path)
    assert json.loads((tmp_path / "times.json").read_text())["results"]
