"""Programs of torch.export and AOTInductor: new processes answer the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import halut
from halut.errors import HalutError
from halut.export.programs import PACKAGE, PROGRAM, run_elsewhere
from halut.ops.cpu import VARIABLE
from halut.sites.calls import Call
from tests.inference.networks import network_of, replaced

ORDINARY = {"compile": "never"}


@pytest.fixture(scope="module")
def small():
    """A network of a tree, a nearest prototype and a codec, and a batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU())
    net += nn.Sequential(nn.Flatten(), nn.Linear(32, 12), nn.Linear(12, 8), nn.Linear(8, 3))
    x = torch.randn(64, 3, 6, 6)
    halut.replace_(net, halut.Tree(K=8), [x], rules=[("5", halut.PQ(K=8)), ("6", halut.Integer())])
    return net.eval(), x


@pytest.mark.parametrize("prepare", [True, False])
def test_a_program_runs_where_halut_ops_is_imported(small, prepare, tmp_path):
    network, x = small
    exported = halut.export(
        network, x, to="torch", folder=tmp_path / "out", prepare=prepare, **ORDINARY
    )
    assert exported.manifest["program"] == {"equal": True}
    assert exported.manifest["difference"]["largest"] <= 1e-4
    assert exported.manifest["difference"]["equal"] or prepare
    served = halut.prepare(network, x) if prepare else network
    with torch.no_grad():
        for count in (1, 5):
            answer = run_elsewhere(exported.folder / PROGRAM, Call(x[:count]))
            assert torch.equal(answer, served(x[:count]))


@pytest.mark.parametrize("level", ["portable", "torch"])
def test_other_instruction_sets_answer_the_same_bits(small, level, tmp_path):
    network, x = small
    exported = halut.export(network, x, to="torch", folder=tmp_path / "out", **ORDINARY)
    path = exported.folder / PROGRAM
    here = run_elsewhere(path, Call(x))
    there = run_elsewhere(path, Call(x), {VARIABLE: level})
    assert float((here - there).abs().max() / here.abs().max()) < 1e-6


def test_prepared_and_compiled_networks(small, tmp_path):
    network, x = small
    prepared = halut.prepare(network, x)
    exported = halut.export(prepared, x, to="torch", folder=tmp_path / "out", **ORDINARY)
    assert exported.manifest["difference"]["equal"]
    again = halut.export(torch.compile(network), x, to="bundle", folder=tmp_path / "b")
    assert "plan.json" in again.manifest["files"]
    with pytest.raises(HalutError, match="one that is prepared has none left"):
        halut.export(prepared, x, to="bundle", folder=tmp_path / "c")
    with pytest.raises(HalutError, match="a prepared network has no ONNX form"):
        halut.export(prepared, x, to="onnx", folder=tmp_path / "d")


def test_a_program_that_does_not_load_says_why(tmp_path):
    (tmp_path / PROGRAM).write_bytes(b"no program")
    with pytest.raises(HalutError, match=r"program\.pt2 does not run in a new process: "):
        run_elsewhere(tmp_path / PROGRAM, Call(torch.zeros(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "tiny_vit"])
def test_packages_of_whole_networks(name, tmp_path):
    network, x = network_of(name)
    replaced(network, x)
    exported = halut.export(network, x, to="torch", folder=tmp_path / "out", compile="always")
    assert exported.manifest["program"] == {"equal": True}
    one = run_elsewhere(exported.folder / PACKAGE, Call(x[:1]))
    with torch.no_grad():
        expected = network(x[:1])
    assert float((one - expected).abs().max() / expected.abs().max()) <= 1e-4
