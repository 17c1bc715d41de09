"""Golden vectors replayed in Verilog by Icarus, and in C."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from halut.export.packed.c_header import c_name
from tests.export.packed.layers import LAYERS, exported

pytestmark = pytest.mark.rtl

icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs Icarus Verilog (Debian's iverilog)"
)
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc")


def tables(folder: Path) -> list[dict]:
    manifest = json.loads((folder / "packed.json").read_text())
    return [step for step in manifest["steps"] if step["kind"] == "tables"]


def simulated(folder: Path, step: dict) -> str:
    """What the test bench prints; the compiler has nothing to warn of."""
    stem = Path(step["file"]).stem
    sources = ["rtl/table_unit.v", "rtl/table_unit_tb.v"]
    built = subprocess.run(
        ["iverilog", "-g2005", "-Wall", "-I", f"rtl/{stem}", "-o", f"{stem}.sim", *sources],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert built.stderr == ""
    run = ["vvp", f"{stem}.sim"]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True).stdout


def run_c(folder: Path, step: dict) -> subprocess.CompletedProcess:
    manifest = json.loads((folder / "packed.json").read_text())
    values = {s["name"]: s["vectors"]["output"]["file"] for s in manifest["steps"]}
    values["input"] = manifest["vectors"]["file"]
    layer = c_name(Path(step["file"]).stem)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-Iinclude"]
    command = ["cc", *flags, f"-DLAYER={layer}", "-o", layer, "check_layer.c"]
    subprocess.run(command, cwd=folder, check=True)
    source, *residual = (values[name] for name in step["inputs"])
    vectors = [step["vectors"][name]["file"] for name in ("codes", "sums", "output")]
    command = [f"./{layer}", source, *vectors, *residual]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    """Six 3x3 layers and three more by trees, two of them with a residual branch."""
    return exported(tmp_path_factory.mktemp("hardware") / "out", "resnet8", K=16)


@icarus
def test_the_table_unit_replays_every_layer_of_a_network(resnet8):
    steps = tables(resnet8)
    assert sum(len(step["inputs"]) > 1 for step in steps) == 3
    for step in steps:
        printed = simulated(resnet8, step)
        compared = sum(_size(entry) for entry in step["vectors"].values())
        assert printed.endswith(f"{step['name']}: {compared} integers, 0 mismatches\n")


@icarus
@pytest.mark.parametrize("K", [2, 32])
@pytest.mark.parametrize("name", LAYERS)
def test_the_table_unit_replays_every_shape(name, K, tmp_path):
    folder = exported(tmp_path / "out", name, K=K, bits=4 if K == 2 else 8)
    (step,) = tables(folder)
    assert "0 mismatches" in simulated(folder, step)


@icarus
@pytest.mark.parametrize(
    ("image", "what"), [("table", "sum"), ("thresholds", "code"), ("bias", "byte")]
)
def test_the_first_mismatch_is_printed(image, what, tmp_path):
    folder = exported(tmp_path / "out", "linear", K=4)
    (step,) = tables(folder)
    path = folder / step["images"] / f"{image}.hex"
    lines = path.read_text().split()
    digits = len(lines[0])
    edited = [f"{int(line, 16) ^ (1 << (4 * digits - 2)):0{digits}x}" for line in lines]
    path.write_text("\n".join(edited))
    printed = simulated(folder, step)
    assert "mismatches" not in printed
    assert f"0: group 0, row 0, {what} " in printed
    assert " instead of " in printed


@compiler
@pytest.mark.parametrize("operator", ["tree", "pq"])
def test_the_c_program_replays_every_layer_of_a_network(operator, resnet8, tmp_path):
    folder = resnet8
    if operator == "pq":
        folder = exported(tmp_path / "out", "resnet8", "pq", bits=4)
    for step in tables(folder):
        done = run_c(folder, step)
        rows = step["vectors"]["codes"]["shape"][0]
        assert done.stdout == f"{step['name']}: {rows} rows, 0 mismatches\n", done.stderr
        assert done.returncode == 0


@compiler
@pytest.mark.parametrize("metric", ["l2", "l1", "chebyshev"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_c_program_replays_every_shape_and_metric(name, metric, tmp_path):
    folder = exported(tmp_path / "out", name, "pq", metric=metric, K=5, bits=4)
    (step,) = tables(folder)
    assert "0 mismatches" in run_c(folder, step).stdout


@compiler
def test_the_c_program_names_the_first_mismatch(tmp_path):
    folder = exported(tmp_path / "out", "linear", K=4)
    (step,) = tables(folder)
    header = folder / step["header"]
    header.write_text(header.read_text().replace(".low = 0", ".low = 254"))
    done = run_c(folder, step)
    assert done.returncode == 1
    assert "0: row 0, byte 0 is 254 instead of" in done.stdout


def _size(entry: dict) -> int:
    size = 1
    for length in entry["shape"]:
        size *= length
    return size
