"""`halut bench --device cuda`: its methods answer rightly off the GPU too; on one, it runs."""

from __future__ import annotations

import json
import time

import pytest
import torch

from halut.bench import cuda, cuda_methods
from halut.bench.main import main
from halut.bench.measure import Settings


def wall_clock(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(cuda, "MEASUREMENT", 1e-6)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys):
    assert main(["--device", "cuda", "--quick"]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: --device cuda needs a GPU")
    assert len(err.splitlines()) == 1


def test_every_method_answers_rightly_and_is_timed():
    results, failures = cuda.measure(Settings(quick=True, rounds=1), "cpu", wall_clock)
    assert failures == []
    methods = {(r["op"], r["method"]) for r in results}
    for op in ("encode", "accumulate", "train_step", "network"):
        assert (op, "ours") in methods
    for method in ("float32", "tf32", "float16", "int8", "one_hot_einsum"):
        assert ("accumulate", method) in methods
    assert {("train_step", "exact_tf32"), ("network", "ours_float16")} <= methods
    assert not torch.backends.cuda.matmul.allow_tf32
    found = cuda.summary(results)
    assert found["accumulate"]["tf32_over_ours"] > 0


def test_a_case_that_fails_leaves_the_others(monkeypatch, capsys):
    def methods(case, device):
        raise RuntimeError("out of memory\nand a long tail")

    monkeypatch.setattr(cuda_methods, "products", methods)
    settings = Settings(quick=True, rounds=1, only=["accumulate", "encode"])
    results, failures = cuda.measure(settings, "cpu", wall_clock)
    assert {r["op"] for r in results} == {"encode"}
    assert failures == ["accumulate/N32 C8 M16: RuntimeError: out of memory"]


def test_ratios_are_of_sums_over_the_same_shapes():
    row = {"suite": "accumulate", "shape": {"N": 1}, "method": "ours", "median_us": 10.0}
    other = {**row, "shape": {"N": 2}, "median_us": 30.0}
    rows = [row, other, {**row, "method": "tf32", "median_us": 5.0}]
    assert cuda.summary(rows) == {"accumulate": {"tf32_over_ours": 0.5}}


def test_list_names_the_cases_of_the_gpu(capsys):
    assert main(["--device", "cuda", "--list"]) == 0
    assert "network     resnet18/128x3x224x224" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_quick_run_on_the_gpu(tmp_path):
    path = tmp_path / "bench.json"
    assert main(["--device", "cuda", "--quick", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["copy_bytes_per_second"] > 1e9
    assert document["machine"]["gpu"]
    assert {r["op"] for r in document["results"]} == {
        "encode",
        "accumulate",
        "train_step",
        "network",
    }
