"""`halut bench` as a command: what it writes, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from halut.bench import measure
from halut.bench.cpu import layer
from halut.bench.main import main
from halut.bench.method import Method, WrongAnswer
from halut.bench.suites import OPERATIONS, cases
from halut.bench.summary import summarize

KEYS = {"op", "suite", "shape", "options", "threads", "isa", "method", "median_us", "spread"}


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_quick_run_checks_times_and_saves_every_operation(tmp_path, capsys):
    path = tmp_path / "deep" / "bench.json"
    arguments = ["--quick", "--isa", "vnni", "--rounds", "2", "--json", str(path)]
    assert main(arguments) == 0
    document = json.loads(path.read_text())
    assert {"machine", "commit", "command", "results", "summary"} <= document.keys()
    assert document["command"].startswith("python -m halut.bench --quick")
    results = document["results"]
    assert {result["op"] for result in results} == set(OPERATIONS)
    for result in results:
        assert result.keys() >= KEYS
        assert result["threads"] == 1
    methods = {result["method"] for result in results}
    assert {"ours", "float32", "float32_channels_last", "int8", "one_hot_einsum"} <= methods
    assert {"embedding_bag_float16", "gather_float32", "exact_float32"} <= methods
    summary = document["summary"]
    for suite in ("resnet18_3x3", "resnet9_3x3", "linear_v16"):
        assert {"over_float32", "over_int8"} <= summary[suite].keys()
    for suite in ("bits_1_1", "bits_2_2", "bits_3_3"):
        assert "over_float32" in summary[suite]
    assert {"over_float32", "over_int8"} <= summary["sign_magnitude"].keys()
    assert "over_int8" in summary["resnet8"]
    of_bits = {r["method"]: r["median_us"] for r in results if r["suite"] == "bits_2_2"}
    ours, floats = (
        min(of_bits[name], of_bits[f"{name}_channels_last"]) for name in ("ours", "float32")
    )
    assert summary["bits_2_2"]["over_float32"] == pytest.approx(floats / ours)
    machine = document["machine"]
    assert summary == summarize(results, machine["level"], machine["amx"])
    assert set(summary["train_step"]["over_exact"]) == {"4x8"}
    out = capsys.readouterr().out
    assert "resnet18_3x3.over_int8" in out
    assert f"saved: {path}" in out


def test_int8_runs_on_the_selected_instructions(tmp_path):
    settings = measure.Settings(only=["resnet18_3x3", "linear_v16"], quick=True, rounds=1)
    actual = measure.measure(settings, lambda line: None)
    kernels = [kernel for result in actual for kernel in result.get("kernels", ())]
    assert len(kernels) == len({result["suite"] for result in actual}) == 2
    assert all(kernel.split()[2:4] == ["u8", "s8"] for kernel in kernels)


def test_a_wrong_answer_is_not_timed_and_fails(monkeypatch, tmp_path, capsys):
    def broken(exact, x):
        reference = exact(x)
        return Method("int8", lambda: pytest.fail("was timed"), reference, 0.05, lambda: -reference)

    monkeypatch.setattr(layer, "int8_method", broken)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"only": ["resnet18_3x3"], "quick": True}))
    assert measure.main([str(settings), str(tmp_path / "results.json")]) == 1
    assert "int8 is wrong: its error is 2" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_checks_distinguish_equal_from_close():
    one = torch.ones(4)
    assert Method("a", lambda: one, one).check("case") == 0
    assert Method("a", lambda: one + 1e-7, one, 1e-6).check("case") < 1e-6
    for answer, tolerance in ((one + 1e-6, 0.0), (one * float("nan"), 1.0), (one[:3], 1.0)):
        with pytest.raises(WrongAnswer, match="case: a "):
            Method("a", lambda answer=answer: answer, one, tolerance).check("case")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "resnet19_3x3"], "unknown name 'resnet19_3x3'; choose from: encode, acc"),
        (["--model", "resnet19"], "unknown model 'resnet19' in local, timm, torchvision; did you"),
        (["--isa", "amx"], "unknown name 'amx'; choose from: vnni, default"),
        (["--threads", "4096"], "4096 threads, but the machine has"),
        (["--only", "encode", "--batch", "4"], "--batch has no effect: resnet9_3x3 is not timed"),
        (["--quick", "--batch", "4"], "--batch has no effect: --quick"),
        (["--only", "encode", "--model", "resnet8"], "--model has no effect: no network is timed"),
        (["--only", "bits", "--input", "1,3,8,8"], "--input has no effect: no network is timed"),
        (["--device", "cuda", "--threads", "1"], "--threads has no effect: a GPU is timed"),
        (["--device", "cuda", "--isa", "vnni"], "--isa has no effect: a GPU is timed"),
        (["--list", "--json", "a"], "--json has no effect: --list times nothing"),
    ],
)
def test_wrong_values_name_the_choices(arguments, message, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--input", "1,3,8"], ["--threads", "one"], ["--bogus"]]
)
def test_wrong_forms_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "arguments", [["--only", "resnet9_3x3", "--batch", "4"], ["--model", "resnet8"]]
)
def test_what_has_an_effect_is_taken(arguments, capsys):
    assert main([*arguments, "--list"]) == 0
    assert ("4x64x32x32" if "--batch" in arguments else "resnet8/") in capsys.readouterr().out


def test_list_names_every_case_once(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition("  x")[0] for line in lines]
    assert len(set(names)) == len(names) == len(lines) >= len(cases())
    assert any("resnet18_3x3/1x64x56x56 -> 64  x4" in line for line in lines)
