"""The examples run as they stand, and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from halut.inference import PackedLayer
from halut.layers.lut import LUTLayer
from halut.replace.swap import replaced_layers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str) -> dict:
    with torch.random.fork_rng(devices=[]):
        return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_has_a_test():
    """A plugin is no program: tests/plugins runs it."""
    assert [path.name for path in EXAMPLES.iterdir() if path.is_dir()] == ["plugin"]
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_plain_pytorch(capsys):
    space = run("plain_pytorch")
    assert space["exact"] > 98
    assert space["replaced_accuracy"] > 85
    assert space["trained"] > 93
    assert space["loaded"] == space["trained"]
    assert set(space["errors"]) == {"0", "2"}
    assert space["cost"]["exact"]["macs"] == 2 * 64 * 64 + 640
    assert space["cost"]["replaced"]["macs"] == 640
    assert "accuracy: exact" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_lightning_module():
    space = run("lightning_module")
    assert space["exact"] > 98
    assert space["trained"] > 95
    layers = dict(replaced_layers(space["module"]))
    assert set(layers) == {"features.3"}
    assert layers["features.3"].blend.item() == 1.0  # the stage's share that is done
    assert space["callback"].handles == []


def test_dict_inputs(capsys):
    space = run("dict_inputs")
    assert space["exact"] > 98
    assert space["trained"] > 95
    assert len(space["plan"].replaced) == 12
    for block in space["network"].blocks:
        assert isinstance(block.q, LUTLayer)
        assert block.q.encoder is block.k.encoder is block.v.encoder
    assert all(0 < e["normalized_mse"] < 1 for e in space["errors"].values())
    packed = [m for m in space["prepared"].modules() if isinstance(m, PackedLayer)]
    assert len(packed) == 8  # of 12: q, k and v of two blocks are one each
    assert space["served"] == pytest.approx(space["trained"], abs=0.5)
