"""evaluate.py runtime=...: times apart, answers compared, what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from halut.analysis import runtime
from halut.analysis.runtime import Way, check_difference, compare, set_attention, ways
from halut.errors import HalutError
from halut.models.build import build_model
from halut.training.config.hydra_schemas import conf_dir


def compiler():
    return shutil.which("g++") or shutil.which("clang++")


def transformer():
    torch.manual_seed(0)
    return build_model("tiny_vit", 10, 1, patch=4, dim=16, depth=1, heads=2).eval()


def test_every_file_is_a_mode_and_evaluations_name_the_group():
    files = sorted((Path(conf_dir()) / "runtime").glob("*.yaml"))
    assert {path.stem for path in files} == set(runtime.MODES)
    assert all(OmegaConf.load(path).mode == path.stem for path in files)
    defaults = OmegaConf.load(Path(conf_dir()) / "evaluate.yaml").defaults
    assert {"runtime": "none"} in list(defaults)


def test_what_lies_between_the_plainest_and_the_chosen_way():
    assert ways("eager", None) == [Way("eager")]
    assert ways("compile", None) == [Way("eager"), Way("compile")]
    assert [str(way) for way in ways("compile", "fused")] == [
        "eager, math attention",
        "eager, fused attention",
        "compile, fused attention",
    ]
    assert len(ways("compile", "math")) == 2


def test_attention_by_products_and_fused(monkeypatch):
    network = transformer()
    called = []
    whole = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: (called.append(1), whole(*args, **options))[1],
    )
    comparison = compare(network, ways("eager", "fused"), [1, 8, 8], batch=2, draws=2, rounds=3)
    assert called
    assert comparison["batch"] == comparison["inputs"] == 2
    plain, fused = comparison["ways"].values()
    assert plain["difference"] == 0
    assert 0 <= fused["relative_difference"] < 1e-5
    for way in (plain, fused):
        assert {"first_ms", "warm_ms"} <= way.keys()
    check_difference(comparison, 1e-5)
    called.clear()
    set_attention(network, "math")
    network(torch.zeros(1, 1, 8, 8))
    assert not called


def test_answers_that_differ_are_an_error():
    actual = {"ways": {"eager": {"relative_difference": 0.0}, "odd": {"relative_difference": 0.2}}}
    check_difference(actual, 0.2)
    with pytest.raises(HalutError, match=r"odd answers otherwise: .* 0.2 of the largest answer"):
        check_difference(actual, 0.1)
    actual["ways"]["odd"]["relative_difference"] = float("nan")
    with pytest.raises(HalutError, match="odd answers otherwise"):
        check_difference(actual, 0.1)


def test_a_network_without_attention_is_refused():
    with pytest.raises(HalutError, match=r"runtime\.attention=fused: the network has no attention"):
        set_attention(torch.nn.Linear(2, 2), "fused")


@pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_beside_eager():
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).eval()
    comparison = compare(network, ways("compile", None), [8], batch=2, draws=2, rounds=3)
    eager, compiled = comparison["ways"].values()
    assert compiled["first_ms"] > 10 * max(compiled["warm_ms"], eager["first_ms"])
    assert compiled["relative_difference"] < 1e-5


def test_a_compiler_that_fails_is_one_message(monkeypatch):
    def broken(network):
        def call(x):
            raise RuntimeError("no compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(HalutError, match=r"runtime: compile does not run here: no compiler$"):
        compare(torch.nn.Linear(2, 2), ways("compile", None), [2], 1, 1, 1)


def test_the_command_reports_and_fails_beyond_the_tolerance(
    run_folder, evaluate, tmp_path, monkeypatch
):
    class Wrong(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x) * 1.5

    monkeypatch.setattr(torch, "compile", Wrong)
    arguments = [f"run={run_folder}", "samples=0", "latency=0", f"json={tmp_path / 'f.json'}"]
    code, out, err = evaluate(*arguments, "runtime=compile", "runtime.rounds=3")
    assert code == 1
    assert "runtime: compile answers otherwise: the largest difference is 0.5 of" in err
    report = json.loads((tmp_path / "f.json").read_text())["runtime"]
    assert list(report["ways"]) == ["eager", "compile"]
    assert report["ways"]["compile"]["relative_difference"] == pytest.approx(0.5)
    for text in ("runtime eager: first call", "runtime compile: first call", "tolerance 0.01"):
        assert text in out
    assert evaluate(*arguments, "runtime=compile", "runtime.tolerance=0.6")[0] == 0
    assert evaluate(*arguments)[0] == 0
    assert json.loads((tmp_path / "f.json").read_text())["runtime"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runtime=fast"], "runtime"),
        (["runtime.mode=fast"], "unknown runtime.mode 'fast'; choose one of: none, eager, compile"),
        (["runtime=eager", "runtime.attention=flash"], "choose one of: math, fused"),
        (["runtime.attention=math"], "runtime.attention needs runtime=eager or runtime=compile"),
        (["runtime=eager", "runtime.tolerance=-1"], "runtime.tolerance must be at least 0"),
        (["runtime=eager", "runtime.batch=0"], "runtime.batch must be at least 1"),
        (["runtime=eager", "runtime.inputs=many"], "runtime.inputs"),
        (["runtime=eager", "runtime.speed=1"], "speed"),
        (["runtime=eager", "runtime.attention=math"], "the network has no attention"),
    ],
)
def test_what_cannot_be_is_refused(run_folder, evaluate, arguments, says):
    code, out, err = evaluate(f"run={run_folder}", "samples=0", "latency=0", *arguments)
    assert code != 0
    assert says in out + err
