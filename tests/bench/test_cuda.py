"""`halut bench --device cuda`: its methods answer rightly off the GPU too; on one, it runs."""

from __future__ import annotations

import io
import json
import time

import pytest
import torch
from rich.console import Console

from halut.analysis.timing import summarize
from halut.bench import result_tables
from halut.bench.cuda import command as cuda
from halut.bench.cuda import floors
from halut.bench.cuda import methods as cuda_methods
from halut.bench.cuda import timing as cuda_timing
from halut.bench.cuda.floors import Ceilings
from halut.bench.cuda.timing import bounded, interleaved, replayed
from halut.bench.main import main
from halut.bench.measure import Settings

CEILINGS = Ceilings(1e9, {"float32": 1e9, "tf32": 2e9, "float16": 4e9, "int8": 8e9})


def wall_clock(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(cuda_timing, "MEASUREMENT", 1e-6)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_error_is_reported(capsys):
    assert main(["--device", "cuda", "--quick"]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: --device cuda needs a GPU")
    assert len(err.splitlines()) == 1


def test_every_method_answers_rightly_and_is_timed():
    settings = Settings(quick=True, rounds=1)
    results, failures = cuda.measure(settings, CEILINGS, "cpu", wall_clock, repeated)
    assert failures == []
    methods = {(r["op"], r["method"]) for r in results}
    for op in ("encode", "accumulate", "layer", "train_step", "network"):
        assert (op, "ours") in methods
    for method in ("float32", "tf32", "float16", "int8", "one_hot_einsum"):
        assert ("accumulate", method) in methods
    for method in ("float32", "tf32", "float16", "int8", "ours_int8", "ours_contiguous"):
        assert ("layer", method) in methods
    assert {("train_step", "exact_tf32"), ("network", "ours_float16")} <= methods
    assert not torch.backends.cuda.matmul.allow_tf32
    summary = cuda.summary(results)
    assert {"float32_over_ours", "tf32_over_ours"} <= summary["accumulate"].keys()
    rows = [r for r in results if r["suite"] == "linear_v16_b64"]
    (theirs,), (ours,) = (
        [r["replay_us"] for r in rows if r["method"] == method] for method in ("int8", "ours_int8")
    )
    assert summary["linear_v16_b64"]["int8_over_ours_int8"] == pytest.approx(theirs / ours)
    for row in results:
        assert row["floor_us"] > 0, row
        assert row["op"] == "train_step" or row["median_us"] > 1e3 or row["replay_us"] > 0
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(result_tables.results_table(results))
    text = console.export_text()
    assert "in a graph" in text
    assert "floor" in text


def repeated(run, calls):
    """What a graph of `calls` calls does."""
    return lambda: [run() for _ in range(calls)]


def test_floors_are_the_slower_of_memory_and_arithmetic():
    x, w = torch.zeros(100, 10), torch.zeros(5, 10)
    notes = floors.work(x, w, operations=2 * 100 * 10 * 5, precision="float16")
    assert notes["bytes"] == 4 * 1050
    assert Ceilings(1e6, {"float16": 1e9}).floor(notes) == pytest.approx(4200e-6)
    assert Ceilings(1e9, {"float16": 1e6}).floor(notes) == pytest.approx(1e-2)
    assert Ceilings(1e6).floor(notes) == pytest.approx(4200e-6)
    assert Ceilings(1e6).floor({}) is None


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(floors, "COPY_BYTES", 1000)
    monkeypatch.setattr(floors, "PRODUCT_SIZE", 32)
    actual = floors.measured("cpu", 1, lambda run, calls: 1e-3 if run() is not None else 0)
    assert actual.copy == pytest.approx(2e6)
    assert actual.products == pytest.approx(dict.fromkeys(CEILINGS.products, 2 * 32**3 * 1e3))
    lines = cuda.ceiling_lines(Ceilings(4.2e12, {"float16": 7.1e14}))
    assert lines == [
        "copy: 4,200 GB/s read and written",
        "float16 product: 710 tera-operations/s",
    ]


def test_floors_of_a_layer_count_its_input_answer_and_weights():
    (case,) = [c for c in cuda_methods.cases([], None, True) if c.suite == "linear_v16_b64"]
    N, D, M = 20, 64, 16
    notes = {m.name: m.notes for m in cuda_methods.methods(case, "cpu")}
    assert notes["float16"]["bytes"] == 2 * (N * D + N * M + M * D)
    assert notes["float16"]["operations"] == notes["int8"]["operations"] == 2 * N * D * M
    assert notes["int8"]["bytes"] == N * D + M * D + 4 * N * M
    assert notes["ours"]["bytes"] == 2 * (N * D + N * M) + 4 * 16 * M
    assert notes["ours"]["operations"] == 0


def test_networks_are_counted_layer_by_layer():
    network = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    actual = cuda_methods.layer_work(network, torch.zeros(5, 6))
    assert actual["operations"] == 2 * 5 * (6 * 4 + 4 * 2)
    assert actual["values"] == 4 * 5 * (6 + 4 + 4 + 2)
    assert actual["bytes"] == actual["values"] + 4 * (24 + 4 + 8 + 2)


def test_quick_calls_alone_are_replayed_and_what_cannot_be_captured_is_not():
    ran = []

    def capture(run, calls):
        if run is waits:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: ran.append(calls)

    def waits():
        pass

    methods = {"quick": lambda: None, "slow": lambda: None, "waits": waits}
    times = {name: summarize([1e-5]) for name in methods} | {"slow": summarize([1.0])}
    clock = lambda run, calls: run() or 4e-3  # noqa: E731
    actual = replayed(methods, times, 2, clock, capture)
    assert actual == {"quick": pytest.approx(4e-3 / cuda_timing.GRAPH_CALLS)}
    assert set(ran) == {cuda_timing.GRAPH_CALLS}


def test_slow_methods_get_few_rounds():
    count = {"slow": 0, "quick": 0}

    def clock(run, calls):
        count[run()] += 1
        return 2.0 if run() == "slow" else 1e-3

    interleaved({"slow": lambda: "slow", "quick": lambda: "quick"}, 9, clock)
    assert count == {"slow": 2 + 3, "quick": 2 + 9}


def test_a_case_has_a_bound_and_results_are_saved_meanwhile(monkeypatch):
    def forever(case, device):
        while True:
            pass

    monkeypatch.setattr(cuda, "CASE_SECONDS", 0.05)
    monkeypatch.setattr(cuda_methods, "products", forever)
    saved = []
    settings = Settings(quick=True, rounds=1, only=["accumulate"])
    keep = lambda results, failures: saved.append((len(results), len(failures)))  # noqa: E731
    results, failures = cuda.measure(settings, CEILINGS, "cpu", wall_clock, None, keep)
    assert not results
    assert failures[0] == "accumulate/N32 C8 M16: HalutError: took more than 0.05 seconds"
    assert saved == [(0, 1), (0, 2)]
    with bounded(60.0):
        pass


def test_what_learns_on_the_cpu_comes_last():
    for quick in (False, True):
        ops = [case.op for case in cuda_methods.cases([], None, quick)]
        order = ["accumulate", "layer", "encode", "train_step", "network"]
        assert list(dict.fromkeys(ops)) == order


def test_names_of_the_gpus_suites_are_taken_and_others_refused(capsys):
    for name in cuda_methods.suites():
        assert main(["--device", "cuda", "--only", name, "--list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert all(line.startswith(name) or f" {name}/" in line for line in lines)
    for name in ("bits", "resnet9_3x3", "nonsense"):
        assert main(["--device", "cuda", "--only", name]) == 2
        err = capsys.readouterr().err
        assert f"unknown name '{name}'; choose from: accumulate, layer," in err
        assert len(err.splitlines()) == 1


def test_a_case_that_fails_leaves_the_others(monkeypatch, capsys):
    def methods(case, device):
        raise RuntimeError("out of memory\nand a long tail")

    monkeypatch.setattr(cuda_methods, "products", methods)
    settings = Settings(quick=True, rounds=1, only=["accumulate", "encode"])
    results, failures = cuda.measure(settings, CEILINGS, "cpu", wall_clock, None)
    assert {r["op"] for r in results} == {"encode"}
    assert {r["replay_us"] for r in results} == {None}
    assert failures[0] == "accumulate/N32 C8 M16: RuntimeError: out of memory"
    assert len(failures) == 2


def test_ratios_are_of_sums_over_the_same_shapes():
    row = {"suite": "accumulate", "shape": {"N": 1}, "method": "ours", "median_us": 10.0}
    other = {**row, "shape": {"N": 2}, "median_us": 30.0}
    rows = [row, other, {**row, "method": "tf32", "median_us": 5.0}]
    assert cuda.summary(rows) == {"accumulate": {"tf32_over_ours": 0.5}}
    rows[0]["replay_us"] = 4.0
    assert cuda.summary(rows) == {"accumulate": {"tf32_over_ours": 0.5}}
    rows[2]["replay_us"] = 1.0
    assert cuda.summary(rows) == {"accumulate": {"tf32_over_ours": 0.25}}
    plain = {**row, "replay_us": None}
    rows += [{**plain, "method": "ours_int8", "median_us": 8.0}, {**plain, "method": "int8"}]
    summary = cuda.summary(rows)["accumulate"]
    assert summary["int8_over_ours_int8"] == 10 / 8
    assert "int8_over_ours" not in summary


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
        "layer",
        "train_step",
        "network",
    }
    assert document["ceilings"]["products"]["float16"] > 1e12
    ours = [r for r in document["results"] if r["op"] != "train_step" and r["method"] == "ours"]
    assert all(r["replay_us"] > 0 and r["floor_us"] > 0 for r in ours)
