"""Packed exports: files, manifest, and the reader that ships with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import halut
from halut.errors import HalutError
from halut.export.packed import reader
from halut.export.packed.layer_file import theoretical_bits
from tests.export.packed.layers import LAYERS, exported, one_layer

EXCESS = 1.02
"""Bytes of a layer's file over those that its numbers have."""


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("packed") / "resnet8", "resnet8")


@pytest.fixture
def copy(resnet8, tmp_path):
    return Path(shutil.copytree(resnet8, tmp_path / "copy"))


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "packed.json").read_text())


def read_in_new_process(folder: Path) -> subprocess.CompletedProcess:
    """The shipped reader, where neither torch nor this library can be imported."""
    code = (
        "import runpy, sys; sys.modules.update(torch=None, halut=None); "
        f"sys.argv = ['reader.py']; runpy.run_path({str(folder / 'reader.py')!r}, "
        "run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)


# -- vectors --------------------------------------------------------------------------------------


def test_the_shipped_reader_replays_the_network_with_numpy_alone(resnet8):
    done = read_in_new_process(resnet8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("integers: 0 mismatches\n")
    assert int(done.stdout.split()[0]) == sum(
        np.prod(entry["shape"])
        for step in manifest_of(resnet8)["steps"]
        for entry in step["vectors"].values()
    )
    assert len((resnet8 / "reader.py").read_text().splitlines()) < 300


@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_shape_of_a_layer_is_replayed(name, operator, tmp_path):
    folder = exported(tmp_path / "out", name, operator, bits=4)
    assert reader.mismatches(folder)[1] is None
    (step,) = (s for s in manifest_of(folder)["steps"] if s["kind"] == "tables")
    assert list(step["vectors"]) == ["codes", "sums", "output"]


@pytest.mark.parametrize("metric", ["l1", "chebyshev"])
def test_every_metric_is_replayed(metric, tmp_path):
    folder = exported(tmp_path / "out", "conv3x3", "pq", metric=metric, K=5)
    assert reader.mismatches(folder)[1] is None


@pytest.mark.parametrize("K", [2, 256])
def test_every_depth_is_replayed(K, tmp_path):
    folder = exported(tmp_path / "out", "conv3x3", K=K)
    assert reader.mismatches(folder)[1] is None


@pytest.mark.parametrize("name", ["ds_cnn", "resnet9", "resnet18"])
def test_whole_networks_are_replayed(name, tmp_path):
    assert reader.mismatches(exported(tmp_path / "out", name))[1] is None


def test_a_wrong_integer_is_named(copy):
    manifest = manifest_of(copy)
    step = next(step for step in manifest["steps"] if step["name"] == "stack2.conv1")
    step["low"] = 77
    write(copy, manifest)
    done = read_in_new_process(copy)
    assert done.returncode == 1
    assert "stack2.conv1: output[0, " in done.stdout
    assert "is 77 instead of" in done.stdout


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["tree", "pq"])
@pytest.mark.parametrize("bits", [4, 8])
def test_files_are_as_small_as_their_numbers(operator, bits, tmp_path):
    options = {"bits": bits, "C": None, "K": 16}
    folder = exported(tmp_path / "out", "resnet8", operator, **options)
    steps = [step for step in manifest_of(folder)["steps"] if step["kind"] == "tables"]
    assert len(steps) == 9
    for step in steps:
        own = sum(np.prod(t["shape"]) * t["bits"] for t in step["tensors"]) / 8
        assert own == theoretical_bits(step["tensors"]) / 8
        size = (folder / step["file"]).stat().st_size
        assert own <= size <= EXCESS * own
        table = next(t for t in step["tensors"] if t["name"] == "table")
        assert table["bits"] == bits


def test_the_images_lie_column_by_column(resnet8):
    step = next(s for s in manifest_of(resnet8)["steps"] if s["name"] == "stack1.conv2")
    stored = reader.tensors(resnet8, step)
    lines = (resnet8 / step["images"] / "table.hex").read_text().split()
    M, C, K = stored["table"].shape
    for m, c, k in [(0, 0, 0), (0, 1, 3), (1, 0, 0), (M - 1, C - 1, K - 1)]:
        value = int(lines[m * C * K + c * K + k], 16)
        assert (value ^ 128) - 128 == stored["table"][m, c, k]
    assert len(lines) == M * C * K
    heap = (resnet8 / step["images"] / "thresholds.hex").read_text().split()
    assert [int(heap[K + n], 16) for n in range(K - 1)] == stored["thresholds"][1].tolist()
    assert len(heap) == C * K


def test_the_manifest_states_every_order_and_every_grid(resnet8):
    manifest = manifest_of(resnet8)
    assert manifest["im2col"] == ["channel", "kernel row", "kernel column"]
    assert manifest["maps"] == ["sample", "channel", "row", "column"]
    assert set(manifest["values"]) == {"input", *(s["name"] for s in manifest["steps"])}
    for step in manifest["steps"]:
        if step["kind"] == "tables" and step["window"]:
            read = manifest["values"][step["inputs"][0]]
            assert step["window"]["padding_code"] == read["zero_point"]
        for tensor in step["tensors"]:
            assert len(tensor["axes"]) == len(tensor["shape"])


# -- what is not as it was written ----------------------------------------------------------------


def write(folder: Path, manifest: dict) -> None:
    """The manifest with a digest that fits it."""
    manifest["sha256"] = reader.manifest_digest(manifest)
    (folder / "packed.json").write_text(json.dumps(manifest))


def refused(folder: Path) -> str:
    done = read_in_new_process(folder)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_truncated_files_are_refused_by_name(copy):
    path = copy / "layers" / "01_stack1.conv1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "01_stack1.conv1.bin is truncated: " in refused(copy)


def test_edited_files_are_refused_by_name(copy):
    path = copy / "vectors" / "00_conv1.sums.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(bytes(content))
    assert "00_conv1.sums.bin was edited" in refused(copy)


def test_missing_files_are_refused_by_name(copy):
    (copy / "rtl" / "table_unit.v").unlink()
    assert "table_unit.v is missing" in refused(copy)


def test_edited_manifests_are_refused(copy):
    manifest = manifest_of(copy)
    manifest["steps"][1]["shift"] += 1
    (copy / "packed.json").write_text(json.dumps(manifest))
    assert "packed.json was edited" in refused(copy)


def test_truncated_manifests_are_refused(copy):
    path = copy / "packed.json"
    path.write_text(path.read_text()[:-20])
    assert "packed.json is truncated or damaged" in refused(copy)
    path.write_text("[]")
    assert "packed.json is truncated or damaged" in refused(copy)


def test_newer_exports_are_refused(copy):
    write(copy, {**manifest_of(copy), "version": reader.VERSION + 1})
    assert "is of version 2, newer than this reader, which reads version 1" in refused(copy)


def test_other_folders_are_refused(tmp_path, resnet8):
    (tmp_path / "reader.py").write_bytes((resnet8 / "reader.py").read_bytes())
    assert "is no packed network: it has no packed.json" in refused(tmp_path)


def test_samples_are_those_of_the_example(tmp_path):
    network, x = one_layer("linear", samples=4)
    with pytest.raises(HalutError, match=r"samples must be in 1\.\.4, got 5"):
        halut.export(network, x, to="packed", folder=tmp_path / "out", samples=5)
    assert not (tmp_path / "out").exists()


def test_ranges_are_those_of_the_calibration(tmp_path):
    network, x = one_layer("linear")
    wide = torch.cat([x, 3 * x])
    halut.export(network, x, to="packed", folder=tmp_path / "out", calibration=wide)
    scale = manifest_of(tmp_path / "out")["values"]["input"]["scale"]
    assert scale == pytest.approx(float(wide.max() - wide.min()) / 255)
